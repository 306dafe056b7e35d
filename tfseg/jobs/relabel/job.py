"""The test of a labelling: hide true masks, let `tfseg label` draw them, and tabulate how near it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tfseg.config import ComparisonConfig
from tfseg.data.audit import audit_cases
from tfseg.data.sources import load_cases
from tfseg.errors import DataError
from tfseg.evaluation.report import write_report
from tfseg.evaluation.tables import table_text
from tfseg.jobs.gather import best_row, shown_before, write_grid_metrics
from tfseg.jobs.grid import Progress, finish_grid
from tfseg.jobs.label.data import without_predicted
from tfseg.jobs.label.job import check_settings
from tfseg.jobs.preparation import recorded_config, write_records
from tfseg.jobs.relabel.cells import SHEET, Relabelling
from tfseg.jobs.relabel.draw import RelabelDesign, draw_masks
from tfseg.jobs.relabel.pictures import draw_relabelling
from tfseg.jobs.relabel.results import relabel_markdown, tabulate_relabelling
from tfseg.progress import progress_bar
from tfseg.run import Run, write_text
from tfseg.session import Session

Say = Callable[[str], None]
WHOLE = Session()


def run_relabelling(
    config: ComparisonConfig,
    design: RelabelDesign,
    out: str | Path | None = None,
    *,
    experiment: str = "relabelling",
    preset: str = "quick",
    command: str = "",
    session: Session = WHOLE,
    paper: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    say: Say = print,
) -> Run:
    """Hide all but a few true masks, let a labelling draw them, compare, and write the run folder.

    Every run draws the given masks anew and is a labelling of its own: the folder that `label_masks` writes lies in
    ``outputs/<cell>``, and its masks are compared with the hidden ones. The rows are a mask that calls every pixel
    lesion, and the segmenter. A folder that was interrupted goes on where it stopped.

    Args:
        config: of the labelling; see `label_masks`.
        design: how many masks are given, and how often they are drawn.
        out: the run folder; see `Run.open`.
        experiment, preset, command: for the records.
        session: the part of the grid that is done now, and for how long; a fold is a run.
        paper: metric → published value of the segmenter.
        notes: on the published value, sentences without a full stop.
        say: takes the lines that tell what is going on.

    Returns:
        The run, finished unless `session` asked for a part.

    Raises:
        ConfigError: a setting that a labelling has no use for, no masks, or no labels.
        DataError: classes with too few masks, or files that are wrong.
        TrainingError: cells broke down; the others are stored and tabulated.
        Paused: the session's time is over; likewise.
    """
    started = time.monotonic()
    check_settings(config, SHEET)
    config = config.resolved()
    cases = without_predicted(load_cases(config.data, config.target))
    splits = draw_masks(cases, design, config.split_seed)
    record = {"experiment": experiment, "preset": preset, "relabelling": asdict(design), **recorded_config(config)}
    run = Run.open(out, record)
    say(f"run folder: {run.folder}")
    if shown_before(run, say):
        return run
    spent = run.spent
    with run.withdrawn_on_mistake():
        relabelling = Relabelling(run, config, cases, splits, command, say)
        session.rows(relabelling.rows)
        session.fold_numbers(len(splits))
        with progress_bar(f"auditing {len(cases)} cases", len(cases)) as advance:
            audit = audit_cases(cases, [], config.allow, advance)
        if not audit.ok:
            raise DataError(audit.errors, cases.name)
        write_records(run, config, cases, splits, audit, say)

        def report(progress: Progress) -> None:
            if not progress.done:
                return
            rows = tabulate_relabelling(relabelling, progress, paper, notes)
            draw_relabelling(relabelling, progress, rows)
            metrics = write_grid_metrics(
                run,
                progress,
                rows,
                best_row(run, progress.done),
                record=record,
                command=command,
                seconds=spent + time.monotonic() - started,
                extra={"design": asdict(design)},
            )
            write_text(run.path("table.md"), relabel_markdown(metrics))
            write_report(run.folder)
            say(table_text(metrics))

        cells = relabelling.cells()
        finish_grid(run, cells, relabelling.compute, session, relabelling.rows, len(splits), report, say)
    return run


def describe_relabelling(run: Run) -> str:
    """Where things lie, for the end of a command."""
    return "\n".join(
        [
            f"report        {run.path('report.html')}",
            f"table         {run.path('table.md')}, {run.path('metrics.json')}",
            f"labels        {run.path('outputs')}/<row>-fold<run>: folders in the plain layout, each with review.html",
        ]
    )
