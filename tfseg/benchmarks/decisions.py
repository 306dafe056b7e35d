"""What a decision of each of a run's classifiers costs: from the image to the probabilities, without any map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.benchmarks.process import bind, counted, head, line, median, on_each, prepare, shown, spent, write_results
from tfseg.errors import ConfigError
from tfseg.run import Run, read_json

BATCHES = (1, 16)


def benchmark_decisions(
    run: str | Path,
    out: str | Path,
    base: str | None = None,
    cores: Sequence[int] = (1, 2),
    repetitions: int = 20,
    command: str = "",
) -> dict:
    """Measure the models of a comparison, one image at a time and sixteen; ``benchmark.json`` and ``table.md``.

    A segmenter counts where the decision depends on it. Costs are processor time of all threads; each repetition does
    all rows one after the other, in turn forwards and backwards, and gives one ratio to the base.

    Args:
        run: folder of a comparison; of several folds the first one's models are taken. Controls that are given their
            masks are left out.
        out: folder for the results; new, empty, or of an earlier benchmark.
        base: the row that the others are divided by; None for the first.
        cores: numbers of cores to measure on.
        repetitions: of each row.
        command: recorded with the results.

    Returns:
        What ``benchmark.json`` holds.

    Raises:
        ConfigError: an argument out of range, an unknown row, or a run without models.
        RunError: `run` is no run, or `out` holds something else.
    """
    out, paths = prepare(out, cores, repetitions), models_of(Run(run))
    base = base or next(iter(paths))
    if base not in paths:
        raise ConfigError(f"`base` must be one of {', '.join(paths)}, received {base!r}")
    results = on_each(cores, measure, repetitions, {name: str(path) for name, path in paths.items()})
    settings = {"batches": list(BATCHES), "repetitions": repetitions, "base": base}
    return write_results(out, command, settings, "random images", [summarise(found, base) for found in results], table)


def models_of(run: Run) -> dict[str, Path]:
    """A trained model of each row that can be served.

    Raises:
        ConfigError: there is none.
    """
    found = {}
    for row in read_json(run.path("metrics.json"))["rows"]:
        approach = APPROACHES.get(row["settings"].get("approach"))
        if approach is None or not approach.served or "target" in row:
            continue
        models = sorted(run.path("models", row["name"]).glob("*.keras"))
        if models:
            found[row["name"]] = models[0]
    if not found:
        raise ConfigError(f"{run.folder} has no model of a classifier that can be served")
    return found


def measure(cores: int, repetitions: int, paths: dict[str, str]) -> dict:
    """All measurements on so many cores; changes the process, and is meant for one of its own.

    Returns:
        ``cores``; and ``values``: by batch and row, milliseconds of processor time per image of every repetition.
    """
    bind(cores)
    values = {}
    for batch in BATCHES:
        ways = {name: _decision(path, batch) for name, path in paths.items()}
        for work in ways.values():
            work()
        values[batch] = {name: [] for name in ways}
        for repetition in range(repetitions):
            for name in list(ways) if repetition % 2 else reversed(ways):
                values[batch][name].append(spent(ways[name]) / batch * 1e3)
    return {"cores": cores, "values": values}


def _decision(path: str, batch: int) -> Callable[[], object]:
    import tensorflow as tf

    from tfseg.export.predictor import load_model
    from tfseg.models.classifier import decision_graph

    graph = decision_graph(load_model(path))
    pixels = np.random.default_rng(0).uniform(size=(batch, *graph.input_shape[1:]))
    image = tf.constant(pixels, tf.float32)
    decide = tf.function(lambda: graph(image, training=False)["probabilities"])
    return lambda: decide().numpy()


def summarise(result: dict, base: str) -> dict:
    """Medians with 95 % intervals of what `measure` gives, and ratios to the base by repetition."""
    batches = {}
    for batch, values in result["values"].items():
        below = np.array(values[base])
        batches[str(batch)] = {
            "ms_per_image": {name: median(numbers) for name, numbers in values.items()},
            "ratios": {name: median(np.array(numbers) / below) for name, numbers in values.items() if name != base},
        }
    return {"cores": result["cores"], "batches": batches}


def table(record: dict) -> str:
    """The results as Markdown, a table for each number of cores."""
    settings = record["settings"]
    lines = [
        f"Command: `{record['command']}`",
        "",
        "Processor time per image from the image to the probabilities; median of "
        f"{settings['repetitions']} interleaved repetitions and its 95 % interval.",
        "",
    ]
    for one in record["cores"]:
        names = [f"batches of {batch}" for batch in one["batches"]]
        lines += head(counted(one["cores"]), *names)
        found = list(one["batches"].values())
        for name in found[0]["ms_per_image"]:
            lines.append(line(name, *(shown(values["ms_per_image"][name], " ms") for values in found)))
        for name in found[0]["ratios"]:
            label = f"{name} : {settings['base']}"
            lines.append(line(label, *(shown(values["ratios"][name]) for values in found)))
        lines.append("")
    return "\n".join(lines)
