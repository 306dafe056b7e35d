"""Balanced accuracy as a Keras metric, by hand and against scikit-learn."""

import keras
import numpy as np
import pytest

from tfseg.metrics.classification import BalancedAccuracy


def test_by_hand():
    """Recalls 1/2 and 1, and no case of the third class: (0.5 + 1) / 2."""
    metric = BalancedAccuracy(3)
    metric.update_state([0, 0, 1], [[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    assert float(metric.result()) == pytest.approx(0.75)


def test_over_batches_weights_and_shapes_of_labels():
    from sklearn.metrics import balanced_accuracy_score

    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 4, 60), generator.normal(size=(60, 4)).astype(np.float32)
    metric = BalancedAccuracy(4)
    metric.update_state(labels[:20], scores[:20])
    metric.update_state(labels[20:, None], scores[20:], sample_weight=np.zeros(40))
    assert float(metric.result()) == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_it_survives_being_saved():
    metric = keras.metrics.deserialize(keras.metrics.serialize(BalancedAccuracy(5)))
    assert (metric.classes, metric.name) == (5, "balanced_accuracy")
