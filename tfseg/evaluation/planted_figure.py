"""The figure of a planted cue: what each row makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfseg.evaluation.canvas import PALETTE, new_figure, plain_axes, wrapped, write_png

# Panel → metric, its name in the legend, colour and marker.
PANELS = {
    "accuracy": (
        ("accuracy", "cue present", PALETTE[0], "o"),
        ("accuracy_cue_removed", "cue removed", PALETTE[1], "s"),
        ("accuracy_cue_random", "random cue", PALETTE[2], "D"),
    ),
    "CAM IoU": (
        ("cam_iou_undilated", "with the mask", PALETTE[3], "o"),
        ("cam_iou", "with the mask dilated twice", PALETTE[4], "s"),
    ),
    "predictions that flip": (
        ("background_flip_rate", "with another background", PALETTE[1], "o"),
        ("lesion_flip_rate", "with another lesion", PALETTE[2], "s"),
    ),
}


def planted_cue(rows: Sequence[Mapping], path: str | Path, classes: int) -> Path:
    """Means with their 95 % intervals, one line per row: accuracies, CAM IoU, and what changes the decision.

    Args:
        rows: of ``metrics.json``; those without an accuracy are left out, and what a row lacks is not drawn.
        path: PNG to write.
        classes: how many, for the line of chance.

    Raises:
        ValueError: when no row has an accuracy.
    """
    rows = [row for row in rows if "accuracy" in row["metrics"]]
    if not rows:
        raise ValueError("`rows` must hold at least one classifier, received none")
    height = 0.42 * len(rows)
    figure = new_figure(10.5, height + 1.5)
    legend = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.3 / height), "frameon": False, "fontsize": 8.5}
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for panel, (title, series) in zip(panels, PANELS.items(), strict=True):
        for number, (metric, label, colour, marker) in enumerate(series):
            shift = 0.22 * (number - (len(series) - 1) / 2)
            known = [(at + shift, row["metrics"][metric]) for at, row in enumerate(rows) if metric in row["metrics"]]
            known = [(at, found) for at, found in known if _number(found["mean"])]
            for at, found in known:
                if all(_number(end) for end in found["ci95"]):
                    panel.plot(found["ci95"], [at, at], color=colour, linewidth=1.6, alpha=0.7)
            panel.plot(
                [found["mean"] for _, found in known],
                [at for at, _ in known],
                color=colour,
                marker=marker,
                markersize=5,
                linestyle="none",
                label=label,
            )
        for at in range(1, len(rows)):
            panel.axhline(at - 0.5, color="#EEEEEE", linewidth=0.8, zorder=0)
        panel.set_title(title, loc="left")
        # Student's intervals of few trainings reach beyond what a share can be.
        panel.set_xlim(-0.03, 1.03)
        plain_axes(panel)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.legend(**legend)
    panels[0].axvline(1 / classes, color="#444444", linewidth=1.0, linestyle=(0, (4, 2)), label="chance")
    panels[0].legend(ncols=2, **legend)
    panels[0].set_yticks(range(len(rows)), [wrapped(row["name"], 32) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return write_png(figure, path)


def _number(value) -> bool:
    return value is not None and math.isfinite(value)
