"""Dice and cross entropy on masks of a few pixels."""

import math

import numpy as np
import pytest
import tensorflow as tf
from harness import check_gradient, check_loss

from tfseg.losses.dice import DiceCrossEntropy, DiceLoss, dice_coefficient, pixel_cross_entropy

TRUE = np.array([[1, 1], [0, 0]], np.float32).reshape(1, 2, 2, 1)
PROBABILITIES = np.array([[0.8, 0.4], [0.4, 0.2]], np.float32).reshape(1, 2, 2, 1)
LOGITS = np.log(PROBABILITIES / (1.0 - PROBABILITIES))
# Overlap 0.8 + 0.4 = 1.2; sums 2 + 1.8: Dice = 2.4 / 3.8.
DICE = 2.4 / 3.8
CROSS_ENTROPY = -(math.log(0.8) + math.log(0.4) + math.log(0.6) + math.log(0.8)) / 4.0


def test_dice_by_hand():
    assert float(dice_coefficient(TRUE, PROBABILITIES)[0]) == pytest.approx(DICE, rel=1e-5)
    check_loss(DiceLoss, TRUE, LOGITS, 1.0 - DICE)
    check_loss(DiceCrossEntropy, TRUE, LOGITS, 1.0 - DICE + CROSS_ENTROPY)
    check_loss(lambda: DiceCrossEntropy(0.5), TRUE, LOGITS, 1.0 - DICE + 0.5 * CROSS_ENTROPY)


def test_pixels_of_weight_zero_count_nowhere():
    valid = np.array([[1, 0], [1, 1]], np.float32).reshape(1, 2, 2, 1)
    # Left: lesion 0.8; background 0.4 and 0.2. Overlap 0.8; sums 1 + 1.4.
    assert float(dice_coefficient(TRUE, PROBABILITIES, valid)[0]) == pytest.approx(1.6 / 2.4, rel=1e-5)
    expected = -(math.log(0.8) + math.log(0.6) + math.log(0.8)) / 3.0
    assert float(pixel_cross_entropy(TRUE, LOGITS, valid)[0]) == pytest.approx(expected, rel=1e-5)
    wrong = LOGITS.copy()
    wrong[0, 0, 1] = 50.0
    loss = DiceCrossEntropy()
    assert float(loss(TRUE, wrong, valid)) == pytest.approx(float(loss(TRUE, LOGITS, valid)), rel=1e-6)


def test_per_image_and_per_batch_differ_as_they_should():
    true = np.concatenate([TRUE, np.ones((1, 2, 2, 1), np.float32)])
    predicted = np.concatenate([PROBABILITIES, np.full((1, 2, 2, 1), 0.5, np.float32)])
    # The second image: overlap 2, sums 4 + 2, Dice 4/6. Pooled: 2·3.2 / (6 + 3.8).
    np.testing.assert_allclose(dice_coefficient(true, predicted), [DICE, 4.0 / 6.0], rtol=1e-5)
    assert float(dice_coefficient(true, predicted, per_image=False)) == pytest.approx(6.4 / 9.8, rel=1e-5)
    logits = np.log(predicted / (1.0 - predicted))
    assert float(DiceLoss()(true, logits)) == pytest.approx(1.0 - (DICE + 4.0 / 6.0) / 2.0, rel=1e-5)
    assert float(DiceLoss(per_image=False)(true, logits)) == pytest.approx(1.0 - 6.4 / 9.8, rel=1e-5)


def test_empty_against_empty_is_perfect():
    empty = np.zeros((1, 2, 2, 1), np.float32)
    assert float(dice_coefficient(empty, empty)[0]) == pytest.approx(1.0)
    assert float(DiceLoss()(empty, np.full_like(empty, -100.0))) == pytest.approx(0.0, abs=1e-6)
    nothing_known = np.zeros((1, 2, 2, 1), np.float32)
    assert np.isfinite(float(DiceCrossEntropy()(TRUE, LOGITS, nothing_known)))


def test_classes_use_softmax_and_are_averaged():
    true = np.zeros((1, 1, 2, 3), np.float32)
    true[0, 0, 0, 0] = true[0, 0, 1, 2] = 1.0
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32).reshape(1, 1, 2, 3)
    # Class 0: 1.4 / 1.8; class 1: 0 / 0.5; class 2: 1.2 / 1.7.
    dice = (1.4 / 1.8 + 0.0 + 1.2 / 1.7) / 3.0
    cross_entropy = -(math.log(0.7) + math.log(0.6)) / 2.0
    check_loss(DiceCrossEntropy, true, np.log(probabilities), 1.0 - dice + cross_entropy, 1e-4)


def test_gradient_against_finite_differences():
    logits = tf.Variable(LOGITS)
    check_gradient(lambda: DiceCrossEntropy()(TRUE, logits), [logits], tolerance=1e-2)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="sample_weight"):
        DiceLoss()(TRUE, LOGITS, np.ones(1, np.float32))
    with pytest.raises(ValueError, match="same shape"):
        DiceLoss()(TRUE, np.zeros((1, 2, 2, 3), np.float32))
