"""Sources: a folder or a `NAME:PATH` becomes `Cases`."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources.source import Source
from tfseg.errors import ConfigError, DataError, Problem

# Each is a module of this package with a `SOURCE`.
SOURCES = (
    "coco",
    "dicom",
    "ebhi",
    "folder",
    "folders",
    "ham10000",
    "herlev",
    "isic2016",
    "isic2017",
    "isic2018",
    "isic2019",
    "ph2",
    "poci",
    "symderm",
)


def find_source(name: str) -> Source:
    """The source of this name.

    Raises:
        ConfigError: lists the names that there are.
    """
    if name not in SOURCES:
        raise ConfigError(f"there is no source named {name!r}; known: {', '.join(SOURCES)}")
    return import_module(f"tfseg.data.sources.{name}").SOURCE


def load_cases(data: str | Path, target: str = "label") -> Cases:
    """Read the cases of a dataset.

    Args:
        data: a folder in the plain layout, or ``NAME:PATH`` with a name out of `SOURCES`.
        target: the column to learn, or ``COLUMN:OLD=NEW,…``, which renames classes: those of the same new name
            become one, and ``OLD=`` leaves a class out.

    Raises:
        ConfigError: for a source that isn't known, or a class to rename that there isn't.
        DataError: with every problem found in the tables and folders.
    """
    column, _, rules = target.partition(":")
    name, colon, path = str(data).partition(":")
    if not colon or Path(str(data)).exists():
        cases = find_source("folder").read(Path(data), column)
    else:
        cases = _read(find_source(name), Path(path), column)
    return replace(cases.relabelled(_renamed(rules)), target=target) if rules else cases


def _read(source: Source, path: Path, column: str) -> Cases:
    """The cases with a note where they are not as many as were published."""
    hint = f"{source.name}:PATH expects\n{textwrap.indent(source.layout, '  ')}"
    if not path.is_dir():
        what = "is a file; unpack it and give the folder" if path.exists() else "does not exist"
        raise DataError([Problem("no_folder", str(path), what)], f"{source.name}:{path}", hint)
    try:
        cases = source.read(path, column)
    except DataError as error:
        if any(problem.kind in ("no_folder", "no_table") for problem in error.problems):
            raise DataError(error.problems, f"{source.name}:{path}", hint) from None
        raise
    return replace(cases, notes=(*cases.notes, *_compared(cases, source.counts)))


def _compared(cases: Cases, counts: Mapping[str, Mapping[str, int]]) -> list[Problem]:
    """A warning for each column whose counts differ from the published ones."""
    problems = []
    for what, published in counts.items():
        column, _, part = what.rstrip("]").partition("[")
        table = cases.table[cases.table["part"] == part] if part else cases.table
        column = "source_label" if column == "label" and cases.target != "label" else column
        values = table[column].dropna() if column in table else ()
        numbers = {"any": len(values), "all": len(set(values))} | Counter(values)
        differ = [
            f"{'' if name in ('any', 'all') else f'{name} '}{numbers.get(name, 0):,} of {count:,}"
            for name, count in published.items()
            if numbers.get(name, 0) != count
        ]
        if differ:
            message = f"other counts than the published ones: {', '.join(differ)}"
            problems.append(Problem("published_counts", what, message, "warning"))
    return problems


def _renamed(rules: str) -> dict[str, str | None]:
    names = {}
    for rule in rules.split(","):
        old, equals, new = (part.strip() for part in rule.partition("="))
        if not old or not equals:
            raise ConfigError(f"`target`: expected COLUMN:OLD=NEW,…, received the rule {rule!r}")
        names[old] = new or None
    return names
