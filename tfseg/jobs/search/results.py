"""What a search found, as a table, a figure and words of the command line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from tfseg.config import ComparisonConfig
from tfseg.evaluation.canvas import PALETTE, new_figure, plain_axes, words, wrapped, write_png
from tfseg.jobs.search.space import SearchPlan
from tfseg.run import write_text
from tfseg.spaces import Range, Space

SHOWN = 5


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Args:
        number: from 0.
        values: of the searched fields.
        epochs: at most, where Hyperband said so; else None.
        score: the objective, the mean over folds and repeats; None for a trial that failed.
        best_epochs: the epoch of each fold and repeat, from 1.
        seconds: of all of them.
        note: why it failed, or why a training broke off; else "".
    """

    number: int
    values: dict[str, Any]
    epochs: int | None
    score: float | None
    best_epochs: tuple[int, ...]
    seconds: float
    note: str = ""


def best_of(results: Sequence[TrialResult], plan: SearchPlan) -> TrialResult | None:
    """The best trial, of equal ones the first; None where all failed."""
    return next(iter(_ranked(results, plan)), None)


def _ranked(results: Sequence[TrialResult], plan: SearchPlan) -> list[TrialResult]:
    sign = 1.0 if plan.direction == "min" else -1.0
    return sorted((result for result in results if result.score is not None), key=lambda one: sign * one.score)


def _row(result: TrialResult, plan: SearchPlan) -> dict[str, Any]:
    epochs = {} if plan.tuner != "hyperband" else {plan.epochs_field: result.epochs}
    return {
        "trial": result.number + 1,
        **result.values,
        **epochs,
        plan.objective: "" if result.score is None else result.score,
        "best_epoch": " ".join(map(str, result.best_epochs)),
        "seconds": result.seconds,
        "state": "failed" if result.score is None else "finished",
        "note": result.note,
    }


def trials_csv(results: Sequence[TrialResult], plan: SearchPlan, path: Path) -> None:
    """Write every trial in its order; ``best_epoch`` has a number per fold and repeat."""
    rows, text = [_row(result, plan) for result in results], io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def trials_text(results: Sequence[TrialResult], plan: SearchPlan) -> str:
    """The best five as a table for the terminal."""
    ranked = _ranked(results, plan)
    rows = [{name: _cell(value) for name, value in _row(result, plan).items()} for result in ranked[:SHOWN]]
    names = [name for name in rows[0] if name not in ("state", "note")]
    lines = [{name: name for name in names}, *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in names}
    failed = len(results) - len(ranked)
    return "\n".join(
        [
            f"best of {len(results)} trials" + (f" ({failed} failed)" if failed else "") + f", {plan.objective}:",
            *("  ".join(line[name].rjust(widths[name]) for name in names) for line in lines),
        ]
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def options_text(results: Sequence[TrialResult], plan: SearchPlan) -> str:
    """The best trial's settings as options of the command line, and whether others are as good."""
    best, *others = _ranked(results, plan)
    equal = [str(result.number + 1) for result in others if result.score == best.score]
    values = dict(best.values) if best.epochs is None else {**best.values, plan.epochs_field: best.epochs}
    options = " ".join(_option(name, value) for name, value in values.items())
    return f"options of trial {best.number + 1}: {options}" + (
        f"\nas good on the validation part: trial {', '.join(equal)}" if equal else ""
    )


def _option(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if get_type_hints(ComparisonConfig)[name] is bool:
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {value}"


def draw_search(results: Sequence[TrialResult], plan: SearchPlan, path: Path) -> Path:
    """The objective against every searched field, one dot per trial; the best is ringed, failed ones lie below."""
    from matplotlib.lines import Line2D

    finished = _ranked(results, plan)
    failed = [result for result in results if result.score is None]
    columns = min(3, len(plan.spaces))
    rows = math.ceil(len(plan.spaces) / columns)
    figure = new_figure(max(4.6, 3.5 * columns), 2.9 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    longest = max((result.epochs or 1) for result in results)
    for (name, space), panel in zip(plan.spaces.items(), panels.flat, strict=False):
        place = _places(space)
        sizes = [40.0 * math.sqrt((result.epochs or longest) / longest) for result in finished]
        scores = [result.score for result in finished]
        where = [place(result.values[name]) for result in finished]
        panel.scatter(where, scores, s=sizes, color=PALETTE[0], alpha=0.75, linewidths=0)
        panel.scatter(where[:1], scores[:1], s=110, facecolors="none", edgecolors=PALETTE[1], linewidths=1.8)
        for result in failed:
            panel.plot(
                place(result.values[name]),
                0.02,
                marker="x",
                color="#777777",
                transform=panel.get_xaxis_transform(),
            )
        if isinstance(space, Range):
            panel.set_xscale("log" if space.log else "linear")
            panel.set_xlim(*_ends(space))
        else:
            labels = [wrapped(_cell(value), 14) for value in space.values]
            panel.set_xticks(range(len(labels)), labels, rotation=0 if len("".join(labels)) < 30 else 45)
            panel.set_xlim(-0.5, len(labels) - 0.5)
        panel.set_xlabel(words(name))
        plain_axes(panel)
        panel.tick_params(labelleft=True)
    for line in panels:
        line[0].set_ylabel(words(plan.objective.removeprefix("val_")) + ", validation")
    for panel in panels.flat[len(plan.spaces) :]:
        panel.set_visible(False)
    label = "trial" if plan.tuner != "hyperband" else "trial, larger with more epochs"
    keys = [Line2D([], [], marker="o", linestyle="", color=PALETTE[0], label=label)]
    ring = {"markerfacecolor": "none", "markeredgecolor": PALETTE[1], "markersize": 10, "markeredgewidth": 1.8}
    keys.append(Line2D([], [], marker="o", linestyle="", label="best", **ring))
    if failed:
        keys.append(Line2D([], [], marker="x", linestyle="", color="#777777", label="failed"))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
    return write_png(figure, path)


def _ends(space: Range) -> tuple[float, float]:
    """The whole space with a margin, so that what was not tried is seen too."""
    if space.log:
        factor = (space.high / space.low) ** 0.04
        return space.low / factor, space.high * factor
    margin = 0.04 * (space.high - space.low)
    return space.low - margin, space.high + margin


def _places(space: Space) -> Callable[[Any], float]:
    """Where a value stands on the axis: itself, or its place among the choices."""
    if isinstance(space, Range):
        return lambda value: value
    return lambda value: space.values.index(value)
