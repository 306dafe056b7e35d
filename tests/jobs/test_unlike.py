"""How well other kinds of images are told from the scored ones: areas and shares against hand-worked ones."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tfseg.errors import ConfigError
from tfseg.jobs.evaluate import evaluate_model
from tfseg.jobs.unlike import check_unlike, unlike_rows
from tfseg.run import read_json

SIDE = 16


class Darkness:
    """Calls dark images strange: 2 less twice the mean brightness."""

    info = SimpleNamespace(image_size=SIDE, resize="stretch", outputs=("probabilities", "unfamiliarity"))

    def deciding(self, *names):
        return self

    def predict(self, images, flips="none"):
        return {"unfamiliarity": 2.0 - 2.0 * images.mean((1, 2, 3)) / 255.0}


@pytest.fixture
def greys(tmp_path, write_rows):
    """Four images of one grey each, two of one group."""
    from PIL import Image

    folder, rows = tmp_path / "greys", []
    (folder / "images").mkdir(parents=True)
    for number, (level, group) in enumerate(((0, "a"), (51, "a"), (153, "b"), (204, "c"))):
        Image.new("RGB", (SIDE, SIDE), (level,) * 3).save(folder / "images" / f"{number}.png")
        rows.append({"image": f"images/{number}.png", "label": "x", "group": group})
    write_rows(folder / "labels.csv", rows)
    return folder


def test_areas_and_shares(greys):
    # Strange ones score 2.0, 1.6, 0.8 and 0.4: above 3, 3, 2 and 1 of the familiar ones, of 12 pairs 9.
    (row,) = unlike_rows(Darkness(), np.array([0.3, 0.5, 1.0]), np.array(["a", "b", "c"]), [str(greys)])
    assert row["name"] == "unlike greys" and row["settings"] == {"images": 4}
    assert row["metrics"]["unfamiliar_auroc"]["mean"] == pytest.approx(9 / 12)
    assert row["metrics"]["unfamiliar_rate"]["mean"] == pytest.approx(0.5)
    for summary in row["metrics"].values():
        low, high = summary["ci95"]
        assert low <= summary["mean"] <= high and low < high


def test_what_can_not_be_asked(finished, phantoms, tmp_path):
    other = shutil.copytree(phantoms, tmp_path / "deep" / phantoms.name)
    with pytest.raises(ConfigError, match="must have different names"):
        check_unlike(Darkness(), [str(phantoms), str(other)])
    without = SimpleNamespace(info=SimpleNamespace(outputs=("mask",)))
    with pytest.raises(ConfigError, match=r"gives \['mask'\], no unfamiliarity"):
        check_unlike(without, [str(phantoms)])
    check_unlike(without, [])


def test_an_evaluation_has_a_row_for_each(finished, phantoms, greys, tmp_path):
    run = evaluate_model(
        finished[0].folder, phantoms, tmp_path / "out", part="test", unlike=[str(greys)], say=lambda line: None
    )
    rows = {row["name"]: row for row in read_json(run.path("metrics.json"))["rows"]}
    assert 0.0 <= rows["unlike greys"]["metrics"]["unfamiliar_auroc"]["mean"] <= 1.0
    assert "unfamiliar_auroc" in run.path("table.md").read_text()
    assert run.config["unlike"] == [str(greys)]
