"""The main job: cases → splits → segmenter → classifiers → test-set table, figures and report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tfseg.config import ComparisonConfig, to_plain
from tfseg.data.audit import Audit, audit_cases
from tfseg.data.audit_page import write_audit
from tfseg.data.batches import load_arrays
from tfseg.data.cases import Cases
from tfseg.data.checks import check
from tfseg.data.sources import load_cases
from tfseg.data.splits import Split, read_split, split_cases, write_split
from tfseg.errors import ConfigError, DataError, Problem, RunError
from tfseg.evaluation.report import write_metrics, write_report
from tfseg.evaluation.tables import table_markdown, table_text
from tfseg.jobs.cells import row_model, run_fold
from tfseg.jobs.evaluate import evaluate_model
from tfseg.jobs.pictures import draw_figures
from tfseg.jobs.results import best_row, tabulate
from tfseg.layers.masking import MASK_LAYERS
from tfseg.progress import progress_bar
from tfseg.run import Run, environment, read_json, recorded_path, write_json, write_text

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
    splits, audit = _audited(cases, config)
    warnings = audit.warnings
    record = {"experiment": experiment, "preset": preset, **to_plain(replace(config, data=recorded_path(config.data)))}
    run = Run.open(out, record)
    say(f"run folder: {run.folder}")
    for warning in warnings:
        say(f"warning: {warning}")
    if run.finished:
        say("this run is finished; its results stand")
        return run
    spent = run.spent
    with run.withdrawn_on_mistake():
        _record_environment(run, config, cases)
        write_json(run.path("data.json"), _describe(cases, splits, warnings))
        write_audit(audit, cases, run.folder)
        if run.path("splits.json").exists():
            splits = read_split(run.path("splits.json"), cases)
        else:
            write_split(splits, cases, run.path("splits.json"))
        arrays = load_arrays(cases, config.image_size, config.resize)
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


def _record_environment(run: Run, config: ComparisonConfig, cases: Cases) -> None:
    """Write ``environment.json``; a run whose data has changed since it was begun isn't gone on with."""
    path, now = run.path("environment.json"), environment(config.seed, cases.fingerprint())
    if path.exists() and read_json(path)["data_fingerprint"] != now["data_fingerprint"]:
        raise RunError(f"{cases.name} has changed since {run.folder} was begun; give another `--out`")
    write_json(path, now)


def _audited(cases: Cases, config: ComparisonConfig) -> tuple[list[Split], Audit]:
    """The parts, and what the audit says of them; stops at settings and at data that can't be trained on."""
    if config.weights not in (None, "imagenet") and not Path(config.weights).is_file():
        raise ConfigError(f"weights file {config.weights} does not exist; choices: `imagenet`, a path, or none")
    needs_masks = [name for name in config.approaches if name in MASK_LAYERS or name == "centiou"]
    if needs_masks and not cases.has_mask.any() and config.segmenter_file is None:
        raise ConfigError(
            f"{', '.join(needs_masks)}: {cases.name} has no masks; give `--segmenter-file` of a trained segmenter, "
            "or only the approach `plain`"
        )
    if "centiou" in config.approaches and not cases.has_mask.any():
        raise ConfigError(f"centiou trains against the true masks, and {cases.name} has none")
    try:
        splits = _split(cases, config)
    except DataError:
        # What is wrong with the cases themselves says more than that they can't be divided.
        check(cases, config.allow)
        raise
    with progress_bar(f"auditing {len(cases)} cases", len(cases)) as advance:
        audit = audit_cases(cases, splits, config.allow, advance, classification=True)
    if not audit.ok:
        raise DataError(audit.errors, cases.name)
    return splits, audit


def _split(cases: Cases, config: ComparisonConfig) -> list[Split]:
    if config.split_file:
        return read_split(config.split_file, cases)
    return split_cases(
        cases,
        seed=config.split_seed,
        folds=config.folds if config.folds > 1 else None,
        val_fraction=config.val_fraction,
        test_per_class=config.test_per_class or None,
    )


def _tested_elsewhere(run: Run, config: ComparisonConfig, cases: Cases, say: Say) -> list[dict]:
    """The rows of every classifier on every external dataset, named "row on data"."""
    rows: dict[str, dict] = {}
    for data in config.external:
        name = Path(data.rpartition(":")[2]).name
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
                subgroups=config.subgroups,
                say=say,
            )
            for row in read_json(outcome.path("metrics.json"))["rows"]:
                # Every model holds the same segmenter.
                rows.setdefault(f"{row['name']} on {name}", row)
    return [{**row, "name": name} for name, row in rows.items()]


def _describe(cases: Cases, splits: list[Split], warnings: list[Problem]) -> dict:
    """Counts for the report: class × part of the first split, masks, warnings."""
    parts = splits[0].parts
    labels = cases.table["label"].to_numpy(object)
    counts = {
        name: {part: int((labels[where] == name).sum()) for part, where in parts.items()} for name in cases.classes
    }
    return {
        "name": cases.name,
        "target": cases.target,
        "cases": len(cases),
        "masks": int(cases.has_mask.sum()),
        "groups": len(set(cases.groups)),
        "folds": len(splits),
        "classes": counts,
        "warnings": [str(warning) for warning in warnings],
    }


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
