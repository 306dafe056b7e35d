"""From the stored cells of a comparison to the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.evaluation.classification import predictions_table
from tfseg.evaluation.scores import TestScores, summarise_row
from tfseg.evaluation.subgroups import subgroup_scores
from tfseg.jobs.cells import SEGMENTER_ROW, fold_model, read_arrays, row_model, write_csv
from tfseg.jobs.preparation import recorded_config
from tfseg.run import Run, read_json, recorded_path, written_whole


def best_row(run: Run) -> str:
    """The approach with the best mean balanced accuracy on the validation parts."""
    scores: dict[str, list[float]] = {}
    for path in sorted(run.path("cells").glob("*.json")):
        cell = read_json(path)
        if cell["row"] != SEGMENTER_ROW:
            scores.setdefault(cell["row"], []).append(cell["validation"]["balanced_accuracy"])
    return max(scores, key=lambda name: sum(scores[name]) / len(scores[name]))


def tabulate(
    run: Run,
    config: ComparisonConfig,
    cases: Cases,
    arrays: CaseArrays,
    folds_count: int,
    paper: Mapping[str, Mapping[str, float]],
) -> list[dict]:
    """The rows of ``metrics.json`` from the stored cells.

    Writes ``history.csv``, ``predictions/<row>.csv`` of every classifier and, of cross-validated rows, the model.
    """
    position_of = {name: number for number, name in enumerate(cases.table["id"])}
    rows, histories = [], []
    names = [SEGMENTER_ROW] if run.path("cells", f"{SEGMENTER_ROW}-fold0.json").exists() else []
    for name in [*names, *config.approaches]:
        folds, extra, predictions, tested = [], {}, [], []
        for fold in range(folds_count):
            cell = read_json(run.path("cells", f"{name}-fold{fold}.json"))
            positions = np.array([position_of[case] for case in cell["ids"]], np.int64)
            per_case = {key: np.array(values, float) for key, values in cell["per_case"].items()}
            tested.append(positions)
            groups, true, probabilities = cases.groups[positions], None, None
            if name != SEGMENTER_ROW:
                true, probabilities = arrays.labels[positions], read_arrays(run, name, fold)["probabilities"]
                predictions.append((positions, probabilities))
            folds.append(TestScores(groups, true, probabilities, per_case))
            for key, value in cell["extra"].items():
                extra.setdefault(key, []).append(value)
            histories.append(pd.read_csv(run.path("history", f"{name}-fold{fold}.csv")).assign(row=name, fold=fold))
        if folds_count > 1:
            _promote(run, name, folds_count)
        if not any(len(positions) for positions in tested):
            continue  # no test case has a mask to score the segmenter on
        classes = () if name == SEGMENTER_ROW else cases.classes
        if predictions:
            _write_predictions(run, name, cases, predictions)
        settings = _row_settings(config, name)
        row = summarise_row(name, settings, folds, classes, extra, paper.get(name))
        if config.subgroups:
            attributes = cases.table.iloc[np.concatenate(tested)]
            row["subgroups"] = subgroup_scores(attributes, TestScores.joined(folds), classes, config.subgroups)
        rows.append(row)
    write_csv(run.path("history.csv"), pd.concat(histories)[["row", "fold", *_columns(histories)]])
    return rows


def _columns(histories: list[pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(name for table in histories for name in table.columns if name not in ("row", "fold")))


def _row_settings(config: ComparisonConfig, name: str) -> dict:
    own = {key: value for key, value in recorded_config(config).items() if key.startswith("segmenter")}
    if name == SEGMENTER_ROW:
        return own
    keys = ("backbone", "weights", "freeze_first", "epochs", "batch_size", "learning_rate", "patience")
    settings = {"approach": name, **{key: getattr(config, key) for key in keys}}
    settings["weights"] = recorded_path(config.weights) if config.weights else None
    if name == "centiou":
        settings |= {"cross_entropy_share": config.cross_entropy_share, "saliency_gradient": config.saliency_gradient}
    return settings


def _write_predictions(run: Run, name: str, cases: Cases, predictions) -> None:
    positions = np.concatenate([where for where, _ in predictions])
    chosen = cases.table.iloc[positions]
    images = [Path(path).relative_to(cases.root).as_posix() for path in chosen["image"]]
    table = predictions_table(
        chosen["id"].tolist(),
        images,
        chosen["label"].tolist(),
        np.concatenate([p for _, p in predictions]),
        cases.classes,
    )
    write_csv(run.path("predictions", f"{name}.csv"), table)


def _promote(run: Run, name: str, folds: int) -> None:
    """Of a cross-validated row, the fold that is best on validation becomes the row's model."""

    def score(fold):
        cell = read_json(run.path("cells", f"{name}-fold{fold}.json"))
        history = pd.read_csv(run.path("history", f"{name}-fold{fold}.csv"))
        if "validation" in cell:
            return cell["validation"]["balanced_accuracy"]
        # A segmenter that was given has no history.
        return history["val_iou"].max() if "val_iou" in history else 0.0

    best = max(range(folds), key=score)
    with written_whole(row_model(run, name)) as temporary:
        temporary.write_bytes(fold_model(run, name, best, folds).read_bytes())
