"""The E-Layer against its formula by hand, and wherever a layer has to run."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from harness import check_layer

from tfseg.layers.e_layer import ELayer


def maps(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def by_hand(layer, features, *resized, statistics=None):
    """1×1 convolution → batch norm → ReLU, in NumPy."""
    (kernel,), (gamma, beta, mean, variance) = layer.convolution.get_weights(), layer.normalization.get_weights()
    outputs = np.concatenate([features, *resized], -1) @ kernel[0, 0]
    if statistics == "batch":
        mean, variance = outputs.mean((0, 1, 2)), outputs.var((0, 1, 2))
    outputs = (outputs - mean) / np.sqrt(variance + layer.normalization.epsilon) * gamma + beta
    return np.maximum(outputs, 0.0)


def shaken(layer):
    """Weights away from their start; variances and factors stay above 0."""
    generator = np.random.default_rng(3)
    for weight in layer.weights:
        signed = "kernel" in weight.path or "beta" in weight.path
        weight.assign(generator.uniform(-1.0 if signed else 0.3, 1.0, weight.shape))
    return layer


def test_one_map_by_hand():
    features, saliency, layer = maps(2, 3, 4, 5), maps(2, 6, 8, 1, seed=1), ELayer()
    layer([features, saliency])
    shaken(layer)
    # Half the size, bilinear: the mean of two by two pixels.
    resized = saliency.reshape(2, 3, 2, 4, 2, 1).mean((2, 4))
    for training, statistics in ((False, None), (True, "batch")):
        expected = by_hand(layer, features, resized, statistics=statistics)
        found = layer([features, saliency], training=training)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert (expected == 0).any() and (expected > 0).any()


def test_several_maps_of_the_grids_own_size_are_taken_as_they_are():
    features, first, second, layer = maps(1, 2, 2, 3), maps(1, 2, 2, 1, seed=1), maps(1, 2, 2, 2, seed=2), ELayer()
    layer([features, first, second])
    shaken(layer)
    assert layer.convolution.kernel.shape == (1, 1, 6, 3)
    np.testing.assert_allclose(
        layer([features, first, second]), by_hand(layer, features, first, second), rtol=1e-4, atol=1e-5
    )


def test_gradients_reach_features_and_map():
    import tensorflow as tf

    features, saliency = tf.Variable(maps(2, 3, 3, 4)), tf.Variable(maps(2, 9, 9, 1, seed=1))
    layer = ELayer()
    layer([features, saliency])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer([tf.convert_to_tensor(features), tf.convert_to_tensor(saliency)]) ** 2)
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(value, [features, saliency]))


def test_the_moving_averages_follow_within_a_few_steps():
    layer, inputs = ELayer(), [maps(8, 4, 4, 3), maps(8, 4, 4, 1, seed=1)]
    for _ in range(100):
        layer(inputs, training=True)
    np.testing.assert_allclose(layer(inputs), layer(inputs, training=True), atol=0.05)


@pytest.mark.parametrize("sides", [(7, 7), (28, 21)])
def test_as_a_layer(sides, tmp_path):
    check_layer(lambda: ELayer(), [[maps(2, 7, 7, 6), maps(2, *sides, 1, seed=1)]], tmp_path, trainable=True)


def test_what_it_can_not_take():
    with pytest.raises(ValueError, match="at least one map"):
        ELayer()([maps(1, 2, 2, 3)])
    with pytest.raises(ValueError, match="at least one map"):
        ELayer()([maps(1, 2, 2, 3), maps(1, 4)])


def test_it_goes_with_a_model(tmp_path):
    features, saliency = keras.Input((4, 4, 6)), keras.Input((16, 16, 1))
    model = keras.Model([features, saliency], ELayer(momentum=0.8)([features, saliency]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = [maps(2, 4, 4, 6), maps(2, 16, 16, 1)]
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert loaded.layers[-1].momentum == 0.8
