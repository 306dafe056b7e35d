"""The oral experiment: its rows, its table, and data whose labels contradict each other."""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfseg.approaches import APPROACHES
from tfseg.errors import ConfigError, DataError, UserError
from tfseg.experiment import parse_experiment
from tfseg.jobs.study.job import run_study
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.jobs.study.tables import study_markdown
from tfseg.models.segmenters import segmenter_options
from tfseg.presets import ORAL_PRESETS
from tfseg.run import read_json
from tfseg.training.segmenter import configured_loss
from tfseg.words import named_values

SCRIPT = Path(__file__).parents[2] / "experiments" / "oral.py"
FOREGROUND = (StudyRow("all_foreground", baseline="foreground"),)


@pytest.fixture
def contradicting(phantoms, tmp_path, rows_of, write_rows) -> Path:
    """The phantoms, the first of them twice, as benign and as malignant, in one group."""
    folder = Path(shutil.copytree(phantoms, tmp_path / "data"))
    rows = rows_of(folder / "labels.csv")
    other = {"benign": "malignant", "malignant": "benign"}[rows[0]["label"]]
    (folder / "images" / "copy.png").write_bytes((folder / rows[0]["image"]).read_bytes())
    write_rows(folder / "labels.csv", [*rows, {**rows[0], "image": "images/copy.png", "label": other}])
    return folder


SEGMENTATION = ORAL_PRESETS["segmentation"]


@pytest.mark.parametrize("preset", list(SEGMENTATION))
def test_the_rows_can_be_built(preset):
    rows = {row.name: row for row in runpy.run_path(str(SCRIPT))["segmentation_rows"]()}
    assert list(rows) == ["all_foreground", "random_mask", "fcn", "deeplab", "unet"]
    named = {name: row.config(replace(SEGMENTATION[preset], data="d")) for name, row in rows.items()}
    assert {name: config.segmenter for name, config in named.items() if not rows[name].baseline} == {
        "fcn": "fcn_8s",
        "deeplab": "deeplab_v3_plus",
        "unet": "unet",
    }
    for name, config in named.items():
        configured_loss(config)
        known = segmenter_options(config.segmenter)
        assert set(named_values(config.segmenter_options, "segmenter_options")) <= set(known), name
    assert rows["unet"].paper == {
        "pixel_accuracy": 0.9515,
        "pixel_precision": 0.7986,
        "pixel_recall": 0.7196,
        "pixel_specificity": 0.9790,
    }


class TestLabelsThatContradict:
    def test_a_study_of_masks_goes_on_and_says_so(self, contradicting, tiny, tmp_path):
        lines: list[str] = []
        config = tiny(contradicting, cross_validation=3)
        run = run_study(config, FOREGROUND, tmp_path / "run", say=lines.append)
        (told,) = [line for line in lines if "duplicate_across_labels" in line]
        assert told.startswith("warning: 1 times") and "not labels" in told
        assert any("duplicate_across_labels" in line for line in read_json(run.path("data.json"))["warnings"])

    def test_one_whose_means_go_by_label_does_not(self, contradicting, tiny, tmp_path):
        config, design = tiny(contradicting, cross_validation=3), StudyDesign("folds", over_labels=True)
        with pytest.raises(DataError, match="duplicate_across_labels"):
            run_study(config, FOREGROUND, tmp_path / "run", design=design, say=lambda line: None)

    @pytest.mark.parametrize(
        ("design", "kinds"),
        [
            (StudyDesign("folds"), {"duplicate_across_labels"}),
            (StudyDesign("folds", over_labels=True), set()),
            (
                StudyDesign("random"),
                {"duplicate_across_labels", "group_across_parts", "duplicate_across_parts"},
            ),
            (StudyDesign("random", over_labels=True), {"group_across_parts", "duplicate_across_parts"}),
        ],
    )
    def test_what_a_design_lets_through(self, design, kinds):
        assert set(design.allowed) == kinds


def summary(value: float) -> dict:
    return {"mean": value, "std": 0.0, "ci95": [value, value], "values": [value]}


@pytest.mark.parametrize(("published", "shown", "left_out"), [
    ("pixel_accuracy", "pixel_accuracy", "pixel_error"),
    ("pixel_error", "pixel_error", "pixel_accuracy"),
])  # fmt: skip
def test_of_accuracy_and_error_the_published_one_is_shown(published, shown, left_out):
    metrics = {name: summary(0.9) for name in ("iou", "dice", "pixel_accuracy", "pixel_error")}
    of_class = {"iou": 0.5, "dice": 0.6, "pixel_error": 0.1, "pixel_accuracy": 0.9, "support": 3}
    row = {"name": "a", "metrics": metrics, "paper": {published: 0.95}, "per_class": {"cancer": of_class}}
    design = {"split_by": "folds", "over_labels": False}
    head = {"command": "c", "experiment": "e", "preset": "p", "seed": 0, "data": "d", "seconds": 1.0}
    text = study_markdown({**head, "design": design, "rows": [row]})
    assert f"{shown} (paper)" in text and left_out not in text
    assert ("## Per class: pixel_accuracy" in text) == (published == "pixel_accuracy")


def test_from_its_command_line(contradicting, tmp_path, monkeypatch, rows_of):
    """A part of it that needs no training: every row's settings are checked, and groups stay on one side."""
    out = tmp_path / "run"
    line = ["oral.py", "--data", str(contradicting), "--out", str(out), "--image-size", "32"]
    monkeypatch.setattr("sys.argv", [*line, "--stage", "segmentation", "--cells", "all_foreground"])
    assert runpy.run_path(str(SCRIPT))["run"]() == 0
    metrics = read_json(out / "metrics.json")
    assert (metrics["experiment"], metrics["preset"], metrics["cells"]) == ("oral_segmentation", "quick", 25)
    (row,) = metrics["rows"]
    assert len(row["metrics"]["pixel_specificity"]["values"]) == 5
    assert {"pixel_accuracy", "pixel_recall"} <= row["per_class"]["benign"].keys()
    group_of = {Path(row["image"]).stem: row["group"] for row in rows_of(contradicting / "labels.csv")}
    for split in read_json(out / "splits.json"):
        groups = {part: {group_of[case] for case in split[part]} for part in ("train", "val", "test")}
        assert not groups["test"] & (groups["train"] | groups["val"])


def test_data_without_masks_is_refused(copied, monkeypatch, tmp_path, rows_of, write_rows):
    rows = rows_of(copied / "labels.csv")
    for row in rows:
        (copied / row["mask"]).unlink()
    write_rows(copied / "labels.csv", [{**row, "mask": ""} for row in rows])
    monkeypatch.setattr("sys.argv", ["oral.py", "--data", str(copied), "--out", str(tmp_path / "run")])
    with pytest.raises(ConfigError, match="has no masks"):
        runpy.run_path(str(SCRIPT))["run"]()


def test_a_stage_that_there_is_not(phantoms, monkeypatch):
    monkeypatch.setattr("sys.argv", ["oral.py", "--data", str(phantoms), "--stage", "dreaming"])
    with pytest.raises(UserError, match="one of segmentation, search, comparison, convergence, received 'dreaming'"):
        runpy.run_path(str(SCRIPT))["run"]()


class TestClassifierRows:
    @pytest.fixture
    def parsed(self, monkeypatch):
        """``parsed(words)``: the script's names, and what its command line says."""

        def parse(*words):
            script = runpy.run_path(str(SCRIPT))
            options = {"options": script["OPTIONS"], "stages": True}
            return script, parse_experiment(ORAL_PRESETS, "", ["--data", "d", *words], **options)

        return parse

    def test_table_1_of_the_paper(self, parsed):
        words = ("--stage", "comparison", "--preset", "paper", "--squeezenet-weights", "s.h5")
        script, experiment = parsed(*words)
        rows = {row.name: row for row in script["classifier_rows"](experiment)}
        assert len(rows) == 16
        assert rows["vit_b16_centiou"].changes == {
            "backbone": "vit_b16",
            "learning_rate": 1.67e-6,
            "cross_entropy_share": 0.6,
        }
        assert rows["convnext_small_soft_mask"].paper == {"accuracy": 0.8452}
        assert rows["swin_s_plain"].changes["learning_rate"] == 5.28e-7
        squeezenet = rows["squeezenet_1_0_hard_mask"].config(experiment.config)
        assert (squeezenet.head, squeezenet.dropout, squeezenet.weights) == ("convolution", 0.5, "s.h5")
        assert (squeezenet.epochs, squeezenet.repeats, squeezenet.patience) == (700, 20, 20)
        with pytest.raises(ConfigError, match="give `--squeezenet-weights FILE`"):
            script["classifier_rows"](parsed(*words[:4])[1])

    def test_what_the_paper_lacks(self, parsed):
        words = ("--stage", "comparison", "--rows", "all", "--networks", "small_cnn", "--weights-dir", "w")
        script, experiment = parsed(*words)
        rows = {row.name.removeprefix("small_cnn_"): row for row in script["classifier_rows"](experiment)}
        assert {row.approach for row in rows.values() if APPROACHES[row.approach].control} == {
            name
            for name, approach in APPROACHES.items()
            if approach.control and not (approach.fusion or approach.symmetry)
        }
        assert rows["centiou_published"].changes["saliency_gradient"] == "none"
        assert [name for name, row in rows.items() if row.changes.get("background_swap")] == [
            "plain_swap",
            "hard_mask_swap",
            "centiou_swap",
        ]
        assert rows["plain"].config(experiment.config).weights_dir is None, "there are no weights of it"

    def test_table_3_of_the_paper(self, parsed):
        script, experiment = parsed("--stage", "convergence")
        rows = {row.name: row for row in script["convergence_rows"](experiment)}
        assert list(rows)[:2] == ["squeezenet_1_1_plain", "squeezenet_1_1_centiou"]
        assert rows["squeezenet_1_1_centiou"].paper == {
            "epochs": 214,
            "seconds_per_epoch": 102,
            "train_seconds": 21900,
        }
        assert rows["mobilenet_v2_plain"].paper is None
        config = rows["mobilenet_v2_plain"].config(experiment.config)
        assert (config.learning_rate_schedule, config.segmenter, config.repeats) == ("constant", "none", 3)


def test_the_best_of_a_search_is_what_the_comparison_takes(phantoms, tmp_path, monkeypatch):
    """From the command line, on pictures of a few pixels: hard_mask finds the segmenter that soft_mask takes too."""
    found, compared = tmp_path / "search", tmp_path / "comparison"
    line = ["oral.py", "--data", str(phantoms), "--image-size", "32", "--networks", "small_cnn"]
    line += ["--segmenter-epochs", "1", "--segmenter-width", "8", "--segmenter-depth", "2", "--epochs", "1"]
    monkeypatch.setattr("sys.argv", [*line, "--stage", "search", "--trials", "2", "--out", str(found)])
    assert runpy.run_path(str(SCRIPT))["run"]() == 0
    best = {name: read_json(found / f"small_cnn_{name}" / "best.json") for name in ("plain", "soft_mask", "centiou")}
    assert best["soft_mask"]["segmenter_file"] == str(found / "small_cnn_hard_mask" / "models" / "segmenter.keras")
    assert all(1e-4 <= values["learning_rate"] <= 3e-3 for values in best.values())
    assert best["centiou"]["cross_entropy_share"] in np.round(np.arange(0.4, 0.91, 0.05), 2)

    line += ["--stage", "comparison", "--cross-validation", "3", "--folds", "0", "--rows", "all"]
    monkeypatch.setattr("sys.argv", [*line, "--searched", str(tmp_path), "--out", str(compared)])
    with pytest.raises(ConfigError, match="small_cnn_plain/best.json does not exist; run `--stage search`"):
        runpy.run_path(str(SCRIPT))["run"]()
    assert not compared.exists()
    line += ["--searched", str(found), "--out", str(compared), "--cells", "small_cnn_plain", "small_cnn_oracle"]
    monkeypatch.setattr("sys.argv", line)
    assert runpy.run_path(str(SCRIPT))["run"]() == 0
    metrics = read_json(compared / "metrics.json")
    rows = {row["name"]: row for row in metrics["rows"]}
    assert metrics["cells"] == 3 * 13 and not metrics["complete"]
    assert set(rows) == {"segmenter", "small_cnn_plain", "small_cnn_oracle"}
    assert rows["small_cnn_plain"]["settings"]["learning_rate"] == best["plain"]["learning_rate"]
    masked = read_json(found / "small_cnn_hard_mask" / "best.json")
    assert rows["small_cnn_oracle"]["settings"]["learning_rate"] == masked["learning_rate"]
    assert "recall of" in (compared / "table.md").read_text()
