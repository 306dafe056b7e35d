"""Mask scores by hand, against scikit-learn and scikit-image's Hausdorff distance, and through mask files."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.data.cases import Cases, MaskClasses
from tfseg.evaluation.segmentation import (
    count_pixels,
    mask_scores,
    mean_scores,
    restored_maps,
    score_cases,
    scores_of_counts,
    surface_scores,
)

FULL, EMPTY = np.ones((4, 4), bool), np.zeros((4, 4), bool)


def block(rows, columns, shape=(4, 4)):
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def test_values_worked_out_by_hand():
    scores = mask_scores(block(slice(0, 2), slice(0, 4)), block(slice(1, 4), slice(0, 2)) | block([1], [2, 3]))
    # Predicted: rows 1…3 × columns 0…1, and two more of row 1: 8 pixels, 4 right.
    assert scores == pytest.approx(
        {
            "dice": 8 / 16,
            "iou": 4 / 12,
            "pixel_accuracy": 8 / 16,
            "pixel_error": 8 / 16,
            "pixel_precision": 4 / 8,
            "pixel_recall": 4 / 8,
            "pixel_specificity": 4 / 8,
        }
    )
    scores = mask_scores(block([0], slice(0, 4)), block([0], [0]))
    assert scores["dice"] == pytest.approx(2 / 5) and scores["iou"] == pytest.approx(1 / 4)
    assert scores["pixel_precision"] == 1 and scores["pixel_recall"] == 0.25 and scores["pixel_specificity"] == 1
    assert scores["pixel_accuracy"] == pytest.approx(13 / 16)


def test_agrees_with_scikit_learn():
    from sklearn import metrics

    generator = np.random.default_rng(0)
    true, predicted = generator.random((2, 9, 13)) > 0.6
    scores = mask_scores(true, predicted)
    flat = (true.ravel(), predicted.ravel())
    assert scores["dice"] == pytest.approx(metrics.f1_score(*flat))
    assert scores["iou"] == pytest.approx(metrics.jaccard_score(*flat))
    assert scores["pixel_precision"] == pytest.approx(metrics.precision_score(*flat))
    assert scores["pixel_specificity"] == pytest.approx(metrics.recall_score(*flat, pos_label=0))


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        # dice, iou, accuracy, error, precision, recall, specificity
        (EMPTY, EMPTY, [1, 1, 1, 0, 1, 1, 1]),
        (FULL, FULL, [1, 1, 1, 0, 1, 1, 1]),
        (EMPTY, FULL, [0, 0, 0, 1, 0, 0, 0]),
        (FULL, EMPTY, [0, 0, 0, 1, 0, 0, 0]),
        (block([0], [0]), EMPTY, [0, 0, 15 / 16, 1 / 16, 0, 0, 1]),
        (EMPTY, block([0], [0]), [0, 0, 15 / 16, 1 / 16, 0, 0, 15 / 16]),
        (FULL, ~block([0], [0]), [30 / 31, 15 / 16, 15 / 16, 1 / 16, 1, 15 / 16, 0]),
    ],
)
def test_empty_and_full_masks(true, predicted, expected):
    assert list(mask_scores(true, predicted).values()) == pytest.approx(expected)


def test_ignored_pixels_count_nowhere():
    valid = ~block([0], slice(0, 4))
    scores = mask_scores(block([0, 1], [0, 0]), block([0, 0, 1], [1, 2, 0]), valid)
    assert scores["dice"] == 1 and scores["pixel_accuracy"] == 1
    assert all(np.isnan(value) for value in mask_scores(FULL, FULL, EMPTY).values())


def test_probabilities_are_refused_as_masks():
    with pytest.raises(ValueError, match="`predicted` must be boolean"):
        mask_scores(FULL, np.full((4, 4), 0.7))
    with pytest.raises(ValueError, match="must both be"):
        mask_scores(FULL, np.ones((4, 5), bool))


def test_surface_distances_by_hand():
    shape = (10, 10)
    one, other = block([2], [2], shape), block([2], [7], shape)
    assert surface_scores(one, other) == {"hausdorff95": 5.0, "surface_distance": 5.0}
    # A column of ten pixels against the same, two further: every pixel is 2 away.
    scores = surface_scores(block(slice(None), [3], shape), block(slice(None), [5], shape))
    assert scores == {"hausdorff95": 2.0, "surface_distance": 2.0}
    # Two pixels, 0 and 3 away, against one that is 0 away.
    scores = surface_scores(block([4, 4], [1, 4], shape), block([4], [1], shape))
    assert scores["surface_distance"] == pytest.approx(1.0)
    assert scores["hausdorff95"] == pytest.approx(0.95 * 3)
    assert surface_scores(block(slice(2, 7), slice(2, 7), shape), block(slice(2, 7), slice(2, 7), shape)) == {
        "hausdorff95": 0.0,
        "surface_distance": 0.0,
    }


def test_surface_distance_agrees_with_brute_force():
    from scipy.spatial.distance import cdist

    generator = np.random.default_rng(1)
    masks = [np.kron(generator.random((5, 6)) > 0.5, np.ones((4, 4))).astype(bool) for _ in range(2)]
    outlines = []
    for mask in masks:
        rim = np.pad(mask, 1)
        inside = rim[:-2, 1:-1] & rim[2:, 1:-1] & rim[1:-1, :-2] & rim[1:-1, 2:]
        outlines.append(np.argwhere(mask & ~inside))
    distances = cdist(*outlines)
    there, back = distances.min(axis=1), distances.min(axis=0)
    scores = surface_scores(*masks)
    assert scores["surface_distance"] == pytest.approx(np.mean([*there, *back]))
    assert scores["hausdorff95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))


def test_surface_distance_of_empty_masks():
    assert surface_scores(EMPTY, EMPTY) == {"hausdorff95": 0.0, "surface_distance": 0.0}
    assert surface_scores(EMPTY, FULL)["hausdorff95"] == pytest.approx(np.sqrt(32))


@pytest.fixture
def make_cases(tmp_path):
    def make(masks, mask_classes, labels=None):
        paths = []
        for index, mask in enumerate(masks):
            path = tmp_path / f"{index}.png"
            if mask is not None:
                Image.fromarray(mask.astype(np.uint8)).save(path)
            paths.append(None if mask is None else str(path))
        ids = [f"case{index}" for index in range(len(masks))]
        labels = labels or ["a"] * len(masks)
        table = pd.DataFrame({"id": ids, "image": ids, "mask": paths, "label": labels, "group": ids})
        return Cases(table, tmp_path, mask_classes=mask_classes)

    return make


def test_cases_are_scored_at_the_original_resolution(make_cases):
    mask = np.zeros((12, 24))
    mask[:, :12] = 255
    cases = make_cases([None, mask], MaskClasses())
    probability = np.zeros((2, 6, 6), np.float32)
    probability[1, :, :3] = 1
    scores = score_cases(cases, probability, surfaces=True)
    assert scores["id"].tolist() == ["case1"]
    assert scores["dice"].tolist() == [1.0] and scores["hausdorff95"].tolist() == [0.0]
    half = score_cases(cases, probability * 0.4)
    assert half["pixel_recall"].tolist() == [0.0] and half["pixel_accuracy"].tolist() == [0.5]
    assert score_cases(cases, probability * 0.4, threshold=0.2)["dice"].tolist() == [1.0]


def test_padding_is_cut_off_before_scoring(make_cases):
    mask = np.zeros((12, 24))
    mask[:6] = 255
    cases = make_cases([mask], MaskClasses())
    probability = np.ones((1, 8, 8), np.float32)
    probability[:, 4:6] = 0
    # In the 8×8 square the image fills rows 2…5; the ones around it are padding.
    assert score_cases(cases, probability, resize="pad")["iou"].tolist() == [1.0]
    assert score_cases(cases, probability, resize="stretch")["iou"].tolist() != [1.0]


def test_union_of_lesion_classes_without_ignored_pixels(make_cases):
    mask = np.array([[0, 1, 2, 255], [0, 1, 2, 255]])
    cases = make_cases([mask], MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), 255))
    probability = np.array([[[0, 1, 1, 1], [0, 1, 1, 0]]], np.float32)
    # Stretched 2×4 is the mask's own size.
    assert score_cases(cases, probability)["dice"].tolist() == [1.0]
    nucleus = make_cases([mask], MaskClasses(("background", "cytoplasm", "nucleus"), ("nucleus",), 255))
    assert score_cases(nucleus, probability)["iou"].tolist() == [0.5]


def test_the_mean_over_labels_gives_each_label_the_same_weight(make_cases):
    full = np.full((2, 2), 255)
    cases = make_cases([full, full, full], MaskClasses(), ["a", "a", "b"])
    scores = score_cases(cases, np.stack([np.ones((2, 2)), np.ones((2, 2)), np.zeros((2, 2))]))
    assert mean_scores(scores)["iou"] == pytest.approx(2 / 3)
    assert mean_scores(scores, over_labels=True)["iou"] == pytest.approx(1 / 2)


def test_cases_without_any_mask_give_an_empty_table(make_cases):
    scores = score_cases(make_cases([None], MaskClasses()), np.zeros((1, 2, 2)))
    assert len(scores) == 0 and "dice" in scores and "hausdorff95" not in scores


def test_misuse_is_refused(make_cases):
    cases = make_cases([None], MaskClasses())
    with pytest.raises(ValueError, match="one map per case"):
        score_cases(cases, np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="`resize`"):
        score_cases(cases, np.zeros((1, 2, 2)), resize="crop")


@pytest.mark.parametrize("size", [(31, 47), (9, 6), (200, 64)])
def test_maps_are_restored_as_pillow_would(make_cases, size):
    cases = make_cases([None, np.zeros(size)], MaskClasses())
    values = np.random.default_rng(2).random((2, 32, 32)).astype(np.float32)
    ((case, classes, restored),) = restored_maps(cases, values[..., None])
    assert case["id"] == "case1" and classes.shape == size
    expected = Image.fromarray(values[1]).resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(restored[..., 0], expected, atol=1e-5)


def test_pixels_are_counted_whole_and_images_pool():
    counts = count_pixels(block([0], slice(0, 4)), block([0, 1], [0, 0]), ~block([0], [3]))
    assert counts.tolist() == [1, 1, 2, 11] and counts.dtype == np.int64
    assert scores_of_counts(counts + [0, 0, 0, 2**40])["pixel_error"] == pytest.approx(3 / (15 + 2**40))
    scores = scores_of_counts(counts + count_pixels(EMPTY, EMPTY))
    assert scores["dice"] == pytest.approx(2 / 5) and scores["pixel_accuracy"] == pytest.approx(28 / 31)


def test_threshold_and_clean_up_are_options(make_cases):
    mask = np.zeros((6, 8))
    mask[1:5, 1:5] = 255
    cases = make_cases([mask], MaskClasses())
    probability = np.full((1, 6, 8), 0.1, np.float32)
    probability[0, 1:5, 1:5] = 0.4
    probability[0, 2, 2] = 0.1
    probability[0, 5, 7] = 0.4
    # Everything is below one half; Otsu finds the two groups. One hole and one speck are wrong.
    assert score_cases(cases, probability)["dice"].tolist() == [0.0]
    assert score_cases(cases, probability, "otsu")["dice"].tolist() == [30 / 32]
    assert score_cases(cases, probability, 0.3, postprocessing=("largest_component",))["dice"].tolist() == [30 / 31]
    cleaned = score_cases(cases, probability, "otsu", postprocessing=("largest_component", "fill_holes"))
    assert cleaned["dice"].tolist() == [1.0]
    for options in ({"threshold": "mean"}, {"threshold": 1.5}, {"postprocessing": ("erode",)}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
            score_cases(cases, probability, **options)


def test_true_masks_of_real_data_score_one():
    root = Path(os.environ.get("TFSEG_DATA", "")) / "herlev"
    if not (root / "labels.csv").is_file():
        pytest.skip("TFSEG_DATA names no folder with herlev")
    table = pd.read_csv(root / "labels.csv").iloc[::120].reset_index(drop=True)
    table = table.assign(id=table["image"], group=table["image"], mask=[str(root / m) for m in table["mask"]])
    cases = Cases(
        table,
        root,
        mask_classes=MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), 255),
    )
    maps = []
    for path in table["mask"]:
        values = np.asarray(Image.open(path))
        lesion = Image.fromarray(np.isin(values, (1, 2)).astype(np.float32))
        maps.append(np.asarray(lesion.resize((512, 512), Image.Resampling.BILINEAR)))
    scores = score_cases(cases, np.stack(maps))
    assert len(scores) == len(table) and scores["dice"].min() > 0.95
