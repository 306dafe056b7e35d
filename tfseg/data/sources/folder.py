"""The plain layout: a folder with ``images/``, ``masks/`` and ``labels.csv``."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tfseg.data.cases import COLUMNS, Cases, MaskClasses
from tfseg.data.sources.source import Source, text_frame
from tfseg.errors import ConfigError, DataError, Problem
from tfseg.run import recorded_path

TABLE = "labels.csv"
DESCRIPTION = "dataset.json"
LAYOUT = (
    "the plain layout is a folder with images/, masks/ (optional) and labels.csv with the columns "
    "image,mask,label (mask may be empty) and optional id,group,split and attributes of your own; "
    "paths are relative to the folder"
)


def read_folder(path: str | Path, target: str = "label") -> Cases:
    """Read a folder in the plain layout.

    ``labels.csv`` is comma-separated UTF-8 (a byte-order mark is accepted) with a header. Every cell is text, so
    that classes named ``NA`` or ``1`` keep their names; blanks around a cell are dropped and an empty cell is a
    missing value. ``dataset.json`` may say what mask values mean (``mask_classes``, ``ignore``, ``lesion``).

    The target's column becomes ``label``. All other columns stay as attributes under their own names, the
    target's too; only the file's ``label`` column, when another target is learned, is kept as
    ``source_label``. An ``id`` that isn't given is the image's file name without its suffix, or, where two of
    those are equal, its path below ``images/`` without, or else with, its suffix. A ``group`` that isn't given
    (no column, or an empty cell) is the case's id.

    Args:
        path: the folder.
        target: the column to learn.

    Raises:
        DataError: with every problem of the folder, the table and ``dataset.json``; the images are not opened.
    """
    path = Path(path)
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError([Problem("no_folder", str(path), f"{what}; {LAYOUT}")], str(path))
    if not (path / TABLE).is_file():
        raise DataError([Problem("no_table", TABLE, f"is missing; {LAYOUT}")], str(path))

    problems: list[Problem] = []
    mask_classes = _read_description(path / DESCRIPTION, problems)
    columns, rows = _read_table(path / TABLE, problems)
    if columns:
        _check_columns(columns, target, problems)
    if problems:
        raise DataError(problems, str(path))

    table = {name: [row[number] for _, row in rows] for number, name in enumerate(columns)}
    lines = [line for line, _ in rows]
    ids = table.get("id") or _ids(table["image"])
    labels = table[target]
    for line, name in zip(lines, ids, strict=True):
        if not name:
            problems.append(_at(line, "no_id", "the id is empty"))
    problems += _duplicates(ids, lines)
    for column in ("image", "mask"):
        for line, value in zip(lines, table.get(column, ()), strict=False):
            _check_path(path, value, column, line, problems)
    if problems:
        raise DataError(problems, str(path))

    root = Path(os.path.abspath(path))
    content = {
        "id": ids,
        "image": [str(root / value) for value in table["image"]],
        "mask": [str(root / value) if value else None for value in table.get("mask", [""] * len(rows))],
        "label": labels,
        "group": [group or name for group, name in zip(table.get("group", ids), ids, strict=True)],
    }
    for name, values in table.items():
        if name not in COLUMNS:
            content[name] = values
    if target != "label" and "label" in table:
        content["source_label"] = table["label"]
    return Cases(text_frame(content), root, target, mask_classes, recorded_path(path))


def _at(line: int, kind: str, message: str) -> Problem:
    return Problem(kind, f"{TABLE}, line {line}", message)


def _read_table(path: Path, problems: list[Problem]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows that aren't blank, with their line numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            records = [(reader.line_num, [cell.strip() for cell in record]) for record in reader]
    except UnicodeDecodeError as error:
        problems.append(Problem("table", TABLE, f"is not UTF-8 text ({error.reason} at byte {error.start})"))
        return [], []
    except csv.Error as error:
        problems.append(Problem("table", TABLE, f"is not a comma-separated table: {error}"))
        return [], []
    records = [(line, record) for line, record in records if any(record)]
    if not records:
        problems.append(Problem("empty_table", TABLE, f"is empty; {LAYOUT}"))
        return [], []
    columns, rows = records[0][1], records[1:]
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        mark = next(mark for mark in ";\t|" if mark in columns[0])
        name = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}[mark]
        problems.append(Problem("table", TABLE, f"is separated by {name}; save it separated by commas"))
        return [], []
    if not rows:
        problems.append(Problem("empty_table", TABLE, "has a header and no rows"))
    for line, record in rows:
        if len(record) != len(columns):
            message = f"has {len(record)} cells where the header has {len(columns)} columns"
            problems.append(_at(line, "table", message))
    return columns, rows


def _check_columns(columns: list[str], target: str, problems: list[Problem]) -> None:
    there = f"the columns are {', '.join(columns)}"
    for name in sorted({name for name in columns if columns.count(name) > 1}):
        problems.append(Problem("column", TABLE, f"column {name!r} stands more than once; {there}"))
    if "" in columns:
        problems.append(Problem("column", TABLE, f"column {columns.index('') + 1} has no name; {there}"))
    if target in ("id", "image", "mask"):
        problems.append(Problem("target", TABLE, f"the target can't be {target!r}; {there}"))
    for name in dict.fromkeys(("image", target)):
        if name in columns:
            continue
        similar = [column for column in columns if column.lower() == name.lower()]
        hint = f" ({similar[0]!r} is written differently: names are compared exactly)" if similar else ""
        if name == target and target != "label":
            message = f"there is no column {name!r} to learn{hint}; {there}"
            problems.append(Problem("target", TABLE, message))
        else:
            problems.append(Problem("column", TABLE, f"column {name!r} is missing{hint}; {there}"))
    if target != "label" and "label" in columns and "source_label" in columns:
        message = f"columns 'label' and 'source_label' stand in each other's way when {target!r} is learned"
        problems.append(Problem("column", TABLE, message))


def _ids(images: list[str]) -> list[str]:
    """The shortest of three ways to name images that names them all differently."""
    paths = [PurePosixPath(value) for value in images]
    inside = [path.relative_to("images") if path.parts[:1] == ("images",) else path for path in paths]
    ways = (
        [path.stem for path in paths],
        [str(path.with_suffix("")) if path.name else "" for path in inside],
        [str(path) if path.name else "" for path in inside],
    )
    return next((names for names in ways if len(set(names)) == len(names)), ways[-1])


def _duplicates(ids: Iterable[str], lines: Iterable[int]) -> list[Problem]:
    where: dict[str, list[int]] = {}
    for name, line in zip(ids, lines, strict=True):
        where.setdefault(name, []).append(line)
    return [
        _at(numbers[1], "duplicate_id", f"id {name!r} stands on lines {', '.join(map(str, numbers))}")
        for name, numbers in where.items()
        if name and len(numbers) > 1
    ]


def _check_path(root: Path, value: str, column: str, line: int, problems: list[Problem]) -> None:
    if not value:
        if column == "image":
            problems.append(_at(line, "no_image", "the image is empty"))
        return
    if Path(value).is_absolute() or os.path.normpath(value).split(os.sep)[0] == "..":
        message = f"{column} {value!r} must be a path relative to the folder that stays inside it"
        problems.append(_at(line, "path", message))
    elif not (root / value).is_file():
        hint = " (write paths with / instead of \\)" if "\\" in value else ""
        problems.append(Problem("missing_file", value, f"the {column} named on line {line} is missing{hint}"))


def _read_description(path: Path, problems: list[Problem]) -> MaskClasses:
    if not path.exists():
        return MaskClasses()
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        problems.append(Problem("description", DESCRIPTION, f"is not valid JSON: {error}"))
        return MaskClasses()
    wrong = _wrong_description(value)
    if not wrong:
        try:
            return MaskClasses.from_json(value)
        except ConfigError as error:
            wrong = [str(error)]
    problems += [Problem("description", DESCRIPTION, message) for message in wrong]
    return MaskClasses()


def _wrong_description(value: object) -> list[str]:
    known = tuple(MaskClasses().to_json())
    if not isinstance(value, dict):
        return [f"must hold an object with the keys {', '.join(known)}, received {value!r:.80}"]
    wrong = [f"unknown key {key!r}; known: {', '.join(known)}" for key in value if key not in known]
    for key in ("mask_classes", "lesion"):
        names = value.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            wrong.append(f"{key!r} must be a list of names, received {names!r:.80}")
    ignore = value.get("ignore")
    if ignore is not None and (type(ignore) is not int or not 0 <= ignore <= 255):
        wrong.append(f"'ignore' must be a mask value from 0 to 255, or null, received {ignore!r:.80}")
    elif ignore is not None and not wrong and ignore < len(value.get("mask_classes") or ("", "")):
        wrong.append(f"'ignore' is {ignore}, which is the value of a mask class")
    return wrong


SOURCE = Source(
    "folder",
    "your own images in the plain layout",
    """PATH/
  labels.csv        image,mask,label[,id,group,split,…]
  images/
  masks/            optional
  dataset.json      what the mask values mean; optional""",
    read_folder,
)
