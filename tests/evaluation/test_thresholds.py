"""Sweeps agree with scoring at one threshold, the choice is validation's, histograms count pixels."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.data.cases import Cases, MaskClasses
from tfseg.evaluation.mask_classes import certain_map, class_means, pooled_scores, score_classes
from tfseg.evaluation.segmentation import score_cases
from tfseg.evaluation.thresholds import (
    best_threshold,
    histogram,
    study_thresholds,
    sweep_thresholds,
    threshold_curve,
)


@pytest.fixture
def make_cases(tmp_path):
    def make(masks, mask_classes=None, labels=None, part="part"):
        folder = tmp_path / part
        folder.mkdir()
        paths = []
        for index, mask in enumerate(masks):
            paths.append(None if mask is None else str(folder / f"{index}.png"))
            if mask is not None:
                Image.fromarray(np.asarray(mask, np.uint8)).save(paths[-1])
        ids = [f"{part}{index}" for index in range(len(masks))]
        labels = labels or ["a"] * len(masks)
        table = pd.DataFrame({"id": ids, "image": ids, "mask": paths, "label": labels, "group": ids})
        return Cases(table, folder, mask_classes=mask_classes or MaskClasses())

    return make


def noisy(count=3, seed=0):
    """Masks of 14×10 with ignored pixels, and maps of another size that know something of them."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, 14, 10), np.uint8)
    for mask in masks:
        row, column = generator.integers(0, 6, 2)
        mask[row : row + 6, column : column + 4] = 1
        mask[generator.integers(0, 14, 5), generator.integers(0, 10, 5)] = 255
    maps = np.repeat(np.repeat(masks == 1, 2, 1), 2, 2)[:, :20, :20] * 0.4 + generator.random((count, 20, 20)) * 0.6
    return masks, maps.astype(np.float32)


@pytest.mark.parametrize("postprocessing", [(), ("largest_component",)])
def test_a_sweep_is_scoring_at_every_threshold(make_cases, postprocessing):
    masks, maps = noisy()
    cases = make_cases([*masks, None], MaskClasses(ignore=255), ["a", "a", "b", "b"])
    maps = np.concatenate([maps, maps[:1]])
    levels = (0.0, 0.1, 0.3, 0.5, 0.75, 1.0)
    sweep = sweep_thresholds(cases, maps, levels, postprocessing=postprocessing)
    assert sweep["id"].nunique() == 3 and len(sweep) == 18
    for level in levels:
        part = sweep[sweep["threshold"] == level].drop(columns="threshold").reset_index(drop=True)
        alone = score_cases(cases, maps, level, postprocessing=postprocessing)
        pd.testing.assert_frame_equal(part, alone)
    # Without a threshold everything is lesion.
    assert (sweep[sweep["threshold"] == 0.0]["pixel_recall"] == 1).all()


def test_a_pixel_that_equals_a_threshold_reaches_it(make_cases):
    """0.7 in float32 is less than 0.7: both ways compare in the map's precision."""
    cases = make_cases([[[255, 0, 0, 0]]])
    maps = np.array([[[0.7, 0.1, 0.2, 0.3]]], np.float32)
    sweep = sweep_thresholds(cases, maps, (0.1, 0.3, 0.7))
    assert sweep["iou"].tolist() == pytest.approx([1 / 4, 1 / 2, 1])
    assert score_cases(cases, maps, 0.7)["iou"].tolist() == [1.0]


def test_curves_by_hand_and_the_choice(make_cases):
    cases = make_cases([[[255, 255, 0, 0]], [[255, 0, 0, 0]]], labels=["a", "b"])
    maps = np.array([[[0.35, 0.9, 0.1, 0.0]], [[0.9, 0.5, 0.5, 0.0]]], np.float32)
    curve = threshold_curve(sweep_thresholds(cases, maps, (0.3, 0.4, 0.6)))
    # First image: 2/2, 1/2, 1/2; second: 1/3, 1/3, 1/1.
    assert curve["iou"].tolist() == pytest.approx([2 / 3, 5 / 12, 3 / 4])
    assert curve["threshold"].tolist() == [0.3, 0.4, 0.6]
    assert best_threshold(curve) == 0.6
    # All pixels right: 4 and 2 of 4; 3 and 2; 3 and 4.
    assert curve["pixel_accuracy"].tolist() == pytest.approx([6 / 8, 5 / 8, 7 / 8])
    assert best_threshold(curve[curve["threshold"] < 0.5], "pixel_accuracy") == 0.3


def test_of_equal_thresholds_the_one_next_to_one_half():
    curve = pd.DataFrame({"threshold": [0.1, 0.2, 0.3, 0.9], "iou": [0.8, 0.8, 0.7, 0.8]})
    assert best_threshold(curve) == 0.2
    with pytest.raises(ValueError, match="`score` must be one of"):
        best_threshold(curve, "dice")
    with pytest.raises(ValueError, match="no mask to score"):
        best_threshold(curve.assign(iou=np.nan))


def test_labels_can_weigh_alike(make_cases):
    cases = make_cases([[[255, 0]]] * 3, labels=["a", "a", "b"])
    maps = np.array([[[1, 0]], [[1, 0]], [[0, 0]]], np.float32)
    sweep = sweep_thresholds(cases, maps, (0.5,))
    assert threshold_curve(sweep)["iou"].tolist() == pytest.approx([2 / 3])
    assert threshold_curve(sweep, over_labels=True)["iou"].tolist() == pytest.approx([1 / 2])


def test_the_choice_is_made_on_validation_alone(make_cases):
    mask = [[255, 255, 0, 0]]
    validation = make_cases([mask], part="validation"), np.array([[[0.9, 0.35, 0.2, 0.1]]], np.float32)
    test = make_cases([mask], part="test"), np.array([[[0.9, 0.8, 0.4, 0.4]]], np.float32)
    study = study_thresholds(validation, test, thresholds=(0.15, 0.3, 0.5, 0.6))
    assert study.chosen == 0.3
    assert {name: table["iou"].tolist() for name, table in study.tables.items()} == {
        "fixed": [1.0],
        "chosen": [0.5],
        "otsu": [1.0],
    }
    assert study.tables["chosen"]["id"].tolist() == ["test0"]
    assert study.test["iou"].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert study.validation["iou"].tolist() == pytest.approx([2 / 3, 1.0, 0.5, 0.5])


def test_no_masks_give_an_empty_sweep(make_cases):
    sweep = sweep_thresholds(make_cases([None]), np.zeros((1, 2, 2)))
    assert len(sweep) == 0 and "iou" in sweep
    with pytest.raises(ValueError, match="`score`|no mask"):
        best_threshold(pd.DataFrame({"threshold": [], "iou": []}))


def test_misuse_of_sweeps(make_cases):
    cases = make_cases([None])
    with pytest.raises(ValueError, match="must rise"):
        sweep_thresholds(cases, np.zeros((1, 2, 2)), (0.5, 0.5))
    with pytest.raises(ValueError, match="must rise"):
        sweep_thresholds(cases, np.zeros((1, 2, 2)), ())
    with pytest.raises(ValueError, match="one map per case"):
        sweep_thresholds(cases, np.zeros((2, 2, 2)))


def test_histograms_count_every_pixel():
    counts, edges = histogram([np.array([[0.0, 0.1, 0.5]]), np.array([[0.99, 1.0]])], 4)
    assert counts.tolist() == [2, 0, 1, 2] and edges.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    counts, _ = histogram([np.array([0, 255, 64, 63], np.uint8)], 4)
    assert counts.tolist() == [2, 1, 0, 1] and counts.dtype == np.int64
    # Rounding may leave the range.
    assert histogram([np.array([-1e-7, 1.0 + 1e-7])], 2)[0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="`bins`"):
        histogram([], 0)


CELLS = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), 255)


def test_classes_by_hand(make_cases):
    cases = make_cases([[[0, 1, 2, 255]], [[1, 1, 1, 0]]], CELLS)
    probabilities = np.zeros((2, 1, 4, 3), np.float32)
    # 0, 1, 1 and an ignored 2; then 1, 1, 0, 0.
    for case, values in enumerate([(0, 1, 1, 2), (1, 1, 0, 0)]):
        probabilities[case, 0, range(4), values] = 0.4
    table = score_classes(cases, probabilities, surfaces=True)
    assert len(table) == 6 and table["class"].tolist()[:3] == list(CELLS.names)
    assert table["iou"].tolist() == pytest.approx([1, 1 / 2, 0, 1 / 2, 2 / 3, 1])
    assert table["hausdorff95"].tolist()[3] > 0
    means, pooled = class_means(table), pooled_scores(table)
    assert means["cytoplasm"]["iou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Together: 3 right, one too many, one missed.
    assert pooled["cytoplasm"]["iou"] == pytest.approx(3 / 5) and pooled["nucleus"]["pixel_recall"] == 0.0
    assert pooled["background"]["pixel_precision"] == pytest.approx(2 / 3)


def test_one_channel_scores_background_and_lesion(make_cases):
    cases = make_cases([[[255, 255, 0, 0]], None])
    table = score_classes(cases, np.array([[[[0.5], [0.2], [0.1], [0.0]]]] * 2, np.float32))
    assert table["class"].tolist() == ["background", "lesion"] and table["iou"].tolist() == pytest.approx(
        [2 / 3, 1 / 2]
    )
    assert score_classes(make_cases([None], part="none"), np.zeros((1, 2, 2, 1)))["iou"].tolist() == []
    with pytest.raises(ValueError, match=r"must be \(2, h, w, 1\).*background.*lesion"):
        score_classes(cases, np.zeros((2, 2, 2, 3)))


def test_a_mask_as_a_map():
    classes = np.array([[0, 2], [1, 1]], np.uint8)
    expected = [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]]]
    assert certain_map(classes, CELLS).tolist() == expected and certain_map(classes, CELLS).dtype == np.float32
    # One channel is the lesion's; the background has none.
    assert certain_map(np.array([[0, 1]], np.uint8), MaskClasses()).tolist() == [[[0.0], [1.0]]]


@pytest.mark.parametrize("mask_classes", [CELLS, MaskClasses()], ids=["three", "two"])
def test_a_mask_as_a_map_scores_in_full_against_itself(make_cases, mask_classes):
    classes = np.array([[0, 1, len(mask_classes.names) - 1, 1]], np.uint8)
    file = classes * np.uint8(255 if mask_classes.channels == 1 else 1)
    table = score_classes(
        make_cases([file, file[:, ::-1]], mask_classes), np.stack([certain_map(classes, mask_classes)] * 2)
    )
    same, mirrored = np.split(table["iou"].to_numpy(), 2)
    assert same.tolist() == [1.0] * len(mask_classes.names) and (mirrored < 1.0).any()
