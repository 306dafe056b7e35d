import numpy as np
import pytest
from PIL import Image

from tfseg.data.checks import check, find_problems
from tfseg.data.sources.folder import read_folder
from tfseg.errors import ConfigError, DataError


def by_kind(problems):
    return {problem.kind: problem for problem in problems}


def test_good_folder_has_no_problems(make_folder):
    assert find_problems(read_folder(make_folder())) == []


def test_every_broken_file_is_named_at_once(make_folder, pictures):
    image, mask = pictures
    folder = make_folder(
        [
            {"image": f"images/{name}.png", "mask": f"masks/{name}.png", "label": label}
            for name, label in zip("abcdef", "xxxyyy", strict=True)
        ]
    )
    cases = read_folder(folder)
    path = folder / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:300])
    (folder / "images" / "b.png").write_text("no image")
    mask((40, 48)).save(folder / "masks" / "c.png")
    mask(value=7).save(folder / "masks" / "d.png")
    (folder / "masks" / "e.png").unlink()
    with pytest.raises(DataError) as caught:
        check(cases)
    found = {(problem.kind, problem.file) for problem in caught.value.problems}
    assert found == {
        ("truncated", "images/a.png"),
        ("unreadable", "images/b.png"),
        ("mask_size", "masks/c.png"),
        ("mask_values", "masks/d.png"),
        ("missing_file", "masks/e.png"),
    }
    assert "40×48 pixels and its image 48×40" in by_kind(caught.value.problems)["mask_size"].message


def test_decompression_bomb(make_folder, monkeypatch):
    cases = read_folder(make_folder())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    found = find_problems(cases)
    assert [problem.kind for problem in found] == ["decompression_bomb"] * 8
    assert len({problem.file for problem in found}) == 8


def test_allowed_errors_become_warnings(make_folder, pictures):
    folder = make_folder()
    cases = read_folder(folder)
    pictures[1]((40, 48)).save(folder / "masks" / "a.png")
    warnings = check(cases, allow=["mask_size"])
    assert [(problem.kind, problem.severity) for problem in warnings] == [("mask_size", "warning")]
    with pytest.raises(DataError):
        check(cases, allow=["truncated"])
    with pytest.raises(ConfigError, match="mask_sizes.*known: missing_file"):
        check(cases, allow=["mask_sizes"])


def test_sizes_are_compared_upright(make_folder, pictures):
    folder = make_folder()
    cases = read_folder(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures[0](0, (40, 48)).save(folder / "images" / "a.png", exif=exif)
    found = find_problems(cases)
    assert [(problem.kind, problem.severity, problem.file) for problem in found] == [
        ("exif_rotation", "warning", "images/a.png")
    ]
    # The other way round: image and mask agree as they are stored and not as they are shown.
    pictures[1]((40, 48)).save(folder / "masks" / "a.png")
    assert "mask_size" in by_kind(find_problems(cases))


def test_labels_for_classification(make_folder):
    rows = [{"image": f"images/{n}.png", "mask": f"masks/{n}.png", "label": label} for n, label in enumerate("aab")]
    cases = read_folder(make_folder(rows))
    (found,) = find_problems(cases)
    assert (found.kind, found.severity, found.file) == ("label_once", "error", "2") and "'b'" in found.message
    assert find_problems(cases, classification=False)[0].severity == "warning"
    (found,) = find_problems(cases.subset([0, 1]))
    assert (found.kind, found.severity) == ("single_class", "error")


def test_warnings_are_summaries_with_counts(make_folder, pictures):
    rows = [
        {"image": "images/1.png", "mask": "masks/1.png", "label": "x"},
        {"image": "images/2.png", "mask": "masks/2.png", "label": "x"},
        {"image": "images/3.png", "mask": "masks/3.png", "label": "y"},
        {"image": "images/4.bmp", "mask": "", "label": "y"},
        {"image": "images/5.bmp", "mask": "", "label": ""},
    ]
    folder = make_folder(rows)
    for name, value in (("1", 0), ("2", 0), ("3", 255)):
        Image.fromarray(np.full((40, 48), value, np.uint8)).save(folder / "masks" / f"{name}.png")
    found = by_kind(check(read_folder(folder)))
    assert set(found) == {"transcoded", "empty_mask", "full_mask", "no_label", "no_mask"}
    assert found["transcoded"].file == "images/4.bmp and 1 more" and "2 × BMP" in found["transcoded"].message
    assert found["empty_mask"].file == "masks/1.png and 1 more" and "x 2 of 2" in found["empty_mask"].message
    assert found["full_mask"].file == "masks/3.png" and "y 1 of 1" in found["full_mask"].message
    assert "1 of 5" in found["no_label"].message and "2 of 5" in found["no_mask"].message


def test_ignored_pixels_count_nowhere(make_folder):
    folder = make_folder(description={"ignore": 255})
    half = np.full((40, 48), 255, np.uint8)
    half[:20] = 1
    for name in "abcd":
        Image.fromarray(half).save(folder / "masks" / f"{name}.png")
    found = by_kind(find_problems(read_folder(folder)))
    assert set(found) == {"full_mask"} and found["full_mask"].file == "masks/a.png and 3 more"


def test_progress_is_told_of_every_case(make_folder):
    told = []
    find_problems(read_folder(make_folder()), progress=lambda: told.append(1))
    assert len(told) == 4
