"""ISIC 2018: lesion masks (task 1) and seven diagnoses (task 3, whose training images are HAM10000)."""

from __future__ import annotations

from functools import partial

from tfseg.data.sources.isic import Labels, Part, one_hot, read_isic
from tfseg.data.sources.source import Source

NAME = "isic2018"
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def _parts(split: str, word: str) -> tuple[Part, Part]:
    table = f"ISIC2018_Task3_{word}_GroundTruth"
    groups = "ISIC2018_Task3_Training_LesionGroupings.csv"
    return (
        Part(
            split,
            (f"ISIC2018_Task3_{word}_Input",),
            table=(f"{table}/{table}.csv", f"{table}.csv"),
            metadata=(groups, f"{table}/{groups}") if word == "Training" else (),
        ),
        Part(split, (f"ISIC2018_Task1-2_{word}_Input",), masks=(f"ISIC2018_Task1_{word}_GroundTruth",)),
    )


SOURCE = Source(
    NAME,
    "ISIC 2018: 3,694 dermoscopy images with lesion masks, and 11,720 with one of seven diagnoses",
    """PATH/                                       either task, or both
  ISIC2018_Task1-2_Training_Input/          ISIC_0000000.jpg …
  ISIC2018_Task1_Training_GroundTruth/      ISIC_0000000_segmentation.png …
  ISIC2018_Task3_Training_Input/            ISIC_0024306.jpg …
  ISIC2018_Task3_Training_GroundTruth/      ISIC2018_Task3_Training_GroundTruth.csv: image,MEL,NV,BCC,AKIEC,BKL,DF,VASC
  ISIC2018_Task3_Training_LesionGroupings.csv   image,lesion_id,… (optional)
  ISIC2018_…_Validation_…, ISIC2018_…_Test_…    the same for the other parts""",
    partial(
        read_isic,
        NAME,
        parts=(*_parts("train", "Training"), *_parts("val", "Validation"), *_parts("test", "Test")),
        labels=Labels(("image", *CLASSES), one_hot(CLASSES)),
    ),
    {
        "label[train]": {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142},
        "label[val]": {"any": 193},
        "label[test]": {"any": 1512},
        "mask[train]": {"any": 2594},
        "mask[val]": {"any": 100},
        "mask[test]": {"any": 1000},
    },
)
