"""The benchmark of SE-LCN's graph: what is measured, what it writes, and what its numbers mean."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfseg import cli
from tfseg.benchmarks import cascade
from tfseg.benchmarks.cascade import (
    CLASSES,
    HAIR,
    NETWORKS,
    PARTS,
    SYMMETRY,
    Setup,
    benchmark_cascade,
    decision,
    summarise,
    table,
    whole,
)
from tfseg.run import read_json

SMALL = Setup(32, (1, 2), "unet", {"width": 4, "depth": 1}, "small_cnn", "small_cnn")
UNMASKED, MASKED = map(whole, cascade.VARIANTS)
UNMASKED_DECISION, MASKED_DECISION = map(decision, cascade.VARIANTS)


def result():
    """Of one setup and one batch, three repetitions; the parts' own times are no part of the ratios."""
    values = dict.fromkeys((*PARTS, HAIR), [1.0, 1.0, 1.0])
    values |= {NETWORKS: [10.0, 20.0, 40.0], UNMASKED: [11.0, 23.0, 52.0], MASKED: [11.0, 24.0, 52.0]}
    values |= {UNMASKED_DECISION: [5.0, 10.0, 20.0], MASKED_DECISION: [10.0, 20.0, 44.0]}
    return {"cores": 1, "values": {"small": {16: values}}}


def test_ratios_are_to_the_networks_of_the_same_repetition():
    found = summarise(result())["setups"]["small"]["16"]
    np.testing.assert_allclose(found["ratios"][UNMASKED]["values"], [1.1, 1.15, 1.3])
    assert found["ratios"][MASKED]["median"] == pytest.approx(1.2)
    assert found["ratios"][UNMASKED_DECISION]["median"] == pytest.approx(0.5)
    assert found["goals"] == {UNMASKED: True, MASKED: False}, "at the goal it is met; decisions have none"
    assert found["ms_per_image"][NETWORKS]["median"] == 20.0


def test_the_table():
    record = {"command": "tfseg benchmark cascade", "settings": {"repetitions": 3}, "cores": [summarise(result())]}
    text = table(record)
    assert "Command: `tfseg benchmark cascade`" in text and "| small, 1 core | batches of 16 |" in text
    assert f"| {MASKED} | 24.00 ms (11.00–52.00) |" in text
    assert f"| {UNMASKED} : {NETWORKS} | 1.15 (1.10–1.30) |\n| goal ≤ 1.15 | met |" in text
    assert f"| {MASKED} : {NETWORKS} | 1.20 (1.10–1.30) |\n| goal ≤ 1.15 | missed |" in text


@pytest.fixture(scope="module")
def given():
    """What each way gives."""
    ways = cascade._ways(cascade._build(SMALL), SMALL.side, 2)
    return {name: way() for name, way in ways.items()}


def test_networks_give_logits_and_the_graph_everything(given):
    shapes = [(2, 32, 32, 1), (2, len(SYMMETRY)), (2, len(CLASSES))]
    assert [given[part].shape for part in PARTS] == shapes
    assert [values.shape for values in given[NETWORKS]] == shapes
    for name in (UNMASKED, MASKED):
        assert set(given[name]) == {"mask", "symmetry", "saliency_symmetry", "probabilities", "saliency"}
        assert given[name]["saliency"].shape == given[name]["saliency_symmetry"].shape == (2, 32, 32, 1)
    assert given[HAIR].shape == (2, 32, 32, 3)


def test_the_graph_holds_the_networks_that_it_is_compared_with(given):
    mask, symmetry, _ = given[NETWORKS]
    np.testing.assert_allclose(given[UNMASKED]["mask"], tf.sigmoid(mask), atol=1e-5)
    np.testing.assert_allclose(given[MASKED]["mask"], tf.sigmoid(mask), atol=1e-5)
    np.testing.assert_allclose(given[UNMASKED]["symmetry"], tf.nn.softmax(symmetry), atol=1e-5)


def test_masks_hide_and_decisions_are_those_of_the_graph(given):
    assert np.abs(given[MASKED]["probabilities"] - given[UNMASKED]["probabilities"]).max() > 1e-5
    for name, alone in ((UNMASKED, UNMASKED_DECISION), (MASKED, MASKED_DECISION)):
        assert set(given[alone]) == {"probabilities"}
        np.testing.assert_allclose(given[alone]["probabilities"], given[name]["probabilities"], atol=1e-6)


@pytest.mark.slow
def test_a_small_benchmark_in_its_own_process(tmp_path):
    benchmark_cascade(tmp_path / "out", (1,), 2, "again", (SMALL,))
    record = read_json(tmp_path / "out" / "benchmark.json")
    assert record["settings"]["setups"][0]["segmenter"] == "unet" and record["settings"]["repetitions"] == 2
    (one,) = record["cores"]
    assert set(one["setups"][SMALL.name]) == {"1", "2"}
    for found in one["setups"][SMALL.name].values():
        times = found["ms_per_image"]
        assert set(times) == {*PARTS, NETWORKS, UNMASKED, MASKED, UNMASKED_DECISION, MASKED_DECISION, HAIR}
        assert all(len(value["values"]) == 2 and value["median"] > 0 for value in times.values())
    assert (tmp_path / "out" / "table.md").read_text() == table(record)


def test_the_command(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cascade, "benchmark_cascade", lambda *values: calls.append(values))
    monkeypatch.setattr(cascade, "table", lambda record: "the table")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["benchmark", "cascade", "--out", "o", "--cores", "1", "--repetitions", "5"])
    assert calls.pop()[:3] == ("o", (1,), 5) and "the table" in capsys.readouterr().out


def test_names_tell_what_was_measured():
    assert SMALL.name == "unet + small_cnn + small_cnn, 32²"
    assert Setup(224).name == "unet/mobilenet_v2 + squeezenet_1_1 + mobilenet_v2, 224²"
