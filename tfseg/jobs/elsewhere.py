"""Score the models of a grid on another dataset: every row, every fold's model, on the same images."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.data.batches import CaseArrays, load_arrays
from tfseg.data.cases import Cases
from tfseg.data.checks import check, shown_path
from tfseg.data.copies import shared_with
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError, UserError
from tfseg.evaluation.classification import predictions_table
from tfseg.evaluation.report import write_metrics, write_report
from tfseg.evaluation.scores import TestScores, localisation_scores, summarise_row
from tfseg.evaluation.tables import table_markdown, table_text
from tfseg.export.predictor import Predictor, load_predictor
from tfseg.jobs.compare.job import compare
from tfseg.jobs.gather import shown_before, write_csv
from tfseg.jobs.scored_cases import check_classes, mapped_cases
from tfseg.progress import progress_bar
from tfseg.run import Run, environment, read_json, recorded_path, write_json, write_text

# Of the bootstrap of the differences between the rows.
DRAWS = 2000
BATCH = 16


def score_elsewhere(
    grid: str | Path,
    data: str,
    out: str | Path | None,
    *,
    class_map: str | Path | None = None,
    allow: Sequence[str] = (),
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    paper: Mapping[str, Mapping[str, float]] | None = None,
    experiment: str = "elsewhere",
    preset: str = "",
    command: str = "",
    say=print,
) -> Run:
    """Write a table of a comparison's rows on another dataset, over the models of all its folds and repeats.

    A row's models answer for the same images, so that the intervals are over trainings, not over images. Images that
    the comparison was trained, validated or tested on are left out. Where the data lacks some of the classes, a further
    row scores the arg-max among those that it has. Maps are scored where there are masks.

    Args:
        grid: the folder of a finished comparison.
        data: a folder in the plain layout, or ``NAME:PATH``.
        out: the run folder; see `Run.open`.
        class_map: see `tfseg.jobs.scored_cases.mapped_cases`.
        allow: kinds of data errors to go on with.
        rows: names of those to score; all that can be served by default.
        columns: metrics that the table shows.
        paper: row → metric → published value.
        experiment, preset, command: for the records.
        say: takes the lines that tell what is going on.

    Raises:
        UserError: for whatever the user has to mend.
    """
    started = time.monotonic()
    source = Run(grid)
    if not (source.path("config.json").exists() and source.path("metrics.json").exists()):
        raise UserError(f"{grid} is no folder of a finished comparison")
    models = _models(source, rows)
    config = source.config
    trained_on = load_cases(os.path.expandvars(config["data"]), config["target"])
    cases = load_cases(data, "label")
    if class_map:
        cases = mapped_cases(cases, class_map)
    check_classes(cases, trained_on.classes)
    warnings = check(cases, allow, classification=False)
    cases = cases.subset(np.flatnonzero(cases.labels >= 0))
    total = len(cases) + len(trained_on)
    with progress_bar(f"comparing with {len(trained_on)} images of the training", total) as advance:
        shared = shared_with(cases, trained_on, advance)
    cases = cases.subset(np.setdiff1d(np.arange(len(cases)), shared))
    if not len(cases):
        raise UserError(f"nothing to score: no labelled image of {data} is new to {grid}")
    record = {
        "experiment": experiment,
        "preset": preset,
        "seed": config["seed"],
        "grid": recorded_path(grid),
        "data": recorded_path(data),
        "class_map": recorded_path(class_map) if class_map else None,
        "rows": list(models),
    }
    run = Run.open(out, record)
    say(f"run folder: {run.folder}")
    if shown_before(run, say):
        return run
    for warning in warnings:
        say(f"warning: {warning}")
    if len(shared):
        say(f"warning: left out {len(shared)} images that the training data has too")
    write_json(run.path("environment.json"), environment(config["seed"], cases.fingerprint()))
    arrays = load_arrays(cases, config["image_size"], config["resize"])
    written = []
    for name, paths in models.items():
        written += _scored(run, name, paths, cases, arrays, trained_on.classes, (paper or {}).get(name))
    path = write_metrics(
        run.folder,
        experiment=experiment,
        preset=preset,
        seed=config["seed"],
        data=recorded_path(data),
        command=command,
        seconds=round(time.monotonic() - started, 1),
        rows=written,
        extra={"complete": True, "left_out": len(shared), **({"columns": list(columns)} if columns else {})},
    )
    metrics = read_json(path)
    write_text(run.path("table.md"), table_markdown(metrics))
    if len(models) > 1:
        compare([run.folder], run.path("comparison"), draws=DRAWS, command=command, say=lambda line: None)
    write_report(run.folder)
    say(table_text(metrics))
    return run


def _models(source: Run, rows: Sequence[str]) -> dict[str, list[Path]]:
    """The models of each row that can be served: one for each fold and repeat."""
    found = {}
    for row in read_json(source.path("metrics.json"))["rows"]:
        approach = APPROACHES.get(row["settings"].get("approach"))
        if approach is None or not approach.served or "target" in row:
            continue
        paths = sorted(source.path("models", row["name"]).glob("*.keras"))
        # Of several, `model.keras` is a copy of the best.
        found[row["name"]] = [path for path in paths if path.name != "model.keras"] or paths
    unknown = [name for name in rows if name not in found]
    if unknown or not found:
        raise ConfigError(f"`cells`: no row {', '.join(unknown)} with a model; there are {', '.join(found) or 'none'}")
    return {name: paths for name, paths in found.items() if not rows or name in rows}


def _scored(
    run: Run, name: str, paths: Sequence[Path], cases: Cases, arrays: CaseArrays, classes: Sequence[str], paper
) -> list[dict]:
    """The rows of one row's models, and its table of predictions."""
    number_of = {known: number for number, known in enumerate(classes)}
    true = np.array([number_of[label] for label in cases.table["label"]], np.int64)
    lesions = arrays.lesions_at(np.arange(len(arrays)))
    runs, tables = [], []
    for number, path in enumerate(paths):
        predictor = load_predictor(path)
        outputs = _predicted(predictor, arrays.images, f"{name} · model {number + 1} of {len(paths)}")
        per_case = localisation_scores(outputs["saliency"][..., 0], lesions)
        # Without a mask there is nothing to say of where a map lies.
        per_case = per_case if lesions.any() else {}
        runs.append(TestScores(cases.groups, true, outputs["probabilities"], per_case))
        images = [shown_path(cases, image) for image in cases.table["image"]]
        table = predictions_table(
            arrays.ids.tolist(), images, cases.table["label"].tolist(), outputs["probabilities"], classes
        )
        tables.append(table.assign(repeat=number))
    import pandas as pd

    write_csv(run.path("predictions", f"{name}.csv"), pd.concat(tables))
    rows = [summarise_row(name, {}, runs, classes, paper=paper)]
    present = np.unique(true)
    if 1 < len(present) < len(classes):
        shared = [_among(scores, present) for scores in runs]
        rows.append(summarise_row(f"{name} (shared classes)", {}, shared, [classes[number] for number in present]))
    return rows


def _among(scores: TestScores, present: np.ndarray) -> TestScores:
    """The same predictions, chosen among the classes that the data has."""
    values = scores.probabilities[:, present]
    values = values / np.maximum(values.sum(1, keepdims=True), 1e-12)
    return TestScores(scores.groups, np.searchsorted(present, scores.true), values)


def _predicted(predictor: Predictor, images: np.ndarray, title: str) -> dict[str, np.ndarray]:
    # Neither the mask nor the other maps are scored here.
    predictor, parts = predictor.deciding("saliency"), []
    with progress_bar(title, len(images)) as advance:
        for start in range(0, len(images), BATCH):
            parts.append(predictor.predict(images[start : start + BATCH]))
            advance(len(images[start : start + BATCH]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
