import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tfseg.data.audit import audit_cases, audit_record
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources.folder import read_folder
from tfseg.data.splits import Split, split_cases
from tfseg.errors import ConfigError
from tfseg.run import read_json, write_json


def kinds(audit, severity=None):
    return [problem.kind for problem in audit.problems if severity in (None, problem.severity)]


def rows_of(labels, **columns):
    return [
        {"image": f"images/{n}.png", "mask": f"masks/{n}.png", "label": label}
        | {name: values[n] for name, values in columns.items()}
        for n, label in enumerate(labels)
    ]


def test_clean_folder(make_folder):
    audit = audit_cases(read_folder(make_folder()))
    assert audit.ok and audit.problems == []
    assert audit.counts.to_dict() == {"all": {"melanoma": 2, "naevus": 2}}
    assert audit.groups.to_dict() == {"all": {"melanoma": 2, "naevus": 2, "all": 4}}
    assert audit.masks == {"melanoma": 2, "naevus": 2}
    assert (audit.facts["cases"], audit.facts["groups"], audit.facts["masks"]) == (4, 4, 4)
    assert audit.facts["width"] == {"min": 48, "median": 48.0, "max": 48} and audit.facts["height"]["max"] == 40
    assert audit.facts["files"] == {"colour PNG": 4}
    assert audit.facts["lesion_share"] == {"mean": 0.25, "median": 0.25}


def test_broken_file_is_an_error_and_the_rest_is_audited(make_folder):
    folder = make_folder()
    (folder / "images" / "a.png").write_bytes(b"x")
    (folder / "images" / "c.png").write_bytes((folder / "images" / "b.png").read_bytes())
    audit = audit_cases(read_folder(folder))
    assert kinds(audit) == ["unreadable", "duplicate_across_labels"] and not audit.ok


@pytest.mark.parametrize("same_bytes", [True, False])
def test_copies_by_label_part_and_group(make_folder, same_bytes):
    parts = ["train", "train", "train", "val", "test", "train", "train", "test"]
    groups = ["", "", "", "", "", "p", "p", ""]
    folder = make_folder(rows_of("aabaabab", split=parts, group=groups))

    def copy(source, target):
        old, new = (folder / "images" / f"{number}.png" for number in (source, target))
        if same_bytes:
            new.write_bytes(old.read_bytes())
        else:
            ImageEnhance.Brightness(Image.open(old)).enhance(0.9).save(new)

    copy(0, 1)  # same label, same part
    copy(2, 5)  # same label, same part
    copy(3, 4)  # other part
    audit = audit_cases(read_folder(folder))
    assert kinds(audit, "error") == ["duplicate_across_parts"] and kinds(audit, "warning") == ["duplicates"] * 2
    how = "the same bytes as" if same_bytes else "looks the same as"
    assert str(audit.problems[0]) == f"images/3.png: {how} images/4.png, parts val and test [duplicate_across_parts]"

    copy(5, 6)  # one group, other label
    audit = audit_cases(read_folder(folder), allow=["duplicate_across_parts"])
    assert set(kinds(audit, "error")) == {"duplicate_across_labels"}
    assert "duplicate_across_parts" in kinds(audit, "warning")


def test_copies_in_one_group_are_only_counted(make_folder):
    folder = make_folder(rows_of("aabb", group=["p", "p", "q", "r"]))
    (folder / "images" / "1.png").write_bytes((folder / "images" / "0.png").read_bytes())
    audit = audit_cases(read_folder(folder))
    assert audit.problems == []
    assert audit.facts["copies"] == {"equal_bytes": 1, "look_alike": 0, "in_one_group": 1}
    assert [(copy.first, copy.second, copy.same_group) for copy in audit.copies] == [(0, 1, True)]


def test_copy_without_label_contradicts_nothing(make_folder):
    folder = make_folder(rows_of(["", "a", "a", "b", "b", ""]))
    for old, new in ((0, 1), (3, 5)):
        image = (folder / "images" / f"{old}.png").read_bytes()
        (folder / "images" / f"{new}.png").write_bytes(image)
    audit = audit_cases(read_folder(folder))
    assert audit.ok and kinds(audit).count("duplicates") == 2


def test_groups_across_official_parts(make_folder):
    rows = rows_of("aabb", split=["train", "test", "train", "test"], group=["p", "p", "q", "r"])
    audit = audit_cases(read_folder(make_folder(rows)))
    assert [str(problem) for problem in audit.problems] == ["group 'p': 1 in train, 1 in test [group_across_parts]"]
    assert audit.counts["train"].to_dict() == {"a": 1, "b": 1}
    assert list(audit.counts) == ["train", "val", "test", "all"]


def test_given_splits_are_audited(make_folder):
    cases = read_folder(make_folder(rows_of("aabbab", group=["p", "p", "q", "r", "s", "t"])))
    bad = Split(np.array([0, 2]), np.array([3, 4]), np.array([1, 5]), "fold_2")
    good = Split(np.array([0, 1, 2]), np.array([3]), np.array([4, 5]), "fold_1")
    assert audit_cases(cases, [good]).ok
    audit = audit_cases(cases, [good, bad])
    assert [str(problem) for problem in audit.problems] == [
        "group 'p': 1 in train, 1 in test of fold_2 [group_across_parts]"
    ]
    assert audit.counts["fold_2 test"].sum() == 2
    assert audit.groups["fold_2 train"].to_dict() == {"a": 1, "b": 1, "all": 2}
    assert audit.findings[0].cases == (0, 1)
    audit = audit_cases(cases, [bad, good, Split(bad.train, bad.val, bad.test, "fold_3")])
    assert [str(problem) for problem in audit.problems] == [
        "group 'p': 1 in train, 1 in test of fold_2 (and 1 more splits) [group_across_parts]"
    ]


def test_own_splits_have_no_leak(make_folder):
    cases = read_folder(make_folder(rows_of("ab" * 8, group=[f"p{n // 2}" for n in range(16)])))
    assert audit_cases(cases, split_cases(cases, folds=2)).ok


def test_broken_split_column_is_a_problem_not_a_crash(make_folder):
    audit = audit_cases(read_folder(make_folder(rows_of("aabb", split=["train", "dev", "test", "test"]))))
    assert kinds(audit, "error") == ["split"] and list(audit.counts) == ["all"]


def test_label_counts_include_missing_ones(make_folder):
    audit = audit_cases(read_folder(make_folder(rows_of(["a", "a", "", "b"]))))
    assert audit.counts["all"].to_dict() == {"a": 2, "b": 1, "(no label)": 1}
    assert audit.ok and set(kinds(audit)) == {"no_label", "label_once"}


def test_images_that_the_table_leaves_out(make_folder, pictures):
    folder = make_folder()
    pictures[0](9).save(folder / "images" / "extra.png")
    (problem,) = audit_cases(read_folder(folder)).problems
    assert (problem.kind, problem.severity, problem.file) == ("unlisted_images", "warning", "images/extra.png")


def test_every_kind_of_file_is_counted_and_what_is_done_with_it_is_said(make_folder, pictures):
    folder = make_folder(rows_of("aabbab"))
    picture, exif = pictures[0](0), Image.Exif()
    exif[0x0112] = 3
    forms = {
        0: picture.convert("L"),
        1: picture.convert("RGBA"),
        2: picture.convert("P"),
        3: Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257),
        4: picture.convert("CMYK"),
        5: picture,
    }
    for number, image in forms.items():
        kind = "JPEG" if number in (4, 5) else "PNG"
        image.save(folder / "images" / f"{number}.png", kind, **({"exif": exif} if number == 5 else {}))
    audit = audit_cases(read_folder(folder), allow=["duplicate_across_labels"])
    assert audit.facts["files"] == {
        form: 1
        for form in (
            "greyscale PNG",
            "PNG with transparency",
            "palette PNG",
            "16-bit PNG",
            "CMYK JPEG",
            "colour JPEG",
        )
    }
    told = [str(problem) for problem in audit.problems if not problem.kind.startswith("duplicate")]
    for file, words in (
        (0, "one channel, read as three equal ones: a 1 of 3 [greyscale]"),
        (1, "1 × PNG with transparency: the transparency is dropped, not composited"),
        (2, "1 × palette PNG: the colours are looked up"),
        (3, "1 × 16-bit PNG: the high byte of every value is kept"),
        (4, "1 × CMYK JPEG: turned into RGB, without a colour profile"),
        (5, "1 × turned by EXIF: turned upright"),
    ):
        assert [line for line in told if line.startswith(f"images/{file}.png: ") and words in line], (file, told)
    assert len(told) == 6


def test_tiny_and_blank_images(make_folder, pictures):
    folder = make_folder(rows_of("aabb"))
    pictures[0](1, (48, 15)).save(folder / "images" / "1.png")
    pictures[1]((48, 15)).save(folder / "masks" / "1.png")
    blank = np.full((40, 48, 3), 70, np.uint8)
    Image.fromarray(blank).save(folder / "images" / "2.png")
    blank[21, 21, 1] = 71
    Image.fromarray(blank).save(folder / "images" / "3.png")
    audit = audit_cases(read_folder(folder))
    assert {problem.kind: problem.file for problem in audit.problems} == {
        "tiny_image": "images/1.png",
        "blank_image": "images/2.png",
    }
    assert audit.ok


def test_clean_phantoms_have_nothing_to_report(tmp_path):
    folder = write_phantoms(PhantomConfig(images=120, size=48, seed=1), tmp_path / "data")
    cases = read_folder(folder)
    audit = audit_cases(cases, split_cases(cases, folds=3), classification=True)
    assert audit.problems == []
    assert audit.facts["mask_fit"]["telling"]


def test_a_class_with_one_case_matters_to_a_classifier(make_folder):
    cases = read_folder(make_folder(rows_of("aab")))
    assert kinds(audit_cases(cases), "warning") == ["label_once"]
    assert kinds(audit_cases(cases, classification=True), "error") == ["label_once"]


def test_record_is_plain_and_complete(make_folder, tmp_path):
    rows = rows_of("aabb", split=["train", "test", "train", "test"], group=["p", "p", "q", "r"])
    folder = make_folder(rows)
    (folder / "images" / "3.png").write_bytes((folder / "images" / "0.png").read_bytes())
    cases = read_folder(folder)
    audit = audit_cases(cases)
    write_json(tmp_path / "audit.json", audit_record(audit, cases))
    record = read_json(tmp_path / "audit.json")
    assert json.loads(json.dumps(record)) == record
    assert set(record) == {"data", "target", "ok", "counts", "groups", "masks", "facts", "leak", "problems", "copies"}
    assert record["ok"] is False and record["target"] == "label" and record["leak"] is None
    assert record["counts"]["a"] == {"train": 1, "val": 0, "test": 1, "all": 2}
    assert record["groups"]["all"] == {"train": 2, "val": 0, "test": 2, "all": 3}
    assert record["masks"] == {"a": 2, "b": 2}
    assert set(record["facts"]["seconds"]) == {"files", "copies", "leak", "masks"}
    assert [(problem["kind"], problem["severity"], problem["cases"]) for problem in record["problems"]] == [
        ("duplicate_across_labels", "error", ["0", "3"]),
        ("duplicate_across_parts", "error", ["0", "3"]),
        ("group_across_parts", "error", ["0", "1"]),
    ]
    assert record["copies"] == [{"first": "0", "second": "3", "equal_bytes": True, "same_group": False}]


def test_unknown_allowance(make_folder):
    with pytest.raises(ConfigError, match="unknown problems leakage"):
        audit_cases(read_folder(make_folder()), allow=["leakage"])


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "across_labels", "across_parts", "copies"),
    [("oral", 1, 0, 24), ("isic2017", 0, 2, 5), ("ph2", 0, 0, 0), ("ebhi_seg", 0, 0, 1)],
)
def test_real_copies(data_folder, name, across_labels, across_parts, copies):
    """The copies were looked at by eye; none of them is a false alarm."""
    cases = read_folder(data_folder / name)
    audit = audit_cases(cases)
    assert kinds(audit).count("duplicate_across_labels") == across_labels
    assert kinds(audit).count("duplicate_across_parts") == across_parts
    assert len(audit.copies) == copies
