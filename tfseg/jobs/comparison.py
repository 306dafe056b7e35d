"""The main job: cases → splits → segmenter → classifiers → test-set table, figures and report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError
from tfseg.evaluation.report import write_report
from tfseg.evaluation.tables import table_markdown, table_text
from tfseg.jobs.cells import Comparison, row_model
from tfseg.jobs.compare.job import compare
from tfseg.jobs.evaluate import evaluate_model
from tfseg.jobs.gather import best_row, shown_before, write_grid_metrics
from tfseg.jobs.grid import Progress, finish_grid
from tfseg.jobs.pictures import draw_figures
from tfseg.jobs.preparation import (
    configured_arrays,
    load_variants,
    prepared,
    recorded_config,
    write_records,
)
from tfseg.jobs.results import tabulate
from tfseg.jobs.rows import ClassifierRow, check_rows, rows_of
from tfseg.jobs.scored_cases import external_name
from tfseg.jobs.symmetry import symmetry_rows
from tfseg.jobs.workers import work_along
from tfseg.run import Run, read_json, recorded_path, write_text
from tfseg.session import Session
from tfseg.training.devices import is_chief, make_strategy

Say = Callable[[str], None]
WHOLE = Session()
# Of the bootstrap of the differences between the rows.
DRAWS = 2000


def run_comparison(
    config: ComparisonConfig,
    out: str | Path | None = None,
    *,
    rows: Sequence[ClassifierRow] = (),
    variants: Mapping[str, str | Path] | None = None,
    columns: Sequence[str] = (),
    experiment: str = "quickstart",
    preset: str = "quick",
    command: str = "",
    session: Session = WHOLE,
    say: Say = print,
) -> Run:
    """Train one segmenter and every classifier on the same parts, test them, and write the run folder.

    A folder that was interrupted goes on where it stopped: each training is a cell that is stored when done, and one
    that was broken off goes on from its checkpoint. A grid that isn't complete is tabulated as far as it is.

    Args:
        config: what to run.
        out: the run folder; see `Run.open`.
        rows: the classifiers; by default one for each approach of the configuration.
        variants: name → a dataset with the same cases photographed otherwise; every classifier's accuracy on their
            test images is its ``accuracy_<name>``.
        columns: metrics that the table of classifiers shows, in place of the usual ones.
        experiment, preset, command: for the records.
        session: the part of the grid that is done now, and for how long.
        say: takes the lines that tell what is going on.

    Returns:
        The run, finished unless `session` asked for a part.

    Raises:
        UserError: for whatever the user has to mend, before anything is trained where that can be known.
        TrainingError: cells broke down; the others are stored and tabulated.
        Paused: the session's time is over; likewise.
    """
    started = time.monotonic()
    config, rows = config.resolved(), list(rows) or rows_of(config)
    check_rows(rows)
    config = replace(config, approaches=tuple(dict.fromkeys(row.approach for row in rows)))
    if config.distribution == "multiworker":
        # Before any operation runs.
        if out is None or session.max_minutes:
            raise ConfigError("multiworker needs `--out`, and its workers can't pause by `--max-minutes`")
        if not is_chief(make_strategy(config.distribution)):
            return work_along(config, rows, Run(out), session, say)
    cases = load_cases(config.data, config.target)
    record = {"experiment": experiment, "preset": preset, **recorded_config(config)}
    if [(row.name, row.record()) for row in rows] != [(row.name, row.record()) for row in rows_of(config)]:
        record["rows"] = {row.name: row.record() for row in rows}
    if variants:
        record["variants"] = {name: recorded_path(folder) for name, folder in variants.items()}
    run = Run.open(out, record)
    say(f"run folder: {run.folder}")
    if shown_before(run, say):
        return run
    spent = run.spent
    with run.withdrawn_on_mistake():
        splits, audit = prepared(run, config, rows, cases)
        # Numbers are those of the rows that were asked for.
        names = [row.name for row in (*rows, *symmetry_rows(config, rows))]
        session.rows(names)
        session.fold_numbers(len(splits))
        write_records(run, config, cases, splits, audit, say)
        others = load_variants(variants or {}, config, cases)
        comparison = Comparison(run, config, cases, configured_arrays(config, cases), splits, rows, others)

        def report(progress: Progress) -> None:
            seconds = spent + time.monotonic() - started
            _write_results(comparison, progress, record, command, seconds, columns, say)

        finish_grid(run, comparison.cells(), comparison.compute, session, names, len(splits), report, say)
    return run


def _write_results(
    comparison: Comparison,
    progress: Progress,
    record: dict,
    command: str,
    seconds: float,
    columns: Sequence[str],
    say: Say,
) -> None:
    """``metrics.json``, table, figures and report of what is stored; nothing where no cell is."""
    if not progress.done:
        return
    run, classifiers = comparison.run, {row.name: row for row in comparison.classifiers}
    rows = tabulate(comparison, progress)
    if not rows:
        return
    draw_figures(comparison, progress, rows)
    if progress.complete:
        rows += _tested_elsewhere(comparison, say)
    # What is exported unless another row is named: never a control.
    usable = [name for name, row in classifiers.items() if not APPROACHES[row.approach].control] or list(classifiers)
    best = best_row(run, [cell for cell in progress.done if cell.row in usable])
    extra = {"columns": list(columns)} if columns else None
    metrics = write_grid_metrics(
        run, progress, rows, best, record=record, command=command, seconds=seconds, extra=extra
    )
    write_text(run.path("table.md"), table_markdown(metrics))
    if progress.complete and len(classifiers) > 1:
        # Rows of a part of the grid may have other test cases.
        compare([run.folder], run.path("comparison"), draws=DRAWS, command=command, say=lambda line: None)
    write_report(run.folder)
    say(table_text(metrics))


def _tested_elsewhere(comparison: Comparison, say: Say) -> list[dict]:
    """The rows of every classifier on every external dataset, named "row on data"."""
    run, config, rows = comparison.run, comparison.config, {}
    masks = {"flips": config.segmenter_flips, "postprocessing": config.segmenter_postprocessing}
    for data in config.external:
        name = external_name(data)
        known = load_cases(data, config.target).table.columns
        subgroups = [column for column in config.subgroups if column in known]
        for classifier in comparison.classifiers:
            if not APPROACHES[classifier.approach].served:
                continue  # those cases have no maps that were made in the same way
            out = run.path("external", name, classifier.name)
            outcome = evaluate_model(
                row_model(run, classifier.name),
                data,
                out,
                row=classifier.name,
                target=config.target,
                allow=config.allow,
                class_map=config.class_map,
                trained_on=comparison.cases,
                subgroups=subgroups,
                pixel_steps=config.pixel_steps,
                say=say,
                **(masks if comparison.segmented else {}),
            )
            for row in read_json(outcome.path("metrics.json"))["rows"]:
                # Without folds every model holds the same segmenter; with them, the first row's stands for it.
                rows.setdefault(f"{row['name']} on {name}", row)
    return [{**row, "name": name} for name, row in rows.items()]


def describe_files(run: Run) -> str:
    """Where things lie, for the end of a command."""
    metrics = read_json(run.path("metrics.json"))
    return "\n".join(
        [
            f"report        {run.path('report.html')}",
            f"table         {run.path('table.md')}, {run.path('metrics.json')}",
            f"predictions   {run.path('predictions')}/<row>.csv",
            f"models        {run.path('models')}/<row>/model.keras (best on validation: {metrics.get('best_row')})",
        ]
    )
