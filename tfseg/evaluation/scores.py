"""From test outputs to the row of a table: every metric with its interval, over folds or by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tfseg.evaluation.classification import classification_metrics, confusion_matrix, per_class_metrics
from tfseg.evaluation.statistics import bootstrap_intervals, summarise
from tfseg.metrics.localisation import cam_iou, cam_overlap, cam_pointing, dilate

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class TestScores:
    """What is known of the test cases of one fold, in one order.

    Args:
        groups: of each case, (n,).
        true: class indices, int (n,); None for a segmenter.
        probabilities: (n, C); None for a segmenter.
        per_case: metric name → one value per case, float (n,); NaN where it says nothing.
    """

    groups: np.ndarray
    true: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    per_case: dict[str, np.ndarray] = field(default_factory=dict)

    def subset(self, positions: np.ndarray) -> TestScores:
        """The cases at these positions, in this order."""
        return TestScores(
            self.groups[positions],
            None if self.true is None else self.true[positions],
            None if self.probabilities is None else self.probabilities[positions],
            {name: values[positions] for name, values in self.per_case.items()},
        )

    @classmethod
    def joined(cls, folds: Sequence[TestScores]) -> TestScores:
        """The cases of several folds after each other; a score that a fold lacks is NaN there."""
        names = dict.fromkeys(name for fold in folds for name in fold.per_case)
        known = folds[0].true is not None
        return cls(
            np.concatenate([fold.groups for fold in folds]),
            np.concatenate([fold.true for fold in folds]) if known else None,
            np.concatenate([fold.probabilities for fold in folds]) if known else None,
            {
                name: np.concatenate([fold.per_case.get(name, np.full(len(fold.groups), np.nan)) for fold in folds])
                for name in names
            },
        )

    def metrics(self, classes: Sequence[str], positions: np.ndarray | None = None) -> dict[str, float]:
        """The metrics over all cases, or over those at `positions` (which may repeat)."""
        chosen = np.arange(len(self.groups)) if positions is None else positions
        results = {}
        if self.true is not None:
            results |= classification_metrics(self.true[chosen], self.probabilities[chosen], classes)
        for name, values in self.per_case.items():
            known = values[chosen][~np.isnan(values[chosen])]
            results[name] = float(known.mean()) if len(known) else float("nan")
        return results


def localisation_scores(saliency: np.ndarray, lesions: np.ndarray) -> dict[str, np.ndarray]:
    """CAM localisation against the true mask dilated twice (SE-LCN, Tables 7 and 9), per image.

    Args:
        saliency: (n, H, W) in [0, 1].
        lesions: true masks, bool (n, H, W).

    Returns:
        ``cam_iou``, ``cam_overlap``, ``cam_pointing``, and ``cam_iou_undilated``, the IoU with the mask as it is, which
        is what CEntIoU is trained towards; float (n,), NaN where there is no lesion.
    """
    regions = np.where(lesions.any((1, 2), keepdims=True), dilate(lesions, 2), False)
    return {
        "cam_iou": cam_iou(saliency, regions),
        "cam_iou_undilated": cam_iou(saliency, lesions),
        "cam_overlap": cam_overlap(saliency, regions),
        "cam_pointing": cam_pointing(saliency, regions),
    }


def summarise_row(
    name: str,
    settings: dict,
    folds: Sequence[TestScores],
    classes: Sequence[str] = (),
    extra: dict[str, Sequence[float]] | None = None,
    paper: dict | None = None,
    fold_of: Sequence[int] | None = None,
) -> dict:
    """A row of ``metrics.json``.

    With several folds there is one value per fold, the mean over its repeats: repeats share the fold's training
    cases, and counting them one by one would make the interval too narrow. With one fold there is one per repeat.

    Args:
        name, settings: of the row.
        folds: test scores of each cell; with one, intervals are bootstrapped by group, else Student's t.
        classes: class names, for a classifier.
        extra: further values, one per cell, without a test case behind them (seconds, parameters).
        paper: the published values beside ours.
        fold_of: number of each cell's fold; None: each its own.
    """
    values = [fold.metrics(classes) for fold in folds]
    intervals = {}
    if len(folds) == 1:
        intervals = bootstrap_intervals(
            lambda positions: folds[0].metrics(classes, positions), folds[0].groups, draws=BOOTSTRAP_DRAWS
        )
    # A fold whose test part has no mask lacks the scores that need one; then the mean over folds is no number.
    names = dict.fromkeys(name for fold in values for name in fold)
    by_cell = {key: [fold.get(key, float("nan")) for fold in values] for key in names} | (extra or {})
    fold_of = list(range(len(folds))) if fold_of is None else fold_of
    metrics = {key: summarise(_by_fold(numbers, fold_of), intervals.get(key)) for key, numbers in by_cell.items()}
    row = {"name": name, "settings": settings, "metrics": metrics, "paper": paper}
    if folds[0].true is not None:
        every = TestScores.joined(folds)
        row["per_class"] = per_class_metrics(every.true, every.probabilities, classes)
        row["confusion"] = confusion_matrix(every.true, every.probabilities.argmax(1), classes).tolist()
    return row


def _by_fold(values: Sequence[float], fold_of: Sequence[int]) -> list[float]:
    """One value per fold where there are several, else the values as they are."""
    folds = list(dict.fromkeys(fold_of))
    if len(folds) == 1 or len(values) != len(fold_of):
        return list(values)
    return [float(np.mean([value for value, of in zip(values, fold_of, strict=True) if of == fold])) for fold in folds]
