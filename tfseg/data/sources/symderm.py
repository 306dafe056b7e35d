"""SymDerm v2.0: symmetry labels for images of HAM10000, ISIC 2018, PH2, EDRA, DermQuest and Dermis."""

from __future__ import annotations

from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources.isic import image_name, mask_name
from tfseg.data.sources.source import IMAGES, Line, Row, Source, build_cases, find, index_images, read_table
from tfseg.errors import Problem

NAME = "symderm"
TABLES = ("SymDerm_v2_labels.csv", "SymDerm_v2.csv", "SymDerm_labels.csv", "SymDerm.csv", "labels.csv")
FILE, LABEL = ("File", "image", "image_id", "name"), ("labels_symmetry", "symmetry", "label")
CODES = {"0": "symmetric", "1": "symmetric_1_axis", "2": "asymmetric"}
CLASSES = tuple(CODES.values())


def read_symmetry(path: Path, root: Path, problems: list[Problem]) -> list[tuple[Line, str, str]]:
    """The rows of a table of labels, with the image's name without suffix and its class.

    Classes are words, or the codes of PH2 (0 symmetric, 1 symmetric about one axis, 2 asymmetric). A table of
    codes must have all three: what 0 and 1 mean in one of two classes isn't agreed.
    """
    lines = read_table(path, (), root, problems)
    columns = [next((name for name in names if lines and name in lines[0].cells), None) for names in (FILE, LABEL)]
    if lines and None in columns:
        message = (
            f"expected a column {' or '.join(FILE)} and one {' or '.join(LABEL)}; there are {', '.join(lines[0].cells)}"
        )
        problems.append(Problem("column", lines[0].where.partition(",")[0], message))
        return []
    found = []
    values = {line[columns[1]] for line in lines}
    if values and values < set(CODES):
        message = f"column {columns[1]!r} holds {', '.join(sorted(values))} only: write {', '.join(CLASSES)}"
        problems.append(Problem("label", lines[0].where.partition(",")[0], message))
        return []
    for line in lines:
        label = CODES.get(line[columns[1]], line[columns[1]].lower())
        if label not in CLASSES:
            message = f"{columns[1]} is {line[columns[1]]!r}, expected {', '.join(CLASSES)} or {', '.join(CODES)}"
            problems.append(Problem("label", line.where, message))
        else:
            name = Path(line[columns[0]])
            found.append((line, name.stem if name.suffix.lower() in IMAGES else name.name, label))
    return found


def read_symderm(root: Path, target: str) -> Cases:
    """The labelled images, wherever they lie below the folder, joined by file name."""
    problems: list[Problem] = []
    path = find(root, *TABLES)
    if path is None:
        problems.append(Problem("no_table", TABLES[0], f"is missing (nor is there {', '.join(TABLES[1:])})"))
    rows = read_symmetry(path, root, problems) if path else []
    wanted = {name.lower() for _, name, _ in rows}
    images = index_images([root], root, problems, lambda stem: _wanted(image_name(stem), wanted), recursive=True)
    masks = index_images([root], root, problems, lambda stem: _wanted(_mask_of(stem), wanted), recursive=True)
    lesions = _lesions(root, problems)
    cases = [
        Row(
            name,
            images.get(name.lower()),
            label,
            masks.get(name.lower()),
            lesions.get(name.lower()),
            line.where,
            {"dataset": _dataset(images.get(name.lower()), root)},
        )
        for line, name, label in rows
    ]
    return build_cases(cases, root, target, problems, name=NAME)


def _wanted(name: str | None, wanted: set[str]) -> str | None:
    return name if name is not None and name.lower() in wanted else None


def _mask_of(stem: str) -> str | None:
    return stem[: -len("_lesion")] if stem.lower().endswith("_lesion") else mask_name(stem)


def _dataset(image: Path | None, root: Path) -> str | None:
    """The folder below the root in which an image lies."""
    parts = image.relative_to(root).parts if image else ()
    return parts[0] if len(parts) > 1 else None


def _lesions(root: Path, problems: list[Problem]) -> dict[str, str]:
    """The lesions of HAM10000's images, where its table is there: several images of one are a group."""
    path = next((path for path in sorted(root.rglob("HAM10000_metadata*")) if path.is_file()), None)
    lines = read_table(path, ("lesion_id", "image_id"), root, problems) if path else ()
    return {line["image_id"].lower(): line["lesion_id"] for line in lines}


SOURCE = Source(
    NAME,
    "SymDerm v2.0: 2,655 dermoscopy images by symmetry",
    """PATH/
  SymDerm_v2_labels.csv   File,labels_symmetry: symmetric, symmetric_1_axis or asymmetric (or 0, 1, 2)
  HAM10000/, PH2/, …      the images, in any folders; HAM10000_metadata.csv (optional) says which show one lesion""",
    read_symderm,
    {"label": {"symmetric": 794, "symmetric_1_axis": 633, "asymmetric": 1228}},
)
