"""What the benchmarks share: a process for each number of cores, its processor time, and the results' files."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from tfseg.errors import ConfigError, RunError
from tfseg.quiet import import_tensorflow
from tfseg.run import environment, write_json, write_text


def prepare(out: str | Path, cores: Sequence[int], repetitions: int) -> Path:
    """Check what every benchmark is given, and import TensorFlow.

    Raises:
        ConfigError: `cores` or `repetitions` is out of range.
        RunError: `out` holds something else than an earlier benchmark.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not cores or min(cores) < 1 or max(cores) > available or len(set(cores)) < len(cores):
        raise ConfigError(f"`cores` must be different numbers from 1 to {available}, received {list(cores)}")
    if repetitions < 2:
        raise ConfigError(f"`repetitions` must be at least 2, received {repetitions}")
    import_tensorflow()
    out = Path(out)
    if out.exists() and not (out.is_dir() and ((out / "benchmark.json").exists() or not any(out.iterdir()))):
        raise RunError(f"`--out` {out} is not empty and holds no benchmark.json: give a new or an empty folder")
    return out


def on_each(cores: Sequence[int], measure: Callable[..., dict], *arguments) -> list[dict]:
    """What ``measure(number, *arguments)`` gives for each number of cores, each in a process of its own."""
    results, context = [], multiprocessing.get_context("spawn")
    for number in cores:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            results.append(pool.submit(measure, number, *arguments).result())
    return results


def bind(cores: int) -> None:
    """Keep this process and its TensorFlow to so many cores; for a process of its own."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import_tensorflow()
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(cores)


def settled() -> float:
    """The processor time of this process, once the threads that read ahead have nothing left to do."""
    last, quiet = time.process_time(), 0
    while quiet < 3:
        time.sleep(0.01)
        now = time.process_time()
        quiet = quiet + 1 if now - last < 5e-4 else 0
        last = now
    return last


def spent(work: Callable[[], object]) -> float:
    """The processor time in seconds of a piece of work, with what its threads do behind it."""
    started = settled()
    work()
    return settled() - started


def write_results(
    out: Path, command: str, settings: dict, images: str, cores: list[dict], table: Callable[[dict], str]
) -> dict:
    """Write ``benchmark.json`` and ``table.md``.

    Args:
        out: the folder.
        command, settings: for the records.
        images: which were measured on.
        cores: a summary for each number of cores.
        table: makes the Markdown of the record.

    Returns:
        The record: ``command``, ``settings``, ``environment`` and ``cores``.
    """
    record = {"command": command, "settings": settings, "environment": environment(0, images), "cores": cores}
    write_json(out / "benchmark.json", record)
    write_text(out / "table.md", table(record))
    return record


def median(values) -> dict:
    """Median, its 95 % interval by bootstrap, and the values."""
    from tfseg.evaluation.statistics import bootstrap_interval

    values = np.asarray(values)
    low, high, _ = bootstrap_interval(lambda chosen: float(np.median(values[chosen])), np.arange(len(values)))
    return {"median": float(np.median(values)), "interval": [low, high], "values": values}


def shown(value: dict, unit: str = "") -> str:
    """A median and its interval as a cell of a table."""
    low, high = value["interval"]
    return f"{value['median']:.2f}{unit} ({low:.2f}–{high:.2f})"


def preface(record: dict, what: str) -> list[str]:
    """The lines above the tables: the command, and how processor time was measured.

    Args:
        record: see `write_results`.
        what: was delivered or worked on, up to the size of its side.
    """
    settings = record["settings"]
    return [
        f"Command: `{record['command']}`",
        "",
        f"Processor time per {what} {settings['side']}² in batches of {settings['batch']}; median of "
        f"{settings['repetitions']} interleaved repetitions and its 95 % interval.",
        "",
    ]


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [line(*cells), "|---" * len(cells) + "|"]


def counted(cores: int) -> str:
    """So many cores, in words."""
    return f"{cores} core{'s' * (cores > 1)}"
