"""Rows of a study that differ in flips and post-processing alone: one model, and scores as computed by hand from it."""

from __future__ import annotations

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from tfseg.config import ComparisonConfig
from tfseg.data.batches import load_arrays
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError
from tfseg.evaluation.segmentation import score_cases
from tfseg.jobs.evaluate import evaluate_model
from tfseg.jobs.study import cells as study_cells
from tfseg.jobs.study.job import run_study
from tfseg.jobs.study.rows import StudyRow, check_models
from tfseg.models.classifier import segmentation_graph
from tfseg.run import Run, read_json
from tfseg.session import Session

CLEANED = {"segmenter_flips": "both", "segmenter_postprocessing": ("largest_component",)}
ROWS = (
    StudyRow("dice", {"segmenter_loss": "dice"}),
    StudyRow("everything", baseline="foreground"),
    StudyRow("flipped", {"segmenter_loss": "dice", "segmenter_flips": "both"}, model_of="dice"),
    StudyRow("cleaned", {"segmenter_loss": "dice", **CLEANED}, model_of="dice"),
)


def cell(run: Run, row: str) -> dict:
    return read_json(run.path("cells", f"{row}-fold0.json"))


@pytest.fixture(scope="module")
def studied(phantoms, tiny, tmp_path_factory) -> Run:
    """The last row was asked for first. Not to be changed."""
    config = tiny(phantoms, segmenter_epochs=4, augmentation="none")
    folder, trained, train = tmp_path_factory.mktemp("studies") / "run", [], study_cells.train_segmenter

    def counted(config, *arguments):
        trained.append(config.segmenter_loss)
        return train(config, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_cells, "train_segmenter", counted)
        first = run_study(config, ROWS, folder, session=Session(cells=("cleaned",)), say=lambda line: None)
        assert [path.name for path in sorted(first.path("cells").glob("*.json"))] == [
            "cleaned-fold0.json",
            "dice-fold0.json",
        ], "and the row that it needs"
        run = run_study(config, ROWS, folder, say=lambda line: None)
    assert run.finished and trained == ["dice"]
    return run


@pytest.fixture(scope="module")
def maps(studied, phantoms) -> dict[str, np.ndarray]:
    """The test part's maps from the stored model: those of the images, and the mean over the mirror images."""
    cases = load_cases(phantoms)
    test = cases.table["id"].isin(cell(studied, "dice")["ids"]).to_numpy().nonzero()[0]
    model = keras.saving.load_model(studied.path("models", "dice", "model.keras"), compile=False)
    images = load_arrays(cases.subset(test), 32).images / np.float32(255)

    def predict(values):
        return model.predict(values, verbose=0)["mask"][..., 0]

    sideways, upside_down = predict(images[:, :, ::-1])[:, :, ::-1], predict(images[:, ::-1])[:, ::-1]
    turned = predict(images[:, ::-1, ::-1])[:, ::-1, ::-1]
    plain = predict(images)
    return {"plain": plain, "mean": (plain + sideways + upside_down + turned) / 4, "test": test}


def test_the_scores_are_those_of_the_stored_model(studied, phantoms, maps):
    cases = load_cases(phantoms).subset(maps["test"])
    for row, name in (("dice", "plain"), ("flipped", "mean")):
        table = score_cases(cases, maps[name]).set_index("id")
        found = cell(studied, row)
        for score in ("iou", "dice", "pixel_error"):
            assert found["per_case"][score] == pytest.approx(table.loc[found["ids"], score].tolist(), abs=1e-6)
    assert np.abs(maps["mean"] - maps["plain"]).max() > 0.02
    stored = np.load(studied.path("outputs", "flipped-fold0.npz"))["test"]
    np.testing.assert_allclose(stored, 255 * maps["mean"], atol=0.51)


def test_masks_are_cleaned_at_every_threshold(studied, phantoms, maps):
    cases = load_cases(phantoms).subset(maps["test"])

    def mean_iou(threshold: float) -> float:
        cleaned = np.zeros(maps["mean"].shape, np.float32)
        for number, values in enumerate(maps["mean"]):
            found = (values >= threshold).astype(np.uint8)
            _, parts, facts, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
            if found.any():
                cleaned[number] = parts == 1 + facts[1:, cv2.CC_STAT_AREA].argmax()
        return score_cases(cases, cleaned)["iou"].mean()

    found = cell(studied, "cleaned")
    assert np.mean(found["per_case"]["iou"]) == pytest.approx(mean_iou(0.5))
    curve = found["curves"]["test"]
    expected = [mean_iou(np.float32(threshold)) for threshold in curve["threshold"]]
    assert curve["iou"] == pytest.approx(expected)
    assert np.mean(found["per_case"]["iou_chosen"]) == pytest.approx(mean_iou(found["extra"]["threshold_chosen"]))
    assert curve["iou"] != cell(studied, "flipped")["curves"]["test"]["iou"]


def test_the_validation_score_is_that_of_the_chosen_epoch(studied):
    history = pd.read_csv(studied.path("history", "dice-fold0.csv"))
    assert cell(studied, "dice")["validation"]["iou"] == pytest.approx(history["val_iou"].max(), abs=1e-5)
    scores = {cell(studied, row)["validation"]["iou"] for row in ("dice", "flipped", "cleaned")}
    assert len(scores) == 3, "each row is chosen by its own masks"


def test_nothing_is_trained_or_stored_twice(studied):
    rows = {row["name"]: row for row in read_json(studied.path("metrics.json"))["rows"]}
    assert list(rows) == [row.name for row in ROWS]
    for name in ("flipped", "cleaned"):
        metrics = rows[name]["metrics"]
        assert [metrics[fact]["mean"] for fact in ("epochs", "train_seconds", "seconds_per_epoch")] == [0, 0, 0]
        assert metrics["parameters"] == rows["dice"]["metrics"]["parameters"]
        assert rows[name]["settings"]["model_of"] == "dice" and rows[name]["settings"]["segmenter_flips"] == "both"
        row_model, trained = (studied.path("models", row, "model.keras") for row in (name, "dice"))
        assert row_model.read_bytes() == trained.read_bytes(), "evaluate and export find it"
    assert set(pd.read_csv(studied.path("history.csv"))["row"]) == {"dice"}
    assert studied.path("figures", "segmentation_cleaned.png").is_file()
    assert studied.config["study"]["rows"]["cleaned"]["model_of"] == "dice"


def test_folds_keep_one_model_each(phantoms, tiny, tmp_path, monkeypatch):
    def untrained(config, arrays, split, sitting):
        image = keras.Input((32, 32, 3))
        model = keras.Model(image, keras.layers.Conv2D(1, 3, padding="same")(image))
        history = pd.DataFrame({"epoch": [1], "seconds": [0.1], "val_loss": [0.5], "val_iou": [0.5]})
        return segmentation_graph(model, arrays.mask_classes, config.resize), history, ""

    monkeypatch.setattr(study_cells, "train_segmenter", untrained)
    config = tiny(phantoms, cross_validation=2)
    run = run_study(config, (ROWS[0], ROWS[2]), tmp_path / "run", say=lambda line: None)
    files = sorted(path.relative_to(run.path("models")).as_posix() for path in run.path("models").rglob("*.keras"))
    assert files == [*(f"dice/{name}.keras" for name in ("fold0", "fold1", "model")), "flipped/model.keras"]
    scores = [read_json(run.path("cells", f"flipped-fold{fold}.json"))["validation"]["iou"] for fold in (0, 1)]
    best = run.path("models", "dice", f"fold{int(np.argmax(scores))}.keras")
    assert run.path("models", "flipped", "model.keras").read_bytes() == best.read_bytes()


def test_a_row_is_evaluated_as_it_was_scored_unless_told_otherwise(studied, phantoms, tmp_path):
    def iou(out: str, **options) -> float:
        run = evaluate_model(
            studied.folder, phantoms, tmp_path / out, row="cleaned", part="test", say=lambda line: None, **options
        )
        (row,) = read_json(run.path("metrics.json"))["rows"]
        return row["metrics"]["iou"]["mean"]

    rows = {name: np.mean(cell(studied, name)["per_case"]["iou"]) for name in ("dice", "flipped", "cleaned")}
    assert len(set(rows.values())) == 3
    assert iou("own") == pytest.approx(rows["cleaned"], abs=1e-5)
    assert iou("flips", postprocessing=()) == pytest.approx(rows["flipped"], abs=1e-5)
    assert iou("plain", flips="none", postprocessing=()) == pytest.approx(rows["dice"], abs=1e-5)


BASE = ComparisonConfig(data="d")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((StudyRow("b", model_of="a"), StudyRow("a")), r"row b: `model_of` must name an earlier row .* out of \[\]"),
        ((StudyRow("a"), StudyRow("b", model_of="c")), r"out of \['a'\], received 'c'"),
        ((StudyRow("a"), StudyRow("b", model_of="b")), r"out of \['a'\], received 'b'"),
        ((StudyRow("a", baseline="random"), StudyRow("b", model_of="a")), r"out of \[\], received 'a'"),
        ((StudyRow("a"), StudyRow("b", model_of="a"), StudyRow("c", model_of="b")), r"out of \['a'\], received 'b'"),
        (
            (StudyRow("a", {"seed": 1}), StudyRow("b", {"image_size": 64, **CLEANED}, model_of="a")),
            "row b: the model of a needs the same image_size, seed as there",
        ),
        ((StudyRow("a"), StudyRow("b", {}, ("dropout=0.5",), model_of="a")), "the same segmenter_options"),
    ],
)
def test_a_model_that_a_row_can_not_have(rows, message):
    with pytest.raises(ConfigError, match=message):
        check_models(rows, BASE)


def test_models_that_rows_can_have(phantoms, tiny, tmp_path):
    check_models((*ROWS, StudyRow("same", {"segmenter_loss": "dice"}, model_of="dice")), BASE)
    with pytest.raises(ConfigError, match="must name an earlier row"):
        run_study(tiny(phantoms), ROWS[1:], tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run").exists()
    for options in ({"baseline": "random"}, {"paper_epochs": ((0.3, 0.5),)}):
        with pytest.raises(ConfigError, match="with `model_of` there is neither"):
            StudyRow("b", model_of="a", **options)
    with pytest.raises(ConfigError, match="`segmenter_flips` must be one of none, horizontal"):
        StudyRow("b", {"segmenter_flips": "diagonal"}).config(BASE)
