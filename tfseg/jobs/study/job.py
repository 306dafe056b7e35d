"""A study of segmenters: the same folds or runs for every row, one table beside the paper's, figures and report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.config import ComparisonConfig
from tfseg.data.audit import Audit, audit_cases
from tfseg.data.cases import Cases
from tfseg.data.checks import check
from tfseg.data.sources import load_cases
from tfseg.data.splits import Split, read_split
from tfseg.errors import ConfigError, DataError
from tfseg.evaluation.report import write_report
from tfseg.evaluation.tables import table_text
from tfseg.jobs.compare.job import compare
from tfseg.jobs.gather import best_row, shown_before, write_csv, write_grid_metrics
from tfseg.jobs.grid import Progress, finish_grid
from tfseg.jobs.preparation import recorded_config, write_records
from tfseg.jobs.rows import check_rows
from tfseg.jobs.study.cells import Study
from tfseg.jobs.study.pictures import draw_study
from tfseg.jobs.study.results import tabulate_study
from tfseg.jobs.study.rows import StudyDesign, StudyRow, check_models, study_splits
from tfseg.jobs.study.tables import study_markdown
from tfseg.progress import progress_bar
from tfseg.run import Run, read_json, write_text
from tfseg.session import Session
from tfseg.training.segmenter import configured_loss, configured_segmenter

Say = Callable[[str], None]
WHOLE = Session()
# Of the bootstrap of the differences between the rows.
DRAWS = 2000


def run_study(
    config: ComparisonConfig,
    rows: Sequence[StudyRow],
    out: str | Path | None = None,
    *,
    design: StudyDesign | None = None,
    experiment: str = "study",
    preset: str = "quick",
    command: str = "",
    session: Session = WHOLE,
    say: Say = print,
) -> Run:
    """Train every row's segmenter on the same splits, test them, and write the run folder.

    A folder that was interrupted goes on where it stopped, as in `run_comparison`. The epoch and the threshold of
    ``…_chosen`` are chosen on the validation part; other scores are at 0.5 and at the files' own resolution.

    Args:
        config: what the rows have in common.
        rows: of the table; at least one.
        out: the run folder; see `Run.open`.
        design: how the cases are divided and counted; by default the folds of `config`.
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
    design, config = design or StudyDesign(), config.resolved()
    names = [row.name for row in rows]
    check_rows(rows)
    check_models(rows, config)
    if config.distribution == "multiworker":
        raise ConfigError("a study trains on one machine: `--distribution` must be one or mirrored")
    cases = load_cases(config.data, config.target)
    study_record = {"rows": {row.name: row.record() for row in rows}, **asdict(design)}
    record = {"experiment": experiment, "preset": preset, "study": study_record, **recorded_config(config)}
    run = Run.open(out, record)
    say(f"run folder: {run.folder}")
    if shown_before(run, say):
        return run
    spent = run.spent
    with run.withdrawn_on_mistake():
        splits, audit = _prepared(run, config, rows, design, cases)
        session.rows(names)
        session.fold_numbers(len(splits))
        write_records(run, config, cases, splits, audit, say, _shown_warnings(audit, design))
        study = Study(run, config, rows, design, cases, splits)

        def report(progress: Progress) -> None:
            _write_results(study, progress, record, command, spent + time.monotonic() - started, say)

        finish_grid(run, study.cells(), study.compute, session, names, len(splits), report, say)
    return run


def _prepared(
    run: Run, config: ComparisonConfig, rows: Sequence[StudyRow], design: StudyDesign, cases: Cases
) -> tuple[list[Split], Audit]:
    """The parts and the audit of a study that can be trained; an interrupted run keeps its parts."""
    if not cases.has_mask.any():
        raise ConfigError(f"{cases.name} has no masks to learn or to score")
    for row in rows:
        own = row.config(config)
        if row.baseline is None and row.model_of is None:
            if own.segmenter == "none" or own.segmenter_file:
                raise ConfigError(f"row {row.name}: a study trains its segmenters; name one as `--segmenter`")
            configured_loss(own)
            # Weights are not fetched for a check.
            words = tuple(word for word in own.segmenter_options if not word.startswith("encoder_weights="))
            configured_segmenter(replace(own, segmenter_options=words), cases.mask_classes.channels, pretrained=False)
    stored, allow = run.path("splits.json"), (*config.allow, *design.allowed)
    try:
        splits = read_split(stored, cases) if stored.exists() else study_splits(cases, config, design)
    except DataError:
        # What is wrong with the cases themselves says more than that they can't be divided.
        check(cases, allow, classification=False)
        raise
    for split in splits:
        empty = [part for part, positions in split.parts.items() if not cases.has_mask[positions].any()]
        if empty:
            raise ConfigError(f"{split.name}: no case of the part {', '.join(empty)} has a mask")
    with progress_bar(f"auditing {len(cases)} cases", len(cases)) as advance:
        audit = audit_cases(cases, splits, allow, advance)
    if not audit.ok:
        raise DataError(audit.errors, cases.name)
    return splits, audit


def _shown_warnings(audit: Audit, design: StudyDesign) -> list[str]:
    """The audit's warnings; what the design lets through is counted, not listed."""
    lines = [str(problem) for problem in audit.warnings if problem.kind not in design.allowed]
    for kind, why in design.allowed.items():
        count = sum(problem.kind == kind for problem in audit.warnings)
        if count:
            lines.append(f"{count:,} times {kind}, {why} (audit.html lists them)")
    return lines


def _write_results(study: Study, progress: Progress, record: dict, command: str, seconds: float, say: Say) -> None:
    """``metrics.json``, table, figures and report of what is stored; nothing where no cell is."""
    if not progress.done:
        return
    run, best = study.run, best_row(study.run, progress.done)
    rows = tabulate_study(study, progress)
    draw_study(study, progress, rows, best)
    design = {"design": asdict(study.design)}
    metrics = write_grid_metrics(
        run, progress, rows, best, record=record, command=command, seconds=seconds, extra=design
    )
    write_text(run.path("table.md"), study_markdown(metrics))
    trained = [row.name for row in study.rows if row.baseline is None]
    if progress.complete and len(trained) > 1:
        _compare(study, trained, command)
    write_report(run.folder)
    say(table_text(metrics))


def _compare(study: Study, trained: Sequence[str], command: str) -> None:
    """Every trained row against the first one, on the same test cases, drawn by patient."""
    groups = study.run.path("outputs", "groups.csv")
    write_csv(groups, pd.DataFrame({"id": study.cases.table["id"], "group": study.cases.groups}))
    compare(
        [study.run.folder],
        study.run.path("comparison"),
        rows=trained,
        metric="iou",
        against=trained[0],
        groups=groups,
        draws=DRAWS,
        command=command,
        say=lambda line: None,
    )


def describe_study(run: Run) -> str:
    """Where things lie, for the end of a command."""
    metrics = read_json(run.path("metrics.json"))
    best = next((row for row in metrics["rows"] if row["name"] == metrics["best_row"]), None)
    lines = [
        f"report        {run.path('report.html')}",
        f"table         {run.path('table.md')}, {run.path('metrics.json')}",
        f"models        {run.path('models')}/<row>/model.keras (best on validation: {metrics['best_row']})",
    ]
    if best:
        scores = {name: best["metrics"][name]["mean"] for name in ("iou", "dice")}
        if all(np.isfinite(list(scores.values()))):
            lines.append("best row      " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    return "\n".join(lines)
