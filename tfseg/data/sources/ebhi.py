"""EBHI-Seg: biopsies of the bowel with a mask each, in six class folders."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.sources.folders import named_folders
from tfseg.data.sources.source import Row, Source, build_cases, find, index_images, require, shown, unlisted
from tfseg.data.sources.stored import converted_mask
from tfseg.errors import Problem

CLASSES = {
    "Adenocarcinoma": "adenocarcinoma",
    "High-grade IN": "high_grade_in",
    "Low-grade IN": "low_grade_in",
    "Normal": "normal",
    "Polyp": "polyp",
    "Serrated adenoma": "serrated_adenoma",
}
# Prefix, number of the biopsy, slide, magnification, picture.
NAME = re.compile(r"GT[a-z]*(\d+)-\d+-\d+-\d+", re.IGNORECASE)


def read_ebhi(path: Path, target: str = "label") -> Cases:
    """Read EBHI-Seg as its publisher gives it away.

    Masks come in grey and are lesion above half of 255. The group is the number in the file's name without the
    letters before it: ``GT2014094`` and ``GTXC2014094`` are one biopsy under two prefixes. An image without a mask
    is kept: two are published like that.

    Args:
        path: the folder with the six class folders, or the one around it.
        target: ``label`` or ``slide``.

    Raises:
        DataError: with every folder that is missing and every mask that can't be read.
    """
    problems: list[Problem] = []
    base = find(path, "EBHI-SEG") or path
    rows = []
    for folder_name, folder in named_folders(base, list(CLASSES), path, problems).items():
        label = CLASSES[folder_name]
        inside: list[Problem] = []
        folders = [require(folder, inside, name) for name in ("image", "label")]
        problems += [Problem(item.kind, shown(folder / item.file, path), item.message) for item in inside]
        images, masks = (index_images([each], path, problems) for each in folders)
        used = [mask for stem, mask in masks.items() if stem in images]
        problems += unlisted(masks, used, path, "image/ under this name", "unlisted_masks")
        for stem, image in images.items():
            case, where = f"{label}__{image.stem}", shown(image, path)
            match = NAME.fullmatch(image.stem)
            if match is None:
                message = "no biopsy in the name, expected one such as GT2001837-1-400-001: a group of its own"
                problems.append(Problem("no_group", where, message, "warning"))
            mask = converted_mask("ebhi", case, masks[stem], _lesion, path, problems) if stem in masks else None
            slide = image.stem.rsplit("-", 2)[0] if match else None
            rows.append(Row(case, image, label, mask, match and match[1], where, {"slide": slide}))
    return build_cases(rows, path, target, problems, name="ebhi")


def _lesion(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] >= 128).astype(np.uint8)


SOURCE = Source(
    "ebhi",
    "EBHI-Seg: 2,228 biopsies of the bowel (H&E, 224×224), six classes, with masks",
    """PATH/                 or EBHI-SEG/ in it
  Adenocarcinoma/     also High-grade IN, Low-grade IN, Normal, Polyp, Serrated adenoma
    image/            GT2001837-1-400-001.png …
    label/            the masks, under the same names""",
    read_ebhi,
    {
        "label": {
            "adenocarcinoma": 795,
            "high_grade_in": 186,
            "low_grade_in": 639,
            "normal": 76,
            "polyp": 474,
            "serrated_adenoma": 58,
        },
        "mask": {"any": 2226},
    },
)
