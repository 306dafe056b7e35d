"""What a user should know about the data before training: counts, broken files, copies, leakage, odd masks."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.checks import (
    Finding,
    Inspection,
    Progress,
    check_allowed,
    downgrade,
    findings_of,
    inspect_files,
    shown_path,
)
from tfseg.data.copies import Copy, copy_findings, find_copies, group_findings, pictures, thumbnail
from tfseg.data.leakage import LeakTest, border_colour, image_facts, leak_findings, leak_test
from tfseg.data.masks import MaskFit, MaskLook, look_at_mask, mask_findings, mask_fit
from tfseg.data.splits import PARTS, Split, official_parts
from tfseg.errors import DataError, Problem

if TYPE_CHECKING:
    import pandas as pd

NO_LABEL = "(no label)"


@dataclass(frozen=True)
class Audit:
    """The result of `audit_cases`.

    Args:
        counts: number of cases, one row per class (and ``(no label)``), one column per part and ``all``.
        groups: number of groups, with the same rows and columns, and a row ``all`` more.
        masks: number of cases with a mask, by class.
        findings: the problems with the positions of their cases, errors first.
        facts: what was measured, by name; plain values.
        copies: pairs of cases with the same picture, those within a group among them.
        leak: how well facts about the files tell the label, or None where there were too few cases.
        name: of the data.
        target: the column that is the label.
    """

    counts: pd.DataFrame
    groups: pd.DataFrame
    masks: dict[str, int]
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)
    leak: LeakTest | None = None
    name: str = ""
    target: str = "label"

    @property
    def problems(self) -> list[Problem]:
        """Errors first."""
        return [finding.problem for finding in self.findings]

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop a training."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that don't."""
        return [problem for problem in self.problems if problem.severity != "error"]

    @property
    def ok(self) -> bool:
        """Whether no problem is an error."""
        return not self.errors


@dataclass(frozen=True)
class _Look:
    digest: bytes
    thumbnail: np.ndarray
    border: np.ndarray
    mask: MaskLook | None


def audit_cases(
    cases: Cases,
    splits: Sequence[Split] | None = None,
    allow: Sequence[str] = (),
    progress: Progress | None = None,
    classification: bool = False,
) -> Audit:
    """Check the files, the masks, copies, copies and groups in different parts, and what gives the label away.

    Every file is read once, on a pool of threads; the searches work on what was kept of it.

    Args:
        cases: what to audit.
        splits: the parts; without them, those of the ``split`` column, or none.
        allow: kinds of error that are let through as warnings.
        progress: called, without arguments, after each case.
        classification: whether a classifier is wanted: then a label that occurs once, or a single class, is an
            error and not a warning.

    Raises:
        ConfigError: when `allow` names a kind that doesn't exist.
    """
    check_allowed(allow)
    problems, parts = _parts(cases, splits)
    seconds, started = {}, time.monotonic()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name] = round(time.monotonic() - started, 2)
        started = time.monotonic()

    def look(path: str, pixels: np.ndarray, mask: np.ndarray | None) -> _Look:
        fits = mask is not None and mask.shape == pixels.shape[:2]
        return _Look(
            hashlib.sha256(Path(path).read_bytes()).digest(),
            thumbnail(pixels),
            border_colour(pixels),
            look_at_mask(mask, cases) if fits else None,
        )

    inspections = inspect_files(cases, progress, look)
    seen: dict[int, _Look] = {number: item.seen for number, item in enumerate(inspections) if item.seen is not None}
    lap("files")
    thumbnails = {number: item.thumbnail for number, item in seen.items()}
    copies = find_copies(cases, {number: item.digest for number, item in seen.items()}, thumbnails)
    lap("copies")
    leak = leak_test(image_facts(cases, inspections, {number: item.border for number, item in seen.items()}), cases)
    lap("leak")
    masks = {number: item.mask for number, item in seen.items() if item.mask is not None}
    fit = mask_fit(masks, thumbnails)
    lap("masks")

    findings = [Finding(problem) for problem in problems] + findings_of(cases, inspections, classification)
    findings += copy_findings(cases, copies, parts) + group_findings(cases, parts)
    findings += mask_findings(cases, masks, fit, pictures(copies))
    findings += leak_findings(leak, cases) + _unlisted(cases)
    allowed = downgrade((finding.problem for finding in findings), allow)
    findings = [Finding(problem, finding.cases) for problem, finding in zip(allowed, findings, strict=True)]
    findings.sort(key=lambda finding: finding.problem.severity != "error")
    labels = _labels(cases)
    masked = Counter(labels[cases.has_mask].tolist())
    return Audit(
        *_counts(cases, parts),
        {name: masked[name] for name in dict.fromkeys([*cases.classes, *labels.tolist()])},
        findings,
        {**_facts(cases, inspections, copies, fit), "seconds": seconds},
        copies,
        leak,
        cases.name,
        cases.target,
    )


def _parts(cases: Cases, splits: Sequence[Split] | None) -> tuple[list[Problem], dict[str, np.ndarray]]:
    """The part of every case, by the name of the split; empty where there are no parts."""
    if splits is None:
        try:
            official = official_parts(cases)
        except DataError as error:
            return error.problems, {}
        return [], {} if official is None else {"split": official}
    parts = {}
    for split in splits:
        part = np.full(len(cases), "", "<U5")
        for name, positions in split.parts.items():
            part[positions] = name
        parts[split.name] = part
    return [], parts


def _labels(cases: Cases) -> np.ndarray:
    return cases.table["label"].fillna(NO_LABEL).to_numpy(str)


def _counts(cases: Cases, parts: dict[str, np.ndarray]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cases, and groups, by class and part."""
    import pandas as pd

    labels, groups = _labels(cases), cases.groups
    rows = [*cases.classes, *([NO_LABEL] if NO_LABEL in labels else [])]
    chosen = {}
    for split, part in parts.items():
        for name in PARTS:
            chosen[name if len(parts) == 1 else f"{split} {name}"] = part == name
    chosen["all"] = np.ones(len(cases), bool)
    of_cases = {name: [int((here & (labels == row)).sum()) for row in rows] for name, here in chosen.items()}
    of_groups = {
        name: [len(set(groups[here & (labels == row)])) for row in rows] + [len(set(groups[here]))]
        for name, here in chosen.items()
    }
    return (
        pd.DataFrame(of_cases, index=pd.Index(rows, name=cases.target)),
        pd.DataFrame(of_groups, index=pd.Index([*rows, "all"], name=cases.target)),
    )


def _unlisted(cases: Cases) -> list[Finding]:
    folder = Path(cases.root) / "images"
    if not (Path(cases.root) / "labels.csv").is_file() or not folder.is_dir():
        return []
    listed = {shown_path(cases, path) for path in cases.table["image"]}
    there = {shown_path(cases, path.absolute()) for path in folder.rglob("*") if path.is_file()}
    unlisted = sorted(path for path in there - listed if not Path(path).name.startswith("."))
    if not unlisted:
        return []
    file = unlisted[0] + (f" and {len(unlisted) - 1} more" if len(unlisted) > 1 else "")
    return [Finding(Problem("unlisted_images", file, "in images/ and not in labels.csv", "warning"))]


def _facts(cases: Cases, inspections: Sequence[Inspection], copies: list[Copy], fit: MaskFit | None) -> dict:
    facts: dict[str, object] = {"cases": len(cases), "groups": len(set(cases.groups))}
    sizes = np.array([item.size for item in inspections if item.size])
    for axis, side in enumerate(("width", "height")):
        if len(sizes):
            values = sizes[:, axis]
            facts[side] = {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}
    facts["files"] = dict(Counter(item.header.form for item in inspections if item.header).most_common())
    lesion = [item.lesion for item in inspections if item.lesion is not None]
    facts["masks"] = int(cases.has_mask.sum())
    if lesion:
        facts["lesion_share"] = {"mean": round(float(np.mean(lesion)), 4), "median": round(float(np.median(lesion)), 4)}
    if fit is not None:
        facts["mask_fit"] = {"judged": len(fit.rank), "telling": fit.telling, "median_rank": float(np.median(fit.rank))}
    equal = sum(copy.equal_bytes for copy in copies)
    within = sum(copy.same_group for copy in copies)
    facts["copies"] = {"equal_bytes": equal, "look_alike": len(copies) - equal, "in_one_group": within}
    counts = cases.table["label"].value_counts()
    if len(counts) > 1:
        facts["imbalance"] = round(float(counts.max() / counts.min()), 2)
    return facts


def audit_record(audit: Audit, cases: Cases) -> dict:
    """The audit as plain values: the content of ``audit.json``."""
    ids = cases.table["id"].to_numpy(str)
    leak = asdict(audit.leak) | {"carriers": list(audit.leak.carriers)} if audit.leak else None
    return {
        "data": audit.name,
        "target": audit.target,
        "ok": audit.ok,
        "counts": audit.counts.to_dict("index"),
        "groups": audit.groups.to_dict("index"),
        "masks": audit.masks,
        "facts": audit.facts,
        "leak": leak,
        "problems": [asdict(found.problem) | {"cases": ids[list(found.cases)].tolist()} for found in audit.findings],
        "copies": [asdict(copy) | {"first": ids[copy.first], "second": ids[copy.second]} for copy in audit.copies],
    }
