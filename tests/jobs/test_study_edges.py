"""Masks and sizes at the edge of what can be learned: each has a defined result, or is refused by name."""

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tfseg.errors import ConfigError, DataError
from tfseg.jobs.study.job import run_study
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.run import read_json

ROWS = (StudyRow("all_foreground", baseline="foreground"), StudyRow("unet"))
DESIGN = StudyDesign("random", 1)


@pytest.fixture
def study(copied, tiny, tmp_path):
    """``study(value)``: rows by name of a study of masks that have one value everywhere; None leaves them."""

    def run(value=None, rows=ROWS, design=DESIGN, **changes):
        if value is not None:
            for path in (copied / "masks").iterdir():
                size = Image.open(path).size
                Image.fromarray(np.full(size[::-1], value, np.uint8)).save(path)
        config = tiny(copied, **{"segmenter_epochs": 2, "segmenter_loss": "dice_cross_entropy", **changes})
        finished = run_study(config, rows, tmp_path / "run", design=design, say=lambda line: None)
        return {row["name"]: row for row in read_json(finished.path("metrics.json"))["rows"]}

    return run


@pytest.mark.parametrize("loss", ["dice_cross_entropy", "dice_focal"])
def test_all_background(study, loss):
    """Finding nothing where there is nothing is perfect; a lesion anywhere scores nothing."""
    rows = study(0, segmenter_loss=loss, segmenter_epochs=12)
    foreground, trained = rows["all_foreground"]["metrics"], rows["unet"]["metrics"]
    assert foreground["dice"]["mean"] == foreground["iou"]["mean"] == 0.0
    assert trained["dice"]["mean"] == trained["pixel_accuracy"]["mean"] == 1.0
    assert trained["probability_inside"]["mean"] is None


def test_all_lesion(study):
    rows = study(255, segmenter_epochs=12)
    assert rows["all_foreground"]["metrics"]["iou"]["mean"] == 1.0
    assert rows["unet"]["metrics"]["dice"]["mean"] > 0.99


def test_validation_and_test_without_any_lesion(study, copied, rows_of, write_rows):
    """Every score is 1 or 0 there, and of equally good thresholds the one nearest to 0.5 is taken."""
    rows = rows_of(copied / "labels.csv")
    groups = sorted({row["group"] for row in rows})
    part_of = {group: ("train", "val", "test")[number % 3] for number, group in enumerate(groups)}
    for row in rows:
        row["split"] = part_of[row["group"]]
        if row["split"] != "train":
            Image.new("L", Image.open(copied / row["mask"]).size).save(copied / row["mask"])
    write_rows(copied / "labels.csv", rows)
    metrics = study(design=StudyDesign("folds"))["unet"]["metrics"]
    assert metrics["dice"]["mean"] == metrics["iou"]["mean"] == metrics["pixel_precision"]["mean"]
    assert metrics["pixel_specificity"]["mean"] == pytest.approx(metrics["pixel_accuracy"]["mean"])
    assert 0.5 <= metrics["threshold_chosen"]["mean"] <= 0.95


@pytest.mark.parametrize("options", [(), ("norm=none",)])
def test_batches_of_one_image(study, options):
    """Batch norm over the pixels of one image; the deepest map is one pixel, whose deviation is zero."""
    rows = study(image_size=16, segmenter_depth=4, segmenter_batch_size=1, segmenter_options=options)
    assert all(math.isfinite(value["mean"]) for value in rows["unet"]["metrics"].values())


def test_an_image_that_is_smaller_than_the_networks_stride(study, tmp_path):
    with pytest.raises(ConfigError, match=r"depth 4 needs images of at least 16 pixels, received \(8, 8\)"):
        study(image_size=8, segmenter_depth=4)
    assert not (tmp_path / "run").exists()


def test_values_that_are_no_class(study, copied):
    path = sorted((copied / "masks").iterdir())[0]
    values = np.asarray(Image.open(path)).copy()
    values[0, 0] = 77
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=rf"{path.name}.*77"):
        study()


def test_two_classes_of_mask_of_which_one_is_never_there(study, copied):
    """Its channel is learned as absent, and nothing becomes a number that is none."""
    (copied / "dataset.json").write_text(
        '{"mask_classes": ["background", "cell", "nucleus"], "lesion": ["cell", "nucleus"]}'
    )
    for path in (copied / "masks").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8)).save(path)
    rows = study(rows=(replace(ROWS[1], changes={"segmenter_loss": "dice_focal"}),), segmenter_epochs=8)
    assert rows["unet"]["metrics"]["dice"]["mean"] > 0.3
