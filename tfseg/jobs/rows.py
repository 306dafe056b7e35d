"""What a comparison of classifiers compares. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tfseg.approaches import APPROACHES
from tfseg.config import CLASSIFIER_FIELDS, ComparisonConfig
from tfseg.errors import ConfigError

# What rows may differ in: their data, its parts and the segmenter are those of all.
ROW_FIELDS = (
    *CLASSIFIER_FIELDS,
    *("weights", "weights_dir", "learning_rate_schedule", "warmup_epochs", "momentum", "weight_decay"),
    *("augmentation", "flips", "rotation", "zoom", "shift", "shear", "brightness", "contrast", "saturation"),
    *("balance", "epoch_images", "precision"),
)


@dataclass(frozen=True)
class ClassifierRow:
    """One classifier of a comparison.

    Args:
        name: of the row, and of its files.
        approach: a name out of `tfseg.approaches.APPROACHES`.
        changes: fields of `ComparisonConfig`, out of `ROW_FIELDS`, in which the row differs from the others.
        paper: metric → published value.
        symmetry: whether it is a stage of SE-LCN, which learns the symmetry and not the label.

    Raises:
        ConfigError: a name that can't be a file's, an unknown approach, or a field that rows have in common.
    """

    name: str
    approach: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, float] | None = None
    symmetry: bool = False

    def __post_init__(self):
        check_name(self.name, taken=("segmenter",))
        if self.approach not in APPROACHES:
            raise ConfigError(
                f"row {self.name}: there is no approach {self.approach!r}; known: {', '.join(APPROACHES)}"
            )
        common = sorted(set(self.changes) - set(ROW_FIELDS))
        if common:
            raise ConfigError(f"row {self.name}: {', '.join(common)} can't differ from row to row")

    def config(self, base: ComparisonConfig) -> ComparisonConfig:
        """The row's own configuration, resolved."""
        # The segmenter is not the row's: a file of weights for its backbone need not fit the encoder.
        return replace(base, approaches=(self.approach,), segmenter_encoder="none", **self.changes).resolved()

    def record(self) -> dict[str, Any]:
        """What ``config.json`` keeps of the row."""
        return {"approach": self.approach, "changes": dict(self.changes)}


def check_name(name: str, taken: Sequence[str] = ()) -> None:
    """Refuse a row's name that can't be a file's, or is `taken`.

    Raises:
        ConfigError: shows it.
    """
    if not name or Path(name).name != name or name in (".", "..", *taken):
        raise ConfigError(f"a row's `name` must be a plain file name, received {name!r}")


def rows_of(config: ComparisonConfig) -> list[ClassifierRow]:
    """One row for each of a configuration's approaches, named after it."""
    return [ClassifierRow(approach, approach) for approach in config.approaches]


def check_rows(rows: Sequence) -> None:
    """Refuse rows that can't be told apart.

    Raises:
        ConfigError: no row, or two of one name.
    """
    names = [row.name for row in rows]
    if not rows or len(set(names)) != len(names):
        raise ConfigError(f"`rows` must hold at least one row, each with its own name, received {names}")
