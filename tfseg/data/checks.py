"""Open every file of the cases once and say what is wrong with it, all of it, before anything is trained."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.ingest import IGNORED, ImageError, open_image, orientation, read_mask, transcoding_reason, upright_rgb
from tfseg.errors import ConfigError, DataError, Problem

ERRORS = {
    "missing_file": "the file is not there",
    "unreadable": "the file can't be decoded",
    "truncated": "the file is empty or cut short",
    "decompression_bomb": "more pixels than Pillow's limit",
    "mask_size": "mask and image differ in size",
    "mask_values": "the mask holds values that aren't declared",
    "label_once": "a class has one case only (an error when a classifier is wanted)",
    "single_class": "all cases have the same label (an error when a classifier is wanted)",
    "duplicate_across_labels": "copies of one image have different labels",
    "duplicate_across_parts": "copies of one image stand in different parts",
    "group_across_parts": "one patient or lesion stands in different parts",
}
WARNINGS = {
    "exif_rotation": "turned by EXIF; handled",
    "transcoded": "TensorFlow can't decode the file as it is; handled",
    "empty_mask": "no lesion in the mask",
    "full_mask": "nothing but lesion in the mask",
    "no_label": "cases without a label",
    "no_mask": "cases without a mask",
    "duplicates": "copies that stand neither in different parts nor in different classes",
    "mask_inverted": "the mask looks like the background's",
    "unlisted_images": "images that the table doesn't name",
}

Look = Callable[[str, np.ndarray, "np.ndarray | None"], Any]
Progress = Callable[[], Any]


@dataclass(frozen=True)
class Inspection:
    """What opening the files of one case showed.

    Args:
        problems: the errors of this case's files.
        size: width and height of the upright image, or None where it can't be read.
        transcoded: why the image must be transcoded, or None.
        rotated: whether EXIF turns the image.
        lesion: share of the pixels that count that are lesion, in [0, 1]; None without a readable mask.
        seen: what the caller's own look returned, None where the image can't be read.
    """

    problems: list[Problem] = field(default_factory=list)
    size: tuple[int, int] | None = None
    transcoded: str | None = None
    rotated: bool = False
    lesion: float | None = None
    seen: Any = None


def inspect_files(cases: Cases, progress: Progress | None = None, look: Look | None = None) -> list[Inspection]:
    """Decode every image and mask fully, on a pool of threads.

    Args:
        cases: what to open.
        progress: called, without arguments, after each case; `tfseg.progress.progress_bar` gives such a function.
        look: called in the pool with the image's path, its pixels (uint8, H×W×3, upright) and its mask (uint8
            class indices, H×W, or None), while they are in memory; its answer is kept as ``seen``.
    """
    rows = list(zip(cases.table["image"], cases.table["mask"], strict=True))
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for inspection in pool.map(lambda row: _inspect(cases, *row, look), rows):
            found.append(inspection)
            if progress:
                progress()
    return found


def _inspect(cases: Cases, image_path: str, mask_path: str | float | None, look: Look | None) -> Inspection:
    problems, pixels, mask, seen, facts = [], None, None, None, {}
    try:
        with open_image(image_path) as image:
            facts = {"transcoded": transcoding_reason(image), "rotated": orientation(image) > 1}
            pixels = upright_rgb(image)
    except ImageError as error:
        problems.append(Problem(error.kind, shown_path(cases, image_path), error.message))
    if isinstance(mask_path, str):
        try:
            mask = read_mask(mask_path, cases.mask_classes)
        except ImageError as error:
            problems.append(Problem(error.kind, shown_path(cases, mask_path), error.message))
    if mask is not None and pixels is not None and mask.shape != pixels.shape[:2]:
        message = f"the mask is {_size(mask)} pixels and its image {_size(pixels)} (after EXIF rotation)"
        problems.append(Problem("mask_size", shown_path(cases, mask_path), message))
    lesion = None if mask is None else lesion_share(mask, cases)
    if look is not None and pixels is not None:
        seen = look(image_path, pixels, mask)
    size = None if pixels is None else (pixels.shape[1], pixels.shape[0])
    return Inspection(problems, size, lesion=lesion, seen=seen, **facts)


def lesion_pixels(mask: np.ndarray, cases: Cases) -> np.ndarray:
    """Where a mask of class indices shows a lesion class, bool of the mask's shape."""
    names = cases.mask_classes.names
    return np.isin(mask, [names.index(name) for name in cases.mask_classes.lesion])


def lesion_share(mask: np.ndarray, cases: Cases) -> float:
    """The lesion's share of the pixels that aren't ignored; 0 when all are ignored."""
    return float(lesion_pixels(mask, cases).sum() / max(1, (mask != IGNORED).sum()))


def problems_of(cases: Cases, inspections: Sequence[Inspection], classification: bool = True) -> list[Problem]:
    """The problems of the cases, errors first; see `find_problems`."""
    problems = [problem for inspection in inspections for problem in inspection.problems]
    labels = cases.table["label"]
    counts = labels.value_counts()
    severity = "error" if classification else "warning"
    for name in sorted(counts.index[counts == 1]):
        case = cases.table["id"][labels == name].iloc[0]
        problems.append(Problem("label_once", case, f"no other case has the label {name!r}", severity))
    if len(counts) == 1:
        problems.append(Problem("single_class", cases.target, f"every label is {counts.index[0]!r}", severity))

    def told(kind: str, chosen: Iterable[bool], message: str, column: str = "image") -> None:
        positions = np.flatnonzero(list(chosen))
        if len(positions):
            file = shown_path(cases, cases.table[column].iloc[positions[0]])
            file = file if len(positions) == 1 else f"{file} and {len(positions) - 1} more"
            problems.append(Problem(kind, file, message, "warning"))

    told("exif_rotation", (item.rotated for item in inspections), "turned by EXIF; they are turned upright")
    for reason, count in sorted(Counter(item.transcoded for item in inspections if item.transcoded).items()):
        chosen = (item.transcoded == reason for item in inspections)
        told("transcoded", chosen, f"{count} × {reason}: transcoded once to 8-bit RGB PNG")
    for kind, value, what in (("empty_mask", 0.0, "no lesion"), ("full_mask", 1.0, "nothing but lesion")):
        chosen = np.array([item.lesion == value for item in inspections], bool)
        told(kind, chosen, f"{what} in the mask: {_by_class(cases, chosen)}", "mask")
    for kind, missing in (("no_label", labels.isna().to_numpy(bool)), ("no_mask", ~cases.has_mask)):
        what = f"{missing.sum()} of {len(cases)} cases have no {kind[3:]}"
        told(kind, missing, what if kind == "no_mask" else f"{what} (target {cases.target!r})")
    return sorted(problems, key=lambda problem: problem.severity != "error")


def find_problems(cases: Cases, progress: Progress | None = None, classification: bool = True) -> list[Problem]:
    """Open every file and list what is wrong, errors first; `ERRORS` and `WARNINGS` name the kinds.

    Every file with an error has its own entry; warnings are one entry per kind, with the number of cases. Image
    and mask sizes are compared after EXIF rotation.

    Args:
        cases: what to check.
        progress: called, without arguments, after each case; `tfseg.progress.progress_bar` gives such a function.
        classification: whether a classifier is wanted: then a label that occurs once, or a single class, is an
            error and not a warning.
    """
    return problems_of(cases, inspect_files(cases, progress), classification)


def check(
    cases: Cases, allow: Sequence[str] = (), progress: Progress | None = None, classification: bool = True
) -> list[Problem]:
    """Refuse cases that have errors; no case is ever dropped.

    Args:
        cases: what to check.
        allow: kinds of error that are let through as warnings.
        progress, classification: as in `find_problems`.

    Returns:
        The warnings, the allowed errors among them.

    Raises:
        ConfigError: when `allow` names a kind that doesn't exist.
        DataError: with all errors.
    """
    check_allowed(allow)
    problems = downgrade(find_problems(cases, progress, classification), allow)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise DataError(errors, cases.name)
    return problems


def check_allowed(allow: Sequence[str]) -> None:
    """Raise a ConfigError when a name in `allow` is no kind of problem."""
    unknown = [kind for kind in allow if kind not in ERRORS and kind not in WARNINGS]
    if unknown:
        raise ConfigError(f"`allow` names unknown problems {', '.join(unknown)}; known: {', '.join(ERRORS)}")


def downgrade(problems: Iterable[Problem], allow: Sequence[str]) -> list[Problem]:
    """The problems, with those of the allowed kinds made warnings."""
    return [replace(item, severity="warning") if item.kind in allow else item for item in problems]


def shown_path(cases: Cases, path: str | Path) -> str:
    """A path relative to the folder of the cases where it lies inside it."""
    path, root = Path(path), Path(os.path.abspath(cases.root))
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"


def _by_class(cases: Cases, chosen: np.ndarray) -> str:
    """How many of the chosen cases, and of all with a mask, each class has: an odd share can give it away."""
    labels = cases.table["label"].fillna("(no label)")
    counts, totals = labels[chosen].value_counts(), labels[cases.has_mask].value_counts()
    return ", ".join(f"{name} {counts[name]} of {totals[name]}" for name in sorted(counts.index))
