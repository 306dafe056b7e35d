"""What several workers need besides the strategy."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfseg.errors import RunError
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier
from tfseg.training.workers import detached, fitting, several_workers, wait_for


def test_waiting_for_a_file(tmp_path):
    path, naps = tmp_path / "cell.json", []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            path.write_text("{}")

    wait_for(path, "the chief tests", sleep=sleep)
    assert len(naps) == 3
    with pytest.raises(RunError, match="nothing.json did not appear in 0.1 s: the chief tests; .*shared disk"):
        wait_for(tmp_path / "nothing.json", "the chief tests", seconds=0.1)


def test_a_detached_model_is_the_same_function():
    keras.utils.set_random_seed(0)
    classifier = build_classifier(build_backbone("small_cnn", (24, 24, 3)), 2, units=4)
    image = np.random.default_rng(0).uniform(size=(2, 24, 24, 3)).astype(np.float32)
    features, head = detached(classifier.features), detached(classifier.head)
    expected = classifier.head(classifier.features(image, training=False), training=False)
    np.testing.assert_allclose(head(features(image, training=False), training=False), expected, atol=1e-6)
    features.layers[-2].set_weights([np.zeros_like(value) for value in features.layers[-2].get_weights()])
    again = classifier.head(classifier.features(image, training=False), training=False)
    np.testing.assert_array_equal(again, expected)


def test_one_worker_is_left_alone():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    assert not several_workers(model.distribute_strategy)
    with fitting(model, None):
        assert "_maybe_symbolic_build" not in vars(model)
