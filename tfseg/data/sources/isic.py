"""The folders and tables of the ISIC challenges, which share one form: images, masks and a table for each part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources.source import Line, Row, build_cases, find, index_images, read_table, require, shown, unlisted
from tfseg.errors import Problem

SPLITS = ("train", "val", "test")
SUPERPIXELS, SEGMENTATION, DOWNSAMPLED = "_superpixels", "_segmentation", "_downsampled"


@dataclass(frozen=True)
class Part:
    """What one task gives for one part; every entry is a list of names of which the first one there is taken.

    Args:
        split: ``train``, ``val`` or ``test``.
        images: folder of the images.
        masks: folder of the masks, ``<image>_segmentation.png``.
        table: of the labels.
        metadata: table of further columns; ``lesion_id`` is the group.
    """

    split: str
    images: Sequence[str]
    masks: Sequence[str] = ()
    table: Sequence[str] = ()
    metadata: Sequence[str] = ()


@dataclass(frozen=True)
class Labels:
    """How a table of labels is read.

    Args:
        columns: of the table, the image's name first.
        name: the class name of a row; a ValueError says why there is none.
        header: whether the first line names the columns.
    """

    columns: Sequence[str]
    name: Callable[[Line], str]
    header: bool = True


def read_isic(name: str, root: Path, target: str, parts: Sequence[Part], labels: Labels) -> Cases:
    """The cases of all parts that are there; an image in several tasks is one case.

    The column ``part`` says which part a case is in, and so does ``split`` where there is more than one part.

    Args:
        name: of the source.
        root: the folder.
        target: the column to learn.
        parts: what there can be; where a case is in several, the image of the first is taken.
        labels: of the tables.

    Raises:
        DataError: with every problem.
    """
    problems: list[Problem] = []
    cases: dict[str, Row] = {}
    listed: dict[Path, dict[str, Path]] = {}
    for part in parts:
        tables = {field: find(root, *getattr(part, field)) for field in ("masks", "table")}
        if any(tables.values()):
            folder = require(root, problems, *part.images)
            for row in _rows(part, folder, tables, labels, root, problems, listed):
                first = cases.get(row.id.lower())
                cases[row.id.lower()] = row if first is None else _joined(first, row, problems)
        elif find(root, *part.images) and not any(
            set(other.images) & set(part.images) for other in parts if other is not part
        ):
            message = f"left out: there is no {(*part.masks, *part.table)[0]}"
            problems.append(Problem("unlisted_images", part.images[0], message, "warning"))
    for folder, index in listed.items():
        used = [path for stem, path in index.items() if stem in cases]
        problems += unlisted(index, used, root, f"any table or mask of {shown(folder, root)}")
    if not cases and not problems:
        first = next(names[0] for part in parts for names in (part.table, part.masks) if names)
        problems.append(Problem("no_table", first, "is missing, and so are all other tables and folders of masks"))
    rows = list(cases.values())
    if len({row.attributes["part"] for row in rows}) > 1:
        rows = [replace(row, attributes={**row.attributes, "split": row.attributes["part"]}) for row in rows]
    return build_cases(rows, root, target, problems, name=name)


def image_name(stem: str) -> str | None:
    """The name of the case that an image file shows, or None for superpixels and masks beside the images."""
    stem = stem[: -len(DOWNSAMPLED)] if stem.lower().endswith(DOWNSAMPLED) else stem
    return None if stem.lower().endswith((SUPERPIXELS, SEGMENTATION)) else stem


def mask_name(stem: str) -> str | None:
    """The name of the case that a mask file belongs to, or None for other files."""
    return stem[: -len(SEGMENTATION)] if stem.lower().endswith(SEGMENTATION) else None


def one_hot(columns: Sequence[str], none: str | None = None) -> Callable[[Line], str]:
    """A class name, in small letters, out of columns of which one is 1 and the others are 0.

    Args:
        columns: the classes.
        none: the class of rows without a 1, or None where there must be one.
    """

    def name(line: Line) -> str:
        chosen = [column for column in columns if number(line[column]) == 1]
        if len(chosen) == 1:
            return chosen[0].lower()
        if chosen or none is None:
            raise ValueError(f"expected one class, received {', '.join(chosen) or 'none'}")
        return none

    return name


def number(text: str) -> float:
    """0 or 1, written as ``1``, ``1.0`` or ``1e0``."""
    try:
        value = float(text)
    except ValueError:
        value = None
    if value not in (0, 1):
        raise ValueError(f"expected 0 or 1, received {text!r}")
    return value


def _rows(
    part: Part,
    folder: Path | None,
    found: dict[str, Path | None],
    labels: Labels,
    root: Path,
    problems: list[Problem],
    listed: dict[Path, dict[str, Path]],
) -> list[Row]:
    if folder is not None and folder not in listed:
        listed[folder] = index_images([folder], root, problems, image_name, recursive=True)
    images = listed.get(folder, {})
    masks = index_images([found["masks"]], root, problems, mask_name, recursive=True)
    attributes = _metadata(part, root, problems, labels.columns[0])
    rows = []
    for line in read_table(found["table"], labels.columns, root, problems, labels.header) if found["table"] else ():
        case = image_name(line[labels.columns[0]]) or line[labels.columns[0]]
        try:
            label = labels.name(line)
        except ValueError as error:
            problems.append(Problem("label", line.where, str(error)))
            continue
        key = case.lower()
        rows.append(_row(part, case, images.get(key), label, masks.get(key), line.where, attributes.get(key, {})))
    named = {row.id.lower() for row in rows}
    for key, mask in masks.items():
        if key not in named:
            case = mask_name(mask.stem)
            rows.append(_row(part, case, images.get(key), None, mask, shown(mask, root), attributes.get(key, {})))
    return rows


def _row(
    part: Part, case: str, image: Path | None, label: str | None, mask: Path | None, where: str, more: dict
) -> Row:
    return Row(case, image, label, mask, more.get("lesion_id"), where, {**more, "part": part.split})


def _metadata(part: Part, root: Path, problems: list[Problem], column: str) -> dict[str, dict[str, str | None]]:
    path = find(root, *part.metadata)
    lines = read_table(path, (column,), root, problems) if path else ()
    cells = {line[column]: {key: value or None for key, value in line.cells.items() if key != column} for line in lines}
    return {(image_name(case) or case).lower(): more for case, more in cells.items()}


def _joined(first: Row, second: Row, problems: list[Problem]) -> Row:
    """One case out of two tasks; twice in the table of one task is an error, which `build_cases` can't see."""
    if first.label and second.label:
        problems.append(Problem("duplicate_id", second.where, f"{second.id} stands in {first.where} already"))
    splits = [row.attributes["part"] for row in (first, second)]
    split = max(splits, key=SPLITS.index)
    if splits[0] != splits[1]:
        message = f"{second.id} is in the part {splits[0]} of {first.where} and here in {splits[1]}: counted as {split}"
        problems.append(Problem("split_conflict", second.where, message, "warning"))
    attributes = {
        **first.attributes,
        **{key: value for key, value in second.attributes.items() if value},
        "part": split,
    }
    return replace(
        first,
        image=first.image or second.image,
        label=first.label or second.label,
        mask=first.mask or second.mask,
        group=first.group or second.group,
        attributes=attributes,
    )
