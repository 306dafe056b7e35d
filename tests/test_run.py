"""Run folders: written whole, resumed by the same configuration only, recorded without this machine's paths."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from tfseg.errors import ConfigError, RunError
from tfseg.run import (
    Run,
    environment,
    read_json,
    recorded_command,
    recorded_path,
    write_json,
    write_text,
    written_whole,
)

CONFIG = {"experiment": "train", "epochs": 3, "approaches": ("plain",)}


def everything(folder: Path) -> list[str]:
    """All names below a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


class TestWrittenWhole:
    def test_makes_parents_and_keeps_the_suffix_for_writers_that_choose_by_it(self, tmp_path):
        with written_whole(tmp_path / "a" / "b" / "model.keras") as temporary:
            assert temporary.suffix == ".keras"
            assert temporary.parent == tmp_path / "a" / "b"
            temporary.write_text("new")
            assert not (tmp_path / "a" / "b" / "model.keras").exists()
        assert everything(tmp_path) == ["a", "a/b", "a/b/model.keras"]

    def test_replaces_a_file(self, tmp_path):
        write_text(tmp_path / "a.txt", "old")
        write_text(tmp_path / "a.txt", "new ±")
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new ±"
        assert everything(tmp_path) == ["a.txt"]

    def test_replaces_a_folder_with_everything_in_it(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "old.bin").touch()
        with written_whole(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / "new.bin").touch()
        assert everything(tmp_path) == ["model", "model/new.bin"]

    @pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()], ids=["error", "interrupt"])
    @pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
    def test_nothing_is_left_of_a_failure_and_the_old_stays(self, tmp_path, error, folder):
        target = tmp_path / "old"
        if folder:
            target.mkdir()
            (target / "kept").touch()
        else:
            target.write_text("kept")
        before = everything(tmp_path)
        with pytest.raises(type(error)), written_whole(target) as temporary:
            if folder:
                temporary.mkdir()
                (temporary / "half").touch()
            else:
                temporary.write_text("half")
            raise error
        assert everything(tmp_path) == before
        assert folder or target.read_text() == "kept"

    def test_a_folder_stays_when_the_block_writes_nothing(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "kept").touch()
        with pytest.raises(OSError), written_whole(tmp_path / "model"):
            pass
        assert everything(tmp_path) == ["model", "model/kept"]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_is_said_and_leaves_nothing(self, tmp_path, code):
        write_text(tmp_path / "metrics.json", "old")
        with (
            pytest.raises(RunError, match="no space left.*metrics.json"),
            written_whole(tmp_path / "metrics.json") as temporary,
        ):
            temporary.write_text("half")
            raise OSError(code, os.strerror(code), str(temporary))
        assert everything(tmp_path) == ["metrics.json"]
        assert (tmp_path / "metrics.json").read_text() == "old"

    @pytest.mark.parametrize("path", ["file/config.json", "file/sub/config.json"])
    def test_a_file_in_the_place_of_a_folder(self, tmp_path, path):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match="cannot write .*config.json"):
            write_json(tmp_path / path, {})
        assert everything(tmp_path) == ["file"]

    def test_other_system_errors_are_not_the_users(self, tmp_path):
        with pytest.raises(OSError) as caught, written_whole(tmp_path / "a.txt"):
            raise OSError(errno.EIO, "input/output error")
        assert caught.value.errno == errno.EIO


class TestJson:
    def test_values_become_plain(self, tmp_path):
        value = {
            "nan": math.nan,
            "infinite": [math.inf, -math.inf, np.float32(np.inf), np.float64(np.nan)],
            "whole": np.int64(7),
            "half": np.float32(0.5),
            "yes": np.bool_(True),
            "array": np.array([[1.5, np.nan]]),
            "tuple": (1, "a"),
            "path": Path("a/b"),
            3: None,
        }
        write_json(tmp_path / "value.json", value)
        text = (tmp_path / "value.json").read_text()
        assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == {
            "nan": None,
            "infinite": [None, None, None, None],
            "whole": 7,
            "half": 0.5,
            "yes": True,
            "array": [[1.5, None]],
            "tuple": [1, "a"],
            "path": "a/b",
            "3": None,
        }
        assert read_json(tmp_path / "value.json")["whole"] == 7

    def test_what_is_no_json_leaves_no_file(self, tmp_path):
        with pytest.raises(TypeError):
            write_json(tmp_path / "value.json", {"object": object()})
        assert everything(tmp_path) == []

    def test_reading_names_the_file(self, tmp_path):
        with pytest.raises(RunError, match="metrics.json is missing"):
            read_json(tmp_path / "metrics.json")
        (tmp_path / "metrics.json").write_text('{"rows": [')
        with pytest.raises(RunError, match="metrics.json is not valid JSON"):
            read_json(tmp_path / "metrics.json")


class TestOpen:
    def test_a_new_folder_holds_the_configuration(self, tmp_path):
        run = Run.open(tmp_path / "new", CONFIG)
        assert run.config == {"experiment": "train", "epochs": 3, "approaches": ["plain"]}
        assert not run.finished
        assert everything(tmp_path) == ["new", "new/config.json"]

    def test_the_same_configuration_resumes(self, tmp_path):
        Run.open(tmp_path / "run", CONFIG)
        (tmp_path / "run" / "cells").mkdir()
        assert Run.open(tmp_path / "run", dict(reversed(CONFIG.items()))).folder == tmp_path / "run"
        assert "run/cells" in everything(tmp_path)

    def test_another_configuration_is_refused_with_the_keys_that_differ(self, tmp_path):
        Run.open(tmp_path / "run", CONFIG)
        before = (tmp_path / "run" / "config.json").read_bytes()
        with pytest.raises(RunError) as caught:
            Run.open(tmp_path / "run", {**CONFIG, "epochs": 5, "folds": 2})
        message = str(caught.value)
        assert "epochs: 3 there, 5 asked" in message and "folds: None there, 2 asked" in message
        assert "approaches" not in message and str(tmp_path / "run") in message and "--out" in message
        assert (tmp_path / "run" / "config.json").read_bytes() == before

    def test_a_folder_with_something_else_in_it_is_refused(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(RunError, match="is not empty and holds no config.json"):
            Run.open(tmp_path, CONFIG)
        assert everything(tmp_path) == ["thesis.tex"]

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match="`--out` must be a folder"):
            Run.open(tmp_path / "file", CONFIG)

    @pytest.mark.parametrize("hidden", [(), (".DS_Store",)])
    def test_an_empty_folder_will_do(self, tmp_path, hidden):
        for name in hidden:
            (tmp_path / name).touch()
        assert Run.open(tmp_path, CONFIG).config["epochs"] == 3

    def test_without_a_name_the_newest_unfinished_run_goes_on(self, tmp_path):
        def stored(time: str, config: dict, finished: bool = False):
            write_json(tmp_path / "train" / time / "config.json", config)
            if finished:
                (tmp_path / "train" / time / "report.html").touch()

        plain = {**CONFIG, "approaches": ["plain"]}
        stored("20200101-000000", plain)
        stored("20200102-000000", plain)
        stored("20200103-000000", {**plain, "epochs": 9})
        stored("20200104-000000", plain, finished=True)
        assert Run.open(None, CONFIG, tmp_path).folder == tmp_path / "train" / "20200102-000000"

    def test_without_a_name_two_new_runs_get_two_folders(self, tmp_path, monkeypatch):
        monkeypatch.setattr("time.strftime", lambda form: "20200101-000000")
        first = Run.open(None, CONFIG, tmp_path)
        second = Run.open(None, {**CONFIG, "epochs": 9}, tmp_path)
        assert first.folder == tmp_path / "train" / "20200101-000000"
        assert second.folder != first.folder and second.folder.parent == first.folder.parent
        assert (first.config["epochs"], second.config["epochs"]) == (3, 9)

    def test_without_a_name_folders_lie_in_runs(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert Run.open(None, CONFIG).folder.parts[:2] == ("runs", "train")


class TestCells:
    def test_a_cell_is_computed_once(self, tmp_path):
        calls = []

        def compute():
            calls.append(1)
            return {"dice": np.float32(0.5)}

        for _ in range(2):
            assert Run.open(tmp_path / "run", CONFIG).cell("plain-fold0", compute)["dice"] == 0.5
        assert len(calls) == 1

    def test_a_cell_that_fails_is_not_stored(self, tmp_path):
        run = Run.open(tmp_path / "run", CONFIG)
        with pytest.raises(KeyboardInterrupt):
            run.cell("plain-fold0", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        assert everything(tmp_path / "run") == ["config.json"]

    def test_time_spent_is_that_of_all_cells(self, tmp_path, monkeypatch):
        run = Run.open(tmp_path / "run", CONFIG)
        assert run.spent == 0
        ticks = iter([10.0, 14.5, 100.0, 102.0])
        monkeypatch.setattr("tfseg.run.time.monotonic", lambda: next(ticks))
        run.cell("a", dict)
        run.cell("b", dict)
        assert Run(tmp_path / "run").spent == 6.5


class TestWithdrawnOnMistake:
    def test_an_unstarted_run_gives_its_folder_back(self, tmp_path):
        run = Run.open(tmp_path / "run", CONFIG)
        write_json(run.path("splits.json"), [])
        with pytest.raises(ConfigError), run.withdrawn_on_mistake():
            raise ConfigError("wrong")
        assert everything(tmp_path) == []

    def test_what_the_run_did_not_write_stays(self, tmp_path):
        run = Run.open(tmp_path / "run", CONFIG)
        (tmp_path / "run" / "notes.txt").touch()
        with pytest.raises(ConfigError), run.withdrawn_on_mistake():
            raise ConfigError("wrong")
        assert everything(tmp_path / "run") == ["notes.txt"]

    @pytest.mark.parametrize("kept", ["cells/segmenter-fold0.json", "report.html"])
    def test_what_was_finished_stays(self, tmp_path, kept):
        run = Run.open(tmp_path / "run", CONFIG)
        write_text(run.path(kept), "{}")
        before = everything(tmp_path)
        with pytest.raises(ConfigError), run.withdrawn_on_mistake():
            raise ConfigError("wrong")
        assert everything(tmp_path) == before

    def test_an_interruption_can_be_resumed(self, tmp_path):
        run = Run.open(tmp_path / "run", CONFIG)
        with pytest.raises(KeyboardInterrupt), run.withdrawn_on_mistake():
            raise KeyboardInterrupt
        assert everything(tmp_path / "run") == ["config.json"]


class TestRecords:
    @pytest.fixture
    def base(self, tmp_path, monkeypatch):
        base = tmp_path / "datasets"
        for name in ("ph2", "my lesions", "weights"):
            (base / name).mkdir(parents=True)
        (base / "weights" / "net.npz").touch()
        monkeypatch.setenv("TFSEG_DATA", str(base))
        return base

    def test_paths_below_the_folder_of_datasets(self, base, monkeypatch):
        assert recorded_path(base / "ph2") == "$TFSEG_DATA/ph2"
        assert recorded_path(f"herlev:{base / 'ph2'}") == "herlev:$TFSEG_DATA/ph2"
        monkeypatch.chdir(base / "ph2")
        assert recorded_path("../weights/net.npz") == "$TFSEG_DATA/weights/net.npz"
        assert recorded_path("folder:../ph2") == "folder:$TFSEG_DATA/ph2"

    def test_other_paths_stay_as_given(self, base, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for path in ("my_data", "runs/x", f"{base}-other/ph2", "ham10000:elsewhere", "imagenet"):
            assert recorded_path(path) == path
        monkeypatch.delenv("TFSEG_DATA")
        assert recorded_path(base / "ph2") == str(base / "ph2")

    def test_a_recorded_path_is_found_again(self, base):
        for path in (str(base / "ph2"), f"folder:{base / 'ph2'}"):
            assert os.path.expandvars(recorded_path(path)) == path

    def test_commands(self, base):
        command = ["/bin/tfseg", "train", f"{base}/ph2", "--weights", f"{base}/weights/net.npz", "--out", "runs/a b"]
        assert recorded_command(command) == (
            "tfseg train $TFSEG_DATA/ph2 --weights $TFSEG_DATA/weights/net.npz --out 'runs/a b'"
        )
        command = ["somewhere/experiments/quickstart.py", f"--data={base}/ph2", f"folder:{base}/ph2", "--epochs=3"]
        assert recorded_command(command) == (
            "python experiments/quickstart.py --data=$TFSEG_DATA/ph2 folder:$TFSEG_DATA/ph2 --epochs=3"
        )

    def test_commands_can_be_pasted_where_paths_have_blanks(self, base):
        command = recorded_command(["tfseg", "audit", f"{base}/my lesions"])
        assert command == 'tfseg audit "$TFSEG_DATA/my lesions"'

    def test_the_command_of_this_process(self, monkeypatch):
        monkeypatch.setattr("sys.argv", ["/x/tfseg/__main__.py", "demo"])
        assert recorded_command() == "tfseg demo"

    def test_environment(self):
        import tensorflow as tf

        import tfseg

        record = environment(7, "abcdef")
        assert record["tfseg"] == tfseg.__version__
        assert record["packages"]["tensorflow"] == tf.__version__
        assert set(record["packages"]) >= {"keras", "numpy", "pandas", "scikit-learn", "scipy"}
        assert (record["seed"], record["data_fingerprint"]) == (7, "abcdef")
        assert "CPU" in record["devices"] and record["cpu_count"] >= 1
        json.dumps(record)

    def test_environment_without_git(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert environment(0, "")["git_commit"] is None
