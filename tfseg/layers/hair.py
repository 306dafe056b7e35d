"""Hair removal inside the model, so that training, prediction and every export see the same clean skin."""

from __future__ import annotations

import math
from functools import lru_cache

import keras
import numpy as np
import tensorflow as tf

from tfseg.data.hair import scaled

ORIENTATIONS = 16
# A line must stand out from this much of the mean around it: pigment network is dark all around, a hair is not.
SURROUNDINGS = 1.5
# Darker than this tells no more about a hair; black dots would outweigh the gaps between them.
DARKEST = 0.1
# On both sides of a hair it is brighter, at the border of a lesion on one: that, times this, must reach the threshold.
BRIGHTER = 0.5
# A line is unbroken when this share of it is dark, if only so much: a row of dots is not. How sharp that is.
UNBROKEN, VISIBLE, STRICT = 0.7, 0.015, 5.0
# Faint parts of a line that is certain count from this share of the threshold on, within a square of this side.
CONTINUED, REACH = 0.5, 11
# Lines are looked for in an image of about this side.
COARSE = 112
# How often a level of the pyramid is smoothed where it is filled; at full size it would cost most and show least.
SMOOTHED = {1: 3, 2: 2}


@keras.saving.register_keras_serializable(package="tfseg")
class HairRemoval(keras.layers.Layer):
    """Finds dark hairs and fills them from the skin beside them, (B, H, W, 3) in [0, 1] → the same, float32.

    After the hair removal of the SE-LCN thesis (black-hat morphology, threshold, inpainting), in operations that run
    everywhere. Black-hat: the red channel, in which vessels and pigment are faintest, is closed along rows and along
    columns; a pixel is narrow and dark by how far it lies below both the higher of the two and the mean around it.
    Threshold: on the mean of that along lines of 16 orientations, less 1.5 times the mean around; the line must be
    unbroken, and it must be brighter on both sides, so that dots, borders and pigment network stay. It is followed into
    its fainter parts. Inpainting: a pyramid of averages weighted by how visible each pixel is, from coarse to fine.
    Where no hair is found, the image stays as it is.

    Lengths are in pixels of an image of side 224, the mean of height and width, and scale with it; the defaults are
    for dermoscopy. The mask is a constant to gradients.

    Args:
        threshold: what the mean along a line must exceed its surroundings by, above 0, in the unit of the image. Less
            finds fainter hairs and takes more of a lesion's texture.
        contrast: how much darker than its neighbourhood a pixel of a hair is, above 0, in the unit of the image.
        widest: widest hair, above 0; the closing and the mean are taken over it.
        length: of the lines that are looked for, above 0; hairs much shorter stay.

    Raises:
        ValueError: on arguments out of range, and on images whose height and width aren't known or have no 3 channels.

    Example:

    >>> HairRemoval()(keras.ops.ones((1, 64, 64, 3))).shape
    TensorShape([1, 64, 64, 3])
    """

    def __init__(self, threshold=0.02, contrast=0.038, widest=11.0, length=34.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        for name, value in (("threshold", threshold), ("contrast", contrast), ("widest", widest), ("length", length)):
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"`{name}` must be a number above 0. Received: {value}")
            setattr(self, name, float(value))

    def build(self, input_shape):
        _check(input_shape)

    def call(self, image):
        image = tf.cast(image, tf.float32)
        return fill(image, self.hair_mask(image))

    def hair_mask(self, image):
        """How much of each pixel is replaced, float32 (B, H, W, 1) in [0, 1], of an image as the layer takes it."""
        _check(image.shape)
        height, width = image.shape[1:3]
        grey = tf.cast(image[..., 0], tf.float32)
        dark = tf.nn.relu(self._narrow_dark(grey))[..., None]
        # Lines are looked for in the same detail at every side, at the same cost.
        factor = max(1, round(0.5 * (height + width) / COARSE))
        coarse = tf.nn.avg_pool2d(tf.minimum(dark, DARKEST), factor, factor, "SAME")
        length = scaled(self.length / factor, height, width)
        half = length // 2
        found = _either_half(tf.maximum, tf.nn.conv2d(coarse, line_filters(length, SURROUNDINGS), 1, "SAME"))
        # Beyond the image a line goes on.
        covered = _padded(tf.minimum(coarse / VISIBLE, 1.0), half, constant_values=1.0)
        covered = _either_half(tf.maximum, tf.nn.conv2d(covered, line_filters(length), 1, "VALID"))
        skin = _padded(tf.nn.avg_pool2d(grey[..., None], factor, factor, "SAME"), 5, mode="SYMMETRIC")
        sides = _either_half(tf.minimum, tf.nn.conv2d(skin, side_filters(), 1, "VALID"))
        evidence = tf.minimum(tf.minimum(found, BRIGHTER * sides) / self.threshold, 1.0 + STRICT * (covered - UNBROKEN))
        evidence, found = (tf.reduce_max(values, axis=-1, keepdims=True) for values in (evidence, found))
        certain = _largest(_over(evidence, 1.0), REACH)
        lines = _largest(certain * _over(found, CONTINUED * self.threshold), 3)
        lines = _enlarged(lines, factor)[:, :height, :width]
        # The edge of a hair is lighter than its middle.
        hair = _largest(lines * _over(dark, self.contrast), scaled(3.0, height, width))
        return tf.stop_gradient(hair)

    def _narrow_dark(self, grey):
        """How far each pixel lies below the closed image and below the mean around it, (B, H, W); may be negative."""
        height, width = grey.shape[1:]
        widest = scaled(self.widest, height, width)
        around = scaled(0.8 * self.widest, height, width)
        turned = _turn(grey)
        closed = tf.maximum(_close(grey, widest), _turn(_close(turned, widest)))
        mean = _mean(_turn(_mean(turned, around)), around)
        return tf.minimum(closed, mean) - grey

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        own = {"threshold": self.threshold, "contrast": self.contrast, "widest": self.widest, "length": self.length}
        return {**super().get_config(), **own}


def cleaned(image, hair_removal: bool = True):
    """An image inside a graph without its hairs; as it is where `hair_removal` isn't asked for."""
    return HairRemoval(dtype="float32", name="hair_removal")(image) if hair_removal else image


@lru_cache(maxsize=8)
def line_filters(length: int, surroundings: float = 0.0) -> np.ndarray:
    """Means along lines through the centre, (L, L, 1, orientations).

    The first half of the orientations are the even multiples of their distance, the second half the odd ones.

    Args:
        length: of the lines in pixels, odd.
        surroundings: so many times the mean of the disk around them is subtracted.
    """
    half = length // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    disk = (np.hypot(x, y) <= half + 0.5).astype(np.float64)
    steps = np.arange(ORIENTATIONS).reshape(-1, 2).T.ravel()
    lines = [_line(half, length, step * np.pi / ORIENTATIONS) for step in steps]
    return _stacked([line - surroundings * disk / disk.sum() for line in lines])


@lru_cache(maxsize=1)
def side_filters() -> np.ndarray:
    """How much brighter it is beside a short line than on it, on one side and on the other, (11, 11, 1, orientations).

    Each orientation lies between two of `line_filters`; those of one side are the first half.
    """
    angles = (np.arange(ORIENTATIONS // 2) + 0.25) * 2.0 * np.pi / ORIENTATIONS
    return _stacked([_line(5, 5, angle, side) - _line(5, 5, angle) for side in (-4.0, 4.0) for angle in angles])


def _line(half: int, length: float, angle: float, offset: float = 0.0) -> np.ndarray:
    """Weights of a line, 1.25 pixels wide and `offset` beside the centre; sum 1, (2 half + 1, 2 half + 1)."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    along = np.abs(np.cos(angle) * x + np.sin(angle) * y)
    across = np.abs(np.cos(angle) * y - np.sin(angle) * x - offset)
    line = np.clip(1.125 - across, 0.0, 1.0) * np.clip(0.5 * length - along, 0.0, 1.0)
    return line / line.sum()


def _stacked(filters: list[np.ndarray]) -> np.ndarray:
    return np.stack(filters, axis=-1)[:, :, None].astype(np.float32)


def fill(image: tf.Tensor, hair: tf.Tensor) -> tf.Tensor:
    """Replace hairs by what lies beside them.

    Down a pyramid, averages of the pixels weighted by how visible they are; a place of which a quarter is visible
    counts in full. Up again, each level keeps what it sees and takes the rest from the coarser one, smoothed on the
    levels below the finest. What not even the coarsest level sees gets the image's mean colour.

    Args:
        image: float32 (B, H, W, 3).
        hair: how much of each pixel to replace, float32 (B, H, W, 1) in [0, 1].

    Returns:
        float32 (B, H, W, 3); pixels without hair as they were.
    """
    height, width = image.shape[1:3]
    levels = max(1, round(math.log2(0.5 * (height + width) / 14.0)))
    weight = 1.0 - hair
    seen, seen_levels = image * weight, []
    for _ in range(levels):
        seen_levels.append((seen, 1.0 - weight))
        rest = [(0, 0), (0, seen.shape[1] % 2), (0, seen.shape[2] % 2), (0, 0)]
        # What lies outside the image weighs nothing.
        seen, weight = (tf.nn.avg_pool2d(tf.pad(values, rest), 2, 2, "VALID") for values in (seen, weight))
        counted = tf.minimum(4.0 * weight, 1.0)
        seen, weight = seen * (counted / tf.maximum(weight, 1e-6)), counted
    total = tf.reduce_sum(weight, (1, 2), keepdims=True)
    mean = tf.reduce_sum(seen, (1, 2), keepdims=True) / tf.maximum(total, 1e-6)
    filled = seen + (1.0 - weight) * mean
    for level in reversed(range(levels)):
        seen, hidden = seen_levels[level]
        size = (2 * filled.shape[1], 2 * filled.shape[2])
        filled = tf.image.resize(filled, size)[:, : seen.shape[1], : seen.shape[2]]
        filled = seen + hidden * filled
        for _ in range(SMOOTHED.get(level, 0)):
            filled = seen + hidden * tf.nn.avg_pool2d(filled, 3, 1, "SAME")
    return filled


def _check(shape) -> None:
    if len(shape) != 4 or shape[-1] != 3 or shape[1] is None or shape[2] is None:
        raise ValueError(f"`image` must have shape (B, H, W, 3) with known H and W. Received: {tuple(shape)}")


def _either_half(reduce, values: tf.Tensor) -> tf.Tensor:
    """The first half of the channels and the second, made one by `reduce`."""
    half = values.shape[-1] // 2
    return reduce(values[..., :half], values[..., half:])


def _padded(values: tf.Tensor, margin: int, **options) -> tf.Tensor:
    return tf.pad(values, [(0, 0), (margin, margin), (margin, margin), (0, 0)], **options)


def _over(values: tf.Tensor, level: float) -> tf.Tensor:
    """From 0 at 15 % below the level to 1 at 15 % above it: a step would not be the same in every runtime."""
    return tf.clip_by_value((values - 0.85 * level) * (1.0 / (0.3 * level)), 0.0, 1.0)


def _largest(values: tf.Tensor, side: int) -> tf.Tensor:
    """The maximum over squares, (B, H, W, 1)."""
    values = values[..., 0]
    for _ in range(2):
        pooled = tf.nn.max_pool2d(_as_channels(values), (side, 1), 1, "SAME")
        values = _turn(tf.reshape(pooled, (-1, *values.shape[1:])))
    return values[..., None]


def _enlarged(values: tf.Tensor, factor: int) -> tf.Tensor:
    """Each pixel of (B, H, W, 1) as a square of pixels; like the pooling, whole rows at once."""
    values = values[..., 0]
    for _ in range(2):
        rows = tf.concat([values[:, :, None]] * factor, axis=2)
        values = _turn(tf.reshape(rows, (-1, values.shape[1] * factor, values.shape[2])))
    return values[..., None]


def _turn(values: tf.Tensor) -> tf.Tensor:
    return tf.transpose(values, (0, 2, 1))


def _as_channels(values: tf.Tensor) -> tf.Tensor:
    """(B, H, W) as (B, H, 1, W): pooling along columns then works on whole rows at once, several times faster."""
    return tf.reshape(values, (-1, values.shape[1], 1, values.shape[2]))


def _close(values: tf.Tensor, length: int) -> tf.Tensor:
    """Morphological closing of (B, H, W) along columns; outside it is black, so that dark edges stay dark."""
    rows = tf.pad(_as_channels(values), [(0, 0), (length - 1, length - 1), (0, 0), (0, 0)])
    for _ in range(2):
        rows = -tf.nn.max_pool2d(rows, (length, 1), 1, "VALID")
    return tf.reshape(rows, (-1, *values.shape[1:]))


def _mean(values: tf.Tensor, length: int) -> tf.Tensor:
    """Running mean of (B, H, W) along columns."""
    return tf.reshape(tf.nn.avg_pool2d(_as_channels(values), (length, 1), 1, "SAME"), (-1, *values.shape[1:]))
