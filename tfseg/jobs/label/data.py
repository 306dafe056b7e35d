"""What labelling does with the data: which masks are given, how they are divided, and the labelled folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases, MaskClasses
from tfseg.data.ingest import IGNORED, open_image, orientation
from tfseg.data.sources.folder import DESCRIPTION, TABLE
from tfseg.data.splits import Split
from tfseg.errors import ConfigError, DataError, Problem
from tfseg.jobs.gather import write_csv
from tfseg.progress import progress_bar
from tfseg.run import write_json, written_whole

SOURCE, CONFIDENCE = "mask_source", "mask_confidence"
GIVEN, PREDICTED = "given", "predicted"
# Fewer can't be divided into a part to learn from and a part to choose the epoch by.
LEAST = 4


def without_predicted(cases: Cases) -> Cases:
    """The cases without masks that an earlier labelling predicted (``predicted`` in the column ``mask_source``)."""
    if SOURCE not in cases.table:
        return cases
    kept = cases.table["mask"].where(cases.table[SOURCE] != PREDICTED, None)
    return replace(cases, table=cases.table.assign(mask=kept.astype(object)))


def with_given_masks(cases: Cases) -> Cases:
    """The cases of `without_predicted`, some of which have a mask.

    Raises:
        ConfigError: too few cases have a mask, or all have.
    """
    cases = without_predicted(cases)
    count = int(cases.has_mask.sum())
    if count == len(cases):
        raise ConfigError(f"all {count} cases of {cases.name} have a mask: there is none to label")
    if count < LEAST:
        raise ConfigError(
            f"{count} of {len(cases)} cases of {cases.name} have a mask; labelling learns from at least {LEAST}, "
            "better 20 of each class"
        )
    return cases


def divide(given: Cases, arrays: CaseArrays, val_fraction: float, seed: int) -> Split:
    """Training and validation part of the cases with a mask; the test part is empty.

    Stratified by label and by whole groups, in one fold of about 1/`val_fraction`: the first in which both parts have
    every class of the masks, else the first in which the training part has.

    Args:
        given: cases that all have a mask.
        arrays: the same, decoded.
        val_fraction: the validation part's share, in (0, 1).
        seed: of the division.

    Raises:
        DataError: a class never occurs in the masks or only in one group, or all cases are of one group.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    names = given.mask_classes.names
    occurs = np.stack([(arrays.masks == value).any((1, 2)) for value in range(len(names))], 1)
    problems = [
        Problem("mask_class", f"mask class {name!r}", f"occurs in none of the {len(given)} masks at the model's size")
        for name, found in zip(names, occurs.any(0), strict=True)
        if not found
    ]
    if problems:
        raise DataError(problems, given.name)
    groups, labels = np.unique(given.groups, return_inverse=True)[1], given.labels
    count = len(np.unique(groups))
    if count < 2:
        message = "all cases with a mask are of one group; training and validation need one each"
        raise DataError([Problem("too_few", given.name, message)], given.name)
    folds = min(max(2, round(1.0 / val_fraction)), count)
    # scikit-learn stratifies where one class at least has a case for every fold.
    stratified = np.unique(labels, return_counts=True)[1].max() >= folds
    kind = StratifiedGroupKFold if stratified else GroupKFold
    parts = [(train, val) for train, val in _folds(kind(folds, shuffle=True, random_state=seed), labels, groups)]
    parts = [(train, val) for train, val in parts if len(train) and len(val) and occurs[train].any(0).all()]
    if not parts:
        missing = ", ".join(names[value] for value in np.flatnonzero(occurs.sum(0) < 2))
        message = f"no division leaves every mask class in the training part; in one mask only: {missing or 'none'}"
        raise DataError([Problem("mask_class", given.name, message)], given.name)
    train, val = next((part for part in parts if occurs[part[1]].any(0).all()), parts[0])
    return Split(np.sort(train), np.sort(val), np.array([], np.int64), "labelling")


def _folds(splitter, labels: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    import warnings

    with warnings.catch_warnings():
        # Classes may have fewer cases than there are folds: one fold is taken, and needn't hold every class.
        warnings.simplefilter("ignore", UserWarning)
        return list(splitter.split(labels, labels, groups))


def pixel_weights(masks: np.ndarray, classes: int) -> list[float]:
    """`N / (N_c · C)` of every mask class over the known pixels, rounded to four digits.

    Args:
        masks: class indices, uint8 (n, S, S), 255 where nothing is known; every class occurs.
        classes: C.
    """
    counts = np.bincount(masks[masks != IGNORED].ravel(), minlength=classes)
    return [float(f"{counts.sum() / (count * classes):.4g}") for count in counts]


def file_names(ids: Sequence[str]) -> list[str]:
    """A file name without suffix for every id: safe on any disk, all different whatever the case of their letters."""
    names, seen = [], set()
    for name in ids:
        stem = re.sub(r"[^\w.-]", "_", name)[:100]
        stem = f"_{stem}" if not stem.strip(".") or stem.startswith(".") else stem
        candidate, number = stem, 2
        while candidate.lower() in seen:
            candidate, number = f"{stem}-{number}", number + 1
        seen.add(candidate.lower())
        names.append(candidate)
    return names


def lesion_value(given: Cases) -> int:
    """The value that a binary mask writes for the lesion: 255, or 1 where the given masks do so or 255 is ignored."""
    if given.mask_classes.ignore == 255:
        return 1
    for path in given.table["mask"]:
        with open_image(path) as image:
            values = np.asarray(image)
        if values.any():
            return 1 if values.dtype != bool and values.max() == 1 else 255
    return 255


def upright_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image after its EXIF rotation, without decoding it."""
    with open_image(path) as image:
        width, height = image.size
        return (width, height) if orientation(image) > 4 else (height, width)


def write_mask(path: Path, classes: np.ndarray, mask_classes: MaskClasses, lesion: int) -> None:
    """Write class indices, uint8 (H, W), as PNG; of two classes, 0 and `lesion`."""
    from PIL import Image

    with written_whole(path) as temporary:
        Image.fromarray(classes * np.uint8(lesion if mask_classes.channels == 1 else 1)).save(temporary, "PNG")


def write_folder(out: Path, cases: Cases, names: list[str], confidence: dict[str, float], link_images: bool) -> None:
    """The plain layout beside the predicted masks, which are there already: images, given masks and the tables.

    Args:
        out: the labelled folder.
        cases: all, with their given masks alone.
        names: see `file_names`.
        confidence: of every predicted mask, by id.
        link_images: hard links instead of copies, where the disk has them.
    """
    table = cases.table
    images = [f"images/{name}{Path(path).suffix}" for name, path in zip(names, table["image"], strict=True)]
    masks = [
        f"masks/{name}{Path(path).suffix if given else '.png'}"
        for name, path, given in zip(names, table["mask"], cases.has_mask, strict=True)
    ]
    with progress_bar(f"copying {len(cases)} images", len(cases)) as advance:
        for row, image, mask in zip(table.itertuples(index=False), images, masks, strict=True):
            _copy(row.image, out / image, link_images)
            if row.id not in confidence:
                # Never a link: a mask is what an expert may paint in, and the user's own must stay as it is.
                _copy(row.mask, out / mask, False)
            advance()
    content = {"id": table["id"], "image": images, "mask": masks}
    label = "label" if cases.target == "label" else "source_label"
    content |= {"label": table[label]} if label in table else {}
    content["group"] = table["group"]
    taken = {*content, label, "label", SOURCE, CONFIDENCE}
    content |= {name: table[name] for name in table.columns if name not in taken}
    content[SOURCE] = [PREDICTED if name in confidence else GIVEN for name in table["id"]]
    content[CONFIDENCE] = [f"{confidence[name]:.4f}" if name in confidence else None for name in table["id"]]
    write_json(out / DESCRIPTION, cases.mask_classes.to_json())
    write_csv(out / TABLE, pd.DataFrame(content))


def _copy(source: str, target: Path, link: bool) -> None:
    with written_whole(target) as temporary:
        if link:
            try:
                os.link(os.path.realpath(source), temporary)
                return
            except OSError:
                # Another disk, or one without links.
                pass
        shutil.copyfile(source, temporary)
