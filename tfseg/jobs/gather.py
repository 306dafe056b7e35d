"""What every grid has in common between its stored cells and the run that is written of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tfseg.evaluation.report import write_metrics
from tfseg.evaluation.tables import table_text
from tfseg.jobs.grid import Cell, Progress, stored
from tfseg.run import Run, read_json, written_whole


def shown_before(run: Run, say: Callable[[str], None]) -> bool:
    """Whether a run was finished before; its table is shown then."""
    if run.finished:
        say(table_text(read_json(run.path("metrics.json"))))
        say("this run was finished before; these are its results")
    return run.finished


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all, without its index."""
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False)


def validation_score(result: dict) -> float | None:
    """Balanced accuracy of a classifier, IoU of a segmenter, on the validation part; None where nothing was trained."""
    validation = result["validation"]
    return validation.get("balanced_accuracy", validation.get("iou"))


def best_row(run: Run, cells: Sequence[Cell]) -> str | None:
    """The row whose cells have the best mean score on the validation parts; None where none is trained."""
    scores: dict[str, list[float]] = {}
    for cell in cells:
        score = validation_score(stored(run, cell))
        if score is not None:
            scores.setdefault(cell.row, []).append(score)
    return max(scores, key=lambda name: sum(scores[name]) / len(scores[name])) if scores else None


def promote(run: Run, cells: Sequence[Cell], model_path: Callable[[Cell], Path], target: Path) -> None:
    """Let the cell of a row that is best on validation give the row's model.

    Args:
        run: the run.
        cells: of one row, stored.
        model_path: where the model of a cell lies.
        target: where the row's belongs.
    """
    # A segmenter that was given has no score.
    source = model_path(max(cells, key=lambda cell: validation_score(stored(run, cell)) or 0.0))
    if source != target:
        with written_whole(target) as temporary:
            temporary.write_bytes(source.read_bytes())


def extras(results: Sequence[dict]) -> dict[str, list[float]]:
    """The values of the cells that no test case stands behind, one per cell; what is missing is NaN."""
    found: dict[str, list[float]] = {}
    for result in results:
        for name, value in result["extra"].items():
            found.setdefault(name, []).append(float("nan") if value is None else value)
    return found


def notes(cells: Sequence[Cell], results: Sequence[dict]) -> dict[str, list[str]]:
    """What was noted of a row's trainings, as an entry of its row in ``metrics.json``."""
    lines = [f"{cell.key}: {result['note']}" for cell, result in zip(cells, results, strict=True) if result.get("note")]
    return {"notes": lines} if lines else {}


def history(run: Run, cell: Cell) -> pd.DataFrame | None:
    """The record of a cell's training, or None where nothing was trained."""
    path = run.path("history", f"{cell.key}.csv")
    return pd.read_csv(path) if path.exists() else None


def curves(run: Run, cells: Sequence[Cell]) -> dict[str, pd.DataFrame]:
    """What can be drawn of trainings: row → record without cost; trainings of a single epoch have no curve.

    Args:
        run: the run.
        cells: at most one of each row.
    """
    tables = {cell.row: history(run, cell) for cell in cells}
    return {
        row: table.drop(columns=["seconds", "peak_memory_mb"], errors="ignore")
        for row, table in tables.items()
        if table is not None and len(table) > 1
    }


def write_history(run: Run, cells: Sequence[Cell]) -> None:
    """Write ``history.csv``: the records of all trainings, with row, fold and repeat in front."""
    tables = []
    for cell in cells:
        table = history(run, cell)
        if table is not None:
            where = pd.DataFrame({"row": cell.row, "fold": cell.fold, "repeat": cell.repeat}, table.index)
            tables.append(where.join(table))
    if tables:
        write_csv(run.path("history.csv"), pd.concat(tables))


def write_grid_metrics(
    run: Run,
    progress: Progress,
    rows: Sequence[dict],
    best: str | None,
    *,
    record: dict,
    command: str,
    seconds: float,
    extra: Mapping | None = None,
) -> dict:
    """Write ``metrics.json`` of a grid, which says what is missing of it.

    Args:
        run: the run.
        progress: of its grid.
        rows: see `write_metrics`.
        best: the row that is best on validation.
        record: what ``config.json`` holds.
        command, seconds: for the records.
        extra: further keys.

    Returns:
        What was written.
    """
    extra = {"complete": progress.complete, "best_row": best, **(extra or {})}
    if not progress.complete:
        extra["missing"] = [cell.key for cell in progress.missing]
        extra["cells"] = len(progress.done) + len(progress.missing)
    if progress.failed:
        extra["failed"] = {cell.key: message for cell, message in progress.failed.items()}
    path = write_metrics(
        run.folder,
        experiment=record["experiment"],
        preset=record["preset"],
        seed=record["seed"],
        data=record["data"],
        command=command,
        seconds=round(seconds, 1),
        rows=rows,
        extra=extra,
    )
    return read_json(path)
