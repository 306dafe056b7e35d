"""ISIC 2016 (ISBI challenge): lesion masks (task 1) and benign or malignant (task 3)."""

from __future__ import annotations

from functools import partial

from tfseg.data.sources.isic import Labels, Part, number, read_isic
from tfseg.data.sources.source import Line, Source

NAME = "isic2016"
CLASSES = ("benign", "malignant")


def _label(line: Line) -> str:
    # The training table has words, the test table has 0.0 and 1.0.
    value = line["label"].lower()
    return value if value in CLASSES else CLASSES[int(number(value))]


def _parts(split: str, word: str) -> tuple[Part, Part]:
    images, masks = f"ISBI2016_ISIC_Part1_{word}_Data", f"ISBI2016_ISIC_Part1_{word}_GroundTruth"
    table = f"ISBI2016_ISIC_Part3_{word}_GroundTruth.csv"
    return (
        Part(split, (images, f"ISBI2016_ISIC_Part3_{word}_Data"), masks=(masks,)),
        Part(split, (f"ISBI2016_ISIC_Part3_{word}_Data", images), table=(table,)),
    )


SOURCE = Source(
    NAME,
    "ISIC 2016: 1,279 dermoscopy images, benign or malignant, with lesion masks",
    """PATH/
  ISBI2016_ISIC_Part1_Training_Data/            ISIC_0000000.jpg …
  ISBI2016_ISIC_Part1_Training_GroundTruth/     ISIC_0000000_Segmentation.png …
  ISBI2016_ISIC_Part3_Training_GroundTruth.csv  without a header: ISIC_0000000,benign
  ISBI2016_ISIC_Part1_Test_Data/
  ISBI2016_ISIC_Part1_Test_GroundTruth/
  ISBI2016_ISIC_Part3_Test_GroundTruth.csv      without a header: ISIC_0000003,0.0
  ISBI2016_ISIC_Part3_{Training,Test}_Data/     the same images; needed only where Part1's aren't there""",
    partial(
        read_isic,
        NAME,
        parts=(*_parts("train", "Training"), *_parts("test", "Test")),
        labels=Labels(("image", "label"), _label, header=False),
    ),
    {
        "label[train]": {"benign": 727, "malignant": 173},
        "label[test]": {"benign": 304, "malignant": 75},
        "mask[train]": {"any": 900},
        "mask[test]": {"any": 379},
    },
)
