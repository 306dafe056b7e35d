"""From the stored cells of a labelling's test to the rows of its table, and ``table.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tfseg.evaluation.scores import summarise_row
from tfseg.evaluation.tables import command_block, footnotes, markdown_table, number, table_cells
from tfseg.jobs.cells import row_model
from tfseg.jobs.gather import extras, notes, promote, write_history
from tfseg.jobs.grid import Progress, stored
from tfseg.jobs.preparation import recorded_config
from tfseg.jobs.relabel.cells import Relabelling
from tfseg.jobs.relabel.scores import LabelScores

SETTINGS = ("image_size", "augmentation", "val_fraction", "weights")
WHOLE_CELL = ("iou", "dice")
WORTH = (
    *("foreground_iou", "confidence", "spearman", "validation_spearman"),
    *("check_first", "check_first_iou", "others_iou", "worst_found"),
)
COST = ("epochs", "train_seconds")


def tabulate_relabelling(
    relabelling: Relabelling, progress: Progress, paper: Mapping[str, float] | None, remarks: Sequence[str]
) -> list[dict]:
    """The rows of ``metrics.json`` from the stored cells; a row without one is left out.

    A row has beside its metrics ``per_class``: of every class of image the mean over the runs of its mean scores.

    Args:
        relabelling, progress: what is stored.
        paper: published values of the segmenter.
        remarks: on them.
    """
    rows, cases = [], relabelling.cases
    position_of = {name: number for number, name in enumerate(cases.table["id"])}
    for name in relabelling.rows:
        done = [cell for cell in progress.done if cell.row == name]
        if not done:
            continue
        results = [stored(relabelling.run, cell) for cell in done]
        positions = [np.array([position_of[case] for case in result["ids"]], np.int64) for result in results]
        runs = [
            LabelScores(
                cases.groups[here],
                per_case={key: np.array(values, float) for key, values in result["per_case"].items()},
            )
            for here, result in zip(positions, results, strict=True)
        ]
        drawn = name == relabelling.config.segmenter
        settings = _settings(relabelling) if drawn else {"baseline": "foreground"}
        folds = [cell.fold for cell in done]
        row = summarise_row(name, settings, runs, (), extras(results), dict(paper) if drawn and paper else None, folds)
        row |= notes(done, results)
        if drawn:
            row["notes"] = [*row.get("notes", []), *remarks]
            promote(relabelling.run, done, relabelling.model_path, row_model(relabelling.run, name))
        row["per_class"] = _per_class(cases.classes, [cases.labels[here] for here in positions], runs)
        rows.append(row)
    write_history(relabelling.run, progress.done)
    return rows


def _settings(relabelling: Relabelling) -> dict:
    own = recorded_config(relabelling.config)
    return {key: own[key] for key in own if key.startswith("segmenter") or key in SETTINGS}


def _per_class(classes: Sequence[str], labels: Sequence[np.ndarray], runs: Sequence[LabelScores]) -> dict[str, dict]:
    """Of every class of image the scores that say how near the masks are; ``support`` counts all runs."""
    table = {}
    for index, label in enumerate(classes):
        members = [np.flatnonzero(here == index) for here in labels]
        means = [run.metrics((), here) for run, here in zip(runs, members, strict=True)]
        shown = [name for name in means[0] if name in WHOLE_CELL or name.startswith("iou_") or name == "mean_iou"]
        values = {name: float(np.mean([scores[name] for scores in means])) for name in shown}
        table[label] = {**values, "support": int(sum(len(here) for here in members))}
    return table


def relabel_markdown(metrics: Mapping) -> str:
    """``table.md``: the masks against the truth, by class of image, and what the labelling's own judgement is worth.

    Args:
        metrics: content of ``metrics.json``, whose rows are as `tabulate_relabelling` gives them.
    """
    rows = metrics["rows"]
    present = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    by_class = [name for name in present if name.startswith("iou_")]
    tables = (
        ("Drawn masks against the true ones", (*by_class, "mean_iou", *WHOLE_CELL)),
        ("The labelling's own judgement: confidence, and what it wants checked first", WORTH),
        ("Cost", COST),
    )
    lines: list[str] = []
    for heading, columns in tables:
        columns = [name for name in columns if name in present]
        shown = [row for row in rows if any(name in row["metrics"] for name in columns)]
        if shown and columns:
            lines += [f"## {heading}", "", *markdown_table(*table_cells({**metrics, "rows": shown}, columns)), ""]
    for row in rows:
        lines += [f"## {row['name']}, by class of image", "", *_class_table(row["per_class"]), ""]
    lines += [*_counting(metrics["design"]), "", *footnotes(metrics), "", *command_block(metrics["command"]), ""]
    return "\n".join(lines)


def _class_table(per_class: Mapping[str, Mapping]) -> list[str]:
    columns = [name for name in next(iter(per_class.values())) if name != "support"]
    cells = [
        [label, *(number(name, scores[name]) for name in columns), f"{scores['support']:,}"]
        for label, scores in per_class.items()
    ]
    return markdown_table(["class", *columns, "masks"], cells)


def _counting(design: Mapping) -> list[str]:
    """How the masks were drawn and counted, as sentences."""
    return [
        f"Every run draws {design['masks_per_class']} images of each class; their masks are given, all others are "
        "hidden, drawn by the labelling and compared with the truth, at the files' own resolution, without unknown "
        "pixels. Scores are means over images; iou and dice are of all lesion classes together, mean_iou is the mean "
        "over the classes of pixels.",
        "",
        "foreground_iou is an image's mean over the classes without the background, what the confidence stands for; "
        "spearman is the rank correlation of the two (validation_spearman: as the labelling itself could know it). "
        "check_first is the share of the masks that it wants checked first, check_first_iou and others_iou are the "
        "foreground_iou of these and of the others, worst_found is the share of the worst tenth among the former.",
    ]
