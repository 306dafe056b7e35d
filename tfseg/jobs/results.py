"""From the stored cells of a comparison to the rows of its table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tfseg.approaches import APPROACHES
from tfseg.config import CENTIOU_FIELDS, FUSION_FIELDS, SE_LCN_FIELDS
from tfseg.data.checks import shown_path
from tfseg.evaluation.classification import predictions_table
from tfseg.evaluation.scores import TestScores, summarise_row
from tfseg.evaluation.subgroups import subgroup_scores
from tfseg.jobs.cells import SEGMENTER_ROW, Comparison, read_arrays, row_model
from tfseg.jobs.gather import extras, notes, promote, write_csv, write_history
from tfseg.jobs.grid import Cell, Progress, stored
from tfseg.jobs.preparation import recorded_config
from tfseg.run import recorded_path


def tabulate(comparison: Comparison, progress: Progress) -> list[dict]:
    """The rows of ``metrics.json`` from the stored cells; a row without one is left out.

    Writes ``history.csv``, ``predictions/<row>.csv`` of every classifier and, of rows with several cells, the model.
    """
    run, config, cases = comparison.run, comparison.config, comparison.cases
    position_of = {name: number for number, name in enumerate(cases.table["id"])}
    rows = []
    for name in comparison.rows:
        done = [cell for cell in progress.done if cell.row == name]
        if not done:
            continue
        results, runs, predictions, tested = [stored(run, cell) for cell in done], [], [], []
        for cell, result in zip(done, results, strict=True):
            positions = np.array([position_of[case] for case in result["ids"]], np.int64)
            per_case = {key: np.array(values, float) for key, values in result["per_case"].items()}
            tested.append(positions)
            groups, true, probabilities = cases.groups[positions], None, None
            if name != SEGMENTER_ROW:
                true = comparison.cases_of(name).labels[positions]
                arrays = read_arrays(run, cell)
                probabilities = arrays["probabilities"]
                decided = {**result.get("decision", {}), "unfamiliarity": arrays.get("unfamiliarity")}
                predictions.append((cell, positions, probabilities, decided))
            runs.append(TestScores(groups, true, probabilities, per_case))
        promote(run, done, comparison.model_path, row_model(run, name))
        if not any(len(positions) for positions in tested):
            continue  # no test case has a mask to score the segmenter on
        own = comparison.cases_of(name)
        classes = () if name == SEGMENTER_ROW else own.classes
        if predictions:
            _write_predictions(comparison, name, predictions)
        folds = [cell.fold for cell in done]
        settings = _row_settings(comparison, name)
        paper = None if name == SEGMENTER_ROW else comparison.row(name).paper
        row = summarise_row(name, settings, runs, classes, extras(results), paper, folds)
        row |= notes(done, results)
        if own is not cases:
            row["target"] = results[0]["target"]
        if config.subgroups:
            attributes = cases.table.iloc[np.concatenate(tested)]
            row["subgroups"] = subgroup_scores(attributes, TestScores.joined(runs), classes, config.subgroups)
        rows.append(row)
    write_history(run, progress.done)
    return rows


def _row_settings(comparison: Comparison, name: str) -> dict:
    if name == SEGMENTER_ROW:
        own = recorded_config(comparison.config)
        return {key: value for key, value in own.items() if key.startswith("segmenter")}
    row = comparison.row(name)
    config = row.config(comparison.config)
    keys = ("backbone", "freeze_first", "epochs", "batch_size", "learning_rate", "patience", "repeats", "saliency")
    settings = {"approach": row.approach, **{key: getattr(config, key) for key in keys}}
    settings["weights"] = recorded_path(config.weights) if config.weights else None
    if APPROACHES[row.approach].learns_from_masks:
        settings |= {key: getattr(config, key) for key in CENTIOU_FIELDS}
    if APPROACHES[row.approach].fusion:
        settings |= {key: getattr(config, key) for key in FUSION_FIELDS}
    if APPROACHES[row.approach].symmetry:
        settings |= {key: getattr(config, key) for key in (*SE_LCN_FIELDS, "joint_segmentation")}
    if config.sensitivity is not None:
        settings |= {"sensitivity": config.sensitivity, "positive": list(config.positive)}
    return settings | dict(row.changes)


def _write_predictions(
    comparison: Comparison, name: str, predictions: Sequence[tuple[Cell, np.ndarray, np.ndarray, dict]]
) -> None:
    cases, tables = comparison.cases_of(name), []
    grouped = len(set(cases.groups)) < len(cases)
    for cell, positions, probabilities, decided in predictions:
        chosen = cases.table.iloc[positions]
        images = [shown_path(cases, path) for path in chosen["image"]]
        labels, groups = chosen["label"].tolist(), cases.groups[positions] if grouped else None
        table = predictions_table(
            chosen["id"].tolist(), images, labels, probabilities, cases.classes, groups=groups, **decided
        )
        if len(comparison.splits) > 1:
            table["fold"] = cell.fold
        if comparison.config.repeats > 1:
            table["repeat"] = cell.repeat
        tables.append(table)
    # Stages answer another question than the rows that are compared.
    stage = ("stages",) if comparison.row(name).symmetry else ()
    write_csv(comparison.run.path("predictions", *stage, f"{name}.csv"), pd.concat(tables))
