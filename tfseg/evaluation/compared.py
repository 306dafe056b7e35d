"""What several models did on the same test cases, brought into one order; different test cases are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tfseg.errors import UserError
from tfseg.evaluation.classification import prediction_classes

if TYPE_CHECKING:
    import pandas as pd

SHOWN_IDS = 5


@dataclass(frozen=True)
class ComparedRow:
    """What one row of a table did on each of N cases. A row may have R models (repeats, or folds on a fixed test set).

    Args:
        ids: unique names of the cases, (N,).
        groups: patient or lesion of each case, (N,): the independent unit.
        true: class indices, int (N,); None for a segmenter.
        predicted: class indices, int (R, N), −1 where a repeat did not test the case; None for a segmenter.
        probabilities: (R, N, C); None where only the predicted classes are known.
        per_case: metric name → one value per case, float (N,), mean over the repeats; NaN where it says nothing.
    """

    ids: np.ndarray
    groups: np.ndarray
    true: np.ndarray | None = None
    predicted: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    per_case: dict[str, np.ndarray] = field(default_factory=dict)


def classifier_rows(
    tables: Mapping[str, pd.DataFrame], classes: Sequence[str] = (), common: bool = False
) -> tuple[dict[str, ComparedRow], list[str], int]:
    """The rows of several tables of predictions, over the same cases in the same order.

    Args:
        tables: row name → table with ``id``, ``true`` and ``predicted`` (class names); where they are known also
            ``prob_<class>`` of every class, ``group``, and ``repeat`` or ``fold`` when a case stands there several
            times. Cases without a true class are left out. A case without a group is its own group.
        classes: class names, for tables without probabilities; by default every name that occurs.
        common: whether to compare on the cases that all tables have, instead of refusing when they differ.

    Returns:
        The rows, the class names, and how many cases `common` left out.

    Raises:
        UserError: when the tables have different cases, true classes, groups, classes or repeats; the message names
            the first of them.
    """
    tables = {name: table[table["true"].notna()] for name, table in tables.items()}
    for name, table in tables.items():
        if table.empty:
            raise UserError(f"{name}: no case has a true class, so there is nothing to compare")
    classes = _classes(tables, classes)
    ids, left_out = _common_ids({name: table["id"] for name, table in tables.items()}, common)
    tables = {name: table[table["id"].isin(ids)] for name, table in tables.items()}
    truth = _one_value_per_case(tables, "true")
    groups = _one_value_per_case(tables, "group")
    group_names = np.array([groups.get(case, case) for case in ids], dtype=object).astype(str)
    number = {name: index for index, name in enumerate(classes)}
    true = np.array([number[truth[case]] for case in ids], np.int64)
    rows = {}
    for name, table in tables.items():
        predicted, probabilities = _by_repeat(name, table, ids, classes)
        rows[name] = ComparedRow(np.array(ids), group_names, true, predicted, probabilities)
    _check_repeats(rows)
    return rows, classes, left_out


def segmenter_rows(
    scores: Mapping[str, pd.DataFrame], groups: Mapping[str, str], common: bool = False
) -> tuple[dict[str, ComparedRow], int]:
    """The rows of several tables of scores per case (Dice, IoU, …), over the same cases in the same order.

    Args:
        scores: row name → table with the index ``id`` and one column per metric.
        groups: id → patient or lesion; a case that it doesn't name is its own group.
        common: as in `classifier_rows`.

    Returns:
        The rows, and how many cases `common` left out.

    Raises:
        UserError: when the tables have different cases.
    """
    ids, left_out = _common_ids({name: table.index for name, table in scores.items()}, common)
    names = np.array([groups.get(case, case) for case in ids], dtype=object).astype(str)
    rows = {}
    for name, table in scores.items():
        chosen = table.loc[ids]
        per_case = {column: chosen[column].to_numpy(np.float64) for column in table.columns}
        rows[name] = ComparedRow(np.array(ids), names, per_case=per_case)
    return rows, left_out


def _classes(tables: Mapping[str, pd.DataFrame], classes: Sequence[str]) -> list[str]:
    named = {name: prediction_classes(table) for name, table in tables.items() if prediction_classes(table)}
    if not classes:
        found = {value for table in tables.values() for column in ("true", "predicted") for value in table[column]}
        classes = next(iter(named.values())) if named else sorted(found)
    if len(classes) < 2:
        raise UserError(f"the tables hold only the class {', '.join(classes)}; name all classes with `--classes`")
    for name, own in named.items():
        if set(own) != set(classes):
            raise UserError(f"{name} has the classes {', '.join(sorted(own))}, not {', '.join(sorted(classes))}")
    for name, table in tables.items():
        for column in ("true", "predicted"):
            unknown = sorted(set(table[column]) - set(classes))
            if unknown:
                raise UserError(
                    f"{name}: `{column}` holds {', '.join(unknown[:SHOWN_IDS])}, and the classes are "
                    f"{', '.join(classes)}"
                )
    return list(classes)


def _common_ids(tables: Mapping[str, Iterable[str]], common: bool) -> tuple[list[str], int]:
    """The ids of the cases in the order of the first table."""
    ordered = {name: list(dict.fromkeys(ids)) for name, ids in tables.items()}
    sets = {name: set(ids) for name, ids in ordered.items()}
    (first, expected), *others = ordered.items()
    shared, every = set.intersection(*sets.values()), set.union(*sets.values())
    if not common:
        for name, ids in others:
            missing = [case for case in expected if case not in sets[name]]
            extra = [case for case in ids if case not in sets[first]]
            if missing or extra:
                parts = [f"{len(missing)} are only in {first} ({_shown(missing)})"] if missing else []
                parts += [f"{len(extra)} are only in {name} ({_shown(extra)})"] if extra else []
                raise UserError(
                    f"{first} and {name} have different test cases: {'; '.join(parts)}. Differences between models "
                    f"mean something on the same cases only; `--common` compares on the {len(shared)} that all have"
                )
    if not shared:
        raise UserError(f"no test case is in all of {', '.join(tables)}")
    return [case for case in expected if case in shared], len(every) - len(shared)


def _one_value_per_case(tables: Mapping[str, pd.DataFrame], column: str) -> dict[str, str]:
    """id → value, the same in every table that has one."""
    values: dict[str, str] = {}
    origin = {}
    for name, table in tables.items():
        if column not in table:
            continue
        known = table[table[column].notna() & (table[column] != "")]
        pairs = list(zip(known["id"], known[column].astype(str), strict=True))
        differing = list(dict.fromkeys(case for case, value in pairs if values.setdefault(case, value) != value))
        if differing:
            case = differing[0]
            now = next(value for key, value in pairs if key == case and value != values[case])
            raise UserError(
                f"`{column}` of {len(differing)} cases ({_shown(differing)}) is not the same everywhere: {case} has "
                f"{values[case]!r} in {origin.get(case, name)} and {now!r} in {name}"
            )
        origin |= {case: name for case, _ in pairs if case not in origin}
    return values


def _by_repeat(
    name: str, table: pd.DataFrame, ids: Sequence[str], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    repeat = _repeat_numbers(name, table)
    position = {case: index for index, case in enumerate(ids)}
    number = {label: index for index, label in enumerate(classes)}
    case = table["id"].map(position).to_numpy()
    shape = (int(repeat.max()) + 1, len(ids))
    predicted = np.full(shape, -1, np.int64)
    predicted[repeat, case] = table["predicted"].map(number).to_numpy()
    if not prediction_classes(table):
        return predicted, None
    probabilities = np.full((*shape, len(classes)), np.nan)
    probabilities[repeat, case] = table[[f"prob_{label}" for label in classes]].to_numpy(np.float64)
    return predicted, probabilities


def _repeat_numbers(name: str, table: pd.DataFrame) -> np.ndarray:
    """Which of the row's models made each line, 0…R−1.

    In a cross-validation a case is tested in one fold of each repeat; on a fixed test set in every fold.
    """
    if not table["id"].duplicated().any():
        return np.zeros(len(table), np.int64)
    for keys in (["repeat"], ["fold"], ["repeat", "fold"]):
        if set(keys) <= set(table.columns) and not table.duplicated(["id", *keys]).any():
            return table.groupby(keys, sort=True).ngroup().to_numpy()
    doubled = table.loc[table["id"].duplicated(), "id"].tolist()
    raise UserError(f"{name}: cases stand there more than once without a `repeat` or `fold` of their own: "
                    f"{_shown(doubled)}")  # fmt: skip


def _check_repeats(rows: Mapping[str, ComparedRow]) -> None:
    tested = {name: row.predicted >= 0 for name, row in rows.items()}
    if all(mask.all() for mask in tested.values()):
        return
    (first, expected), *others = tested.items()
    for name, mask in others:
        if mask.shape != expected.shape or (mask != expected).any():
            raise UserError(
                f"the repeats of {first} and {name} have tested different cases: {first} has {_repeats(expected)}, "
                f"{name} {_repeats(mask)}"
            )


def _repeats(mask: np.ndarray) -> str:
    counts = mask.sum(axis=1)
    size = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    return f"{len(mask)} with {size} cases"


def _shown(ids: Sequence[str]) -> str:
    return ", ".join(map(str, ids[:SHOWN_IDS])) + (" …" if len(ids) > SHOWN_IDS else "")
