"""What `tfseg compare` reads: run folders, tables of predictions, and tables with a column per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tfseg.errors import DataError, Problem, UserError
from tfseg.evaluation.classification import prediction_classes, read_predictions
from tfseg.run import read_json

if TYPE_CHECKING:
    import pandas as pd

ID_COLUMNS = ("id", "image_name", "image_id", "image")
TRUE_COLUMNS = ("true", "true_label", "label")
GROUP_COLUMNS = ("group", "lesion_id", "patient_id")
SUFFIX = "_pred"


@dataclass
class Inputs:
    """What was found, by row.

    Args:
        predictions: row → table with ``id``, ``true``, ``predicted``, and what else `classifier_rows` reads.
        case_scores: row → scores per case (Dice, CAM IoU, …), index ``id``; of classifiers and of segmenters.
        groups: id → patient or lesion, as far as the tables of predictions say.
    """

    predictions: dict[str, pd.DataFrame] = field(default_factory=dict)
    case_scores: dict[str, pd.DataFrame] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Every row, in the order found."""
        return list(dict.fromkeys([*self.predictions, *self.case_scores]))

    def set_groups(self, groups: Mapping[str, str]) -> None:
        """Take these groups instead of those of the tables; a case that isn't named is its own group."""
        self.groups = dict(groups)
        for name, table in self.predictions.items():
            self.predictions[name] = table.assign(group=table["id"].map(self.groups))

    def chosen(self, rows: Sequence[str]) -> Inputs:
        """Only the rows of these names; ``row`` stands for ``run/row`` of every run.

        Raises:
            UserError: for a name that there isn't.
        """
        wanted = {}
        for row in rows:
            found = [name for name in self.names if name == row or name.endswith(f"/{row}")]
            if not found:
                raise UserError(f"`--rows`: there is no row {row!r}; there are {', '.join(self.names)}")
            wanted |= dict.fromkeys(found)
        return Inputs(
            {name: self.predictions[name] for name in wanted if name in self.predictions},
            {name: self.case_scores[name] for name in wanted if name in self.case_scores},
            self.groups,
        )


def read_inputs(paths: Sequence[str | Path], classes: Sequence[str] = ()) -> Inputs:
    """Read run folders and tables.

    Rows of several inputs are named after them: ``run/row``, and a table's file name. Of a single table with columns
    ``<model>_pred`` each column is a row; of several such tables each is a row, and its columns are its repeats.

    Args:
        paths: run folders, ``predictions.csv`` files, or CSV tables with columns ``<model>_pred``.
        classes: names of the classes 0, 1, 2, … of tables that hold numbers.

    Raises:
        UserError: a path isn't there, is given twice, or holds nothing to compare; `DataError` for what is wrong in
            a table.
    """
    paths = [Path(path) for path in paths]
    inputs, alone = Inputs(), len(paths) == 1
    for path, name in zip(paths, _short_names(paths), strict=True):
        if path.is_dir():
            _add_run(inputs, path, name, alone)
        elif path.is_file():
            _add_table(inputs, path, name, alone, classes)
        else:
            raise UserError(f"{path} is neither a run folder nor a file")
    for table in inputs.predictions.values():
        if "group" in table:
            known = table[table["group"].notna() & (table["group"] != "")]
            inputs.groups |= dict(zip(known["id"], known["group"].astype(str), strict=True))
    return inputs


def read_groups(path: str | Path) -> dict[str, str]:
    """Case → patient or lesion, from a CSV table such as a dataset's ``labels.csv`` or HAM10000's metadata.

    Args:
        path: a table with a column ``id``, ``image_name``, ``image_id`` or ``image`` (a path: its name without the
            suffix is the case's id), and a column ``group``, ``lesion_id`` or ``patient_id``.

    Raises:
        DataError: when it can't be read or a column is missing.
    """
    path = Path(path)
    table = _read_table(path)
    key, group = _columns(table, path, ID_COLUMNS, GROUP_COLUMNS)
    ids = table[key].map(lambda value: Path(value).stem) if key == "image" else table[key]
    return {case: name for case, name in zip(ids, table[group], strict=True) if name}


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    full = [(path.parent / path.stem if path.is_file() else path).resolve().parts for path in paths]
    for depth in range(1, max(map(len, full), default=1) + 1):
        names = ["/".join(parts[-depth:]) for parts in full]
        if len(set(names)) == len(names):
            return names
    doubled = next(path for number, path in enumerate(paths) if full[number] in full[:number])
    raise UserError(f"{doubled} is given twice")


def _add_run(inputs: Inputs, folder: Path, name: str, alone: bool) -> None:
    order = _row_order(folder)
    tables = sorted((folder / "predictions").glob("*.csv"), key=lambda path: (order.get(path.stem, len(order)), path))
    single = folder / "predictions.csv"
    scores = _case_scores(folder)
    if not tables and not single.exists() and not scores:
        raise UserError(f"{folder} holds no predictions: it is no run folder, or its run did not get that far")

    def row(own: str) -> str:
        return own if alone else f"{name}/{own}"

    for path in tables:
        inputs.predictions[row(path.stem)] = read_predictions(path)
    if not tables and single.exists():
        inputs.predictions[name] = read_predictions(single)
    inputs.case_scores |= {row(own): table for own, table in scores.items()}


def _row_order(folder: Path) -> dict[str, int]:
    """The place of each row in the run's table."""
    path = folder / "metrics.json"
    rows = read_json(path)["rows"] if path.exists() else []
    return {row["name"]: place for place, row in enumerate(rows)}


def _case_scores(folder: Path) -> dict[str, pd.DataFrame]:
    """Row → scores per case of a run, mean over folds and repeats."""
    import pandas as pd

    parts: dict[str, list[pd.DataFrame]] = {}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = read_json(path)
        # A stage that learns another column is no row to compare.
        if cell.get("per_case") and cell.get("ids") and "target" not in cell:
            parts.setdefault(cell["row"], []).append(pd.DataFrame(cell["per_case"], cell["ids"], dtype=float))
    return {row: pd.concat(tables).groupby(level=0, sort=False).mean() for row, tables in parts.items()}


def _add_table(inputs: Inputs, path: Path, name: str, alone: bool, classes: Sequence[str]) -> None:
    import pandas as pd

    table = _read_table(path)
    models = [column for column in table.columns if column.endswith(SUFFIX) and column != SUFFIX]
    if prediction_classes(table) or not models:
        inputs.predictions[name] = read_predictions(path)
        return
    table = _named(table, path, models, classes)
    parts = {
        column.removesuffix(SUFFIX): table.drop(columns=models).assign(predicted=table[column]) for column in models
    }
    if alone:
        inputs.predictions |= parts
    else:
        inputs.predictions[name] = pd.concat([part.assign(repeat=model) for model, part in parts.items()])


def _named(table: pd.DataFrame, path: Path, models: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """The columns ``id``, ``true``, maybe ``group``, and those of the models, with names of classes."""
    found = _columns(table, path, ID_COLUMNS, TRUE_COLUMNS)
    problems: list[Problem] = []
    columns = [*found, *(["group"] if "group" in table else []), *models]
    table = table[columns].rename(columns=dict(zip(found, ("id", "true"), strict=True)))
    doubled = table["id"].duplicated()
    for line in table.index[doubled | table["id"].eq("")]:
        message = f"`{found[0]}` must be unique and not empty, received {table['id'][line]!r}"
        problems.append(Problem("duplicate_id", f"{path.name}, line {line + 2}", message))
    for column in ("true", *models):
        values = table[column]
        numbers = values[values != ""].str.fullmatch(r"\d+").all()
        if numbers and classes and not set(values) <= {*classes, ""}:
            beyond = [value for value in values[values != ""] if int(value) >= len(classes)]
            if beyond:
                raise UserError(f"{path}: `{column}` holds the class {beyond[0]}, and `--classes` names {len(classes)}")
            table[column] = values.map(lambda value: classes[int(value)] if value else "")
        if column != "true":
            for line in table.index[table[column] == ""]:
                problems.append(Problem("label", f"{path.name}, line {line + 2}", f"`{column}` must not be empty"))
    if problems:
        raise DataError(problems, str(path))
    _check_one_language(table, path, models, found[1])
    return table.assign(true=table["true"].where(table["true"] != ""))


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError([Problem("table", path.name, f"not a CSV table: {error}")], str(path)) from error


def _columns(table: pd.DataFrame, path: Path, *choices: Sequence[str]) -> list[str]:
    """The first of each choice of columns that the table has."""
    found = [next((name for name in names if name in table), None) for names in choices]
    problems = [
        Problem("table", path.name, f"a column is missing: one of {', '.join(names)}")
        for names, column in zip(choices, found, strict=True)
        if column is None
    ]
    if problems or table.empty:
        raise DataError(problems or [Problem("table", path.name, "the table has no rows")], str(path))
    return found


def _check_one_language(table: pd.DataFrame, path: Path, models: Sequence[str], true: str) -> None:
    truth = set(table["true"]) - {""}
    predicted = {value for column in models for value in table[column]}
    if all(value.isdigit() for value in truth) and not all(value.isdigit() for value in predicted):
        raise UserError(
            f"{path}: `{true}` holds numbers and the predictions names ({', '.join(sorted(predicted)[:7])}); give the "
            f"names of 0, 1, 2, … in this order with `--classes`"
        )
