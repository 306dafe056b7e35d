"""Probabilities that mean what they say: a temperature fitted on validation cases, and how often a class is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfseg.evaluation.distributions import distributions, labelled_distributions
from tfseg.evaluation.weighted import CALIBRATION_BINS, confidence_bins

if TYPE_CHECKING:
    import pandas as pd

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0


def fit_temperature(probabilities: np.ndarray, true: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The temperature at which a classifier's probabilities explain the validation cases best.

    Temperature scaling (Guo et al. 2017, section 4.2) divides the logits by one number, chosen by the mean negative
    log likelihood. The logarithms of probabilities are logits up to a constant, which softmax doesn't see.

    Args:
        probabilities: of validation cases at temperature 1, (N, C), rows that sum to 1. A 0 is read as the smallest
            normal float32.
        true: class indices, int (N,), of at least two classes.
        weights: how much each case counts, (N,), ≥ 0; None counts all alike.

    Returns:
        A number in [0.05, 20]; the one nearest to the minimum where that lies outside. Exactly 1 where every case's
        class has the largest probability: the likelihood then only grows as the temperature falls, and such cases
        say nothing about how sure the classifier should be.

    Raises:
        ValueError: no case, shapes that do not fit, rows that are no distributions, one class only.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    probabilities, true = labelled_distributions(probabilities, true)
    weights = np.ones(len(true)) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != true.shape or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(f"`weights` must be ({len(true)},), ≥ 0 and not all 0, received {weights!r}")
    counted = weights > 0
    logits, true, weights = _logits(probabilities[counted]), true[counted], weights[counted]
    if len(np.unique(true)) < 2:
        raise ValueError(f"`true` must hold at least two classes, received {len(true)} cases of class {true[0]}")
    # Differences to the true class's logit: the likelihood of case n is 1 / Σ exp(differences[n] / T).
    differences = logits - np.take_along_axis(logits, true[:, None], axis=1)
    if (differences <= 0).all():
        return 1.0

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(np.average(logsumexp(differences * np.exp(-log_temperature), axis=1), weights=weights))

    # Convex in 1/T, so there is one valley.
    bounds = np.log([LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE])
    return float(np.exp(minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded").x))


def rescaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of the same classifier at another temperature, float64 (N, C).

    Args:
        probabilities: at temperature 1, (N, C), rows that sum to 1.
        temperature: above 1 makes a classifier less sure; the order of the classes stays.

    Raises:
        ValueError: a temperature that is not a positive number, or rows that are no distributions.
    """
    from scipy.special import softmax

    if not 0 < temperature < np.inf:
        raise ValueError(f"`temperature` must be a positive number, received {temperature!r}")
    return softmax(_logits(distributions(probabilities)) / temperature, axis=1)


def reliability(probabilities: np.ndarray, true: np.ndarray, bins: int = CALIBRATION_BINS) -> pd.DataFrame:
    """How often a classifier is right where it is how sure: bins of equal width of the largest probability.

    With 15 bins, the mean of |accuracy − confidence| weighted by ``count`` is the ``ece`` of `classification_metrics`.

    Args:
        probabilities: (N, C), rows that sum to 1.
        true: class indices, int (N,).
        bins: how many.

    Returns:
        One row per bin: ``lower`` (outside), ``upper`` (inside), ``confidence`` (mean), ``accuracy`` and ``count``; in
        an empty bin confidence and accuracy are NaN.

    Raises:
        ValueError: no case, shapes that do not fit, rows that are no distributions, fewer than one bin.
    """
    import pandas as pd

    probabilities, true = labelled_distributions(probabilities, true)
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, received {bins}")
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    numbers, edges = confidence_bins(confidence, bins), np.arange(bins + 1) / bins
    means = pd.DataFrame({"confidence": confidence, "accuracy": right.astype(np.float64)}).groupby(numbers).mean()
    table = means.reindex(range(bins)).assign(count=np.bincount(numbers, minlength=bins))
    table.insert(0, "lower", edges[:-1])
    table.insert(1, "upper", edges[1:])
    return table


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
