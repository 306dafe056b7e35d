"""Localisation of saliency maps by hand; dilation against SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from tfseg.metrics.localisation import cam_iou, cam_overlap, cam_pointing, dilate, dilation_side

REGION = np.array([[[True, True, False], [True, True, False]]])
SALIENCY = np.array([[[0.1, 0.6, 0.7], [0.2, 0.9, 0.5]]])
NOTHING = np.zeros((1, 2, 3))


def test_values_worked_out_by_hand():
    # Salient at 0.5: four pixels (0.5 itself counts), two of them in the region of four.
    assert cam_iou(SALIENCY, REGION) == pytest.approx([2 / 6])
    assert cam_overlap(SALIENCY, REGION) == pytest.approx([2 / 4])
    assert cam_iou(SALIENCY, REGION, 0.65) == pytest.approx([1 / 5])
    assert cam_overlap(SALIENCY, REGION, 0.65) == pytest.approx([1 / 2])
    assert cam_pointing(SALIENCY, REGION) == [1]
    assert cam_pointing(SALIENCY, ~REGION) == [0]


def test_one_value_per_image():
    saliency = np.concatenate([SALIENCY, NOTHING, SALIENCY])
    region = np.concatenate([REGION, REGION, ~REGION])
    assert cam_iou(saliency, region) == pytest.approx([2 / 6, 0, 2 / 4])
    assert cam_overlap(saliency, region) == pytest.approx([1 / 2, 0, 1 / 2])
    assert cam_pointing(saliency, region) == pytest.approx([1, 0, 0])


def test_tied_maxima_count_by_their_share():
    tied = np.array([[[1.0, 0, 1.0], [1.0, 0, 1.0]]])
    assert cam_pointing(tied, REGION) == pytest.approx([1 / 2])
    assert cam_pointing(np.full((1, 2, 3), 0.3), REGION) == pytest.approx([2 / 3])


def test_all_zero_maps_score_zero_and_empty_regions_nothing():
    for metric in (cam_iou, cam_overlap, cam_pointing):
        assert metric(NOTHING, REGION) == [0]
        assert np.isnan(metric(SALIENCY, np.zeros_like(REGION)))
        assert np.isnan(metric(NOTHING, np.zeros_like(REGION)))


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="must both be"):
        cam_iou(SALIENCY, REGION[0])
    with pytest.raises(ValueError, match="lie in"):
        cam_pointing(SALIENCY * 255, REGION)
    with pytest.raises(ValueError, match="lie in"):
        cam_overlap(SALIENCY * np.nan, REGION)
    with pytest.raises(ValueError, match="`threshold`"):
        cam_iou(SALIENCY, REGION, 0.0)
    with pytest.raises(ValueError, match="`times`"):
        dilate(REGION, -1)


def test_side_of_the_square_is_five_per_cent_rounded_up():
    assert [dilation_side(width) for width in (1, 20, 21, 60, 140, 224, 512)] == [1, 1, 2, 3, 7, 12, 26]


def test_dilation_by_hand():
    mask = np.zeros((5, 60), bool)
    mask[2, 30] = True
    once = dilate(mask)
    assert once.dtype == bool and np.argwhere(once).tolist() == [[r, c] for r in (1, 2, 3) for c in (29, 30, 31)]
    assert dilate(mask, 2).sum() == 25
    assert (dilate(mask, 0) == mask).all()


def test_dilation_agrees_with_scipy():
    masks = np.random.default_rng(0).random((3, 50, 100)) > 0.995
    expected = ndimage.binary_dilation(masks, np.ones((1, 5, 5), bool), iterations=2)
    assert (dilate(masks, 2) == expected).all()


def test_even_squares_reach_one_further_to_the_right_and_down():
    mask = np.zeros((40, 40), bool)
    mask[20, 20] = True
    assert np.argwhere(dilate(mask)).tolist() == [[20, 20], [20, 21], [21, 20], [21, 21]]
