"""Cells: computed once, in order, in parts, and what stays of those that break down."""

from __future__ import annotations

import json
import multiprocessing
import time

import pytest

from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError, Paused, RunError, TrainingError
from tfseg.jobs import grid
from tfseg.jobs.grid import Cell, finish_grid, grid_progress, run_grid, seeded, stored, wanted_cells
from tfseg.jobs.runs import list_runs, runs_text, stored_config
from tfseg.run import Run, read_json, write_json
from tfseg.session import Session

ROWS = ("plain", "soft")


def whole_grid(folds=2, repeats=2):
    cells = []
    for fold in range(folds):
        base = Cell("base", fold)
        cells.append(base)
        cells += [Cell(row, fold, repeat, (base,)) for row in ROWS for repeat in range(repeats)]
    return cells


@pytest.fixture
def run(tmp_path):
    return Run.open(tmp_path / "run", {"experiment": "train", "data": "d"})


@pytest.fixture
def computed():
    """Keys in the order in which they were computed; ``computed.then`` may raise or wait."""

    class Computed(list):
        def then(self, cell, sitting):
            return None

        def __call__(self, cell, sitting):
            self.append(cell.key)
            self.then(cell, sitting)
            return {"row": cell.row, "value": len(self)}

    return Computed()


def go(run, compute, only=None, **session):
    lines = []
    progress = run_grid(run, only or whole_grid(), compute, Session(**session), ROWS, 2, lines.append)
    return progress, lines


def test_every_cell_once_and_after_what_it_needs(run, computed):
    progress, _ = go(run, computed)
    assert computed == [cell.key for cell in whole_grid()] and len(set(computed)) == 10
    assert progress.complete and not progress.failed
    again, _ = go(run, computed)
    assert len(computed) == 10 and again == progress
    assert stored(run, Cell("base", 0))["value"] == 1 and stored(run, Cell("base", 7)) is None


def test_keys_tell_cells_apart():
    assert [Cell("a").key, Cell("a", 1).key, Cell("a", 1, 2).key] == ["a-fold0", "a-fold1", "a-fold1-repeat2"]


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        ({"cells": ("soft",), "folds": ("1",)}, ["base-fold1", "soft-fold1", "soft-fold1-repeat1"]),
        ({"cells": ("2",), "folds": ("0",)}, ["base-fold0", "soft-fold0", "soft-fold0-repeat1"]),
        ({"folds": ("1",)}, [cell.key for cell in whole_grid() if cell.fold == 1]),
    ],
    ids=str,
)
def test_a_part_of_the_grid_with_what_it_needs(run, computed, session, expected):
    progress, _ = go(run, computed, **session)
    assert computed == expected
    assert not progress.complete and [cell.key for cell in progress.done] == expected
    assert read_json(run.path("state.json"))["state"] == "partial"
    whole, _ = go(run, computed)
    assert whole.complete and len(computed) == 10, "what was there is not computed again"


def test_what_is_stored_takes_no_time(run, computed):
    whole, _ = go(run, computed)
    assert go(run, computed, max_minutes=1e-9)[0] == whole and len(computed) == 10


def test_rows_without_a_name_come_with_the_whole_table_alone():
    cells = [Cell("extra"), Cell("plain"), Cell("extra", 1), Cell("plain", 1)]
    assert wanted_cells(cells, Session(), ("plain",), 2) == cells
    assert wanted_cells(cells, Session(folds=("1",)), ("plain",), 2) == cells[2:]
    assert wanted_cells(cells, Session(cells=("plain",)), ("plain",), 2) == [cells[1], cells[3]]


def test_every_cell_has_its_own_seed():
    config = ComparisonConfig(data="d", seed=7)
    assert seeded(config, Cell("plain")).seed == 7
    assert seeded(config, Cell("plain", 2, 3)).seed == 3_002_007
    seeds = {seeded(config, Cell("plain", fold, repeat)).seed for fold in range(10) for repeat in range(10)}
    assert len(seeds) == 100


def test_a_wrong_part_is_named_before_anything_runs(run, computed):
    for session in ({"cells": ("soft_mask",)}, {"folds": ("2",)}):
        with pytest.raises(ConfigError):
            go(run, computed, **session)
    assert computed == [] and not run.path("state.json").exists()


def test_one_that_breaks_down_does_not_stop_the_others(run, computed):
    def then(cell, sitting):
        if cell.key in ("base-fold0", "plain-fold1"):
            raise TrainingError("the loss is no number")

    computed.then = then
    progress, lines = go(run, computed)
    assert set(progress.failed) == {Cell("base", 0), Cell("plain", 1, 0, (Cell("base", 1),))} | {
        Cell(row, 0, repeat, (Cell("base", 0),)) for row in ROWS for repeat in (0, 1)
    }
    assert progress.failed[Cell("plain", 0, 0, (Cell("base", 0),))] == "it needs base-fold0"
    assert "warning: plain-fold1 failed: the loss is no number" in lines
    assert len(progress.done) == 4 and read_json(run.path("state.json"))["state"] == "failed"
    computed.then = lambda cell, sitting: None
    assert go(run, computed)[0].complete, "the next try computes them"


def test_other_errors_stop_and_are_recorded(run, computed):
    def then(cell, sitting):
        if len(computed) == 3:
            raise ValueError("a bug")

    computed.then = then
    with pytest.raises(ValueError, match="a bug"):
        go(run, computed)
    state = read_json(run.path("state.json"))
    assert (state["state"], state["message"], len(state["done"])) == ("interrupted", "a bug", 2)


def test_an_interruption_is_recorded(run, computed):
    def then(cell, sitting):
        raise KeyboardInterrupt

    computed.then = then
    with pytest.raises(KeyboardInterrupt):
        go(run, computed)
    state = read_json(run.path("state.json"))
    assert (state["state"], state["message"]) == ("interrupted", "KeyboardInterrupt")


def test_the_state_is_kept_up_with_every_cell(run, computed):
    done = []
    computed.then = lambda cell, sitting: done.append(read_json(run.path("state.json")))
    go(run, computed, only=[Cell("plain"), Cell("soft"), Cell("plain", 1)])
    assert {state["state"] for state in done} == {"running"}
    assert [state["done"] for state in done] == [[], ["plain-fold0"], ["plain-fold0", "soft-fold0"]]
    assert done[1]["missing"] == ["soft-fold0", "plain-fold1"]


def test_nothing_is_left_beside_the_results(run, computed):
    """Checkpoints go with the training that they are of, if it broke down too; locks with the cell."""

    def then(cell, sitting):
        sitting.checkpoint.parent.mkdir(exist_ok=True)
        sitting.checkpoint.touch()
        if cell.fold == 1:
            raise TrainingError("the loss is no number")

    computed.then = then
    go(run, computed, only=[Cell("plain"), Cell("plain", 1)])
    assert not run.path("checkpoints").exists()
    assert [path.name for path in run.path("cells").iterdir()] == ["plain-fold0.json"]


def test_a_paused_training_keeps_its_checkpoint(run, computed):
    def then(cell, sitting):
        sitting.checkpoint.parent.mkdir()
        sitting.checkpoint.touch()
        raise Paused("time is over after epoch 1")

    computed.then = then
    with pytest.raises(Paused):
        go(run, computed, only=[Cell("plain")])
    assert run.path("checkpoints", "plain-fold0.npz").exists() and not list(run.path("cells").iterdir())
    state = read_json(run.path("state.json"))
    assert (state["state"], state["message"]) == ("paused", "time is over after epoch 1")


class TestFinish:
    CELLS = (Cell("plain"), Cell("soft"))

    def finish(self, run, compute, **session):
        reports = []
        try:
            finish_grid(run, self.CELLS, compute, Session(**session), ROWS, 1, reports.append, lambda line: None)
        finally:
            (self.report,) = reports
            self.state = read_json(run.path("state.json"))["state"]

    def test_a_whole_grid(self, run, computed):
        self.finish(run, computed)
        assert self.report.complete and self.state == "finished"

    def test_a_part_of_it(self, run, computed):
        self.finish(run, computed, cells=("soft",))
        assert self.report.done == (Cell("soft"),) and self.state == "partial"

    def test_time_is_over(self, run, computed):
        def then(cell, sitting):
            if cell.row == "soft":
                raise Paused("time is over after epoch 1")

        computed.then = then
        with pytest.raises(Paused):
            self.finish(run, computed)
        assert self.report.done == (Cell("plain"),) and self.report.missing == (Cell("soft"),)
        assert self.state == "paused"

    def test_a_cell_broke_down(self, run, computed):
        def then(cell, sitting):
            if cell.row == "plain":
                raise TrainingError("the loss is no number")

        computed.then = then
        with pytest.raises(TrainingError, match="1 of 2 cells failed:\n  plain-fold0: the loss is no number"):
            self.finish(run, computed)
        assert self.report.done == (Cell("soft"),) and self.state == "failed"


def test_time_runs_out_between_cells(run, computed):
    computed.then = lambda cell, sitting: time.sleep(0.05)
    with pytest.raises(Paused, match="before plain-fold0"):
        go(run, computed, max_minutes=0.03 / 60)
    assert computed == ["base-fold0"] and read_json(run.path("state.json"))["state"] == "paused"


def test_a_training_is_told_its_checkpoint_and_deadline(run, computed):
    seen = []
    computed.then = lambda cell, sitting: seen.append(sitting)
    before = time.monotonic()
    go(run, computed, only=[Cell("plain")], max_minutes=2.0, tensorboard=True)
    (sitting,) = seen
    assert sitting.checkpoint == run.path("checkpoints", "plain-fold0.npz")
    assert 119 < sitting.deadline - before < 121
    assert sitting.tensorboard == run.path("tensorboard", "plain-fold0")
    go(run, computed, only=[Cell("soft")])
    assert seen[1].deadline is None and seen[1].tensorboard is None


def _hold(path, ready, done):
    with path.open("w") as file:
        assert grid.lock(file)
        ready.set()
        done.wait(60)


def test_two_processes_do_not_compute_the_same_cell(run, computed):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    path = run.path("cells", ".plain-fold0.lock")
    path.parent.mkdir()
    other = context.Process(target=_hold, args=(path, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        assert grid.cell_running(run) == path
        with pytest.raises(RunError, match="another process is at plain-fold0"):
            go(run, computed, only=[Cell("plain")])
    finally:
        done.set()
        other.join()
    assert computed == []
    assert go(run, computed, only=[Cell("plain")])[0].complete, "a dead process holds nothing"


class TestList:
    def finished(self, folder, **config):
        run = Run.open(folder, {"experiment": "train", "data": "d", **config})
        summary = {"mean": 0.75, "std": None, "ci95": [None, None], "values": [0.75]}
        row = {"name": "plain", "settings": {}, "metrics": {"balanced_accuracy": summary}}
        write_json(run.path("metrics.json"), {"rows": [row], "best_row": "plain"})
        return run

    def test_states(self, tmp_path, computed):
        cells = [Cell("plain"), Cell("soft")]
        done = self.finished(tmp_path / "a" / "done")
        run_grid(done, cells, computed, Session(), ROWS, 1, print)
        grid.write_state(done, cells, "finished")
        killed = Run.open(tmp_path / "b", {"experiment": "oral", "data": "x"})
        grid.write_state(killed, cells, "running")
        Run.open(tmp_path / "c", {"experiment": "evaluate"})
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "config.json").write_text("{")
        lines = {line["run"].rpartition("/")[2]: line for line in list_runs(tmp_path)}
        assert {name: line["state"] for name, line in lines.items()} == {
            "done": "finished",
            "b": "interrupted",
            "c": "interrupted",
            "d": "damaged",
        }
        assert lines["done"]["cells"] == "2/2" and lines["b"]["cells"] == "0/2"
        assert lines["done"]["best row"] == "plain" and lines["done"]["balanced accuracy"] == "0.750"
        text = runs_text(list(lines.values()))
        assert text.splitlines()[0].split()[:3] == ["run", "experiment", "data"] and len(text.splitlines()) == 5

    def test_no_folder(self, tmp_path):
        with pytest.raises(RunError, match="nowhere is not a folder"):
            list_runs(tmp_path / "nowhere")


class TestStoredConfig:
    def test_what_a_run_wrote(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TFSEG_DATA", "/somewhere")
        values = {"experiment": "oral", "preset": "quick", "data": "$TFSEG_DATA/ph2", "epochs": 3, "allow": ["a"]}
        (tmp_path / "config.json").write_text(json.dumps(values))
        for path in (tmp_path, tmp_path / "config.json"):
            config, experiment, preset = stored_config(path)
            assert (config.data, config.epochs, config.allow) == ("/somewhere/ph2", 3, ("a",))
            assert (experiment, preset) == ("oral", "quick")
        assert stored_config(tmp_path, "elsewhere")[0].data == "elsewhere"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"data": "d", "epochs": 3, "epoch": 3}, "unknown configuration key 'epoch'"),
            ({"data": "d", "epochs": "3"}, "`epochs` must be"),
            ({"experiment": "evaluate", "model": "m", "data": "d"}, "settings of 'evaluate', which is no training"),
            ([1], "expected an object"),
        ],
        ids=str,
    )
    def test_what_is_none(self, tmp_path, values, message):
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(ConfigError, match=message):
            stored_config(tmp_path)


def test_progress_of_an_empty_run(run):
    progress = grid_progress(run, whole_grid())
    assert not progress.done and len(progress.missing) == 10 and not progress.complete
