"""What values a setting may take in a search; stands beside the setting, in its annotation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tfseg.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Args:
        low, high: the ends.
        step: distance of neighbouring values; None for any value between (floats only).
        log: whether every order of magnitude is as likely as the next; needs `low` above 0 and no `step`.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self):
        if self.high <= self.low or (self.log and (self.low <= 0 or self.step)) or (self.step or 1) <= 0:
            raise ConfigError(f"a range needs low < high, and for log a low above 0 and no step; received {self}")


@dataclass(frozen=True, init=False)
class Choices:
    """Any of these values.

    Args:
        values: at least two.
    """

    values: tuple

    def __init__(self, *values: Any):
        if len(values) < 2:
            raise ConfigError(f"choices need at least two values, received {values}")
        object.__setattr__(self, "values", values)


Space = Range | Choices


def spaces(config_class: type) -> dict[str, Space]:
    """The space of every field of a dataclass that can be searched.

    That is the `Range` or `Choices` in its annotation, else the values of a ``Literal`` or the two of a ``bool``.
    """
    hints = get_type_hints(config_class, include_extras=True)
    found = {}
    for entry in dataclasses.fields(config_class):
        hint = hints[entry.name]
        declared = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range | Choices)]
        if declared:
            found[entry.name] = declared[0]
        elif get_origin(hint) is Literal and len(get_args(hint)) > 1:
            found[entry.name] = Choices(*get_args(hint))
        elif hint is bool:
            found[entry.name] = Choices(True, False)
    return found
