"""Plots of thresholds and of where values cluster: each function writes one PNG and returns its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.evaluation.canvas import PALETTE, colours_for, new_figure, plain_axes, words, wrapped, write_png

if TYPE_CHECKING:
    import pandas as pd


def threshold_curves(
    curves: Mapping[str, pd.DataFrame],
    path: str | Path,
    chosen: float | None = None,
    scores: Sequence[str] = ("iou", "dice"),
) -> Path:
    """One panel per score, one line per part or model, against the threshold.

    Args:
        curves: name → table by `threshold_curve`.
        path: PNG to write.
        chosen: marks the threshold that was chosen on validation.
        scores: columns of the tables.

    Raises:
        ValueError: no curve, or one without these scores.
    """
    missing = [score for score in scores for curve in curves.values() if score not in curve]
    if not curves or missing:
        raise ValueError(f"`curves` must hold tables with {list(scores)}, received {list(curves)} without {missing}")
    figure = new_figure(3.9 * len(scores), 3.6)
    for score, panel in zip(scores, figure.subplots(1, len(scores), squeeze=False)[0], strict=True):
        for (name, curve), colour in zip(curves.items(), colours_for(len(curves)), strict=True):
            panel.plot(
                curve["threshold"], curve[score], color=colour, linewidth=1.6, marker=".", label=wrapped(name, 34)
            )
        if chosen is not None:
            panel.axvline(chosen, color="#444444", linewidth=1.0, linestyle=(0, (4, 2)), label=f"chosen: {chosen:g}")
        panel.set_title(words(score), loc="left")
        panel.set_xlabel("threshold")
        panel.set_xlim(0, 1)
        plain_axes(panel)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return write_png(figure, path)


def intensity_bands(histograms: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | Path) -> Path:
    """Histograms below each other, shares of the pixels on a logarithmic scale, such as of input and output.

    Args:
        histograms: name → counts (bins,) and edges (bins + 1,), by `histogram`.
        path: PNG to write.

    Raises:
        ValueError: no histogram, or one without a pixel.
    """
    empty = [name for name, (counts, _) in histograms.items() if not np.sum(counts)]
    if not histograms or empty:
        raise ValueError(f"`histograms` must hold counts of pixels, received {list(histograms)}, empty: {empty}")
    figure = new_figure(5.6, 2.2 * len(histograms) + 0.3)
    panels = figure.subplots(len(histograms), 1, squeeze=False)[:, 0]
    for panel, (name, (counts, edges)), colour in zip(
        panels, histograms.items(), (PALETTE * len(histograms))[: len(histograms)], strict=True
    ):
        shares = np.asarray(counts) / np.sum(counts)
        panel.bar(edges[:-1], shares, np.diff(edges), align="edge", color=colour, edgecolor="white", linewidth=0.3)
        panel.set_yscale("log")
        panel.set_ylim(bottom=max(shares[shares > 0].min() / 2, 1e-6))
        panel.set_xlim(edges[0], edges[-1])
        panel.set_title(wrapped(name, 60), loc="left")
        panel.set_ylabel("share of pixels")
        plain_axes(panel)
    panels[-1].set_xlabel("value")
    return write_png(figure, path)
