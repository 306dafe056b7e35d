"""The benchmark of saliency maps: what it writes, and what its numbers mean."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tfseg.benchmarks import saliency
from tfseg.benchmarks.saliency import CENTIOU, FORWARD, LIBRARY, MAP, STEP, benchmark_saliency, summarise, table


def result(**changed):
    """Of two backbones, three repetitions."""
    quick = {
        FORWARD: [10, 20, 40],
        MAP: [11, 21, 46],
        LIBRARY: [60, 110, 220],
        STEP: [30, 60, 90],
        CENTIOU: [33, 63, 96],
    }
    slow = {name: values for name, values in quick.items() if name != LIBRARY} | {MAP: [12, 24, 48]}
    return {"cores": 1, "values": {"quick": quick, "slow": slow | changed}}


def test_ratios_are_of_each_repetition():
    summary = summarise(result())
    quick, slow = summary["backbones"]["quick"], summary["backbones"]["slow"]
    np.testing.assert_allclose(quick["ratios"]["map"]["values"], [1.1, 1.05, 1.15])
    assert quick["ratios"]["map"]["median"] == pytest.approx(1.1)
    assert quick["ratios"]["tf-keras-vis"]["median"] == pytest.approx(5.5)
    np.testing.assert_allclose(quick["ratios"]["CEntIoU"]["values"], [1.1, 1.05, 96 / 90])
    assert quick["ratios"]["CEntIoU"]["median"] == pytest.approx(96 / 90)
    assert quick["goals"] == {"map": True, "CEntIoU": True}
    assert set(slow["ratios"]) == {"map", "CEntIoU"} and slow["ratios"]["map"]["median"] == pytest.approx(1.2)
    assert slow["goals"] == {"map": False, "CEntIoU": True}
    assert quick["ms_per_image"][FORWARD]["median"] == 20


def test_the_table():
    record = {"command": "tfseg benchmark saliency", "settings": {"side": 224, "batch": 8, "repetitions": 3}}
    text = table(record | {"cores": [summarise(result())]})
    assert "Command: `tfseg benchmark saliency`" in text and "| 1 core | quick | slow |" in text
    assert f"| {LIBRARY} | 110.00 ms (60.00–220.00) | not installed |" in text
    assert f"| {MAP} : {FORWARD} | 1.10 (1.05–1.15) | 1.20 (1.20–1.20) |\n| goal ≤ 1.15 | met | missed |" in text


@pytest.mark.parametrize("library", [True, False])
def test_a_small_benchmark(tmp_path, monkeypatch, library):
    monkeypatch.setattr(saliency, "on_each", lambda cores, measure, *arguments: [measure(cores[0], *arguments)])
    monkeypatch.setattr(saliency, "bind", lambda cores: None)
    monkeypatch.setattr(saliency, "BATCH", 2)
    if not library:
        monkeypatch.setitem(sys.modules, "tf_keras_vis.gradcam_plus_plus", None)
    benchmark_saliency(tmp_path / "out", (1,), 2, "again", side=32, backbones=("small_cnn",))
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    (cores,) = record["cores"]
    measured = cores["backbones"]["small_cnn"]["ms_per_image"]
    assert set(measured) == {FORWARD, MAP, STEP, CENTIOU} | ({LIBRARY} if library else set())
    assert all(len(value["values"]) == 2 and value["median"] > 0 for value in measured.values())
    assert (tmp_path / "out" / "table.md").read_text() == table(record)


def test_what_is_measured_is_what_it_says(monkeypatch):
    """The forward pass and the one with a map share their weights; both steps train."""
    monkeypatch.setattr(saliency, "BATCH", 2)
    ways = saliency._ways("small_cnn", 32)
    assert ways[FORWARD]().shape == (2, 3) and ways[MAP]().shape == (2, 32, 32, 1)
    for name in (STEP, CENTIOU):
        losses = [np.ravel(ways[name]())[0] for _ in range(4)]
        assert np.isfinite(losses).all() and len(set(np.round(losses, 6))) > 1, name
