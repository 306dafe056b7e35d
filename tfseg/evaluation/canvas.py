"""What the figures share: a canvas without global state, colours, and text that fits."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.run import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which can be told apart with any colour vision, and a violet of another lightness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7A5195")
DPI = 120
SPELLED = {
    "iou": "IoU",
    "auc": "AUC",
    "ece": "ECE",
    "cam": "CAM",
    "f1": "F1",
    "lr": "learning rate",
    "kappa": "κ",
    "ssim": "SSIM",
    "spearman": "Spearman",
}


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that belongs to no global state, with the Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_png(figure: Figure, path: str | Path) -> Path:
    """Write the figure whole or not at all, without empty margins."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white", bbox_inches="tight", pad_inches=0.1)
    return Path(path)


def plain_axes(panel: Axes) -> None:
    """Two spines and a faint grid behind the data."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="#E6E6E6", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=9)


def colours_for(count: int) -> list:
    """As many colours as asked: the palette, or an even ramp where it has too few."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0, 0.92, count)))


def words(metric: str) -> str:
    """A metric's name as it is read: ``cam_iou`` is CAM IoU."""
    return " ".join(SPELLED.get(word, word) for word in metric.split("_"))


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most `width` characters, safe for matplotlib."""
    # A dollar sign would start mathematics.
    return "\n".join(textwrap.wrap(str(text), width) or [""]).replace("$", r"\$")
