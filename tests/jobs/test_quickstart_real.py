"""The main job and the audit on real datasets, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tfseg.data.audit import audit_cases
from tfseg.data.sources import load_cases
from tfseg.run import read_json

ROOT = Path(__file__).parents[2]
REDUCED = (
    *("--image-size", "96", "--segmenter-epochs", "4", "--epochs", "8", "--freeze-first", "40"),
    *("--approach", "plain", "soft_mask", "--segmenter-learning-rate", "2e-3"),
    *("--epoch-images", "150"),
)

# Five minutes on two cores.
CPU_SECONDS = 600

pytestmark = pytest.mark.real_data


def quickstart(data_folder: Path, out: Path, *words: str) -> tuple[dict, float]:
    """Run the experiment in a process of its own: its rows by name, and its seconds of CPU.

    Not of the clock, which runs on while other programs have the cores.
    """
    weights = data_folder / "weights" / "mobilenet_v2_imagenet_bn_folded.npz"
    script = ROOT / "experiments" / "quickstart.py"
    before = os.times()
    done = subprocess.run(
        [sys.executable, script, *words, "--weights", weights, "--out", out, *REDUCED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TFSEG_DATA": str(data_folder)},
    )
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return {row["name"]: row for row in read_json(out / "metrics.json")["rows"]}, seconds


@pytest.mark.slow
@pytest.mark.timeout(1500)
class TestQuickstart:
    def test_skin_lesions(self, data_folder, tmp_path):
        rows, seconds = quickstart(data_folder, tmp_path / "run", "--data", str(data_folder / "ph2"))
        assert rows["segmenter"]["metrics"]["iou"]["mean"] > 0.7
        for name in ("plain", "soft_mask"):
            metrics = rows[name]["metrics"]
            # Chance: 1/3 for the mean recall of three classes, 0.4 for always naming the most frequent one.
            assert metrics["balanced_accuracy"]["mean"] > 1 / 3
            assert metrics["auc"]["mean"] > 0.5
        assert max(rows[name]["metrics"]["accuracy"]["mean"] for name in ("plain", "soft_mask")) > 0.4
        assert seconds < CPU_SECONDS
        record = read_json(tmp_path / "run" / "metrics.json")
        assert record["data"] == "$TFSEG_DATA/ph2"
        assert record["command"].startswith("python experiments/quickstart.py --data $TFSEG_DATA/ph2 --weights $TFSEG_")
        table = pd.read_csv(tmp_path / "run" / "predictions" / "plain.csv")
        accuracy = rows["plain"]["metrics"]["accuracy"]["mean"]
        assert (table["true"] == table["predicted"]).mean() == pytest.approx(accuracy)

    def test_cells_normal_or_not(self, data_folder, tmp_path):
        words = ("--data", str(data_folder / "herlev"), "--target", "binary")
        rows, seconds = quickstart(data_folder, tmp_path / "run", *words)
        assert rows["segmenter"]["metrics"]["iou"]["mean"] > 0.7
        for name in ("plain", "soft_mask"):
            # Always naming the most frequent class would give 0.69 to 0.74.
            assert rows[name]["metrics"]["accuracy"]["mean"] > 0.75
            assert rows[name]["metrics"]["balanced_accuracy"]["mean"] > 0.6
        assert seconds < CPU_SECONDS


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("ph2", set()),
        ("herlev", set()),
        ("ham10000", set()),
        ("ebhi_seg", set()),
        ("oral", {"duplicate_across_labels"}),
        ("isic2017", {"duplicate_across_parts"}),
    ],
)
def test_audits(data_folder, name, errors):
    audit = audit_cases(load_cases(data_folder / name))
    assert {problem.kind for problem in audit.problems if problem.severity == "error"} == errors
    assert audit.ok == (not errors)
