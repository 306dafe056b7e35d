"""HAM10000: dermoscopy images of seven diagnoses, several of one lesion, with Tschandl's lesion masks."""

from __future__ import annotations

from pathlib import Path

from tfseg.data.cases import Cases
from tfseg.data.sources import symderm
from tfseg.data.sources.isic import image_name, mask_name
from tfseg.data.sources.source import Row, Source, build_cases, find, index_images, read_table, require, unlisted
from tfseg.errors import Problem

NAME = "ham10000"
TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")
COLUMNS = ("lesion_id", "image_id", "dx")
PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
WHOLE = ("HAM10000_images", "images")
MASKS = "HAM10000_segmentations_lesion_tschandl"


def read_ham10000(root: Path, target: str) -> Cases:
    """The cases with their lesion as the group; with a table of SymDerm beside it, they have a ``symmetry``."""
    problems: list[Problem] = []
    table = require(root, problems, *TABLES, kind="no_table")
    whole = find(root, *WHOLE)
    images = index_images(
        [whole] if whole else [require(root, problems, part) for part in PARTS], root, problems, image_name, True
    )
    masks = index_images([find(root, MASKS)], root, problems, mask_name, True)
    path = find(root, *(name for name in symderm.TABLES if name.startswith("SymDerm")))
    labelled = symderm.read_symmetry(path, root, problems) if path else []
    symmetry = {name.lower(): label for _, name, label in labelled}
    rows = []
    for line in read_table(table, COLUMNS, root, problems) if table else ():
        key = line["image_id"].lower()
        more = {name: cell for name, cell in line.cells.items() if name not in COLUMNS}
        more |= {"symmetry": symmetry.get(key)} if path else {}
        rows.append(
            Row(line["image_id"], images.get(key), line["dx"], masks.get(key), line["lesion_id"], line.where, more)
        )
    if rows:
        problems += unlisted(images, (row.image for row in rows), root, table.name)
        problems += unlisted(masks, (row.mask for row in rows), root, table.name, "unlisted_masks")
    return build_cases(rows, root, target, problems, name=NAME)


SOURCE = Source(
    NAME,
    "HAM10000: 10,015 dermoscopy images of 7,470 lesions, seven diagnoses, with lesion masks",
    """PATH/
  HAM10000_metadata.csv                     lesion_id,image_id,dx,dx_type,age,sex,localization[,dataset]
  HAM10000_images_part_1/                   ISIC_0024306.jpg …
  HAM10000_images_part_2/                   (or both in HAM10000_images/)
  HAM10000_segmentations_lesion_tschandl/   ISIC_0024306_segmentation.png … (optional)
  SymDerm_v2_labels.csv                     File,labels_symmetry (optional: the column symmetry)""",
    read_ham10000,
    {
        "label": {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142},
        "group": {"all": 7470},
        "mask": {"any": 10015},
    },
)
