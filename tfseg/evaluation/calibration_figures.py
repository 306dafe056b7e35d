"""Plots of calibration and of what decisions are worth: each function writes one PNG and returns its path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfseg.evaluation.canvas import PALETTE, colours_for, new_figure, plain_axes, wrapped, write_png

if TYPE_CHECKING:
    import pandas as pd


def reliability_diagram(tables: Mapping[str, pd.DataFrame], path: str | Path, title: str = "") -> Path:
    """Accuracy against confidence, and how full the bins are, side by side, such as before and after scaling.

    Above each stands the mean of |accuracy − confidence| weighted by the counts: the expected calibration error.

    Args:
        tables: name → table by `reliability`.
        path: PNG to write.
        title: above the figure.

    Raises:
        ValueError: no table, or one without a case.
    """
    empty = [name for name, table in tables.items() if not table["count"].sum()]
    if not tables or empty:
        raise ValueError(f"`tables` must hold bins with cases, received {list(tables)}, empty: {empty}")
    figure = new_figure(3.6 * len(tables) + 0.6, 4.9)
    panels = figure.subplots(2, len(tables), sharex=True, sharey="row", height_ratios=(3.2, 1), squeeze=False)
    for (name, table), upper, lower in zip(tables.items(), *panels, strict=True):
        full, widths = table[table["count"] > 0], table["upper"] - table["lower"]
        gap = ((full["accuracy"] - full["confidence"]).abs() * full["count"]).sum() / full["count"].sum()
        upper.plot([0, 1], [0, 1], color="#999999", linestyle=(0, (3, 3)), linewidth=1)
        upper.bar(table["lower"], table["accuracy"], widths, align="edge", color=PALETTE[4], edgecolor="white")
        upper.plot(full["confidence"], full["accuracy"], "o-", color=PALETTE[0], markersize=4)
        upper.set_title(f"{wrapped(name, 34)}\nECE {gap:.3f}", loc="left", fontsize=10.5)
        upper.set_ylim(0, 1.02)
        lower.bar(table["lower"], table["count"], widths, align="edge", color="#BBBBBB", edgecolor="white")
        lower.set_xlabel("confidence (largest probability)")
        lower.set_xlim(0, 1)
        for panel in (upper, lower):
            plain_axes(panel)
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("cases")
    if title:
        figure.suptitle(wrapped(title, 40 * len(tables)), fontsize=11)
    return write_png(figure, path)


def decision_curves(curves: Mapping[str, pd.DataFrame], path: str | Path, title: str = "") -> Path:
    """Net benefit against the threshold probability, beside treating everybody and nobody.

    Args:
        curves: name → table by `net_benefit`, all of the same cases and thresholds.
        path: PNG to write.
        title: above the figure.

    Raises:
        ValueError: no curve, or curves of different cases or thresholds.
    """
    baselines = ["threshold", "treat_all"]
    first = next(iter(curves.values()), None)
    if first is None or any(not first[baselines].equals(curve[baselines]) for curve in curves.values()):
        raise ValueError(f"`curves` must be tables of the same cases and thresholds, received {list(curves)}")
    figure = new_figure(5.4, 4.2)
    panel = figure.subplots()
    panel.plot(first["threshold"], first["treat_all"], color="#888888", linewidth=1.2, label="treat all")
    panel.axhline(0, color="#444444", linewidth=1.2, linestyle=(0, (4, 2)), label="treat none")
    for (name, curve), colour in zip(curves.items(), colours_for(len(curves)), strict=True):
        panel.plot(curve["threshold"], curve["net_benefit"], color=colour, linewidth=1.6, label=wrapped(name, 34))
    # Treating all falls without end; what is of use lies above 0.
    highest = max(first["treat_all"].max(), *(curve["net_benefit"].max() for curve in curves.values()), 0.01)
    panel.set_ylim(-0.25 * highest, 1.08 * highest)
    panel.set_xlim(first["threshold"].min(), first["threshold"].max())
    panel.set_xlabel("threshold probability")
    panel.set_ylabel("net benefit")
    plain_axes(panel)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    if title:
        panel.set_title(wrapped(title, 56), fontsize=11)
    return write_png(figure, path)
