import numpy as np
import pytest
from PIL import Image

from tfseg.data.ingest import read_mask

CLASSES = (
    "normal_superficiel",
    "normal_intermediate",
    "normal_columnar",
    "light_dysplastic",
    "moderate_dysplastic",
    "severe_dysplastic",
    "carcinoma_in_situ",
)
RED, DARK, BLUE, GREY = (255, 0, 0), (0, 0, 128), (0, 0, 255), (128, 128, 128)
# Every colour once, in an order of the palette that is another one than that of the classes.
PALETTE = [*GREY, *BLUE, *RED, *DARK]
INDICES = np.array([[2, 2, 3], [1, 0, 3]], np.uint8)


def write_mask(layout, path, palette=PALETTE):
    picture = Image.fromarray(INDICES)
    picture.putpalette(palette)
    picture.save(layout.root / path, "BMP")


@pytest.fixture
def folder(layout):
    for seed, name in enumerate(CLASSES):
        stem = f"{name}/14914337{seed}-149143378-001"
        layout.image(f"{stem}.BMP", seed, (3, 2))
        write_mask(layout, f"{stem}-d.bmp")
    layout.text("normal_columnar/Thumbs.db", "…")
    return layout


def test_classes_and_masks(folder, read, notes):
    cases = read("herlev")
    assert cases.table["label"].tolist() == list(CLASSES)
    assert cases.table["binary"].tolist() == 3 * ["normal"] + 4 * ["abnormal"]
    assert cases.table["id"][0] == "normal_superficiel__149143370-149143378-001"
    assert cases.table["image"][0].endswith("normal_superficiel/149143370-149143378-001.BMP")
    assert cases.mask_classes.to_json() == {
        "mask_classes": ["background", "cytoplasm", "nucleus"],
        "ignore": 255,
        "lesion": ["cytoplasm", "nucleus"],
    }
    assert notes("herlev") == {}


def test_colours_become_class_indices(folder, read):
    cases = read("herlev")
    for mask in cases.table["mask"]:
        assert read_mask(mask, cases.mask_classes).tolist() == [[0, 0, 1], [2, 255, 1]]


def test_binary_target(folder, read):
    cases = read("herlev", "binary")
    assert cases.classes == ("abnormal", "normal") and cases.table["source_label"].tolist() == list(CLASSES)


@pytest.mark.parametrize("around", ["New database pictures", "smear2005/New database pictures"])
def test_the_folder_around_it(folder, read, around):
    inner = folder.root / around
    inner.mkdir(parents=True)
    for name in CLASSES:
        (folder.root / name).rename(inner / name)
    assert len(read("herlev")) == 7


def test_unknown_colours_are_named(folder, problems):
    write_mask(folder, "normal_columnar/149143372-149143378-001-d.bmp", [*GREY, 1, 2, 3, *RED, *DARK])
    write_mask(folder, "light_dysplastic/149143373-149143378-001-d.bmp", [*GREY, *BLUE, *RED, 9, 9, 9])
    known = "known: (255, 0, 0), (0, 0, 128), (0, 0, 255), (128, 128, 128)"
    assert problems("herlev") == [
        (
            "mask_values",
            "normal_columnar/149143372-149143378-001-d.bmp: unknown colours (1, 2, 3) in 1 pixels; "
            f"{known} [mask_values]",
        ),
        (
            "mask_values",
            "light_dysplastic/149143373-149143378-001-d.bmp: unknown colours (9, 9, 9) in 2 pixels; "
            f"{known} [mask_values]",
        ),
    ]


def test_image_without_mask_and_mask_without_image(folder, read, notes):
    (folder.root / "normal_columnar/149143372-149143378-001-d.bmp").unlink()
    (folder.root / "light_dysplastic/149143373-149143378-001.BMP").unlink()
    assert read("herlev").has_mask.tolist() == [True, True, False, True, True, True]
    assert list(notes("herlev")) == ["unlisted_masks"]
    assert notes("herlev")["unlisted_masks"][0].startswith("light_dysplastic/149143373-149143378-001-d.bmp: not in")


def test_renamed_and_missing_folders(folder, problems):
    (folder.root / "normal_superficiel").rename(folder.root / "normal_superficial")
    (folder.root / "carcinoma_in_situ").rename(folder.root.parent / "elsewhere")
    assert problems("herlev") == [
        (
            "no_folder",
            f"{name}: the class folder is missing; not known: normal_superficial [no_folder]",
        )
        for name in ("normal_superficiel", "carcinoma_in_situ")
    ]
