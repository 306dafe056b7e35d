"""``table.md`` of a study: scores beside the paper's, classes, thresholds and epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfseg.evaluation.tables import command_block, footnotes, markdown_table, number, table_cells

# Heading, and the metrics that stand below it.
TABLES = (
    (
        "At the files' own resolution, threshold 0.5",
        ("iou", "dice", "pixel_accuracy", "pixel_error", "pixel_precision", "pixel_recall", "pixel_specificity"),
    ),
    (
        "At the network's own size, threshold 0.5",
        ("iou_model_size", "dice_model_size", "pixel_error_model_size"),
    ),
    ("Distances between the outlines, in pixels of the files", ("hausdorff95", "surface_distance")),
    (
        "Thresholds: 0.5, the best on validation, Otsu's of each image",
        ("iou", "iou_chosen", "iou_otsu", "dice", "dice_chosen", "dice_otsu", "threshold_chosen"),
    ),
    (
        "Cost, and the mean probability inside and outside of the lesions",
        (
            *("epochs", "train_seconds", "parameters", "latency_ms"),
            *("probability_inside", "probability_outside"),
        ),
    ),
)


def study_markdown(metrics: Mapping) -> str:
    """The tables of a study, how to read them, and the command that made them.

    Args:
        metrics: content of ``metrics.json``, whose rows are as `tabulate_study` gives them.
    """
    lines: list[str] = []
    published = {name for row in metrics["rows"] for name in row["paper"] or {}}
    # One says what the other does.
    dropped = "pixel_error" if "pixel_accuracy" in published else "pixel_accuracy"
    for heading, columns in TABLES:
        own = columns[1] if "chosen" in columns[1] else columns[0]
        rows = [row for row in metrics["rows"] if own in row["metrics"]]
        present = [name for name in columns if name != dropped and any(name in row["metrics"] for row in rows)]
        if columns[0] != own:
            rows = [{**row, "paper": None} for row in rows]
        if rows:
            lines += [f"## {heading}", "", *markdown_table(*table_cells({**metrics, "rows": rows}, present)), ""]
    lines += _class_tables(metrics["rows"], published)
    for row in metrics["rows"]:
        if row.get("epochs"):
            lines += [f"## {row['name']}: validation part, epoch by epoch", "", *_epoch_table(row["epochs"]), ""]
    notes = [*_counting(metrics["design"]), *footnotes(metrics)]
    return "\n".join([*lines, *notes, "", *command_block(metrics["command"]), ""])


def _counting(design: Mapping) -> list[str]:
    """How the cases were divided and the means taken, as sentences."""
    drawn = {
        "random": "Every run draws its own split image by image: images of one patient may stand on both sides.",
        "group": "Every run draws its own split by whole groups: no patient stands on both sides.",
        "folds": "Every fold's test part is scored by the network that has not seen it.",
    }
    mean = (
        "the unweighted mean over the classes of the mean over images" if design["over_labels"] else "means over images"
    )
    chosen = "The validation part chooses the epoch, and the threshold of the scores called chosen."
    return [f"{drawn[design['split_by']]} The scores are {mean}. {chosen}"]


def _class_tables(rows: Sequence[Mapping], published: set[str]) -> list[str]:
    """Row × class of IoU, Dice and what else was published; the published values in brackets, beside the counting at
    the network's size where there is one."""
    rows = [row for row in rows if row.get("per_class")]
    lines: list[str] = []
    others = {name.removesuffix("_model_size") for name in published} - {"iou", "dice", "pixel_error"}
    for score in ("iou", "dice", *(name for name in (_first(rows[0]) if rows else ()) if name in others)):
        names = [name for name in (f"{score}_model_size", score) if any(name in _first(row) for row in rows)]
        for name in names:
            shown = [row for row in rows if name in _first(row)]
            paper = (
                f"paper_{score}" if name == names[0] and any(f"paper_{score}" in _first(row) for row in shown) else ""
            )
            classes = list(shown[0]["per_class"])
            cells = [
                [row["name"], *(_with_paper(row["per_class"][label], name, paper) for label in classes)]
                for row in shown
            ]
            note = ", in brackets the paper's" if paper else ""
            lines += [f"## Per class: {name}{note}", "", *markdown_table(["name", *classes], cells), ""]
    return lines


def _first(row: Mapping) -> Mapping:
    return next(iter(row["per_class"].values()))


def _with_paper(scores: Mapping, name: str, paper: str) -> str:
    text = number(name, scores[name])
    return f"{text} ({number(name, scores[paper])})" if scores.get(paper) is not None else text


def _epoch_table(epochs: Sequence[Mapping]) -> list[str]:
    columns = ("loss", "paper_loss", "iou", "paper_iou")
    header = ["epoch", "loss", "loss (paper)", "IoU", "IoU (paper)"]
    return markdown_table(
        header, [[str(line["epoch"]), *(number(name, line[name]) for name in columns)] for line in epochs]
    )
