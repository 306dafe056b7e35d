"""A study of segmenters: what its folder holds, that its numbers agree, and that it goes on where it stopped."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from tfseg.data.batches import load_arrays
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError, RunError
from tfseg.export.predictor import load_predictor
from tfseg.jobs.export import parity_images, trained_model
from tfseg.jobs.study import cells as study_cells
from tfseg.jobs.study.job import describe_study, run_study
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.models.segmenters import segmenter_options
from tfseg.presets import EBHI_PRESETS, MELANOMA_PRESETS
from tfseg.run import Run, read_json
from tfseg.session import Session
from tfseg.training.segmenter import configured_loss
from tfseg.words import named_values

PAPER = {"iou": 0.8612, "dice": 0.9225, "pixel_error": 0.0974}
ROWS = (
    StudyRow("all_foreground", baseline="foreground", paper={"iou": 0.6329}),
    StudyRow("random_mask", baseline="random"),
    StudyRow("plain", paper=PAPER, paper_classes={"benign": {"iou": 0.7}}, paper_epochs=((0.3, 0.5), (0.2, 0.6))),
    StudyRow("balanced", {"balance": "majority"}, ("skip_connections=false",)),
)
DESIGN = StudyDesign("random", 1, over_labels=True, model_size=True, surfaces=True)


def settings(tiny, phantoms, **changes):
    options = {"segmenter_loss": "dice", "segmenter_epochs": 4, "augmentation": "none", "segmenter_slope": 1e-3}
    return tiny(phantoms, **{**options, **changes})


def rows_by_name(run: Run) -> dict[str, dict]:
    return {row["name"]: row for row in read_json(run.path("metrics.json"))["rows"]}


@pytest.fixture(scope="module")
def studied(phantoms, tiny, tmp_path_factory) -> tuple[Run, list[str]]:
    """Stopped before its last cell, then gone on with. Not to be changed."""
    config, folder, lines = settings(tiny, phantoms), tmp_path_factory.mktemp("studies") / "run", []
    options = {"design": DESIGN, "experiment": "ebhi", "command": "python experiments/ebhi.py", "say": lines.append}
    first = run_study(config, ROWS, folder, session=Session(cells=("all_foreground", "plain")), **options)
    metrics = read_json(first.path("metrics.json"))
    assert not first.finished and not metrics["complete"] and len(metrics["missing"]) == 2
    assert [row["name"] for row in metrics["rows"]] == ["all_foreground", "plain"]
    seen, train = [], study_cells.train_segmenter

    def counted(config, *arguments):
        seen.append(config.segmenter_options)
        return train(config, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_cells, "train_segmenter", counted)
        run = run_study(config, ROWS, folder, **options)
    assert seen == [("skip_connections=false",)], "what was stored is not trained again"
    return run, lines


def test_the_folder_holds_every_record(studied):
    run, lines = studied
    (told,) = {line for line in lines if "group_across_parts" in line}
    assert run.finished and "times group_across_parts, because this study splits image by image" in told
    for name in ("config.json", "environment.json", "data.json", "splits.json", "history.csv", "table.md"):
        assert run.path(name).is_file(), name
    headings = [line for line in run.path("table.md").read_text("utf-8").splitlines() if line.startswith("## ")]
    assert len(set(headings)) == len(headings) > 4
    assert {path.name for path in run.path("figures").iterdir()} == {
        "comparison.png",
        "curves.png",
        "thresholds.png",
        *(
            f"{kind}_{read_json(run.path('metrics.json'))['best_row']}.png"
            for kind in ("thresholds", "intensity_bands")
        ),
        "class_balance.png",
        "segmentation_plain.png",
        "segmentation_balanced.png",
    }
    page = run.path("report.html").read_text(encoding="utf-8")
    assert "plain" in page and "model.keras" in describe_study(run)
    history = pd.read_csv(run.path("history.csv"))
    assert list(history["row"].unique()) == ["plain", "balanced"] and "loss_slope" in history
    (compared,) = read_json(run.path("comparison", "comparison.json"))["comparisons"]
    assert compared["kind"] == "segmenters" and compared["metric"] == "iou"
    with np.load(run.path("outputs", "plain-fold0.npz")) as file:
        assert {name: file[name].dtype for name in file.files} == {"test": np.uint8, "validation": np.uint8}


def test_rows_agree_with_their_cells(studied, phantoms):
    run, _ = studied
    rows, cases = rows_by_name(run), load_cases(phantoms)
    label_of = dict(zip(cases.table["id"], cases.table["label"], strict=True))
    for name, row in rows.items():
        cell = read_json(run.path("cells", f"{name}-fold0.json"))
        assert set(cell["ids"]) == set(read_json(run.path("splits.json"))[0]["test"])
        table = pd.DataFrame({"iou": cell["per_case"]["iou"], "label": [label_of[case] for case in cell["ids"]]})
        by_label = table.groupby("label")["iou"].mean()
        assert row["metrics"]["iou"]["mean"] == pytest.approx(by_label.mean()), "the mean over labels, unweighted"
        for label, scores in row["per_class"].items():
            assert scores["iou"] == pytest.approx(by_label[label])
            assert scores["support"] == (table["label"] == label).sum()
        assert {"hausdorff95", "surface_distance", "iou_model_size", "pixel_error_model_size"} <= row["metrics"].keys()
    trained = rows["plain"]["metrics"]
    assert {"iou_chosen", "iou_otsu", "dice_chosen", "threshold_chosen", "parameters", "latency_ms"} <= trained.keys()
    assert trained["iou"]["mean"] > rows["random_mask"]["metrics"]["iou"]["mean"] + 0.1
    assert trained["probability_inside"]["mean"] > trained["probability_outside"]["mean"]
    assert trained["parameters"]["mean"] != rows["balanced"]["metrics"]["parameters"]["mean"]


def test_at_files_of_the_networks_size_both_counts_agree(studied):
    metrics = rows_by_name(studied[0])["plain"]["metrics"]
    assert metrics["iou_model_size"]["mean"] == pytest.approx(metrics["iou"]["mean"])


def test_all_foreground_and_random_score_what_they_must(studied):
    rows = rows_by_name(studied[0])
    everything = rows["all_foreground"]["metrics"]
    assert everything["iou"]["mean"] + everything["pixel_error"]["mean"] == pytest.approx(1.0)
    assert rows["random_mask"]["metrics"]["pixel_error"]["mean"] == pytest.approx(0.5, abs=0.05)
    assert rows["all_foreground"]["settings"] == {"baseline": "foreground"}


def test_the_papers_numbers_stand_beside_ours(studied):
    run, _ = studied
    rows, text = rows_by_name(run), run.path("table.md").read_text(encoding="utf-8")
    assert rows["plain"]["paper"] == {**PAPER, **{f"{name}_model_size": value for name, value in PAPER.items()}}
    assert rows["random_mask"]["paper"] is None
    assert "iou_model_size (paper)" in text and "0.861" in text and "pixel_error (paper)" in text
    assert "(0.700)" in text, "of a class"
    assert rows["plain"]["per_class"]["malignant"]["paper_iou"] is None
    epochs = rows["plain"]["epochs"]
    history = pd.read_csv(run.path("history", "plain-fold0.csv"))
    assert [line["iou"] for line in epochs] == pytest.approx(history["val_iou"].tolist())
    assert [line["paper_loss"] for line in epochs] == [0.3, 0.2, None, None]
    assert "| 2 |" in text and "python experiments/ebhi.py" in text
    assert "image by image" in text and "unweighted mean over the classes" in text


def test_the_models_can_be_used(studied, phantoms):
    run, _ = studied
    best, path = trained_model(run)
    assert best in ("plain", "balanced") and path == run.path("models", best, "model.keras")
    predictor = load_predictor(trained_model(run, "plain")[1])
    cell = read_json(run.path("cells", "plain-fold0.json"))
    cases = load_cases(phantoms)
    position = cases.table["id"].tolist().index(cell["ids"][0])
    with np.load(run.path("outputs", "plain-fold0.npz")) as file:
        stored = file["test"][0]
    arrays = load_arrays(cases.subset([position]), predictor.info.image_size)
    mask = predictor.predict(arrays.images)["mask"][0, ..., 0]
    np.testing.assert_allclose(np.round(255 * mask), stored, atol=1)
    images = parity_images(run, keras.saving.load_model(path, compile=False))
    assert len(images) and images.shape[1] == predictor.info.image_size, "what an export is checked on is found"


def test_a_finished_study_is_not_run_again_and_others_have_another_folder(studied, phantoms, tiny):
    run, _ = studied
    lines: list[str] = []
    run_study(settings(tiny, phantoms), ROWS, run.folder, design=DESIGN, experiment="ebhi", say=lines.append)
    assert any("finished before" in line for line in lines)
    with pytest.raises(RunError, match="belongs to another run"):
        run_study(settings(tiny, phantoms), ROWS[:3], run.folder, design=DESIGN, experiment="ebhi", say=lines.append)


def test_several_folds_and_an_inverted_mask(phantoms, tiny, tmp_path, monkeypatch):
    """Every fold has its model, the best one gives the row's; a mask of the background is told."""
    maps = study_cells.lesion_maps
    monkeypatch.setattr(study_cells, "lesion_maps", lambda *arguments: 1.0 - maps(*arguments))
    config = settings(tiny, phantoms, cross_validation=2, segmenter_epochs=1)
    run = run_study(config, ROWS[2:3], tmp_path / "run", say=lambda line: None)
    names = sorted(path.name for path in run.path("models", "plain").iterdir())
    assert names == ["fold0.keras", "fold1.keras", "model.keras"]
    cells = [read_json(run.path("cells", f"plain-fold{fold}.json")) for fold in (0, 1)]
    best = max((0, 1), key=lambda fold: cells[fold]["validation"]["iou"])
    chosen = run.path("models", "plain", f"fold{best}.keras").read_bytes()
    assert run.path("models", "plain", "model.keras").read_bytes() == chosen
    row = rows_by_name(run)["plain"]
    means = [np.mean(cell["per_case"]["iou"]) for cell in cells]
    assert row["metrics"]["iou"]["values"] == pytest.approx(means), "without over_labels the mean over images"
    assert any("inverted" in note for note in row["notes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmenter": "none"}, "a study trains its segmenters"),
        ({"segmenter_options": ("no_such=1",)}, "no option 'no_such'"),
        ({"distribution": "multiworker"}, "on one machine"),
        ({"cross_validation": 3}, "go without `cross_validation`"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(phantoms, tiny, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_study(settings(tiny, phantoms, **changes), ROWS, tmp_path / "run", design=DESIGN, say=lambda line: None)
    assert not (tmp_path / "run").exists(), "nothing is left that would refuse the corrected settings"


def test_rows_need_names_of_their_own(phantoms, tiny, tmp_path):
    with pytest.raises(ConfigError, match="each with its own name"):
        run_study(settings(tiny, phantoms), (ROWS[0], replace(ROWS[1], name="all_foreground")), tmp_path / "run")


@pytest.mark.parametrize(("name", "count"), [("ebhi", 13), ("melanoma", 7)])
def test_the_experiments_rows_can_be_built(name, count):
    """Of every preset: each row's settings exist, and its loss and network take its options."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / f"{name}.py"))
    for preset, config in {"ebhi": EBHI_PRESETS, "melanoma": MELANOMA_PRESETS}[name].items():
        rows = script["study_rows"](pretrained=True) if name == "ebhi" else script["study_rows"](preset)
        assert len(rows) == count and len({row.name for row in rows}) == count
        for row in rows:
            own = row.config(replace(config, data="d"))
            configured_loss(own)
            known = segmenter_options(own.segmenter)
            assert set(named_values(own.segmenter_options, "segmenter_options")) <= set(known), row.name


@pytest.mark.parametrize(
    ("name", "words", "count"),
    [("ebhi", ("--split", "patient", "--runs", "2"), 22), ("melanoma", ("--cross-validation", "2"), 14)],
)
def test_an_experiment_from_its_command_line(phantoms, tmp_path, monkeypatch, name, words, count):
    """A part of it that needs no training: every row's settings are checked, and the split is drawn."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / f"{name}.py"))
    out = tmp_path / "run"
    line = [f"{name}.py", "--data", str(phantoms), "--out", str(out), "--cells", "all_foreground", *words]
    monkeypatch.setattr("sys.argv", [*line, "--image-size", "32"])
    assert script["run"]() == 0
    metrics = read_json(out / "metrics.json")
    assert (metrics["experiment"], metrics["preset"], metrics["cells"]) == (name, "quick", count)
    assert metrics["command"].startswith(f"python experiments/{name}.py --data ")
    (row,) = metrics["rows"]
    assert len(row["metrics"]["iou"]["values"]) == 2
    cases = load_cases(phantoms)
    group_of = dict(zip(cases.table["id"], cases.table["group"], strict=True))
    for split in read_json(out / "splits.json"):
        groups = {part: {group_of[case] for case in split[part]} for part in ("train", "val", "test")}
        assert not groups["test"] & (groups["train"] | groups["val"])
