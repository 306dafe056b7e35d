import json

import pytest

from tfseg.data.sources.folder import read_folder
from tfseg.errors import DataError


def problems(folder, target="label"):
    with pytest.raises(DataError) as caught:
        read_folder(folder, target)
    return [(problem.kind, str(problem)) for problem in caught.value.problems]


def only(folder, target="label"):
    found = problems(folder, target)
    assert len(found) == 1, found
    return found[0]


def test_reads_plain_layout(make_folder, monkeypatch):
    folder = make_folder()
    monkeypatch.setenv("TFSEG_DATA", str(folder.parent))
    cases = read_folder(folder)
    assert cases.table["id"].tolist() == cases.table["group"].tolist() == ["a", "b", "c", "d"]
    assert cases.table["image"][2] == str(folder / "images" / "c.png")
    assert cases.table["mask"][2] == str(folder / "masks" / "c.png")
    assert cases.classes == ("melanoma", "naevus")
    assert cases.labels.tolist() == [1, 1, 0, 0]
    assert cases.name == "$TFSEG_DATA/data"


def test_relative_folder_gives_absolute_paths(make_folder, monkeypatch):
    folder = make_folder()
    monkeypatch.chdir(folder.parent)
    assert read_folder("data").table["image"][0] == str(folder / "images" / "a.png")


def test_text_stays_text_and_empty_is_missing(make_folder):
    rows = [
        {"image": "images/1.png", "mask": "", "label": "NA", "age": "07"},
        {"image": "images/2.png", "mask": "masks/2.png", "label": " 1 ", "age": ""},
        {"image": "images/3.png", "mask": "", "label": "", "age": "nan"},
    ]
    cases = read_folder(make_folder(rows))
    assert cases.classes == ("1", "NA")
    assert cases.labels.tolist() == [1, 0, -1]
    assert cases.has_mask.tolist() == [False, True, False]
    assert cases.table["age"].isna().tolist() == [False, True, False]
    assert cases.table["age"][0] == "07" and cases.table["age"][2] == "nan"


def test_other_target_keeps_both_columns(make_folder):
    rows = [{"image": f"images/{n}.png", "label": "x", "symmetry": s, "group": "p1"} for n, s in enumerate("ab")]
    cases = read_folder(make_folder(rows), "symmetry")
    assert cases.target == "symmetry" and cases.classes == ("a", "b")
    assert cases.table["source_label"].tolist() == ["x", "x"]
    assert cases.table["symmetry"].tolist() == cases.table["label"].tolist() == ["a", "b"]
    assert cases.groups.tolist() == ["p1", "p1"]


def test_label_column_not_needed_for_another_target(make_folder):
    folder = make_folder([{"image": "images/1.png", "binary": "yes"}])
    assert read_folder(folder, "binary").classes == ("yes",)
    kind, text = only(folder)
    assert kind == "column" and "'label' is missing" in text and "image, binary" in text


def test_empty_group_is_the_id(make_folder):
    rows = [{"image": f"images/{n}.png", "label": "x", "group": g} for n, g in ((1, "p"), (2, ""))]
    assert read_folder(make_folder(rows)).groups.tolist() == ["p", "2"]


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        (["images/x/a.png", "images/y/b.png"], ["a", "b"]),
        (["images/x/a.png", "images/y/a.png"], ["x/a", "y/a"]),
        (["images/a.png", "images/a.bmp"], ["a.png", "a.bmp"]),
        (["images/v1.0.png", "images/v1.1.png"], ["v1.0", "v1.1"]),
    ],
)
def test_ids_from_file_names(make_folder, images, ids):
    rows = [{"image": image, "label": "x"} for image in images]
    assert read_folder(make_folder(rows)).table["id"].tolist() == ids


def test_byte_order_mark_and_blank_lines(make_folder):
    folder = make_folder()
    table = folder / "labels.csv"
    table.write_text("\ufeff" + table.read_text().replace("\n", "\n,,\n\n"), encoding="utf-8")
    assert len(read_folder(folder)) == 4


def test_description(make_folder):
    description = {"mask_classes": ["background", "cytoplasm", "nucleus"], "ignore": 255, "lesion": ["nucleus"]}
    classes = read_folder(make_folder(description=description)).mask_classes
    assert classes.to_json() == description


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ({"classes": ["a", "b"]}, "unknown key 'classes'; known: mask_classes, ignore, lesion"),
        ({"mask_classes": "lesion"}, "'mask_classes' must be a list of names"),
        ({"lesion": ["tumour"]}, "must name classes out of ['lesion']"),
        ({"ignore": "255"}, "'ignore' must be a mask value"),
        ({"ignore": 1}, "the value of a mask class"),
        ([], "must hold an object"),
    ],
)
def test_description_problems(make_folder, description, text):
    kind, found = only(make_folder(description=description))
    assert kind == "description" and text in found


def test_description_that_is_no_json(make_folder):
    folder = make_folder()
    (folder / "dataset.json").write_text("{")
    assert "dataset.json: is not valid JSON" in only(folder)[1]


def test_missing_folder_table_and_file_as_folder(tmp_path):
    kind, text = only(tmp_path / "none")
    assert kind == "no_folder" and "does not exist" in text
    kind, text = only(tmp_path)
    assert kind == "no_table" and "image,mask,label" in text
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in only(file)[1]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("image;mask;label\na;b;c\n", "semicolons"),
        ("image\tmask\tlabel\na\tb\tc\n", "tabs"),
        ("", "is empty"),
        ("image,mask,label\n", "no rows"),
        ("image,label\nimages/a.png,x,y\n", "line 2: has 3 cells where the header has 2 columns"),
        ("image,label,label\nimages/a.png,x,y\n", "'label' stands more than once"),
        ('image,label\n"images/a.png,x\n', "is not a comma-separated table"),
    ],
)
def test_table_problems(make_folder, content, text):
    folder = make_folder()
    (folder / "labels.csv").write_text(content)
    assert text in only(folder)[1]


def test_upper_case_header(make_folder):
    folder = make_folder()
    (folder / "labels.csv").write_text("Image,mask,label\nimages/a.png,,x\n")
    kind, text = only(folder)
    assert kind == "column" and "'Image' is written differently" in text


def test_latin_1_table(make_folder):
    folder = make_folder()
    (folder / "labels.csv").write_bytes("image,label\nimages/a.png,nävus\n".encode("latin-1"))
    assert "not UTF-8" in only(folder)[1]


def test_unknown_target_lists_columns(make_folder):
    kind, text = only(make_folder(), "symmetry")
    assert kind == "target" and "'symmetry'" in text and "image, mask, label" in text


def test_all_problems_of_the_rows_at_once(make_folder):
    folder = make_folder()
    lines = [
        "id,image,mask,label",
        "1,/etc/passwd,,x",
        "2,images/../../out.png,,x",
        "3,images/none.png,masks/none.png,x",
        "4,,,x",
        "1,images/a.png,,x",
        ",images/b.png,,x",
    ]
    (folder / "labels.csv").write_text("\n".join(lines))
    found = problems(folder)
    assert sorted(kind for kind, _ in found) == [
        "duplicate_id",
        "missing_file",
        "missing_file",
        "no_id",
        "no_image",
        "path",
        "path",
    ]
    texts = " ".join(text for _, text in found)
    for expected in ("line 2", "line 3", "masks/none.png", "lines 2, 6", "line 7"):
        assert expected in texts


def test_same_image_twice(make_folder):
    folder = make_folder()
    (folder / "labels.csv").write_text("image,label\nimages/a.png,x\nimages/a.png,y\n")
    kind, text = only(folder)
    assert kind == "duplicate_id" and "lines 2, 3" in text


@pytest.mark.real_data
def test_real_folder(data_folder):
    cases = read_folder(data_folder / "herlev", "binary")
    assert len(cases) == 776 and cases.classes == ("abnormal", "normal")
    assert cases.mask_classes.to_json() == json.loads((data_folder / "herlev" / "dataset.json").read_text())
    cases = read_folder(data_folder / "ham10000", "symmetry")
    assert (cases.labels >= 0).sum() == 957 and not cases.has_mask.any()
