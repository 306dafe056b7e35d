"""Calibration figures: written whole, and they show the numbers that they were given."""

import numpy as np
import pytest
from PIL import Image

from tfseg.evaluation import calibration_figures
from tfseg.evaluation.calibration import reliability, rescaled
from tfseg.evaluation.calibration_figures import decision_curves, reliability_diagram
from tfseg.evaluation.classification import classification_metrics
from tfseg.evaluation.decisions import net_benefit


@pytest.fixture
def shown(monkeypatch):
    """The figures that were written, to look into."""
    kept, write = [], calibration_figures.write_png
    monkeypatch.setattr(
        calibration_figures, "write_png", lambda figure, path: (kept.append(figure), write(figure, path))[1]
    )
    return kept


def check_png(path):
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 200


def test_diagrams_show_accuracy_counts_and_error(shown, tmp_path):
    generator = np.random.default_rng(0)
    before = generator.dirichlet(np.ones(3) / 2, 200)
    true = generator.integers(0, 3, 200)
    parts = {"before": before, "after $T$ = 2": rescaled(before, 2.0)}
    tables = {name: reliability(part, true) for name, part in parts.items()}
    check_png(reliability_diagram(tables, tmp_path / "diagram.png", "a title"))
    panels = shown[0].axes
    assert len(panels) == 4
    for column, (part, table) in enumerate(zip(parts.values(), tables.values(), strict=True)):
        upper, lower = panels[column], panels[2 + column]
        full = table[table["count"] > 0]
        np.testing.assert_allclose([bar.get_height() for bar in lower.patches], table["count"])
        np.testing.assert_allclose([bar.get_x() for bar in upper.patches], table["lower"])
        np.testing.assert_allclose(upper.lines[1].get_xydata(), full[["confidence", "accuracy"]])
        ece = classification_metrics(true, part, "abc")["ece"]
        assert upper.get_title(loc="left").endswith(f"ECE {ece:.3f}")
    with pytest.raises(ValueError, match="`tables`"):
        reliability_diagram({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="empty: .'nothing'"):
        reliability_diagram({"nothing": tables["before"].assign(count=0)}, tmp_path / "x.png")


def test_curves_show_benefit_and_both_baselines(shown, tmp_path):
    generator = np.random.default_rng(0)
    positive = generator.random(100) < 0.3
    levels = np.linspace(0, 0.9, 10)
    curves = {
        name: net_benefit(np.clip(positive * gain + generator.random(100) * 0.5, 0, 1), positive, levels)
        for name, gain in (("plain", 0.2), ("soft_mask $x$", 0.4))
    }
    check_png(decision_curves(curves, tmp_path / "curves.png", "a title"))
    lines = {line.get_label(): line.get_ydata() for line in shown[0].axes[0].lines}
    assert list(lines) == ["treat all", "treat none", "plain", r"soft_mask \$x\$"]
    np.testing.assert_allclose(lines["treat all"], curves["plain"]["treat_all"])
    np.testing.assert_allclose(lines["plain"], curves["plain"]["net_benefit"])
    assert list(lines["treat none"]) == [0, 0]
    low, high = shown[0].axes[0].get_ylim()
    assert -0.2 < low < 0 and high > max(curve["net_benefit"].max() for curve in curves.values())
    with pytest.raises(ValueError, match="`curves`"):
        decision_curves({}, tmp_path / "x.png")
    other = net_benefit(np.ones(3), np.array([True, True, False]), levels)
    with pytest.raises(ValueError, match="same cases"):
        decision_curves({**curves, "other": other}, tmp_path / "x.png")
