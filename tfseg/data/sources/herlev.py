"""Herlev (smear2005): single Pap smear cells with masks of nucleus and cytoplasm, in seven class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfseg.data.cases import Cases, MaskClasses
from tfseg.data.sources.folders import named_folders
from tfseg.data.sources.source import Row, Source, build_cases, find, index_images, shown, unlisted
from tfseg.data.sources.stored import converted_mask
from tfseg.errors import Problem

NORMAL = ("normal_superficiel", "normal_intermediate", "normal_columnar")
ABNORMAL = ("light_dysplastic", "moderate_dysplastic", "severe_dysplastic", "carcinoma_in_situ")
UNKNOWN = 255
COLOURS = {(255, 0, 0): 0, (0, 0, 128): 1, (0, 0, 255): 2, (128, 128, 128): UNKNOWN}
MASK_CLASSES = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), UNKNOWN)


def read_herlev(path: Path, target: str = "label") -> Cases:
    """Read the new Pap smear database of Herlev as its publisher gives it away.

    In the masks red is background, dark blue cytoplasm, bright blue nucleus, and grey unknown, which counts nowhere.
    A cell without a mask is kept.

    Args:
        path: the folder with the seven class folders, or one around it.
        target: ``label`` or ``binary`` (normal or abnormal).

    Raises:
        DataError: with every folder that is missing and every colour of a mask that isn't known.
    """
    problems: list[Problem] = []
    base = find(path, "New database pictures", "smear2005/New database pictures") or path
    rows = []
    for label, folder in named_folders(base, (*NORMAL, *ABNORMAL), path, problems).items():
        images = index_images([folder], path, problems, lambda stem: None if _is_mask(stem) else stem)
        masks = index_images([folder], path, problems, lambda stem: stem[:-2] if _is_mask(stem) else None)
        used = [mask for stem, mask in masks.items() if stem in images]
        problems += unlisted(masks, used, path, "the folder under its image's name", "unlisted_masks")
        for stem, image in images.items():
            case = f"{label}__{image.stem}"
            mask = converted_mask("herlev", case, masks[stem], _classes, path, problems) if stem in masks else None
            binary = {"binary": "normal" if label in NORMAL else "abnormal"}
            rows.append(Row(case, image, label, mask, where=shown(image, path), attributes=binary))
    return build_cases(rows, path, target, problems, MASK_CLASSES, "herlev")


def _is_mask(stem: str) -> bool:
    return stem.lower().endswith("-d")


def _classes(pixels: np.ndarray) -> np.ndarray:
    indices = np.zeros(pixels.shape[:2], np.uint8)
    known = np.zeros(pixels.shape[:2], bool)
    for colour, value in COLOURS.items():
        here = (pixels == colour).all(axis=-1)
        indices[here], known[here] = value, True
    if not known.all():
        others = np.unique(pixels[~known], axis=0)
        shown_colours = ", ".join(str(tuple(map(int, colour))) for colour in others[:5])
        expected = ", ".join(map(str, COLOURS))
        raise ValueError(f"unknown colours {shown_colours} in {(~known).sum()} pixels; known: {expected}")
    return indices


SOURCE = Source(
    "herlev",
    "Herlev: 917 single Pap smear cells, seven classes, with masks of nucleus and cytoplasm",
    """PATH/                       or smear2005/New database pictures/ in it
  carcinoma_in_situ/        also light_dysplastic, moderate_dysplastic, severe_dysplastic,
                            normal_columnar, normal_intermediate, normal_superficiel
    149143370-149143378-001.BMP
    149143370-149143378-001-d.bmp   its mask""",
    read_herlev,
    {
        "label": {
            "normal_superficiel": 74,
            "normal_intermediate": 70,
            "normal_columnar": 98,
            "light_dysplastic": 182,
            "moderate_dysplastic": 146,
            "severe_dysplastic": 197,
            "carcinoma_in_situ": 150,
        },
        "mask": {"any": 917},
    },
)
