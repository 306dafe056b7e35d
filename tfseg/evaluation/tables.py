"""Tables of a run's results: for ``table.md``, for the terminal, and for the report."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence

METRIC_ORDER = (
    "accuracy",
    "balanced_accuracy",
    "kappa",
    "auc",
    "average_precision",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "specificity_macro",
    "ece",
    "brier",
    "temperature",
    "ece_uncalibrated",
    "brier_uncalibrated",
    "sensitivity",
    "specificity",
    "positive_threshold",
    "validation_sensitivity",
    "coverage",
    "accuracy_kept",
    "accuracy_left_out",
    "abstain_below",
    "unfamiliar_rate",
    "unfamiliar_auroc",
    "dice",
    "iou",
    "pixel_accuracy",
    "pixel_error",
    "pixel_precision",
    "pixel_recall",
    "pixel_specificity",
    "hausdorff95",
    "surface_distance",
    "cam_iou",
    "cam_iou_undilated",
    "cam_overlap",
    "cam_pointing",
    "background_flip_rate",
    "background_total_variation",
    "lesion_flip_rate",
    "lesion_total_variation",
    "insertion_auc",
    "deletion_auc",
    "sanity_spearman",
    "sanity_ssim",
    "sanity_spearman_head",
    "sanity_ssim_head",
    "epochs",
    "seconds_per_epoch",
    "train_seconds",
    "parameters",
    "latency_ms",
)
# Quantities with a unit; everything else is a share or a coefficient and gets three decimals.
DECIMALS = {
    "parameters": 0,
    "epochs": 1,
    "best_epoch": 0,
    "peak_memory_mb": 0,
    "seconds_per_epoch": 2,
    "train_seconds": 0,
    "latency_ms": 1,
    "hausdorff95": 1,
    "surface_distance": 1,
}
MISSING = "–"

SEGMENTATION_COLUMNS = (
    *("dice", "iou", "pixel_accuracy", "pixel_precision", "pixel_recall", "pixel_specificity"),
    # Of a study: at the network's own size, and with other thresholds.
    *("dice_model_size", "iou_model_size", "iou_chosen", "iou_otsu"),
    # Of masks with several classes, and what a labelling knows of its own.
    *("mean_iou", "spearman", "check_first_iou", "others_iou"),
)
CLASSIFICATION_COLUMNS = (
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "kappa",
    "auc",
    *("sensitivity", "specificity", "coverage", "accuracy_kept", "accuracy_left_out", "unfamiliar_rate"),
    "unfamiliar_auroc",
    "cam_iou",
    "cam_pointing",
    "background_flip_rate",
    "lesion_flip_rate",
    *("insertion_auc", "deletion_auc"),
    *("sanity_spearman", "sanity_ssim", "sanity_spearman_head", "sanity_ssim_head"),
)


def table_cells(metrics: Mapping, columns: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """The cells of the table of results: names, then each metric with the paper's number beside it.

    Several values give mean ± half the width of their 95 % interval; a single one gives its value and, where
    there is one, the interval in brackets.

    Args:
        metrics: content of ``metrics.json``.
        columns: metrics to show; all that any row has by default.

    Returns:
        ``(header, rows)``, all text.

    Raises:
        ValueError: when no row has one of `columns`.
    """
    rows = metrics["rows"]
    present = {name for row in rows for name in (*row["metrics"], *(row.get("paper") or {}))}
    if columns is None:
        ours = {name: None for row in rows for name in row["metrics"]}
        columns = sorted(ours, key=lambda name: METRIC_ORDER.index(name) if name in METRIC_ORDER else math.inf)
    unknown = [name for name in columns if name not in present]
    if unknown:
        raise ValueError(f"`columns` {unknown} are in no row; there are {sorted(present)}")
    papers = {name for row in rows for name in (row.get("paper") or {})}
    header = ["name"]
    for name in columns:
        header += [name, f"{name} (paper)"] if name in papers else [name]
    cells = []
    for row in rows:
        line = [str(row["name"])]
        for name in columns:
            line.append(_cell(name, row["metrics"].get(name)))
            if name in papers:
                line.append(number(name, (row.get("paper") or {}).get(name)))
        cells.append(line)
    return header, cells


def shown_tables(metrics: Mapping) -> list[tuple[dict, list[str]]]:
    """The tables worth reading, masks apart from classifiers, instead of one with every number.

    Args:
        metrics: content of ``metrics.json``; its ``columns``, where it has some, stand in place of the usual ones of
            classifiers.

    Returns:
        For each, ``metrics`` with its rows only, and its columns. Rows that belong to neither come as they are.
    """
    tables, kinds = [], (SEGMENTATION_COLUMNS, CLASSIFICATION_COLUMNS)
    for columns in kinds:
        found = [row for row in metrics["rows"] if columns[0] in row["metrics"]]
        # Rows that learn another column stand in a table of their own, before those that look at their maps.
        for target in sorted({row.get("target", "") for row in found}, reverse=True):
            rows = [row for row in found if row.get("target", "") == target]
            present = {name: None for row in rows for name in row["metrics"]}
            # Accuracies on other images of the same cases.
            variants = []
            wanted = columns
            if columns is CLASSIFICATION_COLUMNS:
                variants = [name for name in present if name.startswith("accuracy_") and name not in columns]
                wanted = columns if target else metrics.get("columns") or columns
            shown = list(dict.fromkeys([*wanted[:1], *variants, *wanted[1:]]))
            tables.append(({**metrics, "rows": rows}, [name for name in shown if name in present]))
    other = [row for row in metrics["rows"] if not any(columns[0] in row["metrics"] for columns in kinds)]
    if other:
        tables.append(
            ({**metrics, "rows": other}, list(dict.fromkeys(name for row in other for name in row["metrics"])))
        )
    return tables


def class_cells(metrics: Mapping) -> tuple[list[str], list[list[str]]] | None:
    """The recall of every class, which papers call its accuracy, over all test cases; None where no row has classes.

    Args:
        metrics: content of ``metrics.json``; see `tfseg.evaluation.classification.per_class_metrics`.

    Returns:
        ``(header, lines)``, all text.
    """
    rows = [row for row in metrics["rows"] if row.get("per_class") and "target" not in row]
    classes = list(dict.fromkeys(name for row in rows for name in row["per_class"]))
    lines = []
    for row in rows:
        cells = [number("recall", row["per_class"].get(name, {}).get("recall")) for name in classes]
        lines.append([str(row["name"]), *cells])
    return (["recall of", *classes], lines) if rows else None


def subgroup_cells(metrics: Mapping) -> tuple[list[str], list[list[str]]] | None:
    """The rows broken down by subgroups: one line per row, column and value; None where there are none.

    Args:
        metrics: content of ``metrics.json``; see `tfseg.evaluation.subgroups.subgroup_scores`.

    Returns:
        ``(header, lines)``, all text; a subgroup that is too small has dashes.
    """
    lines = [
        (row["name"], column, value, part)
        for row in metrics["rows"]
        for column, values in row.get("subgroups", {}).items()
        for value, part in values.items()
    ]
    if not lines:
        return None
    names = list(dict.fromkeys(name for *_, part in lines for name in part["metrics"]))
    table = [
        [row, column, value, f"{part['cases']:,}", *(_cell(name, part["metrics"].get(name)) for name in names)]
        for row, column, value, part in lines
    ]
    return ["name", "column", "subgroup", "cases", *names], table


def table_markdown(metrics: Mapping) -> str:
    """``table.md``: the tables worth reading, how to read them, and the command that made them."""
    lines: list[str] = []
    for part, columns in shown_tables(metrics):
        header, rows = table_cells(part, columns)
        lines += ["", *markdown_table(header, rows)]
    by_class = class_cells(metrics)
    if by_class:
        lines += ["", *markdown_table(*by_class)]
    subgroups = subgroup_cells(metrics)
    if subgroups:
        lines += ["", *markdown_table(*subgroups, left=3)]
    return "\n".join([*lines[1:], "", *footnotes(metrics), "", *command_block(metrics["command"]), ""])


def table_text(metrics: Mapping, width: int | None = None) -> str:
    """The tables worth reading, for the terminal; columns that do not fit beside each other follow in further blocks.

    Args:
        metrics: content of ``metrics.json``.
        width: characters in a line; the terminal's by default.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    text: list[str] = []
    for part, columns in shown_tables(metrics):
        text += _text_blocks(*table_cells(part, columns), width)
    return "\n\n".join([*text, "\n".join(footnotes(metrics))]) + "\n"


def _text_blocks(header: list[str], rows: list[list[str]], width: int) -> list[str]:
    table = [header, *rows]
    widths = [max(len(line[index]) for line in table) for index in range(len(header))]
    blocks: list[list[int]] = [[]]
    for index in range(1, len(header)):
        used = widths[0] + sum(2 + widths[column] for column in blocks[-1])
        if blocks[-1] and used + 2 + widths[index] > width:
            blocks.append([])
        blocks[-1].append(index)
    text = []
    for block in blocks:
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(line[index].rjust(widths[index]) for index in block)])
            for line in table
        ]
        text.append("\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]))
    return text


def markdown_table(header: list[str], rows: Sequence[list[str]], left: int = 1) -> list[str]:
    """The lines of a Markdown table.

    Args:
        header, rows: cells, all text.
        left: columns that are aligned to the left; the others hold numbers.
    """

    def line(cells: Sequence[str]) -> str:
        escaped = (
            cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in cells
        )
        return f"| {' | '.join(escaped)} |"

    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return [line(header), line(rule), *(line(row) for row in rows)]


def command_block(command: str) -> list[str]:
    """The lines of a Markdown block with a command in one line, whatever backticks the command holds."""
    fence = "```"
    while fence in command:
        fence += "`"
    return [f"{fence}sh", command.replace("\n", " "), fence]


def number(name: str, value: float | str | None) -> str:
    """A value of a metric with its decimals; a dash where there is none."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return MISSING
    return value if isinstance(value, str) else f"{value:,.{DECIMALS.get(name, 3)}f}"


def footnotes(metrics: Mapping) -> list[str]:
    """How the cells are to be read, and which run they come from."""
    summaries = [summary for row in metrics["rows"] for summary in row["metrics"].values()]
    counts = sorted({len(summary["values"]) for summary in summaries if len(summary["values"]) > 1})
    notes = []
    if counts:
        folds = " or ".join(str(count) for count in counts)
        notes.append(f"± is half of the 95 % interval of the mean over {folds} folds or runs (Student t).")
    if any("[" in _cell("", summary) for summary in summaries):
        notes.append("In brackets: 95 % interval of a single run, bootstrap over test groups.")
    notes += [f"{row['name']}: {note}." for row in metrics["rows"] for note in row.get("notes", [])]
    if not metrics.get("complete", True):
        missing, failed = metrics["missing"], metrics.get("failed", {})
        notes.append(
            f"{metrics['cells'] - len(missing)} of {metrics['cells']} cells are done; missing: {', '.join(missing)}."
        )
        notes += [f"{cell} failed: {message}." for cell, message in failed.items()]
    notes.append(
        f"Experiment {metrics['experiment']}, preset {metrics['preset']}, seed {metrics['seed']}, "
        f"data {metrics['data']}, {duration(metrics['seconds'])}."
    )
    return notes


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _cell(name: str, summary: Mapping | None) -> str:
    if summary is None:
        return MISSING
    mean, (low, high) = number(name, summary["mean"]), summary["ci95"]
    if mean == MISSING or any(number(name, end) == MISSING for end in (low, high)):
        return mean
    if len(summary["values"]) > 1:
        return f"{mean} ± {number(name, (high - low) / 2)}"
    return f"{mean} [{number(name, low)}, {number(name, high)}]"
