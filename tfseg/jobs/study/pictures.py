"""The figures of a study, drawn from its stored cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.config import ComparisonConfig
from tfseg.data.balance import balance_positions
from tfseg.evaluation import figures, overlays, threshold_figures
from tfseg.evaluation.canvas import PALETTE, new_figure, plain_axes, wrapped, write_png
from tfseg.evaluation.postprocess import binarise
from tfseg.evaluation.thresholds import histogram
from tfseg.jobs.cells import read_arrays
from tfseg.jobs.gather import curves
from tfseg.jobs.grid import Cell, Progress
from tfseg.jobs.study.cells import Study

SHOWN_CASES = 6
COMPARED = ("iou", "dice", "pixel_error")


def draw_study(study: Study, progress: Progress, rows: list[dict], best: str | None) -> None:
    """Comparison, curves, thresholds, intensity bands, class balance, and panels of the first split's test part.

    Args:
        study, progress: what is stored.
        rows: of the table.
        best: the row that is best on validation, which has thresholds and bands of its own.
    """
    folder = study.run.path("figures")
    figures.comparison(rows, [f"{name}{_ending(study)}" for name in COMPARED], folder / "comparison.png")
    configs = [row.config(study.config) for row in study.rows if row.baseline is None]
    balanced = next((config for config in configs if config.balance != "none"), None)
    if balanced is not None and study.cases.classes:
        _draw_balance(study, balanced, folder / "class_balance.png")
    trained = [cell for cell in progress.done if study.row(cell.row).baseline is None]
    if not trained:
        return
    fold = min(cell.fold for cell in trained)
    shown = {cell.row: cell for cell in trained if cell.fold == fold}
    trainings = curves(study.run, list(shown.values()))
    if trainings:
        figures.training_curves(trainings, folder / "curves.png")
    tested = {row["name"]: pd.DataFrame(row["curves"]["test"]) for row in rows if "curves" in row}
    threshold_figures.threshold_curves(tested, folder / "thresholds.png")
    entry = next(row for row in rows if row["name"] == best)
    threshold_figures.threshold_curves(
        {part: pd.DataFrame(entry["curves"][part]) for part in ("validation", "test")},
        folder / f"thresholds_{best}.png",
        chosen=round(entry["metrics"]["threshold_chosen"]["mean"], 3),
    )
    if best in shown:
        _draw_bands(study, shown[best], folder / f"intensity_bands_{best}.png")
    for name, cell in shown.items():
        _draw_panels(study, cell, folder / f"segmentation_{name}.png")


def _ending(study: Study) -> str:
    """Published values were counted at the network's size where a study counts there too."""
    return "_model_size" if study.design.model_size else ""


def _draw_bands(study: Study, cell: Cell, path: Path) -> None:
    """Where the values of input and output cluster, in the test part; the input apart for lesion and background."""
    arrays, test = study.arrays_of(study.config_of(cell)), study.tested(cell.fold)
    lesions, grey = arrays.lesions_at(test), arrays.images[test].mean(axis=-1) / 255.0
    histograms = {
        f"output of {cell.row}: probability": histogram(read_arrays(study.run, cell)["test"]),
        "input, inside of the lesions: mean of the channels": histogram([grey[lesions]]),
        "input, outside of them": histogram([grey[~lesions]]),
    }
    histograms = {name: found for name, found in histograms.items() if found[0].sum()}
    threshold_figures.intensity_bands(histograms, path)


def _draw_panels(study: Study, cell: Cell, path: Path) -> None:
    """Test cases drawn at random, one of each label as far as they go; the same ones for every row."""
    config, test = study.config_of(cell), study.tested(cell.fold)
    arrays, generator = study.arrays_of(config), np.random.default_rng(study.config.split_seed)
    order = generator.permutation(len(test))
    labels = study.cases.labels[test]
    firsts = [next(number for number in order if labels[number] == label) for label in dict.fromkeys(labels[order])]
    chosen = list(dict.fromkeys([*firsts, *order.tolist()]))[:SHOWN_CASES]
    named = study.cases.table["label"].iloc[test[chosen]].fillna("").tolist()
    maps = read_arrays(study.run, cell)["test"][chosen] / np.float32(255)
    masks = np.stack([binarise(values, postprocessing=config.segmenter_postprocessing) for values in maps])
    overlays.segmentation_overlays(arrays.images[test[chosen]], arrays.lesions_at(test[chosen]), masks, path, named)


def _draw_balance(study: Study, config: ComparisonConfig, path: Path) -> None:
    """Training cases of each class before and after balancing, in the first split."""
    labels, train = study.cases.labels, study.splits[0].train
    train = train[study.cases.has_mask[train]]
    after = balance_positions(labels, train, config.balance, config.seed)
    classes = study.cases.classes
    figure = new_figure(max(3.6, 1.0 * len(classes) + 1.2), 3.2)
    panel = figure.subplots()
    sides = (("before", train, -0.2), ("after", after, 0.2))
    for (name, positions, shift), colour in zip(sides, PALETTE, strict=False):
        counts = [int((labels[positions] == number).sum()) for number in range(len(classes))]
        bars = panel.bar(np.arange(len(classes)) + shift, counts, 0.38, color=colour, label=name)
        panel.bar_label(bars, [f"{count:,}" for count in counts], fontsize=7.5, padding=1)
    panel.set_xticks(range(len(classes)), [wrapped(label.replace("_", " "), 14) for label in classes])
    panel.set_ylabel("training images")
    plain_axes(panel)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    write_png(figure, path)
