"""Tests between two models on the same cases, and what to do when there are many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class McNemar(NamedTuple):
    """McNemar's exact test (1947; exact: binomial).

    Args:
        only_first_right: cases that only the first model has right.
        only_second_right: cases that only the second model has right.
        p: two-sided; 1 when the models are right on the same cases.
        cohens_g: effect size, the first's share of those cases minus one half, −0.5…0.5 (Cohen 1988: 0.05 small,
            0.15 medium, 0.25 large); 0 when there are none.
    """

    only_first_right: int
    only_second_right: int
    p: float
    cohens_g: float


class SignedRank(NamedTuple):
    """Wilcoxon's signed-rank test (1945).

    Args:
        pairs: pairs that differ; the others are left out, as Wilcoxon did.
        p: two-sided, exact for up to 50 pairs without ties; 1 when no pair differs, NaN when there is no pair.
        rank_biserial: effect size, the share of the rank sum where the first is larger minus the share where it is
            smaller, −1…1 (Kerby 2014); 0 when no pair differs.
    """

    pairs: int
    p: float
    rank_biserial: float


class DeLong(NamedTuple):
    """The test of DeLong, DeLong and Clarke-Pearson (1988) between two correlated areas under the ROC curve.

    Args:
        first, second: the areas.
        std_error: of their difference; NaN with fewer than two cases of a kind.
        p: two-sided; 1 when both rank alike, NaN when the error is 0 or NaN and the areas differ.
    """

    first: float
    second: float
    std_error: float
    p: float


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """McNemar's exact test on which cases two models have right.

    The cases must be independent of each other: one per patient or lesion.

    Args:
        first_right, second_right: bool (N,), N > 0.

    Raises:
        ValueError: when the shapes don't fit.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    first_right, second_right = _pair(first_right, second_right, bool)
    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    if not only_first + only_second:
        return McNemar(0, 0, 1.0, 0.0)
    both = int((first_right & second_right).sum())
    neither = len(first_right) - both - only_first - only_second
    p = float(exact_test([[both, only_first], [only_second, neither]], exact=True).pvalue)
    return McNemar(only_first, only_second, p, only_first / (only_first + only_second) - 0.5)


def signed_rank(first: np.ndarray, second: np.ndarray) -> SignedRank:
    """Wilcoxon's test on one value of each model per independent unit.

    Args:
        first, second: float (N,); pairs with a NaN are left out.

    Raises:
        ValueError: when the shapes don't fit.
    """
    from scipy import stats

    first, second = _pair(first, second, np.float64)
    # Means over repeats carry rounding errors, which would count as differences and break ties.
    differences = np.round(first - second, 12)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return SignedRank(0, float("nan"), float("nan"))
    differences = differences[differences != 0]
    if not len(differences):
        return SignedRank(0, 1.0, 0.0)
    ranks = stats.rankdata(np.abs(differences))
    effect = float((np.sign(differences) * ranks).sum() / ranks.sum())
    return SignedRank(len(differences), float(stats.wilcoxon(differences).pvalue), effect)


def delong(positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> DeLong:
    """DeLong's test; the placements by mid-ranks, as Sun and Xu (2014) compute them.

    The cases must be independent of each other: one per patient or lesion.

    Args:
        positive: bool (N,), with at least one case of each kind.
        first, second: scores of the two models, float (N,), larger for positive cases.

    Raises:
        ValueError: when the shapes don't fit, or one kind of cases is missing.
    """
    from scipy import stats

    first, second = _pair(first, second, np.float64)
    positive, _ = _pair(positive, first, bool)
    if positive.all() or not positive.any():
        raise ValueError("`positive` must hold cases of both kinds")
    placements = []
    for scores in (first, second):
        high, low = scores[positive], scores[~positive]
        # How many of the other kind lie below (ties half): the rank among all minus the rank among the own kind.
        ranks = stats.rankdata(np.concatenate([high, low]))
        placements.append(
            (
                (ranks[: len(high)] - stats.rankdata(high)) / len(low),
                1 - (ranks[len(high) :] - stats.rankdata(low)) / len(high),
            )
        )
    areas = [float(high.mean()) for high, _ in placements]
    apart = [a - b for a, b in zip(*placements, strict=True)]
    if not any(part.any() for part in apart):
        return DeLong(*areas, 0.0, 1.0)
    nan = float("nan")
    if min(len(part) for part in apart) < 2:
        return DeLong(*areas, nan, nan)
    error = math.sqrt(sum(part.var(ddof=1) / len(part) for part in apart))
    p = float(2 * stats.norm.sf(abs(areas[0] - areas[1]) / error)) if error else nan
    return DeLong(*areas, error, p)


def bootstrap_p(differences: Sequence[float] | np.ndarray, differing: int) -> float:
    """Two-sided p-value of a difference from its bootstrap draws: twice the share beyond 0 (Davison and Hinkley 1997,
    counting the sample itself as a draw).

    With few units that differ, draws hardly ever leave all of them out and would promise more than so few can show.
    So the value is never below 2 · 0.5 ** `differing`, what a sign test would give if all of them pointed one way.

    Args:
        differences: of the draws, (B,); NaN draws are left out.
        differing: independent units (groups) on which the two models differ at all.

    Returns:
        In (0, 1]; 1 when no unit differs, NaN when no draw has a value.
    """
    differences = np.asarray(differences, np.float64)
    # Both sides are sums of the same numbers in another order: what is 0 may come out as 1e-17.
    differences = np.round(differences[~np.isnan(differences)], 12)
    if not len(differences):
        return float("nan")
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, max(2 * (tail + 1) / (len(differences) + 1), 2 * 0.5**differing)))


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979) of a family of p-values.

    Args:
        p_values: (K,); a NaN is a test that could not be made: it stays NaN and does not count.

    Returns:
        The corrected values, (K,): a difference that is below α here holds, and the chance that any of those that
        hold does so wrongly is at most α.
    """
    p_values = np.asarray(p_values, np.float64)
    corrected, known = np.full(p_values.shape, np.nan), np.flatnonzero(~np.isnan(p_values))
    # Not statsmodels' `multipletests`: it collects garbage on every call, which takes longer than all draws together.
    rising = known[np.argsort(p_values[known])]
    factors = np.arange(len(rising), 0, -1)
    corrected[rising] = np.minimum(np.maximum.accumulate(p_values[rising] * factors), 1.0)
    return corrected


def _pair(first, second, dtype) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"both sides must be (N,) with the same N > 0, received {first.shape} and {second.shape}")
    return first.astype(dtype), second.astype(dtype)
