"""Arguments as NAME=VALUE words."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from tfseg.errors import ConfigError


def named_values(words: Sequence[str], option: str) -> dict[str, Any]:
    """``("dropout=0.2", "greyscale=true")`` as arguments: whole numbers, numbers, true, false, none, lists with commas,
    else text.

    Raises:
        ConfigError: names `option` and the word that isn't NAME=VALUE.
    """
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier() or not text:
            raise ConfigError(f"`{option}`: expected NAME=VALUE, received {word!r}")
        values[name] = [_value(part) for part in text.split(",")] if "," in text else _value(text)
    return values


def _value(text: str) -> Any:
    known = {"true": True, "false": False, "none": None}
    if text.lower() in known:
        return known[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
