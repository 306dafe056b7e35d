"""What the workers other than the chief do in a run: they train along, and leave testing and writing to the chief."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfseg.config import ComparisonConfig
from tfseg.data.sources import load_cases
from tfseg.data.splits import read_split
from tfseg.errors import TrainingError
from tfseg.jobs.cells import SEGMENTER_ROW, Comparison
from tfseg.jobs.grid import Cell, seeded, stored, wanted_cells
from tfseg.jobs.preparation import configured_arrays
from tfseg.jobs.rows import ClassifierRow
from tfseg.jobs.symmetry import symmetry_arrays
from tfseg.run import Run
from tfseg.session import Session
from tfseg.training.classifier import train_classifier
from tfseg.training.segmenter import train_segmenter
from tfseg.training.sitting import Sitting
from tfseg.training.workers import wait_for


def work_along(
    config: ComparisonConfig, rows: Sequence[ClassifierRow], run: Run, session: Session, say: Callable[[str], None]
) -> Run:
    """Take part in every training of a run that the chief works on.

    Args:
        config, rows: resolved, the same as the chief's.
        run: the same folder, on a disk that all workers share.
        session: the same as the chief's.
        say: takes the lines that tell what is going on.
    """
    wait_for(run.path("splits.json"), "the chief writes it when the data is in order")
    cases = load_cases(config.data, config.target)
    splits = read_split(run.path("splits.json"), cases)
    arrays = configured_arrays(config, cases)
    comparison = Comparison(run, config, cases, arrays, splits, rows)
    failed: set[Cell] = set()
    for cell in wanted_cells(comparison.cells(), session, [row.name for row in rows], len(splits)):
        if stored(run, cell) is not None:
            continue
        try:
            if failed.isdisjoint(cell.needs):
                _train_along(comparison, cell)
                continue
        except TrainingError as error:
            say(f"warning: {cell.key} failed: {error}")
        failed.add(cell)
    say("this worker's part is done; the chief writes the results")
    return run


def _train_along(comparison: Comparison, cell: Cell) -> None:
    config, split = seeded(comparison.config_of(cell), cell), comparison.splits[cell.fold]
    sitting = Sitting(comparison.run.path("checkpoints", f"{cell.key}.npz"), chief=False)
    for need in cell.needs:
        wait_for(comparison.run.path("cells", f"{need.key}.json"), "the chief tests what it needs")
    if cell.row == SEGMENTER_ROW:
        if not config.segmenter_file:
            train_segmenter(config, comparison.arrays, split, sitting)
    elif config.training == "gradient":
        row, cases, arrays = comparison.row(cell.row), comparison.cases_of(cell.row), comparison.arrays
        arrays = symmetry_arrays(arrays, cases) if row.symmetry else arrays
        maps, stages = comparison.maps_of(cell), comparison.stages_of(cell)
        train_classifier(config, row.approach, arrays, split, len(cases.classes), maps, sitting, stages=stages)
