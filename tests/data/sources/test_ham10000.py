import numpy as np
import pytest

ROWS = (
    "HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp",
    "HAM_0000118,ISIC_0025030,bkl,histo,80.0,male,scalp",
    "HAM_0002730,ISIC_0026769,nv,follow_up,,unknown,face",
)
HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"


@pytest.fixture
def folder(layout):
    layout.text("HAM10000_metadata.csv", HEADER, *ROWS)
    layout.image("HAM10000_images_part_1/ISIC_0025030.jpg", 1)
    layout.image("HAM10000_images_part_1/ISIC_0026769.JPG", 2)
    layout.image("HAM10000_images_part_2/ISIC_0027419.jpg", 3)
    for seed, name in enumerate(("ISIC_0025030", "ISIC_0027419")):
        layout.mask(f"HAM10000_segmentations_lesion_tschandl/{name}_segmentation.png", seed)
    layout.text("HAM10000_segmentations_lesion_tschandl/ATTRIBUTION.txt", "Tschandl et al.")
    return layout


def test_two_image_folders_lesions_and_masks(folder, read):
    cases = read("ham10000")
    assert cases.table["id"].tolist() == ["ISIC_0027419", "ISIC_0025030", "ISIC_0026769"]
    assert cases.groups.tolist() == ["HAM_0000118", "HAM_0000118", "HAM_0002730"]
    assert cases.classes == ("bkl", "nv") and cases.has_mask.tolist() == [True, True, False]
    assert cases.table["image"][2] == str(folder.root / "HAM10000_images_part_1/ISIC_0026769.JPG")
    assert cases.table["mask"][0].endswith("tschandl/ISIC_0027419_segmentation.png")
    assert cases.table["age"].tolist() == ["80.0", "80.0", None]
    assert cases.table["sex"][2] == "unknown" and "dx" not in cases.table
    assert cases.name == f"ham10000:{folder.root}" and cases.root == folder.root


@pytest.mark.parametrize(
    ("name", "delimiter"), [("HAM10000_metadata.tab", "\t"), ("HAM10000_metadata", ","), ("ham10000_metadata.CSV", ";")]
)
def test_the_table_as_dataverse_and_spreadsheets_write_it(folder, read, name, delimiter):
    (folder.root / "HAM10000_metadata.csv").unlink()
    lines = [f"{line},vidir_modern" for line in ROWS]
    quoted = [delimiter.join(f'"{cell}"' for cell in line.split(",")) for line in lines]
    folder.text(name, "\ufeff" + f"{HEADER},dataset".replace(",", delimiter), *quoted)
    cases = read("ham10000")
    assert cases.table["dataset"].tolist() == ["vidir_modern"] * 3
    assert cases.table["label"].tolist() == ["bkl", "bkl", "nv"]


def test_one_image_folder_unpacked_twice_deep(folder, read):
    whole = folder.root / "HAM10000_images"
    whole.mkdir()
    for part in ("HAM10000_images_part_1", "HAM10000_images_part_2"):
        (folder.root / part).rename(whole / part)
    assert len(read("ham10000")) == 3


def test_an_image_in_both_folders(folder, notes, problems):
    copy = folder.root / "HAM10000_images_part_2/ISIC_0025030.jpg"
    copy.write_bytes((folder.root / "HAM10000_images_part_1/ISIC_0025030.jpg").read_bytes())
    assert "part_2/ISIC_0025030.jpg" in notes("ham10000")["stored_twice"][0]
    folder.image("HAM10000_images_part_2/ISIC_0025030.jpg", 9)
    ((kind, text),) = problems("ham10000")
    assert kind == "stored_twice" and "different images" in text and "part_1/ISIC_0025030.jpg" in text


def test_images_and_masks_that_no_row_names(folder, notes):
    folder.image("HAM10000_images_part_2/ISIC_0030000.jpg", 5)
    folder.image("HAM10000_images_part_2/ISIC_0030001.jpg", 6)
    folder.mask("HAM10000_segmentations_lesion_tschandl/ISIC_0031111_segmentation.png")
    found = notes("ham10000")
    assert found["unlisted_images"] == [
        "HAM10000_images_part_2/ISIC_0030000.jpg and 1 more: not in HAM10000_metadata.csv [unlisted_images]"
    ]
    assert "ISIC_0031111" in found["unlisted_masks"][0]


def test_partial_download(folder, problems):
    (folder.root / "HAM10000_images_part_2/ISIC_0027419.jpg").unlink()
    folder.text("HAM10000_images_part_2/ISIC_0027419.jpg.crdownload", "half")
    assert problems("ham10000") == [
        ("missing_file", "HAM10000_metadata.csv, line 2: the image ISIC_0027419 is missing [missing_file]")
    ]


def test_a_folder_that_is_still_packed(folder, problems):
    (folder.root / "HAM10000_images_part_2/ISIC_0027419.jpg").unlink()
    (folder.root / "HAM10000_images_part_2").rmdir()
    folder.text("HAM10000_images_part_2.zip", "PK")
    found = problems("ham10000")
    assert [kind for kind, _ in found] == ["no_folder", "missing_file"]
    assert "HAM10000_images_part_2.zip is there: unpack it" in found[0][1]


def test_all_problems_of_the_table_at_once(folder, problems):
    folder.text("HAM10000_metadata.csv", HEADER, *ROWS, ROWS[0], "HAM_1,ISIC_0039999,nv,histo,1,male,back", "x,y")
    assert [kind for kind, _ in problems("ham10000")] == ["table", "duplicate_id", "missing_file"]
    texts = " ".join(text for _, text in problems("ham10000"))
    for expected in ("line 7: has 2 cells", "line 5", "stands in HAM10000_metadata.csv, line 2", "ISIC_0039999"):
        assert expected in texts


def test_a_table_without_a_column(folder, problems):
    folder.text("HAM10000_metadata.csv", "lesion_id,image_id,diagnosis", "HAM_0000118,ISIC_0027419,bkl")
    assert problems("ham10000") == [
        (
            "column",
            "HAM10000_metadata.csv: column 'dx' is missing; the columns are lesion_id, image_id, diagnosis [column]",
        )
    ]


def test_no_table_shows_the_layout(folder, read):
    (folder.root / "HAM10000_metadata.csv").unlink()
    with pytest.raises(Exception, match="HAM10000_images_part_1/ +ISIC_0024306.jpg"):
        read("ham10000")


def test_published_counts(folder, read):
    found = {note.file: note.message for note in read("ham10000").notes}
    assert "akiec 0 of 327" in found["label"] and "bkl 2 of 1,099" in found["label"]
    assert "2 of 7,470" in found["group"] and "2 of 10,015" in found["mask"]


def test_symmetry_from_symderm(folder, read):
    folder.text("SymDerm_v2_labels.csv", "File,labels_symmetry", "ISIC_0025030.jpg,Asymmetric", "IMD003.bmp,symmetric")
    cases = read("ham10000", "symmetry")
    assert cases.table["label"].tolist() == [None, "asymmetric", None]
    assert cases.table["source_label"].tolist() == ["bkl", "bkl", "nv"]
    assert np.array_equal(cases.labels, [-1, 0, -1])
    assert any(note.file == "label" and "bkl 2 of" in note.message for note in cases.notes)
