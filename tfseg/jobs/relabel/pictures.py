"""The figures of a labelling's test, drawn from its stored cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.data.batches import load_arrays
from tfseg.evaluation import figures, overlays
from tfseg.evaluation.canvas import PALETTE, new_figure, plain_axes, write_png
from tfseg.jobs.gather import curves
from tfseg.jobs.grid import Progress, stored
from tfseg.jobs.label.sheet import LIST
from tfseg.jobs.relabel.cells import Relabelling
from tfseg.run import Run

COMPARED = ("mean_iou", "iou", "dice")
SHOWN_RUNS = 3
# Side of a picture, in pixels.
PICTURE = 256


def draw_relabelling(relabelling: Relabelling, progress: Progress, rows: list[dict]) -> None:
    """Comparison, curves, confidence against IoU, and the best, middle and worst masks of the first run.

    Args:
        relabelling, progress: what is stored.
        rows: of the table.
    """
    run, folder = relabelling.run, relabelling.run.path("figures")
    compared = [name for name in COMPARED if any(name in row["metrics"] for row in rows)]
    figures.comparison(rows, compared, folder / "comparison.png")
    drawn = [cell for cell in progress.done if cell.row == relabelling.config.segmenter]
    if not drawn:
        return
    trainings = curves(run, drawn[:1])
    if trainings:
        figures.training_curves(trainings, folder / "segmenter_curves.png")
    results = {f"run {cell.fold}": stored(run, cell) for cell in drawn}
    scores = {row["name"]: row["metrics"] for row in rows}[relabelling.config.segmenter]
    ranks = dict(zip(results, scores["spearman"]["values"], strict=True))
    draw_confidence({name: result["per_case"] for name, result in results.items()}, ranks, folder / "confidence.png")
    _draw_masks(relabelling, relabelling.labelled(drawn[0]), next(iter(results.values())), folder / "masks.png")


def draw_confidence(runs: dict[str, dict[str, list[float]]], ranks: dict[str, float], path: Path) -> None:
    """Each mask's confidence against its true IoU, one panel per run; those to be checked first in another colour.

    Args:
        runs: name → ``confidence``, ``foreground_iou`` and ``check_first`` of every mask; at most three are shown.
        ranks: name → rank correlation.
        path: PNG to write.
    """
    shown = list(runs.items())[:SHOWN_RUNS]
    figure = new_figure(3.4 * len(shown) + 0.6, 3.9)
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (name, scores) in zip(panels, shown, strict=True):
        flagged = np.array(scores["check_first"]) > 0.5
        for chosen, colour, label in ((~flagged, PALETTE[0], "others"), (flagged, PALETTE[1], "to check first")):
            confidence, overlap = (np.array(scores[key])[chosen] for key in ("confidence", "foreground_iou"))
            panel.plot(
                confidence, overlap, marker="o", markersize=3.5, markeredgewidth=0, linestyle="none", color=colour,
                alpha=0.55, label=f"{label} ({chosen.sum():,})",
            )  # fmt: skip
        panel.set_title(f"{name}: Spearman ρ {ranks[name]:.2f}", loc="left", fontsize=10)
        panel.set_xlabel("confidence")
        plain_axes(panel)
        panel.legend(loc="upper left", frameon=False, fontsize=8, handletextpad=0.2, borderaxespad=0.1)
    panels[0].set_ylabel("true IoU, mean over the classes\nwithout the background")
    panels[0].set_ylim(min(0.0, panels[0].get_ylim()[0]), 1.02)
    write_png(figure, path)


def _draw_masks(relabelling: Relabelling, labelled: Run, result: dict, path: Path) -> None:
    """True masks above the drawn ones: the two best, two from the middle, the two worst by mean IoU."""
    overlap = np.array(result["per_case"]["mean_iou"])
    order = np.argsort(-overlap, kind="stable")
    middle = len(order) // 2
    chosen = list(dict.fromkeys([*order[:2], *order[middle : middle + 2], *order[-2:]]))
    ids = [result["ids"][number] for number in chosen]
    table = relabelling.cases.table.set_index("id", drop=False)
    positions = [table.index.get_loc(name) for name in ids]
    truth = relabelling.cases.subset(positions)
    listed = pd.read_csv(labelled.path(LIST), dtype={"id": str}, keep_default_na=False).set_index("id")["mask"]
    drawn = truth.table.assign(mask=[str(labelled.path(listed[name])) for name in ids])
    resize = relabelling.config.resize
    true = load_arrays(truth, PICTURE, resize)
    predicted = load_arrays(replace(truth, table=drawn), PICTURE, resize)
    labels = truth.table["label"].fillna("").tolist()
    titles = [f"{label}\nmean IoU {overlap[number]:.3f}" for label, number in zip(labels, chosen, strict=True)]
    overlays.class_overlays(
        true.images, {"true": true.masks, "drawn": predicted.masks}, truth.mask_classes.names, path, titles
    )
