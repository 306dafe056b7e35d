import pytest

HEADER = (
    "||   Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry | Pigment Network | Dots/Globules "
    "| Streaks | Regression Areas | Blue-Whitish Veil ||           Colors ||"
)
LEGEND = ("", "Legends: ", "Clinical Diagnosis: ", "   0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma.", "")


def row(name, histology, diagnosis, asymmetry, colors="4"):
    return (
        f"|| {name} ||   {histology:20} ||                  {diagnosis} ||         {asymmetry} |"
        f"               T |             A |       A |                A |                 A ||   {colors} ||"
    )


@pytest.fixture
def folder(layout):
    rows = (
        row("IMD003", "", 0, 0),
        row("IMD155", "", 1, 1, "3  4"),
        row("IMD063", "Melanoma", 2, 2, "2  3  4  6"),
    )
    layout.text("PH2_dataset.txt", HEADER, *rows, *LEGEND, encoding="latin-1")
    for seed, name in enumerate(("IMD003", "IMD155", "IMD063")):
        base = f"PH2 Dataset images/{name}"
        layout.image(f"{base}/{name}_Dermoscopic_Image/{name}.{'BMP' if seed else 'bmp'}", seed)
        layout.mask(f"{base}/{name}_lesion/{name}_lesion.bmp", seed)
        layout.mask(f"{base}/{name}_roi/{name}_Label1.bmp", seed + 5)
    return layout


def test_codes_become_names(folder, read, notes):
    cases = read("ph2")
    assert cases.table["id"].tolist() == ["IMD003", "IMD155", "IMD063"]
    assert cases.table["label"].tolist() == ["common_nevus", "atypical_nevus", "melanoma"]
    assert cases.table["symmetry"].tolist() == ["symmetric", "symmetric_1_axis", "asymmetric"]
    assert cases.table["histological_diagnosis"].tolist() == [None, None, "Melanoma"]
    assert cases.table["colors"].tolist() == ["4", "3  4", "2  3  4  6"]
    assert cases.table["image"][1].endswith("IMD155_Dermoscopic_Image/IMD155.BMP")
    assert cases.table["mask"][2].endswith("IMD063_lesion/IMD063_lesion.bmp")
    assert notes("ph2") == {}


def test_two_classes_of_symmetry(folder, read):
    cases = read("ph2", "symmetry:symmetric_1_axis=symmetric")
    assert cases.classes == ("asymmetric", "symmetric") and cases.labels.tolist() == [1, 1, 0]


def test_the_folder_around_it(folder, read):
    inside = folder.root / "PH2Dataset"
    inside.mkdir()
    for name in ("PH2_dataset.txt", "PH2 Dataset images"):
        (folder.root / name).rename(inside / name)
    assert len(read("ph2")) == 3


def test_missing_mask_and_files_without_a_row(folder, read, notes):
    (folder.root / "PH2 Dataset images/IMD155/IMD155_lesion/IMD155_lesion.bmp").unlink()
    folder.image("PH2 Dataset images/IMD400/IMD400_Dermoscopic_Image/IMD400.bmp", 8)
    folder.mask("PH2 Dataset images/IMD400/IMD400_lesion/IMD400_lesion.bmp", 8)
    assert read("ph2").has_mask.tolist() == [True, False, True]
    found = notes("ph2")
    assert "IMD400.bmp: not in PH2_dataset.txt" in found["unlisted_images"][0]
    assert "IMD400_lesion.bmp" in found["unlisted_masks"][0]


def test_all_problems_at_once(folder, problems):
    rows = (row("IMD003", "", 3, 0), row("IMD155", "", 1, ""), row("IMD999", "", 1, 0), "|| IMD063 || 2 ||")
    folder.text("PH2_dataset.txt", HEADER, *rows, row("IMD155", "", 1, 1))
    found = problems("ph2")
    assert [kind for kind, _ in found] == ["table", "label", "label", "missing_file", "duplicate_id"]
    for number, text in zip((5, 2, 3, 4, 6), (text for _, text in found), strict=True):
        assert text.startswith(f"PH2_dataset.txt, line {number}: ")
    assert "Clinical Diagnosis is '3', expected 0 (common_nevus)" in found[1][1]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((HEADER.replace("Asymmetry", "Symmetry"),), "'Asymmetry' is missing; the columns are Name"),
        (("Name,Clinical Diagnosis,Asymmetry", "IMD003,0,0"), "no line begins with ||"),
    ],
)
def test_another_table(folder, problems, lines, text):
    folder.text("PH2_dataset.txt", *lines)
    ((kind, found),) = problems("ph2")
    assert kind == "column" and text in found


def test_the_spreadsheet_alone_is_not_enough(folder, problems):
    (folder.root / "PH2_dataset.txt").rename(folder.root / "PH2_dataset.xlsx")
    assert problems("ph2") == [("no_table", "PH2_dataset.txt: is missing [no_table]")]
