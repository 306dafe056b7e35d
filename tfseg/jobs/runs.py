"""Run folders as a user sees them: which there are, how far each is, and one run's settings once more."""

from __future__ import annotations

import os
import time
from dataclasses import fields, replace
from pathlib import Path

from tfseg.config import PATH_FIELDS, ComparisonConfig
from tfseg.errors import ConfigError, RunError
from tfseg.jobs.grid import cell_running
from tfseg.plain import from_plain
from tfseg.run import Run, read_json
from tfseg.session import Session

COLUMNS = ("run", "experiment", "data", "state", "cells", "changed", "best row", "balanced accuracy")


def list_runs(folder: str | Path) -> list[dict[str, str]]:
    """Every run below a folder, the latest changed last.

    Args:
        folder: searched with all its subfolders, but not inside a run.

    Returns:
        One dictionary per run with the keys `COLUMNS`. ``state`` is ``finished``, ``running``, ``paused`` (its time
        was over), ``partial`` (only some cells were asked for), ``failed`` (cells broke down), ``interrupted``, or
        ``damaged``.

    Raises:
        RunError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder")
    found = []
    for path, subfolders, files in os.walk(folder):
        if "config.json" in files:
            subfolders.clear()
            found.append(Path(path))
    lines = [(_changed(path), _line(Run(path), folder)) for path in found]
    return [line for _, line in sorted(lines, key=lambda entry: entry[0])]


def _changed(path: Path) -> float:
    return max(entry.stat().st_mtime for entry in path.iterdir())


def _line(run: Run, folder: Path) -> dict[str, str]:
    line = dict.fromkeys(COLUMNS, "")
    line["run"] = str(run.folder)
    line["changed"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(_changed(run.folder)))
    try:
        config = run.config
        line["experiment"], line["data"] = str(config.get("experiment", "")), str(config.get("data", ""))
        line["state"], line["cells"] = _state(run)
        if run.path("metrics.json").exists():
            metrics = read_json(run.path("metrics.json"))
            best = metrics.get("best_row")
            scores = {row["name"]: row["metrics"].get("balanced_accuracy") for row in metrics["rows"]}
            if best and scores.get(best):
                line["best row"], line["balanced accuracy"] = best, f"{scores[best]['mean']:.3f}"
    except (RunError, KeyError, TypeError, AttributeError):
        line["state"] = "damaged"
    return line


def _state(run: Run) -> tuple[str, str]:
    if not run.path("state.json").exists():
        return ("finished" if run.finished else "interrupted"), ""
    state = read_json(run.path("state.json"))
    done, missing = len(state["done"]), len(state["missing"])
    name = state["state"]
    if name == "running" and cell_running(run) is None:
        # Killed: it had no time to say so.
        name = "interrupted"
    return name, f"{done}/{done + missing}"


def runs_text(lines: list[dict[str, str]]) -> str:
    """The list as a table for the terminal."""
    rows = [dict(zip(COLUMNS, COLUMNS, strict=True)), *lines]
    shown = [name for name in COLUMNS if any(line[name] for line in lines)]
    widths = {name: max(len(row[name]) for row in rows) for name in shown}
    return "\n".join("  ".join(row[name].ljust(widths[name]) for name in shown).rstrip() for row in rows)


def stored_config(path: str | Path, data: str | None = None) -> tuple[ComparisonConfig, str, str]:
    """The configuration in a ``config.json``.

    Args:
        path: the file, or the folder of its run.
        data: where the data lies now; None for where it was, with ``$TFSEG_DATA`` filled in.

    Returns:
        The configuration, and the names of experiment and preset.

    Raises:
        RunError: there is no such file, or it isn't JSON.
        ConfigError: unknown keys, changed types, or a run of another kind, such as an evaluation.
    """
    path = Path(path)
    values = read_json(path / "config.json" if path.is_dir() else path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected an object of settings, received a {type(values).__name__}")
    experiment, preset = str(values.pop("experiment", "train")), str(values.pop("preset", "custom"))
    own = {entry.name for entry in fields(ComparisonConfig)}
    if not own & values.keys() - {"data", "target"}:
        raise ConfigError(f"{path} holds the settings of {experiment!r}, which is no training")
    config = from_plain(values)
    paths = {name: os.path.expandvars(getattr(config, name)) for name in PATH_FIELDS if getattr(config, name)}
    paths["external"] = tuple(os.path.expandvars(name) for name in config.external)
    if data is not None:
        paths["data"] = data
    return replace(config, **paths), experiment, preset


def rerun(
    path: str | Path, out: str | Path | None, session: Session, data: str | None = None, command: str = ""
) -> Run:
    """Run a stored configuration again, in a folder of its own."""
    from tfseg.jobs.comparison import run_comparison

    config, experiment, preset = stored_config(path, data)
    return run_comparison(config, out, experiment=experiment, preset=preset, session=session, command=command)
