"""The review of predicted masks: a list, a contact sheet that opens without a network, and a summary."""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tfseg.data.audit_page import draw_case
from tfseg.data.sources.folder import TABLE, read_folder
from tfseg.jobs.label.review import MaskFacts, reasons, review_order, usual
from tfseg.pages import render_page
from tfseg.run import Run, write_json, write_text, written_whole

LIST, PAGE, REPORT = "review.csv", "review.html", "labelling.json"
COLUMNS = ("rank", "id", "image", "mask", "label", "confidence", "check_first", "reasons")
# Of the given masks, beside the predicted ones.
SHOWN = 8


def write_review(
    run: Run, report: dict, learned: dict, facts: dict[str, MaskFacts], confidence: dict[str, float], sheet: int
) -> str:
    """Write ``review.csv``, ``review.html`` and ``labelling.json`` of a labelled folder.

    Args:
        run: the folder; its table and masks are written.
        report: what the summary holds beside the review.
        learned: result of the training: ``given`` facts, and ``confidence`` and ``iou`` of the validation images.
        facts, confidence: of every predicted mask, by id.
        sheet: most pictures of predicted masks.

    Returns:
        The summary as lines for a terminal.
    """
    with run.path(TABLE).open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    known = usual([MaskFacts.from_json(value) for value in learned["given"]], learned["confidence"])
    ids = list(facts)
    found = [reasons(facts[name], confidence[name], known) for name in ids]
    order = review_order(found, [confidence[name] for name in ids], ids)
    entries = [
        {
            **{"rank": rank, "id": ids[at], "confidence": f"{confidence[ids[at]]:.4f}"},
            **{name: rows[ids[at]].get(name, "") for name in ("image", "mask", "label")},
            **{"check_first": "yes" if found[at] else "no", "reasons": "; ".join(found[at])},
        }
        for rank, at in enumerate(order, 1)
    ]
    with written_whole(run.path(LIST)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(entries)
    report = {**report, "check_first": sum(map(bool, found)), "reasons": _counted(found)}
    report["text"] = "\n".join(summary_lines(report) + [f"review   {run.path(PAGE)}, {run.path(LIST)}"])
    _write_page(run, report, entries, rows, sheet)
    write_json(run.path(REPORT), report)
    return report["text"]


def _counted(found: list[list[str]]) -> dict[str, int]:
    """How many masks each kind of reason has, without its numbers."""
    kinds = [reason.partition(" (")[0] for some in found for reason in some]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def summary_lines(report: dict) -> list[str]:
    """What was learned and predicted, in words."""
    validation = report["validation"]
    lines = [
        f"{report['predicted']} masks predicted, learned from {report['training']} of {report['given']} given masks",
        f"on the {validation['masks']} others:",
    ]
    for name, scores in validation["classes"].items():
        lines.append(f"  {name:<20} IoU {scores['iou']:.3f} per image, {scores['iou_pooled']:.3f} over all pixels")
    lesion = validation["lesion"]
    lines.append(f"  {'the whole lesion':<20} IoU {lesion['iou']:.3f}, Dice {lesion['dice']:.3f} per image")
    lines.append(worth(validation))
    reasons_of = ", ".join(f"{kind} {count}" for kind, count in report["reasons"].items())
    lines.append(f"{report['check_first']} to check first" + (f": {reasons_of}" if reasons_of else ""))
    return lines


def worth(validation: dict) -> str:
    """What the order of the list is worth, by the rank correlation on the validation images."""
    rho, count = validation["spearman"], validation["masks"]
    if rho is None:
        return f"confidence and true IoU: {count} validation masks can't tell how well they agree"
    told = "the order says little: look at all of them"
    if rho >= 0.25:
        told = "the order is worth following" if rho >= 0.5 else "the order says something"
    return f"confidence and true IoU: Spearman ρ = {rho:.2f} on {count} validation masks; {told}"


def _write_page(run: Run, report: dict, entries: list[dict], rows: dict[str, dict], sheet: int) -> None:
    # Any column will do for the target: the page shows what the table says.
    target = "label" if "label" in next(iter(rows.values())) else "mask_source"
    cases = read_folder(run.folder, target)
    position = {name: at for at, name in enumerate(cases.table["id"])}
    shown = entries[:sheet]
    given = [name for name, row in rows.items() if row["mask_source"] == "given"]
    given = [given[at] for at in np.unique(np.linspace(0, len(given) - 1, min(SHOWN, len(given))).astype(int))]
    names = [entry["id"] for entry in shown] + given
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = dict(zip(names, pool.map(lambda name: draw_case(cases, position[name]), names), strict=True))
    page = render_page(
        "tfseg.evaluation",
        "review.html.j2",
        report=report,
        worth=worth(report["validation"]),
        first=[entry for entry in shown if entry["check_first"] == "yes"],
        others=[entry for entry in shown if entry["check_first"] == "no"],
        hidden=len(entries) - len(shown),
        given=[rows[name] for name in given],
        pictures=pictures,
    )
    write_text(run.path(PAGE), page)
