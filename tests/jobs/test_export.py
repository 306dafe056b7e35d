"""From a run to what is served: files, parity, versions, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfseg.errors import ConfigError, DataError, ExportError, RunError
from tfseg.export.predictor import load_predictor
from tfseg.jobs import export
from tfseg.jobs.export import export_run
from tfseg.run import read_json


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def only_mobile(finished, tmp_path):
    """``only_mobile(**changes)``: the quickest export, into ``tmp_path``."""

    def run(folder=finished[0].folder, name="skin", row="plain", **changes):
        return export_run(folder, name, row, **{"formats": ("float32",), "out": tmp_path / "models", **changes})

    return run


@pytest.fixture
def stubbed(monkeypatch):
    """Exports that write a line, all of which agree: for what is around them."""
    images = []

    def agree(model, pixels, *paths):
        images.append(pixels)
        return {"passed": all(path is None or path.exists() for path in paths)}

    def write(model, path, *rest):
        if path.suffix == ".tflite":
            path.write_text("new")
        else:
            path.mkdir()

    monkeypatch.setattr(export, "export_litert", write)
    monkeypatch.setattr(export, "export_saved_model", write)
    monkeypatch.setattr(export, "check_parity", agree)
    return images


class TestFiles:
    def test_both_formats_and_the_parity_report(self, exported, finished):
        report, folder = exported
        skin = folder / "skin"
        assert report["files"] == {"saved_model": str(skin / "1"), "float32": str(skin / "skin.float32.tflite")}
        assert (skin / "1" / "saved_model.pb").is_file() and (skin / "skin.float32.tflite").is_file()
        assert sorted(path.name for path in skin.iterdir()) == ["1", "parity.1.json", "skin.float32.tflite"]
        assert read_json(skin / "parity.1.json") == report
        assert report["passed"] and report["row"] == "soft_mask" and report["run"] == str(finished[0].folder)

    def test_parity_was_measured_on_images_that_were_not_trained_on(self, exported, finished):
        report = exported[0]
        (split,) = read_json(finished[0].path("splits.json"))
        assert report["images"] == len(split["test"]) + len(split["val"])
        for kind in ("saved_model", "saved_model_bytes", "litert"):
            difference = report[kind]["max_difference"]
            assert set(difference) == {"probabilities", "mask", "saliency", "unfamiliarity"}
            assert difference["probabilities"] <= 1e-4 and difference["mask"] <= 1e-4
            assert report[kind]["argmax_agreement"] == 1.0

    @pytest.mark.parametrize("kind", ["saved_model", "float32"])
    def test_what_was_exported_predicts_what_the_run_predicted(self, exported, finished, model_images, kind):
        table = pd.read_csv(finished[0].path("predictions", "soft_mask.csv"))
        outputs = load_predictor(exported[0]["files"][kind]).predict(model_images(table["id"]))
        np.testing.assert_allclose(outputs["probabilities"], table[["prob_benign", "prob_malignant"]], atol=1e-4)

    def test_the_default_row_is_the_best_on_validation(self, only_mobile, finished, stubbed):
        assert only_mobile(row=None)["row"] == read_json(finished[0].path("metrics.json"))["best_row"]

    def test_the_segmenter_can_be_exported(self, only_mobile, finished):
        report = only_mobile(row="segmenter")
        assert report["litert"]["argmax_agreement"] is None
        assert set(report["litert"]["max_difference"]) == {"mask"}

    def test_versions_count_up(self, finished, tmp_path, stubbed):
        models = tmp_path / "models"
        for version in ("1", "2"):
            report = export_run(finished[0].folder, "skin", "plain", ("saved_model",), models)
            assert report["files"] == {"saved_model": str(models / "skin" / version)}
        (models / "skin" / "17").mkdir()
        (models / "skin" / "notes-99").mkdir()
        report = export_run(finished[0].folder, "skin", "plain", ("saved_model",), models)
        assert report["files"]["saved_model"] == str(models / "skin" / "18")
        parities = {path.name for path in (models / "skin").glob("parity.*.json")}
        assert parities == {"parity.1.json", "parity.2.json", "parity.18.json"}

    def test_data_that_was_moved(self, only_mobile, finished, phantoms, tmp_path, stubbed, model_images):
        moved = shutil.copytree(phantoms, tmp_path / "elsewhere")
        folder = shutil.copytree(finished[0].folder, tmp_path / "run")
        config = folder / "config.json"
        config.write_text(config.read_text().replace(str(phantoms), str(tmp_path / "gone")))
        with pytest.raises(DataError, match="gone"):
            only_mobile(folder)
        assert not (tmp_path / "models").exists()
        assert only_mobile(folder, data=str(moved))["passed"]
        (tested,) = stubbed
        (split,) = read_json(folder / "splits.json")
        expected = model_images(split["test"] + split["val"])
        assert sorted(image.tobytes() for image in tested) == sorted(image.tobytes() for image in expected)


class TestRefusals:
    def test_an_export_that_disagrees_is_removed(self, finished, tmp_path, monkeypatch):
        real = export.export_saved_model

        def wrong(model, path, *rest):
            """Another model of the same shape in its place."""
            import keras

            other = keras.models.clone_model(model)
            other.set_weights([value + 0.1 for value in model.get_weights()])
            real(other, path, *rest)

        monkeypatch.setattr(export, "export_saved_model", wrong)
        with pytest.raises(ExportError, match="saved_model: probabilities differs") as caught:
            export_run(finished[0].folder, "skin", "plain", ("saved_model",), tmp_path / "models")
        assert not caught.value.report["passed"]
        assert not list((tmp_path / "models").rglob("*.*")), everything(tmp_path)
        assert not (tmp_path / "models" / "skin" / "1").exists()

    def test_a_refused_export_leaves_the_earlier_ones_alone(self, finished, tmp_path, monkeypatch, stubbed):
        def both(row):
            return export_run(finished[0].folder, "skin", row, out=tmp_path / "models")

        both("plain")
        (tmp_path / "models" / "skin" / "skin.float32.tflite").write_text("old")
        before = {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()}
        assert len(before) == 2

        def refuse(*arguments):
            raise ExportError("differs")

        monkeypatch.setattr(export, "check_parity", refuse)
        with pytest.raises(ExportError):
            both("soft_mask")
        assert [path.name for path in (tmp_path / "models" / "skin").iterdir() if path.is_dir()] == ["1"]
        after = {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()}
        assert after == before

    @pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "..", "/tmp/x"])
    def test_names_that_are_no_folder(self, only_mobile, tmp_path, name):
        with pytest.raises(ConfigError, match="`name` must be a plain folder name"):
            only_mobile(name=name)
        assert everything(tmp_path) == []

    @pytest.mark.parametrize("formats", [(), ("int8",), ("float32", "onnx")])
    def test_unknown_formats(self, only_mobile, formats):
        with pytest.raises(ConfigError, match="`formats` must be out of saved_model, float32"):
            only_mobile(formats=formats)

    def test_an_unfinished_run(self, only_mobile, finished, tmp_path):
        folder = shutil.copytree(finished[0].folder, tmp_path / "run")
        (folder / "metrics.json").unlink()
        with pytest.raises(RunError, match="metrics.json is missing"):
            only_mobile(folder)
        assert not (tmp_path / "models").exists()

    def test_an_unknown_row_names_the_rows(self, only_mobile):
        with pytest.raises(RunError, match="'magic'; rows: segmenter, plain, soft_mask"):
            only_mobile(row="magic")

    def test_no_run_at_all(self, only_mobile, tmp_path):
        with pytest.raises(RunError, match="nowhere"):
            only_mobile(tmp_path / "nowhere")
