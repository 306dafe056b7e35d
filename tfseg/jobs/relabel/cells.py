"""The cells of a labelling's test: true masks hidden, drawn by a labelling, and compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.config import ComparisonConfig
from tfseg.data.cases import Cases
from tfseg.data.splits import Split
from tfseg.jobs.cells import SEGMENTER_ROW, identity
from tfseg.jobs.gather import write_csv
from tfseg.jobs.grid import Cell, seeded, stored
from tfseg.jobs.label.job import label_cases
from tfseg.jobs.preparation import recorded_config
from tfseg.jobs.relabel.draw import with_hidden_masks
from tfseg.jobs.relabel.scores import score_labels
from tfseg.jobs.study.scores import baseline_scores
from tfseg.run import Run
from tfseg.session import Session
from tfseg.training.sitting import Sitting

Say = Callable[[str], None]
FOREGROUND_ROW = "all_foreground"
# Pictures on the contact sheet of every labelling.
SHEET = 60


@dataclass
class Relabelling:
    """What the cells of one test share.

    Args:
        run: the run folder.
        config: resolved.
        cases: with all true masks.
        splits: of every run the given masks, as training part, and the other cases, as test part.
        command: for the records of the labellings.
        say: takes the lines that tell what is going on.
    """

    run: Run
    config: ComparisonConfig
    cases: Cases
    splits: Sequence[Split]
    command: str = ""
    say: Say = print

    @property
    def rows(self) -> list[str]:
        """The rows of the table in their order."""
        return [FOREGROUND_ROW, self.config.segmenter]

    def cells(self) -> list[Cell]:
        """The grid: both rows of a run before the next run."""
        return [Cell(row, number) for number in range(len(self.splits)) for row in self.rows]

    def hidden(self, number: int) -> np.ndarray:
        """The cases whose true masks a run hides."""
        others = self.splits[number].test
        return others[self.cases.has_mask[others]]

    def labelled(self, cell: Cell) -> Run:
        """The labelling of a cell, itself a run."""
        return Run(self.run.path("outputs", cell.key))

    def model_path(self, cell: Cell) -> Path:
        """Where the model of a cell lies."""
        return self.labelled(cell).path("models", "segmenter.keras")

    def compute(self, cell: Cell, sitting: Sitting) -> dict:
        """Label and compare; gives the result to be stored."""
        truth = self.cases.subset(self.hidden(cell.fold))
        if cell.row == FOREGROUND_ROW:
            table = baseline_scores(truth, "foreground")
            return {**identity(cell, ""), **_per_case(table), "validation": {}, "extra": {}}
        labelled = self._label(cell, sitting)
        learned = stored(labelled, Cell(SEGMENTER_ROW))
        write_csv(self.run.path("history", f"{cell.key}.csv"), pd.read_csv(labelled.path("history", "segmenter.csv")))
        training, validation = learned["training"], learned["validation"]
        return {
            **identity(cell, learned["note"]),
            **_per_case(score_labels(truth, labelled.folder)),
            "validation": {"iou": validation["lesion"]["iou"]},
            "extra": {
                "validation_iou": validation["lesion"]["iou"],
                "validation_spearman": validation["spearman"],
                "epochs": training["epochs"],
                "best_epoch": training["best_epoch"],
                "train_seconds": training["seconds"],
            },
        }

    def _label(self, cell: Cell, sitting: Sitting) -> Run:
        """Let a labelling draw the hidden masks; one that was interrupted goes on."""
        config = replace(seeded(self.config, cell), split_seed=self.config.split_seed + cell.fold)
        record = {"experiment": "label", "run": cell.fold, **recorded_config(config)}
        minutes = None if sitting.deadline is None else max(sitting.deadline - time.monotonic(), 1.0) / 60.0
        self.say(f"run {cell.fold}: {len(self.splits[cell.fold].train)} masks given")
        return label_cases(
            Run.open(self.labelled(cell).folder, record),
            config,
            with_hidden_masks(self.cases, self.splits[cell.fold].train),
            link_images=True,
            sheet=SHEET,
            command=self.command,
            session=Session(max_minutes=minutes, tensorboard=sitting.tensorboard is not None),
            say=self.say,
        )


def _per_case(table: pd.DataFrame) -> dict:
    """Ids and scores of a table, for a stored result."""
    scores = {name: table[name].astype(float).tolist() for name in table.columns if name not in ("id", "label")}
    return {"ids": table["id"].tolist(), "per_case": scores}
