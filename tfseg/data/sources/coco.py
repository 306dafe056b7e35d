"""COCO: images with outlines in JSON files."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from tfseg.data.cases import Cases
from tfseg.data.sources.coco_cases import Annotations, read_annotations
from tfseg.data.sources.folders import part_of
from tfseg.data.sources.source import Source, shown
from tfseg.errors import Problem

FILES = ("annotations/*.json", "*.json", "*/*.json")


def read_coco(path: Path, target: str = "label") -> Cases:
    """Read a COCO dataset; `read_annotations` says what becomes of its annotations.

    Files named ``instances…`` are read where there are any (captions and key points lie beside them), else all. The
    part comes from ``train``, ``val`` or ``test`` in the name of the file or its folder; where some have one, files
    without are left out with a warning.

    Args:
        path: the folder; see `SOURCE` for the layout.
        target: ``label``, the category, or ``split``.

    Raises:
        DataError: with every problem found in the files, and every image that is missing.
    """
    problems: list[Problem] = []
    found = next((files for files in (_visible(path, pattern) for pattern in FILES) if files), [])
    instances = [file for file in found if file.name.startswith("instances")]
    splits = {file: _split(file, path) for file in instances or found}
    if any(splits.values()):
        for file in [file for file, split in splits.items() if split is None]:
            message = "neither train, val nor test by its name: left out"
            problems.append(Problem("unlisted_table", shown(file, path), message, "warning"))
            del splits[file]
    if not splits:
        problems.append(Problem("no_table", "annotations", "there are no JSON files"))
    files = [Annotations(file, split, _folders(file, split, path)) for file, split in splits.items()]
    return read_annotations(path, target, "coco", files, problems)


def _visible(root: Path, pattern: str) -> list[Path]:
    return sorted(file for file in root.glob(pattern) if not shown(file, root).startswith("."))


def _split(file: Path, root: Path) -> str | None:
    words = re.split(r"[^a-z]+", file.stem.lower()) + ([file.parent.name] if file.parent != root else [])
    return next((part for part in map(part_of, words) if part), None)


def _folders(file: Path, split: str | None, root: Path) -> list[str]:
    """Where the images of a file of annotations may lie: beside it, in images/, or in a folder of the part's name."""
    bases = dict.fromkeys((shown(file.parent, root), ".", "images"))
    words = dict.fromkeys(("", file.stem.rsplit("_", 1)[-1], split or ""))
    return [str(PurePosixPath(base, word)) for base in bases for word in words]


SOURCE = Source(
    "coco",
    "any dataset with COCO annotations: outlines become masks, categories become labels",
    """PATH/
  annotations/                  or the files in PATH itself, or one in each part's folder
    instances_train2017.json    train, val or test in a name (optional) gives the column split
  images/                       or train2017/, train/, images/train/ …, as the file_names are
    *.jpg …""",
    read_coco,
)
