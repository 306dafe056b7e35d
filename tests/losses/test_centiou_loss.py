"""The soft overlap and CEntIoU by hand."""

import numpy as np
import pytest

from tfseg.losses.centiou import centiou_loss, soft_iou


def grid(values):
    return np.array(values, np.float32).reshape(1, 2, 2, 1)


def test_soft_iou_by_hand():
    saliency, lesion = grid([[1.0, 0.5], [0.2, 0.0]]), grid([[1, 1], [0, 0]])
    # Σ s·m = 1.5; Σ (s + m − s·m) = 1 + 1 + 0.2 + 0 = 2.2.
    iou, has_lesion = soft_iou(saliency, lesion)
    assert float(iou[0]) == pytest.approx(1.5 / 2.2, rel=1e-6)
    assert float(has_lesion[0]) == 1.0
    # Without the upper right pixel: 1 / (1 + 0.2).
    iou, _ = soft_iou(saliency, lesion, grid([[1, 0], [1, 1]]))
    assert float(iou[0]) == pytest.approx(1.0 / 1.2, rel=1e-6)


def test_an_image_without_lesion_leaves_the_overlap_out():
    saliency = np.concatenate([grid([[1.0, 0.5], [0.2, 0.0]])] * 2)
    lesion = np.concatenate([grid([[1, 1], [0, 0]]), grid([[0, 0], [0, 0]])])
    iou, has_lesion = soft_iou(saliency, lesion)
    np.testing.assert_array_equal(has_lesion, [1.0, 0.0])
    loss = centiou_loss(np.array([0.6, 1.0], np.float32), iou, has_lesion, 0.6)
    assert float(loss) == pytest.approx(0.6 * 0.8 - 0.4 * 1.5 / 2.2, rel=1e-5)


def test_a_lesion_may_be_faint_but_must_be_known():
    """Moved masks have values between 0 and 1; a lesion below unknown pixels alone is none."""
    saliency, lesion = (np.concatenate([grid([[value, 0], [0, 0]])] * 2) for value in (0.25, 0.5))
    iou, has_lesion = soft_iou(saliency, lesion, np.concatenate([grid([[1, 1], [1, 1]]), grid([[0, 1], [1, 1]])]))
    # Σ s·m = 0.125; Σ (s + m − s·m) = 0.25 + 0.5 − 0.125 = 0.625.
    np.testing.assert_allclose(iou, [0.125 / 0.625, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(has_lesion, [1.0, 0.0])


def test_an_overlap_counts_only_where_there_is_a_lesion():
    cross_entropy, iou, has_lesion = (np.array(values, np.float32) for values in ([0.6, 1.0], [0.5, 0.9], [1, 0]))
    loss = centiou_loss(cross_entropy, iou, has_lesion, 0.6)
    assert float(loss) == pytest.approx(0.6 * 0.8 - 0.4 * 0.5, rel=1e-6)


def test_a_batch_without_any_lesion_is_plain_cross_entropy():
    loss = centiou_loss(np.array([0.6, 1.0], np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32), 0.6)
    assert float(loss) == pytest.approx(0.6 * 0.8, rel=1e-6)


def test_all_zero_map_and_nothing_known_give_no_nan():
    iou, _ = soft_iou(grid([[0, 0], [0, 0]]), grid([[0, 0], [0, 0]]), grid([[0, 0], [0, 0]]))
    assert float(iou[0]) == 0.0


def test_parts_of_a_batch_add_up_to_the_batch():
    cross_entropy = np.array([0.3, 0.9, 1.4], np.float32)
    iou, has_lesion = np.array([0.5, 0.0, 0.25], np.float32), np.array([1.0, 0.0, 1.0], np.float32)
    whole = centiou_loss(cross_entropy, iou, has_lesion, 0.7)
    parts = [centiou_loss(cross_entropy[i], iou[i], has_lesion[i], 0.7, 3.0, 2.0) for i in (slice(0, 1), slice(1, 3))]
    assert float(parts[0]) + float(parts[1]) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_the_share_must_lie_between_zero_and_one(share):
    with pytest.raises(ValueError, match=f"cross_entropy_share.*{share}"):
        centiou_loss(np.ones(1, np.float32), np.ones(1, np.float32), np.ones(1, np.float32), share)
