"""The oral experiment: its rows, its table, and data whose labels contradict each other."""

from __future__ import annotations

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tfseg.errors import ConfigError, DataError
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


@pytest.mark.parametrize("preset", list(ORAL_PRESETS))
def test_the_rows_can_be_built(preset):
    rows = {row.name: row for row in runpy.run_path(str(SCRIPT))["segmentation_rows"]()}
    assert list(rows) == ["all_foreground", "random_mask", "fcn", "deeplab", "unet"]
    named = {name: row.config(replace(ORAL_PRESETS[preset], data="d")) for name, row in rows.items()}
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


def test_a_stage_that_there_is_not(phantoms, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["oral.py", "--data", str(phantoms), "--stage", "search"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(SCRIPT))["run"]()
    assert caught.value.code == 2 and "--stage" in capsys.readouterr().err
