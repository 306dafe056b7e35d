"""Overlap of thresholded lesions, per image, over many batches."""

import keras
import numpy as np
import pytest

from tfseg.metrics.segmentation import LesionDice, LesionIoU

# Rows of four pixels. First image: true 1100, predicted 1010: overlap 1 of 2 + 2. Second: empty against empty.
# Third: true 1111, predicted 1110: overlap 3 of 4 + 3. Fourth: empty, predicted 1000.
TRUE = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], np.float32).reshape(4, 2, 2, 1)
SEEN = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], np.float32).reshape(4, 2, 2, 1)
LOGITS = 4.0 * SEEN - 2.0
DICE = [2 * 1 / 4, 1.0, 2 * 3 / 7, 0.0]
IOU = [1 / 3, 1.0, 3 / 4, 0.0]


@pytest.mark.parametrize(("kind", "scores"), [(LesionDice, DICE), (LesionIoU, IOU)])
def test_by_hand_over_batches_of_unequal_size(kind, scores):
    metric = kind()
    assert float(metric(TRUE, LOGITS)) == pytest.approx(np.mean(scores), rel=1e-6)
    metric.reset_state()
    metric.update_state(TRUE[:3], LOGITS[:3])
    metric.update_state(TRUE[3:], LOGITS[3:])
    assert float(metric.result()) == pytest.approx(np.mean(scores), rel=1e-6)


def test_before_any_image_the_result_is_a_number():
    assert float(LesionIoU().result()) == 0.0


def test_the_threshold_is_on_probabilities_and_belongs_to_the_lesion():
    true, logits = np.ones((1, 1, 2, 1), np.float32), np.array([0.0, -0.1], np.float32).reshape(1, 1, 2, 1)
    assert float(LesionIoU()(true, logits)) == pytest.approx(0.5)
    # sigmoid(−0.1) = 0.475.
    assert float(LesionIoU(threshold=0.45)(true, logits)) == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "without"), [(LesionDice, 1.0), (LesionIoU, 1.0)])
def test_ignored_pixels_and_images_count_nowhere(kind, without):
    valid = np.ones_like(TRUE)
    valid[0] = np.array([1, 0, 0, 1], np.float32).reshape(2, 2, 1)
    # First image: only pixels 0 (both) and 3 (neither) count: perfect. Fourth: nothing is known, so it is no image.
    valid[3] = 0.0
    scores = {LesionDice: DICE, LesionIoU: IOU}[kind]
    expected = np.mean([without, scores[1], scores[2]])
    assert float(kind()(TRUE, LOGITS, valid)) == pytest.approx(expected, rel=1e-6)
    assert float(kind()(TRUE, LOGITS, np.zeros_like(valid))) == 0.0


def test_the_lesion_is_the_sum_of_its_channels():
    """Neither class alone reaches one half, both together do."""
    probabilities = np.array([[0.4, 0.3, 0.3], [0.6, 0.2, 0.2]], np.float32).reshape(1, 1, 2, 3)
    true = np.array([[0, 1, 0], [0, 0, 1]], np.float32).reshape(1, 1, 2, 3)
    assert float(LesionIoU((1, 2))(true, np.log(probabilities))) == pytest.approx(0.5)
    assert float(LesionIoU((1,))(true, np.log(probabilities))) == pytest.approx(0.0)


def test_a_configuration_makes_the_same_metric():
    metric = LesionDice((1, 2), threshold=0.3, name="dice")
    clone = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert isinstance(clone, LesionDice)
    assert (clone.lesion_channels, clone.threshold, clone.name) == ((1, 2), 0.3, "dice")


@pytest.mark.parametrize("kind", [LesionDice, LesionIoU])
def test_more_pixels_than_float32_can_count(kind):
    """Beyond 2²⁴ a float32 counter can't tell odd numbers: one image of 2²⁴ + 1 lesion pixels, in two rows."""
    side = 2**23 + 1
    true, logits = np.ones((1, 2, side, 1), np.float32), np.full((1, 2, side, 1), 5.0, np.float32)
    true[0, 0, 0], logits[0, 0, 0] = 0.0, -5.0
    metric = kind()
    assert int(metric._count(true > 0)[0]) == 2**24 + 1
    assert float(metric(true, logits)) == 1.0
    # A mean over many images stays what it is, however many pixels they had together.
    for _ in range(20):
        metric.update_state(TRUE, LOGITS)
    wanted = (1.0 + 20 * sum({LesionDice: DICE, LesionIoU: IOU}[kind])) / 81
    assert float(metric.result()) == pytest.approx(wanted, rel=1e-6)


def test_keras_gives_it_the_weights_under_fit():
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, keras.layers.Identity()(image))
    model.compile(loss="mse", weighted_metrics=[LesionIoU(name="iou")])
    valid = np.ones_like(TRUE)
    valid[3] = 0.0
    scores = model.evaluate(LOGITS, TRUE, sample_weight=valid, batch_size=3, verbose=0, return_dict=True)
    assert scores["iou"] == pytest.approx(np.mean(IOU[:3]), rel=1e-6)
