"""The SE-LCN experiment: its rows, the thesis's figures beside them, and its stages on pictures of a few pixels."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from tfseg.approaches import APPROACHES
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.errors import ConfigError, UserError
from tfseg.experiment import Experiment
from tfseg.jobs.comparison import run_comparison
from tfseg.jobs.elsewhere import score_elsewhere
from tfseg.jobs.rows import ClassifierRow
from tfseg.presets import SE_LCN_PRESETS
from tfseg.run import read_json, write_json
from tfseg.session import Session

SCRIPT = Path(__file__).parents[2] / "experiments" / "se_lcn.py"
CELLS = [f"{mask}_{transfer}" for mask in ("none", "seg", "lae") for transfer in ("no", "none", "seg", "lae")]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def asked(script, stage="grid", preset="quick", **options) -> Experiment:
    config = replace(SE_LCN_PRESETS[stage][preset], data="d", weights=None)
    own = replace(script["OPTIONS"][preset], **options)
    return Experiment(config.resolved(), Session(), preset, None, own, stage)


class TestRows:
    @pytest.mark.parametrize("preset", ["quick", "paper"])
    def test_the_twelve_cells_in_the_thesis_order(self, script, preset):
        experiment = asked(script, preset=preset)
        rows = script["grid_rows"](experiment)
        assert [row.name for row in rows] == CELLS
        seen = {row.name: (APPROACHES[row.approach].mask, APPROACHES[row.approach].symmetry) for row in rows}
        assert seen["none_no"] == (None, None)
        assert seen["seg_lae"] == ("hard", "own") and seen["lae_no"] == ("lesion_area", None)
        configs = {row.name: row.config(experiment.config) for row in rows}
        assert configs["lae_seg"].symmetry_approach == "hard_mask"
        assert not any(config.joint_symmetry or config.joint_segmentation for config in configs.values())

    def test_the_thesis_figures(self, script):
        rows = {row.name: row for row in script["grid_rows"](asked(script))}
        assert rows["lae_lae"].paper["accuracy"] == 0.819 and rows["lae_lae"].paper["cam_pointing"] == 0.896
        symmetry = {row.name: row for row in script["symmetry_rows"](asked(script, "symmetry"))}
        assert symmetry["none"].paper["balanced_accuracy"] == 0.758
        assert symmetry["none_mobilenet_v2"].paper is None
        masks = {row.name: row for row in script["segmentation_rows"]()}
        assert masks["deeplab_v3_plus"].paper["dice"] == 0.8882 and masks["unet_hairs"].paper is None

    def test_with_all_rows_there_are_controls_and_joint_trainings(self, script):
        experiment = asked(script, rows="all")
        rows = {row.name: row for row in script["grid_rows"](experiment)}
        assert list(rows)[12:] == ["none_shuffled", "none_zeroed", "soft_soft", "none_none_joint", "soft_soft_joint"]
        assert APPROACHES[rows["none_shuffled"].approach].control
        assert rows["soft_soft_joint"].config(experiment.config).joint_segmentation > 0

    def test_what_a_search_found_is_taken(self, script, tmp_path):
        values = {"batch_size": 8, "learning_rate": 3e-4, "momentum": 0.95, "weight_decay": 2e-4, "class_weights": True}
        write_json(tmp_path / "none_no" / "best.json", values)
        write_json(tmp_path / "lae_lae" / "best.json", {**values, "batch_size": 16})
        rows = {row.name: row for row in script["grid_rows"](asked(script, searched=str(tmp_path)))}
        assert rows["seg_none"].changes["batch_size"] == 8 and rows["seg_none"].changes["momentum"] == 0.95
        assert rows["lae_lae"].changes["batch_size"] == 16
        with pytest.raises(ConfigError, match="`searched`: .*best.json does not exist"):
            script["grid_rows"](asked(script, searched=str(tmp_path / "other")))

    def test_networks_without_weights_are_refused(self, script):
        experiment = asked(script, "symmetry", "paper")
        experiment = replace(experiment, config=replace(experiment.config, weights="imagenet"))
        with pytest.raises(ConfigError, match="no ImageNet weights for squeezenet_1_0: give `--symmetry-weights`"):
            script["symmetry_rows"](experiment)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """Of three classes."""
    config = PhantomConfig(images=90, size=40, images_per_group=1.0, seed=3)
    return write_phantoms(config, tmp_path_factory.mktemp("lesions") / "data")


@pytest.fixture(scope="module")
def grid(tiny, lesions, tmp_path_factory):
    """A plain row and a cascade, each trained twice, without masks."""
    rows = [ClassifierRow("plain", "plain"), ClassifierRow("cascade", "se_lcn")]
    config = tiny(lesions, epochs=1, symmetry_epochs=1, segmenter="none", repeats=2)
    return run_comparison(config, tmp_path_factory.mktemp("grid") / "run", rows=rows, say=lambda line: None)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Other lesions of the same kind."""
    return write_phantoms(PhantomConfig(images=18, size=40, seed=5), tmp_path_factory.mktemp("other") / "data")


class TestElsewhere:
    @pytest.fixture(scope="class")
    def scored(self, grid, other, tmp_path_factory):
        out = tmp_path_factory.mktemp("elsewhere") / "run"
        return score_elsewhere(grid.folder, str(other), out, say=lambda line: None, paper={"plain": {"accuracy": 0.5}})

    def test_every_model_of_what_can_be_served(self, scored):
        rows = {row["name"]: row for row in read_json(scored.path("metrics.json"))["rows"]}
        assert list(rows) == ["plain", "cascade"], "not the symmetry network"
        assert all(len(row["metrics"]["accuracy"]["values"]) == 2 for row in rows.values())
        assert rows["plain"]["paper"] == {"accuracy": 0.5}
        assert {"cam_iou", "cam_pointing"} <= set(rows["cascade"]["metrics"])
        assert scored.path("comparison", "comparison.json").exists()

    def test_the_scores_are_those_of_the_predictions(self, scored):
        table = pd.read_csv(scored.path("predictions", "cascade.csv"))
        assert sorted(set(table["repeat"])) == [0, 1]
        found = [(part["true"] == part["predicted"]).mean() for _, part in table.groupby("repeat")]
        rows = {row["name"]: row for row in read_json(scored.path("metrics.json"))["rows"]}
        np.testing.assert_allclose(rows["cascade"]["metrics"]["accuracy"]["values"], found, atol=1e-6)

    def test_fewer_classes_are_scored_both_ways(self, grid, other, tmp_path):
        write_json(tmp_path / "map.json", {"atypical": None})
        run = score_elsewhere(
            grid.folder, str(other), tmp_path / "run", class_map=tmp_path / "map.json", say=lambda line: None
        )
        rows = {row["name"]: row for row in read_json(run.path("metrics.json"))["rows"]}
        assert list(rows) == ["plain", "plain (shared classes)", "cascade", "cascade (shared classes)"]
        assert set(rows["plain (shared classes)"]["per_class"]) == {"benign", "malignant"}
        both = [rows[name]["metrics"]["accuracy"]["mean"] for name in ("plain", "plain (shared classes)")]
        assert both[1] >= both[0]

    def test_images_of_the_training_are_left_out(self, grid, lesions, tmp_path):
        with pytest.raises(UserError, match="nothing to score: no labelled image"):
            score_elsewhere(grid.folder, str(lesions), tmp_path / "run", say=lambda line: None)

    def test_what_can_not_be_scored(self, grid, other, tmp_path):
        with pytest.raises(UserError, match="is no folder of a finished comparison"):
            score_elsewhere(tmp_path, str(other), tmp_path / "run")
        with pytest.raises(ConfigError, match="no row symmetry_plain with a model; there are plain, cascade"):
            score_elsewhere(grid.folder, str(other), tmp_path / "run", rows=["symmetry_plain"])


def test_a_trained_symmetry_network_can_be_given(grid, tiny, lesions, tmp_path):
    """Its map is what the cascade hands on, and nothing of it is trained."""
    path = grid.path("models", "symmetry_plain", "model.keras")
    config = tiny(lesions, epochs=1, segmenter="none", symmetry_file=str(path))
    run = run_comparison(config, tmp_path / "run", rows=[ClassifierRow("cascade", "se_lcn")], say=lambda line: None)
    assert [row["name"] for row in read_json(run.path("metrics.json"))["rows"]] == ["cascade"]
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    given, own = (
        keras.saving.load_model(file, compile=False)(images)
        for file in (path, run.path("models", "cascade", "model.keras"))
    )
    np.testing.assert_allclose(own["saliency_symmetry"], given["saliency"], atol=1e-5)
    np.testing.assert_allclose(own["symmetry"], given["probabilities"], atol=1e-5)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.keras", "missing.keras does not exist"),
        (
            "models/cascade/model.keras",
            "was trained by se_lcn; a symmetry network is trained by one of plain, hard_mask",
        ),
    ],
)
def test_what_is_no_symmetry_network(grid, tiny, phantoms, file, message, tmp_path):
    config = tiny(phantoms, epochs=1, segmenter="none", symmetry_file=str(grid.path(file)))
    with pytest.raises(UserError, match=message):
        run_comparison(config, tmp_path / "run", rows=[ClassifierRow("cascade", "se_lcn")], say=lambda line: None)


@pytest.mark.slow
def test_the_search_divides_by_lesion(script, tiny, phantoms, tmp_path):
    """A quarter of what isn't tested measures the trials, and what they found is what the grid takes."""
    config = tiny(phantoms, epochs=1, segmenter_epochs=1, symmetry_epochs=1, test_fraction=0.2, cross_validation=4)
    experiment = asked(script, "search", trials=2)
    out = str(tmp_path / "search")
    script["search"](replace(experiment, config=config, out=out))
    (split,) = json.loads((tmp_path / "search" / "split.json").read_text())
    lesions = pd.read_csv(Path(phantoms) / "labels.csv")
    group_of = {Path(image).stem: group for image, group in zip(lesions["image"], lesions["group"], strict=True)}
    groups = {part: {group_of[case] for case in split[part]} for part in ("train", "val", "test")}
    assert not groups["train"] & groups["val"] and not groups["test"] & (groups["train"] | groups["val"])
    rows = script["grid_rows"](replace(experiment, options=replace(experiment.options, searched=out)))
    assert set(rows[0].changes) >= {"batch_size", "learning_rate", "momentum", "weight_decay", "class_weights"}
