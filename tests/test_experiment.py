"""The command line of the files in `experiments/`."""

from __future__ import annotations

import pytest

from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError, UserError
from tfseg.experiment import parse_experiment

PRESETS = {
    "quick": ComparisonConfig(data="", epochs=3),
    "paper": ComparisonConfig(data="", epochs=700, rotation=45.0),
}


def parse(*arguments: str):
    return parse_experiment(PRESETS, "What this shows.", list(arguments))


def test_the_first_preset_is_the_default():
    experiment = parse("--data", "d")
    assert (experiment.preset, experiment.out) == ("quick", None)
    assert experiment.config == ComparisonConfig(data="d", epochs=3)


@pytest.mark.parametrize("words", [("--preset", "paper", "--data", "d"), ("--data=d", "--preset=paper")])
def test_a_preset_anywhere_on_the_line(words):
    experiment = parse(*words)
    assert experiment.preset == "paper"
    assert experiment.config == ComparisonConfig(data="d", epochs=700, rotation=45.0)


def test_settings_go_over_the_preset():
    experiment = parse("--data", "d", "--preset", "paper", "--epochs", "4", "--out", "runs/x", "--seed", "9")
    assert experiment.out == "runs/x"
    assert experiment.config == ComparisonConfig(data="d", epochs=4, rotation=45.0, seed=9)


def test_several_approaches():
    assert parse("--data", "d", "--approach", "plain", "centiou").config.approaches == ("plain", "centiou")


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(UserError, match="one of quick, paper, received 'slow'"):
        parse("--data", "d", "--preset", "slow")


def test_data_is_needed():
    with pytest.raises(UserError, match="`--data` is missing"):
        parse("--epochs", "2")


def test_a_setting_out_of_range():
    with pytest.raises(ConfigError, match="`epochs`"):
        parse("--data", "d", "--epochs", "0")


@pytest.mark.parametrize(
    "words", [("--nope", "3"), ("--epochs", "many"), ("--resize", "crop"), ("--approach", "magic")]
)
def test_what_is_no_option_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--data", "d", *words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_help_shows_description_presets_and_every_setting(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "What this shows." in text and "Presets: quick, paper" in text
    assert "--out" in text and "--learning-rate" in text and "--approach" in text


class TestStages:
    STAGES = {
        "first": PRESETS,
        "second": {"quick": ComparisonConfig(data="", epochs=5), "slow": ComparisonConfig(data="", epochs=50)},
    }

    def parse(self, *words):
        return parse_experiment(self.STAGES, "What this shows.", ["--data", "d", *words], stages=True)

    def test_a_stage_has_presets_of_its_own(self):
        assert (self.parse().stage, self.parse().config.epochs) == ("first", 3)
        experiment = self.parse("--preset", "slow", "--stage=second")
        assert (experiment.stage, experiment.preset, experiment.config.epochs) == ("second", "slow", 50)
        assert self.parse("--stage", "second", "--epochs", "7").config.epochs == 7

    def test_an_unknown_stage_or_preset_names_the_known_ones(self):
        with pytest.raises(UserError, match="`--stage` must be one of first, second, received 'third'"):
            self.parse("--stage", "third")
        with pytest.raises(UserError, match="`--preset` must be one of quick, slow, received 'paper'"):
            self.parse("--stage", "second", "--preset", "paper")

    def test_help_names_them(self, capsys):
        with pytest.raises(SystemExit):
            self.parse("--stage", "second", "--help")
        text = " ".join(capsys.readouterr().out.split())
        assert "Stages: first, second (--stage NAME; shown: second)" in text and "Presets: quick, slow" in text
