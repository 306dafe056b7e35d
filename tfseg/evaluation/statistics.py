"""Intervals: Student t over folds or runs, bootstrap over groups for a single run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class BootstrapInterval(NamedTuple):
    """A percentile interval, and on how many draws it does not stand.

    Args:
        low: lower end.
        high: upper end.
        undefined: number of draws in which the statistic was NaN, and which were left out.
    """

    low: float
    high: float
    undefined: int


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, tuple[float, float]]:
    """Mean, standard deviation and Student t interval (n − 1 degrees of freedom) of one value per fold or
    run.

    Args:
        values: n values. A NaN among them makes everything NaN: a mean over the other folds would be another
            quantity.
        confidence: in (0, 1).

    Returns:
        ``(mean, std, (low, high))``, std with ddof 1. For n = 1, std and interval are NaN.

    Raises:
        ValueError: when there are no values or `confidence` is out of range.
    """
    from scipy import stats

    values = _values(values)
    _check_confidence(confidence)
    mean, nan = float(values.mean()), float("nan")
    if len(values) == 1:
        return mean, nan, (nan, nan)
    std = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return mean, std, (mean - half, mean + half)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    groups: Sequence | np.ndarray,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> BootstrapInterval:
    """Percentile interval of one statistic; see `bootstrap_intervals`."""
    return bootstrap_intervals(lambda positions: {"": statistic(positions)}, groups, confidence, draws, seed)[""]


def bootstrap_intervals(
    statistics: Callable[[np.ndarray], dict[str, float]],
    groups: Sequence | np.ndarray,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, BootstrapInterval]:
    """Percentile intervals of several statistics from the same draws of whole groups with replacement.

    Cases of one patient or lesion are not independent, so a draw takes as many groups as there are, each with
    all its cases.

    Args:
        statistics: gives named values for an int array of positions (which repeat); NaN where one is
            undefined.
        groups: group of each case, (N,).
        confidence: in (0, 1).
        draws: number of draws.
        seed: of the draws.

    Returns:
        One interval per name. NaN when there are fewer than two groups, or no draw had a value.

    Raises:
        ValueError: when there are no cases, `draws` < 1 or `confidence` is out of range.
    """
    _check_confidence(confidence)
    groups = np.asarray(groups)
    if groups.ndim != 1 or not len(groups) or draws < 1:
        raise ValueError(f"`groups` must be (N,) with N > 0 and `draws` ≥ 1, received {groups.shape} and {draws}")
    names, group_of = np.unique(groups, return_inverse=True)
    nan = float("nan")
    if len(names) < 2:
        return {name: BootstrapInterval(nan, nan, 0) for name in statistics(np.arange(len(groups)))}
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(draws):
        chosen = generator.integers(len(names), size=len(names))
        for name, value in statistics(np.concatenate([members[group] for group in chosen])).items():
            drawn.setdefault(name, []).append(float(value))
    intervals = {}
    for name, values in drawn.items():
        defined = np.array(values)[~np.isnan(values)]
        tails = ((1 - confidence) / 2, (1 + confidence) / 2)
        low, high = np.quantile(defined, tails) if len(defined) else (nan, nan)
        intervals[name] = BootstrapInterval(float(low), float(high), len(values) - len(defined))
    return intervals


def summarise(values: Sequence[float], bootstrap: tuple | None = None) -> dict:
    """What ``metrics.json`` keeps of a metric.

    Args:
        values: one per fold or run.
        bootstrap: for a single run, its interval ``(low, high, …)`` by `bootstrap_interval`.

    Returns:
        ``{"mean", "std", "ci95": [low, high], "values"}``; for a single run std is NaN, and so is the
        interval where `bootstrap` is not given.

    Raises:
        ValueError: when there are no values, or an interval by bootstrap comes with several values.
    """
    mean, std, (low, high) = interval(values)
    if bootstrap is not None:
        if len(values) != 1:
            raise ValueError(f"`bootstrap` is for a single run: the interval over {len(values)} values is Student's t")
        low, high = bootstrap[:2]
    return {"mean": mean, "std": std, "ci95": [float(low), float(high)], "values": [float(v) for v in values]}


def _values(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"`values` must be a list of at least one number, received shape {values.shape}")
    return values


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1), received {confidence}")
