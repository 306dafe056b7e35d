"""Options that an experiment has beside the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from tfseg.config import ComparisonConfig
from tfseg.errors import UserError
from tfseg.experiment import parse_experiment

PRESETS = {"quick": ComparisonConfig(data="", epochs=3), "paper": ComparisonConfig(data="", epochs=700)}


@dataclass(frozen=True)
class Options:
    split: Literal["random", "patient"] = "random"
    runs: int = 1


OPTIONS = {"quick": Options(), "paper": Options(runs=3)}


def parse(*words: str):
    return parse_experiment(PRESETS, "What this shows.", ["--data", "d", *words], options=OPTIONS)


def test_each_preset_has_its_own_defaults():
    assert parse().options == Options()
    experiment = parse("--preset", "paper", "--cells", "a", "--epochs", "5")
    assert experiment.options == Options(runs=3)
    assert experiment.config == ComparisonConfig(data="d", epochs=5), "settings are told apart from options"
    assert experiment.session.cells == ("a",)


def test_the_command_line_goes_over_them():
    assert parse("--split", "patient", "--runs", "2").options == Options("patient", 2)


def test_a_choice_that_there_is_not_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--split", "slide")
    assert caught.value.code == 2 and "--split" in capsys.readouterr().err


def test_without_options_there_are_none():
    assert parse_experiment(PRESETS, "What this shows.", ["--data", "d"]).options is None
    with pytest.raises(UserError, match="`--preset` must be one of"):
        parse("--preset", "slow")
