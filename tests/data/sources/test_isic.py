import pytest

from tfseg.data.splits import official_parts

CLASSES_2018 = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
CLASSES_2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def one_hot(name, chosen, count):
    return ",".join([name, *("1.0" if number == chosen else "0.0" for number in range(count))])


@pytest.fixture
def isic2016(layout):
    for seed, name in enumerate(("ISIC_0000000", "ISIC_0000001", "ISIC_0000002")):
        layout.image(f"ISBI2016_ISIC_Part1_Training_Data/{name}.jpg", seed)
        layout.mask(f"ISBI2016_ISIC_Part1_Training_GroundTruth/{name}_Segmentation.png", seed)
    layout.image("ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg", 4)
    layout.mask("ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png", 4)
    train = ("ISIC_0000000,benign", "ISIC_0000001,malignant", "ISIC_0000002,benign")
    layout.text("ISBI2016_ISIC_Part3_Training_GroundTruth.csv", *train)
    layout.text("ISBI2016_ISIC_Part3_Test_GroundTruth.csv", "ISIC_0000003,1.0")
    return layout


def test_2016_words_and_numbers_without_a_header(isic2016, read, notes):
    cases = read("isic2016")
    assert cases.table["id"].tolist() == [f"ISIC_000000{number}" for number in range(4)]
    assert cases.table["label"].tolist() == ["benign", "malignant", "benign", "malignant"]
    assert cases.table["split"].tolist() == ["train", "train", "train", "test"]
    assert cases.has_mask.all() and notes("isic2016") == {}
    assert cases.table["mask"][3].endswith("Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png")


def test_2016_images_of_task_3_serve_as_well(isic2016, read):
    (isic2016.root / "ISBI2016_ISIC_Part1_Training_Data").rename(isic2016.root / "ISBI2016_ISIC_Part3_Training_Data")
    assert "Part3_Training_Data" in read("isic2016").table["image"][0]


def test_2016_images_of_both_tasks_are_one_case(isic2016, read, notes):
    for seed, name in enumerate(("ISIC_0000000", "ISIC_0000001", "ISIC_0000002")):
        isic2016.image(f"ISBI2016_ISIC_Part3_Training_Data/{name}.jpg", seed)
    assert len(read("isic2016")) == 4 and notes("isic2016") == {}


def test_2016_masks_alone(isic2016, read):
    for name in ("Training", "Test"):
        (isic2016.root / f"ISBI2016_ISIC_Part3_{name}_GroundTruth.csv").unlink()
    cases = read("isic2016")
    assert len(cases) == 4 and cases.classes == () and cases.has_mask.all()


def test_2016_bad_rows(isic2016, problems):
    isic2016.text("ISBI2016_ISIC_Part3_Test_GroundTruth.csv", "ISIC_0000003,2.0", "ISIC_0000004,0.0")
    (isic2016.root / "ISBI2016_ISIC_Part1_Training_Data/ISIC_0000001.jpg").unlink()
    found = problems("isic2016")
    assert sorted(kind for kind, _ in found) == ["label", "missing_file", "missing_file"]
    texts = " ".join(text for _, text in found)
    assert "Test_GroundTruth.csv, line 1: expected 0 or 1, received '2.0'" in texts
    assert "Test_GroundTruth.csv, line 2: the image ISIC_0000004 is missing" in texts
    assert "Training_GroundTruth/ISIC_0000001_Segmentation.png: the image ISIC_0000001" in texts


@pytest.fixture
def isic2017(layout):
    number = 0
    for word, lines in {
        "Training": ("0.0,0.0", "1.0,0.0", "0.0,1.0", "0.0,0.0"),
        "Validation": ("1.0,0.0",),
        "Test_v2": ("0.0,1.0",),
    }.items():
        base, rows = f"ISIC-2017_{word}", ["image_id,melanoma,seborrheic_keratosis"]
        for line in lines:
            name = f"ISIC_{number:07d}"
            layout.image(f"{base}_Data/{name}.jpg", number)
            layout.image(f"{base}_Data/{name}_superpixels.png", 100 + number)
            layout.mask(f"{base}_Part1_GroundTruth/{name}_segmentation.png", number)
            rows.append(f"{name},{line}")
            number += 1
        layout.text(f"{base}_Part3_GroundTruth.csv", *rows)
    layout.text(
        "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv",
        "image_id,age_approximate,sex",
        "ISIC_0000000,55,female",
        "ISIC_0000001,unknown,unknown",
    )
    return layout


def test_2017(isic2017, read, notes):
    cases = read("isic2017")
    labels = ["nevus", "melanoma", "seborrheic_keratosis", "nevus", "melanoma", "seborrheic_keratosis"]
    assert cases.table["label"].tolist() == labels
    assert cases.table["split"].tolist() == ["train"] * 4 + ["val", "test"]
    assert cases.table["age_approximate"].tolist() == ["55", "unknown", None, None, None, None]
    assert cases.has_mask.all() and notes("isic2017") == {}
    assert not any("superpixels" in path for path in cases.table["image"])


def test_2017_two_classes_and_a_class_of_another_value(isic2017, problems):
    lines = ("ISIC_0000004,1.0,1.0",)
    isic2017.text("ISIC-2017_Validation_Part3_GroundTruth.csv", "image_id,melanoma,seborrheic_keratosis", *lines)
    ((kind, text),) = problems("isic2017")
    assert kind == "label" and "line 2: expected one class, received melanoma, seborrheic_keratosis" in text


def test_2017_renamed_folder_of_one_part(isic2017, problems):
    (isic2017.root / "ISIC-2017_Validation_Data").rename(isic2017.root / "validation")
    found = problems("isic2017")
    assert found[0] == ("no_folder", "ISIC-2017_Validation_Data: is missing [no_folder]")
    assert found[1][0] == "missing_file" and "Validation_Part3_GroundTruth.csv, line 2" in found[1][1]


def test_a_part_without_ground_truth_is_left_out_aloud(isic2017, read, notes):
    (isic2017.root / "ISIC-2017_Test_v2_Part3_GroundTruth.csv").unlink()
    (isic2017.root / "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0000005_segmentation.png").unlink()
    (isic2017.root / "ISIC-2017_Test_v2_Part1_GroundTruth").rmdir()
    assert len(read("isic2017")) == 5
    assert "ISIC-2017_Test_v2_Data: left out" in notes("isic2017")["unlisted_images"][0]


@pytest.fixture
def isic2018(layout):
    layout.image("ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg", 1)
    layout.image("ISIC2018_Task1-2_Training_Input/ISIC_0000001.jpg", 2)
    layout.text("ISIC2018_Task1-2_Training_Input/LICENSE.txt", "CC-0")
    for seed in (0, 1):
        layout.mask(f"ISIC2018_Task1_Training_GroundTruth/ISIC_000000{seed}_segmentation.png", seed)
    folder = "ISIC2018_Task3_Training_GroundTruth"
    rows = [one_hot(f"ISIC_002430{number}", number, 7) for number in (1, 4)]
    layout.text(f"{folder}/{folder}.csv", CLASSES_2018, *rows)
    layout.image("ISIC2018_Task3_Training_Input/ISIC_0024301.jpg", 3)
    layout.image("ISIC2018_Task3_Training_Input/ISIC_0024304.jpg", 4)
    layout.text(
        "ISIC2018_Task3_Training_LesionGroupings.csv",
        "image,lesion_id,diagnosis_confirm_type",
        "ISIC_0024301,HAM_0000550,follow up",
        "ISIC_0024304,HAM_0000550,histopathology",
    )
    return layout


def test_2018_both_tasks(isic2018, read, notes):
    cases = read("isic2018")
    assert cases.table["id"].tolist() == ["ISIC_0024301", "ISIC_0024304", "ISIC_0000000", "ISIC_0000001"]
    assert cases.table["label"].tolist() == ["nv", "bkl", None, None]
    assert cases.has_mask.tolist() == [False, False, True, True]
    assert cases.groups.tolist() == ["HAM_0000550", "HAM_0000550", "ISIC_0000000", "ISIC_0000001"]
    assert "split" not in cases.table and set(cases.table["part"]) == {"train"} and notes("isic2018") == {}


@pytest.mark.parametrize(("task", "count"), [("Task1", 2), ("Task3", 2)])
def test_2018_one_task(isic2018, read, task, count):
    for path in list(isic2018.root.iterdir()):
        if not path.name.startswith(f"ISIC2018_{task}"):
            path.rename(isic2018.root.parent / path.name)
    cases = read("isic2018")
    assert len(cases) == count and cases.has_mask.all() == (task == "Task1")


def test_2018_an_image_in_training_of_one_task_and_test_of_the_other(isic2018, read, notes):
    folder = "ISIC2018_Task3_Test_GroundTruth"
    isic2018.text(f"{folder}/{folder}.csv", CLASSES_2018, one_hot("ISIC_0000001", 0, 7))
    isic2018.image("ISIC2018_Task3_Test_Input/ISIC_0000001.jpg", 2)
    cases = read("isic2018")
    table = cases.table.set_index("id")
    assert len(cases) == 4 and table.loc["ISIC_0000001", ["label", "split"]].tolist() == ["mel", "test"]
    assert table.loc["ISIC_0000001", "mask"].endswith("ISIC_0000001_segmentation.png")
    assert "counted as test" in notes("isic2018")["split_conflict"][0]


def test_2018_an_image_in_both_tasks_has_label_and_mask(isic2018, read, notes):
    isic2018.image("ISIC2018_Task1-2_Training_Input/ISIC_0024301.jpg", 8)
    isic2018.mask("ISIC2018_Task1_Training_GroundTruth/ISIC_0024301_segmentation.png", 8)
    cases = read("isic2018")
    assert len(cases) == 4 and cases.table["label"][0] == "nv" and cases.has_mask[0]
    assert "Task3_Training_Input" in cases.table["image"][0] and notes("isic2018") == {}


def test_2018_twice_in_one_table(isic2018, problems):
    folder = "ISIC2018_Task3_Training_GroundTruth"
    rows = [one_hot(f"ISIC_002430{number}", number, 7) for number in (1, 4, 1)]
    isic2018.text(f"{folder}/{folder}.csv", CLASSES_2018, *rows)
    ((kind, text),) = problems("isic2018")
    assert kind == "duplicate_id" and "line 4" in text and "line 2 already" in text


@pytest.fixture
def isic2019(layout):
    names = ("ISIC_0000000", "ISIC_0000002_downsampled", "ISIC_0053453", "ISIC_0068279")
    for seed, name in enumerate(names):
        layout.image(f"ISIC_2019_Training_Input/{name}.jpg", seed)
    rows = [one_hot(name, chosen, 9) for name, chosen in zip(names, (1, 0, 3, 7), strict=True)]
    layout.text("ISIC_2019_Training_GroundTruth.csv", CLASSES_2019, *rows)
    layout.text(
        "ISIC_2019_Training_Metadata.csv",
        "image,age_approx,anatom_site_general,lesion_id,sex",
        "ISIC_0000000,55.0,anterior torso,,female",
        "ISIC_0000002_downsampled,30.0,,MSK4_0011169,male",
        "ISIC_0053453,,,BCN_0000001,",
        "ISIC_0068279,80.0,head/neck,BCN_0000001,male",
    )
    return layout


def test_2019_downsampled_names_and_lesions(isic2019, read, notes):
    cases = read("isic2019")
    assert cases.table["id"].tolist() == ["ISIC_0000000", "ISIC_0000002", "ISIC_0053453", "ISIC_0068279"]
    assert cases.table["image"][1].endswith("ISIC_0000002_downsampled.jpg")
    assert cases.table["label"].tolist() == ["nv", "mel", "ak", "scc"]
    assert cases.groups.tolist() == ["ISIC_0000000", "MSK4_0011169", "BCN_0000001", "BCN_0000001"]
    assert cases.table["age_approx"].tolist() == ["55.0", "30.0", None, "80.0"]
    assert notes("isic2019") == {}


def test_2019_names_without_the_suffix_as_some_copies_have_them(isic2019, read):
    folder = isic2019.root / "ISIC_2019_Training_Input"
    (folder / "ISIC_0000002_downsampled.jpg").rename(folder / "ISIC_0000002.jpg")
    assert read("isic2019").table["image"][1].endswith("ISIC_0000002.jpg")


def test_2019_without_squamous_cell_carcinoma_and_named_as_ham10000(isic2019, read):
    cases = read("isic2019", "label:scc=,ak=akiec")
    assert cases.classes == ("akiec", "mel", "nv") and (cases.labels >= 0).sum() == 3
    assert cases.target == "label:scc=,ak=akiec"


def test_2019_test_part_with_unknown_classes(isic2019, read):
    isic2019.image("ISIC_2019_Test_Input/ISIC_2019_Test_Input/ISIC_0034321.jpg", 9)
    header = CLASSES_2019 + ",score_weight,validation_weight"
    isic2019.text("ISIC_2019_Test_GroundTruth.csv", header, one_hot("ISIC_0034321", 8, 9) + ",1.0,0.0")
    cases = read("isic2019")
    assert cases.table["label"][4] == "unk" and cases.table["split"].tolist() == ["train"] * 4 + ["test"]
    assert not any(note.file == "label[train]" and "unk" in note.message for note in cases.notes)


def test_counts_are_those_of_the_part(isic2019, read):
    found = {note.file: note.message for note in read("isic2019").notes}
    assert "nv 1 of 12,875" in found["label[train]"] and found["part"].endswith("train 4 of 25,331, test 0 of 8,238")


def test_official_parts_divide_the_cases(isic2016, read):
    assert official_parts(read("isic2016")).tolist() == ["train", "train", "train", "test"]


def test_an_empty_folder_names_the_tables_and_the_layout(layout, read):
    with pytest.raises(Exception, match="(?s)ISIC_2019_Training_GroundTruth.csv: is missing, and so are.*Metadata.csv"):
        read("isic2019")
