"""Layers between a segmenter and a classifier: they hide a part of the image, mostly what isn't lesion.

All take an image (B, H, W, 3) in [0, 1] and a lesion probability (B, H, W, 1) in [0, 1] and return the masked
image. An image in which no lesion was found is kept whole, so that a miss of the segmenter doesn't leave the
classifier with a black picture.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from tfseg.approaches import APPROACHES

PACKAGE = "tfseg"


@keras.saving.register_keras_serializable(package=PACKAGE)
class LesionProbability(keras.layers.Layer):
    """The union of a mask's lesion channels, (B, H, W, C) → (B, H, W, 1).

    Args:
        channels: indices of the channels that together are the lesion.
    """

    def __init__(self, channels=(0,), **kwargs):
        super().__init__(**kwargs)
        self.channels = tuple(int(channel) for channel in channels)
        if not self.channels or min(self.channels) < 0:
            raise ValueError(f"`channels` must hold indices from 0 on. Received: {channels}")

    def build(self, input_shape):
        if max(self.channels) >= input_shape[-1]:
            raise ValueError(f"`channels` {self.channels} do not fit a mask of shape {tuple(input_shape)}")

    def call(self, probabilities):
        if probabilities.shape[-1] == 1:
            return probabilities
        return ops.sum(tf.gather(probabilities, self.channels, axis=-1), axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 1)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


class InputMask(keras.layers.Layer):
    """Template of the mask layers: a subclass says how visible each pixel is, and when the image stays whole."""

    def call(self, image, lesion_probability):
        lesion_probability = ops.cast(lesion_probability, image.dtype)
        visible = self.visibility(lesion_probability)
        highest = ops.max(lesion_probability, axis=(1, 2, 3), keepdims=True)
        found = ops.cast(self.lesion_found(highest), image.dtype)
        return self.hide(image, found * visible + (1.0 - found))

    def hide(self, image, visible):
        """The image as it is seen, (B, H, W, 3), from how visible each pixel is, (B, H, W, 1)."""
        return image * visible

    def visibility(self, lesion_probability):
        """How much of each pixel is seen, (B, H, W, 1) in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define `visibility`")

    def lesion_found(self, highest):
        """Whether a lesion was found, given the map's maximum (B, 1, 1, 1); bool of the same shape."""
        return highest >= self.threshold

    def compute_output_shape(self, image_shape, lesion_probability_shape=None):
        return image_shape


def _share(name, value):
    if not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` must lie between 0 and 1. Received: {value}")
    return float(value)


@keras.saving.register_keras_serializable(package=PACKAGE)
class HardMask(InputMask):
    """Image × (probability ≥ threshold): the oral paper's hard mask.

    Args:
        threshold: probability from which a pixel is lesion, in (0, 1).

    Example:

    >>> HardMask()(keras.ops.ones((1, 2, 2, 3)), keras.ops.ones((1, 2, 2, 1))).shape
    TensorShape([1, 2, 2, 3])
    """

    def __init__(self, threshold=0.5, **kwargs):
        super().__init__(**kwargs)
        self.threshold = _share("threshold", threshold)

    def visibility(self, lesion_probability):
        return ops.cast(lesion_probability >= self.threshold, lesion_probability.dtype)

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


@keras.saving.register_keras_serializable(package=PACKAGE)
class SoftMask(InputMask):
    """Image × probability, no threshold: the oral paper's soft mask (probabilities, as its text says).

    Args:
        empty_below: an image whose map stays below this everywhere is kept whole, in (0, 1).
    """

    def __init__(self, empty_below=0.1, **kwargs):
        super().__init__(**kwargs)
        self.empty_below = _share("empty_below", empty_below)

    def visibility(self, lesion_probability):
        return lesion_probability

    def lesion_found(self, highest):
        return highest >= self.empty_below

    def get_config(self):
        return {**super().get_config(), "empty_below": self.empty_below}


@keras.saving.register_keras_serializable(package=PACKAGE)
class LesionAreaMask(InputMask):
    """Everything outside the lesion's bounding box, grown about its centre, is black (SE-LCN's LAE).

    Args:
        threshold: probability from which a pixel is lesion, in (0, 1).
        grow: factor on the box's height and width, at least 1; the box is clipped to the image.
    """

    def __init__(self, threshold=0.5, grow=1.4, **kwargs):
        super().__init__(**kwargs)
        self.threshold = _share("threshold", threshold)
        if grow < 1.0:
            raise ValueError(f"`grow` must be at least 1. Received: {grow}")
        self.grow = float(grow)

    def visibility(self, lesion_probability):
        lesion = ops.cast(lesion_probability >= self.threshold, lesion_probability.dtype)
        rows = self._inside(ops.max(lesion, axis=2, keepdims=True), axis=1)
        columns = self._inside(ops.max(lesion, axis=1, keepdims=True), axis=2)
        return rows * columns

    def _inside(self, occupied, axis):
        """Which rows (or columns) lie in the grown box, from those that hold lesion pixels."""
        length = occupied.shape[axis]
        shape = [1, 1, 1, 1]
        shape[axis] = length
        index = ops.reshape(ops.arange(length, dtype="float32"), shape)
        occupied = ops.cast(occupied, "float32")
        end = ops.max(occupied * (index + 1.0), axis=axis, keepdims=True)
        start = length - ops.max(occupied * (length - index), axis=axis, keepdims=True)
        distance = ops.abs(index + 0.5 - 0.5 * (start + end))
        return ops.cast(distance <= 0.5 * self.grow * (end - start), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold, "grow": self.grow}


@keras.saving.register_keras_serializable(package=PACKAGE)
class InverseMask(HardMask):
    """Image × (probability < threshold): what is left without the lesion's pixels, its outline included."""

    def visibility(self, lesion_probability):
        return 1.0 - super().visibility(lesion_probability)


@keras.saving.register_keras_serializable(package=PACKAGE)
class LesionRemoved(LesionAreaMask):
    """The lesion's bounding box is filled with the mean colour of the image, so that its outline is gone too.

    Source: after Bissoto et al. 2019 (arXiv 1904.08818), whose boxes are black.

    Args:
        threshold: probability from which a pixel is lesion, in (0, 1).
        grow: factor on the box's height and width, at least 1; the box is clipped to the image.
    """

    def __init__(self, threshold=0.5, grow=1.0, **kwargs):
        super().__init__(threshold, grow, **kwargs)

    def visibility(self, lesion_probability):
        return 1.0 - super().visibility(lesion_probability)

    def hide(self, image, visible):
        return image * visible + ops.mean(image, axis=(1, 2), keepdims=True) * (1.0 - visible)


MASK_LAYERS = {
    "hard": HardMask,
    "soft": SoftMask,
    "lesion_area": LesionAreaMask,
    "inverse": InverseMask,
    "lesion_removed": LesionRemoved,
}


def mask_layer(approach: str) -> InputMask:
    """The layer by which a masking approach hides a part of the image, named after the approach."""
    return built_mask(APPROACHES[approach].mask, approach)


def built_mask(kind: str, name: str) -> InputMask:
    """A layer out of `MASK_LAYERS`, in float32 under every precision policy."""
    return MASK_LAYERS[kind](dtype="float32", name=name)
