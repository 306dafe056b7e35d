"""Any experiment is a grid of cells, row × fold × repeat: each is stored when done, and never run twice."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfseg.config import ComparisonConfig
from tfseg.errors import Paused, RunError, TrainingError
from tfseg.run import Run, read_json, write_json
from tfseg.session import Session
from tfseg.training.sitting import Sitting

STATE = "state.json"
# Far apart, so that no training of a neighbouring seed draws the same numbers.
FOLD_SEEDS, REPEAT_SEEDS = 1_000, 1_000_000


@dataclass(frozen=True)
class Cell:
    """One training and its test.

    Args:
        row: of the table.
        fold: of the cross-validation, from 0.
        repeat: of the same row and fold from another seed, from 0.
        needs: cells that must be stored before.
    """

    row: str
    fold: int = 0
    repeat: int = 0
    needs: tuple[Cell, ...] = ()

    @property
    def key(self) -> str:
        """The name of the cell's files."""
        return f"{self.row}-fold{self.fold}" + (f"-repeat{self.repeat}" if self.repeat else "")


def seeded(config: ComparisonConfig, cell: Cell) -> ComparisonConfig:
    """The configuration with the cell's own seed."""
    return replace(config, seed=config.seed + FOLD_SEEDS * cell.fold + REPEAT_SEEDS * cell.repeat)


@dataclass(frozen=True)
class Progress:
    """How far a grid is.

    Args:
        done: cells that are stored.
        missing: the others.
        failed: the message of each that broke down in this sitting.
    """

    done: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    failed: dict[Cell, str]

    @property
    def complete(self) -> bool:
        return not self.missing


def stored(run: Run, cell: Cell) -> dict | None:
    """The result of a cell, or None."""
    path = run.path("cells", f"{cell.key}.json")
    return read_json(path) if path.exists() else None


def run_grid(
    run: Run,
    cells: Sequence[Cell],
    compute: Callable[[Cell, Sitting], dict],
    session: Session,
    rows: Sequence[str],
    folds: int,
    say: Callable[[str], None] = print,
) -> Progress:
    """Compute what a session asks for and isn't stored yet, with what that needs.

    Args:
        run: the run folder. ``cells/<key>.json`` keeps the results, ``checkpoints/<key>.npz`` a training that was
            interrupted.
        cells: the whole grid, in an order in which every cell comes after those that it needs.
        compute: trains and tests a cell; everything that it makes beside the result must be written before it returns.
        session: which cells, and for how long.
        rows: names that `session.cells` may give, in the order of the table.
        folds: how many there are.
        say: takes the lines that tell what is going on.

    Raises:
        ConfigError: the session asks for rows or folds that there aren't.
        Paused: the time is over.
        RunError: another process computes a cell of this session at the moment.
    """
    wanted = wanted_cells(cells, session, rows, folds)
    deadline = None if session.max_minutes is None else time.monotonic() + 60.0 * session.max_minutes
    failed: dict[Cell, str] = {}
    write_state(run, cells, "running")
    try:
        for cell in wanted:
            if stored(run, cell) is not None:
                continue
            broken = [need.key for need in cell.needs if need in failed]
            if broken:
                failed[cell] = f"it needs {', '.join(broken)}"
                continue
            if deadline is not None and time.monotonic() >= deadline:
                raise Paused(f"time is over before {cell.key}")
            checkpoint = run.path("checkpoints", f"{cell.key}.npz")
            logs = run.path("tensorboard", cell.key) if session.tensorboard else None
            with _locked(run, cell):
                try:
                    run.cell(cell.key, lambda cell=cell, c=checkpoint, t=logs: compute(cell, Sitting(c, deadline, t)))
                except TrainingError as error:
                    failed[cell] = str(error)
                    say(f"warning: {cell.key} failed: {error}")
                checkpoint.unlink(missing_ok=True)
            write_state(run, cells, "running")
    except Paused as pause:
        write_state(run, cells, "paused", str(pause))
        raise
    except BaseException as error:
        write_state(run, cells, "interrupted", str(error) or type(error).__name__)
        raise
    with contextlib.suppress(OSError):
        run.path("checkpoints").rmdir()
    progress = grid_progress(run, cells, failed)
    message = "; ".join(f"{cell.key}: {text}" for cell, text in failed.items())
    write_state(run, cells, "failed" if failed else "partial", message)
    return progress


def finish_grid(
    run: Run,
    cells: Sequence[Cell],
    compute: Callable[[Cell, Sitting], dict],
    session: Session,
    rows: Sequence[str],
    folds: int,
    report: Callable[[Progress], None],
    say: Callable[[str], None] = print,
) -> None:
    """Compute what a session asks for, and report what is stored then, however it ended.

    Args:
        run, cells, compute, session, rows, folds, say: see `run_grid`.
        report: writes the run from what is stored.

    Raises:
        TrainingError: cells broke down; the others are stored and reported.
        Paused: the time is over; likewise.
        ConfigError, RunError: see `run_grid`.
    """
    try:
        progress = run_grid(run, cells, compute, session, rows, folds, say)
    except Paused:
        report(grid_progress(run, cells))
        raise
    report(progress)
    if progress.failed:
        lines = [f"  {cell.key}: {message}" for cell, message in progress.failed.items()]
        raise TrainingError("\n".join([f"{len(lines)} of {len(cells)} cells failed:", *lines]))
    if progress.complete:
        write_state(run, cells, "finished")


def wanted_cells(cells: Sequence[Cell], session: Session, rows: Sequence[str], folds: int) -> list[Cell]:
    """The cells that a session asks for, each after those that it needs."""
    named, numbers = session.rows(rows), session.fold_numbers(folds)
    wanted: dict[Cell, None] = {}
    for cell in cells:
        # Rows that can't be asked for by name are computed with any session that doesn't narrow the rows down.
        if (cell.row in named or (cell.row not in rows and not session.cells)) and cell.fold in numbers:
            wanted |= dict.fromkeys((*cell.needs, cell))
    return list(wanted)


def grid_progress(run: Run, cells: Sequence[Cell], failed: dict[Cell, str] | None = None) -> Progress:
    """What is stored of a grid."""
    done = tuple(cell for cell in cells if run.path("cells", f"{cell.key}.json").exists())
    return Progress(done, tuple(cell for cell in cells if cell not in done), failed or {})


def write_state(run: Run, cells: Sequence[Cell], state: str, message: str = "") -> None:
    """Write ``state.json`` for `tfseg list`."""
    progress = grid_progress(run, cells)
    done = {"done": [cell.key for cell in progress.done], "missing": [cell.key for cell in progress.missing]}
    write_json(run.path(STATE), {"state": state, "message": message, "process": os.getpid(), **done})


@contextlib.contextmanager
def _locked(run: Run, cell: Cell) -> Iterator[None]:
    """Hold a cell for this process; a killed process lets go of it."""
    path = run.path("cells", f".{cell.key}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if not lock(file):
            raise RunError(f"another process is at {cell.key} of {run.folder}; give it other `--cells` or `--folds`")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def lock(file) -> bool:
    """Lock an open file until it is closed; False when another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows has no such module, and there two processes are not kept apart.
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def cell_running(run: Run) -> Path | None:
    """The lock that a living process holds in this run, or None."""
    for path in sorted(run.path("cells").glob(".*.lock")):
        with path.open("r+") as file:
            if not lock(file):
                return path
    return None
