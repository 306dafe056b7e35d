"""Scores of a classifier, and the table of its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.errors import DataError, Problem
from tfseg.evaluation.decisions import positive_score
from tfseg.evaluation.distributions import SUM_TOLERANCE, labelled_distributions
from tfseg.evaluation.weighted import CALIBRATION_BINS as CALIBRATION_BINS
from tfseg.evaluation.weighted import class_ranking_scores, classification_scores

if TYPE_CHECKING:
    import pandas as pd

REPEAT_COLUMNS = ("repeat", "fold")
FIXED_COLUMNS = ("id", "image", "true", "predicted", "confidence", "abstained")


def classification_metrics(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Scores of the arg-max class and of the probabilities.

    Macro and weighted averages run over all `classes`; a class that is never predicted has precision 0, and
    one that never occurs in `true` has recall 0. Three scores are means over the classes that do occur, because
    they mean nothing for the others: ``balanced_accuracy`` (of the recall), ``auc`` and ``average_precision`` (one
    class against the rest).

    Args:
        true: class indices, int (N,), each in 0…C−1.
        probabilities: (N, C), rows that sum to 1.
        classes: the C class names, in the order of the columns.

    Returns:
        ``accuracy, balanced_accuracy, kappa`` (Cohen's, unweighted), ``precision_macro, recall_macro, f1_macro,
        precision_weighted, recall_weighted, f1_weighted, specificity_macro``, ``auc`` and ``average_precision``
        (areas under the ROC curve and, as steps, under the precision-recall curve; two classes: of the second one),
        ``ece`` (15 bins of equal width on the largest probability), ``brier`` (mean over the cases of the sum of
        squares over the classes, 0…2). ``auc`` and ``average_precision`` are NaN when `true` holds one class only,
        ``kappa`` when `true` and the predictions hold one and the same class.

    Raises:
        ValueError: when the shapes do not fit, a class index is out of range, or a row is no distribution.
    """
    probabilities, true = labelled_distributions(probabilities, true, classes)
    every_case_once = np.ones((1, len(true)))
    scores = classification_scores(true, probabilities.argmax(axis=1), probabilities, len(classes), every_case_once)
    return {name: float(values[0]) for name, values in scores.items()}


def per_class_metrics(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, dict]:
    """Scores of each class against the rest: by the arg-max class, and by the class's probability.

    Args:
        true: class indices, int (N,).
        probabilities: (N, C).
        classes: the C class names.

    Returns:
        ``{class: {"precision", "recall", "f1", "specificity", "auc", "average_precision", "support"}}``; a score
        whose denominator is zero is 0, the two areas are NaN where the class is missing or alone, and ``support`` is
        the number of cases of the class.

    Raises:
        ValueError: as `classification_metrics` does.
    """
    from sklearn import metrics

    probabilities, true = labelled_distributions(probabilities, true, classes)
    predicted = probabilities.argmax(axis=1)
    labels = np.arange(len(classes))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, predicted, labels=labels, zero_division=0
    )
    (true_negative, false_positive), _ = np.moveaxis(
        metrics.multilabel_confusion_matrix(true, predicted, labels=labels), 0, -1
    )
    specificity = true_negative / np.maximum(true_negative + false_positive, 1)
    areas, precisions = class_ranking_scores(np.eye(len(classes))[true], probabilities, np.ones((1, len(true))))
    return {
        name: {
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "specificity": float(specificity[index]),
            "auc": float(areas[0, index]),
            "average_precision": float(precisions[0, index]),
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
    groups: Sequence | None = None,
    positive: Sequence[str] = (),
    threshold: float | None = None,
    unfamiliarity: np.ndarray | None = None,
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
        groups: patient or lesion of each case, N names; None where nothing is known of them.
        positive: names of the classes that count as positive.
        threshold: a case is positive from this sum of their probabilities on; None without an operating point.
        unfamiliarity: of each case, (N,), 1 at the threshold; None where the model has no such output.

    Returns:
        Columns ``id, image, true, predicted, confidence, abstained`` and one ``prob_<class>`` per class; with
        `groups`, ``group`` after ``image``. After ``abstained`` with `threshold` ``positive`` (0 or 1), and with
        `unfamiliarity` ``unfamiliarity`` and ``unfamiliar`` (0 or 1: above 1).

    Raises:
        ValueError: when the lengths differ.
    """
    import pandas as pd

    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise ValueError(f"`probabilities` must be (N, {len(classes)}), received shape {probabilities.shape}")
    lengths = {"ids": len(ids), "images": len(images), "true": len(true), "probabilities": len(probabilities)}
    for name, values in (("groups", groups), ("unfamiliarity", unfamiliarity)):
        if values is not None:
            lengths[name] = len(values)
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{', '.join(f'`{name}`' for name in lengths)} must be equally long, received {lengths}")
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
    if groups is not None:
        table.insert(2, "group", [str(value) for value in groups])
    if threshold is not None:
        table["positive"] = (positive_score(probabilities, classes, positive) >= threshold).astype(int)
    if unfamiliarity is not None:
        table["unfamiliarity"] = unfamiliarity
        table["unfamiliar"] = (np.asarray(unfamiliarity) > 1).astype(int)
    columns = {f"prob_{name}": probabilities[:, index] for index, name in enumerate(classes)}
    return pd.concat([table, pd.DataFrame(columns)], axis=1)


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check a ``predictions.csv``.

    Args:
        path: a table with the columns that `predictions_table` makes; ``group`` may be missing. With a column
            ``fold`` or ``repeat``, a case may stand in the table once for each of their values.

    Returns:
        The table: ``abstained`` as bool, ``confidence`` and the probabilities as float64, the rest as text (``true``
        is missing where it is empty). The classes are `prediction_classes` of it.

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
    keys = ["id", *(name for name in REPEAT_COLUMNS if name in table.columns)]
    unique = "`id` must be unique" if keys == ["id"] else f"{' and '.join(keys)} must be unique together"
    check(table.duplicated(keys), "duplicate_id", unique, "id")
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
