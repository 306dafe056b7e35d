import pytest


@pytest.fixture
def folder(layout):
    layout.text(
        "SymDerm_v2_labels.csv",
        "File,labels_symmetry",
        "ISIC_0025030.jpg,Asymmetric",
        "ISIC_0027419.jpg,symmetric_1_axis",
        "IMD003.bmp,symmetric",
        "NEL026.v2.jpg,asymmetric",
    )
    layout.image("HAM10000/HAM10000_images_part_1/ISIC_0025030.jpg", 1)
    layout.image("HAM10000/HAM10000_images_part_2/ISIC_0027419.JPG", 2)
    layout.image("HAM10000/HAM10000_images_part_2/ISIC_0030000.jpg", 3)
    layout.mask("HAM10000/HAM10000_segmentations_lesion_tschandl/ISIC_0025030_segmentation.png")
    layout.text(
        "HAM10000/HAM10000_metadata.csv",
        "lesion_id,image_id,dx",
        "HAM_0000118,ISIC_0025030,bkl",
        "HAM_0000118,ISIC_0027419,bkl",
    )
    layout.image("PH2Dataset/PH2 Dataset images/IMD003/IMD003_Dermoscopic_Image/IMD003.bmp", 4)
    layout.mask("PH2Dataset/PH2 Dataset images/IMD003/IMD003_lesion/IMD003_lesion.bmp", 4)
    layout.image("EDRA/NEL026.v2.jpg", 5)
    return layout


def test_images_of_several_datasets(folder, read, notes):
    cases = read("symderm")
    assert cases.table["id"].tolist() == ["ISIC_0025030", "ISIC_0027419", "IMD003", "NEL026.v2"]
    assert cases.table["label"].tolist() == ["asymmetric", "symmetric_1_axis", "symmetric", "asymmetric"]
    assert cases.table["dataset"].tolist() == ["HAM10000", "HAM10000", "PH2Dataset", "EDRA"]
    assert cases.groups.tolist() == ["HAM_0000118", "HAM_0000118", "IMD003", "NEL026.v2"]
    assert cases.has_mask.tolist() == [True, False, True, False]
    assert notes("symderm") == {}


def test_two_classes(folder, read):
    cases = read("symderm", "label:symmetric_1_axis=symmetric")
    assert cases.labels.tolist() == [0, 1, 1, 0]


def test_codes_of_ph2(folder, read):
    folder.text("SymDerm_v2_labels.csv", "image;symmetry", "ISIC_0025030;2", "ISIC_0027419;1", "IMD003;0")
    assert read("symderm").table["label"].tolist() == ["asymmetric", "symmetric_1_axis", "symmetric"]


def test_two_codes_are_not_guessed(folder, problems):
    folder.text("SymDerm_v2_labels.csv", "File,labels_symmetry", "ISIC_0025030.jpg,1", "IMD003.bmp,0")
    ((kind, text),) = problems("symderm")
    assert kind == "label" and "holds 0, 1 only: write symmetric, symmetric_1_axis, asymmetric" in text


def test_all_problems_at_once(folder, problems):
    rows = ("ISIC_0025030.jpg,round", "ISIC_0099999.jpg,symmetric", "IMD003.bmp,symmetric", "IMD003.bmp,asymmetric")
    folder.text("SymDerm_v2_labels.csv", "File,labels_symmetry", *rows)
    found = problems("symderm")
    assert [kind for kind, _ in found] == ["label", "missing_file", "duplicate_id"]
    assert "line 2: labels_symmetry is 'round'" in found[0][1] and "ISIC_0099999" in found[1][1]


def test_a_table_of_other_columns(folder, problems):
    folder.text("SymDerm_v2_labels.csv", "picture,labels_symmetry", "IMD003.bmp,symmetric")
    ((kind, text),) = problems("symderm")
    assert kind == "column" and text.startswith("SymDerm_v2_labels.csv: expected a column File or image")


def test_one_image_in_two_datasets(folder, notes, problems):
    folder.image("ISIC2018/ISIC_0025030.jpg", 1)
    assert "ISIC2018/ISIC_0025030.jpg" in notes("symderm")["stored_twice"][0]
    folder.image("ISIC2018/ISIC_0025030.jpg", 7)
    assert [kind for kind, _ in problems("symderm")] == ["stored_twice"]
