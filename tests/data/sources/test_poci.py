import json

import pytest

NAMES = ("neoplastic", "aphthous", "traumatic")
CATEGORIES = [
    {"id": number, "name": name, "supercategory": "", "color": "#fc0000", "metadata": {}, "keypoint_colors": []}
    for number, name in enumerate(NAMES, 1)
]


def content(*numbers):
    """A part as the annotation tool of the publishers writes it: absolute paths of their server, extra keys."""
    images = [
        {
            "id": n,
            "dataset_id": 1,
            "path": f"/datasets/oral1/{n}.jpg",
            "width": 24,
            "height": 20,
            "file_name": f"{n}.jpg",
        }
        for n in numbers
    ]
    annotations = [
        {
            "id": 1000 + n,
            "image_id": n,
            "category_id": n % 3 + 1,
            "segmentation": [[2.5, 2.0, 10.5, 2.0, 10.5, 8.0, 2.5, 8.0]],
            "area": 48,
            "bbox": [2.0, 2.0, 8.0, 6.0],
            "iscrowd": False,
            "isbbox": False,
            "color": "#fc0000",
            "metadata": {},
        }
        for n in numbers
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture
def folder(layout):
    parts = {"train": (1, 2, 3), "val": (4, 5, 6), "test": (7, 8, 9)}
    for part, numbers in parts.items():
        layout.text(f"{part}.json", json.dumps(content(*numbers), indent=2))
    layout.text("dataset.json", json.dumps(content(*range(1, 10))))
    layout.text("cases.csv", "id_casi,TIPO DI ULCERA")
    for number in range(1, 10):
        layout.image(f"oral1/oral1/{number}.jpg", number)
    return layout


def test_parts_and_classes(folder, read, notes):
    cases = read("poci")
    assert cases.table["id"].tolist() == [str(number) for number in range(1, 10)]
    assert cases.table["split"].tolist() == 3 * ["train"] + 3 * ["val"] + 3 * ["test"]
    assert cases.table["label"].tolist() == 3 * ["aphthous", "traumatic", "neoplastic"]
    assert cases.has_mask.all() and notes("poci") == {}
    (count,) = [note.message for note in cases.notes]
    assert "9 of 607" in count


def test_one_folder_and_the_whole_file(folder, read):
    for part in ("train", "val", "test"):
        (folder.root / f"{part}.json").unlink()
    (folder.root / "oral1" / "oral1").rename(folder.root / "inner")
    (folder.root / "oral1").rmdir()
    (folder.root / "inner").rename(folder.root / "oral1")
    cases = read("poci")
    assert len(cases) == 9 and "split" not in cases.table


def test_photographs_of_no_annotation(folder, notes):
    folder.image("oral1/oral1/99.jpg", 99)
    assert notes("poci") == {"unlisted_images": ["oral1/oral1/99.jpg: not in the annotations [unlisted_images]"]}


def test_partial_download(folder, problems):
    (folder.root / "val.json").unlink()
    (folder.root / "oral1/oral1/8.jpg").unlink()
    assert problems("poci") == [
        ("no_table", "val.json: is missing [no_table]"),
        ("missing_file", "test.json, image 8 (8.jpg): the image 8 is missing [missing_file]"),
    ]


def test_nothing_there(layout, problems):
    assert [kind for kind, _ in problems("poci")] == ["no_table", "no_folder"]
