import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfseg.data.audit import audit_cases
from tfseg.data.sources import SOURCES, find_source, load_cases
from tfseg.data.sources.source import Row, build_cases, find, index_images, read_table, require
from tfseg.data.sources.stored import stored_mask
from tfseg.errors import ConfigError, DataError, Problem

DOCS = Path(__file__).parents[3] / "docs" / "datasets.md"


def test_find_takes_exact_names_first(layout):
    layout.text("Images/a.txt", "")
    layout.text("images_2/a.txt", "")
    assert find(layout.root, "images") == layout.root / "Images"
    assert find(layout.root, "none", "IMAGES_2/A.TXT") == layout.root / "images_2/a.txt"
    assert find(layout.root, "none", "Images/b.txt") is None
    layout.text("images/b.txt", "")
    assert find(layout.root, "IMAGES_2", "images") == layout.root / "images"


@pytest.mark.parametrize("archive", ["data.zip", "Data.tar.gz"])
def test_require_points_to_the_archive(layout, archive):
    layout.text(archive, "PK")
    problems = []
    assert require(layout.root, problems, "data", "files") is None
    assert str(problems[0]) == f"data: is missing (nor is there files); {archive} is there: unpack it [no_folder]"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_by_any_delimiter(layout, delimiter):
    path = layout.text("t.csv", "\ufeff" + delimiter.join(("Name", "x,y" if delimiter != "," else "z")), "")
    path.write_bytes(path.read_bytes() + delimiter.join((" a ", '"1"')).encode() + b"\r\n\r\n")
    problems = []
    (line,) = read_table(path, ("name",), layout.root, problems)
    assert line["name"] == "a" and line.where == "t.csv, line 3" and line.get("none") == "" and not problems
    assert list(line.cells.values()) == ["a", "1"]


def test_latin_1_and_quoted_lines(layout):
    path = layout.text("t.csv", "name,what", '"a","two', 'lines"', "b,nävus", encoding="latin-1")
    lines = read_table(path, ("name", "what"), layout.root, [])
    assert [line["what"] for line in lines] == ["two\nlines", "nävus"]


@pytest.mark.parametrize(
    ("lines", "kind", "text"),
    [
        (("",), "empty_table", "t.csv: has no rows"),
        (("name,label",), "empty_table", "t.csv: has no rows"),
        (("name,dx", "a,b"), "column", "column 'label' is missing; the columns are name, dx"),
        (("name,label", "a,b,c"), "table", "t.csv, line 2: has 3 cells, expected 2 (name, label)"),
    ],
)
def test_tables_that_are_wrong(layout, lines, kind, text):
    problems = []
    assert read_table(layout.text("t.csv", *lines), ("name", "label"), layout.root, problems) == []
    assert [problem.kind for problem in problems] == [kind] and text in str(problems[0])


def test_index_of_images(layout):
    layout.image("one/A.PNG", 1)
    layout.image("one/deep/b.jpeg", 2)
    layout.image("two/a.jpg", 3)
    layout.image("two/._c.jpg", 4)
    layout.text("two/c.txt", "")
    problems = []
    folders = [layout.root / "one", None, layout.root / "two"]
    assert index_images(folders, layout.root, problems) == {"a": layout.root / "one/A.PNG"}
    assert [str(problem) for problem in problems] == [
        "one/A.PNG: and two/a.jpg are different images of one name [stored_twice]"
    ]
    found = index_images([layout.root / "one"], layout.root, [], lambda stem: f"{stem}x" if stem == "b" else None, True)
    assert found == {"bx": layout.root / "one/deep/b.jpeg"}


def test_build_cases_collects_everything(layout):
    image = layout.image("a.png")
    rows = [Row("a", image, "x", where="t, line 2"), Row("a", image, "x", where="t, line 3"), Row("b", None, "x")]
    with pytest.raises(DataError) as caught:
        build_cases(
            rows, layout.root, "age", [Problem("column", "t", "wrong"), Problem("n", "t", "w", "warning")], name="made"
        )
    assert [problem.kind for problem in caught.value.problems] == ["column", "target", "duplicate_id", "missing_file"]
    with pytest.raises(DataError, match="there are no cases"):
        build_cases([], layout.root, "label", [], name="made")


def test_notes_reach_the_audit_once(layout):
    note = Problem("unlisted_images", "z.png", "not in t", "warning")
    rows = [Row(name, layout.image(f"{name}.png", seed), "x") for seed, name in enumerate("ab")]
    cases = build_cases(rows, layout.root, "label", [note], name="made")
    assert cases.notes == (note,)
    assert [problem for problem in audit_cases(cases).warnings if problem.kind == "unlisted_images"] == [note]
    assert cases.subset([0]).notes == (note,) and cases.relabelled({"x": "y"}).notes == (note,)


def test_one_mask_for_two_images_is_told_by_the_audit(layout):
    mask = layout.mask("m.png")
    rows = [Row(name, layout.image(f"{name}.png", seed), "x", mask) for seed, name in enumerate("ab")]
    found = audit_cases(build_cases(rows, layout.root, "label", [], name="made")).warnings
    assert [problem.file for problem in found if problem.kind == "mask_shared"] == ["m.png and 1 more"]


def test_stored_masks_are_made_once(own_cache):
    made = []

    def make():
        made.append(1)
        return np.eye(4, dtype=np.uint8)

    path = stored_mask(("poci", "a/b", "digest"), make)
    assert stored_mask(("poci", "a/b", "digest"), make) == path and len(made) == 1
    assert path.parent == own_cache / "masks" / "poci" and path.name.startswith("a_b-") and path.suffix == ".png"
    assert np.array_equal(np.asarray(Image.open(path)), np.eye(4))
    assert stored_mask(("poci", "a/b", "other digest"), make) != path and len(made) == 2

    def broken():
        raise ValueError("no polygon")

    with pytest.raises(ValueError, match="no polygon"):
        stored_mask(("poci", "c", "digest"), broken)
    assert len(list(own_cache.rglob("*.png"))) == 2 and not list(own_cache.rglob(".*"))


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("TFSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert stored_mask(("a", "b"), lambda: np.zeros((2, 2), np.uint8)).is_relative_to(tmp_path / "xdg" / "tfseg")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = stored_mask(("a", "b"), lambda: np.zeros((2, 2), np.uint8))
    assert path.is_relative_to(tmp_path / ".cache" / "tfseg")


def test_unknown_sources_and_folders_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="there is no source named 'isic2015'; known: coco, "):
        load_cases("isic2015:somewhere")
    file = tmp_path / "PH2.zip"
    file.touch()
    with pytest.raises(DataError, match="(?s)is a file; unpack it.*ph2:PATH expects.*PH2_dataset.txt"):
        load_cases(f"ph2:{file}")


def test_names_in_records(layout, monkeypatch):
    monkeypatch.setenv("TFSEG_DATA", str(layout.root.parent))
    rows = [Row("a", layout.image("a.png"), "x")]
    assert build_cases(rows, layout.root, "label", [], name="made").name == "made:$TFSEG_DATA/published"


def test_published_counts_of_parts_and_of_other_targets(layout, monkeypatch):
    from tfseg.data import sources

    rows = [
        Row(name, layout.image(f"{name}.png", seed), "x", group="g", attributes={"part": part, "age": "1"})
        for seed, (name, part) in enumerate(zip("abc", ("train", "train", "test"), strict=True))
    ]
    for target in ("label", "age"):
        cases = build_cases(rows, layout.root, target, [], name="made")
        counts = {
            "label": {"x": 3, "any": 3},
            "label[train]": {"x": 2},
            "label[test]": {"x": 2},
            "group": {"all": 3},
            "mask": {"any": 0},
        }
        found = [(problem.file, problem.message.partition(": ")[2]) for problem in sources._compared(cases, counts)]
        assert found == [("label[test]", "x 1 of 2"), ("group", "1 of 3")]


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "folder"])
def test_every_source_is_described(name):
    source = find_source(name)
    assert source.name == name and source.title and source.layout.startswith("PATH/")
    text = DOCS.read_text(encoding="utf-8")
    _, found, section = text.partition(f"## `{name}:`\n")
    assert found, f"docs/datasets.md has no section on {name}"
    section = section.partition("\n## ")[0]
    assert source.layout in section and f"tfseg audit {name}:" in section
    for values in source.counts.values():
        for value, count in values.items():
            assert f"{count:,}" in section, (value, count)


def test_no_source_is_heavy_to_import():
    code = "import sys\nfrom tfseg.data import sources\nfor name in sources.SOURCES: sources.find_source(name)\n"
    code += "print({'tensorflow', 'keras', 'pandas', 'PIL', 'cv2', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
