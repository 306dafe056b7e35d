"""A run that is killed at any moment, and gone on with by the same command, ends as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.run import Run, read_json

KILLS = int(os.environ.get("TFSEG_KILLS", "5"))
TIMES = {"train_seconds", "seconds_per_epoch", "latency_ms", "peak_memory_mb"}
SETTINGS = {
    "approach": "plain centiou",
    "image-size": 32,
    "segmenter-width": 4,
    "segmenter-depth": 2,
    "segmenter-epochs": 12,
    "epochs": 12,
    "batch-size": 8,
    "head-units": 8,
    "learning-rate": 3e-3,
    "augmentation": "oral",
    "epoch-images": 20,
    "learning-rate-schedule": "plateau",
    "patience": 6,
}


def command(data: Path, out: Path) -> list[str]:
    words = [sys.executable, "-m", "tfseg", "train", str(data), "--out", str(out), "--deterministic"]
    return words + [word for name, value in SETTINGS.items() for word in (f"--{name}", *str(value).split())]


def numbers(run: Run) -> dict:
    """Every number of the table that doesn't measure time or memory."""
    rows = read_json(run.path("metrics.json"))["rows"]
    return {
        (row["name"], metric): summary["values"]
        for row in rows
        for metric, summary in row["metrics"].items()
        if metric not in TIMES
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(tmp_path):
    data = write_phantoms(
        PhantomConfig(images=36, size=32, classes=("benign", "malignant"), images_per_group=1.5, seed=3),
        tmp_path / "data",
    )
    started = time.monotonic()
    subprocess.run(command(data, tmp_path / "whole"), check=True, capture_output=True)
    unbroken = time.monotonic() - started
    moments = random.Random(0)
    for number in range(KILLS):
        process = subprocess.Popen(
            command(data, tmp_path / "killed"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        # Later ones come early in their process, or there would be nothing left to kill.
        time.sleep(moments.uniform(0.1, 0.6) * unbroken / (1 + number / 5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    killed = Run(tmp_path / "killed")
    subprocess.run(command(data, killed.folder), check=True, capture_output=True)
    whole = Run(tmp_path / "whole")
    assert numbers(killed) == numbers(whole)
    for row in ("plain", "centiou"):
        paths = [run.path("models", row, "model.keras") for run in (killed, whole)]
        models = [keras.saving.load_model(path, compile=False) for path in paths]
        for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        tables = [pd.read_csv(run.path("history", f"{row}-fold0.csv")) for run in (killed, whole)]
        untimed = [table.drop(columns=["seconds", "peak_memory_mb"]) for table in tables]
        pd.testing.assert_frame_equal(*untimed, check_exact=True)
    left = [path.name for path in killed.folder.rglob("*") if path.name.endswith(".lock") or path.suffix == ".npz"]
    assert not [name for name in left if name.endswith(".lock")] and not killed.path("checkpoints").exists()
