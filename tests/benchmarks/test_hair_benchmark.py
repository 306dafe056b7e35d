"""The benchmark of hair removal: what it writes, and what its numbers mean."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tfseg.benchmarks import hair
from tfseg.benchmarks.hair import (
    LAYER,
    NOTHING,
    PLAIN,
    REFERENCE,
    benchmark_hair,
    drawn_images,
    psnr,
    quality,
    summarise,
    table,
)

QUALITY = {name: {"inside": 10.0, "outside": 40.04, "hairless": 120.0} for name in (NOTHING, REFERENCE, LAYER)}


def result(layer=(2.1, 2.6, 9.2)):
    return {"cores": 1, "values": {PLAIN: [0.1, 0.1, 0.2], LAYER: layer, REFERENCE: [3, 4, 5]}, "quality": QUALITY}


def test_what_is_added_by_hand():
    summary = summarise(result())
    np.testing.assert_allclose(summary["added_ms_per_image"]["values"], [2.0, 2.5, 9.0])
    assert summary["added_ms_per_image"]["median"] == pytest.approx(2.5)
    assert summary["ms_per_image"][REFERENCE]["median"] == 4
    assert summary["goals"] == {"added ≤ 3 ms": True}
    assert summarise(result((3.2, 3.3, 3.4)))["goals"] == {"added ≤ 3 ms": False}


def test_the_table():
    settings = {"side": 224, "batch": 16, "repetitions": 3, "quality_images": 32}
    text = table({"command": "tfseg benchmark hair", "settings": settings, "cores": [summarise(result())]})
    assert "Command: `tfseg benchmark hair`" in text and "| cost | 1 core |" in text
    assert f"| {LAYER} | 2.60 ms (2.10–9.20) |" in text
    assert "| added to the plain pass | 2.50 ms (2.00–9.00) |\n| goal: added ≤ 3 ms | met |" in text
    assert f"| {REFERENCE} | 10.0 dB | 40.0 dB | 120.0 dB |" in text


def test_psnr_by_hand():
    truth = np.zeros((2, 2, 3), np.uint8)
    image = np.full((2, 2, 3), 51.0)
    image[0, 0] = 255.0
    where = np.array([[True, False], [False, False]])
    assert psnr(image, truth, where) == pytest.approx(0.0)
    assert psnr(image, truth, ~where) == pytest.approx(20.0 * np.log10(5.0))
    assert psnr(truth, truth, where) == 120.0


def test_quality_of_no_removal_is_that_of_the_drawn_hairs():
    clean, hairy, masks = drawn_images(2, 64)
    found = quality(clean, hairy, masks)
    error = [np.square(hairy[i].astype(float) - clean[i])[masks[i]].mean() for i in range(2)]
    assert found[NOTHING]["inside"] == pytest.approx(np.mean(10.0 * np.log10(255.0**2 / np.array(error))))
    assert found[NOTHING]["outside"] == found[NOTHING]["hairless"] == 120.0
    assert min(found[LAYER]["inside"], found[REFERENCE]["inside"]) > found[NOTHING]["inside"] + 5.0


def test_a_small_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(hair, "on_each", lambda cores, measure, *arguments: [measure(cores[0], *arguments)])
    monkeypatch.setattr(hair, "bind", lambda cores: None)
    monkeypatch.setattr(hair, "BATCH", 2)
    monkeypatch.setattr(hair, "QUALITY_IMAGES", 3)
    benchmark_hair(tmp_path / "out", (1,), 2, "again", side=64)
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    (cores,) = record["cores"]
    assert record["command"] == "again" and set(cores["quality_db"]) == {NOTHING, REFERENCE, LAYER}
    assert set(cores["ms_per_image"]) == {PLAIN, LAYER, REFERENCE}
    assert all(len(value["values"]) == 2 and value["median"] > 0 for value in cores["ms_per_image"].values())
    assert (tmp_path / "out" / "table.md").read_text() == table(record)
