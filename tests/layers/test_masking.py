"""Mask layers on images small enough to work out by hand."""

import numpy as np
import pytest
from harness import check_layer

from tfseg.layers.masking import HardMask, LesionAreaMask, LesionProbability, SoftMask


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(0.1, 1.0, (2, 6, 6, 3)).astype(np.float32)


def probability(rows, columns, value=0.9):
    """A map of 0.2 with a rectangle of `value`, and beside it one where nothing is found."""
    maps = np.full((2, 6, 6, 1), 0.05, np.float32)
    maps[0, rows, columns] = value
    return maps


def test_hard_mask_keeps_the_pixels_above_the_threshold_and_nothing_else(image, tmp_path):
    maps = probability(slice(1, 3), slice(2, 5))
    layer = check_layer(lambda: HardMask(0.5), [image, maps], tmp_path)
    masked = layer(image, maps).numpy()
    np.testing.assert_array_equal(masked[0, 1:3, 2:5], image[0, 1:3, 2:5])
    assert masked[0].sum() == pytest.approx(image[0, 1:3, 2:5].sum(), rel=1e-6)


@pytest.mark.parametrize("make", [HardMask, SoftMask, LesionAreaMask])
def test_an_image_without_a_found_lesion_is_kept_whole(make, image):
    masked = make()(image, probability(slice(1, 3), slice(2, 5))).numpy()
    np.testing.assert_array_equal(masked[1], image[1])
    assert not np.array_equal(masked[0], image[0])


def test_soft_mask_multiplies_by_the_probability_without_a_threshold(image, tmp_path):
    maps = probability(slice(0, 6), slice(0, 3), 0.25)
    masked = check_layer(SoftMask, [image, maps], tmp_path)(image, maps).numpy()
    np.testing.assert_allclose(masked[0, :, :3], 0.25 * image[0, :, :3], rtol=1e-6)
    np.testing.assert_allclose(masked[0, :, 3:], 0.05 * image[0, :, 3:], rtol=1e-6)


def test_lesion_area_is_the_grown_box_about_its_centre(tmp_path):
    # Rows 4 to 5 of 12 (centre 5, half height 1) grow by 1.5 to half height 1.5: pixel centres within [3.5, 6.5],
    # that is rows 3 to 6. Columns 2 to 7 (centre 5, half width 3) grow to 4.5: columns 0 to 9.
    image = np.ones((1, 12, 12, 3), np.float32)
    maps = np.zeros((1, 12, 12, 1), np.float32)
    maps[0, 4, 2] = maps[0, 5, 7] = 1.0
    layer = check_layer(lambda: LesionAreaMask(grow=1.5), [image, maps], tmp_path)
    visible = layer(image, maps).numpy()[0, :, :, 0]
    expected = np.zeros((12, 12))
    expected[3:7, 0:10] = 1.0
    np.testing.assert_array_equal(visible, expected)


def test_lesion_area_is_clipped_at_the_border():
    maps = np.zeros((1, 8, 8, 1), np.float32)
    maps[0, 0:6, 0:2] = 1.0
    visible = LesionAreaMask(grow=2.0)(np.ones((1, 8, 8, 3), np.float32), maps).numpy()[0, :, :, 0]
    expected = np.zeros((8, 8))
    expected[:, 0:3] = 1.0
    np.testing.assert_array_equal(visible, expected)


def test_the_lesion_is_the_sum_of_its_channels(tmp_path):
    masks = np.random.default_rng(1).dirichlet((1, 1, 1), (2, 4, 4)).astype(np.float32)
    layer = check_layer(lambda: LesionProbability((1, 2)), [masks], tmp_path)
    np.testing.assert_allclose(layer(masks).numpy()[..., 0], 1.0 - masks[..., 0], rtol=1e-5)
    with pytest.raises(ValueError, match="channels"):
        LesionProbability((3,))(masks)


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: HardMask(0.0), "threshold"),
        (lambda: SoftMask(1.0), "empty_below"),
        (lambda: LesionAreaMask(grow=0.5), "grow"),
        (lambda: LesionProbability(()), "channels"),
    ],
)
def test_options_out_of_range_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()
