"""Comparisons whose rows differ in more than the approach."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tfseg.config import CLASSIFIER_FIELDS, ComparisonConfig
from tfseg.errors import ConfigError, UserError
from tfseg.export.predictor import load_predictor
from tfseg.jobs.comparison import run_comparison
from tfseg.jobs.evaluate import evaluate_model
from tfseg.jobs.rows import ROW_FIELDS, ClassifierRow, check_rows, rows_of
from tfseg.run import Run, read_json

BASE = ComparisonConfig(data="d")


class TestRows:
    def test_by_default_every_approach_is_a_row(self):
        rows = rows_of(replace(BASE, approaches=("plain", "centiou")))
        assert [(row.name, row.approach, dict(row.changes)) for row in rows] == [
            ("plain", "plain", {}),
            ("centiou", "centiou", {}),
        ]

    def test_a_row_changes_the_configuration(self):
        row = ClassifierRow("swapped", "plain", {"background_swap": 0.5, "weights": "imagenet"})
        config = row.config(BASE)
        assert (config.background_swap, config.backbone, config.approaches) == (0.5, "mobilenet_v2", ("plain",))
        assert row.record() == {"approach": "plain", "changes": {"background_swap": 0.5, "weights": "imagenet"}}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("a/b", "plain"), "plain file name, received 'a/b'"),
            (("segmenter", "plain"), "plain file name, received 'segmenter'"),
            (("a", "pplain"), "no approach 'pplain'; known: plain, hard_mask"),
            (("a", "plain", {"image_size": 32}), "row a: image_size can't differ"),
            (("a", "plain", {"segmenter_width": 8}), "row a: segmenter_width can't differ"),
        ],
    )
    def test_what_is_no_row(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            ClassifierRow(*arguments)

    def test_names_differ(self):
        with pytest.raises(ConfigError, match=r"received \['a', 'a'\]"):
            check_rows([ClassifierRow("a", "plain"), ClassifierRow("a", "centiou")])
        with pytest.raises(ConfigError, match="at least one row"):
            check_rows([])

    def test_what_may_differ_is_nothing_of_the_data_or_the_segmenter(self):
        assert set(CLASSIFIER_FIELDS) < set(ROW_FIELDS)
        assert not [name for name in ROW_FIELDS if name.startswith("segmenter")]
        assert not {"data", "target", "image_size", "resize", "cross_validation", "repeats", "seed"} & set(ROW_FIELDS)


@pytest.fixture(scope="module")
def black(phantoms, tmp_path_factory):
    """The same cases, all of their images black."""
    folder = tmp_path_factory.mktemp("variant") / "black"
    shutil.copytree(phantoms, folder)
    for path in (folder / "images").glob("*.png"):
        Image.fromarray(np.zeros((*np.asarray(Image.open(path)).shape[:2], 3), np.uint8)).save(path)
    return folder


ROWS = [
    ClassifierRow("oracle", "oracle"),
    ClassifierRow("random", "random_mask", {"backbone": "small_cnn"}),
    ClassifierRow("published", "centiou", {"saliency_gradient": "none", "saliency": "hires_cam", "epochs": 1}),
    ClassifierRow("swapped", "plain", {"background_swap": 1.0, "epochs": 1, "head": "convolution"}, {"accuracy": 0.9}),
]


@pytest.fixture(scope="module")
def finished_rows(finished, phantoms, tiny, black, tmp_path_factory):
    config = tiny(phantoms, segmenter_file=str(finished[0].path("models", "segmenter.keras")), epochs=1, pixel_steps=2)
    run = run_comparison(
        config,
        tmp_path_factory.mktemp("rows") / "run",
        rows=ROWS,
        variants={"black": str(black)},
        command="made by a test",
        say=lambda line: None,
    )
    return run, config


class TestRun:
    def test_every_row_has_its_own_settings(self, finished_rows):
        run, _ = finished_rows
        metrics = read_json(run.path("metrics.json"))
        rows = {row["name"]: row for row in metrics["rows"]}
        assert list(rows) == ["segmenter", "oracle", "random", "published", "swapped"]
        assert rows["published"]["settings"]["saliency_gradient"] == "none"
        assert rows["published"]["settings"]["saliency"] == "hires_cam"
        assert rows["swapped"]["settings"]["background_swap"] == 1.0 and rows["swapped"]["paper"] == {"accuracy": 0.9}
        assert read_json(run.path("config.json"))["rows"]["random"] == {
            "approach": "random_mask",
            "changes": {"backbone": "small_cnn"},
        }
        graph = load_predictor(run.path("models", "swapped", "model.keras")).graph
        assert graph.get_layer("saliency").head.get_layer("class_maps").kernel.shape[-1] == 2
        saliency = load_predictor(run.path("models", "published", "model.keras")).graph.get_layer("saliency")
        assert saliency.get_config()["method"] == "hires_cam"

    def test_a_variant_is_the_same_test_cases_with_other_images(self, finished_rows):
        run, _ = finished_rows
        rows = {row["name"]: row["metrics"] for row in read_json(run.path("metrics.json"))["rows"]}
        cell = read_json(run.path("cells", "swapped-fold0.json"))
        # All black images look alike: the network calls all of them by one class.
        labels = np.array([line["true"] for line in read_rows(run.path("predictions", "swapped.csv"))])
        right = np.array(cell["per_case"]["accuracy_black"]) == 1.0
        assert 0 < right.sum() < len(right) and len(set(labels[right])) == 1
        assert right.sum() == (labels == labels[right][0]).sum()
        assert rows["swapped"]["accuracy_black"]["mean"] == pytest.approx(right.mean())
        assert "accuracy_black" in run.path("table.md").read_text()

    def test_maps_are_put_to_the_test(self, finished_rows):
        run, _ = finished_rows
        for row in ("oracle", "published"):
            cell = read_json(run.path("cells", f"{row}-fold0.json"))
            for name in ("insertion_auc", "deletion_auc", "background_flip_rate"):
                values = np.array(cell["per_case"][name], float)
                assert len(values) == len(cell["ids"]) and np.nanmin(values) >= 0.0 and np.nanmax(values) <= 1.0

    def test_a_control_is_neither_served_nor_exported_by_itself(self, finished_rows):
        run, _ = finished_rows
        assert read_json(run.path("metrics.json"))["best_row"] in ("published", "swapped")
        with pytest.raises(UserError, match="with every image"):
            load_predictor(run.path("models", "oracle", "model.keras"))

    def test_the_masks_of_a_control_go_with_the_images_that_are_changed(self, finished_rows):
        """With the true mask, nothing outside of it is seen: another background can't move the decision."""
        run, _ = finished_rows
        cell = read_json(run.path("cells", "oracle-fold0.json"))
        moved = np.array(cell["per_case"]["background_total_variation"], float)
        assert np.nanmax(moved) < 1e-5
        # A temperature makes what this hardly trained model says of different images more alike.
        lesion = np.nanmax(np.array(cell["per_case"]["lesion_total_variation"], float))
        assert lesion > 1e-5 and lesion > 10 * np.nanmax(moved)

    def test_it_is_resumed_with_the_same_rows_only(self, finished_rows, black):
        run, config = finished_rows
        lines = []
        again = run_comparison(config, run.folder, rows=ROWS, variants={"black": str(black)}, say=lines.append)
        assert again.finished and "finished before" in lines[-1]
        with pytest.raises(UserError):
            run_comparison(config, run.folder, rows=ROWS[:2], variants={"black": str(black)}, say=lines.append)

    def test_evaluating_the_run_scores_its_best_row(self, finished_rows, phantoms, tmp_path):
        run, _ = finished_rows
        done = evaluate_model(run.folder, phantoms, tmp_path / "evaluated", part="test", say=lambda line: None)
        assert read_json(done.path("metrics.json"))["rows"][0]["name"] in ("segmenter", "published", "swapped")


class TestMistakes:
    def test_a_variant_with_other_cases_or_labels(self, phantoms, tiny, black, tmp_path):
        options = {"rows": [ClassifierRow("plain", "plain")], "say": lambda line: None}
        config = tiny(phantoms, segmenter="none")
        for name, change, message in (
            ("fewer", lambda lines: lines[:-1], "lacks 1 cases"),
            ("other", lambda lines: [*lines[:-1], swap_label(lines[-1])], "has other labels"),
        ):
            folder = tmp_path / name
            shutil.copytree(black, folder)
            table = folder / "labels.csv"
            table.write_text("\n".join(change(table.read_text().splitlines())) + "\n")
            with pytest.raises(ConfigError, match=f"variant v: .*{message}"):
                run_comparison(config, tmp_path / f"run_{name}", variants={"v": folder}, **options)
            assert not Run(tmp_path / f"run_{name}").path("cells").exists()

    def test_a_row_that_could_not_be_trained_is_named_before_training(self, phantoms, tiny, tmp_path):
        for changes, message in (
            ({"saliency_layer": "nowhere"}, "no layer named 'nowhere'"),
            ({"backbone": "mobilenet_v2", "weights": "none.npz"}, "none.npz does not exist"),
        ):
            rows = [ClassifierRow("plain", "plain"), ClassifierRow("wrong", "plain", changes)]
            with pytest.raises(ConfigError, match=message):
                config = tiny(phantoms, segmenter="none", backbone="auto")
                run_comparison(config, tmp_path / "run", rows=rows, say=lambda line: None)
            assert not (tmp_path / "run" / "cells").exists()

    def test_the_oracle_needs_no_segmenter(self, phantoms, tiny, tmp_path):
        config = tiny(phantoms, segmenter="none", approaches=("oracle",), epochs=1)
        run = run_comparison(config, tmp_path / "run", say=lambda line: None)
        assert [row["name"] for row in read_json(run.path("metrics.json"))["rows"]] == ["oracle"]


def read_rows(path):
    import csv

    with path.open() as file:
        return list(csv.DictReader(file))


def swap_label(line):
    """A line of labels.csv with the other class."""
    return (
        line.replace("benign", "x")
        .replace("malignant", "benign")
        .replace("atypical", "benign")
        .replace("x", "malignant")
    )
