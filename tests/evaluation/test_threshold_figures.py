"""Threshold figures: written whole, and they show the numbers that they were given."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.evaluation import threshold_figures
from tfseg.evaluation.threshold_figures import intensity_bands, threshold_curves
from tfseg.evaluation.thresholds import histogram


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, to look into."""
    kept, write = [], threshold_figures.write_png
    monkeypatch.setattr(
        threshold_figures, "write_png", lambda figure, path: (kept.append(figure), write(figure, path))[1]
    )
    return kept


def test_curves_show_every_part_and_the_choice(drawn, tmp_path):
    levels = np.linspace(0.1, 0.9, 9)
    curves = {
        name: pd.DataFrame(
            {"threshold": levels, "iou": 0.9 - (levels - best) ** 2, "dice": 0.95 - (levels - best) ** 2}
        )
        for name, best in (("validation", 0.4), ("test $a$", 0.5))
    }
    path = threshold_curves(curves, tmp_path / "curves.png", chosen=0.4)
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 200
    iou, dice = drawn[0].axes
    np.testing.assert_allclose(iou.lines[1].get_ydata(), curves["test $a$"]["iou"])
    np.testing.assert_allclose(dice.lines[0].get_xdata(), levels)
    assert list(iou.lines[2].get_xdata()) == [0.4, 0.4] and iou.get_title(loc="left") == "IoU"
    with pytest.raises(ValueError, match=r"tables with \['kappa'\]"):
        threshold_curves(curves, tmp_path / "x.png", scores=("kappa",))
    with pytest.raises(ValueError, match="`curves`"):
        threshold_curves({}, tmp_path / "x.png")


def test_bands_show_shares(drawn, tmp_path):
    values = np.array([0.05] * 90 + [0.95] * 9 + [0.5])
    bands = {"input": histogram([values], 10), "output": histogram([1 - values], 10)}
    path = intensity_bands(bands, tmp_path / "bands.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 200
    heights = [bar.get_height() for bar in drawn[0].axes[0].patches]
    assert heights == pytest.approx([0.9, 0, 0, 0, 0, 0.01, 0, 0, 0, 0.09])
    assert sum(bar.get_height() for bar in drawn[0].axes[1].patches) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="empty: .'nothing'"):
        intensity_bands({"nothing": histogram([], 4)}, tmp_path / "x.png")
