"""Open every file of the cases once and say what is wrong with it, all of it, before anything is trained."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.ingest import IGNORED, ImageError, open_image, orientation, read_mask, transcoding_reason, upright_rgb
from tfseg.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from PIL import Image

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
UNREADABLE = ("missing_file", "unreadable", "truncated", "decompression_bomb", "mask_values")
WARNINGS = {
    "exif_rotation": "turned by EXIF; handled",
    "transcoded": "TensorFlow can't decode the file as it is; handled",
    "greyscale": "some images have one channel, others colour; handled",
    "tiny_image": "an image of a few pixels",
    "blank_image": "an image of one colour",
    "empty_mask": "no lesion in the mask",
    "full_mask": "nothing but lesion in the mask",
    "no_label": "cases without a label",
    "no_mask": "cases without a mask",
    "duplicates": "copies that stand neither in different parts nor in different classes",
    "mask_inverted": "the mask looks like the background's",
    "mask_shared": "different images with the same mask",
    "mask_mismatch": "the mask may belong to another image",
    "facts_leak_label": "size, compression or border of an image tell its class",
    "unlisted_images": "images that the table doesn't name",
    "unlisted_masks": "masks of no case",
    "stored_twice": "one image under two paths",
    "split_conflict": "a case that the publisher has in two parts",
    "published_counts": "other numbers of cases than the publisher's",
    "no_group": "a file name that doesn't tell the patient",
    "unlisted_table": "a table of no known part",
    "mixed_labels": "an image with lesions of several classes",
    "no_outline": "an annotation without outline",
    "outline_outside": "an outline that leaves its image",
    "burned_in": "writing in the picture, which may name the patient",
}
TINY = 16
# What the reader does with files that TensorFlow can't be given as they are; see `tfseg.data.ingest.read_image`.
HANDLING = {
    "CMYK JPEG": "turned into RGB, without a colour profile",
    "16-bit": "the high byte of every value is kept",
    "transparency": "the transparency is dropped, not composited",
    "palette": "the colours are looked up",
}

Look = Callable[[str, np.ndarray, "np.ndarray | None"], Any]
Progress = Callable[[], Any]


@dataclass(frozen=True)
class Header:
    """What the file of an image says beside its pixels.

    Args:
        form: such as ``"colour JPEG"``, ``"greyscale PNG"``, ``"CMYK JPEG"``, ``"16-bit PNG"``.
        bytes: size of the file.
        quantisation: sum of the JPEG's quantisation tables (the lower, the better the quality); 0 for others.
        exif: whether there is EXIF.
        transcoded: why the image must be transcoded, or None.
        rotated: whether EXIF turns the image.
    """

    form: str
    bytes: int
    quantisation: int
    exif: bool
    transcoded: str | None
    rotated: bool


@dataclass(frozen=True)
class Finding:
    """A problem and the positions of the cases that it concerns; none where it concerns all or a file outside."""

    problem: Problem
    cases: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What opening the files of one case showed.

    Args:
        problems: the errors of this case's files.
        size: width and height of the upright image, or None where it can't be read.
        header: of the image file, or None where it can't be read.
        blank: whether all pixels have one colour.
        lesion: share of the pixels that count that are lesion, in [0, 1]; None without a readable mask.
        seen: what the caller's own look returned, None where the image can't be read.
    """

    problems: list[Problem] = field(default_factory=list)
    size: tuple[int, int] | None = None
    header: Header | None = None
    blank: bool = False
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
    problems, pixels, mask, seen, header = [], None, None, None, None
    try:
        with open_image(image_path) as image:
            header = _header(image, image_path)
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
    # Most images are found not to be blank by a few of their pixels.
    blank = pixels is not None and all(bool((some == some[0, 0]).all()) for some in (pixels[::16, ::16], pixels))
    return Inspection(problems, size, header if pixels is not None else None, blank, lesion, seen)


def _header(image: Image.Image, path: str) -> Header:
    reason = transcoding_reason(image)
    if reason is not None and image.mode.startswith("I") and "bit" not in reason:
        reason = f"16-bit {reason}"
    tables = getattr(image, "quantization", None) or {}
    return Header(
        form=reason or f"{'greyscale' if image.mode == 'L' else 'colour'} {image.format}",
        bytes=os.path.getsize(path),
        quantisation=sum(sum(table) for table in tables.values()),
        exif=len(image.getexif()) > 0,
        transcoded=reason,
        rotated=orientation(image) > 1,
    )


def lesion_pixels(mask: np.ndarray, cases: Cases) -> np.ndarray:
    """Where a mask of class indices shows a lesion class, bool of the mask's shape."""
    names = cases.mask_classes.names
    is_lesion = np.zeros(256, bool)
    is_lesion[[names.index(name) for name in cases.mask_classes.lesion]] = True
    return is_lesion[mask]


def lesion_share(mask: np.ndarray, cases: Cases) -> float:
    """The lesion's share of the pixels that aren't ignored; 0 when all are ignored."""
    return float(lesion_pixels(mask, cases).sum() / max(1, (mask != IGNORED).sum()))


def findings_of(cases: Cases, inspections: Sequence[Inspection], classification: bool = True) -> list[Finding]:
    """The problems of the cases with the cases that have them; see `find_problems`."""
    found = [Finding(problem, (number,)) for number, item in enumerate(inspections) for problem in item.problems]
    labels = cases.table["label"]
    counts = labels.value_counts()
    severity = "error" if classification else "warning"
    for name in sorted(counts.index[counts == 1]):
        position = int(np.flatnonzero(labels == name)[0])
        problem = Problem("label_once", cases.table["id"].iloc[position], f"no other case has the label {name!r}")
        found.append(Finding(replace(problem, severity=severity), (position,)))
    if len(counts) == 1:
        found.append(Finding(Problem("single_class", cases.target, f"every label is {counts.index[0]!r}", severity)))

    def told(kind: str, chosen: Iterable[bool], message: str, column: str = "image") -> None:
        positions = np.flatnonzero(list(chosen))
        if len(positions):
            found.append(told_once(cases, kind, positions, message, column))

    headers = [item.header for item in inspections]
    rotated = [bool(item and item.rotated) for item in headers]
    told("exif_rotation", rotated, f"{sum(rotated)} × turned by EXIF: turned upright, as their masks are")
    for reason, count in sorted(Counter(item.transcoded for item in headers if item and item.transcoded).items()):
        chosen = (bool(item) and item.transcoded == reason for item in headers)
        how = next((how for what, how in HANDLING.items() if what in reason), "decoded by Pillow")
        told("transcoded", chosen, f"{count} × {reason}: {how}; transcoded once to 8-bit RGB PNG")
    grey = np.array([bool(item) and item.form.startswith("greyscale") for item in headers], bool)
    if not all(grey[number] for number, item in enumerate(headers) if item):
        told("greyscale", grey, f"one channel, read as three equal ones: {by_class(cases, grey)}")
    tiny = (item.size is not None and min(item.size) < TINY for item in inspections)
    told("tiny_image", tiny, f"a side of fewer than {TINY} pixels")
    told("blank_image", (item.blank for item in inspections), "every pixel has the same colour")
    for kind, value, what in (("empty_mask", 0.0, "no lesion"), ("full_mask", 1.0, "nothing but lesion")):
        chosen = np.array([item.lesion == value for item in inspections], bool)
        told(kind, chosen, f"{what} in the mask: {by_class(cases, chosen, cases.has_mask)}", "mask")
    for kind, missing in (("no_label", labels.isna().to_numpy(bool)), ("no_mask", ~cases.has_mask)):
        what = f"{missing.sum()} of {len(cases)} cases have no {kind[3:]}"
        told(kind, missing, what if kind == "no_mask" else f"{what} (target {cases.target!r})")
    found += [Finding(note) for note in cases.notes]
    return sorted(found, key=lambda finding: finding.problem.severity != "error")


def told_once(cases: Cases, kind: str, positions: Sequence[int], message: str, column: str = "image") -> Finding:
    """One warning for several cases, under the name of the first one's file."""
    file = shown_path(cases, cases.table[column].iloc[positions[0]])
    file = file if len(positions) == 1 else f"{file} and {len(positions) - 1} more"
    return Finding(Problem(kind, file, message, "warning"), tuple(int(position) for position in positions))


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
    return [finding.problem for finding in findings_of(cases, inspect_files(cases, progress), classification)]


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


def by_class(cases: Cases, chosen: np.ndarray, among: np.ndarray | None = None) -> str:
    """How many of the chosen cases (bool (N,)), and of all or those in `among`, each class has: an odd share tells."""
    labels = cases.table["label"].fillna("(no label)")
    counts, totals = labels[chosen].value_counts(), (labels if among is None else labels[among]).value_counts()
    return ", ".join(f"{name} {counts[name]} of {totals[name]}" for name in sorted(counts.index))
