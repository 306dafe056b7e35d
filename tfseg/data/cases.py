"""A table of cases: what every source returns and every later station reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.errors import ConfigError, Problem

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "image", "mask", "label", "group")


@dataclass(frozen=True)
class MaskClasses:
    """What the values of a mask file mean.

    A file with two classes may hold 0 and 1, or 0 and 255; with more classes, a value is the class's index.

    Args:
        names: class names in the order of their values; the first is the background.
        lesion: the names that together are the lesion.
        ignore: the value of pixels that count nowhere, or None.
    """

    names: tuple[str, ...] = ("background", "lesion")
    lesion: tuple[str, ...] = ("lesion",)
    ignore: int | None = None

    def __post_init__(self):
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise ConfigError(f"`mask_classes` must hold at least two different names, received {list(self.names)}")
        unknown = [name for name in self.lesion if name not in self.names]
        if unknown or not self.lesion or self.names[0] in self.lesion:
            raise ConfigError(f"`lesion` must name classes out of {list(self.names[1:])}, received {list(self.lesion)}")

    @property
    def channels(self) -> int:
        """Channels of a mask in a batch: 1 for background and lesion, else one per class (one-hot)."""
        return 1 if len(self.names) == 2 else len(self.names)

    @property
    def lesion_channels(self) -> tuple[int, ...]:
        """The channels of a batch's mask whose sum is the lesion."""
        return (0,) if self.channels == 1 else tuple(self.names.index(name) for name in self.lesion)

    def to_json(self) -> dict:
        """The content of a ``dataset.json`` that says the same."""
        return {"mask_classes": list(self.names), "ignore": self.ignore, "lesion": list(self.lesion)}

    @classmethod
    def from_json(cls, value: dict) -> MaskClasses:
        """Read what `to_json` writes; ``ignore`` and ``lesion`` may be missing.

        Raises:
            ConfigError: when the names do not fit together.
        """
        names = tuple(value.get("mask_classes") or ("background", "lesion"))
        return cls(names, tuple(value.get("lesion") or names[1:]), value.get("ignore"))


@dataclass(frozen=True)
class Cases:
    """Images with their masks and labels, one row each.

    Args:
        table: columns ``id`` (unique), ``image`` (absolute path), ``mask`` (absolute path, or None where there
            is none), ``label`` (or None where the target is not known), ``group`` (patient or lesion; the id
            where there is none), and the source's own attribute columns.
        root: the folder that was read.
        target: the column of the source that became ``label``.
        mask_classes: what mask values mean.
        name: what the data is called in records (a path relative to ``$TFSEG_DATA``, or ``NAME:PATH``).
        classes: class names, sorted; taken from the labels when not given, and kept by `subset`.
        notes: warnings that came up when the source was read.
    """

    table: pd.DataFrame
    root: Path
    target: str = "label"
    mask_classes: MaskClasses = field(default_factory=MaskClasses)
    name: str = ""
    classes: tuple[str, ...] = ()
    notes: tuple[Problem, ...] = ()

    def __post_init__(self):
        if not self.classes:
            object.__setattr__(self, "classes", tuple(sorted(self.table["label"].dropna().unique())))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray:
        """Class indices, int32 (N,); -1 where a case has no label."""
        index = {name: number for number, name in enumerate(self.classes)}
        return np.array([index.get(label, -1) for label in self.table["label"]], np.int32)

    @property
    def groups(self) -> np.ndarray:
        """Group names, (N,)."""
        return self.table["group"].to_numpy(str)

    @property
    def has_mask(self) -> np.ndarray:
        """Whether a case has a mask file (an empty mask is a mask), bool (N,)."""
        return self.table["mask"].notna().to_numpy(bool)

    def subset(self, positions: Sequence[int] | np.ndarray) -> Cases:
        """The cases at these positions, in this order."""
        return replace(self, table=self.table.iloc[list(positions)].reset_index(drop=True))

    def relabelled(self, names: Mapping[str, str | None]) -> Cases:
        """The cases with classes under other names; classes of the same new name are one, and None leaves one out.

        Raises:
            ConfigError: names of classes that there aren't.
        """
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            known = ", ".join(self.classes)
            raise ConfigError(f"{self.name} has no class {', '.join(unknown)} to rename; there are {known}")
        labels = [names.get(label, label) if isinstance(label, str) else None for label in self.table["label"]]
        return replace(self, table=self.table.assign(label=labels), classes=())

    def fingerprint(self) -> str:
        """A digest of ids, labels, groups and the files' names and sizes: changes when the data does."""
        digest = hashlib.sha256(repr(self.mask_classes).encode())
        for row in self.table[list(COLUMNS)].itertuples(index=False):
            for path in (row.image, row.mask):
                if isinstance(path, str) and Path(path).exists():
                    digest.update(f"{Path(path).name}{Path(path).stat().st_size}".encode())
            digest.update(f"{row.id}|{row.label}|{row.group}".encode())
        return digest.hexdigest()[:16]
