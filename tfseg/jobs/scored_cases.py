"""Which cases of a dataset a model is scored on, and under which names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.splits import official_parts, read_split
from tfseg.errors import ConfigError, DataError, Problem, UserError
from tfseg.run import read_json


def mapped_cases(cases: Cases, path: str | Path) -> Cases:
    """The cases with labels under other names; those whose class maps to null keep no label.

    Args:
        cases: to rename.
        path: JSON file ``{"their class": "our class" or null}``; a class that it doesn't name keeps its name.

    Raises:
        UserError: the file is no such object, or names classes that the cases don't have.
    """
    names = read_json(path)
    if not isinstance(names, dict) or not all(isinstance(value, str | None) for value in names.values()):
        raise UserError(f'{path} must hold a JSON object {{"their class": "our class" or null}}')
    try:
        return cases.relabelled(names)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def part_of(cases: Cases, part: str, split_file: Path | None = None) -> Cases:
    """The cases of one part, or all of them.

    Args:
        cases: to choose from.
        part: ``"all"``, ``"train"``, ``"val"`` or ``"test"``.
        split_file: a run's ``splits.json``; None: the column ``split`` says.

    Raises:
        UserError: there are no such cases, or the file has several folds.
    """
    if part == "all":
        return cases
    if split_file is not None:
        splits = read_split(split_file, cases)
        if len(splits) > 1:
            raise UserError(f"{split_file} has {len(splits)} folds: a part can be scored of a single split only")
        return cases.subset(splits[0].parts[part])
    parts = official_parts(cases)
    chosen = np.flatnonzero(parts == part) if parts is not None else []
    if not len(chosen):
        raise UserError(f"{cases.name} has no cases whose `split` is {part}")
    return cases.subset(chosen)


def check_classes(cases: Cases, classes: Sequence[str]) -> None:
    """Refuse cases of classes that a model doesn't know.

    Raises:
        DataError: names them.
    """
    unknown = sorted(set(cases.classes) - set(classes))
    if unknown:
        raise DataError(
            [
                Problem("label", "labels.csv", f"class {name!r} is unknown to the model, which knows {list(classes)}")
                for name in unknown
            ],
            cases.name,
        )


def external_name(data: str) -> str:
    """What an external dataset is called in rows and folders: the last part of its path."""
    return Path(data.rpartition(":")[2]).resolve().name
