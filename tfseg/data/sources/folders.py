"""Class folders: one folder of images per class, without masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources.source import IMAGES, Row, Source, build_cases, index_images, require, shown
from tfseg.errors import Problem

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LITTER = ("thumbs.db", "desktop.ini", "__macosx")


def part_of(name: str) -> str | None:
    """``train``, ``val`` or ``test`` where a folder's or file's name says so in one of the usual words."""
    return next((part for part, words in PARTS.items() if name.lower() in words), None)


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and what operating systems leave behind."""
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in LITTER
    )


def named_folders(base: Path, names: Sequence[str], root: Path, problems: list[Problem]) -> dict[str, Path]:
    """The class folders of a dataset whose classes are known, by name.

    Args:
        base: where they lie.
        names: of the folders, all of which must be there.
        root: problems name folders relative to it.
        problems: takes those that are missing, with the folders beside them that nobody knows: they may have been
            renamed.
    """
    missing: list[Problem] = []
    found = {name: require(base, missing, name) for name in names}
    known = set(found.values())
    others = [shown(path, root) for path in entries(base) if path.is_dir() and path not in known]
    hint = f"; not known: {', '.join(others)}" if others else ""
    problems += [
        Problem(item.kind, shown(base / item.file, root), f"the class folder {item.message}{hint}") for item in missing
    ]
    if others and not missing:
        problems.append(Problem("unlisted_images", ", ".join(others), "a folder of no known class", "warning"))
    return {name: path for name, path in found.items() if path}


def read_folders(path: Path, target: str = "label") -> Cases:
    """Read class folders; see `SOURCE` for the layout.

    A case's id is its path with ``__`` between the folders and without the suffix. Files that are no images are
    left out with a warning.

    Args:
        path: the folder that holds the class folders, or ``train``, ``val`` and ``test`` that hold them.
        target: ``label``, the folder's name, or ``split``.

    Raises:
        DataError: when there are no class folders, one has no images or holds folders, or ``train`` and ``test``
            stand beside class folders.
    """
    problems: list[Problem] = []
    folders, strays = _folders(path, problems)
    rows = []
    for part, folder in folders:
        images = index_images([folder], path, problems)
        here = entries(folder)
        inside = [entry for entry in here if entry.is_dir()]
        if inside:
            what = ", ".join(entry.name for entry in inside)
            problems.append(Problem("nested_folder", shown(folder, path), f"holds folders ({what}), expected images"))
        elif not images:
            problems.append(Problem("empty_folder", shown(folder, path), "the class folder has no images"))
        strays += [entry for entry in here if entry.is_file() and entry.suffix.lower() not in IMAGES]
        for file in images.values():
            names = ([part] if part else []) + [folder.name, file.stem]
            attributes = {"split": part} if part else {}
            rows.append(Row("__".join(names), file, folder.name, where=shown(file, path), attributes=attributes))
    if strays:
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        message = "not an image in a class folder: left out"
        problems.append(Problem("unlisted_images", shown(strays[0], path) + more, message, "warning"))
    return build_cases(rows, path, target, problems, name="folders")


def _folders(path: Path, problems: list[Problem]) -> tuple[list[tuple[str | None, Path]], list[Path]]:
    """The class folders with their parts, and the files beside them."""
    inside = entries(path)
    tops = [entry for entry in inside if entry.is_dir()]
    strays = [entry for entry in inside if entry.is_file()]
    parts = [entry for entry in tops if part_of(entry.name)]
    if not tops:
        problems.append(Problem("no_folder", ".", "there are no class folders"))
    if not parts:
        return [(None, folder) for folder in tops], strays
    for other in (entry for entry in tops if entry not in parts):
        there = ", ".join(entry.name for entry in parts)
        problems.append(Problem("nested_folder", other.name, f"stands beside {there}: expected inside of them"))
    found = [(part_of(part.name), entry) for part in parts for entry in entries(part) if entry.is_dir()]
    strays += [entry for part in parts for entry in entries(part) if entry.is_file()]
    return found, strays


SOURCE = Source(
    "folders",
    "class folders: the images of each class in a folder of its own, without masks",
    """PATH/
  CLASS/            the folder's name is the class
    *.jpg …
or PATH/
  train/            also val/ (optional) and test/
    CLASS/
      *.jpg …""",
    read_folders,
)
