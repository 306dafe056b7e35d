"""From the stored cells of a comparison to the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.config import ComparisonConfig
from tfseg.evaluation.classification import predictions_table
from tfseg.evaluation.scores import TestScores, summarise_row
from tfseg.evaluation.subgroups import subgroup_scores
from tfseg.jobs.cells import SEGMENTER_ROW, Comparison, read_arrays, row_model, write_csv
from tfseg.jobs.grid import Cell, Progress, stored
from tfseg.jobs.preparation import recorded_config
from tfseg.run import Run, read_json, recorded_path, written_whole


def best_row(run: Run, approaches: Sequence[str]) -> str | None:
    """The approach with the best mean balanced accuracy on the validation parts; None where none is stored."""
    scores: dict[str, list[float]] = {}
    for path in sorted(run.path("cells").glob("*.json")):
        cell = read_json(path)
        if cell["row"] in approaches:
            scores.setdefault(cell["row"], []).append(cell["validation"]["balanced_accuracy"])
    return max(scores, key=lambda name: sum(scores[name]) / len(scores[name])) if scores else None


def tabulate(comparison: Comparison, progress: Progress, paper: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """The rows of ``metrics.json`` from the stored cells; a row without one is left out.

    Writes ``history.csv``, ``predictions/<row>.csv`` of every classifier and, of rows with several cells, the model.
    """
    run, config, cases = comparison.run, comparison.config, comparison.cases
    position_of = {name: number for number, name in enumerate(cases.table["id"])}
    rows, histories = [], []
    for name in comparison.rows:
        done = [cell for cell in progress.done if cell.row == name]
        if not done:
            continue
        runs, extra, predictions, tested, notes = [], {}, [], [], []
        for cell in done:
            result = stored(run, cell)
            positions = np.array([position_of[case] for case in result["ids"]], np.int64)
            per_case = {key: np.array(values, float) for key, values in result["per_case"].items()}
            tested.append(positions)
            groups, true, probabilities = cases.groups[positions], None, None
            if name != SEGMENTER_ROW:
                true = comparison.arrays.labels[positions]
                probabilities = read_arrays(run, cell)["probabilities"]
                predictions.append((cell, positions, probabilities))
            runs.append(TestScores(groups, true, probabilities, per_case))
            for key, value in result["extra"].items():
                extra.setdefault(key, []).append(value)
            notes += [f"{cell.key}: {result['note']}"] if result.get("note") else []
            history = pd.read_csv(run.path("history", f"{cell.key}.csv"))
            histories.append(history.assign(row=name, fold=cell.fold, repeat=cell.repeat))
        _promote(comparison, done)
        if not any(len(positions) for positions in tested):
            continue  # no test case has a mask to score the segmenter on
        classes = () if name == SEGMENTER_ROW else cases.classes
        if predictions:
            _write_predictions(comparison, name, predictions)
        folds = [cell.fold for cell in done]
        row = summarise_row(name, _row_settings(config, name), runs, classes, extra, paper.get(name), folds)
        if notes:
            row["notes"] = notes
        if config.subgroups:
            attributes = cases.table.iloc[np.concatenate(tested)]
            row["subgroups"] = subgroup_scores(attributes, TestScores.joined(runs), classes, config.subgroups)
        rows.append(row)
    write_csv(run.path("history.csv"), pd.concat(histories)[["row", "fold", "repeat", *_columns(histories)]])
    return rows


def _columns(histories: list[pd.DataFrame]) -> list[str]:
    names = dict.fromkeys(name for table in histories for name in table.columns)
    return [name for name in names if name not in ("row", "fold", "repeat")]


def _row_settings(config: ComparisonConfig, name: str) -> dict:
    own = {key: value for key, value in recorded_config(config).items() if key.startswith("segmenter")}
    if name == SEGMENTER_ROW:
        return own
    keys = ("backbone", "weights", "freeze_first", "epochs", "batch_size", "learning_rate", "patience")
    settings = {"approach": name, **{key: getattr(config, key) for key in (*keys, "repeats")}}
    settings["weights"] = recorded_path(config.weights) if config.weights else None
    if name == "centiou":
        settings |= {"cross_entropy_share": config.cross_entropy_share, "saliency_gradient": config.saliency_gradient}
    return settings


def _write_predictions(comparison: Comparison, name: str, predictions: Sequence[tuple[Cell, np.ndarray, np.ndarray]]):
    cases, tables = comparison.cases, []
    grouped = len(set(cases.groups)) < len(cases)
    for cell, positions, probabilities in predictions:
        chosen = cases.table.iloc[positions]
        images = [Path(path).relative_to(cases.root).as_posix() for path in chosen["image"]]
        labels, groups = chosen["label"].tolist(), cases.groups[positions] if grouped else None
        table = predictions_table(chosen["id"].tolist(), images, labels, probabilities, cases.classes, groups=groups)
        if len(comparison.splits) > 1:
            table["fold"] = cell.fold
        if comparison.config.repeats > 1:
            table["repeat"] = cell.repeat
        tables.append(table)
    write_csv(comparison.run.path("predictions", f"{name}.csv"), pd.concat(tables))


def _promote(comparison: Comparison, done: Sequence[Cell]) -> None:
    """The cell that is best on validation gives the row's model."""

    def score(cell: Cell) -> float:
        validation = stored(comparison.run, cell)["validation"]
        # A segmenter that was given has no validation score.
        return validation.get("balanced_accuracy", validation.get("iou", 0.0))

    source, target = comparison.model_path(max(done, key=score)), row_model(comparison.run, done[0].row)
    if source != target:
        with written_whole(target) as temporary:
            temporary.write_bytes(source.read_bytes())
