import json

import numpy as np
import pytest
from PIL import Image

from tfseg.data.ingest import read_mask
from tfseg.data.sources.coco_cases import TURNS

CATEGORIES = [{"id": 3, "name": "aphthous", "supercategory": ""}, {"id": 1, "name": "neoplastic"}]
SQUARE = [2, 2, 10, 2, 10, 8, 2, 8]


def image(number, name, width=24, height=20):
    return {"id": number, "file_name": name, "width": width, "height": height, "license": 1}


def annotation(number, image_id, category_id=1, segmentation=None, **more):
    segmentation = [SQUARE] if segmentation is None else segmentation
    return {"id": number, "image_id": image_id, "category_id": category_id, "segmentation": segmentation, **more}


def write(layout, path, images, annotations, categories=CATEGORIES):
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    layout.text(path, json.dumps(content))


def mask_of(cases, row=0):
    return read_mask(cases.table["mask"][row], cases.mask_classes)


def one(layout, annotations, name="images/a.jpg", **size):
    """A dataset of one image with these annotations."""
    if not (layout.root / name).exists():
        layout.image(name)
    write(layout, "annotations/instances.json", [image(7, "a.jpg", **size)], annotations)


@pytest.fixture
def folder(layout):
    for seed, (part, name) in enumerate((("train2017", "a.jpg"), ("train2017", "b.PNG"), ("val2017", "c.jpg"))):
        layout.image(f"{part}/{name}", seed)
    train = [image(1, "a.jpg"), image(2, "b.png")]
    write(layout, "annotations/instances_train2017.json", train, [annotation(1, 1), annotation(2, 2, 3)])
    write(layout, "annotations/instances_val2017.json", [image(1, "c.jpg")], [annotation(9, 1, 3)])
    layout.text("annotations/captions_train2017.json", "{}")
    return layout


def test_parts_labels_and_masks(folder, read, notes):
    cases = read("coco")
    assert cases.table["id"].tolist() == ["a", "b", "c"]
    assert cases.table["label"].tolist() == ["neoplastic", "aphthous", "aphthous"]
    assert cases.table["split"].tolist() == ["train", "train", "val"]
    assert cases.table["image"][1].endswith("train2017/b.PNG")
    expected = np.zeros((20, 24), np.uint8)
    expected[2:8, 2:10] = 1
    assert (mask_of(cases) == expected).all()
    assert notes("coco") == {}


@pytest.mark.parametrize(
    ("annotations", "picture", "split"),
    [
        ("train.json", "train/a.jpg", "train"),
        ("train.json", "images/train/a.jpg", "train"),
        ("all.json", "images/a.jpg", None),
        ("valid/_annotations.coco.json", "valid/a.jpg", "val"),
        ("annotations/test.json", "a.jpg", "test"),
    ],
)
def test_where_images_lie(layout, read, annotations, picture, split):
    layout.image(picture)
    write(layout, annotations, [image(1, "a.jpg")], [annotation(1, 1)])
    table = read("coco").table
    assert len(table) == 1 and table["image"][0].endswith(picture)
    assert table.get("split", [None])[0] == split


def test_folders_in_file_names(layout, read):
    layout.image("images/p1/a.jpg")
    layout.image("images/p2/a.jpg", 1)
    images = [image(1, "p1/a.jpg"), image(2, "p2\\a.jpg")]
    write(layout, "all.json", images, [annotation(1, 1), annotation(2, 2, 3)])
    cases = read("coco")
    assert cases.table["id"].tolist() == ["p1__a", "p2__a"]
    assert cases.table["image"][1].endswith("images/p2/a.jpg")


def test_names_that_differ_by_suffix_alone(layout, read):
    layout.image("a.jpg")
    layout.image("a.png", 1)
    write(layout, "all.json", [image(1, "a.jpg"), image(2, "a.png")], [annotation(1, 1), annotation(2, 2)])
    assert read("coco").table["id"].tolist() == ["a.jpg", "a.png"]


def test_lesions_are_united(layout, read):
    one(layout, [annotation(1, 7), annotation(2, 7, 1, [[12, 10, 14, 10, 14, 12, 12, 12], [0, 0, 1, 0, 1, 1, 0, 1]])])
    mask = mask_of(read("coco"))
    assert mask.sum() == 48 + 4 + 1 and mask[10:12, 12:14].all() and mask[0, 0]


def test_crowds_by_run_lengths(layout, read):
    runs = {"size": [20, 24], "counts": [20, 20, 440]}
    one(layout, [annotation(1, 7), annotation(2, 7, 1, runs, iscrowd=1)])
    mask = mask_of(read("coco"))
    assert mask[:, 1].all() and not mask[:, 0].any() and mask.sum() == 20 + 48


def test_the_largest_lesion_names_an_image_of_several_classes(layout, read, notes):
    small = [annotation(number, 7, 1, [[12, 10, 14, 10, 14, 12, 12, 12]]) for number in (1, 2, 3)]
    one(layout, [*small, annotation(4, 7, 3)])
    assert read("coco").table["label"][0] == "aphthous"
    assert mask_of(read("coco")).sum() == 48 + 4
    assert notes("coco") == {
        "mixed_labels": [
            "annotations/instances.json, image 7: annotations of several classes: the one that covers most is the "
            "label [mixed_labels]"
        ]
    }


def test_image_without_annotations_has_no_label_and_no_mask(layout, read):
    for seed, name in enumerate("ab"):
        layout.image(f"{name}.jpg", seed)
    write(layout, "all.json", [image(1, "a.jpg"), image(2, "b.jpg")], [annotation(1, 1)])
    cases = read("coco")
    assert cases.labels.tolist() == [0, -1] and cases.has_mask.tolist() == [True, False]


def test_annotation_without_outline(layout, read, notes):
    one(layout, [annotation(1, 7), annotation(2, 7, 1, [], bbox=[1, 1, 5, 5])])
    assert read("coco").labels.tolist() == [0] and not read("coco").has_mask.any()
    assert notes("coco")["no_outline"][0].startswith("annotations/instances.json, annotation 2: an annotation without")


def test_polygon_that_leaves_the_image_is_cut_off(layout, read, notes):
    one(
        layout, [annotation(1, 7, 1, [[20, 2, 30, 2, 30, 8, 20, 8]]), annotation(2, 7, 1, [[-1, 0, 1, 0, 1, 1, -1, 1]])]
    )
    assert mask_of(read("coco")).sum() == 4 * 6 + 1
    assert notes("coco") == {
        "outline_outside": [
            "annotations/instances.json, annotation 1 and 1 more: a polygon leaves the image: cut off at its border "
            "[outline_outside]"
        ]
    }


def test_all_problems_at_once(layout, problems):
    for seed, name in enumerate("ab"):
        layout.image(f"{name}.jpg", seed)
    images = [image(1, "a.jpg"), image(2, "none.jpg"), image(3, "../x.jpg"), image(4, "b.jpg", 20, 24)]
    images += [image(5, "a.jpg"), {"id": 6}]
    annotations = [
        annotation(1, 1, 1, [[1, 1, 2, 2]]),
        annotation(2, 99),
        annotation(3, 1, 8),
        annotation(4, 1, 1, [[90, 90, 99, 90, 99, 99]]),
        annotation(5, 1, 1, {"size": [20, 24], "counts": [3]}),
    ]
    write(layout, "train.json", images, annotations)
    layout.text("test.json", "{")
    layout.text("val.json", "[]")
    found = dict.fromkeys(text for _, text in problems("coco"))
    expected = [
        "train.json: 1 of 6 images lack id or file_name [table]",
        "train.json, annotation 2: there is no image 99 [annotation]",
        "train.json, annotation 3: there is no category 8 [annotation]",
        "train.json, annotation 1: a polygon has 2 points, expected at least 3 [outline]",
        "train.json, annotation 4: a polygon lies outside the image of 24×20 pixels [outline]",
        "train.json, annotation 5: run lengths must be whole numbers that add up to 480 [outline]",
        "train.json, image 3: file_name '../x.jpg' must stay inside the folder [path]",
        "train.json, image 4: is 20×24 pixels here, its file b.jpg 24×20 [image_size]",
        "train.json, image 2 (none.jpg): the image none is missing [missing_file]",
        "val.json: is no COCO file, which has the lists images, annotations, categories [table]",
    ]
    assert [text for text in expected if text not in found] == []
    assert any(text.startswith("test.json: is not valid JSON") for text in found)
    assert any(text.startswith("train.json, image 5: a stands in train.json, image 1 already") for text in found)


def test_one_image_in_two_parts(layout, problems):
    layout.image("images/a.jpg")
    for part in ("train", "test"):
        write(layout, f"{part}.json", [image(4, "a.jpg")], [annotation(1, 4)])
    assert problems("coco") == [
        ("duplicate_id", "train.json, image 4: a stands in test.json, image 4 already [duplicate_id]")
    ]


def test_two_images_of_one_id(layout, problems):
    layout.image("a.jpg")
    write(layout, "all.json", [image(4, "a.jpg"), image(4, "b.jpg")], [annotation(1, 4)])
    assert ("duplicate_id", "all.json, image 4: 2 images have this id [duplicate_id]") in problems("coco")


def test_files_of_no_part_and_images_of_no_annotation(folder, read, notes):
    write(folder, "annotations/instances_extra.json", [image(1, "z.jpg")], [])
    folder.image("train2017/unused.jpg", 5)
    assert len(read("coco")) == 3
    assert notes("coco") == {
        "unlisted_table": [
            "annotations/instances_extra.json: neither train, val nor test by its name: left out [unlisted_table]"
        ],
        "unlisted_images": ["train2017/unused.jpg: not in the annotations [unlisted_images]"],
    }


def test_no_annotations(layout, problems):
    layout.image("a.jpg")
    assert problems("coco") == [("no_table", "annotations: there are no JSON files [no_table]")]


@pytest.mark.parametrize("turn", [1, *TURNS])
def test_outlines_turn_with_their_image(layout, read, turn):
    """A white rectangle in the stored pixels, outlined there, is under the mask when both stand upright."""
    stored = np.zeros((20, 24, 3), np.uint8)
    stored[2:8, 2:10] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(stored).save(layout._path("images/a.png"), exif=exif)
    write(layout, "all.json", [image(7, "a.png")], [annotation(1, 7)])
    from tfseg.data.ingest import read_image

    cases = read("coco")
    assert ((read_image(cases.table["image"][0])[..., 0] == 255) == (mask_of(cases) == 1)).all()


def test_outlines_that_are_upright_already(layout, read):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(layout._path("images/a.png"), exif=exif)
    write(layout, "all.json", [image(7, "a.png", width=20, height=24)], [annotation(1, 7)])
    mask = mask_of(read("coco"))
    assert mask.shape == (24, 20) and mask[2:8, 2:10].all() and mask.sum() == 48


def test_a_changed_outline_makes_another_mask(layout, read):
    one(layout, [annotation(1, 7)])
    first = read("coco").table["mask"][0]
    assert read("coco").table["mask"][0] == first
    one(layout, [annotation(1, 7, 1, [[0, 0, 1, 0, 1, 1, 0, 1]])])
    second = read("coco").table["mask"][0]
    assert second != first and mask_of(read("coco")).sum() == 1
    layout.image("images/a.jpg", size=(30, 20))
    one(layout, [annotation(1, 7, 1, [[0, 0, 1, 0, 1, 1, 0, 1]])], width=30)
    assert read("coco").table["mask"][0] != second and mask_of(read("coco")).shape == (20, 30)
