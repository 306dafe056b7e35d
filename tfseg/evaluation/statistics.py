"""Intervals: Student t over folds or runs, bootstrap over groups for a single run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Weights of cases that are held in memory at a time.
CHUNK_CELLS = 4_000_000


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
    group_of, names = _numbered(groups, draws)
    if names < 2:
        nan = float("nan")
        return {name: BootstrapInterval(nan, nan, 0) for name in statistics(np.arange(len(group_of)))}
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
    drawn: dict[str, list[float]] = {}
    for chosen in _drawn_groups(names, draws, seed):
        for name, value in statistics(np.concatenate([members[group] for group in chosen])).items():
            drawn.setdefault(name, []).append(float(value))
    return {name: percentile_interval(values, confidence) for name, values in drawn.items()}


def bootstrap_weights(groups: Sequence | np.ndarray, draws: int, seed: int = 0) -> Iterator[np.ndarray]:
    """The draws of `bootstrap_intervals` as weights: how often each case stands in a draw.

    For statistics that can be computed for many weightings at once (`tfseg.evaluation.weighted`).

    Args:
        groups: group of each case, (N,).
        draws: number of draws, B in all.
        seed: of the draws; the same seed gives the same draws as `bootstrap_intervals`.

    Yields:
        Arrays (b, N) of float64, together B rows; none at all when there are fewer than two groups.

    Raises:
        ValueError: when there are no cases or `draws` < 1.
    """
    group_of, names = _numbered(groups, draws)
    if names < 2:
        return
    rows = max(1, CHUNK_CELLS // len(group_of))
    counts: list[np.ndarray] = []
    for number, chosen in enumerate(_drawn_groups(names, draws, seed), 1):
        counts.append(np.bincount(chosen, minlength=names))
        if len(counts) == rows or number == draws:
            yield np.array(counts, np.float64)[:, group_of]
            counts = []


def percentile_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> BootstrapInterval:
    """The interval between the percentiles of a statistic's draws; NaN draws are left out and counted.

    Args:
        values: one per draw, (B,).
        confidence: in (0, 1).

    Raises:
        ValueError: when `confidence` is out of range.
    """
    _check_confidence(confidence)
    values = np.asarray(values, np.float64)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return BootstrapInterval(float("nan"), float("nan"), len(values))
    low, high = np.quantile(defined, ((1 - confidence) / 2, (1 + confidence) / 2))
    return BootstrapInterval(float(low), float(high), len(values) - len(defined))


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


def _numbered(groups: Sequence | np.ndarray, draws: int) -> tuple[np.ndarray, int]:
    groups = np.asarray(groups)
    if groups.ndim != 1 or not len(groups) or draws < 1:
        raise ValueError(f"`groups` must be (N,) with N > 0 and `draws` ≥ 1, received {groups.shape} and {draws}")
    names, group_of = np.unique(groups, return_inverse=True)
    return group_of, len(names)


def _drawn_groups(names: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        yield generator.integers(names, size=names)


def _values(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"`values` must be a list of at least one number, received shape {values.shape}")
    return values


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1), received {confidence}")
