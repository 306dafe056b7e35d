import json
import os

import numpy as np
import pytest
from PIL import Image

from tfseg import cli
from tfseg.data.cases import MaskClasses
from tfseg.data.importing import import_cases
from tfseg.data.ingest import read_image, read_mask
from tfseg.data.sources import load_cases
from tfseg.data.sources.source import Row, build_cases
from tfseg.errors import DataError, RunError


@pytest.fixture
def folder(layout):
    layout.text(
        "HAM10000_metadata.csv",
        "lesion_id,image_id,dx,age",
        'HAM_1,ISIC_1,nv,"40,5"',
        "HAM_1,ISIC_2,nv,",
        "HAM_2,ISIC_3,mel,30",
    )
    layout.image("HAM10000_images_part_1/ISIC_1.JPG", 1)
    layout.image("HAM10000_images_part_1/ISIC_2.bmp", 2)
    layout.image("HAM10000_images_part_2/ISIC_3.png", 3)
    layout.mask("HAM10000_segmentations_lesion_tschandl/ISIC_1_segmentation.png", 1, value=1)
    layout.mask("HAM10000_segmentations_lesion_tschandl/ISIC_3_segmentation.png", 3)
    return layout


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return caught.value.code


def test_the_plain_folder_has_the_same_cases(folder, read, tmp_path, capsys):
    out = tmp_path / "plain"
    assert run("import", f"ham10000:{folder.root}", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "3 images (1 transcoded to PNG) and 2 masks" in printed and "warning: label: other counts" in printed
    before, after = read("ham10000"), load_cases(out)
    for column in ("id", "label", "group", "age"):
        assert after.table[column].tolist() == before.table[column].tolist()
    assert after.has_mask.tolist() == [True, False, True]
    names = [path.removeprefix(f"{out}/") for path in after.table["image"]]
    assert names == ["images/ISIC_1.jpg", "images/ISIC_2.png", "images/ISIC_3.png"]
    for old, new in zip(before.table["image"], after.table["image"], strict=True):
        assert np.array_equal(read_image(old), read_image(new))
    for old, new in zip(before.table["mask"].dropna(), after.table["mask"].dropna(), strict=True):
        assert np.array_equal(read_mask(old, before.mask_classes), read_mask(new, after.mask_classes))
        assert set(np.unique(np.asarray(Image.open(new)))) == {0, 255}
    first = folder.root / "HAM10000_images_part_1/ISIC_1.JPG"
    assert (out / "images/ISIC_1.jpg").read_bytes() == first.read_bytes()
    assert not after.notes


def test_mask_classes_and_ignored_pixels(layout, tmp_path):
    values = np.zeros((20, 24), np.uint8)
    values[:5], values[5:9], values[9] = 1, 2, 7
    classes = MaskClasses(("background", "cytoplasm", "nucleus"), ("nucleus",), ignore=7)
    row = Row("a/b c", layout.image("a.png"), "x", layout.values("m.png", values))
    cases = build_cases([row, Row("a_b_c", layout.image("b.png", 1), "y")], layout.root, "label", [], classes, "made")
    import_cases(cases, tmp_path / "plain")
    after = load_cases(tmp_path / "plain")
    assert after.table["id"].tolist() == ["a/b c", "a_b_c"]
    assert [path.rpartition("/")[2] for path in after.table["image"]] == ["a_b_c.png", "a_b_c_2.png"]
    assert after.mask_classes == MaskClasses(classes.names, classes.lesion, ignore=255)
    expected = np.where(values == 7, 255, values)
    assert np.array_equal(np.asarray(Image.open(after.table["mask"][0])), expected)


def test_an_image_turned_by_exif_is_written_upright(layout, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((20, 24, 3), 90, np.uint8)).save(layout.root / "a.jpg", exif=exif)
    cases = build_cases([Row("a", layout.root / "a.jpg", "x")], layout.root, "label", [], name="made")
    assert import_cases(cases, tmp_path / "plain")["transcoded"] == 1
    assert Image.open(tmp_path / "plain" / "images" / "a.png").size == (20, 24)


def test_a_broken_off_import_goes_on(folder, read, tmp_path):
    out = tmp_path / "plain"
    broken = folder.root / "HAM10000_images_part_2/ISIC_3.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"not a PNG")
    with pytest.raises(DataError, match="part_2/ISIC_3.png: not an image"):
        import_cases(read("ham10000"), out)
    assert not (out / "labels.csv").exists()
    broken.write_bytes(whole)
    kept = (out / "images/ISIC_2.png").stat().st_mtime_ns
    old = folder.image("HAM10000_images_part_1/ISIC_1.JPG", 7)
    later = (out / "images/ISIC_1.jpg").stat().st_mtime_ns + 10**9
    os.utime(old, ns=(later, later))
    steps = []
    counts = import_cases(read("ham10000"), out, lambda: steps.append(1))
    assert counts == {"images": 3, "masks": 2, "transcoded": 1, "there": 1} and len(steps) == 3
    assert (out / "images/ISIC_2.png").stat().st_mtime_ns == kept
    assert (out / "images/ISIC_1.jpg").read_bytes() == old.read_bytes()
    os.utime(old, ns=(kept, kept))
    assert import_cases(read("ham10000"), out)["there"] == 3
    assert not list(out.rglob(".*"))


def test_all_unreadable_files_are_named(folder, tmp_path, capsys):
    for name in ("HAM10000_images_part_1/ISIC_1.JPG", "HAM10000_segmentations_lesion_tschandl/ISIC_3_segmentation.png"):
        (folder.root / name).write_bytes(b"")
    assert run("import", f"ham10000:{folder.root}", "--out", str(tmp_path / "plain")) == 2
    printed = capsys.readouterr().err
    assert "2 problems" in printed and "ISIC_1.JPG: the file is empty" in printed and "ISIC_3_segmentation" in printed


def test_foreign_folders_are_refused(folder, read, tmp_path):
    out = tmp_path / "plain"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        import_cases(read("ham10000"), out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    import_cases(read("ham10000"), tmp_path / "other")
    record = json.loads((tmp_path / "other/import.json").read_text())
    assert record["data"] == f"ham10000:{folder.root}"
    folder.text("HAM10000_metadata.csv", "lesion_id,image_id,dx", "HAM_1,ISIC_1,mel", "HAM_1,ISIC_2,nv")
    with pytest.raises(RunError, match="give another `--out`"):
        import_cases(read("ham10000"), tmp_path / "other")


def test_a_missing_folder_is_the_users_mistake(tmp_path, capsys):
    assert run("import", f"ph2:{tmp_path / 'none'}", "--out", str(tmp_path / "plain")) == 2
    printed = capsys.readouterr().err
    assert "does not exist" in printed and "PH2_dataset.txt" in printed and not (tmp_path / "plain").exists()
