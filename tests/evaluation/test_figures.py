"""Figures: written whole, readable by size, right in what they show, without global state."""

import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.evaluation import canvas, figures, overlays
from tfseg.evaluation.statistics import summarise

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
MASKS = np.zeros((3, 24, 24), bool)
MASKS[0, 5:15, 5:15] = True
MASKS[1] = True
ROWS = [
    {
        "name": "plain",
        "metrics": {"accuracy": summarise([0.7, 0.8]), "cam_iou": summarise([0.3])},
        "paper": None,
    },
    {"name": "hard_mask $x$", "metrics": {"accuracy": summarise([0.9])}, "paper": {"accuracy": 0.8}},
]
HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5], "val_loss": [1.1, 0.7], "lr": [0.1, 0.01]})


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written, to look into."""
    kept = []
    write = canvas.write_png

    def keep(figure, path):
        kept.append(figure)
        return write(figure, path)

    for module in (figures, overlays):
        monkeypatch.setattr(module, "write_png", keep)
    return kept


def check_png(path):
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert image.format == "PNG" and min(image.size) > 100
        assert np.asarray(image.convert("L")).std() > 1
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "draw",
    [
        lambda path: figures.training_curves({"a": HISTORY, "b": {"loss": [3.0], "acc": [np.nan]}}, path),
        lambda path: figures.training_curves({f"fold {i}": HISTORY for i in range(12)}, path),
        lambda path: figures.confusion(np.array([[3, 0], [0, 0]]), ["a", "b"], path, "title"),
        lambda path: figures.comparison(ROWS, ["accuracy", "cam_iou"], path),
        lambda path: overlays.segmentation_overlays(IMAGES, MASKS, MASKS.astype(float)[::-1], path, ["a", "b", "c"]),
        lambda path: overlays.segmentation_overlays(IMAGES[:1], None, np.zeros((1, 24, 24)), path),
        lambda path: overlays.saliency_overlays(IMAGES, {"plain": np.zeros((3, 24, 24))}, MASKS, path, list("abc")),
        lambda path: overlays.saliency_overlays(IMAGES[:1], {"a": np.ones((1, 24, 24))}, None, path),
    ],
)
def test_every_figure_is_written_without_warning(draw, tmp_path):
    before = dict(matplotlib.rcParams)
    path = tmp_path / "figure.png"
    assert draw(path) == path
    check_png(path)
    assert dict(matplotlib.rcParams) == before


def test_training_curves_show_the_values(drawn, tmp_path):
    figures.training_curves({"a": HISTORY}, tmp_path / "f.png")
    panels = {panel.get_title(loc="left"): panel for panel in drawn[0].axes}
    assert set(panels) == {"loss", "learning rate"}
    lines = [line.get_xydata().tolist() for line in panels["loss"].lines]
    assert lines == [[[1, 1.0], [2, 0.5]], [[1, 1.1], [2, 0.7]]]
    assert panels["learning rate"].get_yscale() == "log"


def test_confusion_shows_counts_and_shares_of_the_true_class(drawn, tmp_path):
    figures.confusion(np.array([[30, 10], [0, 1200]]), ["a", "b"], tmp_path / "f.png")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == ["30", "75%", "10", "25%", "0", "0%", "1,200", "100%"]


def test_comparison_shows_mean_interval_and_paper(drawn, tmp_path):
    rows = [{"name": "a", "metrics": {"dice": summarise([0.5, 0.7])}, "paper": {"dice": 0.94}}]
    figures.comparison(rows, "dice", tmp_path / "f.png")
    xs = [np.asarray(line.get_xdata()).tolist() for line in drawn[0].axes[0].lines]
    assert [0.94] in xs and [0.6] in xs and [0.5, 0.7] in xs
    assert pytest.approx(rows[0]["metrics"]["dice"]["ci95"]) in xs


def test_overlays_tell_the_iou(drawn, tmp_path):
    predicted = np.zeros((3, 24, 24))
    predicted[0, 5:15, 5:10] = 0.5
    overlays.segmentation_overlays(IMAGES, MASKS, predicted, tmp_path / "f.png", ["half", "missed", "right"])
    titles = [panel.get_title() for panel in drawn[0].axes[:3]]
    assert titles == ["half\nIoU 0.500", "missed\nIoU 0.000", "right\nIoU 1.000"]


def test_misuse_is_refused(tmp_path):
    path = tmp_path / "f.png"
    with pytest.raises(ValueError, match="`images` must be uint8"):
        overlays.segmentation_overlays(IMAGES / 255, None, MASKS, path)
    with pytest.raises(ValueError, match="`predicted` must be"):
        overlays.segmentation_overlays(IMAGES, None, MASKS[:1], path)
    with pytest.raises(ValueError, match="`matrix` must be"):
        figures.confusion(np.ones((2, 3)), ["a", "b"], path)
    with pytest.raises(ValueError, match="'dice' is in none"):
        figures.comparison(ROWS, "dice", path)
    with pytest.raises(ValueError, match="at least one column"):
        figures.training_curves({"a": {"epoch": [1]}}, path)
    assert not path.exists()
