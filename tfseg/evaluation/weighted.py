"""Scores of a classifier under many weightings of its cases at once: one weighting is a score, many a bootstrap."""

from __future__ import annotations

import numpy as np

CALIBRATION_BINS = 15


def classification_scores(
    true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None, classes: int, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Every score of a classifier, once for each weighting of the cases.

    Args:
        true: class indices, int (N,), each in 0…C−1.
        predicted: class indices, int (N,).
        probabilities: (N, C), rows that sum to 1; None where only the predicted classes are known.
        classes: C.
        weights: (B, N), ≥ 0: how often each case counts.

    Returns:
        Names of `label_scores`, and with probabilities those of `probability_scores`, each (B,); NaN where
        undefined.
    """
    scores = label_scores(confusion_matrices(true, predicted, classes, weights))
    if probabilities is not None:
        scores |= probability_scores(true, probabilities, weights)
    return scores


def confusion_matrices(true: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Sums of weights, (B, C, C): rows are the true classes, columns the predicted ones."""
    cells = np.zeros((len(true), classes * classes), np.float64)
    cells[np.arange(len(true)), np.asarray(true) * classes + np.asarray(predicted)] = 1
    return (np.asarray(weights, np.float64) @ cells).reshape(-1, classes, classes)


def label_scores(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that need the predicted classes only.

    A class that is never predicted has precision 0, and one that never occurs has recall 0.

    Args:
        confusions: (B, C, C), rows true, columns predicted.

    Returns:
        ``accuracy, balanced_accuracy`` (mean recall of the classes that occur), ``kappa`` (Cohen's, unweighted; NaN
        when truth and predictions hold one and the same class), precision, recall, F1 and specificity as mean over
        all classes (``…_macro``), the first three also weighted by the classes' shares (``…_weighted``), each (B,).
    """
    counts = np.asarray(confusions, np.float64)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    total = true.sum(axis=-1, keepdims=True)
    recall = _share(right, true)
    per_class = {
        "precision": _share(right, predicted),
        "recall": recall,
        "f1": _share(2 * right, true + predicted),
    }
    # Cohen's κ with both sides multiplied by N², so that whole numbers are compared with whole numbers.
    by_chance = (true * predicted).sum(axis=-1)
    kappa = _share(total[..., 0] * right.sum(axis=-1) - by_chance, total[..., 0] ** 2 - by_chance, np.nan)
    scores = {
        "accuracy": _share(right.sum(axis=-1), total[..., 0], np.nan),
        "balanced_accuracy": _share(recall.sum(axis=-1), (true > 0).sum(axis=-1), np.nan),
        "kappa": kappa,
    }
    scores |= {f"{name}_macro": _known(values.mean(axis=-1), total) for name, values in per_class.items()}
    scores |= {
        f"{name}_weighted": _share((values * true).sum(axis=-1), total[..., 0], np.nan)
        for name, values in per_class.items()
    }
    specificity = _share(total - true - predicted + right, total - true)
    return scores | {"specificity_macro": _known(specificity.mean(axis=-1), total)}


def probability_scores(true: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that need the probabilities.

    Args:
        true: class indices, int (N,).
        probabilities: (N, C).
        weights: (B, N).

    Returns:
        ``auc`` and ``average_precision`` (one class against the rest, mean over the classes that occur; with two
        classes of the second one; NaN when one class only occurs), ``ece`` (15 bins of equal width on the largest
        probability) and ``brier`` (sum of squares over the classes, 0…2), each (B,).
    """
    true, probabilities = np.asarray(true), np.asarray(probabilities, np.float64)
    weights = np.asarray(weights, np.float64)
    one_hot = np.eye(probabilities.shape[1])[true]
    areas, precisions = class_ranking_scores(one_hot, probabilities, weights)
    if probabilities.shape[1] == 2:
        areas, precisions = areas[:, 1:], precisions[:, 1:]
    total = weights.sum(axis=-1)
    right = probabilities.argmax(axis=1) == true
    return {
        "auc": _mean_of_known(areas),
        "average_precision": _mean_of_known(precisions),
        "ece": _calibration_error(right, probabilities.max(axis=1), weights),
        "brier": _share(weights @ ((probabilities - one_hot) ** 2).sum(axis=1), total, np.nan),
    }


def class_ranking_scores(
    one_hot: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve (trapezoids: ties count half) and average precision of each class against the rest.

    Args:
        one_hot: (N, C).
        probabilities: (N, C).
        weights: (B, N).

    Returns:
        Two arrays (B, C); NaN for a class of which, or beside which, there is no case.
    """
    shape = (len(weights), one_hot.shape[1])
    areas, precisions = np.full(shape, np.nan), np.full(shape, np.nan)
    for column in range(shape[1]):
        order = np.argsort(-probabilities[:, column], kind="stable")
        # A threshold takes all cases of one probability together.
        last = np.flatnonzero(np.diff(probabilities[order, column], append=np.nan) != 0)
        ordered = weights[:, order]
        hits = np.cumsum(ordered * one_hot[order, column], axis=1)[:, last]
        taken = np.cumsum(ordered, axis=1)[:, last]
        missed = taken - hits
        positive, negative = hits[:, -1], missed[:, -1]
        defined = (positive > 0) & (negative > 0)
        new_hits, new_missed = np.diff(hits, prepend=0.0), np.diff(missed, prepend=0.0)
        area = (new_missed * (hits - new_hits / 2)).sum(axis=1)
        precision = (new_hits * _share(hits, taken)).sum(axis=1)
        areas[defined, column] = area[defined] / (positive * negative)[defined]
        precisions[defined, column] = precision[defined] / positive[defined]
    return areas, precisions


def confidence_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each largest probability, int (N,): (0, 1/bins], …, (1 − 1/bins, 1]."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def _calibration_error(right: np.ndarray, confidence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Naeini et al. 2015 and Guo et al. 2017."""
    bins = confidence_bins(confidence, CALIBRATION_BINS)
    gaps = weights @ (np.eye(CALIBRATION_BINS)[bins] * (right - confidence)[:, None])
    return _share(np.abs(gaps).sum(axis=-1), weights.sum(axis=-1), np.nan)


def _share(part: np.ndarray, whole: np.ndarray, empty: float = 0.0) -> np.ndarray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, empty), where=whole != 0)


def _known(values: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.where(total[..., 0] > 0, values, np.nan)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return _share(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1), np.nan)
