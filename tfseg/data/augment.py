"""Augmentation: one warp for a batch's images and maps, drawn from numbers that come with each case."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

DRAWS = 6


@dataclass(frozen=True)
class Augmentation:
    """How far a training image may be moved; every case draws its own transform.

    Args:
        flips: mirror left–right and up–down, each with probability one half.
        rotation: largest angle, in degrees, either way.
        zoom: largest relative change of scale, in [0, 1).
        shift: largest shift, as a share of the side, in [0, 1).
        fill: what appears beyond the border: ``"reflect"``, ``"nearest"``, ``"wrap"`` or ``"constant"`` (zero).
    """

    flips: bool = True
    rotation: float = 180.0
    zoom: float = 0.1
    shift: float = 0.05
    fill: str = "reflect"

    def __post_init__(self):
        if not 0.0 <= self.zoom < 1.0 or not 0.0 <= self.shift < 1.0 or not 0.0 <= self.rotation <= 180.0:
            raise ValueError(
                "`zoom` and `shift` must lie in [0, 1) and `rotation` in [0, 180]; "
                f"received zoom={self.zoom}, shift={self.shift}, rotation={self.rotation}"
            )
        if self.fill not in ("reflect", "nearest", "wrap", "constant"):
            raise ValueError(f"`fill` must be reflect, nearest, wrap or constant, received {self.fill!r}")


def transforms(augmentation: Augmentation, draws, height: int, width: int):
    """The projective transforms that the draws stand for, in TensorFlow's order (output pixel → input pixel).

    Args:
        draws: uniform in [0, 1), (B, `DRAWS`).
        height, width: of the images, in pixels.

    Returns:
        float32 (B, 8).
    """
    centred = 2.0 * draws - 1.0
    angle = centred[:, 0] * (math.pi / 180.0) * augmentation.rotation
    scale = 1.0 + centred[:, 1] * augmentation.zoom
    shift_x = centred[:, 2] * augmentation.shift * width
    shift_y = centred[:, 3] * augmentation.shift * height
    mirror = [tf.where((draws[:, column] < 0.5) & augmentation.flips, -1.0, 1.0) for column in (4, 5)]
    # About the centre of the pixel grid; an image that isn't square is rotated in pixels, not in shares of its sides.
    centre_x, centre_y = (width - 1) / 2.0, (height - 1) / 2.0
    a = tf.cos(angle) * mirror[0] / scale
    b = -tf.sin(angle) * mirror[1] / scale
    d = tf.sin(angle) * mirror[0] / scale
    e = tf.cos(angle) * mirror[1] / scale
    c = centre_x + shift_x - a * centre_x - b * centre_y
    f = centre_y + shift_y - d * centre_x - e * centre_y
    zero = tf.zeros_like(a)
    return tf.stack([a, b, c, d, e, f, zero, zero], axis=1)


def warp(augmentation: Augmentation, draws, image, classes, probability=None):
    """Move images and maps together.

    Args:
        augmentation: how far.
        draws: uniform in [0, 1), (B, `DRAWS`).
        image: float32 (B, H, W, 3), bilinear.
        classes: class indices as float32 (B, H, W, 1), nearest neighbour.
        probability: float32 (B, H, W, 1), bilinear; or None.

    Returns:
        The three, moved.
    """
    height, width = image.shape[1], image.shape[2]
    matrices = transforms(augmentation, draws, height, width)

    def move(values, interpolation):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=values, transforms=matrices, output_shape=[height, width], fill_value=0.0,
            interpolation=interpolation, fill_mode=augmentation.fill.upper(),
        )  # fmt: skip

    smooth = image if probability is None else tf.concat([image, probability], -1)
    smooth = move(smooth, "BILINEAR")
    classes = move(classes, "NEAREST")
    return smooth[..., :3], classes, None if probability is None else smooth[..., 3:]
