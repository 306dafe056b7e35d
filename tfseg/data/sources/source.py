"""What readers of publishers' own layouts share: files found, tables read, problems collected, cases built."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tfseg.data.cases import COLUMNS, Cases, MaskClasses
from tfseg.errors import DataError, Problem
from tfseg.run import recorded_path

if TYPE_CHECKING:
    import pandas as pd

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Source:
    """A dataset in the layout in which its publisher gives it away.

    Args:
        name: as in ``NAME:PATH``.
        title: what it is, one line.
        layout: the folder tree, as text.
        read: takes the folder and the column to learn; raises a DataError with every problem.
        counts: published numbers, by column and value: how many cases have it. For the value ``"any"``: how many
            cases have a value at all, such as a mask; for ``"all"``: how many different values there are, such as
            groups. ``"label[train]"`` counts the cases only whose ``part`` is ``train``.
    """

    name: str
    title: str
    layout: str
    read: Callable[[Path, str], Cases]
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Args:
        where: file and line, such as ``"labels.csv, line 3"``.
        cells: text by column, without the blanks around it.
    """

    where: str
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def get(self, column: str) -> str:
        """The cell, or an empty text where the table has no such column."""
        return self.cells.get(column, "")


@dataclass(frozen=True)
class Row:
    """One case as a source found it.

    Args:
        id: unique.
        image: the file, or None where it is missing, which is an error.
        label: class name, or None where it isn't known.
        mask: the file, or None where there is none.
        group: patient or lesion; None where it isn't known.
        where: what names the case: file and line.
        attributes: further columns; the same ones in every row, with None where a value is missing.
    """

    id: str
    image: Path | None
    label: str | None
    mask: Path | None = None
    group: str | None = None
    where: str = ""
    attributes: Mapping[str, str | None] = field(default_factory=dict)


def find(root: Path, *names: str) -> Path | None:
    """The file or folder below `root` with one of these names (``a/b`` for one further down), or None.

    An exact name comes before one in other letters (``Images`` for ``images``), the first name before the second.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    for name in names:
        here = root
        for part in Path(name).parts:
            entries = sorted(here.iterdir()) if here.is_dir() else []
            here = next((entry for entry in entries if entry.name.lower() == part.lower()), None)
            if here is None:
                break
        if here is not None:
            return here
    return None


def require(root: Path, problems: list[Problem], *names: str, kind: str = "no_folder") -> Path | None:
    """`find`, with a problem where there is nothing; an archive of that name that isn't unpacked is pointed out."""
    found = find(root, *names)
    if found is None:
        others = f" (nor is there {', '.join(names[1:])})" if len(names) > 1 else ""
        archives = [find(root, name + suffix) for name in names for suffix in ARCHIVES]
        archive = next((archive for archive in archives if archive), None)
        hint = f"; {shown(archive, root)} is there: unpack it" if archive else ""
        problems.append(Problem(kind, names[0], f"is missing{others}{hint}"))
    return found


def shown(path: Path, root: Path) -> str:
    """A path as problems name it: relative to the folder that was read."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def read_table(
    path: Path, columns: Sequence[str], root: Path, problems: list[Problem], header: bool = True
) -> list[Line]:
    """Read a table separated by commas, semicolons, tabs or bars, whichever gives its first line the columns asked for.

    Blank lines are skipped and a byte-order mark is accepted; text that isn't UTF-8 is read as Latin-1. A column is
    found in other letters too (``Image_ID`` for ``image_id``) and gets the name asked for.

    Args:
        path: the file.
        columns: those that must be there; without a `header`, the names of all of them in their order.
        root: problems name files relative to it.
        problems: takes what is wrong: a column that is missing, lines of another length, no rows.
        header: whether the first line names the columns.
    """
    name = shown(path, root)
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, columns))
    records = [(reader.line_num, [cell.strip() for cell in record]) for record in reader]
    records = [(line, record) for line, record in records if any(record)]
    if len(records) < (2 if header else 1):
        problems.append(Problem("empty_table", name, "has no rows"))
        return []
    names = list(columns)
    if header:
        there = records.pop(0)[1]
        names = [next((column for column in columns if column.lower() == cell.lower()), cell) for cell in there]
        missing = [column for column in columns if column not in names]
        if missing:
            message = f"column {', '.join(map(repr, missing))} is missing; the columns are {', '.join(there)}"
            problems.append(Problem("column", name, message))
            return []
    lines = []
    for number, record in records:
        if len(record) != len(names):
            message = f"has {len(record)} cells, expected {len(names)} ({', '.join(names)})"
            problems.append(Problem("table", f"{name}, line {number}", message))
        else:
            lines.append(Line(f"{name}, line {number}", dict(zip(names, record, strict=True))))
    return lines


def _delimiter(text: str, columns: Sequence[str]) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    wanted = {column.lower() for column in columns}

    def fit(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader([first], delimiter=delimiter), [])
        return len(wanted & {cell.strip().lower() for cell in cells}), len(cells)

    return max(",;\t|", key=fit)


def index_images(
    folders: Iterable[Path | None],
    root: Path,
    problems: list[Problem],
    key: Callable[[str], str | None] = str,
    recursive: bool = False,
) -> dict[str, Path]:
    """The image files of folders by name without suffix, in small letters.

    Files that are no images by their suffix (in any letters), and hidden ones, are left out.

    Args:
        folders: to look into; None is skipped.
        root: problems name files relative to it.
        problems: takes two files of the same name: a warning where their bytes are equal (the first in the order of
            the folders counts), else an error.
        key: makes the name of the case out of a file's name without suffix; None leaves the file out.
        recursive: whether to look into folders inside them.
    """
    index: dict[str, Path] = {}
    for folder in folders:
        if folder is None:
            continue
        for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
            if path.suffix.lower() not in IMAGES or path.name.startswith(".") or not path.is_file():
                continue
            name = key(path.stem)
            if name is None:
                continue
            first = index.setdefault(name.lower(), path)
            if first is not path:
                problems.append(_twice(first, path, root))
    return index


def _twice(first: Path, second: Path, root: Path) -> Problem:
    if first.stat().st_size == second.stat().st_size and first.read_bytes() == second.read_bytes():
        message = f"is there again as {shown(second, root)}, byte for byte: the first is read"
        return Problem("stored_twice", shown(first, root), message, "warning")
    return Problem("stored_twice", shown(first, root), f"and {shown(second, root)} are different images of one name")


def unlisted(
    index: Mapping[str, Path], used: Iterable[Path | None], root: Path, table: str, kind: str = "unlisted_images"
) -> list[Problem]:
    """A warning for the files of an index that no row has used; `table` says what doesn't name them."""
    left = sorted(set(index.values()) - {path for path in used if path})
    if not left:
        return []
    file = shown(left[0], root) + (f" and {len(left) - 1} more" if len(left) > 1 else "")
    return [Problem(kind, file, f"not in {table}", "warning")]


def build_cases(
    rows: Sequence[Row],
    root: Path,
    target: str,
    problems: Iterable[Problem],
    mask_classes: MaskClasses | None = None,
    name: str = "",
) -> Cases:
    """The cases of a source, or a DataError with everything that is wrong.

    Args:
        rows: the cases.
        root: the folder that was read.
        target: the column to learn: ``label`` or an attribute. With an attribute, the label stays as
            ``source_label``.
        problems: found until here; warnings among them become the cases' notes.
        mask_classes: what mask values mean; background and lesion by default.
        name: of the source.
    """
    problems = list(problems)
    attributes = list(dict.fromkeys(column for row in rows for column in row.attributes))
    if rows and target not in ("label", *attributes):
        there = ", ".join(["label", *attributes])
        problems.append(Problem("target", name, f"there is no column {target!r} to learn; the columns are {there}"))
    seen: dict[str, Row] = {}
    for row in rows:
        if row.image is None:
            problems.append(Problem("missing_file", row.where or row.id, f"the image {row.id} is missing"))
        if seen.setdefault(row.id, row) is not row:
            first = seen[row.id].where or row.id
            problems.append(Problem("duplicate_id", row.where or row.id, f"{row.id} stands in {first} already"))
    if not rows and not any(problem.severity == "error" for problem in problems):
        problems.append(Problem("empty_table", name, "there are no cases"))
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise DataError(errors, f"{name}:{root}")
    content = {
        "id": [row.id for row in rows],
        "image": [os.path.abspath(row.image) for row in rows],
        "mask": [os.path.abspath(row.mask) if row.mask else None for row in rows],
        "label": [row.label if target == "label" else row.attributes.get(target) for row in rows],
        "group": [row.group or row.id for row in rows],
    }
    content |= {column: [row.attributes.get(column) for row in rows] for column in attributes if column not in COLUMNS}
    if target != "label":
        content["source_label"] = [row.label for row in rows]
    notes = tuple(problem for problem in problems if problem.severity == "warning")
    classes = mask_classes or MaskClasses()
    where = recorded_path(f"{name}:{root}")
    return Cases(text_frame(content), Path(os.path.abspath(root)), target, classes, where, notes=notes)


def text_frame(content: Mapping[str, Sequence[str | None]]) -> pd.DataFrame:
    """A table of texts, with None for what is empty."""
    import pandas as pd

    # As objects, because a missing value in a column of strings is another one in each version of pandas.
    return pd.DataFrame(
        {name: pd.Series([value or None for value in values], dtype=object) for name, values in content.items()}
    )
