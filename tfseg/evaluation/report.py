"""The records at the end of a run: ``metrics.json``, and a page with everything on it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfseg.errors import RunError
from tfseg.evaluation import comparison_page
from tfseg.evaluation.tables import MISSING, duration, footnotes, number, shown_tables, subgroup_cells, table_cells
from tfseg.pages import render_page
from tfseg.run import read_json, write_json, write_text

SUMMARY_KEYS = {"mean", "std", "ci95", "values"}
CAPTIONS = {
    "comparison": "The approaches on the test cases, with 95 % intervals.",
    "saliency": "Saliency of the predicted class on test images drawn at random, one column per approach.",
    "segmentation": "Test masks: the two best, two from the middle, the two worst.",
    "segmenter_curves": "Training of the segmenter.",
    "curves": "Training of the classifiers.",
    "confusion": "True class against predicted class.",
    "decision_curves": "Net benefit of acting from a threshold probability on, beside acting always and never.",
    "thresholds": "Mean IoU and Dice on the test cases against the threshold.",
    "class_balance": "Training cases of each class, before and after the classes are balanced.",
    "planted_cue": "What every row makes of the cue: accuracies, where its map lies, and what changes its decision.",
    "confidence": "Confidence of every drawn mask against its true IoU, run by run.",
    "masks": "True masks above the drawn ones: the two best, two from the middle, the two worst.",
}


STEM_CAPTIONS = {
    "reliability_": "accuracy on the test cases where it is how sure, before and after the temperature.",
    "segmentation_": "test masks, the best, the middle and the worst.",
    "thresholds_": "thresholds on validation and test cases.",
    "intensity_bands_": "where predicted probabilities and the pixels of the images cluster.",
}


def write_metrics(
    run_folder: str | Path,
    experiment: str,
    preset: str,
    seed: int,
    data: str,
    command: str,
    seconds: float,
    rows: Sequence[Mapping],
    extra: Mapping | None = None,
) -> Path:
    """Write ``metrics.json``.

    Args:
        run_folder: the run's folder.
        experiment: name of the experiment.
        preset: name of the preset.
        seed: of the run.
        data: what the data is called in records.
        command: the command line that made the run.
        seconds: how long it took.
        rows: ``{"name", "settings", "metrics": {metric: by `statistics.summarise`}, "paper": {metric: number}
            or None}``; ``per_class`` (`classification.per_class_metrics`) and ``confusion`` (counts) as
            options.
        extra: further top-level keys.

    Returns:
        The path written.

    Raises:
        ValueError: when a row has another shape, two rows share a name, or `extra` hides a key.
    """
    content = {
        "experiment": experiment,
        "preset": preset,
        "seed": seed,
        "data": data,
        "command": command,
        "seconds": round(float(seconds), 1),
        "rows": [_checked_row(row) for row in rows],
    }
    names = [row["name"] for row in content["rows"]]
    if len(set(names)) != len(names):
        raise ValueError(f"`rows` must have different names, received {names}")
    hidden = sorted(content.keys() & (extra or {}).keys())
    if hidden:
        raise ValueError(f"`extra` must not hold {hidden}, which metrics.json has already")
    path = Path(run_folder) / "metrics.json"
    write_json(path, content | dict(extra or {}))
    return path


def write_report(run_folder: str | Path) -> Path:
    """Write ``report.html``: one page with everything that lies in the run's folder, which opens without a
    network.

    Shown where they exist: ``metrics.json`` (tables, and per class where rows have ``per_class`` or ``confusion``),
    ``comparison/comparison.json`` (see `tfseg.jobs.compare.job`), ``figures/*.png``, ``data.json``, ``config.json``,
    ``environment.json``.

    Args:
        run_folder: the run's folder.

    Returns:
        The path written.

    Raises:
        RunError: when the folder does not exist, or one of its JSON files is damaged.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder: a report needs the folder of a run")
    records = {
        name: read_json(folder / f"{name}.json") if (folder / f"{name}.json").exists() else None
        for name in ("metrics", "data", "config", "environment")
    }
    compared = folder / "comparison" / "comparison.json"
    comparisons = read_json(compared)["comparisons"] if compared.exists() else []
    metrics = records["metrics"]
    page = render_page(
        "tfseg.evaluation",
        "report.html.j2",
        title=(metrics or records["config"] or {}).get("experiment") or folder.resolve().name,
        metrics=metrics,
        seconds=duration(metrics["seconds"]) if metrics else None,
        tables=[table_cells(part, columns) for part, columns in shown_tables(metrics)] if metrics else [],
        everything=table_cells(metrics) if metrics and metrics["rows"] else None,
        counts=_counts(records["data"]),
        subgroups=subgroup_cells(metrics) if metrics else None,
        footnotes=footnotes(metrics) if metrics else [],
        differences=[_differences(one, folder / "comparison" / "figures") for one in comparisons],
        details=[_class_tables(row) for row in metrics["rows"] if row.get("per_class") or row.get("confusion")]
        if metrics
        else [],
        figures=[
            (_caption(path.stem), base64.b64encode(path.read_bytes()).decode("ascii"))
            for path in sorted(folder.glob("figures/*.png"), key=_figure_order)
        ],
        records=[
            (heading, _flat(records[name]), is_open)
            for heading, name, is_open in (
                ("Data", "data", False),
                ("Configuration", "config", False),
                ("Environment", "environment", False),
            )
            if records[name]
        ],
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _differences(comparison: Mapping, figures: Path) -> dict:
    """What the page shows of one comparison of rows on the same test cases."""
    metric = comparison["metric"]
    stem = "differences" if comparison["kind"] == "classifiers" else f"differences_{comparison['kind']}"
    picture = figures / f"{stem}.png"
    return {
        "sentence": comparison_page.difference_sentences(comparison, metric)[0],
        "cells": comparison_page.difference_cells(comparison, metric),
        "others": comparison_page.other_cells(comparison, metric),
        "notes": comparison_page.footnotes(comparison),
        "figure": base64.b64encode(picture.read_bytes()).decode("ascii") if picture.exists() else None,
    }


def _caption(stem: str) -> str:
    if stem.startswith("confusion_"):
        return f"Test cases of {stem.removeprefix('confusion_')}: true class against predicted class."
    for start, caption in STEM_CAPTIONS.items():
        if stem.startswith(start):
            return f"{stem.removeprefix(start)}: {caption}"
    return CAPTIONS.get(stem, stem.replace("_", " "))


def _figure_order(path: Path) -> tuple[int, str]:
    stems = list(CAPTIONS)
    return (stems.index(path.stem) if path.stem in stems else len(stems), path.stem)


def _counts(data: Mapping | None) -> tuple[list[str], list[list[str]]] | None:
    """The table class × part, with sums."""
    if not data or not data.get("classes"):
        return None
    parts = list(next(iter(data["classes"].values())))
    rows = [
        [name, *(f"{row[part]:,}" for part in parts), f"{sum(row.values()):,}"] for name, row in data["classes"].items()
    ]
    sums = [sum(row[part] for row in data["classes"].values()) for part in parts]
    return ["class", *parts, "all"], [*rows, ["all", *(f"{number:,}" for number in sums), f"{sum(sums):,}"]]


def _checked_row(row: Mapping) -> dict:
    missing = [key for key in ("name", "settings", "metrics") if key not in row]
    if missing:
        raise ValueError(f"a row must have name, settings and metrics, received {sorted(row)}")
    for name, value in row["metrics"].items():
        if not isinstance(value, Mapping) or not value.keys() >= SUMMARY_KEYS:
            raise ValueError(
                f"metric {name!r} of row {row['name']!r} must be a summary with {sorted(SUMMARY_KEYS)}, "
                f"received {value}"
            )
    return {**row, "paper": row.get("paper") or None}


def _class_tables(row: Mapping) -> dict:
    per_class = row.get("per_class") or {}
    columns = list(next(iter(per_class.values()), {}))
    lines = [
        [
            name,
            *(f"{value:,}" if column == "support" else number(column, value) for column, value in scores.items()),
        ]
        for name, scores in per_class.items()
    ]
    confusion = row.get("confusion") or []
    names = list(per_class) if len(per_class) == len(confusion) else [str(i) for i in range(len(confusion))]
    shaded = [
        (name, [(count, round(count / max(sum(counts), 1), 3)) for count in counts])
        for name, counts in zip(names, confusion, strict=True)
    ]
    repeats = row["settings"].get("repeats", 1)
    return {
        "repeats": repeats,
        "name": row["name"],
        "columns": columns,
        "lines": lines,
        "classes": names,
        "confusion": shaded,
    }


def _flat(value, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines of dotted name and text."""
    if isinstance(value, dict) and value:
        return [line for key, item in value.items() for line in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [line for index, item in enumerate(value) for line in _flat(item, f"{prefix}[{index}]")]
    if isinstance(value, list):
        return [(prefix, ", ".join(_plain(item) for item in value) or MISSING)]
    return [(prefix, MISSING if value in (None, {}) else _plain(value))]


def _plain(value) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
