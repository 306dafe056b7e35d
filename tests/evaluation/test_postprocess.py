"""Thresholds of a map, clean-up of a mask, and the average over flips."""

from typing import get_args

import numpy as np
import pytest

from tfseg.data.cases import MaskClasses
from tfseg.evaluation.postprocess import (
    FLIPS,
    POSTPROCESSING,
    binarise,
    class_mask,
    fill_holes,
    flip_average,
    largest_component,
    otsu_threshold,
)
from tfseg.names import Flips, Postprocessing


def mask_of(*rows):
    return np.array([[mark == "#" for mark in row] for row in rows])


def test_otsu_by_hand():
    # Two values: any threshold between them parts them; half a level above the lower one is taken.
    assert otsu_threshold(np.array([[0.2, 0.2, 0.6, 0.6]])) == pytest.approx((51 + 0.5) / 255)
    # Pixels 0, 0, 0.2, 1: variance within is 0.0267 of 3 against 0.32 of 2 when 0.2 goes with 1.
    assert 0.2 < otsu_threshold(np.array([[0.0, 0.0], [0.2, 1.0]])) < 1.0


@pytest.mark.parametrize("seed", range(4))
def test_otsu_agrees_with_scikit_image(seed):
    filters = pytest.importorskip("skimage.filters")
    generator = np.random.default_rng(seed)
    values = np.concatenate([generator.beta(2, 8, 700), generator.beta(9, 3, 300)]).reshape(20, 50)
    level = filters.threshold_otsu(np.round(255 * values).astype(np.uint8))
    ours = otsu_threshold(values.astype(np.float32))
    assert ours == pytest.approx((level + 0.5) / 255)
    np.testing.assert_array_equal(binarise(values, "otsu"), np.round(255 * values) > level)


def test_otsu_of_one_value_and_of_what_counts():
    assert otsu_threshold(np.full((3, 3), 0.9)) == 0.5
    values = np.array([[0.1, 0.3, 1.0]])
    assert otsu_threshold(values, np.array([[True, True, False]])) == pytest.approx((26 + 0.5) / 255)
    assert otsu_threshold(values, np.zeros((1, 3), bool)) == 0.5
    # Sums of softmax channels may pass 1 by a rounding error.
    assert 0 < otsu_threshold(np.array([[0.0, 1.0 + 1e-6]])) < 1
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        otsu_threshold(np.array([[0.0, 7.0]]))


def test_the_largest_component_touches_by_corners_too():
    mask = mask_of("##..#", "....#", "##...", "..##.", "....#")
    kept = mask_of(".....", ".....", "##...", "..##.", "....#")
    np.testing.assert_array_equal(largest_component(mask), kept)
    empty = np.zeros((3, 4), bool)
    np.testing.assert_array_equal(largest_component(empty), empty)
    np.testing.assert_array_equal(largest_component(~empty), ~empty)
    # Of equal ones the first.
    np.testing.assert_array_equal(largest_component(mask_of("#.#")), mask_of("#.."))


def test_a_hole_is_what_no_path_leaves():
    # The right one opens to the border; the left one does so only by a corner.
    mask = mask_of("####.###", "#..#.#..", "#.##.###", "##......")
    filled = mask_of("####.###", "####.#..", "####.###", "##......")
    np.testing.assert_array_equal(fill_holes(mask), filled)
    with pytest.raises(ValueError, match="`mask` must be boolean"):
        fill_holes(mask * 1.0)


def test_steps_run_in_their_order():
    probability = np.where(mask_of("###...", "#.#.##", "###.##", "......"), 0.9, 0.2)
    probability[0, 5] = 0.4
    assert binarise(probability).sum() == 12 and binarise(probability, 0.4).sum() == 13
    assert binarise(probability, postprocessing=("fill_holes",)).sum() == 13
    assert binarise(probability, postprocessing=("fill_holes", "largest_component")).sum() == 9
    with pytest.raises(ValueError, match=r"`postprocessing` must hold names out of \['largest_component', 'fill_h"):
        binarise(probability, postprocessing="fill_holes")
    with pytest.raises(ValueError, match=r"`postprocessing` must hold names out of .*, received \('erode',\)"):
        class_mask(np.zeros((2, 2, 3)), CELL, ("erode",))
    with pytest.raises(ValueError, match="`threshold` must lie"):
        binarise(probability, "otso")


def test_flips_are_undone_and_averaged():
    images = np.random.default_rng(0).random((2, 5, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(flip_average(lambda values: values[..., :1], images), images[..., :1], rtol=1e-6)
    # A network that adds what depends on the place: columns and rows counted from the upper left.
    rows, columns = np.mgrid[:5, :7].astype(np.float32)

    def predict(values):
        return values[..., :1] + (10 * rows + columns)[..., None]

    mean = flip_average(predict, images)
    np.testing.assert_allclose(mean, images[..., :1] + 10 * 2 + 3, rtol=1e-5)
    mean = flip_average(predict, images, "horizontal")
    np.testing.assert_allclose(mean, images[..., :1] + (10 * rows + 3)[..., None], rtol=1e-5)
    mean = flip_average(predict, images, "vertical")
    np.testing.assert_allclose(mean, images[..., :1] + (20 + columns)[..., None], rtol=1e-5)
    np.testing.assert_array_equal(flip_average(predict, images, "none"), predict(images))


def shifted_right(images):
    """A network whose map lies a pixel to the right of what it shows."""
    return np.pad(images[:, :, :-1, :1], ((0, 0), (0, 0), (1, 0), (0, 0)))


def test_a_shift_by_hand():
    image = np.array([[0.0, 1.0, 0.0, 0.0]], np.float32)[None, ..., None]
    assert shifted_right(image)[0, 0, :, 0].tolist() == [0, 0, 1, 0]
    assert flip_average(shifted_right, image, "horizontal")[0, 0, :, 0].tolist() == [0.5, 0, 0.5, 0]
    assert flip_average(shifted_right, image, "vertical")[0, 0, :, 0].tolist() == [0, 0, 1, 0]
    assert flip_average(shifted_right, image, "both")[0, 0, :, 0].tolist() == [0.5, 0, 0.5, 0]


@pytest.mark.parametrize(("flips", "axes"), [("horizontal", [2]), ("vertical", [1]), ("both", [1, 2, (1, 2)])])
def test_a_mirrored_image_has_the_mirrored_map(flips, axes):
    images = np.random.default_rng(1).random((2, 6, 6, 3)).astype(np.float32)

    def shifted(values):
        return shifted_right(values) + np.swapaxes(shifted_right(np.swapaxes(values, 1, 2)), 1, 2)

    mean = flip_average(shifted, images, flips)
    assert not np.allclose(mean, shifted(images))
    for axis in axes:
        np.testing.assert_allclose(flip_average(shifted, np.flip(images, axis), flips), np.flip(mean, axis), rtol=1e-5)


def test_probabilities_of_classes_stay_probabilities():
    kernel = np.random.default_rng(3).normal(size=(3, 4))
    rows = np.arange(5.0)[:, None, None]

    def predict(values):
        scores = np.exp(values @ kernel + rows * np.arange(4))
        return scores / scores.sum(-1, keepdims=True)

    mean = flip_average(predict, np.random.default_rng(2).random((2, 5, 5, 3)))
    np.testing.assert_allclose(mean.sum(-1), 1.0, rtol=1e-6)


CELL = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"))


def probabilities_of(*rows):
    """Maps of three classes from (background, cytoplasm, nucleus) in tenths."""
    return np.array([[[int(digit) / 10 for digit in pixel] for pixel in row.split()] for row in rows])


def test_the_most_probable_class_by_hand():
    one = np.array([[[0.5], [0.49], [0.9]]])
    assert class_mask(one, MaskClasses()).tolist() == [[1, 0, 1]]
    assert class_mask(one, MaskClasses(), ("largest_component",)).tolist() == [[1, 0, 0]]
    maps = probabilities_of("235 433 181")
    classes = class_mask(maps, CELL)
    assert classes.tolist() == [[2, 0, 1]] and classes.dtype == np.uint8


def test_the_lesions_classes_are_cleaned_together():
    # A cell whose nucleus touches its cytoplasm, with a hole, and another nucleus elsewhere.
    maps = probabilities_of(
        "181 181 118 811 118",
        "181 532 118 811 811",
        "181 181 118 811 811",
    )
    assert class_mask(maps, CELL).tolist() == [[1, 1, 2, 0, 2], [1, 0, 2, 0, 0], [1, 1, 2, 0, 0]]
    largest = class_mask(maps, CELL, ("largest_component",))
    assert largest.tolist() == [[1, 1, 2, 0, 0], [1, 0, 2, 0, 0], [1, 1, 2, 0, 0]], "the nucleus in the cell stays"
    filled = class_mask(maps, CELL, ("fill_holes",))
    assert filled.tolist() == [[1, 1, 2, 0, 2], [1, 1, 2, 0, 0], [1, 1, 2, 0, 0]], "3 tenths before 2"
    maps[1, 1] = (0.5, 0.2, 0.3)
    assert class_mask(maps, CELL, ("fill_holes",))[1, 1] == 2
    maps[1, 1] = (0.5, 0.3, 0.2)
    both = class_mask(maps, CELL, ("largest_component", "fill_holes"))
    assert both.tolist() == [[1, 1, 2, 0, 0], [1, 1, 2, 0, 0], [1, 1, 2, 0, 0]]


def test_what_is_taken_from_the_lesion_gets_its_class_outside_of_it():
    nucleus = MaskClasses(("background", "cytoplasm", "nucleus"), ("nucleus",))
    maps = probabilities_of("118 118 118 811 145 415")
    assert class_mask(maps, nucleus).tolist() == [[2, 2, 2, 0, 2, 2]]
    assert class_mask(maps, nucleus, ("largest_component",)).tolist() == [[2, 2, 2, 0, 1, 0]]


def test_flips_count_their_predictions_and_keep_whole_numbers():
    seen = []

    def predict(values):
        seen.append(values.dtype)
        return values[..., :1] / 255.0

    for flips, count in {"none": 1, "horizontal": 2, "vertical": 2, "both": 4}.items():
        seen.clear()
        flip_average(predict, np.zeros((1, 4, 4, 3), np.uint8), flips)
        assert seen == [np.uint8] * count
    for wrong in ("diagonal", ()):
        with pytest.raises(ValueError, match="`flips` must be one of"):
            flip_average(predict, np.zeros((1, 4, 4, 3)), wrong)
    with pytest.raises(ValueError, match="`predict` must give"):
        flip_average(lambda values: values[:, 0], np.zeros((1, 4, 4, 3)))


def test_what_can_be_configured_is_what_there_is():
    assert get_args(Flips) == tuple(FLIPS)
    assert get_args(Postprocessing) == tuple(POSTPROCESSING)
