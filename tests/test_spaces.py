"""Spaces beside the fields: what they hold, and which fields have one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import pytest

from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError
from tfseg.spaces import Choices, Range, spaces


@dataclass(frozen=True)
class Example:
    plain: float = 0.0
    rate: Annotated[float, "a note", Range(1e-5, 1e-2, log=True)] = 1e-3
    width: Annotated[int, Choices(8, 16)] = 8
    kind: Literal["a", "b"] = "a"
    only: Literal["a"] = "a"
    switch: bool = False
    narrowed: Annotated[Literal["a", "b", "c"], Choices("a", "b")] = "a"
    unknown: bool | None = None


def test_the_declared_space_comes_before_that_of_the_type():
    assert spaces(Example) == {
        "rate": Range(1e-5, 1e-2, log=True),
        "width": Choices(8, 16),
        "kind": Choices("a", "b"),
        "switch": Choices(True, False),
        "narrowed": Choices("a", "b"),
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"low": 1.0, "high": 1.0},
        {"low": 2.0, "high": 1.0},
        {"low": 0.0, "high": 1.0, "log": True},
        {"low": -1.0, "high": 1.0, "log": True},
        {"low": 0.1, "high": 1.0, "log": True, "step": 0.1},
        {"low": 0.0, "high": 1.0, "step": -0.1},
    ],
    ids=str,
)
def test_an_impossible_range_is_refused(arguments):
    with pytest.raises(ConfigError, match="low < high"):
        Range(**arguments)


@pytest.mark.parametrize("values", [(), (1,)])
def test_choices_need_a_choice(values):
    with pytest.raises(ConfigError, match="at least two"):
        Choices(*values)


def test_every_space_of_the_configuration_holds_values_that_it_takes():
    declared = spaces(ComparisonConfig)
    assert {"learning_rate", "batch_size", "momentum", "weight_decay", "class_weights"} <= set(declared)
    assert declared["cross_entropy_share"] == Range(0.4, 0.9, step=0.05)
    assert set(declared) <= {entry.name for entry in fields(ComparisonConfig)}
    for name, space in declared.items():
        for value in space.values if isinstance(space, Choices) else (space.low, space.high):
            ComparisonConfig(**{"data": "d", "approaches": ("plain",), name: value})
