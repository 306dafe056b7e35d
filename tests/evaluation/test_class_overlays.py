"""Outlines of a mask's classes over images."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.contour import ContourSet
from PIL import Image

from tfseg.evaluation import canvas, overlays

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
CLASSES = np.zeros((2, 20, 20), np.uint8)
CLASSES[0, 4:16, 4:16] = 1
CLASSES[0, 8:12, 8:12] = 2
CLASSES[:, 0] = 255
NAMES = ("background", "cytoplasm", "nucleus")


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw, and give the figure that was written."""
    kept = []

    def keep(figure, path):
        kept.append(figure)
        return canvas.write_png(figure, path)

    monkeypatch.setattr(overlays, "write_png", keep)

    def draw(masks, titles=None):
        path = overlays.class_overlays(IMAGES, masks, NAMES, tmp_path / "f.png", titles)
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 100
        return kept[-1]

    return draw


def outlines(panel) -> list[int]:
    """The classes that a panel outlines, by their colours; the line below each is black."""
    colours = [found.get_edgecolor()[0] for found in panel.findobj(ContourSet)]
    return [
        value
        for colour in colours
        for value, known in enumerate(overlays.CLASS_COLOURS, 1)
        if same_color(colour[:3], known)
    ]


def test_a_row_per_kind_and_the_classes_that_are_there(drawn):
    figure = drawn({"true": CLASSES, "drawn": np.where(CLASSES == 2, 1, CLASSES)}, ["first\nimage", "second"])
    assert [outlines(panel) for panel in figure.axes] == [[1, 2], [], [1], []]
    assert [panel.get_title() for panel in figure.axes] == ["first\nimage", "second", "", ""]
    assert [panel.get_ylabel() for panel in figure.axes] == ["true", "", "drawn", ""]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cytoplasm", "nucleus"]


def test_shapes_that_do_not_fit(drawn):
    with pytest.raises(ValueError, match=r"`masks\['drawn'\]` must be"):
        drawn({"true": CLASSES, "drawn": CLASSES[:1]})
