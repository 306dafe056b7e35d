"""The main job: what a run folder holds, that its numbers agree, and that it goes on where it stopped."""

from __future__ import annotations

import json
import math
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from tfseg.data.batches import load_arrays
from tfseg.data.decode import restore_map
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources import load_cases
from tfseg.data.splits import read_split
from tfseg.errors import ConfigError, DataError, RunError, TrainingError, UserError
from tfseg.export.predictor import load_predictor
from tfseg.jobs import cells, comparison, handed
from tfseg.jobs.comparison import describe_files, run_comparison
from tfseg.run import Run, read_json
from tfseg.session import Session
from tfseg.training import segmenter
from tfseg.training.sitting import DETACHED

CLASSIFICATION = {
    "accuracy",
    "balanced_accuracy",
    "kappa",
    "auc",
    "average_precision",
    "specificity_macro",
    "ece",
    "brier",
    *(f"{name}_{average}" for name in ("precision", "recall", "f1") for average in ("macro", "weighted")),
}
LOCALISATION = {"cam_iou", "cam_iou_undilated", "cam_overlap", "cam_pointing"}
RELIANCE = {f"{where}_{what}" for where in ("background", "lesion") for what in ("flip_rate", "total_variation")}
SEGMENTATION = {
    "dice",
    "iou",
    "pixel_accuracy",
    "pixel_error",
    "pixel_precision",
    "pixel_recall",
    "pixel_specificity",
    "hausdorff95",
    "surface_distance",
}
DECISIONS = {"temperature", "ece_uncalibrated", "brier_uncalibrated", "unfamiliar_rate"}
COST = {"epochs", "best_epoch", "train_seconds", "seconds_per_epoch", "peak_memory_mb", "parameters", "latency_ms"}
TIMES = {"train_seconds", "seconds_per_epoch", "latency_ms", "peak_memory_mb"}


def quiet(line: str) -> None:
    """In place of `print`."""


def rows(run: Run) -> dict[str, dict]:
    return {row["name"]: row for row in read_json(run.path("metrics.json"))["rows"]}


def predictions(run: Run, row: str) -> pd.DataFrame:
    return pd.read_csv(run.path("predictions", f"{row}.csv"), keep_default_na=False, dtype={"true": str})


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its time and size."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.fixture
def count(monkeypatch):
    """Counts trainings by name; ``stop_at`` interrupts before one of them."""

    class Count:
        trained: list[str] = []
        stop_at = ""

    def counting(name_of, original):
        def train(*arguments):
            name = name_of(*arguments)
            if name == count.stop_at:
                raise KeyboardInterrupt
            count.trained.append(name)
            return original(*arguments)

        return train

    count = Count()
    count.trained = []
    monkeypatch.setattr(
        segmenter, "train_segmenter", counting(lambda *arguments: "segmenter", segmenter.train_segmenter)
    )
    monkeypatch.setattr(
        cells, "train_classifier", counting(lambda config, approach, *rest: approach, cells.train_classifier)
    )
    return count


class TestRunFolder:
    def test_everything_is_there(self, finished):
        run = finished[0]
        present = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
        expected = {
            *("config.json", "environment.json", "data.json", "splits.json", "history.csv", "metrics.json"),
            *("table.md", "report.html", "models/segmenter.keras"),
            *(f"models/{row}/model.keras" for row in ("plain", "soft_mask")),
            *(f"predictions/{row}.csv" for row in ("plain", "soft_mask")),
            *(f"figures/{name}.png" for name in ("curves", "comparison", "saliency", "segmentation")),
            *(f"figures/{kind}_{row}.png" for kind in ("confusion", "reliability") for row in ("plain", "soft_mask")),
        }
        assert expected <= present
        assert not [name for name in present if "/." in f"/{name}"], "temporary files are left"
        for path in run.folder.rglob("*.png"):
            Image.open(path).verify()
        assert run.finished

    def test_configuration_and_environment(self, finished, phantoms):
        run, config, _ = finished
        stored = run.config
        assert (stored["experiment"], stored["preset"], stored["data"]) == ("train", "custom", str(phantoms))
        assert stored["backbone"] == "small_cnn" and stored["segmenter_encoder"] == "none", "auto is decided"
        assert stored["approaches"] == ["plain", "soft_mask"] and stored["epochs"] == config.epochs
        environment = read_json(run.path("environment.json"))
        assert environment["seed"] == config.seed and len(environment["data_fingerprint"]) == 16

    def test_metrics(self, finished, phantoms):
        metrics = read_json(finished[0].path("metrics.json"))
        assert {"experiment", "preset", "seed", "data", "command", "seconds", "rows"} <= metrics.keys()
        assert metrics["command"] == "tfseg train phantoms" and metrics["data"] == str(phantoms)
        assert 1 < metrics["seconds"] < 600
        assert [row["name"] for row in metrics["rows"]] == ["segmenter", "plain", "soft_mask"]
        for row in metrics["rows"]:
            expected = CLASSIFICATION | LOCALISATION | RELIANCE | DECISIONS
            expected = SEGMENTATION if row["name"] == "segmenter" else expected
            assert row["metrics"].keys() == expected | COST
            for name, summary in row["metrics"].items():
                assert len(summary["values"]) == 1 and summary["mean"] == summary["values"][0], name
                low, high = summary["ci95"]
                assert low is None or low <= high
            assert {"name", "settings", "metrics", "paper"} <= row.keys()
        table = rows(finished[0])
        assert table["plain"]["paper"] == {"accuracy": 0.875} and table["soft_mask"]["paper"] is None
        assert table["plain"]["settings"]["approach"] == "plain"
        assert table["segmenter"]["settings"]["segmenter_width"] == 4
        assert table["plain"]["metrics"]["epochs"]["mean"] == 4
        low, high = table["segmenter"]["metrics"]["dice"]["ci95"]
        assert low < table["segmenter"]["metrics"]["dice"]["mean"] < high

    def test_the_best_row_is_best_on_validation(self, finished):
        run = finished[0]
        scores = {
            row: read_json(run.path("cells", f"{row}-fold0.json"))["validation"]["balanced_accuracy"]
            for row in ("plain", "soft_mask")
        }
        assert scores[read_json(run.path("metrics.json"))["best_row"]] == max(scores.values())

    def test_table_and_report(self, finished):
        run = finished[0]
        table = run.path("table.md").read_text(encoding="utf-8")
        assert all(f"| {row} |" in table for row in ("segmenter", "plain", "soft_mask"))
        assert "accuracy (paper)" in table and "0.875" in table and "tfseg train phantoms" in table
        accuracy = rows(run)["plain"]["metrics"]["accuracy"]["mean"]
        assert f"{accuracy:.3f}" in table
        page = run.path("report.html").read_text(encoding="utf-8")
        pictures = [*run.path("figures").glob("*.png"), *run.path("comparison", "figures").glob("*.png")]
        assert page.count("data:image/png;base64,") == len(pictures)
        assert "Which differences hold" in page and "plain − soft_mask" in page

    def test_splits_keep_groups_together_and_hold_every_case_once(self, finished, phantoms, rows_of):
        (split,) = read_json(finished[0].path("splits.json"))
        group = {Path(row["image"]).stem: row["group"] for row in rows_of(phantoms / "labels.csv")}
        assert sorted(split["train"] + split["val"] + split["test"]) == sorted(group)
        groups = [{group[case] for case in split[part]} for part in ("train", "val", "test")]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]

    def test_history(self, finished):
        history = pd.read_csv(finished[0].path("history.csv"))
        assert history.groupby("row")["epoch"].apply(list).to_dict() == {
            "segmenter": [*range(1, 9)],
            "plain": [1, 2, 3, 4],
            "soft_mask": [1, 2, 3, 4],
        }
        plain = history[history["row"] == "plain"]
        assert plain[["loss", "val_loss", "accuracy", "val_accuracy"]].notna().all(None)
        assert rows(finished[0])["plain"]["metrics"]["best_epoch"]["mean"] == plain["val_loss"].argmin() + 1

    def test_an_empty_mask_is_told_and_does_not_stop(self, finished):
        warnings = [line for line in finished[2] if line.startswith("warning")]
        assert any("empty_mask" in line and "phantom_00035" in line for line in warnings)
        assert any("empty_mask" in line for line in read_json(finished[0].path("data.json"))["warnings"])

    def test_where_things_lie(self, finished):
        run = finished[0]
        text = describe_files(run)
        assert str(run.path("report.html")) in text and read_json(run.path("metrics.json"))["best_row"] in text


class TestPredictions:
    @pytest.mark.parametrize("row", ["plain", "soft_mask"])
    def test_the_table_gives_the_same_numbers(self, finished, row):
        from sklearn import metrics

        run = finished[0]
        table = predictions(run, row)
        assert list(table.columns) == [
            *("id", "image", "group", "true", "predicted", "confidence", "abstained", "unfamiliarity", "unfamiliar"),
            *("prob_benign", "prob_malignant"),
        ]
        probabilities = table[["prob_benign", "prob_malignant"]].to_numpy()
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
        np.testing.assert_array_equal(table["confidence"], probabilities.max(1))
        names = np.array(["benign", "malignant"])
        assert (table["predicted"] == names[probabilities.argmax(1)]).all()
        assert set(table["id"]) == set(read_json(run.path("splits.json"))[0]["test"])
        scores = {name: value["mean"] for name, value in rows(run)[row]["metrics"].items()}
        assert scores["accuracy"] == pytest.approx((table["true"] == table["predicted"]).mean())
        balanced = metrics.balanced_accuracy_score(table["true"], table["predicted"])
        assert scores["balanced_accuracy"] == pytest.approx(balanced)
        area = metrics.roc_auc_score(table["true"] == "malignant", probabilities[:, 1])
        assert scores["auc"] == pytest.approx(area)
        counts = metrics.confusion_matrix(table["true"], table["predicted"], labels=names)
        assert rows(run)[row]["confusion"] == counts.tolist()

    def test_labels_and_images_are_those_of_the_data(self, finished, phantoms, rows_of):
        known = {Path(row["image"]).stem: row for row in rows_of(phantoms / "labels.csv")}
        for entry in predictions(finished[0], "plain").itertuples():
            assert entry.true == known[entry.id]["label"]
            assert entry.image == known[entry.id]["image"]

    @pytest.mark.parametrize("row", ["plain", "soft_mask"])
    def test_the_stored_model_predicts_the_same(self, finished, model_images, row):
        run = finished[0]
        table = predictions(run, row)
        predictor = load_predictor(run.path("models", row, "model.keras"))
        assert predictor.info.classes == ("benign", "malignant")
        outputs = predictor.predict(model_images(table["id"]))
        np.testing.assert_allclose(
            outputs["probabilities"], table[["prob_benign", "prob_malignant"]], rtol=1e-4, atol=1e-5
        )
        assert table["prob_benign"].nunique() > 1, "all predictions are equal: nothing is shown"

    @pytest.mark.parametrize("file", ["segmenter.keras", "soft_mask/model.keras"])
    def test_the_stored_model_knows_nothing_of_its_training(self, finished, file):
        with zipfile.ZipFile(finished[0].path("models", *file.split("/"))) as archive:
            content = archive.read("config.json").decode()
        assert "MaskProbabilities" in content and "Adam" not in content and "losses" not in content

    def test_the_segmenter_is_the_one_inside_the_classifier(self, finished, model_images):
        run = finished[0]
        images = model_images(predictions(run, "plain")["id"])
        alone = load_predictor(run.path("models", "segmenter.keras")).predict(images)["mask"]
        inside = load_predictor(run.path("models", "soft_mask", "model.keras")).predict(images)["mask"]
        np.testing.assert_allclose(inside, alone, atol=1e-5)
        assert alone.std() > 0.01


class TestResuming:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tmp_path_factory.mktemp("interrupted") / "run"

    @pytest.fixture
    def again(self, finished, deterministic, folder):
        """Run the shared configuration in another folder."""

        def again():
            try:
                return run_comparison(finished[1], folder, experiment="train", preset="custom", say=quiet)
            finally:
                deterministic()

        return again

    def test_an_interrupted_run_keeps_what_was_finished(self, again, folder, count):
        count.stop_at = "soft_mask"
        with pytest.raises(KeyboardInterrupt):
            again()
        assert count.trained == ["segmenter", "plain"]
        run = Run(folder)
        assert run.path("cells", "plain-fold0.json").exists() and run.path("models", "plain", "model.keras").exists()
        assert not run.path("cells", "soft_mask-fold0.json").exists()
        assert not run.path("metrics.json").exists() and not run.finished

    def test_and_goes_on_with_the_same_results(self, again, folder, count, finished):
        assert Run(folder).path("cells", "plain-fold0.json").exists(), "depends on the test above"
        run = again()
        assert count.trained == ["soft_mask"]
        for row in ("plain", "soft_mask"):
            assert run.path("predictions", f"{row}.csv").read_text() == (
                finished[0].path("predictions", f"{row}.csv").read_text()
            )
        ours, theirs = rows(run), rows(finished[0])
        for name, row in theirs.items():
            for metric in row["metrics"].keys() - TIMES:
                assert ours[name]["metrics"][metric] == row["metrics"][metric], (name, metric)

    def test_the_time_before_the_interruption_counts(self, folder):
        run = Run(folder)
        assert read_json(run.path("metrics.json"))["seconds"] >= 0.9 * run.spent

    def test_a_finished_run_returns_at_once(self, finished, count, monkeypatch):
        run, config, _ = finished
        monkeypatch.setattr(comparison, "finish_grid", lambda *arguments: pytest.fail("trains again"))
        before, lines = state(run.folder), []
        again = run_comparison(config, run.folder, experiment="train", preset="custom", say=lines.append)
        assert again.folder == run.folder and state(run.folder) == before
        assert count.trained == [] and any("finished" in line for line in lines)

    def test_other_settings_need_another_folder(self, finished, tiny, phantoms):
        run = finished[0]
        before = state(run.folder)
        with pytest.raises(RunError, match="epochs: 4 there, 5 asked"):
            run_comparison(
                tiny(phantoms, deterministic=True, epochs=5),
                run.folder,
                experiment="train",
                preset="custom",
                say=quiet,
            )
        assert state(run.folder) == before


class TestFolds:
    @pytest.fixture(scope="class")
    def run(self, phantoms, tiny, tmp_path_factory):
        config = tiny(phantoms, cross_validation=2, approaches=("centiou",))
        return run_comparison(config, tmp_path_factory.mktemp("folds") / "run", say=quiet)

    def test_intervals_are_students(self, run):
        from scipy import stats

        for row, metric in (("segmenter", "dice"), ("centiou", "accuracy"), ("centiou", "brier")):
            summary = rows(run)[row]["metrics"][metric]
            first, second = summary["values"]
            std = abs(first - second) / math.sqrt(2)
            half = stats.t.ppf(0.975, 1) * std / math.sqrt(2)
            assert summary["mean"] == pytest.approx((first + second) / 2)
            assert summary["std"] == pytest.approx(std)
            assert summary["ci95"] == pytest.approx([summary["mean"] - half, summary["mean"] + half])

    def test_every_case_is_predicted_once(self, run, phantoms, rows_of):
        table = predictions(run, "centiou")
        assert sorted(table["id"]) == sorted(Path(row["image"]).stem for row in rows_of(phantoms / "labels.csv"))
        right = table["true"] == table["predicted"]
        for split, value in zip(
            read_json(run.path("splits.json")), rows(run)["centiou"]["metrics"]["accuracy"]["values"], strict=True
        ):
            assert value == pytest.approx(right[table["id"].isin(split["test"])].mean())

    def test_the_models_are_those_of_the_best_fold_on_validation(self, run):
        scores = [
            read_json(run.path("cells", f"centiou-fold{fold}.json"))["validation"]["balanced_accuracy"]
            for fold in (0, 1)
        ]
        best = run.path("models", "centiou", f"fold{int(np.argmax(scores))}.keras")
        assert run.path("models", "centiou", "model.keras").read_bytes() == best.read_bytes()
        scores = [pd.read_csv(run.path("history", f"segmenter-fold{fold}.csv"))["val_iou"].max() for fold in (0, 1)]
        best = run.path("models", "segmenter", f"fold{int(np.argmax(scores))}.keras")
        assert run.path("models", "segmenter.keras").read_bytes() == best.read_bytes()

    def test_folds_are_trained_from_different_weights(self, run):
        first, second = (pd.read_csv(run.path("history", f"centiou-fold{fold}.csv"))["loss"][0] for fold in (0, 1))
        assert first != second


class TestVariants:
    def test_without_masks_and_with_a_missing_label(self, copied, tiny, tmp_path, rows_of, write_rows):
        table = rows_of(copied / "labels.csv")
        table = [{key: row[key] for key in ("image", "label", "group")} for row in table]
        unlabelled = [table[number].update(label="") or Path(table[number]["image"]).stem for number in (3, 10, 20)]
        write_rows(copied / "labels.csv", table)
        lines = []
        run = run_comparison(tiny(copied, approaches=("plain",)), tmp_path / "run", say=lines.append)
        assert list(rows(run)) == ["plain"]
        assert rows(run)["plain"]["metrics"].keys() == CLASSIFICATION | DECISIONS | COST
        assert not run.path("models", "segmenter.keras").exists()
        assert any("no_mask" in line for line in lines) and any("no_label" in line for line in lines)
        split = read_json(run.path("splits.json"))[0]
        assert set(predictions(run, "plain")["id"]) == set(split["test"]) - set(unlabelled)

    def test_classes_of_masks_ignored_pixels_and_padding(self, phantoms, tiny, tmp_path):
        folder = several_classes(phantoms, tmp_path / "data")
        run = run_comparison(tiny(folder, approaches=("lesion_area",), resize="pad"), tmp_path / "run", say=quiet)
        predictor = load_predictor(run.path("models", "lesion_area", "model.keras"))
        assert predictor.info.resize == "pad"
        assert predictor.info.mask_classes.names == ("background", "rim", "core")
        assert predictor.info.mask_classes.lesion == ("rim", "core")
        mask = predictor.predict(np.zeros((1, 32, 32, 3), np.uint8))["mask"]
        assert mask.shape == (1, 32, 32, 3)
        np.testing.assert_allclose(mask.sum(-1), 1, atol=1e-5)
        scores = rows(run)["segmenter"]["metrics"]
        assert 0.2 < scores["dice"]["mean"] <= 1, "a lesion in a third of the picture is found after 8 epochs"
        cell = read_json(run.path("cells", "segmenter-fold0.json"))
        maps = np.load(run.path("outputs", "segmenter-fold0.npz"))["lesion"] / np.float32(255)
        expected = []
        for case, lesion in zip(cell["ids"], maps, strict=True):
            classes = np.asarray(Image.open(folder / "masks" / f"{case}.png"))
            valid = classes != 255
            found = (restore_map(lesion[..., None], *classes.shape, "pad")[..., 0] >= 0.5)[valid]
            true = classes[valid] > 0
            expected.append(2 * (found & true).sum() / (found.sum() + true.sum()))
        assert cell["per_case"]["dice"] == pytest.approx(expected, abs=0.02)
        assert scores["dice"]["mean"] == pytest.approx(np.mean(expected), abs=0.02)

    def test_a_trained_segmenter_is_used_as_it_is(self, finished, phantoms, tiny, tmp_path, count):
        trained = finished[0].path("models", "segmenter.keras")
        config = tiny(phantoms, segmenter_file=str(trained), approaches=("soft_mask",), epochs=1)
        run = run_comparison(config, tmp_path / "run", say=quiet)
        assert count.trained == ["soft_mask"]
        dice = [rows(one)["segmenter"]["metrics"]["dice"]["mean"] for one in (run, finished[0])]
        assert dice[0] == pytest.approx(dice[1], abs=1e-6)

    def test_flips_and_postprocessing_are_for_the_segmenters_row_alone(
        self, finished, phantoms, tiny, tmp_path, model_images
    ):
        trained = finished[0].path("models", "segmenter.keras")
        changes = {"segmenter_flips": "both", "segmenter_postprocessing": ("largest_component", "fill_holes")}
        config = tiny(phantoms, segmenter_file=str(trained), approaches=("soft_mask",), **changes)
        cases, split = load_cases(phantoms), finished[0].path("splits.json")
        arrays = load_arrays(cases, config.image_size)
        grid = cells.Comparison(Run(tmp_path), config.resolved(), cases, arrays, read_split(split, cases))
        segmenter_cell, masking_cell = grid.cells()
        result = grid.compute(segmenter_cell, DETACHED)

        predictor, images = load_predictor(trained), model_images(result["ids"])
        mirrored = [((), ()), ((2,), (1,)), ((1,), (0,)), ((1, 2), (0, 1))]
        expected = []
        for number, case in enumerate(result["ids"]):
            one = images[number : number + 1]
            maps = [np.flip(predictor.predict(np.flip(one, axes))["mask"][0, ..., 0], back) for axes, back in mirrored]
            found = np.mean(maps, axis=0) >= 0.5
            contours, _ = cv2.findContours(found.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            parts = [cv2.drawContours(np.zeros_like(found, np.uint8), [line], -1, 1, -1) > 0 for line in contours]
            found = max(parts, key=np.count_nonzero) if parts else found
            true = np.asarray(Image.open(phantoms / "masks" / f"{case}.png")) > 0
            expected.append((found & true).sum() / (found | true).sum() if (found | true).any() else 1.0)
        assert result["per_case"]["iou"] == pytest.approx(expected)
        before = read_json(finished[0].path("cells", "segmenter-fold0.json"))["per_case"]["iou"]
        assert result["per_case"]["iou"] != pytest.approx(before)
        alone = predictor.predict(arrays.images)["mask"][..., 0]
        np.testing.assert_allclose(grid.maps_of(masking_cell)["lesion"], 255 * alone, atol=0.51)

    def test_only_masking_asks_the_segmenter_for_maps_of_all_cases(
        self, finished, phantoms, tiny, tmp_path, monkeypatch
    ):
        asked, original = [], handed.frozen_maps
        monkeypatch.setattr(handed, "frozen_maps", lambda *arguments: asked.append(1) or original(*arguments))
        trained = str(finished[0].path("models", "segmenter.keras"))
        config = tiny(phantoms, segmenter_file=trained, approaches=("plain", "centiou"), epochs=1)
        run_comparison(config, tmp_path / "without", say=quiet)
        assert asked == []
        run_comparison(replace(config, approaches=("soft_mask", "hard_mask")), tmp_path / "with", say=quiet)
        assert asked == [1], "computed once for both"


class TestMistakes:
    """Whatever can be known is said before anything is written or trained."""

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"weights": "nowhere.npz", "approaches": ("plain",)}, "nowhere.npz"),
            ({"approaches": ("plain", "hard_mask")}, "hard_mask"),
            ({"approaches": ("centiou",)}, "centiou"),
        ],
        ids=lambda value: str(value),
    )
    def test_what_the_data_does_not_allow(self, copied, tiny, tmp_path, rows_of, write_rows, changes, expected):
        table = [{key: row[key] for key in ("image", "label")} for row in rows_of(copied / "labels.csv")]
        write_rows(copied / "labels.csv", table)
        with pytest.raises(ConfigError, match=expected):
            run_comparison(tiny(copied, **changes), tmp_path / "run", say=quiet)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("kind", ["missing", "no model", "of another size", "no segmenter"])
    def test_a_segmenter_that_does_not_fit(self, finished, phantoms, tiny, tmp_path, kind):
        path, size = finished[0].path("models", "segmenter.keras"), 32
        if kind == "missing":
            path = tmp_path / "nothing.keras"
        elif kind == "no model":
            path = tmp_path / "text.keras"
            path.write_text("no model")
        elif kind == "of another size":
            size = 64
        else:
            path = finished[0].path("models", "plain", "model.keras")
            import keras

            model = keras.saving.load_model(path, compile=False)
            path = tmp_path / "classifier.keras"
            keras.Model(model.input, {"probabilities": model.output["probabilities"]}).save(path)
        config = tiny(phantoms, segmenter_file=str(path), approaches=("plain",), image_size=size)
        with pytest.raises(UserError, match=path.name):
            run_comparison(config, tmp_path / "run", say=quiet)
        assert not (tmp_path / "run").exists(), "the folder would refuse the corrected command"

    def test_masks_in_the_test_part_only(self, copied, tiny, tmp_path, rows_of, write_rows):
        table = rows_of(copied / "labels.csv")
        for number, row in enumerate(table):
            row["split"] = ("train", "train", "val", "val", "test", "test")[number % 6]
            row["group"] = ""
            row["mask"] = row["mask"] if row["split"] == "test" else ""
        write_rows(copied / "labels.csv", table)
        with pytest.raises((ConfigError, DataError), match="segmenter needs masks"):
            run_comparison(tiny(copied, approaches=("plain",)), tmp_path / "run", say=quiet)
        assert not (tmp_path / "run").exists()


def several_classes(source: Path, target: Path) -> Path:
    """The phantoms as wide pictures whose masks have a rim, a core, and a strip that counts nowhere."""
    import shutil

    import cv2

    shutil.copytree(source, target)
    for path in sorted((target / "images").iterdir()):
        image, mask = np.asarray(Image.open(path)), np.asarray(Image.open(target / "masks" / path.name)) > 0
        core = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        classes = np.where(core, 2, np.where(mask, 1, 0)).astype(np.uint8)
        classes[:, :2] = 255
        wide = np.zeros((32, 48), np.uint8)
        wide[:, 8:40] = classes
        picture = np.pad(image, ((0, 0), (8, 8), (0, 0)), mode="edge")
        Image.fromarray(picture).save(path)
        Image.fromarray(wide).save(target / "masks" / path.name)
    (target / "dataset.json").write_text(
        json.dumps({"mask_classes": ["background", "rim", "core"], "ignore": 255, "lesion": ["rim", "core"]})
    )
    return target


class TestBinding:
    """Parts from a file, a number per class for the test, and datasets from elsewhere."""

    @pytest.fixture(scope="class")
    def bound(self, finished, phantoms, tiny, tmp_path_factory):
        folder = tmp_path_factory.mktemp("bound")
        config = PhantomConfig(images=16, size=32, classes=("benign", "malignant"), seed=21)
        other = write_phantoms(config, folder / "clinic")
        # The other clinic didn't write down what the scores are broken down by.
        table = pd.read_csv(other / "labels.csv").drop(columns="symmetry")
        table.to_csv(other / "labels.csv", index=False)
        changed = tiny(
            phantoms,
            approaches=("plain", "lesion_area"),
            epochs=1,
            segmenter_epochs=1,
            split_file=str(finished[0].path("splits.json")),
            subgroups=("symmetry",),
            external=(str(other),),
            segmenter_flips="vertical",
            segmenter_postprocessing=("fill_holes",),
        )
        return run_comparison(changed, folder / "run", say=lambda line: None)

    def test_the_parts_are_those_of_the_other_run(self, bound, finished):
        assert read_json(bound.path("splits.json")) == read_json(finished[0].path("splits.json"))

    def test_every_row_is_tested_on_the_other_data(self, bound):
        rows = {row["name"]: row for row in read_json(bound.path("metrics.json"))["rows"]}
        assert set(rows) == {
            "segmenter",
            "plain",
            "lesion_area",
            "segmenter on clinic",
            "plain on clinic",
            "lesion_area on clinic",
        }
        assert sum(map(sum, rows["plain on clinic"]["confusion"])) == 16
        assert rows["segmenter on clinic"]["settings"] == {"flips": "vertical", "postprocessing": ["fill_holes"]}
        assert bound.path("external", "clinic", "plain", "predictions.csv").exists()
        assert rows["plain on clinic"].get("subgroups", {}) == {}, "a column that isn't there is no mistake"

    def test_subgroups_stand_in_the_row_and_the_table(self, bound):
        row = {row["name"]: row for row in read_json(bound.path("metrics.json"))["rows"]}["plain"]
        parts = row["subgroups"]["symmetry"]
        assert sum(part["cases"] for part in parts.values()) == sum(map(sum, row["confusion"]))
        assert "| plain | symmetry | " in bound.path("table.md").read_text(encoding="utf-8")

    def test_a_number_per_class(self, phantoms, tiny, tmp_path):
        config = tiny(phantoms, approaches=("plain",), epochs=1, segmenter_epochs=1, test_per_class=4, val_fraction=0.3)
        run = run_comparison(config, tmp_path / "run", say=lambda line: None)
        (row,) = (row for row in read_json(run.path("metrics.json"))["rows"] if row["name"] == "plain")
        assert [sum(counts) for counts in row["confusion"]] == [4, 4]

    def test_mistakes_about_what_comes_last_are_found_first(self, phantoms, tiny, tmp_path, monkeypatch):
        """Nothing is trained, and the folder takes the corrected command."""
        monkeypatch.setattr(comparison, "finish_grid", lambda *values: pytest.fail("it trained"))
        for wrong, message in (
            ({"subgroups": ("agee",)}, "no column agee"),
            ({"external": (str(tmp_path / "nowhere"),)}, "does not exist"),
            ({"allow": ("truncated",)}, "such files can't be trained on"),
            ({"external": (str(phantoms), str(phantoms))}, "different names"),
        ):
            with pytest.raises((ConfigError, DataError), match=message):
                run_comparison(tiny(phantoms, **wrong), tmp_path / "run", say=lambda line: None)
            assert not (tmp_path / "run").exists()

    def test_a_split_file_that_leaves_a_class_out(self, finished, phantoms, tiny, tmp_path, monkeypatch):
        (split,) = read_json(finished[0].path("splits.json"))
        labels = pd.read_csv(phantoms / "labels.csv").assign(
            id=lambda table: table["image"].map(lambda p: Path(p).stem)
        )
        malignant = set(labels["id"][labels["label"] == "malignant"])
        moved = [case for case in split["val"] if case in malignant]
        changed = split | {"train": split["train"] + moved, "val": [c for c in split["val"] if c not in moved]}
        (tmp_path / "splits.json").write_text(json.dumps([changed]))
        monkeypatch.setattr(comparison, "finish_grid", lambda *values: pytest.fail("it trained"))
        with pytest.raises(DataError, match="'malignant'.* missing from the part 'val'"):
            run_comparison(tiny(phantoms, split_file=str(tmp_path / "splits.json")), tmp_path / "run", say=quiet)

    def test_a_given_segmenter_with_folds_and_no_masks_at_all(
        self, finished, copied, tiny, tmp_path, rows_of, write_rows
    ):
        write_rows(copied / "labels.csv", [row | {"mask": ""} for row in rows_of(copied / "labels.csv")])
        segmenter = str(finished[0].path("models", "segmenter.keras"))
        config = tiny(copied, approaches=("hard_mask",), epochs=1, cross_validation=2, segmenter_file=segmenter)
        config = replace(config, cache="disk", cache_dir=str(tmp_path / "cache"))
        run = run_comparison(config, tmp_path / "run", say=lambda line: None)
        (row,) = read_json(run.path("metrics.json"))["rows"]
        assert row["name"] == "hard_mask" and sum(map(sum, row["confusion"])) == 36
        assert any((tmp_path / "cache").rglob("*.npy")), "the decoded images are kept on the disk"
        assert run.path("models", "segmenter.keras").exists()


class TestGrid:
    """Folds and repeats, done in parts, and what a part says about itself."""

    @pytest.fixture(scope="class")
    def parts(self, phantoms, tiny, tmp_path_factory):
        """The configuration, the folder, and the records after each sitting."""
        config = tiny(
            phantoms, cross_validation=2, repeats=2, approaches=("plain", "soft_mask"), epochs=2, segmenter_epochs=2
        )
        folder, seen = tmp_path_factory.mktemp("grid") / "run", []
        for session in (Session(cells=("plain",), folds=("1",)), Session(cells=("2",)), Session()):
            run = run_comparison(config, folder, session=session, say=quiet)
            report = run.path("report.html").read_text(encoding="utf-8")
            seen.append((read_json(run.path("metrics.json")), run.finished, report))
        return run, seen

    def test_a_part_is_tabulated_and_says_that_it_is_one(self, parts):
        (metrics, done, page), *_ = parts[1]
        assert [row["name"] for row in metrics["rows"]] == ["segmenter", "plain"] and not done
        assert len(metrics["rows"][1]["metrics"]["accuracy"]["values"]) == 2, "two repeats of one fold"
        assert not metrics["complete"] and len(metrics["missing"]) == 10 - 3
        assert "3 of 10 cells are done" in page and "segmenter-fold0" in page

    def test_the_whole(self, parts):
        run, (_, (half, *_), (metrics, done, page)) = parts
        assert not half["complete"] and metrics["complete"] and done and "cells are done" not in page
        by_name = {row["name"]: row["metrics"] for row in metrics["rows"]}
        cells = [read_json(path) for path in run.path("cells").glob("plain-*.json")]
        assert len(cells) == 4 and {(cell["fold"], cell["repeat"]) for cell in cells} == {
            (fold, repeat) for fold in (0, 1) for repeat in (0, 1)
        }
        table = predictions(run, "plain")
        right = (table["true"] == table["predicted"]).groupby([table["fold"], table["repeat"]]).mean()
        values = by_name["plain"]["accuracy"]["values"]
        assert values == pytest.approx([right[fold].mean() for fold in (0, 1)]), "one value per fold"
        assert len(by_name["segmenter"]["dice"]["values"]) == 2

    def test_repeats_differ_and_share_the_segmenter(self, parts):
        run = parts[0]
        first, second = (
            pd.read_csv(run.path("history", f"soft_mask-fold0{end}.csv"))["loss"][0] for end in ("", "-repeat1")
        )
        assert first != second
        assert sorted(path.name for path in run.path("models", "segmenter").iterdir()) == ["fold0.keras", "fold1.keras"]
        names = sorted(path.name for path in run.path("models", "soft_mask").iterdir())
        assert names == [*(f"fold{fold}-repeat{repeat}.keras" for fold in (0, 1) for repeat in (0, 1)), "model.keras"]
        assert not run.path("checkpoints").exists()

    def test_a_loss_that_is_no_number_stops_its_cell_only(self, phantoms, tiny, tmp_path, monkeypatch):
        """The second approach breaks down in its second epoch, the third in its first."""
        from tfseg.training import classifier

        fit = classifier.fit

        def failing(model, batches, validation, *, description, epochs, steps, **options):
            start = {"hard_mask": steps, "soft_mask": 0}.get(description, 10**6)

            def broken(first):
                def spoil(number, batch):
                    inputs, labels, weights = batch
                    return inputs, labels, tf.where(number < start, weights, float("nan"))

                return tf.data.Dataset.zip(tf.data.Dataset.counter(first), batches(first)).map(spoil)

            return fit(model, broken, validation, description=description, epochs=epochs, steps=steps, **options)

        monkeypatch.setattr(classifier, "fit", failing)
        config = tiny(phantoms, approaches=("plain", "hard_mask", "soft_mask"), epochs=3, segmenter_epochs=1)
        with pytest.raises(TrainingError, match=r"1 of 4 cells failed:\n  soft_mask-fold0: soft_mask: the loss is no"):
            run_comparison(config, tmp_path / "run", say=quiet)
        run = Run(tmp_path / "run")
        metrics = read_json(run.path("metrics.json"))
        rows = {row["name"]: row for row in metrics["rows"]}
        assert list(rows) == ["segmenter", "plain", "hard_mask"] and not run.finished
        (note,) = rows["hard_mask"]["notes"]
        assert re.match(r"hard_mask-fold0: the loss is no number in epoch 2, batch 1 \(images phantom_", note)
        assert rows["hard_mask"]["metrics"]["best_epoch"]["mean"] == 1, "the last good weights are kept"
        assert np.isfinite(predictions(run, "hard_mask")["prob_benign"]).all()
        assert "soft_mask-fold0" in metrics["failed"]
        assert note in run.path("table.md").read_text(encoding="utf-8")
        monkeypatch.undo()
        assert run_comparison(config, run.folder, say=quiet).finished, "the next try trains the failed one"
