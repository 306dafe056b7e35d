"""Sources: a folder or a `NAME:PATH` becomes `Cases`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources.folder import read_folder
from tfseg.errors import ConfigError

SOURCES: dict[str, Callable[[Path, str], Cases]] = {"folder": read_folder}


def load_cases(data: str | Path, target: str = "label") -> Cases:
    """Read the cases of a dataset.

    Args:
        data: a folder in the plain layout, or ``NAME:PATH`` with a name out of `SOURCES`.
        target: the column to learn.

    Raises:
        ConfigError: for a source that isn't known.
        DataError: with every problem found in the table.
    """
    name, colon, path = str(data).partition(":")
    if not colon or Path(str(data)).exists():
        return read_folder(Path(data), target)
    if name not in SOURCES:
        raise ConfigError(f"there is no source named {name!r}; known: {', '.join(sorted(SOURCES))}")
    return SOURCES[name](Path(path), target)
