"""ISIC 2017: lesion masks (task 1) and melanoma, seborrheic keratosis or nevus (task 3)."""

from __future__ import annotations

from functools import partial

from tfseg.data.sources.isic import Labels, Part, one_hot, read_isic
from tfseg.data.sources.source import Source

NAME = "isic2017"
CLASSES = ("melanoma", "seborrheic_keratosis")


def _part(split: str, word: str) -> Part:
    base = f"ISIC-2017_{word}"
    return Part(
        split,
        images=(f"{base}_Data",),
        masks=(f"{base}_Part1_GroundTruth",),
        table=(f"{base}_Part3_GroundTruth.csv", f"{base}_Part3_GroundTruth/{base}_Part3_GroundTruth.csv"),
        metadata=(f"{base}_Data/{base}_Data_metadata.csv", f"{base}_Data_metadata.csv"),
    )


SOURCE = Source(
    NAME,
    "ISIC 2017: 2,750 dermoscopy images of three diagnoses, with lesion masks",
    """PATH/
  ISIC-2017_Training_Data/                ISIC_0000000.jpg, ISIC_0000000_superpixels.png (not read) …
                                          ISIC-2017_Training_Data_metadata.csv: image_id,age_approximate,sex (optional)
  ISIC-2017_Training_Part1_GroundTruth/   ISIC_0000000_segmentation.png …
  ISIC-2017_Training_Part3_GroundTruth.csv    image_id,melanoma,seborrheic_keratosis; both 0: nevus
  ISIC-2017_Validation_Data/, …           the same for the validation part
  ISIC-2017_Test_v2_Data/, …              the same for the test part""",
    partial(
        read_isic,
        NAME,
        parts=(_part("train", "Training"), _part("val", "Validation"), _part("test", "Test_v2")),
        labels=Labels(("image_id", *CLASSES), one_hot(CLASSES, none="nevus")),
    ),
    {
        "label[train]": {"melanoma": 374, "nevus": 1372, "seborrheic_keratosis": 254},
        "label[val]": {"melanoma": 30, "nevus": 78, "seborrheic_keratosis": 42},
        "label[test]": {"melanoma": 117, "nevus": 393, "seborrheic_keratosis": 90},
        "mask[train]": {"any": 2000},
        "mask[val]": {"any": 150},
        "mask[test]": {"any": 600},
    },
)
