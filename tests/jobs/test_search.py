"""A whole search: what it writes, what it measures, and that it goes on where it stopped."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from tfseg.commands.search import Search
from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError, Paused, RunError, TrainingError
from tfseg.jobs import masks, preparation
from tfseg.jobs.runs import list_runs, stored_config
from tfseg.jobs.search import job as search_job
from tfseg.jobs.search import trials as search_trials
from tfseg.jobs.search.job import run_search
from tfseg.jobs.search.oracles import Proposals
from tfseg.jobs.search.space import plan_search
from tfseg.plain import from_plain
from tfseg.run import Run, read_json, write_json
from tfseg.session import Session
from tfseg.training import segmenter
from tfseg.training.setup import Trained

RATE = "learning_rate=1e-5..1e-1:log"


class Trainer:
    """In place of the training of classifiers: the closer the learning rate is to 1e-3, the better."""

    def __init__(self):
        self.configs: list[ComparisonConfig] = []
        self.sittings = []
        self.splits = []
        self.maps = []
        self.stop_at: int | None = None
        self.fails = lambda config: False

    def __call__(self, config, approach, arrays, split, classes, maps=None, sitting=None, stages=None):
        if len(self.configs) == self.stop_at:
            raise KeyboardInterrupt
        self.configs.append(config)
        self.sittings.append(sitting)
        self.splits.append(split)
        self.maps.append(maps)
        if self.fails(config):
            raise TrainingError(f"{approach}: the loss is no number")
        score = self.score(config)
        history = {
            "epoch": [1, 2, 3],
            "seconds": [0.1] * 3,
            "val_loss": [0.9, 0.5, 0.7],
            "val_accuracy": [0.99, score / 2.0, 0.98],
            "val_balanced_accuracy": [0.99, score, 0.98],
        }
        return Trained(None, pd.DataFrame(history))

    @staticmethod
    def score(config) -> float:
        return 0.9 - 0.1 * abs(math.log10(config.learning_rate) + 3.0)


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(search_trials, "train_classifier", trainer)
    return trainer


@pytest.fixture
def search(phantoms, tiny, tmp_path):
    """``search(words, out=…, plan options, config changes)``: a quiet search of the approach plain."""

    def run(words=(RATE,), out="out", say=lambda line: None, session=None, command="", **options):
        chosen = {name: options.pop(name) for name in ("tuner", "trials", "objective", "part") if name in options}
        config = tiny(phantoms, **{"approaches": ("plain",), "segmenter": "none", **options})
        plan = plan_search(config, list(words), **{"trials": 4, **chosen})
        return run_search(config, plan, tmp_path / out, session=session or Session(), say=say, command=command)

    return run


def table(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.path("trials.csv"), keep_default_na=False)


class TestResults:
    def test_the_folder(self, search, trainer, phantoms, tiny, capsys):
        lines = []
        run = search([RATE, "class_weights"], say=lines.append, command="tfseg search …")
        assert capsys.readouterr().out == "", "KerasTuner prints nothing"
        trials = table(run)
        assert list(trials) == [
            *("trial", "learning_rate", "class_weights", "val_balanced_accuracy"),
            *("best_epoch", "seconds", "state", "note"),
        ]
        assert list(trials["trial"]) == [1, 2, 3, 4] and set(trials["state"]) == {"finished"}
        assert list(trials["learning_rate"]) == [config.learning_rate for config in trainer.configs]
        best = int(np.argmax([trainer.score(config) for config in trainer.configs]))
        config, _, _ = stored_config(run.path("best.json"))
        expected = replace(trainer.configs[best], data=config.data)
        assert config == expected, "the whole configuration of the best trial"
        assert config.data == str(phantoms)
        Image.open(run.path("figures", "search.png")).verify()
        assert run.finished and run.config["fields"] == {
            RATE.split("=")[0]: "1e-05..0.1:log",
            "class_weights": "true,false",
        }
        flag = "--class-weights" if expected.class_weights else "--no-class-weights"
        assert f"--learning-rate {expected.learning_rate} {flag}" in lines[-1]
        assert f"options of trial {best + 1}" in lines[-1] and "best of 4 trials" in lines[-1]
        (line,) = list_runs(run.folder)
        assert (line["experiment"], line["state"], line["cells"]) == ("search", "finished", "4/4")
        assert not run.path("checkpoints").exists() and not run.path("outputs").exists()

    def test_the_score_is_that_of_the_epoch_which_a_training_keeps(self, search, trainer):
        """The middle epoch has the lowest loss; the first and the last have the higher accuracy."""
        run = search(objective="val_accuracy", trials=2)
        expected = [trainer.score(config) / 2.0 for config in trainer.configs]
        np.testing.assert_allclose(table(run)["val_accuracy"], expected)
        assert list(table(run)["best_epoch"]) == [2, 2]
        other = search(objective="val_accuracy", trials=2, monitor="val_accuracy", out="other")
        np.testing.assert_allclose(table(other)["val_accuracy"], [0.99, 0.99])

    def test_a_loss_is_best_where_it_is_low(self, search, trainer, monkeypatch):
        def train(config, *rest, **options):
            loss = config.learning_rate
            return Trained(None, pd.DataFrame({"epoch": [1], "seconds": [0.0], "val_loss": [loss]}))

        monkeypatch.setattr(search_trials, "train_classifier", train)
        run = search(objective="val_loss")
        assert read_json(run.path("best.json"))["learning_rate"] == table(run)["learning_rate"].min()

    def test_the_mean_over_folds_and_repeats_from_their_own_seeds(self, search, trainer, monkeypatch):
        monkeypatch.setattr(trainer, "score", lambda config: config.seed % 1000 / 10 + config.seed // 1_000_000)
        run = search(trials=2, cross_validation=2, repeats=2, seed=3)
        assert [config.seed for config in trainer.configs[:4]] == [3, 1_000_003, 1003, 1_001_003]
        np.testing.assert_allclose(table(run)["val_balanced_accuracy"], [0.8, 0.8])
        assert list(table(run)["best_epoch"]) == ["2 2 2 2"] * 2
        folds = [set(split.train) for split in trainer.splits[:4]]
        assert folds[0] == folds[1] != folds[2] == folds[3]
        assert read_json(run.path("best.json"))["seed"] == 3

    def test_equal_trials_are_told(self, search, trainer, monkeypatch):
        monkeypatch.setattr(trainer, "score", lambda config: 0.5)
        lines = []
        search(trials=3, say=lines.append)
        assert "options of trial 1" in lines[-1] and "as good on the validation part: trial 2, 3" in lines[-1]

    def test_hyperband_sets_the_epochs(self, search, trainer):
        run = search(tuner="hyperband", trials=None, epochs=3)
        # By hand, with factor 3: a bracket that begins with ⌈2 / 2 · 3⌉ trials of one epoch, then one of two trials.
        assert [config.epochs for config in trainer.configs] == [1, 1, 1, 3, 3, 3]
        assert list(table(run)["epochs"]) == [1, 1, 1, 3, 3, 3]
        best = from_plain(read_json(run.path("best.json")))
        scores = table(run)["val_balanced_accuracy"]
        assert best.epochs == table(run)["epochs"][scores.idxmax()]

    def test_a_small_space_ends_early(self, search, trainer):
        lines = []
        run = search(["class_weights", "batch_size=8,16"], trials=9, say=lines.append)
        assert len(table(run)) == 4 and run.finished
        assert any("there are no more settings" in line for line in lines)

    def test_another_image_size_is_read_again(self, search, trainer, monkeypatch):
        sizes = []

        def train(config, approach, arrays, *rest, **options):
            sizes.append((config.image_size, arrays.images.shape[1]))
            return trainer(config, approach, arrays, *rest, **options)

        monkeypatch.setattr(search_trials, "train_classifier", train)
        search(["image_size=16,24"], trials=2)
        assert sorted(sizes) == [(16, 16), (24, 24)]


class TestParts:
    def test_the_segmenter_of_a_masking_approach_is_trained_once(self, search, trainer, monkeypatch):
        trained, predicted, original = [], [], masks.predict_masks

        def train(config, arrays, split, sitting):
            trained.append(config)
            image = keras.Input((32, 32, 3))
            mask = keras.layers.Conv2D(1, 1, activation="sigmoid")(image)
            history = pd.DataFrame({"epoch": [1], "seconds": [0.1], "val_iou": [0.5]})
            return keras.Model(image, {"mask": mask}), history, ""

        def predict(graph, arrays, positions):
            predicted.append(positions)
            return original(graph, arrays, positions)

        monkeypatch.setattr(segmenter, "train_segmenter", train)
        monkeypatch.setattr(masks, "predict_masks", predict)
        trainer.stop_at = 2
        options = {"approaches": ("soft_mask",), "segmenter": "unet"}
        with pytest.raises(KeyboardInterrupt):
            search(**options)
        trainer.stop_at = None
        run = search(**options)
        assert len(trained) == 1 and run.path("models", "segmenter.keras").is_file()
        assert len(predicted) == 2, "once per sitting"
        split = trainer.splits[0]
        assert all(set(maps) == {"lesion"} for maps in trainer.maps)
        for positions in predicted:
            assert set(positions) == {*split.train, *split.val}, "test cases are not looked at"
        for maps in trainer.maps:
            assert maps["lesion"][split.train].any() and not maps["lesion"][split.test].any()

    def test_the_segmenter_itself(self, search, monkeypatch):
        widths = []

        def train(config, arrays, split, sitting):
            widths.append(config.segmenter_width)
            history = {"epoch": [1, 2], "val_iou": [0.3, config.segmenter_width / 100], "val_loss": [0.1, 0.2]}
            return None, pd.DataFrame(history), ""

        monkeypatch.setattr(search_trials, "train_segmenter", train)
        run = search(["segmenter_width=40,50,60"], part="segmenter", segmenter="unet", approaches=("plain", "centiou"))
        assert sorted(widths) == [40, 50, 60]
        best = read_json(run.path("best.json"))
        assert best["segmenter_width"] == 60 and best["approaches"] == ["plain", "centiou"]
        assert table(run)["val_iou"].max() == 0.6

    def test_a_probe_has_a_balanced_accuracy_too(self, search):
        found = table(search(["class_weights"], training="probe", trials=2))
        assert found["val_balanced_accuracy"].between(0, 1).all() and set(found["state"]) == {"finished"}


class TestFailures:
    def test_a_trial_without_a_number_is_recorded_and_the_search_goes_on(self, search, trainer):
        trainer.fails = lambda config: config.learning_rate > 1e-3
        run = search([RATE], "failing", trials=6, tuner="bayesian")
        trials = table(run)
        failed = trials["state"] == "failed"
        assert 0 < failed.sum() < 6 and len(trials) == 6
        assert set(trials["note"][failed]) == {"plain: the loss is no number"}
        assert set(trials["val_balanced_accuracy"][failed]) == {""}
        assert read_json(run.path("best.json"))["learning_rate"] <= 1e-3

    @pytest.mark.parametrize(
        ("objective", "scores", "told"),
        [
            ("val_balanced_accuracy", [None, 0.6, 0.8, None, 0.7], [0.0, 0.6, 0.8, 0.0]),
            ("val_balanced_accuracy", [0.6, 0.8, None, 0.5, None], [0.6, 0.8, 0.6, 0.5]),
            # Two classes: ln 2.
            ("val_loss", [None, 0.3, None, 0.9, 0.1], [0.6931471805599453, 0.3, 0.6931471805599453, 0.9]),
            ("val_loss", [0.2, 0.9, None, 0.1, 0.1], [0.2, 0.9, 0.9, 0.1]),
        ],
    )
    def test_the_tuner_is_told_that_a_failure_was_bad(self, search, monkeypatch, objective, scores, told):
        heard, tell, left = [], Proposals.tell, list(scores)

        def train(*arguments, **options):
            score = left.pop(0)
            if score is None:
                raise TrainingError("no number")
            return Trained(None, pd.DataFrame({"epoch": [1], "seconds": [0.0], "val_loss": [0.5], objective: [score]}))

        monkeypatch.setattr(search_trials, "train_classifier", train)
        monkeypatch.setattr(Proposals, "tell", lambda proposals, score: heard.append(score) or tell(proposals, score))
        search(objective=objective, trials=5)
        assert heard == told

    def test_one_failed_fold_fails_the_trial_without_training_the_others(self, search, trainer):
        first = []
        trainer.fails = lambda config: len(trainer.configs) == 1 and not first.append(1)
        run = search(trials=2, cross_validation=2)
        assert list(table(run)["state"]) == ["failed", "finished"]
        assert len(trainer.configs) == 3

    def test_nothing_to_choose_from(self, search, trainer):
        trainer.fails = lambda config: True
        with pytest.raises(TrainingError, match="not one trial could be trained: plain: the loss is no number"):
            search(trials=2)

    def test_an_impossible_freezing_is_found_before_training(self, search, trainer, tmp_path, monkeypatch):
        weights = tmp_path / "weights.npz"
        weights.touch()
        network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dense(2)], name="network")
        for module in (preparation, search_job):
            monkeypatch.setattr(module, "build_backbone", lambda *arguments: network)
        with pytest.raises(ConfigError, match="freeze_first=9: `freeze_first` must lie between 0 and 2"):
            search(["freeze_first=0,9"], weights=str(weights), freeze_first=0)
        assert not trainer.configs

    def test_other_settings_are_refused(self, search, trainer):
        search(trials=2)
        for changes in (
            {"trials": 3},
            {"tuner": "bayesian"},
            {"objective": "val_accuracy"},
            {"words": ["learning_rate=1e-5..1e-2:log"]},
            {"epochs": 9},
        ):
            with pytest.raises(RunError, match="another run"):
                search(**{"trials": 2, **changes})


class TestResuming:
    @pytest.mark.parametrize("tuner", ["random", "bayesian", "hyperband"])
    def test_an_interrupted_search_ends_as_if_it_had_not_been(self, search, trainer, tuner):
        options = {"tuner": tuner, "trials": 5, "words": [RATE, "class_weights"]}
        trainer.fails = lambda config: config.learning_rate > 1e-2
        whole = search(**options, out="whole")
        expected, trainer.configs = trainer.configs, []
        for stop in (1, 3):
            trainer.stop_at = stop
            with pytest.raises(KeyboardInterrupt):
                search(**options, out="broken")
            begun = list(Run(whole.folder.parent / "broken").path("checkpoints").glob("trial*.json"))
            assert [path.stem for path in begun] == [f"trial{stop + 1:03d}"]
        trainer.stop_at = None
        broken = search(**options, out="broken")
        assert trainer.configs == expected, "no trial twice, and none other"
        pd.testing.assert_frame_equal(table(broken).drop(columns="seconds"), table(whole).drop(columns="seconds"))
        assert read_json(broken.path("best.json")) == read_json(whole.path("best.json"))
        assert not broken.path("checkpoints").exists()

    def test_the_trial_that_was_broken_off_keeps_its_values(self, search, trainer, monkeypatch):
        """As where another processor's proposal differs in its last digits."""
        trainer.stop_at = 3
        options = {"tuner": "bayesian", "trials": 4}
        with pytest.raises(KeyboardInterrupt):
            search(**options)
        checkpoint = trainer.sittings[0].checkpoint.parent
        begun = read_json(checkpoint / "trial004.json")["values"]
        write_json(checkpoint / "trial004.json", {"values": {"learning_rate": 0.00123}})
        trainer.stop_at = None
        search(**options)
        assert begun["learning_rate"] != trainer.configs[3].learning_rate == 0.00123

    def test_time_is_over(self, search, trainer):
        lines = []
        with pytest.raises(Paused):
            search(session=Session(max_minutes=1e-9), say=lines.append)
        run = search()
        assert run.finished and len(trainer.configs) == 4

    def test_a_pause_leaves_what_was_found(self, search, trainer, monkeypatch):
        def train(*arguments, **options):
            if len(trainer.configs) == 2:
                raise Paused("time is over after epoch 1")
            return trainer(*arguments, **options)

        monkeypatch.setattr(search_trials, "train_classifier", train)
        with pytest.raises(Paused):
            search()
        run = Run(trainer.sittings[0].checkpoint.parents[1])
        assert len(table(run)) == 2 and run.path("best.json").exists() and not run.finished
        assert {sitting.checkpoint.name for sitting in trainer.sittings} == {
            "trial001-fold0.npz",
            "trial002-fold0.npz",
        }

    def test_a_finished_search_is_shown_again(self, search, trainer):
        first, second = [], []
        search(trials=2, say=first.append)
        count = len(trainer.configs)
        search(trials=2, say=second.append)
        assert len(trainer.configs) == count and first[-1] in second


class TestCommand:
    def test_mistakes_are_found_before_anything_is_read(self):
        with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
            Search(data="missing", approaches=("plain",), fields=("lerning_rate",))
        with pytest.raises(ConfigError, match="`max_minutes`"):
            Search(data="missing", approaches=("plain",), fields=("dropout",), max_minutes=0.0)

    def test_every_option_arrives(self, phantoms, tiny, trainer, tmp_path, capsys):
        config = tiny(phantoms, approaches=("plain",), segmenter="none")
        values = {name: getattr(config, name) for name in ComparisonConfig.__dataclass_fields__}
        chosen = {"tuner": "hyperband", "trials": 3, "objective": "val_accuracy"}
        out = tmp_path / "out"
        assert Search(**values, fields=("dropout=0.1,0.2",), **chosen, out=str(out)).run() == 0
        assert {name: Run(out).config[name] for name in chosen} == chosen
        assert f"tfseg rerun {out / 'best.json'}" in capsys.readouterr().out


class TestTraining:
    @pytest.mark.filterwarnings("ignore:Even though the `tf.config")
    def test_a_real_search_goes_on_within_a_trial(self, search, deterministic, monkeypatch, tmp_path):
        original, count = search_trials.train_classifier, [0]

        def short(*arguments, **given):
            """The first training pauses after its first epoch."""
            count[0] += 1
            *first, sitting = arguments
            return original(*first, replace(sitting, deadline=time.monotonic()) if count[0] == 1 else sitting, **given)

        options = {
            "deterministic": True,
            "epochs": 2,
            "trials": 2,
            "words": ["learning_rate=1e-3..1e-2:log"],
            "augmentation": "none",
        }
        # Tracing graphs would take longer than the few batches do.
        tf.config.run_functions_eagerly(True)
        try:
            whole = search(**options, out="whole")
            broken = Run(shutil.copytree(whole.folder, tmp_path / "broken"))
            for path in ("state.json", "trials.csv", "cells/trial002-fold0.json", "history/trial002-fold0.csv"):
                broken.path(path).unlink()
            monkeypatch.setattr(search_trials, "train_classifier", short)
            with pytest.raises(Paused):
                search(**options, out="broken")
            assert broken.path("checkpoints", "trial002-fold0.npz").is_file()
            assert search(**options, out="broken").folder == broken.folder and count[0] == 2
        finally:
            tf.config.run_functions_eagerly(False)
            deterministic()
        columns = ["seconds", "peak_memory_mb"]
        histories = [pd.read_csv(run.path("history", "trial002-fold0.csv")) for run in (whole, broken)]
        pd.testing.assert_frame_equal(*(history.drop(columns=columns) for history in histories), check_exact=True)
        pd.testing.assert_frame_equal(table(whole).drop(columns="seconds"), table(broken).drop(columns="seconds"))
