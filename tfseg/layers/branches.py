"""Layers of a classifier with two branches: the class map as an image, joining feature maps, and the maps of both."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers, ops

from tfseg.errors import ConfigError
from tfseg.layers.saliency import ClassActivationMap

PACKAGE = "tfseg"
MASK_INPUTS = ("softmax", "argmax")
CHANNELS = 3


def check_mask_input(mask_input: str) -> None:
    """Refuse what a mask's branch can't see.

    Raises:
        ConfigError: shows it.
    """
    if mask_input not in MASK_INPUTS:
        raise ConfigError(f"`mask_input` must be one of {', '.join(MASK_INPUTS)}, received {mask_input!r}")


@keras.saving.register_keras_serializable(package=PACKAGE)
class ClassMap(layers.Layer):
    """Mask probabilities as an image of three channels, which any backbone takes.

    One sigmoid channel `p` becomes (1 − p, p, 0), that is (background, lesion, nothing); two channels get a zero one;
    three stay as they are.

    Args:
        kind: ``"softmax"`` keeps the probabilities, and gradients reach the segmenter; ``"argmax"`` is 1 for the
            likeliest class and 0 for the others (lesion from a probability of 0.5 on), without a gradient.

    Call:
        probabilities: (B, H, W, C) in [0, 1]; returns (B, H, W, 3) in [0, 1].

    Raises:
        ConfigError: an unknown kind, or more than three channels.

    Example:

    >>> ClassMap()(keras.ops.full((1, 1, 1, 1), 0.25))
    [[[[0.75, 0.25, 0.0]]]]
    """

    def __init__(self, kind="softmax", **kwargs):
        super().__init__(**kwargs)
        check_mask_input(kind)
        self.kind = kind

    def build(self, input_shape):
        if input_shape[-1] > CHANNELS:
            raise ConfigError(f"a class map holds at most {CHANNELS} mask classes, the mask has {input_shape[-1]}")

    def call(self, probabilities):
        channels = probabilities.shape[-1]
        if self.kind == "argmax" and channels == 1:
            probabilities = ops.cast(probabilities >= 0.5, probabilities.dtype)
        elif self.kind == "argmax":
            # TensorFlow's own arg-max: Keras's needs operations that a phone doesn't have.
            probabilities = tf.one_hot(tf.argmax(probabilities, axis=-1), channels, dtype=probabilities.dtype)
        if channels == 1:
            probabilities = ops.concatenate([1.0 - probabilities, probabilities], axis=-1)
        missing = CHANNELS - probabilities.shape[-1]
        return ops.pad(probabilities, [[0, 0]] * 3 + [[0, missing]]) if missing else probabilities

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], CHANNELS)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@keras.saving.register_keras_serializable(package=PACKAGE)
class OnGrid(layers.Layer):
    """Feature maps resized bilinearly, (B, r, c, K) → (B, *grid, K).

    Resizing is linear along each axis: two products with constant matrices, whose gradient a phone can run and which
    can be differentiated twice. Neither holds for `tf.image.resize`.

    Args:
        grid: (rows, columns).
    """

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(int(length) for length in grid)

    def call(self, maps):
        for axis, length in enumerate(self.grid, 1):
            before = maps.shape[axis]
            if before != length:
                unit = ops.reshape(ops.eye(before), (1, before, before, 1))
                weights = ops.image.resize(unit, (length, before), interpolation="bilinear")
                weights = ops.cast(ops.transpose(weights[0, ..., 0]), maps.dtype)
                maps = ops.moveaxis(ops.matmul(ops.moveaxis(maps, axis, -1), weights), -1, axis)
        return maps

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.grid, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


@keras.saving.register_keras_serializable(package=PACKAGE)
class Gate(layers.Layer):
    """`a + σ(z) (b − a)`: how much of each number comes from the second of two tensors.

    Call:
        inputs: a list of `a`, `b` and the gate's logits `z`, all of one shape.
    """

    def call(self, inputs):
        return _mixed(*inputs)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@tf.custom_gradient
def _mixed(first, second, logits):
    """TensorFlow's gradient of a sigmoid is an operation that a phone doesn't have."""
    share = tf.sigmoid(logits)

    def gradient(upstream):
        return upstream * (1.0 - share), upstream * share, upstream * (second - first) * share * (1.0 - share)

    return first + share * (second - first), gradient


@keras.saving.register_keras_serializable(package=PACKAGE)
class BranchActivationMaps(ClassActivationMap):
    """The class activation maps of both branches of a fusion, by one pass of its head.

    Arguments are those of `ClassActivationMap`; each map is divided by its own maximum.

    Call:
        feature_maps: [image maps (B, r, c, K), mask maps (B, r', c', K')].
        labels: class indices, int (B,); for ``target="true"`` only.

    Returns:
        ``{"logits": …, "saliency": …, "saliency_mask": …}``, the maps float32 (B, H, W, 1) in [0, 1].
    """

    def call(self, feature_maps, labels=None, training=False):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(feature_maps)
            logits = self.head(feature_maps, training=training)
        scored = tf.stop_gradient(self._scored(logits, labels))
        gradients = tape.gradient(logits, feature_maps, output_gradients=scored)
        image, mask = (self.drawn(*pair) for pair in zip(feature_maps, gradients, strict=True))
        return {"logits": logits, "saliency": image, "saliency_mask": mask}

    def compute_output_spec(self, feature_maps, labels=None, training=False):
        found = super().compute_output_spec(feature_maps, labels, training)
        return {**found, "saliency_mask": keras.KerasTensor(found["saliency"].shape, dtype="float32")}
