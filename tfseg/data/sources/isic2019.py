"""ISIC 2019: eight diagnoses, from HAM10000, BCN20000 and MSK."""

from __future__ import annotations

from functools import partial

from tfseg.data.sources.isic import Labels, Part, one_hot, read_isic
from tfseg.data.sources.source import Source

NAME = "isic2019"
CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


def _part(split: str, word: str) -> Part:
    base = f"ISIC_2019_{word}"
    return Part(
        split,
        images=(f"{base}_Input",),
        table=(f"{base}_GroundTruth.csv", f"{base}_GroundTruth/{base}_GroundTruth.csv"),
        metadata=(f"{base}_Metadata.csv",),
    )


SOURCE = Source(
    NAME,
    "ISIC 2019: 25,331 dermoscopy images of eight diagnoses, and 8,238 for the test",
    """PATH/
  ISIC_2019_Training_Input/           ISIC_0000000.jpg, ISIC_0000002_downsampled.jpg …
  ISIC_2019_Training_GroundTruth.csv  image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK
  ISIC_2019_Training_Metadata.csv     image,age_approx,anatom_site_general,lesion_id,sex (optional)
  ISIC_2019_Test_Input/, …            the same for the test part (optional)""",
    partial(
        read_isic,
        NAME,
        parts=(_part("train", "Training"), _part("test", "Test")),
        labels=Labels(("image", *CLASSES), one_hot(CLASSES)),
    ),
    {
        "part": {"train": 25331, "test": 8238},
        "label[train]": {
            "ak": 867,
            "bcc": 3323,
            "bkl": 2624,
            "df": 239,
            "mel": 4522,
            "nv": 12875,
            "scc": 628,
            "vasc": 253,
        },
    },
)
