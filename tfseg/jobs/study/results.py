"""From the stored cells of a study to the rows of its table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tfseg.evaluation.scores import summarise_row
from tfseg.jobs.cells import row_model
from tfseg.jobs.gather import extras, history, notes, promote, write_history
from tfseg.jobs.grid import Progress, stored
from tfseg.jobs.preparation import recorded_config
from tfseg.jobs.study.cells import Study
from tfseg.jobs.study.rows import StudyRow
from tfseg.jobs.study.scores import MaskScores

# What stands in the table of classes, and has a second value at the network's size.
CLASS_SCORES = ("iou", "dice", "pixel_error")
SETTINGS = ("image_size", "augmentation", "balance", "learning_rate_schedule", "epoch_images")


def tabulate_study(study: Study, progress: Progress) -> list[dict]:
    """The rows of ``metrics.json`` from the stored cells; a row without one is left out.

    A row has beside its metrics ``per_class`` (mean over the runs of each label's mean, published values as
    ``paper_…``), ``curves`` (mean scores at each threshold), and ``epochs`` where epochs were published.

    Writes ``history.csv`` and, of rows with several cells, the model.
    """
    rows = []
    position_of = {name: number for number, name in enumerate(study.cases.table["id"])}
    for row in study.rows:
        done = [cell for cell in progress.done if cell.row == row.name]
        if not done:
            continue
        results = [stored(study.run, cell) for cell in done]
        runs = [_scores(study, result, position_of) for result in results]
        folds = [cell.fold for cell in done]
        entry = summarise_row(
            row.name, _settings(study, row), runs, (), extras(results), _paper(study, row), folds
        ) | notes(done, results)
        if study.cases.classes:
            entry["per_class"] = _per_class(study, row, runs)
        if row.baseline is None:
            entry["curves"] = {part: _mean_curve(results, part) for part in ("validation", "test")}
            if row.paper_epochs:
                entry["epochs"] = _epochs([history(study.run, cell) for cell in done], row)
            promote(study.run, done, study.model_path, row_model(study.run, row.name))
        rows.append(entry)
    write_history(study.run, progress.done)
    return rows


def _scores(study: Study, result: dict, position_of: dict[str, int]) -> MaskScores:
    positions = np.array([position_of[case] for case in result["ids"]], np.int64)
    per_case = {name: np.array(values, float) for name, values in result["per_case"].items()}
    return MaskScores(
        study.cases.groups[positions],
        per_case=per_case,
        labels=study.cases.labels[positions],
        over_labels=study.design.over_labels,
    )


def _settings(study: Study, row: StudyRow) -> dict:
    """What the row was trained and predicted with; of a baseline only its name."""
    if row.baseline:
        return {"baseline": row.baseline}
    own = recorded_config(row.config(study.config))
    settings = {key: own[key] for key in own if key.startswith("segmenter") or key in SETTINGS}
    return settings | ({"model_of": row.model_of} if row.model_of else {})


def _paper(study: Study, row: StudyRow) -> dict | None:
    """The published values, beside both ways of counting where there are two."""
    if row.paper is None or not study.design.model_size:
        return dict(row.paper) if row.paper else None
    return {**row.paper, **{f"{name}_model_size": row.paper[name] for name in CLASS_SCORES if name in row.paper}}


def _per_class(study: Study, row: StudyRow, runs: Sequence[MaskScores]) -> dict[str, dict]:
    """Of every label the scores, mean over the runs, with the published ones; ``support`` counts all runs.

    Beside `CLASS_SCORES` there are the scores that were published of any row.
    """
    endings = ("", "_model_size") if study.design.model_size else ("",)
    compared = {name for other in study.rows for name in other.paper or {}}
    scores = dict.fromkeys((*CLASS_SCORES, *(name for name in runs[0].per_case if name in compared)))
    names = [f"{name}{ending}" for name in scores for ending in endings]
    table = {}
    for number, label in enumerate(study.cases.classes):
        members = [run.labels == number for run in runs]
        entry: dict[str, float | int | None] = {}
        for name in names:
            parts = [run.per_case[name][here] for run, here in zip(runs, members, strict=True)]
            means = [float(np.nanmean(values)) for values in parts if not np.isnan(values).all()]
            entry[name] = float(np.mean(means)) if means else None
        if row.paper_classes:
            published = row.paper_classes.get(label, {})
            entry |= {f"paper_{name}": published.get(name) for name in CLASS_SCORES}
        table[label] = {**entry, "support": int(sum(here.sum() for here in members))}
    return table


def _mean_curve(results: Sequence[dict], part: str) -> dict[str, list[float]]:
    """The mean over the cells of a curve against the threshold."""
    curves = [result["curves"][part] for result in results]
    return {name: np.mean([curve[name] for curve in curves], axis=0).tolist() for name in curves[0]}


def _epochs(tables: Sequence[pd.DataFrame], row: StudyRow) -> list[dict]:
    """The validation part's loss and IoU of every epoch, mean over the cells that reached it, beside the published."""
    joined = pd.concat(tables)
    means = joined.groupby("epoch")[["val_loss", "val_iou"]].mean()
    lines = []
    for epoch, values in means.iterrows():
        published = row.paper_epochs[int(epoch) - 1] if epoch <= len(row.paper_epochs) else (None, None)
        ours = {"epoch": int(epoch), "loss": float(values["val_loss"]), "iou": float(values["val_iou"])}
        lines.append({**ours, "paper_loss": published[0], "paper_iou": published[1]})
    return lines
