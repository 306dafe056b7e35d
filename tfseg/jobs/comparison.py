"""The main job: cases → splits → segmenter → classifiers → test-set table, figures and report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tfseg.config import ComparisonConfig, to_plain
from tfseg.data.batches import load_arrays
from tfseg.data.cases import Cases
from tfseg.data.checks import check
from tfseg.data.sources import load_cases
from tfseg.data.splits import Split, read_split, split_cases, write_split
from tfseg.errors import ConfigError, Problem
from tfseg.evaluation.report import write_metrics, write_report
from tfseg.evaluation.tables import table_markdown, table_text
from tfseg.jobs.cells import run_fold
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
    warnings = _checked(cases, config)
    splits = split_cases(cases, seed=config.split_seed, folds=config.folds if config.folds > 1 else None)
    record = {"experiment": experiment, "preset": preset, **to_plain(replace(config, data=recorded_path(config.data)))}
    run = Run.open(out, record)
    say(f"run folder: {run.folder}")
    for warning in warnings:
        say(f"warning: {warning}")
    if run.finished:
        say("this run is finished; its results stand")
        return run
    write_json(run.path("environment.json"), environment(config.seed, cases.fingerprint()))
    write_json(run.path("data.json"), _describe(cases, splits, warnings))
    if run.path("splits.json").exists():
        splits = read_split(run.path("splits.json"), cases)
    else:
        write_split(splits, cases, run.path("splits.json"))

    spent = run.spent
    with run.withdrawn_on_mistake():
        arrays = load_arrays(cases, config.image_size, config.resize)
        for fold, split in enumerate(splits):
            run_fold(run, config, cases, arrays, split, fold, len(splits))
    rows = tabulate(run, config, cases, arrays, len(splits), paper or {})
    draw_figures(run, config, cases, arrays, splits[0], rows)
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


def _checked(cases: Cases, config: ComparisonConfig) -> list[Problem]:
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
    with progress_bar(f"checking {len(cases)} cases", len(cases)) as advance:
        return check(cases, config.allow, progress=advance)


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
