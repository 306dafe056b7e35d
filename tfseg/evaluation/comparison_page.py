"""What a comparison of rows looks like to a reader: sentences, tables, and a figure of the differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfseg.evaluation.canvas import PALETTE, new_figure, plain_axes, words, wrapped, write_png
from tfseg.evaluation.tables import METRIC_ORDER, MISSING, markdown_table, number

TEST_NAMES = {"mcnemar": "McNemar", "delong": "DeLong", "wilcoxon": "Wilcoxon", "bootstrap": "bootstrap"}
MAIN_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "kappa",
    "f1_macro",
    "auc",
    "dice",
    "iou",
    "cam_iou",
    "background_flip_rate",
)


def metrics_of(comparison: Mapping) -> list[str]:
    """The metrics that at least one pair has, in the order of the tables."""
    names = dict.fromkeys(name for pair in comparison["pairs"] for name in pair["metrics"])
    return sorted(names, key=lambda name: METRIC_ORDER.index(name) if name in METRIC_ORDER else math.inf)


def difference_sentences(comparison: Mapping, metric: str) -> list[str]:
    """What holds, in one sentence, then one line for each pair.

    Args:
        comparison: from `tfseg.evaluation.differences.compare_rows`.
        metric: one of `metrics_of`.

    Raises:
        ValueError: when no pair has the metric.
    """
    pairs = _pairs_with(comparison, metric)
    held = [pair for pair in pairs if pair["metrics"][metric]["holds"]]
    count = f"{len(held)} of {len(pairs)}" if len(pairs) > 1 else "the"
    if len(pairs) == 1:
        first = f"The difference in {words(metric)} {'holds' if held else 'does not hold'}."
    elif not held:
        first = f"None of the {len(pairs)} differences in {words(metric)} holds."
    else:
        first = f"{count} differences in {words(metric)} hold{'s' if len(held) == 1 else ''}."
    return [first, *(_sentence(pair, metric) for pair in pairs)]


def score_cells(comparison: Mapping, metrics: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """The scores of each row with their 95 % intervals: ``(header, rows)``, all text."""
    metrics = metrics or [name for name in metrics_of(comparison) if name in MAIN_METRICS] or metrics_of(comparison)
    rows = [
        [name, *(_with_interval(metric, row["metrics"].get(metric), "mean") for metric in metrics)]
        for name, row in comparison["rows"].items()
    ]
    return ["name", *metrics], rows


def difference_cells(comparison: Mapping, metric: str) -> tuple[list[str], list[list[str]]]:
    """Every difference in one metric with its tests: ``(header, rows)``, all text.

    Raises:
        ValueError: when no pair has the metric.
    """
    rows = []
    for pair in _pairs_with(comparison, metric):
        entry = pair["metrics"][metric]
        rows.append(
            [
                f"{pair['first']} − {pair['second']}",
                _with_interval(metric, entry, "difference"),
                _p(entry["p"]),
                TEST_NAMES[entry["test"]],
                _p(entry["p_holm"]),
                "yes" if entry["holds"] else "no",
            ]
        )
    return ["difference", metric, "p", "test", "p (Holm)", "holds"], rows


def other_cells(comparison: Mapping, metric: str) -> tuple[list[str], list[list[str]]] | None:
    """The differences in the other main metrics, those that hold marked with a star; None where there are none."""
    others = [name for name in metrics_of(comparison) if name != metric and name in MAIN_METRICS]
    if not others:
        return None
    rows = []
    for pair in comparison["pairs"]:
        cells = [f"{pair['first']} − {pair['second']}"]
        for name in others:
            entry = pair["metrics"].get(name)
            star = " *" if entry and entry["holds"] else ""
            cells.append(_with_interval(name, entry, "difference") + star)
        rows.append(cells)
    return ["difference", *others], rows


def effect_cells(comparison: Mapping) -> tuple[list[str], list[list[str]]] | None:
    """Effect sizes of McNemar's and Wilcoxon's tests, one line per pair; None where neither was made."""
    if not any(pair["mcnemar"] or pair["wilcoxon"] for pair in comparison["pairs"]):
        return None
    rows = []
    for pair in comparison["pairs"]:
        mcnemar, wilcoxon = pair["mcnemar"], pair["wilcoxon"]
        cells = {"difference": f"{pair['first']} − {pair['second']}"}
        cells["only one right"] = (
            f"{mcnemar['only_first_right']} : {mcnemar['only_second_right']}" if mcnemar else MISSING
        )
        cells["Cohen's g"] = _signed("", mcnemar["cohens_g"], True) if mcnemar else MISSING
        cells["McNemar p"] = _p(mcnemar["p"]) if mcnemar else MISSING
        cells["rank-biserial r"] = _signed("", wilcoxon["rank_biserial"], True) if wilcoxon else MISSING
        cells["Wilcoxon p"] = _p(wilcoxon["p"]) if wilcoxon else MISSING
        rows.append(cells)
    header = [name for name in rows[0] if any(cells[name] != MISSING for cells in rows)]
    return header, [[cells[name] for name in header] for cells in rows]


def published_cells(comparison: Mapping) -> tuple[list[str], list[list[str]]] | None:
    """Ours beside published scores, where the rows have ``published``; a difference above its tolerance is marked.

    ``published`` of a row is ``{"metrics": {name: [value, std]}, "tolerance": largest difference that is rounding,
    "ddof": of the published standard deviations}``.
    """
    rows = {name: row for name, row in comparison["rows"].items() if row.get("published")}
    if not rows:
        return None
    metrics = list(dict.fromkeys(name for row in rows.values() for name in row["published"]["metrics"]))
    lines = []
    for name, row in rows.items():
        published = row["published"]
        line, apart = [name], []
        for metric in metrics:
            ours, theirs = row["metrics"].get(metric), published["metrics"].get(metric)
            if ours is None or theirs is None:
                line.append(MISSING)
                continue
            differs = abs(ours["mean"] - theirs[0]) > published["tolerance"]
            apart += [metric] if differs else []
            line.append(f"{_with_std(ours['mean'], _std(ours['values'], published['ddof']))} / {_with_std(*theirs)}")
        lines.append([*line, f"no: {', '.join(words(metric) for metric in apart)}" if apart else "yes"])
    return ["name", *(f"{metric} (ours / published)" for metric in metrics), "agrees"], lines


def comparison_markdown(comparison: Mapping, metric: str) -> list[str]:
    """Lines of ``table.md`` for one comparison."""
    lines = [difference_sentences(comparison, metric)[0], ""]
    for cells in (difference_cells(comparison, metric), score_cells(comparison)):
        lines += [*markdown_table(*cells), ""]
    for cells, note in (
        (other_cells(comparison, metric), "\\* holds, corrected by Holm over the pairs for that metric."),
        (effect_cells(comparison), ""),
    ):
        if cells:
            lines += [*markdown_table(*cells), "", *([note, ""] if note else [])]
    published = published_cells(comparison)
    if published:
        row = next(row["published"] for row in comparison["rows"].values() if row.get("published"))
        lines += [
            f"Beside {row['source']} (± is the standard deviation over the models, ddof {row['ddof']}; they agree when "
            f"the means differ by no more than {row['tolerance']:g}):",
            "",
            *markdown_table(*published),
            "",
        ]
    return [*lines, *footnotes(comparison), ""]


def footnotes(comparison: Mapping) -> list[str]:
    """How the tables are to be read."""
    return [
        *comparison["notes"],
        f"In brackets: 95 % interval, bootstrap over the independent units ({comparison['draws']:,} draws, seed "
        f"{comparison['seed']}), not corrected. A difference holds when its p-value, corrected by Holm over the "
        f"{len(comparison['pairs'])} differences here, is below {comparison['alpha']:g}.",
    ]


def differences_figure(comparison: Mapping, metric: str, path: str | Path) -> Path:
    """Every difference with its 95 % interval; filled and blue where it holds, open and grey where it doesn't.

    Args:
        comparison: from `tfseg.evaluation.differences.compare_rows`.
        metric: one of `metrics_of`.
        path: PNG to write.

    Raises:
        ValueError: when no pair has the metric.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    pairs = _pairs_with(comparison, metric)
    names = [wrapped(f"{pair['first']} − {pair['second']}", 46) for pair in pairs]
    lines = sum(name.count("\n") + 1.5 for name in names)
    longest = max(len(line) for name in names for line in name.split("\n"))
    figure = new_figure(0.082 * longest + 4.6, 0.2 * lines + 1.5)
    panel = figure.subplots()
    panel.axvline(0, color="#444444", linewidth=1, zorder=1)
    for position, pair in enumerate(pairs):
        entry = pair["metrics"][metric]
        colour = PALETTE[0] if entry["holds"] else "#777777"
        if _finite(*entry["ci95"]):
            panel.plot(entry["ci95"], [position] * 2, color=colour, linewidth=2, zorder=2)
        if _finite(entry["difference"]):
            fill = colour if entry["holds"] else "white"
            panel.plot(
                entry["difference"], position, marker="o", markersize=6, color=colour, markerfacecolor=fill, zorder=3
            )
    panel.set_yticks(range(len(pairs)), names)
    panel.set_ylim(len(pairs) - 0.5, -0.5)
    panel.set_xlabel(f"difference in {words(metric)}")
    panel.xaxis.set_major_locator(MaxNLocator(6))
    panel.margins(x=0.06)
    plain_axes(panel)
    panel.tick_params(axis="y", length=0)
    handles = [
        Line2D([], [], color=PALETTE[0], marker="o", linewidth=2, label="holds (Holm)"),
        Line2D([], [], color="#777777", marker="o", markerfacecolor="white", linewidth=2, label="does not hold"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return write_png(figure, path)


def _sentence(pair: Mapping, metric: str) -> str:
    entry = pair["metrics"][metric]
    verdict = "holds"
    if entry["p"] is None or not _finite(entry["p"]):
        verdict = "cannot be tested"
    elif not entry["holds"]:
        verdict = "does not hold" + (" after correction" if entry["p"] < 0.05 else "")
    return (
        f"{pair['first']} − {pair['second']}: {words(metric)} {_with_interval(metric, entry, 'difference')}, "
        f"{TEST_NAMES[entry['test']]} p {_compared(entry['p'])}, Holm p {_compared(entry['p_holm'])}: {verdict}"
    )


def _pairs_with(comparison: Mapping, metric: str) -> list[Mapping]:
    pairs = [pair for pair in comparison["pairs"] if metric in pair["metrics"]]
    if not pairs:
        raise ValueError(f"`metric` {metric!r} is in no pair; there are {metrics_of(comparison)}")
    return pairs


def _with_interval(metric: str, entry: Mapping | None, key: str) -> str:
    if entry is None or not _finite(entry[key]):
        return MISSING
    signed = key == "difference"
    value, low, high = (_signed(metric, part, signed) for part in (entry[key], *entry["ci95"]))
    return value if MISSING in (low, high) else f"{value} [{low}, {high}]"


def _signed(metric: str, value: float | None, signed: bool) -> str:
    text = number(metric, value)
    if not signed or text == MISSING:
        return text
    # What rounds to zero has no sign.
    if not float(text.replace(",", "")):
        return text.lstrip("-")
    return f"−{text[1:]}" if text.startswith("-") else f"+{text}"


def _with_std(mean: float, std: float | None) -> str:
    return number("", float(mean)) + (f" ± {std:.3f}" if std is not None and _finite(std) else "")


def _std(values: Sequence[float], ddof: int) -> float:
    import numpy as np

    return float(np.std(values, ddof=ddof)) if len(values) > ddof else float("nan")


def _p(value: float | None) -> str:
    if value is None or not _finite(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _compared(value: float | None) -> str:
    text = _p(value)
    return text if text.startswith("<") else f"= {text}"


def _finite(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)
