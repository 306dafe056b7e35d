"""Hairs on photographs of skin: removed before anything is learned, and drawn on where the truth must be known.

`remove_hair` is the classical way, for preparing a dataset; `tfseg.layers.hair` does it inside a model. Lengths are
given for an image of side 224, the mean of its height and width, and scale with it.
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 224
# Hairs are drawn on a grid this many times finer, and averaged down.
_FINE = 4
_DARK_BROWN = np.array([60.0, 42.0, 32.0], np.float32)


def scaled(length: float, height: int, width: int, least: int = 3) -> int:
    """The odd whole number of pixels, at least `least`, that `length` at side 224 is in an image of this size."""
    return max(least, 2 * int(0.25 * length * (height + width) / SIDE) + 1)


def remove_hair(
    image: np.ndarray, kernel: float = 9.0, threshold: int = 15, shortest: float = 16.0, radius: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Black-hat morphology, threshold, and inpainting by fast marching (Telea 2004), as the SE-LCN thesis names it.

    The thesis gives no numbers. The defaults keep more of a lesion than the usual ones (a threshold of 10, every
    component): what is dark, narrow and short is a dot or a piece of pigment network.

    Args:
        image: uint8 (H, W, 3), RGB.
        kernel: side of the cross by which the grey image is closed; wider structures stay.
        threshold: grey levels by which a pixel must be darker than the closed image.
        shortest: components whose bounding box has a shorter diagonal are no hairs.
        radius: of the inpainting; `kernel`, `shortest` and `radius` are in pixels of an image of side 224.

    Returns:
        The image without hairs, uint8 (H, W, 3), and the pixels that were replaced, bool (H, W).

    Raises:
        ValueError: `image` is not uint8 (H, W, 3).
    """
    _check(image)
    height, width = image.shape[:2]
    scale = 0.5 * (height + width) / SIDE
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (scaled(kernel, height, width),) * 2)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    narrow = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, cross) > threshold
    _, components, boxes, _ = cv2.connectedComponentsWithStats(narrow.astype(np.uint8), connectivity=8)
    long = np.hypot(boxes[:, cv2.CC_STAT_WIDTH], boxes[:, cv2.CC_STAT_HEIGHT]) >= shortest * scale
    long[0] = False
    # The edge of a hair is lighter than its middle, and below the threshold.
    edge = np.ones((scaled(3.0, height, width),) * 2, np.uint8)
    hair = cv2.dilate(long[components].astype(np.uint8), edge)
    return cv2.inpaint(image, hair, radius * scale, cv2.INPAINT_TELEA), hair.astype(bool)


def draw_hair(
    image: np.ndarray, rng: np.random.Generator, count: int = 8, opacity: tuple[float, float] = (0.7, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Draw curved hairs, 1 to 4 pixels wide at side 224, from black to dark brown, over an image.

    Args:
        image: uint8 (H, W, 3), RGB.
        rng: source of places, bends, widths and colours; the same state draws the same hairs.
        count: of the hairs, 0 or more.
        opacity: each hair's lies between these, in [0, 1].

    Returns:
        The image with hairs, uint8 (H, W, 3), and the pixels that a hair covers, if only in part, bool (H, W);
        all others stay as they are. A hair makes no pixel lighter.

    Raises:
        ValueError: `image` is not uint8 (H, W, 3).
    """
    _check(image)
    height, width = image.shape[:2]
    side = 0.5 * (height + width)
    drawn, covered = image.astype(np.float32), np.zeros((height, width), bool)
    t = np.linspace(0.0, 1.0, 24)[:, None]
    for _ in range(count):
        direction = rng.uniform(0.0, 2.0 * np.pi)
        along = rng.uniform(0.15, 0.5) * side * np.array([np.cos(direction), np.sin(direction)])
        bend = rng.normal(0.0, 0.35) * np.array([-along[1], along[0]])
        curve = rng.uniform(0.0, 1.0, 2) * (width, height) + along * (2.0 * t - 1.0) + bend * (4.0 * t * (1.0 - t))
        thickness = max(1, round(rng.uniform(1.0, 4.0) * _FINE * side / SIDE))
        canvas = np.zeros((height * _FINE, width * _FINE), np.uint8)
        points = np.round(curve * _FINE * 16.0).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, thickness, cv2.LINE_8, 4)
        share = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
        colour = np.minimum(_DARK_BROWN * np.float32(rng.uniform(0.2, 1.3)), drawn)
        drawn += np.float32(rng.uniform(*opacity)) * share[..., None] * (colour - drawn)
        covered |= share > 0.0
    return np.round(drawn).astype(np.uint8), covered


def _check(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"`image` must be uint8 (H, W, 3), received {image.dtype} {image.shape}")
