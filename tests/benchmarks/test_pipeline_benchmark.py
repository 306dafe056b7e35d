"""The benchmark of the pipeline: what it writes, and what its numbers mean."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfseg.benchmarks import pipeline, process
from tfseg.benchmarks.pipeline import benchmark_pipeline
from tfseg.benchmarks.summary import DISK, EVERYTHING, FLOOR, KERAS, KERAS_CV, MEMORY, ONE_WARP, OURS, summarise, table
from tfseg.data.augment import RECIPES
from tfseg.errors import ConfigError, RunError


def result(**changed):
    """Three repetitions of round numbers: augmentation adds 1 ms, keras_cv 4 ms, and decoding takes 6 ms."""
    values = {FLOOR: 6.0, MEMORY: 2.0, DISK: 3.0, OURS: 3.0, EVERYTHING: 4.0, ONE_WARP: 4.5, KERAS_CV: 6.0, KERAS: 5.0}
    return {
        "cores": 1,
        "values": {name: [value] * 3 for name, value in (values | changed).items() if value is not None},
        "missing": {name: "not installed: keras_cv" for name, value in changed.items() if value is None},
        "training": {"waited": [1.0, 1.0, 4.0], "worked": [99.0, 99.0, 96.0]},
    }


def test_costs_ratios_and_waiting_by_hand():
    summary = summarise(result())
    assert summary["ms_per_image"][OURS] == {"median": 3.0, "interval": [3.0, 3.0], "values": pytest.approx([3.0] * 3)}
    added = {name: value["median"] for name, value in summary["added_ms_per_image"].items()}
    assert added == {
        "augmentation": 1.0,
        "augmentation with colours and background swap": 2.0,
        ONE_WARP: 2.5,
        KERAS_CV: 4.0,
        KERAS: 3.0,
    }
    ratios = {name: value["median"] for name, value in summary["ratios"].items()}
    assert ratios == {
        f"{ONE_WARP} : augmentation": 2.5,
        f"{KERAS_CV} : augmentation": 4.0,
        f"{KERAS} : augmentation": 3.0,
        # Decoding and delivering, against delivering alone.
        f"first epoch : later epochs {MEMORY}": 4.0,
        f"first epoch : later epochs {DISK}": 3.0,
    }
    training = summary["training"]
    assert (training["wait_ms"]["median"], training["longest_wait_ms"], training["waited_share"]) == (1.0, 4.0, 0.02)
    assert list(summary["goals"].values()) == [False, True, True, False]


def test_goals_are_judged_by_their_own_numbers():
    quick = summarise(result(**{OURS: 2.7, KERAS_CV: 4.0, DISK: 5.0}))
    assert list(quick["goals"].values()) == [True, False, False, False]


def test_a_missing_library_is_said():
    summary = summarise(result(**{KERAS_CV: None}))
    assert summary["goals"]["≥ 3 times faster than keras_cv"] is None
    settings = {"image": [600, 450], "side": 224, "batch": 16, "repetitions": 3}
    text = table({"command": "tfseg benchmark pipeline", "settings": settings, "cores": [summary]})
    assert f"| {KERAS_CV} | not installed: keras_cv |" in text
    assert "| ≥ 3 times faster than keras_cv | not measured |" in text
    assert f"| {FLOOR} | 6.00 ms (6.00–6.00) |" in text and "2.00 % of the time waited" in text


def test_the_other_libraries_are_given_the_same_task():
    """Images and masks of the same kind come back, moved in step."""
    generator = np.random.default_rng(0)
    mask = (generator.uniform(size=(4, 32, 32, 1)) > 0.5).astype(np.float32)
    batch = {"image": tf.constant(np.repeat(mask, 3, -1)), "mask": tf.constant(mask)}
    for make in (pipeline._one_warp, pipeline._keras, pipeline._keras_cv):
        if make is pipeline._keras_cv:
            pytest.importorskip("keras_cv")
        changed = make(RECIPES["free"])(batch)
        assert changed["image"].dtype == changed["mask"].dtype == tf.float32
        assert set(np.unique(changed["mask"])) == {0.0, 1.0}
        assert np.abs(changed["mask"] - mask).max() == 1.0
        agreement = ((changed["image"][..., :1] > 0.5) == (changed["mask"] > 0.5)).numpy().mean()
        assert agreement > 0.6, make


def test_a_small_benchmark(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    monkeypatch.setattr(pipeline, "BACKBONE", "small_cnn")
    folder = tmp_path / "out"
    monkeypatch.setattr(process, "ProcessPoolExecutor", InThisProcess)
    benchmark_pipeline(folder, (1,), 2, "tfseg benchmark pipeline", side=32, steps=2)
    record = json.loads((folder / "benchmark.json").read_text())
    (cores,) = record["cores"]
    assert record["command"] == "tfseg benchmark pipeline" and cores["cores"] == 1
    assert set(cores["ms_per_image"]) == {FLOOR, MEMORY, DISK, OURS, EVERYTHING, ONE_WARP, KERAS}
    assert cores["missing"] == {KERAS_CV: "not installed: keras_cv"}
    assert all(len(value["values"]) == 2 and value["median"] > 0 for value in cores["ms_per_image"].values())
    assert (folder / "table.md").read_text() == table(record)
    monkeypatch.setattr(pipeline, "measure", lambda *arguments: result())
    benchmark_pipeline(folder, (1,), 2, "again")
    assert json.loads((folder / "benchmark.json").read_text())["command"] == "again"


class InThisProcess:
    """Stands for the pool: a process of its own would import TensorFlow once more, and wouldn't see the patches."""

    def __init__(self, *arguments, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, cores, *arguments):
        import os

        before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        try:
            value = function(cores, *arguments)
        finally:
            if before:
                os.sched_setaffinity(0, before)
        return type("Done", (), {"result": staticmethod(lambda: value)})


def test_mistakes_are_named(tmp_path):
    for cores in ((), (0,), (4096,), (1, 1)):
        with pytest.raises(ConfigError, match="`cores`"):
            benchmark_pipeline(tmp_path / "out", cores)
    with pytest.raises(ConfigError, match="`repetitions`"):
        benchmark_pipeline(tmp_path / "out", (1,), 1)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="holds no benchmark.json"):
        benchmark_pipeline(tmp_path, (1,))
