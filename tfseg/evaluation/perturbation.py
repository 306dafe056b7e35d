"""Insertion and deletion: does the score follow the pixels that a saliency map names first?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PixelCurves:
    """The score of each image while its pixels are exchanged in the order of its map.

    Args:
        fractions: share of the pixels that were exchanged, from 0 to 1, float (steps + 1,).
        scores: of the image's class, float (N, steps + 1).
    """

    fractions: np.ndarray
    scores: np.ndarray

    @property
    def auc(self) -> np.ndarray:
        """Area under each curve by trapezia, (N,); that of a constant score is the score."""
        return np.trapezoid(self.scores, self.fractions, axis=1)


def deletion(
    predict: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    saliency: np.ndarray,
    classes: np.ndarray,
    steps: int = 32,
    fill: np.ndarray | float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
) -> PixelCurves:
    """The most salient pixels are removed first; a good map's score falls fast, and its area is small.

    Source: Petsiuk et al. 2018 (RISE), section 4.1.

    Args:
        predict: images (n, H, W, C) → probabilities (n, classes).
        images: (N, H, W, C), of the kind that `predict` takes.
        saliency: (N, H, W).
        classes: whose probability is followed, int (N,).
        steps: how many times pixels are exchanged, as evenly as their number allows.
        fill: what stands in place of a removed pixel: a number, a colour (C,), or images.
        batch_size: images per call of `predict`.
        seed: pixels of equal saliency are exchanged in random order, which it draws.

    Raises:
        ValueError: shapes that don't fit, or `steps` out of range.
    """
    images = np.asarray(images)
    filled = np.broadcast_to(np.asarray(fill, images.dtype), images.shape)
    return _exchanged(predict, images, filled, saliency, classes, steps, batch_size, seed)


def insertion(
    predict: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    saliency: np.ndarray,
    classes: np.ndarray,
    steps: int = 32,
    start: np.ndarray | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> PixelCurves:
    """The most salient pixels are put first onto a blurred image; a good map's score rises fast, and its area is large.

    Source: Petsiuk et al. 2018 (RISE), section 4.1.

    Args:
        start: images to begin with; None: the images blurred.

    The others, and Raises: as `deletion`.
    """
    images = np.asarray(images)
    start = blurred(images) if start is None else np.broadcast_to(np.asarray(start, images.dtype), images.shape)
    return _exchanged(predict, start, images, saliency, classes, steps, batch_size, seed)


def blurred(images: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Images (N, H, W, C) under a Gaussian whose standard deviation is this share of their width."""
    import cv2

    sigma = share * images.shape[2]
    return np.stack([cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape) for image in images])


def _exchanged(predict, before, after, saliency, classes, steps, batch_size, seed):
    saliency, classes = np.asarray(saliency), np.asarray(classes)
    count, pixels = len(before), int(np.prod(before.shape[1:3]))
    if saliency.shape != before.shape[:3] or classes.shape != (count,):
        raise ValueError(
            f"`saliency` and `classes` must be {before.shape[:3]} and ({count},) as the images, received "
            f"{saliency.shape} and {classes.shape}"
        )
    if not 1 <= steps <= pixels or batch_size < 1:
        raise ValueError(f"`steps` must lie in [1, {pixels}] and `batch_size` be ≥ 1, received {steps}, {batch_size}")
    exchanged = np.round(np.linspace(0, pixels, steps + 1)).astype(int)
    ranks = _ranks(saliency.reshape(count, pixels), seed).reshape(saliency.shape)
    scores = np.empty((count, steps + 1))
    places = np.stack(np.meshgrid(np.arange(count), np.arange(steps + 1), indexing="ij"), -1).reshape(-1, 2)
    for first in range(0, len(places), batch_size):
        image, step = places[first : first + batch_size].T
        done = ranks[image] < exchanged[step][:, None, None]
        probabilities = np.asarray(predict(np.where(done[..., None], after[image], before[image])))
        scores[image, step] = probabilities[np.arange(len(image)), classes[image]]
    return PixelCurves(exchanged / pixels, scores)


def _ranks(values: np.ndarray, seed: int) -> np.ndarray:
    """Place of each value in its row's decreasing order, 0 the largest; equals in random order."""
    order = np.lexsort((np.random.default_rng(seed).random(values.shape), -values), axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(values.shape[1])[None], axis=1)
    return ranks
