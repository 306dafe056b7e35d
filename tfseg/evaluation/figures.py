"""Plots of a run's numbers: each function writes one PNG and returns its path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfseg.evaluation.canvas import PALETTE, colours_for, new_figure, plain_axes, words, wrapped, write_png


def training_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path) -> Path:
    """One panel per quantity, one colour per training; validation solid, training dashed.

    Args:
        histories: name → table of epoch columns (``loss``, ``val_loss``, …), such as a DataFrame or
            ``History.history``. A column ``epoch`` gives the x axis, else epochs count from 1.
        path: PNG to write.

    Raises:
        ValueError: when no history holds a number.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    quantities = _quantities(histories)
    if not quantities:
        raise ValueError(f"`histories` must hold at least one column of numbers, received {list(histories)}")
    columns = min(3, len(quantities))
    rows = math.ceil(len(quantities) / columns)
    legend_columns = max(1, min(len(histories), 4 if columns > 1 else 2))
    legend_rows = math.ceil(len(histories) / legend_columns) + 1
    height = 2.9 * rows + 0.24 * legend_rows + 0.2
    figure = new_figure(max(4.6, 3.7 * columns), height)
    panels = figure.subplots(rows, columns, squeeze=False)
    colours = colours_for(len(histories))
    for quantity, panel in zip(quantities, panels.flat, strict=False):
        for colour, history in zip(colours, histories.values(), strict=True):
            for name, style in ((quantity, (0, (4, 2))), (f"val_{quantity}", "-")):
                values = _column(history, name)
                if values is None:
                    continue
                epochs = _column(history, "epoch")
                epochs = np.arange(1, len(values) + 1) if epochs is None else epochs
                only = f"val_{quantity}" not in history
                panel.plot(
                    epochs,
                    values,
                    color=colour,
                    linestyle="-" if only else style,
                    linewidth=1.6,
                    alpha=0.75 if name == quantity and not only else 1.0,
                    marker="o" if len(values) == 1 else None,
                )
        panel.set_title(words(quantity), loc="left")
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if quantity in ("lr", "learning_rate"):
            panel.set_yscale("log")
        plain_axes(panel)
    for panel in panels.flat[len(quantities) :]:
        panel.set_visible(False)
    handles = [
        Line2D([], [], color=colour, linewidth=2, label=wrapped(name, 34))
        for colour, name in zip(colours, histories, strict=True)
    ]
    styles = [
        Line2D([], [], color="#444444", linestyle=(0, (4, 2)), label="training"),
        Line2D([], [], color="#444444", label="validation"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns, frameon=False)
    if any(name.startswith("val_") for history in histories.values() for name in history):
        figure.legend(handles=styles, loc="outside upper right", ncols=2, frameon=False)
    return write_png(figure, path)


def confusion(matrix: np.ndarray, classes: Sequence[str], path: str | Path, title: str = "") -> Path:
    """Confusion matrix: counts, and in colour and per cent the share of the true class.

    Args:
        matrix: counts (C, C), rows true, columns predicted.
        classes: the C names.
        path: PNG to write.
        title: above the figure.

    Raises:
        ValueError: when the matrix does not fit the classes.
    """
    matrix = np.asarray(matrix)
    count = len(classes)
    if matrix.shape != (count, count):
        raise ValueError(f"`matrix` must be ({count}, {count}) for {list(classes)}, received {matrix.shape}")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [wrapped(name, 16) for name in classes]
    longest = max(len(line) for name in names for line in name.split("\n"))
    side = max(2.4, 0.72 * count)
    figure = new_figure(side + 0.085 * longest + 1.5, side + (0.07 * longest if longest > 7 else 0.25) + 1.1)
    panel = figure.subplots()
    image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    turned = longest > 7
    panel.set_xticks(range(count), names, rotation=40 if turned else 0, ha="right" if turned else "center")
    panel.tick_params(axis="both", length=0)
    if turned:
        for label in panel.get_xticklabels():
            label.set_rotation_mode("anchor")
    panel.set_yticks(range(count), names)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    panel.spines[:].set_visible(False)
    panel.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=2)
    panel.tick_params(which="minor", length=0)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.55 else "#222222"
        panel.text(column, row - 0.12, f"{matrix[row, column]:,}", ha="center", va="center", color=colour)
        panel.text(
            column,
            row + 0.22,
            f"{share:.0%}",
            ha="center",
            va="center",
            color=colour,
            fontsize=7.5,
            alpha=0.85,
        )
    bar = figure.colorbar(image, ax=panel, fraction=0.046, pad=0.03, format=lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    bar.set_label("share of the true class")
    if title:
        panel.set_title(wrapped(title, 26 + 7 * count), fontsize=11, pad=10)
    return write_png(figure, path)


def comparison(rows: Sequence[Mapping], metric: str | Sequence[str], path: str | Path) -> Path:
    """Means with their 95 % intervals, one panel per metric, one line per row; the paper's value as a
    diamond.

    Args:
        rows: of ``metrics.json``.
        metric: name of one metric, or of several.
        path: PNG to write.

    Raises:
        ValueError: when no row has one of the metrics.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    metrics = [metric] if isinstance(metric, str) else list(metric)
    for name in metrics:
        if not any(name in row["metrics"] for row in rows):
            raise ValueError(f"`metric` {name!r} is in none of the rows {[row['name'] for row in rows]}")
    names = [wrapped(row["name"], 32) for row in rows]
    lines = sum(name.count("\n") + 1.6 for name in names)
    longest = max(len(line) for name in names for line in name.split("\n"))
    figure = new_figure(0.082 * longest + 2.5 * len(metrics) + 0.4, 0.2 * lines + 1.1)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    papers = False
    for panel, name in zip(panels, metrics, strict=True):
        for position, row in enumerate(rows):
            panel.axhline(position, color="#EEEEEE", linewidth=0.8, zorder=0)
            found = row["metrics"].get(name)
            paper = (row.get("paper") or {}).get(name)
            if isinstance(paper, int | float):
                papers = True
                panel.plot(
                    paper, position, marker="D", markersize=6.5, markerfacecolor="none",
                    markeredgecolor=PALETTE[1], markeredgewidth=1.4, linestyle="none", zorder=4,
                )  # fmt: skip
            if found is None or not _number(found["mean"]):
                continue
            if all(_number(end) for end in found["ci95"]):
                panel.plot(found["ci95"], [position] * 2, color=PALETTE[0], linewidth=2, zorder=2)
            values = [value for value in found["values"] if _number(value)]
            if len(values) > 1:
                panel.plot(
                    values, [position + 0.2] * len(values), marker="o", markersize=3, color="#666666",
                    alpha=0.6, markeredgewidth=0, linestyle="none", zorder=1,
                )  # fmt: skip
            panel.plot(found["mean"], position, marker="o", markersize=6, color=PALETTE[0], zorder=3)
        panel.set_title(words(name), loc="left")
        panel.set_yticks(range(len(rows)), names)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.margins(x=0.08)
        plain_axes(panel)
        panel.tick_params(axis="y", length=0)
    handles = [Line2D([], [], color=PALETTE[0], marker="o", linewidth=2, label="ours, 95 % interval")]
    if any(len(row["metrics"][name]["values"]) > 1 for row in rows for name in metrics if name in row["metrics"]):
        handles.append(
            Line2D(
                [],
                [],
                color="#666666",
                alpha=0.6,
                marker="o",
                markersize=3,
                linestyle="none",
                label="fold or run",
            )
        )
    if papers:
        handles.append(
            Line2D(
                [],
                [],
                marker="D",
                linestyle="none",
                markerfacecolor="none",
                markeredgecolor=PALETTE[1],
                markeredgewidth=1.4,
                label="paper",
            )  # fmt: skip
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return write_png(figure, path)


def _quantities(histories: Mapping[str, Mapping]) -> list[str]:
    names: dict[str, None] = {}
    for history in histories.values():
        for name in history:
            if name != "epoch" and _column(history, name) is not None:
                names[name.removeprefix("val_")] = None
    return sorted(names, key=lambda name: name != "loss")


def _column(history: Mapping, name: str) -> np.ndarray | None:
    if name not in history:
        return None
    try:
        values = np.asarray(history[name], np.float64)
    except (TypeError, ValueError):
        return None
    return values if np.isfinite(values).any() else None


def _number(value) -> bool:
    return value is not None and math.isfinite(value)
