"""PH2: dermoscopy images of naevi and melanomas with masks and the criteria of the ABCD rule."""

from __future__ import annotations

import re
from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources.source import Line, Row, Source, build_cases, find, index_images, require, shown, unlisted
from tfseg.errors import Problem

NAME = "ph2"
TABLE, IMAGES = "PH2_dataset.txt", "PH2 Dataset images"
DIAGNOSES = {"0": "common_nevus", "1": "atypical_nevus", "2": "melanoma"}
SYMMETRY = {"0": "symmetric", "1": "symmetric_1_axis", "2": "asymmetric"}
CRITERIA = ("Histological Diagnosis", "Pigment Network", "Dots/Globules", "Streaks", "Regression Areas", "Colors")
COLUMNS = ("Name", "Clinical Diagnosis", "Asymmetry")


def read_ph2(root: Path, target: str) -> Cases:
    """The cases of the folder that holds ``PH2_dataset.txt``, or of one that holds ``PH2Dataset``."""
    problems: list[Problem] = []
    base = find(root, "PH2Dataset", "PH2 Dataset") or root
    table = require(base, problems, TABLE, kind="no_table")
    folder = require(base, problems, IMAGES)
    images = index_images(
        [folder], root, problems, lambda stem: stem if re.fullmatch(r"IMD\d+", stem, re.I) else None, True
    )
    masks = index_images([folder], root, problems, _mask_name, True)
    rows = []
    for line in _read_table(table, root, problems) if table else ():
        name, key = line["Name"], line["Name"].lower()
        attributes = {"symmetry": _decoded(line, "Asymmetry", SYMMETRY, problems)}
        attributes |= {re.sub(r"\W+", "_", column.lower()): line.get(column) for column in CRITERIA}
        label = _decoded(line, "Clinical Diagnosis", DIAGNOSES, problems)
        rows.append(Row(name, images.get(key), label, masks.get(key), None, line.where, attributes))
    if rows:
        problems += unlisted(images, (row.image for row in rows), root, TABLE)
        problems += unlisted(masks, (row.mask for row in rows), root, TABLE, "unlisted_masks")
    return build_cases(rows, root, target, problems, name=NAME)


def _mask_name(stem: str) -> str | None:
    match = re.fullmatch(r"(IMD\d+)_lesion", stem, re.I)
    return match and match[1]


def _decoded(line: Line, column: str, names: dict[str, str], problems: list[Problem]) -> str | None:
    if line[column] not in names:
        known = ", ".join(f"{code} ({name})" for code, name in names.items())
        problems.append(Problem("label", line.where, f"{column} is {line[column]!r}, expected {known}"))
    return names.get(line[column])


def _read_table(path: Path, root: Path, problems: list[Problem]) -> list[Line]:
    """The lines between bars; what each abbreviation means follows them as prose.

    Columns are separated by one bar or two, with blanks to align them.
    """
    name = shown(path, root)
    text = path.read_bytes().decode("latin-1").splitlines()
    records = [(number, line.strip()) for number, line in enumerate(text, 1)]
    records = [
        (number, [cell.strip() for cell in line.replace("||", "|").strip("|").split("|")])
        for number, line in records
        if line.startswith("|")
    ]
    columns = records[0][1] if records else []
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        there = f"the columns are {', '.join(columns)}" if columns else "no line begins with ||"
        problems.append(Problem("column", name, f"column {', '.join(map(repr, missing))} is missing; {there}"))
        return []
    lines = []
    for number, cells in records[1:]:
        if len(cells) == len(columns):
            lines.append(Line(f"{name}, line {number}", dict(zip(columns, cells, strict=True))))
        else:
            message = f"has {len(cells)} cells where the header has {len(columns)}"
            problems.append(Problem("table", f"{name}, line {number}", message))
    return lines


SOURCE = Source(
    NAME,
    "PH2: 200 dermoscopy images of three diagnoses, with lesion masks and symmetry",
    """PATH/                                     or the folder that holds PH2Dataset/
  PH2_dataset.txt                         || Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry | …
  PH2 Dataset images/
    IMD002/
      IMD002_Dermoscopic_Image/IMD002.bmp
      IMD002_lesion/IMD002_lesion.bmp
      IMD002_roi/                         not read""",
    read_ph2,
    {
        "label": {"common_nevus": 80, "atypical_nevus": 80, "melanoma": 40},
        "symmetry": {"symmetric": 117, "symmetric_1_axis": 31, "asymmetric": 52},
        "mask": {"any": 200},
    },
)
