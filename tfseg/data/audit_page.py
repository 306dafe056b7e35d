"""The audit for readers: lines on the terminal, and a page with pictures that opens without a network."""

from __future__ import annotations

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.data.audit import NO_LABEL, Audit, audit_record
from tfseg.data.cases import Cases
from tfseg.data.checks import ERRORS, WARNINGS, Finding
from tfseg.errors import RunError
from tfseg.pages import render_page
from tfseg.run import write_json, write_text

if TYPE_CHECKING:
    import pandas as pd

PICTURE = 176
PER_CLASS, PER_PROBLEM, LINES, CLASSES = 6, 12, 20, 24
# One colour for each class of a mask, the first for a binary one: visible on skin, tissue and stained cells.
CONTOURS = ((0, 255, 0), (255, 255, 0), (0, 255, 255), (255, 128, 0), (255, 0, 255))
_SPAN = ("min", "median", "max")
_PAIRED = ("duplicate_across_labels", "duplicate_across_parts", "duplicates")


def audit_text(audit: Audit, limit: int = 10) -> str:
    """The audit as lines for a terminal, with at most `limit` problems of each kind."""
    lines = [audit.name, ""]
    for heading, table in count_tables(audit):
        lines += [heading, table.to_string(line_width=120), ""]
    lines += [f"{name}: {value}" for name, value in fact_lines(audit)]
    for word, found in (("error", audit.errors), ("warning", audit.warnings)):
        lines += ["", f"{len(found)} {word}{'s' if len(found) != 1 else ''}{':' if found else ''}"]
        for kind in dict.fromkeys(problem.kind for problem in found):
            alike = [problem for problem in found if problem.kind == kind]
            lines += [f"  {problem}" for problem in alike[:limit]]
            if len(alike) > limit:
                lines.append(f"  … and {len(alike) - limit} more [{kind}]")
    return "\n".join(lines)


def count_tables(audit: Audit) -> list[tuple[str, pd.DataFrame]]:
    """Cases by class and part, with the cases that have a mask; and the groups, where they say more."""
    cases = audit.counts.copy()
    cases.loc["all"] = cases.sum()
    cases["with mask"] = [*(audit.masks[name] for name in audit.counts.index), sum(audit.masks.values())]
    tables = [("cases", cases)]
    if audit.facts["groups"] < audit.facts["cases"]:
        tables.append(("groups", audit.groups))
    # The parts of several splits make many columns.
    return [(heading, table.T if len(audit.counts.columns) > 4 else table) for heading, table in tables]


def fact_lines(audit: Audit) -> list[tuple[str, str]]:
    """What was measured, in words."""
    facts, lines = audit.facts, []
    lines.append(("cases", f"{facts['cases']:,} in {facts['groups']:,} groups"))
    if "width" in facts:
        low, middle, high = ("×".join(f"{facts[side][key]:g}" for side in ("width", "height")) for key in _SPAN)
        lines.append(("image size", f"{low} to {high} pixels (median {middle})"))
        lines.append(("files", ", ".join(f"{count:,} {form}" for form, count in facts["files"].items())))
    masks = f"{facts['masks']:,} of {facts['cases']:,}"
    if "lesion_share" in facts:
        share = facts["lesion_share"]
        masks += f", lesion {share['mean']:.1%} of the pixels (median {share['median']:.1%})"
    lines.append(("masks", masks))
    if "mask_fit" in facts:
        fit = facts["mask_fit"]
        what = f"{fit['judged']:,} compared with their images"
        lines.append(("masks and images", what if fit["telling"] else f"{what}: too little contrast to judge one"))
    copies = facts["copies"]
    lines.append(
        (
            "copies",
            f"{copies['equal_bytes']} with equal bytes, {copies['look_alike']} that look alike; "
            f"{copies['in_one_group']} of them in one group",
        )
    )
    if "imbalance" in facts:
        lines.append(("largest to smallest class", f"{facts['imbalance']:.1f} : 1"))
    if audit.leak:
        score = audit.leak.score
        told = f"balanced accuracy {score.balanced_accuracy:.2f} ({score.low:.2f} to {score.high:.2f})"
        lines.append(("label from file facts", f"{told}, chance {audit.leak.chance:.2f}"))
    else:
        lines.append(("label from file facts", "not tested: fewer than two classes with 20 cases in 5 groups"))
    return lines


def check_audit_folder(folder: str | Path) -> None:
    """Refuse a folder for `write_audit` that holds something else.

    Raises:
        RunError: when it is a file, or holds files and none of an audit.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise RunError(f"`--out` must be a folder, and {folder} is a file")
    if path.is_dir() and any(path.iterdir()) and not (path / "audit.json").exists():
        raise RunError(f"`--out` {folder} is not empty and holds no audit.json: give a new or an empty folder")


def write_audit(audit: Audit, cases: Cases, folder: str | Path) -> Path:
    """Write ``audit.json`` and ``audit.html``, each whole or not at all.

    Args:
        audit: from `tfseg.data.audit.audit_cases`.
        cases: that were audited; their images are opened again for the pictures.
        folder: made where it is missing.

    Returns:
        The path of the page.

    Raises:
        RunError: when the folder can't be written.
    """
    write_json(Path(folder) / "audit.json", audit_record(audit, cases))
    sections = [_problem_section(audit, kind) for kind in dict.fromkeys(problem.kind for problem in audit.problems)]
    classes = _class_samples(cases)
    grouped = [(copy.first, copy.second) for copy in audit.copies if copy.same_group]
    wanted = {position for section in sections for row in section["pictures"] for position in row}
    wanted |= {position for _, _, chosen in classes for position in chosen}
    wanted |= {position for pair in grouped[:PER_PROBLEM] for position in pair}
    ids, labels = cases.table["id"].to_numpy(str), cases.table["label"].fillna(NO_LABEL).to_numpy(str)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        drawn = dict(zip(wanted, pool.map(lambda position: draw_case(cases, position), wanted), strict=True))
    page = render_page(
        "tfseg.data",
        "audit.html.j2",
        audit=audit,
        sections=sections,
        classes=classes,
        more_classes=max(0, len(audit.counts) - CLASSES),
        grouped=grouped[:PER_PROBLEM],
        more_grouped=max(0, len(grouped) - PER_PROBLEM),
        pictures=drawn,
        captions={position: (ids[position], labels[position]) for position in wanted},
        tables=[
            (heading, list(map(str, table.columns)), [(str(name), row.tolist()) for name, row in table.iterrows()])
            for heading, table in count_tables(audit)
        ],
        facts=fact_lines(audit),
    )
    path = Path(folder) / "audit.html"
    write_text(path, page)
    return path


def _problem_section(audit: Audit, kind: str) -> dict:
    """What the page says of one kind of problem; a row of pictures is a pair, or one case."""
    alike = [finding for finding in audit.findings if finding.problem.kind == kind]
    rows = _rows(alike, kind)
    return {
        "kind": kind,
        "severity": alike[0].problem.severity,
        "meaning": {**ERRORS, **WARNINGS}.get(kind, ""),
        "lines": [(finding.problem.file, finding.problem.message) for finding in alike[:LINES]],
        "more_lines": max(0, len(alike) - LINES),
        "pictures": rows[:PER_PROBLEM],
        "more_pictures": max(0, len(rows) - PER_PROBLEM),
    }


def _rows(findings: list[Finding], kind: str) -> list[tuple[int, ...]]:
    if kind in _PAIRED:
        return [finding.cases for finding in findings]
    return [(position,) for position in dict.fromkeys(at for finding in findings for at in finding.cases)]


def _class_samples(cases: Cases) -> list[tuple[str, int, list[int]]]:
    """Class, number of cases, and the positions of a few drawn at random, the same for the same data."""
    labels = cases.table["label"].fillna(NO_LABEL).to_numpy(str)
    rng = np.random.default_rng(0)
    samples = []
    for name in list(dict.fromkeys([*cases.classes, *labels.tolist()]))[:CLASSES]:
        here = np.flatnonzero(labels == name)
        chosen = rng.choice(here, min(PER_CLASS, len(here)), replace=False)
        samples.append((name, len(here), sorted(chosen.tolist())))
    return samples


def draw_case(cases: Cases, position: int) -> str | None:
    """The image with the contours of its mask's classes, as base64 JPEG of at most 176 pixels a side.

    Returns:
        None when the image can't be read; the image alone when the mask can't.
    """
    import contextlib

    import cv2

    from tfseg.data.ingest import ImageError, read_image, read_mask

    row = cases.table.iloc[position]
    try:
        pixels = read_image(row["image"])
    except ImageError:
        return None
    scale = PICTURE / max(pixels.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if isinstance(row["mask"], str):
        with contextlib.suppress(ImageError):
            mask = cv2.resize(read_mask(row["mask"], cases.mask_classes), size, interpolation=cv2.INTER_NEAREST)
            for value in range(len(cases.mask_classes.names) - 1, 0, -1):
                outlines, _ = cv2.findContours(np.uint8(mask == value), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(pixels, outlines, -1, CONTOURS[(value - 1) % len(CONTOURS)], 1)
    # Without colour subsampling, which would wash out lines of one pixel.
    options = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], options)
    return base64.b64encode(encoded.tobytes()).decode("ascii")
