"""The cells of a comparison: one training on one fold, tested, with everything that it made on disk."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays, make_batches
from tfseg.data.cases import Cases
from tfseg.data.decode import to_model_input
from tfseg.data.splits import Split
from tfseg.evaluation.reliance import reliance
from tfseg.evaluation.scores import TestScores, localisation_scores
from tfseg.evaluation.segmentation import score_cases
from tfseg.metrics.localisation import dilate
from tfseg.models.classifier import inference_graph
from tfseg.run import Run, written_whole
from tfseg.training.stages import lesion_maps, load_segmenter, predict_masks, train_classifier, train_segmenter

SEGMENTER_ROW = "segmenter"


def run_fold(
    run: Run, config: ComparisonConfig, cases: Cases, arrays: CaseArrays, split: Split, fold: int, folds: int
) -> None:
    """Train and test the segmenter of a fold, then every approach on its masks; what is stored is not run again."""
    seeded = replace(config, seed=config.seed + 1000 * fold)
    graph = maps = None
    if cases.has_mask.any() or config.segmenter_file:
        path = fold_model(run, SEGMENTER_ROW, fold, folds)

        def segment():
            if config.segmenter_file:
                graph, history = (
                    load_segmenter(config.segmenter_file, arrays, config.resize),
                    pd.DataFrame({"epoch": [], "seconds": []}),
                )
            else:
                graph, history = train_segmenter(seeded, arrays, split)
            save_model(graph, path)
            return _segmenter_cell(run, config, cases, arrays, split, graph, history, fold)

        run.cell(f"{SEGMENTER_ROW}-fold{fold}", segment)
        if any(not run.path("cells", f"{name}-fold{fold}.json").exists() for name in config.approaches):
            graph = keras.saving.load_model(path, compile=False)
            maps = _all_lesion_maps(graph, arrays)

    for approach in config.approaches:

        def classify(approach=approach):
            classifier, history = train_classifier(seeded, approach, arrays, split, len(cases.classes), maps)
            segmenter = None
            if graph is not None:
                # Loaded anew: the one above belongs to a Keras session that the training has cleared.
                loaded = keras.saving.load_model(fold_model(run, SEGMENTER_ROW, fold, folds), compile=False)
                segmenter = loaded.get_layer("segmenter")
            model = inference_graph(
                classifier, cases.classes, approach, segmenter, arrays.mask_classes, resize=config.resize
            )
            save_model(model, fold_model(run, approach, fold, folds))
            return _classifier_cell(run, config, cases, arrays, split, approach, model, history, fold)

        run.cell(f"{approach}-fold{fold}", classify)


def _all_lesion_maps(graph: keras.Model, arrays: CaseArrays, chunk: int = 256) -> np.ndarray:
    """The lesion's probability of every case, uint8 (N, S, S); float32 masks of all cases at once would be large."""
    maps = np.empty(arrays.masks.shape, np.uint8)
    for start in range(0, len(arrays), chunk):
        positions = np.arange(start, min(start + chunk, len(arrays)))
        maps[positions] = np.round(255.0 * lesion_maps(predict_masks(graph, arrays, positions), arrays.mask_classes))
    return maps


def row_model(run: Run, row: str) -> Path:
    """Where the model of a row lies."""
    return run.path("models", "segmenter.keras") if row == SEGMENTER_ROW else run.path("models", row, "model.keras")


def fold_model(run: Run, row: str, fold: int, folds: int) -> Path:
    """Where the model of one fold lies: the row's own where there is one fold only."""
    return run.path("models", row, f"fold{fold}.keras") if folds > 1 else row_model(run, row)


def save_model(model: keras.Model, path: Path) -> None:
    with written_whole(path) as temporary:
        model.save(temporary)


def _segmenter_cell(run, config, cases, arrays, split, graph, history, fold) -> dict:
    """Scores of the test cases at their original resolution; the maps are kept for the figures."""
    maps = lesion_maps(predict_masks(graph, arrays, split.test), arrays.mask_classes)
    tested = cases.subset(split.test)
    table = score_cases(tested, maps, resize=config.resize, surfaces=True)
    write_arrays(run, SEGMENTER_ROW, fold, lesion=np.round(255 * maps).astype(np.uint8))
    values = {name: table[name].astype(float).tolist() for name in table.columns if name not in ("id", "label")}
    write_csv(run.path("history", f"{SEGMENTER_ROW}-fold{fold}.csv"), history)
    return {
        "row": SEGMENTER_ROW,
        "fold": fold,
        "ids": table["id"].tolist(),
        "per_case": values,
        "extra": _training_facts(history, "val_iou", max) | _model_facts(graph, arrays),
    }


def _classifier_cell(run, config, cases, arrays, split, approach, model, history, fold) -> dict:
    validation, test = (part[arrays.labels[part] >= 0] for part in (split.val, split.test))
    outputs = _predict(model, arrays, test)
    per_case = {}
    lesions = arrays.lesions_at(test)
    known = arrays.has_mask[test] & lesions.any((1, 2))
    if known.any():
        per_case |= localisation_scores(outputs["saliency"][..., 0], lesions)
    if known.sum() > 1:
        moved = reliance(
            lambda images: predict_pixels(model, images)["probabilities"],
            arrays.images[test][known],
            dilate(lesions[known]),
            outputs["probabilities"][known],
            seed=config.split_seed,
        )
        for name, values in moved.items():
            per_case[name] = np.full(len(test), np.nan)
            per_case[name][known] = values
    validated = _predict(model, arrays, validation)["probabilities"]
    scores = TestScores(cases.groups[validation], arrays.labels[validation], validated).metrics(cases.classes)
    write_arrays(
        run,
        approach,
        fold,
        probabilities=outputs["probabilities"],
        saliency=np.round(255 * outputs["saliency"][..., 0]).astype(np.uint8),
    )
    write_csv(run.path("history", f"{approach}-fold{fold}.csv"), history)
    return {
        "row": approach,
        "fold": fold,
        "ids": cases.table["id"].iloc[test].tolist(),
        "per_case": {name: values.tolist() for name, values in per_case.items()},
        "validation": scores,
        "extra": _training_facts(history, "val_loss", min) | _model_facts(model, arrays),
    }


def _predict(model, arrays: CaseArrays, positions, batch_size: int = 32) -> dict[str, np.ndarray]:
    return model.predict(make_batches(arrays, positions, batch_size).map(lambda batch: batch["image"]), verbose=0)


def predict_pixels(model, images: np.ndarray, batch_size: int = 32) -> dict[str, np.ndarray]:
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(batch_size).map(to_model_input)
    return model.predict(dataset, verbose=0)


def _training_facts(history: pd.DataFrame, monitor: str, best) -> dict:
    if history.empty:
        return {"epochs": 0, "train_seconds": 0.0, "seconds_per_epoch": 0.0}
    chosen = history[monitor].idxmin() if best is min else history[monitor].idxmax()
    return {
        "epochs": len(history),
        "best_epoch": int(history["epoch"][chosen]),
        "train_seconds": float(history["seconds"].sum()),
        "seconds_per_epoch": float(history["seconds"].median()),
    }


def _model_facts(model: keras.Model, arrays: CaseArrays) -> dict:
    """Parameters, and the median time of one image over 20 calls after 3 to warm up."""
    call = tf.function(lambda image: model(image, training=False))
    image, times = to_model_input(arrays.images[:1]), []
    for _ in range(23):
        started = time.perf_counter()
        keras.tree.map_structure(lambda value: value.numpy(), call(image))
        times.append(time.perf_counter() - started)
    return {"parameters": model.count_params(), "latency_ms": 1000 * float(np.median(times[3:]))}


def write_arrays(run: Run, row: str, fold: int, **arrays: np.ndarray) -> None:
    with written_whole(run.path("outputs", f"{row}-fold{fold}.npz")) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_arrays(run: Run, row: str, fold: int) -> dict[str, np.ndarray]:
    with np.load(run.path("outputs", f"{row}-fold{fold}.npz")) as file:
        return {name: file[name] for name in file.files}


def write_csv(path: Path, table: pd.DataFrame) -> None:
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False)
