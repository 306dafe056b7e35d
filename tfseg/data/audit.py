"""What a user should know about the data before training: counts, broken files, copies, leakage between parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.checks import Progress, check_allowed, downgrade, inspect_files, lesion_pixels, problems_of, shown_path
from tfseg.data.ingest import IGNORED
from tfseg.data.splits import Split, official_parts
from tfseg.errors import DataError, Problem

if TYPE_CHECKING:
    import pandas as pd

THUMBNAIL = 32
HASH_DISTANCE = 8
CORRELATION = 0.97
NO_LABEL = "(no label)"
_SYMMETRIES = 8
_BLOCK = 512


@dataclass(frozen=True)
class Audit:
    """The result of `audit_cases`.

    Args:
        counts: number of cases, one row per class (and ``(no label)``), one column per part and ``all``.
        problems: errors first.
        facts: what was measured, by name; plain values.
        name: of the data.
    """

    counts: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    name: str = ""

    @property
    def ok(self) -> bool:
        """Whether no problem is an error."""
        return all(problem.severity != "error" for problem in self.problems)

    def text(self, limit: int = 10) -> str:
        """The audit as lines for a terminal, with at most `limit` problems of each kind."""
        lines = [self.name, "", self.counts.to_string(), ""]
        lines += [f"{name}: {value}" for name, value in self.facts.items()]
        for severity in ("error", "warning"):
            found = [problem for problem in self.problems if problem.severity == severity]
            lines += ["", f"{len(found)} {severity}{'s' if len(found) != 1 else ''}{':' if found else ''}"]
            for kind in dict.fromkeys(problem.kind for problem in found):
                alike = [problem for problem in found if problem.kind == kind]
                lines += [f"  {problem}" for problem in alike[:limit]]
                if len(alike) > limit:
                    lines.append(f"  … and {len(alike) - limit} more [{kind}]")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Look:
    digest: bytes
    thumbnail: np.ndarray
    inverted: bool


def audit_cases(
    cases: Cases, splits: Sequence[Split] | None = None, allow: Sequence[str] = (), progress: Progress | None = None
) -> Audit:
    """Check the files, look for copies, and look for copies and groups that stand in different parts.

    Copies are files with equal bytes, and images that look alike (`similar_pairs`) also when one is mirrored or
    turned by a right angle. Copies within a group are expected (photographs of one lesion) and only counted,
    unless their labels differ.

    Args:
        cases: what to audit.
        splits: the parts; without them, those of the ``split`` column, or none.
        allow: kinds of error that are let through as warnings.
        progress: called, without arguments, after each case.

    Raises:
        ConfigError: when `allow` names a kind that doesn't exist.
    """
    check_allowed(allow)
    problems, parts = _parts(cases, splits)

    def look(path: str, pixels: np.ndarray, mask: np.ndarray | None) -> _Look:
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
        inverted = mask is not None and looks_inverted(lesion_pixels(mask, cases), mask != IGNORED)
        return _Look(digest, thumbnail(pixels), inverted)

    inspections = inspect_files(cases, progress, look)
    problems += problems_of(cases, inspections, classification=False)
    seen = {number: item.seen for number, item in enumerate(inspections) if item.seen is not None}
    copies, copy_facts = _copies(cases, seen, parts)
    problems += copies + _split_groups(cases, parts) + _inverted(cases, seen) + _unlisted(cases)
    problems = sorted(downgrade(problems, allow), key=lambda problem: problem.severity != "error")
    return Audit(_counts(cases, parts), problems, {**_facts(cases, inspections), **copy_facts}, cases.name)


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """A grey thumbnail of an RGB image, uint8 (32, 32); its aspect is not kept."""
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def difference_hash(thumbnails: np.ndarray) -> np.ndarray:
    """64-bit difference hashes, uint64 (N,), of grey thumbnails, (N, 32, 32).

    A bit says whether a cell of an 8×9 grid is darker than its right neighbour.
    """
    import cv2

    small = np.stack([cv2.resize(one, (9, 8), interpolation=cv2.INTER_AREA) for one in thumbnails])
    bits = small[:, :, 1:] > small[:, :, :-1]
    return np.packbits(bits.reshape(len(small), 64), axis=1).view(np.uint64)[:, 0]


def similar_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of images that are copies of each other, mirrored or turned by right angles or not.

    The hash proposes (Hamming distance of at most 8 bits of 64), the correlation of the thumbnails decides (at
    least 0.97). The correlation is weighted towards the centre, where lesions are: otherwise two photographs
    with the same dark corners and different lesions pass for copies. It doesn't see changes of brightness and
    contrast. Nearly all copies after JPEG at quality 30, halving, mild noise or cropping by 1 % pass both; after
    cropping by 3 % most don't. Among the pairs of 2,161 dermoscopic images (HAM10000) without copies, the highest
    correlation within the hash distance is 0.96.

    Args:
        thumbnails: grey, uint8 (N, 32, 32).

    Returns:
        Ascending pairs of positions, each first < second.
    """
    if len(thumbnails) < 2:
        return []
    hashes, patterns = difference_hash(thumbnails), _patterns(thumbnails)
    pairs: set[tuple[int, int]] = set()
    for symmetry in range(_SYMMETRIES):
        turned = np.rot90(thumbnails[:, :, ::-1] if symmetry >= 4 else thumbnails, symmetry % 4, axes=(1, 2))
        turned_hashes, turned_patterns = difference_hash(np.ascontiguousarray(turned)), _patterns(turned)
        for start in range(0, len(hashes), _BLOCK):
            distance = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ turned_hashes[None, start:])
            first, second = np.nonzero(distance <= HASH_DISTANCE)
            first, second = (first + start)[second > first], (second + start)[second > first]
            alike = (patterns[first] * turned_patterns[second]).sum(1) >= CORRELATION
            pairs.update(zip(first[alike].tolist(), second[alike].tolist(), strict=True))
    return sorted(pairs)


def _patterns(thumbnails: np.ndarray) -> np.ndarray:
    """Centred and scaled so that the product of two is their weighted correlation, float32 (N, 1024)."""
    window = np.hanning(THUMBNAIL + 2)[1:-1]
    weight = np.outer(window, window).ravel()
    weight /= weight.sum()
    values = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    values = (values - (values * weight).sum(1, keepdims=True)) * np.sqrt(weight)
    return (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def looks_inverted(lesion: np.ndarray, counts: np.ndarray) -> bool:
    """Whether a mask shows a hole in a frame of lesion, as the mask of the background would.

    That is: at least 95 % of the border is lesion, at least 2 % of the pixels are not, and the centre of those
    lies within a fifth of the sides from the mask's centre.

    Args:
        lesion: bool (H, W).
        counts: which pixels aren't ignored, bool (H, W).
    """
    border = np.ones(lesion.shape, bool)
    border[1:-1, 1:-1] = False
    border &= counts
    hole = ~lesion & counts
    if not border.any() or lesion[border].mean() < 0.95 or hole.sum() < 0.02 * counts.sum():
        return False
    centre = (np.argwhere(hole).mean(0) + 0.5) / lesion.shape
    return bool((np.abs(centre - 0.5) < 0.2).all())


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


def _counts(cases: Cases, parts: dict[str, np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    labels = cases.table["label"].fillna(NO_LABEL).to_numpy(str)
    rows = [*cases.classes, *([NO_LABEL] if NO_LABEL in labels else [])]
    chosen = {}
    for split, part in parts.items():
        for name in ("train", "val", "test"):
            chosen[name if len(parts) == 1 else f"{split} {name}"] = part == name
    chosen["all"] = np.ones(len(cases), bool)
    content = {name: [int((here & (labels == row)).sum()) for row in rows] for name, here in chosen.items()}
    return pd.DataFrame(content, index=pd.Index(rows, name=cases.target))


def _copies(cases: Cases, seen: dict[int, _Look], parts: dict[str, np.ndarray]) -> tuple[list[Problem], dict]:
    positions = np.array(sorted(seen), int)
    same: dict[bytes, list[int]] = {}
    for number in positions:
        same.setdefault(seen[number].digest, []).append(number)
    exact = {(a, b) for copies in same.values() for i, a in enumerate(copies) for b in copies[i + 1 :]}
    thumbnails = np.array([seen[number].thumbnail for number in positions])
    near = {(int(positions[a]), int(positions[b])) for a, b in similar_pairs(thumbnails)} - exact

    problems, within = [], 0
    table, groups, labels = cases.table, cases.groups, cases.labels
    for first, second in sorted(exact | near):
        other = shown_path(cases, table["image"].iloc[second])
        how = "the same bytes as" if (first, second) in exact else "looks the same as"
        file, what = shown_path(cases, table["image"].iloc[first]), f"{how} {other}"
        apart = [name for name, part in parts.items() if part[first] and part[second] and part[first] != part[second]]
        plain = True
        if labels[first] >= 0 and labels[second] >= 0 and labels[first] != labels[second]:
            names = f"{cases.classes[labels[first]]} and {cases.classes[labels[second]]}"
            problems.append(Problem("duplicate_across_labels", file, f"{what}, labels {names}"))
            plain = False
        if apart:
            part = parts[apart[0]]
            where = f"{part[first]} and {part[second]}" + (f" of {apart[0]}" if len(parts) > 1 else "")
            problems.append(Problem("duplicate_across_parts", file, f"{what}, parts {where}"))
            plain = False
        if plain and groups[first] != groups[second]:
            message = f"{what}; without a common group they may be parted"
            problems.append(Problem("duplicates", file, message, "warning"))
        within += groups[first] == groups[second]
    facts = {"copies": f"{len(exact)} pairs with equal bytes, {len(near)} that look alike, {within} in one group"}
    return problems, facts


def _split_groups(cases: Cases, parts: dict[str, np.ndarray]) -> list[Problem]:
    import pandas as pd

    problems = []
    for split, part in parts.items():
        placed = pd.DataFrame({"group": cases.groups, "part": part})[part != ""]
        several = placed.groupby("group")["part"].nunique()
        for group in several.index[several > 1]:
            counts = Counter(placed["part"][placed["group"] == group])
            where = ", ".join(f"{counts[name]} in {name}" for name in ("train", "val", "test") if counts[name])
            where += f" of {split}" if len(parts) > 1 else ""
            problems.append(Problem("group_across_parts", f"group {group!r}", where))
    return problems


def _inverted(cases: Cases, seen: dict[int, _Look]) -> list[Problem]:
    found = [number for number, item in seen.items() if item.inverted]
    if not found:
        return []
    file = shown_path(cases, cases.table["mask"].iloc[found[0]])
    file += f" and {len(found) - 1} more" if len(found) > 1 else ""
    message = (
        f"{len(found)} of {cases.has_mask.sum()} masks are lesion along the border and not in the middle: "
        "look whether lesion and background are exchanged"
    )
    return [Problem("mask_inverted", file, message, "warning")]


def _unlisted(cases: Cases) -> list[Problem]:
    folder = Path(cases.root) / "images"
    if not (Path(cases.root) / "labels.csv").is_file() or not folder.is_dir():
        return []
    listed = {shown_path(cases, path) for path in cases.table["image"]}
    there = {shown_path(cases, path.absolute()) for path in folder.rglob("*") if path.is_file()}
    unlisted = sorted(path for path in there - listed if not Path(path).name.startswith("."))
    if not unlisted:
        return []
    file = unlisted[0] + (f" and {len(unlisted) - 1} more" if len(unlisted) > 1 else "")
    return [Problem("unlisted_images", file, "in images/ and not in labels.csv", "warning")]


def _facts(cases: Cases, inspections: Sequence) -> dict[str, object]:
    facts: dict[str, object] = {"cases": len(cases), "groups": len(set(cases.groups))}
    sizes = np.array([item.size for item in inspections if item.size])
    if len(sizes):
        low, middle, high = sizes.min(0), np.median(sizes, 0).astype(int), sizes.max(0)
        shown = " to ".join(f"{width}×{height}" for width, height in (low, high))
        facts["image size"] = f"{shown} pixels (median {middle[0]}×{middle[1]})"
    lesion = [item.lesion for item in inspections if item.lesion is not None]
    facts["masks"] = f"{cases.has_mask.sum()} of {len(cases)}"
    if lesion:
        mean, middle = 100 * np.mean(lesion), 100 * np.median(lesion)
        facts["masks"] += f", lesion {mean:.1f} % of the pixels (median {middle:.1f} %)"
    counts = cases.table["label"].value_counts()
    if len(counts) > 1:
        facts["largest to smallest class"] = f"{counts.max() / counts.min():.1f} : 1"
    return facts
