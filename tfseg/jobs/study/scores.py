"""Scores of a study that need no network: masks made without looking, and counts at the network's own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.evaluation.scores import TestScores
from tfseg.evaluation.segmentation import IGNORED, lesion_of_classes, mask_scores, restored_maps, surface_scores


def baseline_mask(kind: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """A mask made without looking at the image: all lesion (``"foreground"``), or each pixel with probability ½."""
    return np.ones(shape, bool) if kind == "foreground" else generator.random(shape) < 0.5


def baseline_scores(cases: Cases, kind: str, seed: int = 0, surfaces: bool = False) -> pd.DataFrame:
    """Scores of `baseline_mask` at the mask files' own resolution, as `score_cases` gives them.

    An all-foreground mask is wrong in the background's pixels and its union with the truth is the image: its IoU and
    its pixel error sum to 1.

    Args:
        cases: N cases; those without a mask file are left out.
        kind: ``"foreground"`` or ``"random"``.
        seed: of the random mask.
        surfaces: see `score_cases`.
    """
    generator, rows = np.random.default_rng(seed), []
    for case, classes, _ in restored_maps(cases, np.zeros((len(cases), 1, 1, 1), np.float32)):
        true, valid = lesion_of_classes(classes, cases), classes != IGNORED
        predicted = baseline_mask(kind, true.shape, generator)
        scores = mask_scores(true, predicted, valid)
        if surfaces:
            scores |= surface_scores(true & valid, predicted & valid)
        rows.append({"id": case["id"], "label": case["label"], **scores})
    return pd.DataFrame(rows)


def model_size_scores(arrays: CaseArrays, positions: np.ndarray, predicted: np.ndarray) -> dict[str, list[float]]:
    """The scores of masks at the network's size: metric, ending in ``_model_size``, → one value per case.

    Args:
        arrays: decoded cases.
        positions: the cases, (n,).
        predicted: bool (n, S, S).
    """
    scores = [
        mask_scores(true, found, classes != IGNORED)
        for true, found, classes in zip(arrays.lesions_at(positions), predicted, arrays.masks[positions], strict=True)
    ]
    return {f"{name}_model_size": [row[name] for row in scores] for name in scores[0]}


def polarity(arrays: CaseArrays, positions: np.ndarray, maps: np.ndarray) -> dict[str, float]:
    """The mean lesion probability inside and outside of the true lesions: a network that learned the background by
    mistake has the larger one outside.

    Args:
        arrays, positions: see `model_size_scores`.
        maps: (n, S, S) in [0, 1].

    Returns:
        ``probability_inside`` and ``probability_outside``; NaN where there are no such pixels.
    """
    inside = arrays.lesions_at(positions)
    outside = ~inside & (arrays.masks[positions] != IGNORED)
    parts = {"probability_inside": maps[inside], "probability_outside": maps[outside]}
    return {name: float(values.mean()) if values.size else float("nan") for name, values in parts.items()}


@dataclass(frozen=True)
class MaskScores(TestScores):
    """Test scores of a segmenter, whose means may be taken within each label first.

    Args:
        labels: class index of each case, int (n,), −1 where unknown.
        over_labels: the metrics are the unweighted mean over the labels of each label's mean, cases without a label
            left out; else the mean over all cases.
    """

    labels: np.ndarray = field(default_factory=lambda: np.array([], np.int64))
    over_labels: bool = False

    def metrics(self, classes: Sequence[str], positions: np.ndarray | None = None) -> dict[str, float]:
        """The mean scores over all cases, or over those at `positions` (which may repeat)."""
        if not self.over_labels:
            return super().metrics(classes, positions)
        chosen = np.arange(len(self.groups)) if positions is None else positions
        results = {}
        for name, values in self.per_case.items():
            here = values[chosen]
            known = ~np.isnan(here) & (self.labels[chosen] >= 0)
            counts = np.bincount(self.labels[chosen][known])
            sums = np.bincount(self.labels[chosen][known], here[known])
            present = counts > 0
            results[name] = float((sums[present] / counts[present]).mean()) if present.any() else float("nan")
        return results
