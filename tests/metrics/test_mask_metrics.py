"""Pixel scores as Keras metrics: by hand, pooled, per class, and the same as the evaluation's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.evaluation.segmentation import mask_scores
from tfseg.metrics.segmentation import METRICS, LesionIoU, PixelRecall, class_metrics, mask_metrics

# Rows of four pixels; the last image has no lesion and none is found.
TRUE = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], np.float32).reshape(3, 2, 2, 1)
SEEN = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], np.float32).reshape(3, 2, 2, 1)
LOGITS = 4.0 * SEEN - 2.0
# First image: TP 1, FP 1, FN 1, TN 1. Second: TP 3, FP 1, FN 0, TN 0. Third: TN 4.
PER_IMAGE = {
    "dice": [2 / 4, 6 / 7, 1],
    "iou": [1 / 3, 3 / 4, 1],
    "pixel_accuracy": [2 / 4, 3 / 4, 1],
    "pixel_error": [2 / 4, 1 / 4, 0],
    "pixel_precision": [1 / 2, 3 / 4, 1],
    "pixel_recall": [1 / 2, 1, 1],
    "pixel_specificity": [1 / 2, 0, 1],
}
# Together: TP 4, FP 2, FN 1, TN 5.
POOLED = {
    "dice": 8 / 11,
    "iou": 4 / 7,
    "pixel_accuracy": 9 / 12,
    "pixel_error": 3 / 12,
    "pixel_precision": 4 / 6,
    "pixel_recall": 4 / 5,
    "pixel_specificity": 5 / 7,
}


@pytest.mark.parametrize("name", list(METRICS))
def test_by_hand_over_batches(name):
    for pooled, expected in ((False, np.mean(PER_IMAGE[name])), (True, POOLED[name])):
        metric = METRICS[name](pooled=pooled)
        assert float(metric.result()) == 0.0
        metric.update_state(TRUE[:2], LOGITS[:2])
        metric.update_state(TRUE[2:], LOGITS[2:])
        assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
        metric.reset_state()
        assert float(metric(TRUE[:1], LOGITS[:1])) == pytest.approx(PER_IMAGE[name][0], rel=1e-6)


@pytest.mark.parametrize("name", list(METRICS))
def test_the_evaluation_scores_the_same(name):
    generator = np.random.default_rng(0)
    true = (generator.random((6, 5, 7, 1)) > 0.7).astype(np.float32)
    logits = generator.normal(size=true.shape).astype(np.float32)
    valid = (generator.random(true.shape) > 0.2).astype(np.float32)
    # Nothing there, everything there, nothing found.
    true[0], true[1], logits[2] = 0.0, 1.0, -1.0
    logits[3], true[3] = -1.0, 0.0
    images = [mask_scores(true[i, ..., 0] > 0, logits[i, ..., 0] >= 0, valid[i, ..., 0] > 0) for i in range(6)]
    metric = METRICS[name]()
    assert float(metric(true, logits, valid)) == pytest.approx(np.mean([scores[name] for scores in images]), rel=1e-6)
    flat = [values.reshape(1, -1)[:, :] for values in (true > 0, logits >= 0, valid > 0)]
    pooled = METRICS[name](pooled=True)
    assert float(pooled(true, logits, valid)) == pytest.approx(mask_scores(*flat)[name], rel=1e-6)


def test_a_class_is_where_its_probability_is_highest():
    # No channel reaches one half; the third wins in the first pixel, the second in the second.
    probabilities = np.array([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3]], np.float32).reshape(1, 1, 2, 3)
    true = np.array([[0, 0, 1], [0, 0, 1]], np.float32).reshape(1, 1, 2, 3)
    metrics = class_metrics(("background", "cytoplasm", "nucleus"), ("iou", "pixel_recall"))
    names = [metric.name for metric in metrics]
    assert names[:3] == ["iou_background", "iou_cytoplasm", "iou_nucleus"] and len(names) == 6
    values = [float(metric(true, np.log(probabilities))) for metric in metrics]
    # No background and none found: right. Cytoplasm found where there is none.
    assert values == pytest.approx([1.0, 0.0, 0.5, 1.0, 0.0, 0.5])
    assert float(LesionIoU((2,))(true, np.log(probabilities))) == 0.0
    # One channel: the more probable of lesion and background.
    assert float(LesionIoU(threshold=None)(TRUE[:1], LOGITS[:1])) == pytest.approx(1 / 3)


def test_pooled_counts_are_exact_beyond_float32():
    """A float32 counter stands still at 2²⁴, which is 335 images of 224²."""
    metric = PixelRecall(pooled=True)
    metric.counts.assign(np.array([2**24, 0, 0, 0], np.int64))
    one = np.ones((1, 1, 1, 1), np.float32)
    for _ in range(3):
        metric.update_state(one, 5.0 * one)
    assert metric.counts.numpy().tolist() == [2**24 + 3, 0, 0, 0]


def test_in_a_graph_and_through_a_configuration():
    for metric in mask_metrics(list(METRICS), pooled=True) + class_metrics(("a", "b", "c")):
        clone = keras.metrics.deserialize(keras.metrics.serialize(metric))
        assert clone.get_config() == metric.get_config()
    assert [metric.name for metric in mask_metrics(pooled=True)] == ["iou_pooled", "dice_pooled"]
    metric = LesionIoU(pooled=True)
    tf.function(lambda: metric.update_state(tf.constant(TRUE), tf.constant(LOGITS)))()
    assert float(metric.result()) == pytest.approx(4 / 7)
