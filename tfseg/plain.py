"""Configurations as plain values: JSON, and NAME=VALUE words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Literal, get_type_hints

from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError


def to_plain(config: ComparisonConfig) -> dict[str, Any]:
    """A configuration as JSON values."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def from_plain(values: Mapping[str, Any]) -> ComparisonConfig:
    """Read what `to_plain` writes.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a value of another type, or no ``data``.
    """
    import difflib
    import types

    known = {field.name for field in fields(ComparisonConfig)}
    hints = get_type_hints(ComparisonConfig)
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(f"unknown configuration key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        hint = hints[key]
        choices = getattr(hint, "__args__", ())
        if getattr(hint, "__origin__", None) is Literal:
            fits = value in choices
        elif getattr(hint, "__origin__", None) is tuple:
            allowed = getattr(choices[0], "__args__", None)
            fits = isinstance(value, list | tuple) and all(
                item in allowed if allowed else isinstance(item, str) for item in value
            )
        elif isinstance(hint, types.UnionType):
            fits = any(_is_a(value, choice) for choice in choices)
        else:
            fits = _is_a(value, hint)
        if not fits:
            raise ConfigError(f"`{key}` must be {hint}, received {value!r}")
    if "data" not in values:
        raise ConfigError("the configuration key 'data' is missing")
    return ComparisonConfig(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )


def _is_a(value: Any, kind: type) -> bool:
    """Whether a JSON value is of this type; a whole number is a float too, a truth value is no number."""
    return type(value) is kind or (kind is float and type(value) is int)
