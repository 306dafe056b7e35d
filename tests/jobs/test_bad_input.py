"""Bad input through the command line: a clear message, exit code 2, and nothing in the way of the next try."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tfseg import cli
from tfseg.jobs import cells, comparison

QUICK = ("--image-size", "32", "--segmenter-width", "4", "--segmenter-depth", "2", "--approach", "plain")


@pytest.fixture
def command(capsys):
    """``command(*words)``: exit code and what was written to the error stream, free of tracebacks."""

    def run(*words) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(word) for word in words])
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        return caught.value.code, errors

    return run


@pytest.fixture
def refused(command, tmp_path, monkeypatch):
    """``refused(data, *patterns)``: `train` exits with 2, says all of them, trains nothing and leaves nothing."""
    for name in ("given_or_trained", "train_classifier"):
        monkeypatch.setattr(cells, name, lambda *arguments: pytest.fail("trains on bad data"))

    def check(data: Path, *patterns: str, options: tuple = ()):
        before = sorted(tmp_path.rglob("*"))
        code, errors = command("train", data, *QUICK, "--out", tmp_path / "run", *options)
        assert code == 2
        for pattern in patterns:
            assert re.search(pattern, errors), f"{pattern!r} is not said:\n{errors}"
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"

    return check


def change(folder: Path, edit, rows_of, write_rows) -> None:
    table = rows_of(folder / "labels.csv")
    write_rows(folder / "labels.csv", edit(table) or table)


class TestData:
    def test_no_folder(self, refused, tmp_path):
        refused(tmp_path / "nowhere", "nowhere", "does not exist")

    def test_a_folder_without_a_table(self, refused, copied):
        (copied / "labels.csv").unlink()
        refused(copied, r"labels\.csv", "is missing", "image,mask,label")

    def test_an_unknown_target(self, refused, copied):
        refused(copied, "no column 'binary'", "symmetry", options=("--target", "binary"))

    def test_a_mask_of_another_size(self, refused, copied):
        Image.new("L", (16, 32)).save(copied / "masks" / "phantom_00004.png")
        refused(copied, r"masks/phantom_00004\.png", "16×32", "32×32")

    def test_a_truncated_jpeg(self, refused, copied, rows_of, write_rows):
        path = copied / "images" / "phantom_00007.png"
        jpeg = path.with_suffix(".jpg")
        Image.open(path).save(jpeg)
        path.unlink()
        jpeg.write_bytes(jpeg.read_bytes()[:-300])
        change(
            copied,
            lambda table: table[7].update(image="images/phantom_00007.jpg"),
            rows_of,
            write_rows,
        )
        refused(copied, r"images/phantom_00007\.jpg", "cut short")

    def test_everything_wrong_is_said_at_once(self, refused, copied):
        (copied / "images" / "phantom_00001.png").write_text("no image")
        (copied / "images" / "phantom_00002.png").write_bytes(b"")
        Image.new("L", (16, 16)).save(copied / "masks" / "phantom_00003.png")
        refused(copied, "3 problems", *(rf"phantom_0000{number}\.png" for number in (1, 2, 3)))

    def test_a_missing_image(self, refused, copied):
        (copied / "images" / "phantom_00009.png").unlink()
        refused(copied, r"images/phantom_00009\.png", "missing")

    def test_mask_values_that_nothing_declares(self, refused, copied):
        Image.new("L", (32, 32), 7).save(copied / "masks" / "phantom_00005.png")
        refused(copied, r"masks/phantom_00005\.png", "7")

    def test_a_label_that_occurs_once(self, refused, copied, rows_of, write_rows):
        change(copied, lambda table: table[5].update(label="lentigo"), rows_of, write_rows)
        refused(copied, "lentigo")

    def test_one_class_only(self, refused, copied, rows_of, write_rows):
        change(copied, lambda table: [row | {"label": "benign"} for row in table], rows_of, write_rows)
        refused(copied, "benign")

    def test_a_class_missing_from_a_part(self, refused, copied, rows_of, write_rows):
        def edit(table):
            for number, row in enumerate(table):
                part = ("train", "val", "test")[number % 3]
                row["split"] = "train" if part == "test" and row["label"] == "malignant" else part

        change(copied, edit, rows_of, write_rows)
        refused(copied, "malignant", "'test'")

    def test_too_few_groups_for_the_folds(self, refused, copied, rows_of, write_rows):
        def edit(table):
            for number, row in enumerate(table):
                row["group"] = f"patient{number % 3}"

        change(copied, edit, rows_of, write_rows)
        refused(copied, "fold", options=("--cross-validation", "5"))

    def test_an_allowed_error_is_a_warning(self, command, copied, tmp_path, rows_of, write_rows, monkeypatch, capsys):
        """The mask of another size is let through, as asked, up to the reading of the images."""
        Image.new("L", (16, 32)).save(copied / "masks" / "phantom_00004.png")
        monkeypatch.setattr(comparison, "configured_arrays", _stop)
        code, _ = command("train", copied, *QUICK, "--out", tmp_path / "run", "--allow", "mask_size")
        assert code == 130, "the run got as far as reading"

    def test_the_corrected_command_works(self, command, copied, tmp_path, monkeypatch):
        out = tmp_path / "run"
        path = copied / "images" / "phantom_00004.png"
        sound = path.read_bytes()
        path.write_bytes(sound[:-100])
        assert command("train", copied, *QUICK, "--out", out)[0] == 2
        path.write_bytes(sound)
        monkeypatch.setattr(comparison, "configured_arrays", _stop)
        assert command("train", copied, *QUICK, "--out", out)[0] == 130


def _stop(*arguments, **options):
    raise KeyboardInterrupt


class TestOut:
    def test_another_runs_folder(self, command, finished, phantoms):
        run = finished[0]
        before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
        code, errors = command("train", phantoms, *QUICK, "--out", run.folder)
        assert code == 2
        assert str(run.folder) in errors and "belongs to another run" in errors and "epochs: 4 there" in errors
        assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before

    def test_a_folder_of_something_else(self, command, phantoms, tmp_path):
        (tmp_path / "photo.jpg").touch()
        code, errors = command("train", phantoms, *QUICK, "--out", tmp_path)
        assert code == 2 and "--out" in errors and str(tmp_path) in errors
        assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]

    @pytest.mark.parametrize("out", ["file", "file/run"])
    def test_a_file(self, command, phantoms, tmp_path, out):
        (tmp_path / "file").touch()
        code, errors = command("train", phantoms, *QUICK, "--out", tmp_path / out)
        assert code == 2 and str(tmp_path / out) in errors
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestFullDisk:
    @pytest.fixture
    def full(self, monkeypatch):
        """``full(name)``: files of that name are written half, and then the disk is full."""

        def arm(suffix: str):
            real = Path.write_text

            def write(path, text, *rest, **options):
                if not path.name.endswith(suffix):
                    return real(path, text, *rest, **options)
                real(path, text[: len(text) // 2], *rest, **options)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

            monkeypatch.setattr(Path, "write_text", write)

        return arm

    def test_from_the_start(self, command, phantoms, tmp_path, full):
        full(".json")
        code, errors = command("train", phantoms, *QUICK, "--out", tmp_path / "run")
        assert code == 2 and "no space left" in errors and "config.json" in errors
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_while_a_model_is_saved(self, command, phantoms, tmp_path, monkeypatch):
        class Segmenter:
            layers = ()

            def save(self, path):
                Path(path).write_text("half a model")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr(cells, "given_or_trained", lambda *arguments: (Segmenter(), pd.DataFrame(), ""))
        code, errors = command("train", phantoms, *QUICK, "--out", tmp_path / "run")
        assert code == 2 and "no space left" in errors and "segmenter.keras" in errors
        assert not (tmp_path / "run").exists()

    def test_at_the_end_of_a_run_what_was_trained_is_kept(self, command, finished, tmp_path, full, monkeypatch):
        import shutil

        folder = Path(shutil.copytree(finished[0].folder, tmp_path / "run"))
        for name in ("state.json", "report.html", "metrics.json", "table.md"):
            (folder / name).unlink()
        full(".html")
        config = finished[1]
        monkeypatch.setattr(cells, "train_classifier", lambda *arguments: pytest.fail("trains again"))

        def job():
            comparison.run_comparison(config, folder, experiment="train", preset="custom", say=lambda line: None)
            return 0

        assert cli.run_guarded(job) == 2
        assert not (folder / "report.html").exists() and (folder / "models" / "plain" / "model.keras").exists()
        assert not [path for path in folder.rglob(".*")], "half a report is left"
        monkeypatch.undo()
        monkeypatch.setattr(cells, "train_classifier", lambda *arguments: pytest.fail("trains again"))
        assert cli.run_guarded(job) == 0
        assert (folder / "report.html").read_text() and (folder / "metrics.json").exists()


class TestModels:
    """Commands that take a model."""

    def test_evaluate_without_a_model(self, command, phantoms, tmp_path):
        code, errors = command("evaluate", tmp_path / "nothing.keras", phantoms, "--out", tmp_path / "out")
        assert code == 2 and "nothing.keras" in errors and not (tmp_path / "out").exists()

    def test_evaluate_a_file_that_is_no_model(self, command, phantoms, tmp_path):
        (tmp_path / "text.keras").write_text("no model")
        code, errors = command("evaluate", tmp_path / "text.keras", phantoms, "--out", tmp_path / "out")
        assert code == 2 and "text.keras" in errors and not (tmp_path / "out").exists()

    def test_evaluate_an_unfinished_run(self, command, finished, phantoms, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_bytes(finished[0].path("config.json").read_bytes())
        code, errors = command("evaluate", tmp_path / "run", phantoms, "--out", tmp_path / "out")
        assert code == 2 and "run" in errors and "unfinished" in errors
        assert not (tmp_path / "out").exists()

    def test_evaluate_on_bad_data(self, command, finished, copied, tmp_path):
        (copied / "images" / "phantom_00004.png").write_bytes(b"")
        code, errors = command("evaluate", finished[0].folder, copied, "--out", tmp_path / "out")
        assert code == 2 and "phantom_00004.png" in errors and not (tmp_path / "out").exists()

    def test_predict_nothing(self, command, finished, tmp_path):
        (tmp_path / "empty").mkdir()
        model = finished[0].path("models", "plain", "model.keras")
        code, errors = command("predict", model, tmp_path / "empty", "--out", tmp_path / "out")
        assert code == 2 and "no image" in errors and not (tmp_path / "out").exists()

    def test_predict_leaves_out_what_cannot_be_read_and_says_so(self, command, finished, copied, tmp_path):
        (copied / "images" / "phantom_00004.png").write_bytes(b"")
        model = finished[0].path("models", "plain", "model.keras")
        code, errors = command("predict", model, copied, "--out", tmp_path / "out", "--no-overlays")
        assert code == 0 and "left out" in errors and "phantom_00004.png" in errors
        assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 35
        assert len(pd.read_csv(tmp_path / "out" / "problems.csv")) == 1

    def test_export_of_no_run(self, command, phantoms, tmp_path):
        code, errors = command("export", phantoms, "--name", "x", "--out", tmp_path / "models")
        assert code == 2 and str(phantoms) in errors and not (tmp_path / "models").exists()
