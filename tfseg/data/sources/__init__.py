"""Sources: a folder or a `NAME:PATH` becomes `Cases`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources.folder import read_folder
from tfseg.errors import ConfigError

SOURCES: dict[str, Callable[[Path, str], Cases]] = {"folder": read_folder}


def load_cases(data: str | Path, target: str = "label") -> Cases:
    """Read the cases of a dataset.

    Args:
        data: a folder in the plain layout, or ``NAME:PATH`` with a name out of `SOURCES`.
        target: the column to learn, or ``COLUMN:OLD=NEW,…``, which renames classes: those of the same new name
            become one, and ``OLD=`` leaves a class out.

    Raises:
        ConfigError: for a source that isn't known, or a class to rename that there isn't.
        DataError: with every problem found in the table.
    """
    column, _, rules = target.partition(":")
    name, colon, path = str(data).partition(":")
    if not colon or Path(str(data)).exists():
        cases = read_folder(Path(data), column)
    elif name not in SOURCES:
        raise ConfigError(f"there is no source named {name!r}; known: {', '.join(sorted(SOURCES))}")
    else:
        cases = SOURCES[name](Path(path), column)
    return replace(cases.relabelled(_renamed(rules)), target=target) if rules else cases


def _renamed(rules: str) -> dict[str, str | None]:
    names = {}
    for rule in rules.split(","):
        old, equals, new = (part.strip() for part in rule.partition("="))
        if not old or not equals:
            raise ConfigError(f"`target`: expected COLUMN:OLD=NEW,…, received the rule {rule!r}")
        names[old] = new or None
    return names
