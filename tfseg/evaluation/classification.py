"""Scores of a classifier, and the table of its predictions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.errors import DataError, Problem

if TYPE_CHECKING:
    import pandas as pd

FIXED_COLUMNS = ("id", "image", "true", "predicted", "confidence", "abstained")
CALIBRATION_BINS = 15
# Probabilities are float32 on their way here, and text with few digits in a table.
SUM_TOLERANCE = 1e-3


def classification_metrics(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Scores of the arg-max class and of the probabilities.

    Macro and weighted averages run over all `classes`; a class that is never predicted has precision 0, and
    one that never occurs in `true` has recall 0. Two scores are means over the classes that do occur, because
    they mean nothing for the others: ``balanced_accuracy`` (of the recall) and ``auc`` (one class against the
    rest).

    Args:
        true: class indices, int (N,), each in 0…C−1.
        probabilities: (N, C), rows that sum to 1.
        classes: the C class names, in the order of the columns.

    Returns:
        ``accuracy, balanced_accuracy, kappa`` (Cohen's, unweighted), ``auc`` (two classes: of the second
        one), ``ece`` (15 bins of equal width on the largest probability), ``brier`` (mean over the cases of
        the sum of squares over the classes, 0…2), ``precision_macro, recall_macro, f1_macro,
        precision_weighted, recall_weighted, f1_weighted``. ``auc`` is NaN when `true` holds one class only,
        ``kappa`` when `true` and the predictions hold one and the same class.

    Raises:
        ValueError: when the shapes do not fit, a class index is out of range, or a row is no distribution.
    """
    from sklearn import metrics

    true, probabilities = _checked(true, probabilities, classes)
    predicted = probabilities.argmax(axis=1)
    labels = np.arange(len(classes))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, predicted, labels=labels, zero_division=0
    )
    one_hot = np.eye(len(classes))[true]
    scores = {
        "accuracy": float((true == predicted).mean()),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "kappa": _kappa(true, predicted, labels),
        "auc": _area_under_curve(one_hot, probabilities),
        "ece": _expected_calibration_error(true == predicted, probabilities.max(axis=1)),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
    }
    for average, weights in (("macro", None), ("weighted", support)):
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            scores[f"{name}_{average}"] = float(np.average(values, weights=weights))
    return scores


def per_class_metrics(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, dict]:
    """Scores of each class against the rest, by the arg-max class.

    Args:
        true: class indices, int (N,).
        probabilities: (N, C).
        classes: the C class names.

    Returns:
        ``{class: {"precision", "recall", "f1", "specificity", "support"}}``; a score whose denominator is
        zero is 0, and ``support`` is the number of cases of the class.

    Raises:
        ValueError: as `classification_metrics` does.
    """
    from sklearn import metrics

    true, probabilities = _checked(true, probabilities, classes)
    predicted = probabilities.argmax(axis=1)
    labels = np.arange(len(classes))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, predicted, labels=labels, zero_division=0
    )
    (true_negative, false_positive), _ = np.moveaxis(
        metrics.multilabel_confusion_matrix(true, predicted, labels=labels), 0, -1
    )
    specificity = true_negative / np.maximum(true_negative + false_positive, 1)
    return {
        name: {
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "specificity": float(specificity[index]),
            "support": int(support[index]),
        }
        for index, name in enumerate(classes)
    }


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Counts of cases, int64 (C, C): rows are the true classes, columns the predicted ones.

    Args:
        true: class indices, int (N,).
        predicted: class indices, int (N,).
        classes: the C class names; a class without cases keeps its row and column.
    """
    from sklearn import metrics

    return metrics.confusion_matrix(true, predicted, labels=np.arange(len(classes))).astype(np.int64)


def predictions_table(
    ids: Sequence[str],
    images: Sequence[str | Path],
    true: Sequence[str | None],
    probabilities: np.ndarray,
    classes: Sequence[str],
    abstain_below: float = 0.0,
) -> pd.DataFrame:
    """The table that is written as ``predictions.csv``.

    Args:
        ids: N unique names of the cases.
        images: N image paths, as they shall stand in the table.
        true: N class names; None or NaN where the class is not known.
        probabilities: (N, C).
        classes: the C class names.
        abstain_below: a case whose largest probability is smaller is marked as abstained; it keeps the class
            that would have been predicted.

    Returns:
        Columns ``id, image, true, predicted, confidence, abstained`` and one ``prob_<class>`` per class.

    Raises:
        ValueError: when the lengths differ.
    """
    import pandas as pd

    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise ValueError(f"`probabilities` must be (N, {len(classes)}), received shape {probabilities.shape}")
    lengths = {"ids": len(ids), "images": len(images), "true": len(true), "probabilities": len(probabilities)}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"`ids`, `images`, `true`, `probabilities` must be equally long, received {lengths}")
    confidence = probabilities.max(axis=1)
    table = pd.DataFrame(
        {
            "id": [str(value) for value in ids],
            "image": [str(value) for value in images],
            "true": [value if isinstance(value, str) else None for value in true],
            "predicted": np.array(classes, dtype=object)[probabilities.argmax(axis=1)],
            "confidence": confidence,
            "abstained": confidence < abstain_below,
        }
    )
    columns = {f"prob_{name}": probabilities[:, index] for index, name in enumerate(classes)}
    return pd.concat([table, pd.DataFrame(columns)], axis=1)


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check a ``predictions.csv``.

    Args:
        path: a table with the columns that `predictions_table` makes.

    Returns:
        The table: ``id``, ``image``, ``true`` and ``predicted`` as text (``true`` is missing where it is
        empty), ``abstained`` as bool, the rest as float64. The classes are `prediction_classes` of it.

    Raises:
        DataError: naming the file and every problem: not readable, columns missing, ids empty or doubled, a
            class that has no probability column, values that are no numbers, rows that are no distribution.
    """
    import pandas as pd

    path = Path(path)
    try:
        # A class may be called "NA" or "None"; only `true` may be empty.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError([Problem("missing", path.name, "the file does not exist")], str(path)) from None
    except (OSError, ValueError) as error:
        raise DataError([Problem("table", path.name, f"not a CSV table: {error}")], str(path)) from error
    missing = [name for name in FIXED_COLUMNS if name not in table.columns]
    classes = prediction_classes(table)
    if len(classes) < 2:
        missing.append("prob_<class> (at least two)")
    if missing or table.empty:
        message = f"columns are missing: {', '.join(missing)}" if missing else "the table has no rows"
        raise DataError([Problem("table", path.name, message)], str(path))

    problems: list[Problem] = []

    def check(wrong: pd.Series, kind: str, message: str, shown: str) -> None:
        for line, value in table.loc[wrong, shown].items():
            problems.append(Problem(kind, f"{path.name}, line {line + 2}", f"{message}, received {value!r}"))

    check(table["id"].eq(""), "id", "`id` must not be empty", "id")
    check(table["id"].duplicated(), "duplicate_id", "`id` must be unique", "id")
    check(~table["predicted"].isin(classes), "label", f"`predicted` must be one of {classes}", "predicted")
    check(~table["true"].isin([*classes, ""]), "label", f"`true` must be empty or one of {classes}", "true")
    check(
        ~table["abstained"].isin(["True", "False"]),
        "abstained",
        "`abstained` must be True or False",
        "abstained",
    )
    numbers = ["confidence", *(f"prob_{name}" for name in classes)]
    values = table[numbers].apply(pd.to_numeric, errors="coerce")
    for name in numbers:
        check(~values[name].between(0, 1), "number", f"`{name}` must be a number in 0…1", name)
    totals = values[numbers[1:]].sum(axis=1, skipna=False)
    table["total"] = totals
    check((totals - 1).abs() > SUM_TOLERANCE, "number", "the probabilities of a row must sum to 1", "total")
    if problems:
        raise DataError(problems, str(path))
    return table.drop(columns="total").assign(
        true=table["true"].where(table["true"] != ""), abstained=table["abstained"] == "True", **values
    )


def prediction_classes(table: pd.DataFrame) -> list[str]:
    """The class names of a predictions table, in the order of its ``prob_<class>`` columns."""
    return [name.removeprefix("prob_") for name in table.columns if name.startswith("prob_")]


def _checked(true, probabilities, classes) -> tuple[np.ndarray, np.ndarray]:
    true, probabilities = np.asarray(true), np.asarray(probabilities, np.float64)
    if len(classes) < 2 or probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise ValueError(
            f"`probabilities` must be (N, C) with one column for each of at least two classes, received "
            f"shape {probabilities.shape} for {list(classes)}"
        )
    if true.shape != (len(probabilities),) or not len(true):
        raise ValueError(
            f"`true` must be (N,) with N > 0 for `probabilities` (N, C), received {true.shape} and "
            f"{probabilities.shape}"
        )
    if not np.issubdtype(true.dtype, np.integer) or true.min() < 0 or true.max() >= len(classes):
        raise ValueError(
            f"`true` must hold class indices in 0…{len(classes) - 1} (leave out cases without a label), "
            f"received {true.dtype} from {true.min()} to {true.max()}"
        )
    sums = probabilities.sum(axis=1)
    if not (np.isfinite(sums).all() and probabilities.min() >= 0 and np.abs(sums - 1).max() <= SUM_TOLERANCE):
        worst = int(np.argmax(np.where(np.isfinite(sums), np.abs(sums - 1), np.inf)))
        raise ValueError(
            f"rows of `probabilities` must be distributions (finite, ≥ 0, sum 1: logits need a softmax); "
            f"row {worst} is {probabilities[worst].tolist()}"
        )
    return true, probabilities


def _kappa(true: np.ndarray, predicted: np.ndarray, labels: np.ndarray) -> float:
    from sklearn import metrics

    if len(np.union1d(true, predicted)) == 1:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(metrics.cohen_kappa_score(true, predicted, labels=labels))


def _area_under_curve(one_hot: np.ndarray, probabilities: np.ndarray) -> float:
    """Mann-Whitney's U by mid-ranks, for all classes at once: a bootstrap calls this thousands of times."""
    from scipy import stats

    if one_hot.shape[1] == 2:
        one_hot, probabilities = one_hot[:, 1:], probabilities[:, 1:]
    positive = one_hot.sum(axis=0)
    pairs = positive * (len(one_hot) - positive)
    rank_sums = (stats.rankdata(probabilities, axis=0) * one_hot).sum(axis=0)
    defined = pairs > 0
    areas = (rank_sums - positive * (positive + 1) / 2)[defined] / pairs[defined]
    return float(areas.mean()) if len(areas) else float("nan")


def _expected_calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    """Naeini et al. 2015 and Guo et al. 2017: bins (0, 1/15], …, (14/15, 1]."""
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
