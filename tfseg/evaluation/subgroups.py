"""The same scores for parts of the test cases: by age, sex, site, symmetry, or whatever column there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfseg.errors import ConfigError
from tfseg.evaluation.scores import TestScores
from tfseg.evaluation.statistics import bootstrap_intervals, summarise

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 12
SMALLEST = 10
DRAWS = 500
SHOWN = ("accuracy", "balanced_accuracy", "f1_macro", "auc", "dice", "iou")
NOT_KNOWN = "not known"


def subgroup_of(column: pd.Series) -> np.ndarray:
    """The subgroup of each case, str (N,).

    Args:
        column: an attribute. Numbers with more than 12 different values are cut at their quartiles; an empty cell
            is a subgroup of its own, ``"not known"``.

    Raises:
        ConfigError: when it is text with more than 12 different values.
    """
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    known = column.notna()
    if column.nunique() <= MOST_VALUES:
        return column.where(known, NOT_KNOWN).astype(str).to_numpy()
    if numbers[known].isna().any():
        raise ConfigError(
            f"the column {column.name!r} has {column.nunique()} values: too many for subgroups, and no numbers"
        )
    edges = np.unique(np.quantile(numbers[known], [0.25, 0.5, 0.75]))
    bounds = [numbers.min(), *edges, numbers.max()]
    names = np.array([f"{low:g} to {high:g}" for low, high in zip(bounds[:-1], bounds[1:], strict=True)])
    # A value on an edge belongs to the lower part, as the names of neighbouring parts both hold it.
    return np.where(known, names[np.searchsorted(edges, numbers.fillna(0.0), side="left")], NOT_KNOWN).astype(str)


def subgroup_scores(
    attributes: pd.DataFrame, scores: TestScores, classes: Sequence[str], columns: Sequence[str]
) -> dict[str, dict[str, dict]]:
    """Metrics of every subgroup with at least 10 cases.

    Args:
        attributes: of the test cases, in the order of `scores`.
        scores: of all test cases.
        classes: class names, empty for a segmenter.
        columns: attribute columns to break down by.

    Returns:
        column → value → ``{"cases": n, "metrics": {name: summary as in metrics.json}}``; intervals are bootstrapped
        by group. Smaller subgroups have no metrics: their numbers would say nothing.

    Raises:
        ConfigError: for a column that isn't there or can't be cut into subgroups.
    """
    missing = [name for name in columns if name not in attributes]
    if missing:
        raise ConfigError(f"`subgroups`: no column {', '.join(missing)}; there are {', '.join(attributes.columns)}")
    result: dict[str, dict[str, dict]] = {}
    for name in columns:
        values = subgroup_of(attributes[name])
        result[name] = {}
        for value in sorted(set(values)):
            chosen = np.flatnonzero(values == value)
            result[name][value] = {"cases": len(chosen), "metrics": {}}
            if len(chosen) >= SMALLEST:
                result[name][value]["metrics"] = _summaries(scores.subset(chosen), classes)
    return result


def _summaries(scores: TestScores, classes: Sequence[str]) -> dict[str, dict]:
    def shown(positions=None):
        return {key: value for key, value in scores.metrics(classes, positions).items() if key in SHOWN}

    intervals = bootstrap_intervals(shown, scores.groups, draws=DRAWS)
    return {key: summarise([value], intervals[key]) for key, value in shown().items()}
