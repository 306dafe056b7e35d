"""Decisions from probabilities: chosen on validation cases, scored on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfseg.evaluation.distributions import distributions, labelled_distributions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class OperatingPoint:
    """From which probability on a case counts as positive.

    Args:
        positive: names of the classes that count as positive; a case's score is the sum of their probabilities.
        threshold: a score of at least this is positive.
        wanted: the sensitivity that was asked for, in (0, 1].
        sensitivity, specificity: of the validation cases at this threshold.
        positives, negatives: numbers of validation cases.
    """

    positive: tuple[str, ...]
    threshold: float
    wanted: float
    sensitivity: float
    specificity: float
    positives: int
    negatives: int


def positive_score(probabilities: np.ndarray, classes: Sequence[str], positive: Sequence[str]) -> np.ndarray:
    """The sum of some classes' probabilities, float64 (N,), in [0, 1].

    Args:
        probabilities: (N, C), rows that sum to 1.
        classes: the C class names, in the order of the columns.
        positive: those to sum.

    Raises:
        ValueError: class names that do not fit, none or all of them positive, or rows that are no distributions.
    """
    probabilities = distributions(probabilities)
    # Rounded sums may pass 1.
    return np.minimum(probabilities[:, _chosen(probabilities, classes, positive)].sum(axis=1), 1.0)


def choose_operating_point(
    probabilities: np.ndarray, true: np.ndarray, classes: Sequence[str], positive: Sequence[str], sensitivity: float
) -> OperatingPoint:
    """The largest threshold at which enough of the validation cases that are positive are found.

    Args:
        probabilities: of validation cases, (N, C), rows that sum to 1.
        true: class indices, int (N,).
        classes: the C class names, in the order of the columns.
        positive: names of the classes that count as positive.
        sensitivity: the least share of positive cases to be found, in (0, 1].

    Raises:
        ValueError: arguments out of range or that do not fit, an unknown class, none or all classes positive, no
            positive or no negative case.
    """
    probabilities, true = labelled_distributions(probabilities, true)
    score = positive_score(probabilities, classes, positive)
    sick = _chosen(probabilities, classes, positive)[true]
    if not 0 < sensitivity <= 1:
        raise ValueError(f"`sensitivity` must lie in (0, 1], received {sensitivity!r}")
    if sick.all() or not sick.any():
        raise ValueError(
            f"`true` must hold cases of {list(positive)} and of other classes, received {int(sick.sum())} and "
            f"{int((~sick).sum())}"
        )
    positives, negatives = np.sort(score[sick])[::-1], score[~sick]
    # Compared as the share itself is: 0.55 · 20 would be rounded to more than 11.
    enough = np.arange(1, len(positives) + 1) / len(positives) >= sensitivity
    threshold = float(positives[enough.argmax()])
    return OperatingPoint(
        positive=tuple(positive),
        threshold=threshold,
        wanted=float(sensitivity),
        sensitivity=float((positives >= threshold).mean()),
        specificity=float((negatives < threshold).mean()),
        positives=len(positives),
        negatives=len(negatives),
    )


def choose_abstention(probabilities: np.ndarray, share: float) -> float:
    """The largest confidence below which at most a share of the validation cases lie.

    Args:
        probabilities: of validation cases, (N, C), rows that sum to 1.
        share: of cases that may go without an answer, in [0, 1). With 0 it is the smallest confidence of all.

    Returns:
        The ``abstain_below`` of a model: a case whose largest probability is smaller is a "not sure".

    Raises:
        ValueError: no case, rows that are no distributions, or a share out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"`share` must lie in [0, 1), received {share!r}")
    confidence = np.sort(distributions(probabilities).max(axis=1))
    below = np.arange(len(confidence)) / len(confidence)
    return float(confidence[np.flatnonzero(below <= share)[-1]])


def case_decisions(
    probabilities: np.ndarray,
    true: np.ndarray,
    classes: Sequence[str],
    *,
    positive: Sequence[str] = (),
    threshold: float | None = None,
    abstain_below: float = 0.0,
    unfamiliarity: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What a model's decisions come to, case by case: their means over any cases are the scores.

    Args:
        probabilities: (N, C), rows that sum to 1.
        true: class indices, int (N,).
        classes: the C class names, in the order of the columns.
        positive, threshold, abstain_below: of the model, see `tfseg.layers.outputs.ModelInfo`.
        unfamiliarity: of the cases, (N,), 1 at the threshold; None where the model has no such output.

    Returns:
        0 or 1 per case, float (N,), NaN where a score says nothing of it. With an operating point ``sensitivity`` (of
        positive cases) and ``specificity`` (of the others); where the model can be not sure ``coverage`` (the share
        kept), ``accuracy_kept`` and ``accuracy_left_out`` (Geifman & El-Yaniv 2017, section 2); with `unfamiliarity`
        the ``unfamiliar_rate``.

    Raises:
        ValueError: no case, shapes that do not fit, rows that are no distributions, an unknown class.
    """
    probabilities, true = labelled_distributions(probabilities, true, classes)
    scores = {}
    if threshold is not None:
        called = positive_score(probabilities, classes, positive) >= threshold
        sick = _chosen(probabilities, classes, positive)[true]
        scores |= {"sensitivity": np.where(sick, called, np.nan), "specificity": np.where(sick, np.nan, ~called)}
    if abstain_below > 0:
        kept, right = probabilities.max(axis=1) >= abstain_below, probabilities.argmax(axis=1) == true
        scores["coverage"] = kept.astype(float)
        scores["accuracy_kept"] = np.where(kept, right, np.nan)
        scores["accuracy_left_out"] = np.where(kept, np.nan, right)
    if unfamiliarity is not None:
        scores["unfamiliar_rate"] = (np.asarray(unfamiliarity) > 1).astype(float)
    return scores


def net_benefit(score: np.ndarray, positive: np.ndarray, thresholds: Sequence[float]) -> pd.DataFrame:
    """Decision curve: what a classifier is worth to those who act from a probability p on (Vickers & Elkin 2006).

    Net benefit is TP/n − FP/n · p/(1 − p): who treats from p on takes (1 − p)/p needless treatments for one needed.

    Args:
        score: probability of being positive, (N,), in [0, 1].
        positive: bool (N,).
        thresholds: probabilities p, in [0, 1); a score of at least p is treated.

    Returns:
        One row per threshold: ``threshold``, ``net_benefit``, ``treat_all`` and ``treat_none`` (0).

    Raises:
        ValueError: no case, shapes that do not fit, or numbers out of range.
    """
    import pandas as pd

    score, positive, levels = (np.asarray(values) for values in (score, positive, thresholds))
    if score.ndim != 1 or not len(score) or not ((score >= 0) & (score <= 1)).all():
        raise ValueError(f"`score` must be (N,) with N > 0, in [0, 1], received shape {score.shape}")
    if positive.shape != score.shape or positive.dtype != bool:
        raise ValueError(f"`positive` must be bool {score.shape}, received {positive.dtype} {positive.shape}")
    if levels.ndim != 1 or not len(levels) or not ((levels >= 0) & (levels < 1)).all():
        raise ValueError(f"`thresholds` must be a list of at least one number in [0, 1), received {thresholds}")
    treated = score >= levels[:, None]
    odds = levels / (1 - levels)
    return pd.DataFrame(
        {
            "threshold": levels,
            "net_benefit": (treated & positive).mean(axis=1) - (treated & ~positive).mean(axis=1) * odds,
            "treat_all": positive.mean() - (1 - positive.mean()) * odds,
            "treat_none": 0.0,
        }
    )


def _chosen(probabilities: np.ndarray, classes: Sequence[str], positive: Sequence[str]) -> np.ndarray:
    """Which classes are positive, bool (C,)."""
    if len(classes) != probabilities.shape[1]:
        raise ValueError(f"`classes` must be {probabilities.shape[1]} names, received {list(classes)}")
    if not set(positive) <= set(classes) or len(set(positive)) not in range(1, len(classes)):
        raise ValueError(f"`positive` must be some of {list(classes)} and not all, received {positive!r}")
    return np.array([name in positive for name in classes])
