"""POCI: photographs of the mouth with an expert's outline of each lesion."""

from __future__ import annotations

from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources.coco_cases import Annotations, read_annotations
from tfseg.data.sources.source import Source, find, require
from tfseg.errors import Problem

PARTS = ("train", "val", "test")
# The archive has one folder in another of the same name.
FOLDERS = ("oral1/oral1", "oral1", "data/oral1")


def read_poci(path: Path, target: str = "label") -> Cases:
    """Read POCI as its publishers give it away; `read_annotations` says what becomes of its annotations.

    ``train.json``, ``val.json`` and ``test.json`` are read, or ``dataset.json`` where none of them is there.

    Args:
        path: the folder; see `SOURCE` for the layout.
        target: ``label`` or ``split``.

    Raises:
        DataError: with every problem found in the files, and every file that is missing.
    """
    problems: list[Problem] = []
    splits = PARTS if any(find(path, f"{part}.json") for part in PARTS) else ()
    wanted = [(f"{split}.json", split) for split in splits] or [("dataset.json", None)]
    files = [(require(path, problems, name, kind="no_table"), split) for name, split in wanted]
    require(path, problems, *FOLDERS)
    return read_annotations(path, target, "poci", [Annotations(f, split, FOLDERS) for f, split in files if f], problems)


SOURCE = Source(
    "poci",
    "POCI: 607 photographs of aphthous, traumatic and neoplastic lesions of the mouth, with outlines",
    """PATH/
  train.json        COCO annotations; also val.json and test.json, or dataset.json alone
  oral1/            or oral1/oral1/
    *.jpg …""",
    read_poci,
    {"id": {"all": 607}},
)
