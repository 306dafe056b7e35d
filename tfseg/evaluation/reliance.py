"""What a decision uses: does it change when the background, or the lesion, is another image's?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def replace_region(images: np.ndarray, regions: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """Take the pixels of each region from another image.

    Args:
        images: (N, H, W, 3).
        regions: bool (N, H, W), the pixels to replace.
        donors: which image gives them, int (N,).

    Returns:
        A copy of the images with the regions replaced.
    """
    return np.where(regions[..., None], images[donors], images)


def draw_donors(count: int, seed: int) -> np.ndarray:
    """For every image another one, int (count,): a random cycle, so that nobody is their own donor.

    Raises:
        ValueError: fewer than two images.
    """
    if count < 2:
        raise ValueError(f"at least two images are needed to swap regions, received {count}")
    order = np.random.default_rng(seed).permutation(count)
    donors = np.empty(count, np.int64)
    donors[order] = np.roll(order, 1)
    return donors


def reliance(
    predict: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    regions: np.ndarray,
    probabilities: np.ndarray,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """How far predictions move when the background or the lesion is swapped for another image's.

    A decision that rests on the lesion keeps its class when the background changes, and changes when the
    lesion does. Where the donor has its own lesion the background stays as it is: swapped in, that lesion would
    move a decision that reads lesions.

    Args:
        predict: images uint8 (n, H, W, 3) → probabilities (n, C).
        images: uint8 (N, H, W, 3).
        regions: the dilated lesion, bool (N, H, W).
        probabilities: of the unchanged images, (N, C).
        seed: draws the donors.

    Returns:
        Per image, float (N,): ``background_flip_rate`` and ``lesion_flip_rate`` (1 where the predicted class
        changes) and ``background_total_variation`` and ``lesion_total_variation`` (half the sum of absolute
        differences of the probabilities, in [0, 1]).
    """
    donors = draw_donors(len(images), seed)
    results = {}
    for name, replaced in (("background", ~regions & ~regions[donors]), ("lesion", regions)):
        changed = predict(replace_region(images, replaced, donors))
        results[f"{name}_flip_rate"] = (changed.argmax(1) != probabilities.argmax(1)).astype(float)
        results[f"{name}_total_variation"] = 0.5 * np.abs(changed - probabilities).sum(1)
    return results
