"""From a probability map to a mask: threshold, clean-up, and the average over flips. No TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from tfseg.data.cases import MaskClasses
from tfseg.names import Flips

Threshold = float | Literal["otsu"]
# The axes of (B, H, W, C) along which each of the averaged images is mirrored; the image itself comes first.
FLIPS: Mapping[Flips, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (2,)),
    "vertical": ((), (1,)),
    "both": ((), (2,), (1,), (1, 2)),
}


def otsu_threshold(probability: np.ndarray, valid: np.ndarray | None = None) -> float:
    """The threshold that parts a map's values into the two groups of least variance within (Otsu 1979).

    Values are rounded to 256 levels. A map of one value has no two groups: its threshold is 0.5.

    Args:
        probability: (H, W) in [0, 1].
        valid: bool (H, W), False where pixels count nowhere; None where all count.

    Returns:
        The probability from which a pixel is lesion, half a level above the darker group.

    Raises:
        ValueError: when the map's rank or range doesn't fit.
    """
    import cv2

    probability = _checked_map(probability)
    values = probability if valid is None else probability[np.asarray(valid, bool)]
    levels = np.round(255.0 * values).astype(np.uint8)
    if not levels.size or levels.min() == levels.max():
        return 0.5
    level, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float((level + 0.5) / 255.0)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask whose pixels touch, by a side or a corner; of equal ones the first from the top.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W); an empty mask stays empty.
    """
    from scipy import ndimage

    parts, count = ndimage.label(_checked_mask(mask), structure=np.ones((3, 3)))
    if count < 2:
        return mask.copy()
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A mask with every hole filled: background that no path over sides of pixels connects with the border.

    Args:
        mask: bool (H, W).

    Returns:
        bool (H, W).
    """
    from scipy import ndimage

    return ndimage.binary_fill_holes(_checked_mask(mask))


POSTPROCESSING: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "largest_component": largest_component,
    "fill_holes": fill_holes,
}


def binarise(
    probability: np.ndarray,
    threshold: Threshold = 0.5,
    postprocessing: Sequence[str] = (),
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Turn a probability map into a mask.

    Args:
        probability: (H, W) in [0, 1].
        threshold: probability from which a pixel is lesion, or ``"otsu"`` for the map's own.
        postprocessing: names out of `POSTPROCESSING`, applied in this order.
        valid: bool (H, W), False where pixels count nowhere; Otsu's threshold leaves them out.

    Returns:
        bool (H, W).

    Raises:
        ValueError: an unknown threshold or name.
    """
    check_binarisation(threshold, postprocessing)
    level = otsu_threshold(probability, valid) if threshold == "otsu" else threshold
    return _cleaned(np.asarray(probability) >= level, postprocessing)


def check_binarisation(threshold: Threshold, postprocessing: Sequence[str] = ()) -> None:
    """Raise a ValueError unless both are what `binarise` takes."""
    if threshold != "otsu" and (isinstance(threshold, str) or not 0.0 <= threshold <= 1.0):
        raise ValueError(f'`threshold` must lie in [0, 1] or be "otsu", received {threshold!r}')
    if isinstance(postprocessing, str) or not set(postprocessing) <= set(POSTPROCESSING):
        raise ValueError(f"`postprocessing` must hold names out of {list(POSTPROCESSING)}, received {postprocessing!r}")


def class_mask(probabilities: np.ndarray, mask_classes: MaskClasses, postprocessing: Sequence[str] = ()) -> np.ndarray:
    """The class of every pixel: with one channel the lesion from 0.5 on, else the most probable class.

    Post-processing looks at the lesion, the union of its classes. A pixel that it takes from the lesion gets its most
    probable class outside of the lesion, one that it adds its most probable lesion class.

    Args:
        probabilities: (H, W, C) in [0, 1], the mask's channels.
        mask_classes: what the channels are.
        postprocessing: names out of `POSTPROCESSING`, applied in this order.

    Returns:
        Class indices, uint8 (H, W).

    Raises:
        ValueError: an unknown name.
    """
    probabilities = np.asarray(probabilities)
    if mask_classes.channels == 1:
        return binarise(probabilities[..., 0], postprocessing=postprocessing).astype(np.uint8)
    check_binarisation(0.5, postprocessing)
    classes = probabilities.argmax(-1).astype(np.uint8)
    lesion = np.array(mask_classes.lesion_channels)
    other = np.setdiff1d(np.arange(mask_classes.channels), lesion)
    before = np.isin(classes, lesion)
    after = _cleaned(before, postprocessing)
    for changed, allowed in ((before & ~after, other), (after & ~before, lesion)):
        classes[changed] = allowed[probabilities[changed][:, allowed].argmax(-1)]
    return classes


def flip_average(predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray, flips: Flips = "both") -> np.ndarray:
    """Test-time augmentation: the mean of the maps of an image and its mirror images, each mirrored back.

    Args:
        predict: images (B, H, W, 3) → maps (B, H, W, C), such as a mask's probabilities. It is called once for each of
            the averaged images, for those as they are first.
        images: (B, H, W, 3), of any type that `predict` takes.
        flips: ``"horizontal"`` averages the image and its left–right mirror image, ``"vertical"`` the image and its
            up–down one, ``"both"`` these three and the image mirrored both ways, ``"none"`` takes the image alone.

    Returns:
        float32 (B, H, W, C).

    Raises:
        ValueError: unknown flips, or maps that don't have the images' height and width.
    """
    if flips not in FLIPS:
        raise ValueError(f"`flips` must be one of {list(FLIPS)}, received {flips!r}")
    images = np.asarray(images)
    total = np.float32(0.0)
    for axes in FLIPS[flips]:
        maps = np.asarray(predict(np.ascontiguousarray(np.flip(images, axes))), np.float32)
        if maps.ndim != 4 or maps.shape[:3] != images.shape[:3]:
            raise ValueError(f"`predict` must give (B, H, W, C) for images {images.shape}, it gave {maps.shape}")
        total = total + np.flip(maps, axes)
    return total / np.float32(len(FLIPS[flips]))


def _cleaned(mask: np.ndarray, postprocessing: Sequence[str]) -> np.ndarray:
    for name in postprocessing:
        mask = POSTPROCESSING[name](mask)
    return mask


def _checked_map(probability: np.ndarray) -> np.ndarray:
    probability = np.asarray(probability)
    if probability.ndim != 2:
        raise ValueError(f"`probability` must be (H, W), received {probability.shape}")
    # Sums of softmax channels and interpolation may exceed 1 in the last bits.
    if probability.size and not (probability.min() >= -1e-3 and probability.max() <= 1.0 + 1e-3):
        raise ValueError(f"`probability` must lie in [0, 1], received {probability.min()} to {probability.max()}")
    return np.clip(probability, 0.0, 1.0)


def _checked_mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"`mask` must be boolean (H, W), received {mask.dtype} {mask.shape}")
    return mask
