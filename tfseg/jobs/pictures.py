"""The figures of a comparison, drawn from its stored cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.data.splits import Split
from tfseg.evaluation import figures, overlays
from tfseg.jobs.cells import SEGMENTER_ROW, read_arrays
from tfseg.run import Run, read_json

SHOWN_CASES = 6
COMPARED = ("accuracy", "balanced_accuracy", "f1_macro", "cam_iou", "background_flip_rate")


def draw_figures(
    run: Run,
    config: ComparisonConfig,
    cases: Cases,
    arrays: CaseArrays,
    split: Split,
    rows: list[dict],
) -> None:
    """Figures of the first fold's test part: curves, confusion matrices, masks, saliency, comparison."""
    folder = run.path("figures")
    classifiers = [row for row in rows if row["name"] != SEGMENTER_ROW]
    histories = {
        row["name"]: pd.read_csv(run.path("history", f"{row['name']}-fold0.csv")).drop(columns="seconds")
        for row in rows
    }
    figures.training_curves(
        {name: histories[name] for name in histories if name != SEGMENTER_ROW}, folder / "curves.png"
    )
    compared = [name for name in COMPARED if any(name in row["metrics"] for row in classifiers)]
    figures.comparison(classifiers, compared, folder / "comparison.png")
    for row in classifiers:
        figures.confusion(
            np.array(row["confusion"]), cases.classes, folder / f"confusion_{row['name']}.png", row["name"]
        )

    test = split.test[arrays.labels[split.test] >= 0]
    shown = np.sort(
        np.random.default_rng(config.split_seed).choice(len(test), min(SHOWN_CASES, len(test)), replace=False)
    )
    images, lesions = arrays.images[test[shown]], arrays.lesions_at(test[shown])
    labels = cases.table["label"].iloc[test[shown]].tolist()
    saliency = {
        row["name"]: read_arrays(run, row["name"], 0)["saliency"][shown] / np.float32(255) for row in classifiers
    }
    overlays.saliency_overlays(images, saliency, lesions, folder / "saliency.png", labels)
    if SEGMENTER_ROW in histories:
        if "val_iou" in histories[SEGMENTER_ROW]:
            figures.training_curves({SEGMENTER_ROW: histories[SEGMENTER_ROW]}, folder / "segmenter_curves.png")
        _draw_masks(run, cases, arrays, split.test, folder)


def _draw_masks(run: Run, cases, arrays, test, folder: Path) -> None:
    """The best, the middle and the worst test masks."""
    cell = read_json(run.path("cells", f"{SEGMENTER_ROW}-fold0.json"))
    maps = read_arrays(run, SEGMENTER_ROW, 0)["lesion"] / np.float32(255)
    if not cell["ids"]:
        return
    row_of = {case: number for number, case in enumerate(cases.table["id"].iloc[test])}
    order = np.argsort(-np.array(cell["per_case"]["iou"], float))
    middle = len(order) // 2
    chosen = list(dict.fromkeys([*order[:2], *order[middle : middle + 2], *order[-2:]]))
    where = [row_of[cell["ids"][number]] for number in chosen]
    overlays.segmentation_overlays(
        arrays.images[test[where]],
        arrays.lesions_at(test[where]),
        maps[where],
        folder / "segmentation.png",
        [cell["ids"][number] for number in chosen],
    )
