"""What decisions cost: which models are measured, and what is made of the measurements."""

from __future__ import annotations

import numpy as np
import pytest

from tfseg import cli
from tfseg.benchmarks.decisions import benchmark_decisions, models_of, summarise
from tfseg.errors import ConfigError
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier, inference_graph
from tfseg.models.unet import unet
from tfseg.run import Run, read_json, write_json

SIDE = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    classifier = build_classifier(build_backbone("small_cnn", (SIDE, SIDE, 3)), 2, units=None)
    segmenter = unet((SIDE, SIDE, 3), 1, width=4, depth=1)
    rows = [{"name": "segmenter", "settings": {}}]
    for name, approach, file in (
        ("classical", "plain", "model.keras"),
        ("soft", "soft_mask", "fold0.keras"),
        ("soft", "soft_mask", "fold1.keras"),
        ("oracle", "oracle", "model.keras"),
    ):
        (folder / "models" / name).mkdir(parents=True, exist_ok=True)
        inference_graph(classifier, ("a", "b"), approach, segmenter).save(folder / "models" / name / file)
        rows.append({"name": name, "settings": {"approach": approach}})
    write_json(folder / "metrics.json", {"rows": rows})
    return folder


def test_models_that_can_be_served(run):
    found = models_of(Run(run))
    assert {name: path.name for name, path in found.items()} == {"classical": "model.keras", "soft": "fold0.keras"}


def test_ratios_are_by_repetition():
    values = {16: {"base": [1.0, 2.0, 4.0], "other": [3.0, 4.0, 20.0]}}
    found = summarise({"cores": 1, "values": values}, "base")["batches"]["16"]
    assert found["ms_per_image"]["other"]["median"] == 4.0
    np.testing.assert_array_equal(found["ratios"]["other"]["values"], [3.0, 2.0, 5.0])
    assert found["ratios"]["other"]["median"] == 3.0 and list(found["ratios"]) == ["other"]


def test_the_command_writes_a_table(run, tmp_path, capsys):
    arguments = ["benchmark", "decisions", "--run", str(run), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*arguments, "--cores", "1", "--repetitions", "2"])
    record = read_json(tmp_path / "out" / "benchmark.json")
    assert record["settings"]["base"] == "classical"
    (one,) = record["cores"]
    assert set(one["batches"]) == {"1", "16"}
    assert all(one["batches"][batch]["ratios"]["soft"]["median"] > 1.0 for batch in one["batches"])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "soft : classical" in text
    assert text.strip() in capsys.readouterr().out


def test_mistakes_are_named(run, tmp_path, capsys):
    with pytest.raises(ConfigError, match="`base` must be one of classical, soft, received 'oracle'"):
        benchmark_decisions(run, tmp_path / "out", "oracle", (1,), 2)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["benchmark", "decisions", "--out", str(tmp_path / "out")])
    assert "`--run` names the run" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "empty" / "metrics.json", {"rows": []})
    with pytest.raises(ConfigError, match="no model of a classifier"):
        models_of(Run(tmp_path / "empty"))
