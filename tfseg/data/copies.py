"""Images that are there twice: equal bytes, or alike to the eye, mirrored and turned ones included."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.checks import Finding, shown_path
from tfseg.data.ingest import read_image
from tfseg.errors import Problem

THUMBNAIL = 32
HASH_DISTANCE = 8
CORRELATION = 0.97
_SYMMETRIES = 8
_BLOCK = 512


@dataclass(frozen=True)
class Copy:
    """Two cases with the same picture, by their positions, first < second.

    Args:
        first, second: positions in the table.
        equal_bytes: whether the files are equal; otherwise the pictures look alike.
        same_group: whether both are of one patient or lesion.
    """

    first: int
    second: int
    equal_bytes: bool
    same_group: bool


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """A small RGB image, uint8 (32, 32, 3); its aspect is not kept."""
    import cv2

    return cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def greyscale(pixels: np.ndarray) -> np.ndarray:
    """The brightness of an RGB image, uint8 (H, W)."""
    import cv2

    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


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


def find_copies(cases: Cases, digests: Mapping[int, bytes], thumbnails: Mapping[int, np.ndarray]) -> list[Copy]:
    """Every copy once: of files with equal bytes, each is paired with the first, and that one stands for them all.

    Args:
        cases: what to look through.
        digests: of the files' bytes, by the case's position.
        thumbnails: from `thumbnail`, for the same positions.
    """
    same: dict[bytes, list[int]] = {}
    for position in sorted(digests):
        same.setdefault(digests[position], []).append(position)
    exact = {(equal[0], other) for equal in same.values() for other in equal[1:]}
    firsts = sorted(equal[0] for equal in same.values())
    alike = similar_pairs(np.array([greyscale(thumbnails[position]) for position in firsts], np.uint8))
    pairs = exact | {(firsts[first], firsts[second]) for first, second in alike}
    groups = cases.groups
    return [Copy(a, b, (a, b) in exact, bool(groups[a] == groups[b])) for a, b in sorted(pairs)]


def shared_with(cases: Cases, others: Cases, progress: Callable[[], object] | None = None) -> np.ndarray:
    """Which cases show a picture that another dataset has too, with equal bytes or alike to the eye.

    Args:
        cases: to look at.
        others: the other dataset.
        progress: called, without arguments, after each image of both.

    Returns:
        Ascending positions in `cases`, int64.

    Raises:
        tfseg.data.ingest.ImageError: an image can't be read; the message names it.
    """
    paths = [*cases.table["image"], *others.table["image"]]

    def look(path: str) -> tuple[bytes, np.ndarray]:
        seen = hashlib.sha256(Path(path).read_bytes()).digest(), greyscale(thumbnail(read_image(path)))
        if progress is not None:
            progress()
        return seen

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests, thumbnails = zip(*pool.map(look, paths), strict=True)
    theirs = set(digests[len(cases) :])
    shared = {position for position in range(len(cases)) if digests[position] in theirs}
    shared |= {first for first, second in similar_pairs(np.array(thumbnails)) if first < len(cases) <= second}
    return np.array(sorted(shared), np.int64)


def pictures(copies: Iterable[Copy]) -> dict[int, int]:
    """The first position of each picture that is there more than once, by the positions of its copies."""
    first: dict[int, int] = {}
    for copy in copies:
        one, other = first.get(copy.first, copy.first), first.get(copy.second, copy.second)
        joined = {copy.first, copy.second} | {key for key, value in first.items() if value in (one, other)}
        first.update(dict.fromkeys(joined, min(one, other)))
    return first


def copy_findings(cases: Cases, copies: list[Copy], parts: Mapping[str, np.ndarray]) -> list[Finding]:
    """What is wrong with the copies: other label or other part (errors), or no common group (a warning).

    Copies within a group are expected (photographs of one lesion) unless their labels differ.

    Args:
        cases: all of them.
        copies: from `find_copies`.
        parts: by the split's name, the part of every case, str (N,), "" for none.
    """
    found, images, labels = [], cases.table["image"], cases.labels
    for copy in copies:
        first, second = copy.first, copy.second
        file, other = (shown_path(cases, images.iloc[position]) for position in (first, second))
        what = f"{'the same bytes as' if copy.equal_bytes else 'looks the same as'} {other}"
        problems = []
        if min(labels[first], labels[second]) >= 0 and labels[first] != labels[second]:
            names = f"{cases.classes[labels[first]]} and {cases.classes[labels[second]]}"
            problems.append(Problem("duplicate_across_labels", file, f"{what}, labels {names}"))
        apart = [name for name, part in parts.items() if part[first] and part[second] and part[first] != part[second]]
        if apart:
            part = parts[apart[0]]
            where = f"parts {part[first]} and {part[second]}" + _of_splits(apart, parts)
            problems.append(Problem("duplicate_across_parts", file, f"{what}, {where}"))
        if not problems and not copy.same_group:
            message = f"{what}; without a common group they may be parted"
            problems.append(Problem("duplicates", file, message, "warning"))
        found += [Finding(problem, (first, second)) for problem in problems]
    return found


def group_findings(cases: Cases, parts: Mapping[str, np.ndarray]) -> list[Finding]:
    """Groups that stand in more than one part of a split; `parts` as in `copy_findings`."""
    groups = cases.groups
    found: dict[str, list[str]] = {}
    for split, part in parts.items():
        pairs = {(group, name) for group, name in zip(groups.tolist(), part.tolist(), strict=True) if name}
        several = Counter(group for group, _ in pairs)
        for group in sorted(group for group, count in several.items() if count > 1):
            found.setdefault(group, []).append(split)
    result = []
    for group, splits in sorted(found.items()):
        here = groups == group
        counts = Counter(parts[splits[0]][here])
        where = ", ".join(f"{counts[name]} in {name}" for name in ("train", "val", "test") if counts[name])
        problem = Problem("group_across_parts", f"group {group!r}", where + _of_splits(splits, parts))
        result.append(Finding(problem, tuple(np.flatnonzero(here).tolist())))
    return result


def _of_splits(found: list[str], parts: Mapping[str, np.ndarray]) -> str:
    if len(parts) == 1:
        return ""
    return f" of {found[0]}" + (f" (and {len(found) - 1} more splits)" if len(found) > 1 else "")
