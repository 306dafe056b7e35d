import pytest


@pytest.fixture
def folder(layout):
    for seed, name in enumerate(("melanoma/a.jpg", "melanoma/b.PNG", "naevus/a.jpg")):
        layout.image(name, seed)
    return layout


def test_the_folder_is_the_class(folder, read):
    cases = read("folders")
    assert cases.table["id"].tolist() == ["melanoma__a", "melanoma__b", "naevus__a"]
    assert cases.table["label"].tolist() == ["melanoma", "melanoma", "naevus"]
    assert cases.groups.tolist() == cases.table["id"].tolist()
    assert not cases.has_mask.any() and "split" not in cases.table and cases.notes == ()


def test_parts_above_the_classes(layout, read):
    for seed, name in enumerate(("Train/x/a.jpg", "Train/y/a.jpg", "valid/x/a.jpg", "testing/y/c.jpg")):
        layout.image(name, seed)
    table = read("folders").table
    assert dict(zip(table["id"], table["split"], strict=True)) == {
        "train__x__a": "train",
        "train__y__a": "train",
        "val__x__a": "val",
        "test__y__c": "test",
    }


def test_what_is_no_image_is_left_out(folder, read, notes):
    folder.text("readme.txt", "…")
    folder.text("naevus/notes.csv", "…")
    folder.text("naevus/Thumbs.db", "…")
    folder.text(".DS_Store", "…")
    assert len(read("folders")) == 3
    assert notes("folders") == {
        "unlisted_images": ["readme.txt and 1 more: not an image in a class folder: left out [unlisted_images]"]
    }


def test_all_problems_at_once(folder, problems):
    (folder.root / "empty").mkdir()
    folder.image("naevus/image/deep.jpg")
    folder.image("melanoma/a.bmp", 9)
    assert problems("folders") == [
        ("empty_folder", "empty: the class folder has no images [empty_folder]"),
        (
            "stored_twice",
            "melanoma/a.bmp: and melanoma/a.jpg are different images of one name [stored_twice]",
        ),
        ("nested_folder", "naevus: holds folders (image), expected images [nested_folder]"),
    ]


def test_class_folders_beside_parts(folder, problems):
    folder.image("train/melanoma/z.jpg")
    found = problems("folders")
    assert [kind for kind, _ in found] == ["nested_folder", "nested_folder"]
    assert found[0][1].startswith("melanoma: stands beside train: expected inside")


def test_no_class_folders(layout, problems):
    layout.image("a.jpg")
    assert problems("folders") == [("no_folder", ".: there are no class folders [no_folder]")]
