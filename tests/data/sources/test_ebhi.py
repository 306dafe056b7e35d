import shutil

import numpy as np
import pytest

from tfseg.data.ingest import read_mask
from tfseg.data.sources import load_cases

CLASSES = {
    "Adenocarcinoma": "adenocarcinoma",
    "High-grade IN": "high_grade_in",
    "Low-grade IN": "low_grade_in",
    "Normal": "normal",
    "Polyp": "polyp",
    "Serrated adenoma": "serrated_adenoma",
}


@pytest.fixture
def folder(layout):
    for seed, name in enumerate(CLASSES):
        for kind, write in (("image", layout.image), ("label", layout.mask)):
            write(f"{name}/{kind}/GT200183{seed}-2-400-001.png", seed)
    layout.text("Normal/.DS_Store", "…")
    layout.text("readme.md", "…")
    return layout


def test_classes_groups_and_masks(folder, read, notes):
    cases = read("ebhi")
    assert cases.table["label"].tolist() == list(CLASSES.values())
    assert cases.table["id"][1] == "high_grade_in__GT2001831-2-400-001"
    assert cases.groups.tolist() == [f"200183{seed}" for seed in range(6)]
    assert cases.table["slide"][0] == "GT2001830-2"
    assert cases.has_mask.all() and notes("ebhi") == {}


def test_one_biopsy_under_two_prefixes(folder, read):
    for seed, prefix in enumerate(("GTxc", "GTDC")):
        folder.image(f"Polyp/image/{prefix}2001834-1-400-001.png", 10 + seed)
    table = read("ebhi").table
    assert table["group"][table["label"] == "polyp"].tolist() == 3 * ["2001834"]


def test_grey_masks_are_halved(folder, read):
    grey = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)
    folder.values("Normal/label/GT2001833-2-400-001.png", grey)
    mask = read("ebhi").table.set_index("label")["mask"]["normal"]
    assert read_mask(mask, read("ebhi").mask_classes).tolist() == [[0, 0, 0], [1, 1, 1]]
    folder.values("Normal/label/GT2001833-2-400-001.png", 255 - grey)
    mask = read("ebhi").table.set_index("label")["mask"]["normal"]
    assert read_mask(mask, read("ebhi").mask_classes).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_the_folder_around_it(folder, read):
    inner = folder.root / "EBHI-SEG"
    inner.mkdir()
    for name in CLASSES:
        shutil.move(folder.root / name, inner / name)
    assert len(read("ebhi")) == 6


def test_image_without_mask_is_kept(folder, read, notes):
    (folder.root / "Polyp/label/GT2001834-2-400-001.png").unlink()
    assert read("ebhi").has_mask.tolist() == [True, True, True, True, False, True]
    assert notes("ebhi") == {}


def test_mask_without_image_and_name_without_biopsy(folder, read, notes):
    (folder.root / "Polyp/image/GT2001834-2-400-001.png").rename(folder.root / "Polyp/image/other.png")
    assert notes("ebhi") == {
        "unlisted_masks": [
            "Polyp/label/GT2001834-2-400-001.png: not in image/ under this name [unlisted_masks]",
        ],
        "no_group": [
            "Polyp/image/other.png: no biopsy in the name, expected one such as GT2001837-1-400-001: "
            "a group of its own [no_group]"
        ],
    }
    assert read("ebhi").groups[4] == "polyp__other"


def test_all_problems_at_once(folder, problems):
    (folder.root / "Polyp").rename(folder.root / "Polyps")
    shutil.rmtree(folder.root / "Normal" / "label")
    folder.text("Serrated adenoma/label/GT2001835-2-400-001.png", "no picture")
    assert problems("ebhi") == [
        ("no_folder", "Polyp: the class folder is missing; not known: Polyps [no_folder]"),
        ("no_folder", "Normal/label: is missing [no_folder]"),
        (
            "unreadable",
            "Serrated adenoma/label/GT2001835-2-400-001.png: not an image of a format that Pillow reads [unreadable]",
        ),
    ]


def test_partial_download_is_told(folder, read):
    told = {note.file: note for note in read("ebhi").notes}
    assert "adenocarcinoma 1 of 795" in told["label"].message and "low_grade_in 1 of 639" in told["label"].message
    assert "6 of 2,226" in told["mask"].message and told["mask"].severity == "warning"


def test_wrong_folder_shows_the_layout(tmp_path):
    with pytest.raises(Exception, match="also High-grade IN, Low-grade IN, Normal"):
        load_cases(f"ebhi:{tmp_path}")
