"""The main job: cases → splits → segmenter → classifiers → test-set table, figures and report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tfseg.config import ComparisonConfig
from tfseg.data.audit_page import write_audit
from tfseg.data.batches import load_arrays
from tfseg.data.cases import Cases
from tfseg.data.sources import load_cases
from tfseg.data.splits import write_split
from tfseg.evaluation.report import write_metrics, write_report
from tfseg.evaluation.tables import table_markdown, table_text
from tfseg.jobs.cells import row_model, run_fold
from tfseg.jobs.evaluate import evaluate_model
from tfseg.jobs.pictures import draw_figures
from tfseg.jobs.preparation import describe, external_name, prepared, record_environment, recorded_config
from tfseg.jobs.results import best_row, tabulate
from tfseg.run import Run, read_json, write_json, write_text

Say = Callable[[str], None]


def run_comparison(
    config: ComparisonConfig,
    out: str | Path | None = None,
    *,
    experiment: str = "quickstart",
    preset: str = "quick",
    command: str = "",
    paper: dict[str, dict] | None = None,
    say: Say = print,
) -> Run:
    """Train one segmenter and every approach on the same parts, test them, and write the run folder.

    A folder that was interrupted goes on where it stopped: each training is a cell that is stored when done.

    Args:
        config: what to run.
        out: the run folder; see `Run.open`.
        experiment, preset, command: for the records.
        paper: row name → published metrics.
        say: takes the lines that tell what is going on.

    Returns:
        The finished run.

    Raises:
        UserError: for whatever the user has to mend, before anything is trained where that can be known.
    """
    started = time.monotonic()
    config = config.resolved()
    cases = load_cases(config.data, config.target)
    record = {"experiment": experiment, "preset": preset, **recorded_config(config)}
    run = Run.open(out, record)
    say(f"run folder: {run.folder}")
    if run.finished:
        say(table_text(read_json(run.path("metrics.json"))))
        say("this run was finished before; these are its results")
        return run
    spent = run.spent
    with run.withdrawn_on_mistake():
        splits, audit = prepared(run, config, cases)
        for warning in audit.warnings:
            say(f"warning: {warning}")
        record_environment(run, config, cases)
        write_json(run.path("data.json"), describe(cases, splits, audit))
        write_audit(audit, cases, run.folder)
        write_split(splits, cases, run.path("splits.json"))
        cache = config.cache_dir if config.cache == "disk" else None
        arrays = load_arrays(cases, config.image_size, config.resize, cache_dir=cache)
        for fold, split in enumerate(splits):
            run_fold(run, config, cases, arrays, split, fold, len(splits))
    rows = tabulate(run, config, cases, arrays, len(splits), paper or {})
    draw_figures(run, config, cases, arrays, splits[0], rows)
    rows += _tested_elsewhere(run, config, cases, say)
    path = write_metrics(
        run.folder,
        experiment=experiment,
        preset=preset,
        seed=config.seed,
        data=record["data"],
        command=command,
        seconds=round(spent + time.monotonic() - started, 1),
        rows=rows,
        extra={"best_row": best_row(run)},
    )
    metrics = read_json(path)
    write_text(run.path("table.md"), table_markdown(metrics))
    write_report(run.folder)
    say(table_text(metrics))
    return run


def _tested_elsewhere(run: Run, config: ComparisonConfig, cases: Cases, say: Say) -> list[dict]:
    """The rows of every classifier on every external dataset, named "row on data"."""
    rows: dict[str, dict] = {}
    for data in config.external:
        name = external_name(data)
        known = load_cases(data, config.target).table.columns
        subgroups = [column for column in config.subgroups if column in known]
        for approach in config.approaches:
            out = run.path("external", name, approach)
            outcome = evaluate_model(
                row_model(run, approach),
                data,
                out,
                row=approach,
                target=config.target,
                allow=config.allow,
                class_map=config.class_map,
                trained_on=cases,
                subgroups=subgroups,
                say=say,
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
