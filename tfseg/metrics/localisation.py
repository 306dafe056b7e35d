"""Where a saliency map lies: on the lesion or beside it (SE-LCN thesis, CAM localisation, Tables 7 and 9).

All functions give one value per image; the mean over images is the caller's. An image whose region is empty
has nothing to be found: its value is NaN, to be left out of the mean (`numpy.nanmean`). An all-zero map
points nowhere: its value is 0.
"""

from __future__ import annotations

import numpy as np


def cam_iou(saliency: np.ndarray, region: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """|X∩Y| / |X∪Y| of the salient pixels X and the region Y.

    Args:
        saliency: (N, H, W) in [0, 1].
        region: bool (N, H, W).
        threshold: pixels with at least this saliency are salient, in (0, 1].

    Returns:
        float64 (N,); NaN where the region is empty.

    Raises:
        ValueError: when shapes or the range do not fit.
    """
    salient, region = _salient(saliency, region, threshold)
    intersection = np.count_nonzero(salient & region, axis=(1, 2))
    union = np.count_nonzero(salient | region, axis=(1, 2))
    return _where_region(intersection / np.maximum(union, 1), region)


def cam_overlap(saliency: np.ndarray, region: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """|X∩Y| / |X|: the part of the salient pixels X that lies in the region Y; 0 where nothing is salient.

    Args:
        saliency: (N, H, W) in [0, 1].
        region: bool (N, H, W).
        threshold: pixels with at least this saliency are salient, in (0, 1].

    Returns:
        float64 (N,); NaN where the region is empty.

    Raises:
        ValueError: when shapes or the range do not fit.
    """
    salient, region = _salient(saliency, region, threshold)
    intersection = np.count_nonzero(salient & region, axis=(1, 2))
    return _where_region(intersection / np.maximum(np.count_nonzero(salient, axis=(1, 2)), 1), region)


def cam_pointing(saliency: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Pointing game: whether the map's maximum lies in the region.

    Where several pixels share the maximum, the value is the share of them that lies in the region, which is
    what choosing one of them at random would score on average.

    Args:
        saliency: (N, H, W) in [0, 1].
        region: bool (N, H, W).

    Returns:
        float64 (N,) in [0, 1]; NaN where the region is empty.

    Raises:
        ValueError: when shapes or the range do not fit.
    """
    saliency, region = _checked(saliency, region)
    highest = saliency.max(axis=(1, 2), keepdims=True)
    points = (saliency == highest) & (highest > 0)
    hits = np.count_nonzero(points & region, axis=(1, 2))
    return _where_region(hits / np.maximum(np.count_nonzero(points, axis=(1, 2)), 1), region)


def dilation_side(width: int) -> int:
    """Side of the dilating square in pixels: 5 % of the image's width, rounded up."""
    # In integers: 0.05 * 140 is a little more than 7, and its ceiling would be 8.
    return -(-width // 20)


def dilate(mask: np.ndarray, times: int = 1) -> np.ndarray:
    """Grow a mask by a square of 5 % of its width, as often as asked.

    The thesis measures localisation against the mask dilated twice; background swap dilates once. A square of
    even side reaches one pixel further to the right and down.

    Args:
        mask: bool (H, W) or (N, H, W).
        times: how often, ≥ 0.

    Returns:
        bool, of the mask's shape.

    Raises:
        ValueError: when the mask has another rank or `times` is negative.
    """
    import cv2

    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or times < 0:
        raise ValueError(f"`mask` must be (H, W) or (N, H, W) and `times` ≥ 0, received {mask.shape} and {times}")
    side = dilation_side(mask.shape[-1])
    square = np.ones((side, side), np.uint8)
    masks = mask.reshape(-1, *mask.shape[-2:]).astype(bool).astype(np.uint8)
    grown = [cv2.dilate(one, square, iterations=times) if times else one for one in masks]
    return np.array(grown, bool).reshape(mask.shape)


def _checked(saliency: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    saliency, region = np.asarray(saliency), np.asarray(region)
    if saliency.ndim != 3 or saliency.shape != region.shape:
        raise ValueError(
            f"`saliency` and `region` must both be (N, H, W), received {saliency.shape} and {region.shape}"
        )
    if saliency.size and not (saliency.min() >= 0 and saliency.max() <= 1 + 1e-6):
        raise ValueError(f"`saliency` must lie in [0, 1], received {saliency.min()} to {saliency.max()}")
    return saliency, region.astype(bool)


def _salient(saliency, region, threshold) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` must lie in (0, 1], received {threshold}")
    saliency, region = _checked(saliency, region)
    return saliency >= threshold, region


def _where_region(values: np.ndarray, region: np.ndarray) -> np.ndarray:
    return np.where(region.any(axis=(1, 2)), values, np.nan)
