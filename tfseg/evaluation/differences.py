"""All differences between the rows of a table: intervals, tests, and which of them hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from tfseg.evaluation.compared import ComparedRow
from tfseg.evaluation.paired import bootstrap_p, delong, holm, mcnemar, signed_rank
from tfseg.evaluation.statistics import bootstrap_weights, percentile_interval
from tfseg.evaluation.weighted import classification_scores

ALPHA = 0.05
FEW_UNITS = 20
OF_PROBABILITIES = ("auc", "average_precision", "ece", "brier")


def compare_rows(
    rows: Mapping[str, ComparedRow],
    classes: Sequence[str] = (),
    *,
    against: str | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict:
    """Compare the rows of a table on the same test cases, pair by pair.

    The independent unit is the group (patient or lesion), or the case where no groups are known. Where a row has
    several models (repeats), its score is the mean over them; the units are drawn, never the models, so intervals
    and p-values are about other cases, not about training once more.

    Which test decides: of accuracy McNemar's exact test, of a two-class AUC DeLong's, both only with one model per
    row and one case per group; of scores per case (Dice, CAM IoU, …) Wilcoxon's on the groups' means; of everything
    else, and otherwise, the bootstrap by group. A difference holds when the deciding p-value, corrected by Holm over
    all pairs for this metric, is below 0.05.

    Args:
        rows: at least two, of `tfseg.evaluation.compared`; the same cases in the same order.
        classes: class names, for classifiers.
        against: compare only with this row, instead of every row with every other.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        JSON-able (NaN apart)::

            {"cases", "groups", "classes", "draws", "seed", "alpha", "against", "notes": [str],
             "rows": {name: {"models": R, "metrics": {metric: {"mean", "std", "ci95", "values"}}}},
             "pairs": [{"first", "second",
                        "metrics": {metric: {"difference", "ci95", "p", "p_holm", "test", "holds"}},
                        "mcnemar", "wilcoxon", "delong": dict or None}]}

        ``values`` has one number per model, ``std`` is over them (ddof 1, NaN for one), ``ci95`` is bootstrapped by
        group; ``difference`` is first − second. McNemar's and DeLong's entries say in ``assumes_independent_cases``
        that there are groups with several cases, which they don't know of.

    Raises:
        ValueError: fewer than two rows, `against` is none of them, or their cases differ.
    """
    _check(rows, against)
    pairs = list(combinations(rows, 2)) if against is None else [(name, against) for name in rows if name != against]
    groups = next(iter(rows.values())).groups
    scores = {
        name: _resampled(lambda weights, row=row: _row_scores(row, len(classes), weights), groups, draws, seed)
        for name, row in rows.items()
    }
    compared = [_pair(first, second, rows, scores, len(classes), draws, seed) for first, second in pairs]
    for metric in dict.fromkeys(name for pair in compared for name in pair["metrics"]):
        family = [pair["metrics"][metric] for pair in compared if metric in pair["metrics"]]
        for entry, corrected in zip(family, holm([entry["p"] for entry in family]), strict=True):
            entry |= {"p_holm": float(corrected), "holds": bool(corrected < ALPHA)}
    return {
        "cases": len(groups),
        "groups": len(np.unique(groups)),
        "classes": list(classes),
        "draws": draws,
        "seed": seed,
        "alpha": ALPHA,
        "against": against,
        "notes": _notes(rows, groups),
        "rows": {name: _row_summary(row, *scores[name]) for name, row in rows.items()},
        "pairs": compared,
    }


def _check(rows: Mapping[str, ComparedRow], against: str | None) -> None:
    if len(rows) < 2:
        raise ValueError(f"`rows` must hold at least two rows, received {list(rows)}")
    if against is not None and against not in rows:
        raise ValueError(f"`against` must be one of {list(rows)}, received {against!r}")
    (first, expected), *others = rows.items()
    for name, row in others:
        same_truth = row.true is None if expected.true is None else np.array_equal(row.true, expected.true)
        if not (np.array_equal(row.ids, expected.ids) and np.array_equal(row.groups, expected.groups) and same_truth):
            raise ValueError(f"`rows`: {first!r} and {name!r} have different cases, groups or true classes")


def _resampled(
    scores: Callable[[np.ndarray], dict[str, np.ndarray]], groups: np.ndarray, draws: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What `scores` gives for weights (b, N), (R, b): of the sample one per model, of the draws their mean."""
    sample = {metric: values[:, 0] for metric, values in scores(np.ones((1, len(groups)))).items()}
    drawn: dict[str, list[np.ndarray]] = {metric: [np.empty(0)] for metric in sample}
    for weights in bootstrap_weights(groups, draws, seed):
        for metric, values in scores(weights).items():
            drawn[metric].append(values.mean(axis=0))
    return sample, {metric: np.concatenate(parts) for metric, parts in drawn.items()}


def _row_scores(row: ComparedRow, classes: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each score under each weighting: of each model (R, B), of what is known per case (1, B)."""
    scores: dict[str, list[np.ndarray]] = {}
    for model, predicted in enumerate(row.predicted if row.predicted is not None else ()):
        tested = predicted >= 0
        probabilities = None if row.probabilities is None else row.probabilities[model, tested]
        found = classification_scores(row.true[tested], predicted[tested], probabilities, classes, weights[:, tested])
        for metric, values in found.items():
            scores.setdefault(metric, []).append(values)
    return {metric: np.stack(values) for metric, values in scores.items()} | _means(row.per_case, weights)


def _means(per_case: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Weighted means of the known values, each (1, B); NaN where none is drawn."""
    means = {}
    for metric, values in per_case.items():
        known = ~np.isnan(values)
        total = weights[:, known].sum(axis=1)
        means[metric] = np.full((1, len(weights)), np.nan)
        np.divide(weights[:, known] @ values[known], total, out=means[metric][0], where=total > 0)
    return means


def _row_summary(row: ComparedRow, sample: Mapping, drawn: Mapping) -> dict:
    metrics = {}
    for name, values in sample.items():
        interval = percentile_interval(drawn[name])
        metrics[name] = {
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
            "ci95": [interval.low, interval.high],
            "values": values.tolist(),
        }
    return {"models": 1 if row.predicted is None else len(row.predicted), "metrics": metrics}


def _pair(first: str, second: str, rows: Mapping, scores: Mapping, classes: int, draws: int, seed: int) -> dict:
    """An entry of ``pairs``; `scores` are each row's by `_resampled`."""
    one, other = rows[first], rows[second]
    (sample, drawn), (other_sample, other_drawn) = scores[first], scores[second]
    tests, metrics = {"mcnemar": None, "wilcoxon": None, "delong": None}, {}
    if one.predicted is not None:
        tests = _tests(one, other, classes)
        labels = _differing(one.groups, _votes(one, classes), _votes(other, classes))
        probabilities = 0
        if one.probabilities is not None and other.probabilities is not None:
            probabilities = _differing(one.groups, _mean_probabilities(one), _mean_probabilities(other))
        for name in sample:
            if name in one.per_case or name not in other_sample:
                continue
            apart = drawn[name] - other_drawn[name]
            p = bootstrap_p(apart, probabilities if name in OF_PROBABILITIES else labels)
            metrics[name] = _entry(sample[name].mean() - other_sample[name].mean(), apart, p, "bootstrap")
    for name, test in (("accuracy", "mcnemar"), ("auc", "delong")):
        found = tests[test]
        if found and not found["assumes_independent_cases"] and not np.isnan(found["p"]):
            metrics[name] |= {"p": found["p"], "test": test}
    apart = {name: values - other.per_case[name] for name, values in one.per_case.items() if name in other.per_case}
    if apart:
        sample, drawn = _resampled(lambda weights: _means(apart, weights), one.groups, draws, seed)
    for name in apart:
        found = signed_rank(*(_by_group(one.groups, row.per_case[name]) for row in (one, other)))
        metrics[name] = _entry(sample[name].mean(), drawn[name], found.p, "wilcoxon")
        metrics[name]["rank_biserial"] = found.rank_biserial
    return {"first": first, "second": second, "metrics": metrics, **tests}


def _entry(difference: float, draws: np.ndarray, p: float, test: str) -> dict:
    interval = percentile_interval(draws)
    return {"difference": float(difference), "ci95": [interval.low, interval.high], "p": p, "test": test}


def _tests(one: ComparedRow, other: ComparedRow, classes: int) -> dict[str, dict | None]:
    """The named tests, where they can be made."""
    tests: dict[str, dict | None] = {"mcnemar": None, "wilcoxon": None, "delong": None}
    dependent = len(np.unique(one.groups)) < len(one.groups)
    both = one.probabilities is not None and other.probabilities is not None
    one_model = len(one.predicted) == len(other.predicted) == 1
    complete = (one.predicted >= 0).all() and (other.predicted >= 0).all()
    if one_model and complete:
        right = [row.predicted[0] == row.true for row in (one, other)]
        tests["mcnemar"] = {**mcnemar(*right)._asdict(), "assumes_independent_cases": dependent}
    if one_model and complete and both and classes == 2 and 0 < one.true.sum() < len(one.true):
        scores = [row.probabilities[0, :, 1] for row in (one, other)]
        tests["delong"] = {**delong(one.true == 1, *scores)._asdict(), "assumes_independent_cases": dependent}
    if both or not one_model:
        quantity = "probability of the true class" if both else "share of models that are right"
        of_true = [
            (_mean_probabilities(row) if both else _votes(row, classes))[np.arange(len(row.true)), row.true]
            for row in (one, other)
        ]
        found = signed_rank(*(_by_group(one.groups, values) for values in of_true))
        tests["wilcoxon"] = {**found._asdict(), "quantity": quantity}
    return tests


def _votes(row: ComparedRow, classes: int) -> np.ndarray:
    """Share of the models that predict each class, (N, C)."""
    counts = (row.predicted[..., None] == np.arange(classes)).sum(axis=0)
    return counts / counts.sum(axis=1, keepdims=True)


def _mean_probabilities(row: ComparedRow) -> np.ndarray:
    return np.nanmean(row.probabilities, axis=0)


def _differing(groups: np.ndarray, one: np.ndarray, other: np.ndarray) -> int:
    """Groups with a case on which two rows differ."""
    return len(np.unique(groups[(np.abs(one - other) > 1e-12).any(axis=1)]))


def _by_group(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of each group's known values; NaN where it has none."""
    names, group_of = np.unique(groups, return_inverse=True)
    known = ~np.isnan(values)
    counts = np.bincount(group_of[known], minlength=len(names))
    sums = np.bincount(group_of[known], values[known], minlength=len(names))
    return np.divide(sums, counts, out=np.full(len(names), np.nan), where=counts > 0)


def _notes(rows: Mapping[str, ComparedRow], groups: np.ndarray) -> list[str]:
    units = len(np.unique(groups))
    notes = [
        f"The independent unit is the case: {units:,} of them."
        if units == len(groups)
        else f"The independent unit is the group (patient or lesion): {units:,} groups with {len(groups):,} cases."
    ]
    if any(row.predicted is not None and len(row.predicted) > 1 for row in rows.values()):
        notes.append(
            "A row with several models has the mean of their scores. Intervals and p-values are about other cases, "
            "not about training once more."
        )
    if units < FEW_UNITS:
        notes.append(f"Independent units are few ({units}): intervals are too narrow, and little can be shown.")
    return notes
