"""What a decision rests on, case by case: where its map lies, what it relies on, and whether it follows its map."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tfseg.evaluation.perturbation import deletion, insertion
from tfseg.evaluation.reliance import reliance
from tfseg.evaluation.scores import localisation_scores
from tfseg.metrics.localisation import dilate


def explanation_scores(
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    images: np.ndarray,
    lesions: np.ndarray,
    known: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    steps: int = 0,
) -> dict[str, np.ndarray]:
    """Localisation of the map, reliance of the decision, and insertion and deletion.

    Args:
        predict: changed images, uint8 (n, H, W, 3), and which case each of them stands for, int (n,) in [0, N) →
            probabilities (n, C). For reliance it is called twice, each time with one image of every case with a lesion,
            in their order: with another background, then with another lesion. For insertion and deletion it is called
            with up to 64 versions of one image.
        images: uint8 (N, H, W, 3).
        lesions: true masks, bool (N, H, W).
        known: whether a case has a mask, bool (N,); of the others `lesions` is not looked at.
        outputs: of the model for the unchanged images: ``probabilities`` (N, C), and ``saliency`` (N, H, W, 1) in
            [0, 1] where it has a map.
        seed: draws the donors of regions, and the order of pixels that are equally salient.
        steps: in how many steps pixels are exchanged for insertion and deletion; 0 leaves both out.

    Returns:
        Per case, float (N,), NaN where a score says nothing: those of `localisation_scores`, where there is a map and
        a case with a lesion; those of `reliance` on the lesion dilated once, where at least two cases have a lesion;
        and with `steps` and a map ``insertion_auc`` and ``deletion_auc`` of the predicted class.

    Raises:
        ValueError: `steps` above the number of pixels, or shapes that don't fit.
    """
    scores: dict[str, np.ndarray] = {}
    probabilities, saliency = outputs["probabilities"], outputs.get("saliency")
    present = _with_lesion(lesions, known)
    if saliency is not None and len(present):
        scores |= _spread(localisation_scores(saliency[present, ..., 0], lesions[present]), present, len(images))
    if len(present) > 1:
        moved = reliance(
            lambda changed: predict(changed, present),
            images[present],
            dilate(lesions[present]),
            probabilities[present],
            seed,
        )
        scores |= _spread(moved, present, len(images))
    if saliency is not None and steps:
        for name, curves in (("insertion_auc", insertion), ("deletion_auc", deletion)):
            scores[name] = np.array(
                [
                    curves(
                        lambda changed, position=position: predict(changed, np.full(len(changed), position)),
                        images[position : position + 1],
                        saliency[position : position + 1, ..., 0],
                        probabilities[position : position + 1].argmax(1),
                        steps,
                        seed=seed + position,
                    ).auc[0]
                    for position in range(len(images))
                ]
            )
    return scores


def prediction_count(lesions: np.ndarray, known: np.ndarray, steps: int = 0) -> int:
    """How many images `explanation_scores` gives to `predict` where the model has a map; its arguments."""
    present = len(_with_lesion(lesions, known))
    swapped = 2 * present if present > 1 else 0
    return swapped + (2 * len(lesions) * (steps + 1) if steps else 0)


def _with_lesion(lesions: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.flatnonzero(known & lesions.any((1, 2)))


def _spread(scores: Mapping[str, np.ndarray], positions: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Scores of some of the cases as those of all, NaN where there are none."""
    spread = {name: np.full(count, np.nan) for name in scores}
    for name, values in scores.items():
        spread[name][positions] = values
    return spread
