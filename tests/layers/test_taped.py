"""Layers with gradients that export: the same values and slopes as Keras's, right second derivatives, LiteRT."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_litert
from keras import layers

from tfseg.layers.taped import Rectifier, taped

SHAPE = (7, 6, 4)


def grouped():
    return layers.Conv2D(4, 3, padding="same", groups=4)


# Input shapes, and what is put on the inputs.
NETWORKS = {
    "relu": ([SHAPE], lambda x: layers.ReLU()(x)),
    "relu6": ([SHAPE], lambda x: layers.ReLU(0.7)(x)),
    "relu activation": ([SHAPE], lambda x: layers.Activation("relu")(x)),
    "relu6 activation": ([SHAPE], lambda x: layers.Activation("relu6")(8.0 * x)),
    "gelu": ([SHAPE], lambda x: layers.Activation("gelu")(x)),
    "dense with gelu": ([SHAPE], lambda x: layers.Dense(3, activation="gelu")(x)),
    "add": ([SHAPE, SHAPE], lambda x, y: layers.Add()([x, y])),
    "plus": ([SHAPE, SHAPE], lambda x, y: x + y),
    "multiply": ([SHAPE, (1, 1, 4)], lambda x, y: layers.Multiply()([x, y])),
    "concatenate": ([SHAPE, (7, 6, 3)], lambda x, y: layers.Concatenate()([x, y])),
    "crop": ([(5, 4)], lambda x: layers.Cropping1D((1, 2))(x)),
    "layer normalisation": ([SHAPE], lambda x: layers.LayerNormalization(epsilon=0.1)(x)),
    "nested": ([SHAPE], lambda x: keras.Sequential([layers.LayerNormalization(epsilon=0.1), layers.Dense(3)])(x)),
    "attention": ([(5, 8)], lambda x: layers.MultiHeadAttention(2, 4)(x, x)),
    "depthwise": ([SHAPE], lambda x: layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)),
    "depthwise, strided": ([SHAPE], lambda x: layers.DepthwiseConv2D(3, 2, padding="same")(x)),
    "depthwise, valid": ([SHAPE], lambda x: layers.DepthwiseConv2D((2, 3), 2)(x)),
    "depthwise, even": ([SHAPE], lambda x: layers.DepthwiseConv2D(4, 2, padding="same")(x)),
    "depthwise, wide": ([SHAPE], lambda x: layers.DepthwiseConv2D(5, 3, padding="same")(x)),
    "grouped": ([SHAPE], lambda x: grouped()(x)),
    "separable": ([SHAPE], lambda x: layers.SeparableConv2D(3, 3, padding="same")(x)),
}
# Replaced by themselves: nothing is wrong with their gradients, or no way around them is known.
KEPT = {
    "swish": ([SHAPE], lambda x: layers.Activation("swish")(x)),
    "leaky": ([SHAPE], lambda x: layers.ReLU(negative_slope=0.1)(x)),
    "joined rows": ([SHAPE, SHAPE], lambda x, y: layers.Concatenate(axis=1)([x, y])),
    "stretched sum": ([SHAPE, (1, 1, 4)], lambda x, y: layers.Add()([x, y])),
    "dilated": ([SHAPE], lambda x: layers.DepthwiseConv2D(3, dilation_rate=2)(x)),
    "several filters a channel": ([SHAPE], lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2)(x)),
    "rectified inside": ([SHAPE], lambda x: layers.DepthwiseConv2D(3, activation="relu")(x)),
    "groups of two": ([SHAPE], lambda x: layers.Conv2D(4, 3, groups=2)(x)),
    "normalised rows": ([SHAPE], lambda x: layers.LayerNormalization(axis=1)(x)),
    "attention with dropout": ([(5, 8)], lambda x: layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)),
    "attention of two": ([(5, 8), (3, 8)], lambda x, y: layers.MultiHeadAttention(2, 4)(x, y)),
    "pool": ([SHAPE], lambda x: layers.MaxPooling2D()(x)),
}


def pair(network):
    """The network and its twin, which shares its weights, and an input of each shape."""
    keras.utils.set_random_seed(0)
    shapes, build = network
    inputs = [keras.Input(shape) for shape in shapes]
    plain = keras.Model(inputs, build(*inputs))
    generator = np.random.default_rng(0)
    plain.set_weights([generator.normal(size=value.shape) for value in plain.get_weights()])
    values = [tf.constant(generator.normal(size=(2, *shape)), tf.float32) for shape in shapes]
    return plain, keras.models.clone_model(plain, clone_function=taped), values


def slopes(model, values, direction):
    variables = [weight.value for weight in model.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.reduce_sum(model(values) * direction)
    return tape.gradient(total, [*values, *variables], unconnected_gradients="zero")


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_slopes_are_those_of_keras(name):
    plain, twin, values = pair(NETWORKS[name])
    last = [model.output._keras_history.operation for model in (twin, plain)]
    assert type(last[0]) is not type(last[1]) or name == "nested"
    assert {id(weight) for weight in twin.weights} == {id(weight) for weight in plain.weights}
    expected = plain(values)
    np.testing.assert_allclose(twin(values), expected, atol=2e-6 * np.abs(expected).max())
    direction = tf.constant(np.random.default_rng(1).normal(size=expected.shape), tf.float32)
    for left, right in zip(slopes(twin, values, direction), slopes(plain, values, direction), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5 * max(1.0, np.abs(right).max()))


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept(name):
    plain, twin, _ = pair(KEPT[name])
    assert [layer for layer in twin.operations if not isinstance(layer, layers.InputLayer)] == [
        layer for layer in plain.operations if not isinstance(layer, layers.InputLayer)
    ]


@pytest.mark.parametrize("name", ["gelu", "multiply", "attention", "layer normalisation", "depthwise, strided"])
def test_second_derivatives(name):
    """By finite differences of the slopes, along one direction of all inputs."""
    _, twin, values = pair(NETWORKS[name])
    generator = np.random.default_rng(2)
    shape = twin(values).shape
    # Twice differentiable in all inputs together, also where the layer itself is linear.
    along = [tf.constant(generator.normal(size=value.shape), tf.float32) for value in values]
    direction = tf.constant(generator.normal(size=shape), tf.float32)

    def slope(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = tf.reduce_sum(twin(values) ** 2 * direction)
        return tape.gradient(total, values)

    with tf.GradientTape() as tape:
        tape.watch(values)
        total = sum(tf.reduce_sum(part * way) for part, way in zip(slope(values), along, strict=True))
    received = tape.gradient(total, values)
    step = 1e-2
    beyond = slope([value + step * way for value, way in zip(values, along, strict=True)])
    before = slope([value - step * way for value, way in zip(values, along, strict=True)])
    for right, left, analytic in zip(beyond, before, received, strict=True):
        numeric = (right - left) / (2 * step)
        np.testing.assert_allclose(analytic, numeric, atol=5e-3 * np.abs(numeric).max())


@keras.saving.register_keras_serializable(package="tests")
class Slope(layers.Layer):
    """The gradient of a model's summed squares by its first input."""

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, inputs):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs[0])
            total = self.model(inputs) ** 2
        return tape.gradient(total, inputs[0])

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape)

    def get_config(self):
        return {**super().get_config(), "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})


# One after the other, so that a few exports cover them all.
CHAINS = {
    "convolutional": lambda x: layers.Concatenate()(
        [
            layers.Activation("gelu")(grouped()(layers.DepthwiseConv2D(3, 2, padding="same")(layers.ReLU(0.5)(x)))),
            layers.SeparableConv2D(3, 3, 2, padding="same")(x),
        ]
    ),
    "squeezed": lambda x: layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)]) + x,
    "tokens": lambda x: layers.Cropping1D((1, 0))(
        layers.Dense(4, activation="gelu")(attended(layers.LayerNormalization()(layers.Reshape((-1, 4))(x))))
    ),
}


def attended(x):
    return layers.Add()([x, layers.MultiHeadAttention(2, 2)(x, x)])


@pytest.mark.parametrize("name", CHAINS)
def test_slopes_run_on_a_phone_and_are_saved(name, tmp_path):
    plain, twin, values = pair(([SHAPE], CHAINS[name]))
    image = keras.Input(SHAPE)
    model = keras.Model(image, Slope(twin)([image]))
    expected = keras.Model(image, Slope(plain)([image]))(values[0])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(model(values[0]) / scale, expected / scale, atol=1e-5)
    check_litert(model, values, tmp_path, tolerance=1e-4)
    model.save(tmp_path / "slope.keras")
    loaded = keras.saving.load_model(tmp_path / "slope.keras")
    np.testing.assert_allclose(loaded(values[0]) / scale, expected / scale, atol=1e-5)


def test_on_a_tie_the_slope_is_that_of_relu():
    values = tf.constant([-1.0, 0.0, 1.0, 6.0, 7.0])
    for layer, expected in ((Rectifier(), [0, 0, 1, 1, 1]), (Rectifier(6.0), [0, 0, 1, 0, 0])):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = layer(values)
        np.testing.assert_array_equal(tape.gradient(outputs, values), expected)


@pytest.mark.parametrize("name", ["layer normalisation", "attention", "depthwise, strided", "separable", "grouped"])
def test_half_precision(name):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        plain, twin, values = pair(NETWORKS[name])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    expected, received = (np.asarray(model(values), np.float32) for model in (plain, twin))
    assert twin(values).dtype == tf.bfloat16
    np.testing.assert_allclose(received, expected, atol=0.05 * np.abs(expected).max())
