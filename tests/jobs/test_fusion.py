"""Two branches in a comparison: trained on cached class maps, stored as one graph, beside the controls."""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.approaches import APPROACHES
from tfseg.data.batches import load_arrays
from tfseg.data.sources import load_cases
from tfseg.data.splits import read_split
from tfseg.errors import ConfigError
from tfseg.export.predictor import load_predictor
from tfseg.jobs.cells import Comparison
from tfseg.jobs.comparison import run_comparison
from tfseg.jobs.grid import Cell
from tfseg.jobs.masks import frozen_maps, true_maps
from tfseg.jobs.rows import ClassifierRow
from tfseg.jobs.search.job import run_search
from tfseg.jobs.search.space import plan_search
from tfseg.presets import CERVICAL_PRESETS
from tfseg.run import read_json

SCRIPT = Path(__file__).parents[2] / "experiments" / "cervical.py"
MASK_SIZE = 16
ROWS = [
    ClassifierRow("classical", "plain"),
    ClassifierRow("gap", "fusion_gap"),
    ClassifierRow("argmax", "fusion_flatten", {"mask_input": "argmax"}),
    ClassifierRow("joint", "fusion_gate", {"joint_segmentation": 0.5}),
    ClassifierRow("fusion_oracle", "fusion_oracle"),
    ClassifierRow("fusion_zeroed", "fusion_zeroed"),
]


@pytest.fixture(scope="module")
def config(tiny, phantoms):
    return tiny(phantoms, mask_size=MASK_SIZE, segmenter_scale=2, segmenter_epochs=4, epochs=2)


@pytest.fixture(scope="module")
def fused(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("fused") / "run"
    return run_comparison(config, out, rows=ROWS, say=lambda line: None)


@pytest.fixture(scope="module")
def arrays(config):
    return load_arrays(load_cases(config.data), config.image_size)


def stored(run, row):
    return keras.saving.load_model(run.path("models", row, "model.keras"), compile=False)


def test_all_rows_are_in_the_table(fused):
    rows = {row["name"]: row for row in read_json(fused.path("metrics.json"))["rows"]}
    assert list(rows) == ["segmenter", *(row.name for row in ROWS)]
    assert all(0.0 <= rows[row.name]["metrics"]["accuracy"]["mean"] <= 1.0 for row in ROWS)
    assert rows["gap"]["settings"]["mask_size"] == MASK_SIZE and "mask_size" not in rows["classical"]["settings"]
    # The usual row to export is no control.
    assert not APPROACHES[next(row.approach for row in ROWS if row.name == best(fused))].control


def best(run):
    return read_json(run.path("metrics.json"))["best_row"]


def test_the_stored_graph_decides_on_the_segmenters_map(fused, config, arrays):
    """The head's logits from the cached map, and from the image alone, are the same."""
    graph, segmenter = stored(fused, "gap"), keras.saving.load_model(fused.path("models", "segmenter.keras"))
    test = read_split(fused.path("splits.json"), load_cases(config.data))[0].test
    maps = frozen_maps(segmenter, arrays, MASK_SIZE, test)
    assert maps.shape == (len(arrays), MASK_SIZE, MASK_SIZE, 3) and maps.dtype == np.uint8
    assert not maps[np.setdiff1d(np.arange(len(arrays)), test)].any()
    # One channel for background and lesion: what is not lesion is background, and there is no third class.
    np.testing.assert_allclose(maps[test].astype(int).sum(-1), 255, atol=1)
    assert not maps[test][..., 2].any()
    images = arrays.images[test] / np.float32(255)
    branches = [
        graph.get_layer("image_features")(images, training=False),
        graph.get_layer("mask_features")(maps[test] / np.float32(255), training=False),
    ]
    logits = graph.get_layer("saliency").head(branches, training=False)
    expected = tf.nn.softmax(logits / graph.get_layer("probabilities").temperature)
    found = load_predictor(fused.path("models", "gap", "model.keras")).predict(arrays.images[test])
    np.testing.assert_allclose(found["probabilities"], expected, atol=0.01)
    assert set(found) >= {"probabilities", "mask", "saliency", "saliency_mask"}


def test_the_maps_of_both_branches_are_kept(fused):
    """On the same test images, of the same size, and not the same."""
    with np.load(fused.path("outputs", "gap-fold0.npz")) as kept:
        image, mask = kept["saliency"], kept["saliency_mask"]
    assert image.shape == mask.shape and image.dtype == mask.dtype == np.uint8
    assert image.max() > 0 and mask.max() > 0 and (image != mask).any()
    with np.load(fused.path("outputs", "classical-fold0.npz")) as kept:
        assert "saliency_mask" not in kept
    assert fused.path("figures", "saliency.png").stat().st_size > 0


def test_only_the_joint_training_changes_the_segmenter(fused):
    before = keras.saving.load_model(fused.path("models", "segmenter.keras")).get_layer("segmenter").get_weights()
    for row, same in (("gap", True), ("argmax", True), ("joint", False)):
        after = stored(fused, row).get_layer("segmenter").get_weights()
        assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True)) == same, row


def test_the_joint_training_has_both_losses_and_chooses_by_the_classifiers(fused):
    import pandas as pd

    history = pd.read_csv(fused.path("history", "joint-fold0.csv"))
    total = history["loss"] + 0.5 * history["mask_loss"]
    np.testing.assert_allclose(history["joint_loss"], total, rtol=0.05)
    assert {"val_loss", "val_accuracy", "val_balanced_accuracy"} <= set(history)
    cell = read_json(fused.path("cells", "joint-fold0.json"))
    assert cell["extra"]["best_epoch"] == history["epoch"][history["val_loss"].idxmin()]


def test_controls_can_not_be_served(fused):
    for name in ("fusion_oracle", "fusion_zeroed"):
        graph = stored(fused, name)
        assert set(graph.input) == {"image", "classes"} and "mask" not in graph.output


def test_true_class_maps_hold_each_classs_share(tiny_masks):
    maps = true_maps(tiny_masks, 2)
    assert maps.shape == (1, 2, 2, 3)
    # Quarters of background, lesion, half of each, and a half that counts nowhere.
    np.testing.assert_allclose(
        maps[0].reshape(4, 3) / 255, [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0.5, 0, 0]], atol=0.003
    )


@pytest.fixture
def tiny_masks(arrays):
    mask = np.zeros((1, 32, 32), np.uint8)
    mask[0, :16, 16:] = 1
    mask[0, 16:, 8:16] = 1
    mask[0, 16:, 24:] = 255
    return replace(arrays, masks=mask, images=arrays.images[:1], ids=arrays.ids[:1])


def test_the_segmenter_sees_smaller_images(fused):
    segmenter = keras.saving.load_model(fused.path("models", "segmenter.keras")).get_layer("segmenter")
    assert segmenter.get_layer("scaled_segmenter").input_shape == (None, 16, 16, 3)
    assert segmenter.output_shape == (None, 32, 32, 1)


def test_what_each_row_looks_at(fused, config, arrays):
    """The frozen segmenter's maps are computed once for a fold and a size; zeros are zeros, and truths true."""
    cases = load_cases(config.data)
    splits = read_split(fused.path("splits.json"), cases)
    comparison = Comparison(fused, config, cases, arrays, splits, ROWS)
    maps = {row.name: comparison.maps_of(Cell(row.name, 0, 0, (Cell("segmenter", 0),))) for row in ROWS}
    assert maps.pop("classical") == {} and all(set(found) == {"classes"} for found in maps.values())
    maps = {name: found["classes"] for name, found in maps.items()}
    assert maps["gap"] is maps["argmax"] is maps["joint"]
    assert not maps["fusion_zeroed"].any() and maps["fusion_zeroed"].shape == maps["gap"].shape
    np.testing.assert_array_equal(maps["fusion_oracle"], true_maps(arrays, MASK_SIZE))
    assert (maps["fusion_oracle"] != maps["gap"]).any()


def test_a_search_of_the_joint_weight(config, tmp_path):
    """A trial gives its training the fold's segmenter, which learns along."""
    asked = replace(config, approaches=("fusion_gap",), epochs=1, segmenter_epochs=1)
    plan = plan_search(asked, ["joint_segmentation=0.2,0.7"], trials=2)
    run = run_search(asked, plan, tmp_path / "search", say=lambda line: None)
    assert read_json(run.path("best.json"))["joint_segmentation"] in (0.2, 0.7)
    text = "".join(path.read_text() for path in run.path("history").glob("*.csv") if "segmenter" not in path.name)
    assert "joint_loss" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saliency_layer": "stage2_down_conv"}, "`saliency_layer`: a fusion's maps"),
        ({"head": "convolution"}, "`head`: a fusion has dense layers"),
        ({"segmenter": "none"}, "fusion_gap: these approaches need a segmenter"),
        ({"joint_segmentation": 1.0, "mask_input": "argmax"}, "`joint_segmentation`: no gradient comes back"),
    ],
)
def test_what_a_fusion_can_not_have(config, changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_comparison(replace(config, **changes, approaches=("fusion_gap",)), tmp_path / "run", say=lambda line: None)


class TestExperiment:
    @pytest.fixture(scope="class")
    def script(self):
        return runpy.run_path(str(SCRIPT))

    @pytest.mark.parametrize(("classes", "accuracy"), [(2, 0.942), (4, 0.725), (7, None)])
    def test_the_papers_figures_are_beside_as_many_classes(self, script, classes, accuracy):
        rows = {row.name: row for row in script["fusion_rows"](classes)}
        paper = rows["fusion_gap"].paper
        assert (paper["accuracy"] if paper else None) == accuracy
        assert rows["classical"].approach == "plain" and rows["fusion_zeroed"].paper is None
        controls = {name for name, row in rows.items() if APPROACHES[row.approach].control}
        assert controls == {"fusion_oracle", "fusion_zeroed"}

    def test_the_paper_preset_is_the_papers(self):
        paper = CERVICAL_PRESETS["fusion"]["paper"]
        assert (paper.backbone, paper.mask_backbone, paper.freeze_first) == ("xception", "resnet50", 40)
        assert (paper.learning_rate, paper.batch_size, paper.epochs, paper.patience) == (1e-4, 32, 500, 20)
        assert (paper.test_per_class, paper.val_fraction, paper.segmenter_masks) == (30, 0.2, 20)

    @pytest.fixture
    def asked(self, script, monkeypatch):
        """What a command line asks of the comparison, task by task."""

        def ask(*words):
            received = []

            def comparison(config, out, **options):
                received.append((config, Path(out), options))

            monkeypatch.setattr("tfseg.jobs.comparison.run_comparison", comparison)
            monkeypatch.setattr("tfseg.jobs.comparison.describe_files", str)
            monkeypatch.setattr("sys.argv", ["cervical.py", "--stage", "fusion", *words])
            assert script["run"]() == 0
            return received

        return ask

    def test_each_task_has_its_own_folder_masks_and_positive_classes(
        self, asked, phantoms, tmp_path, rows_of, write_rows
    ):
        """Three classes and two: as many masks for both."""
        folder = Path(shutil.copytree(phantoms, tmp_path / "data"))
        rows = rows_of(folder / "labels.csv")
        write_rows(folder / "labels.csv", [{**row, "kind": "abc"[number % 3]} for number, row in enumerate(rows)])
        words = ["--tasks", "kind", "label", "--positive", "a", "b", "malignant", "--sensitivity", "0.9"]
        received = asked("--data", str(folder), *words, "--segmenter-masks", "20", "--out", str(tmp_path / "run"))
        (kind, where, options), (label, elsewhere, _) = received
        assert (kind.target, where.name, kind.positive, kind.sensitivity) == ("kind", "kind", ("a", "b"), 0.9)
        assert (label.target, elsewhere.name, label.positive) == ("label", "label", ("malignant",))
        assert (kind.segmenter_masks, label.segmenter_masks) == (20, 30)
        assert [row.name for row in options["rows"]][:3] == ["classical", "fusion_flatten", "fusion_gap"]

    def test_mistakes_of_its_tasks_are_named(self, asked, phantoms):
        with pytest.raises(ConfigError, match="`positive`: no task has a class mel"):
            asked("--data", str(phantoms), "--tasks", "label", "--positive", "mel", "--sensitivity", "0.9")
        with pytest.raises(ConfigError, match="`tasks` must name different columns"):
            asked("--data", str(phantoms), "--tasks", "label", "label")

    def test_a_task_without_its_positive_classes_has_no_operating_point(
        self, asked, phantoms, tmp_path, rows_of, write_rows
    ):
        folder = Path(shutil.copytree(phantoms, tmp_path / "data"))
        rows = rows_of(folder / "labels.csv")
        write_rows(folder / "labels.csv", [{**row, "kind": "ab"[number % 2]} for number, row in enumerate(rows)])
        words = ["--tasks", "label", "kind", "--positive", "malignant", "--sensitivity", "0.9"]
        (_, _, _), (kind, _, _) = asked("--data", str(folder), *words)
        assert (kind.positive, kind.sensitivity) == ((), None)
