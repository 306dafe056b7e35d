"""`tfseg compare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from tfseg.commands.arguments import Positional, command_line


@dataclass(frozen=True)
class Compare:
    """Compare runs or tables of predictions on the same test cases, and say which differences hold.

    Paired tests, intervals by patient or lesion, corrected by Holm for the number of comparisons. Writes
    comparison.json, table.md and figures/differences.png.

    For example:
        tfseg compare runs/soft --out runs/soft-compared
        tfseg compare runs/soft runs/hard --rows soft_mask hard_mask --out runs/masks-compared
        tfseg compare first.csv second.csv --metric balanced_accuracy --out compared
    """

    inputs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN_OR_CSV…")]
    """Run folders, predictions.csv files, or tables with columns <model>_pred: of a single one each column is a row,
    of several each file is a row and its columns are repeats."""
    out: str
    """Folder for the results; new, empty, or of an earlier comparison."""
    rows: tuple[str, ...] = ()
    """Only these rows, by name or as run/name."""
    metric: str | None = None
    """What the sentences and the figure are about; default: accuracy, for segmenters dice."""
    against: str | None = None
    """Compare only with this row, instead of every row with every other."""
    classes: tuple[str, ...] = ()
    """Names of the classes 0, 1, 2, … of tables whose true classes are numbers."""
    groups: str | None = None
    """CSV table that says which patient or lesion a case is of, where the tables of predictions don't."""
    common: bool = False
    """Compare on the cases that all have, instead of refusing different test cases."""
    draws: int = 10_000
    """Bootstrap draws."""
    published: str | None = None
    """JSON file of published scores to set beside ours."""
    seed: int = 0
    """Of the bootstrap."""

    def run(self) -> int:
        from tfseg.jobs.compare.job import compare

        compare(
            self.inputs,
            self.out,
            rows=self.rows,
            classes=self.classes,
            groups=self.groups,
            metric=self.metric,
            against=self.against,
            common=self.common,
            draws=self.draws,
            seed=self.seed,
            published=self.published,
            command=command_line(),
        )
        return 0
