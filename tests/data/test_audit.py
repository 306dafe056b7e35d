import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tfseg.data.audit import audit_cases, difference_hash, looks_inverted, similar_pairs, thumbnail
from tfseg.data.sources.folder import read_folder
from tfseg.data.splits import Split, split_cases
from tfseg.errors import ConfigError


def kinds(audit, severity=None):
    return [problem.kind for problem in audit.problems if severity in (None, problem.severity)]


def rows_of(labels, **columns):
    return [
        {"image": f"images/{n}.png", "mask": f"masks/{n}.png", "label": label}
        | {name: values[n] for name, values in columns.items()}
        for n, label in enumerate(labels)
    ]


def thumbnails(images):
    return np.stack([thumbnail(np.asarray(image)) for image in images])


def test_clean_folder(make_folder):
    audit = audit_cases(read_folder(make_folder()))
    assert audit.ok and audit.problems == []
    assert audit.counts.to_dict() == {"all": {"melanoma": 2, "naevus": 2}}
    assert audit.facts["cases"] == 4
    assert "0 errors" in audit.text() and "melanoma" in audit.text()


def test_broken_file_is_an_error_and_the_rest_is_audited(make_folder):
    folder = make_folder()
    (folder / "images" / "a.png").write_bytes(b"x")
    (folder / "images" / "c.png").write_bytes((folder / "images" / "b.png").read_bytes())
    audit = audit_cases(read_folder(folder))
    assert kinds(audit) == ["unreadable", "duplicate_across_labels"] and not audit.ok


def test_difference_hash_by_hand():
    # Columns grow brighter to the right: every cell is darker than its right neighbour, all bits set.
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    assert difference_hash(np.stack([ramp, ramp[:, ::-1], np.zeros_like(ramp)])).tolist() == [2**64 - 1, 0, 0]


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.resize((60, 48)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: image.crop((1, 1, 119, 95)),
        lambda image: image.convert("L").convert("RGB"),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    ],
)
def test_edited_copies_are_found_and_others_not(pictures, edit):
    images = [pictures[0](seed, (120, 96)) for seed in range(30)]
    assert similar_pairs(thumbnails(images)) == []
    assert similar_pairs(thumbnails([*images, edit(images[7])])) == [(7, 30)]


def test_same_vignette_and_other_lesion_are_not_alike():
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    vignette = 200 - 150 * np.minimum((x**2 + y**2) ** 3, 1.3)
    wide, round_ = (np.exp(-((x / side) ** 2) - (y / 0.15) ** 2) for side in (0.7, 0.15))
    images = np.stack([vignette - 50 * wide, vignette - 50 * round_]).clip(0, 255).astype(np.uint8)
    first, second = difference_hash(images)
    assert np.bitwise_count(first ^ second) <= 8
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.97
    assert similar_pairs(images) == []


def test_flat_images_are_not_alike():
    assert similar_pairs(np.stack([np.full((32, 32), value, np.uint8) for value in (0, 100, 255)])) == []
    assert similar_pairs(np.zeros((1, 32, 32), np.uint8)) == []


def test_many_images_cross_the_blocks(pictures):
    images = np.random.default_rng(0).integers(0, 256, (1200, 32, 32), np.uint8)
    images[1150] = images[3]
    images[700] = images[699]
    assert similar_pairs(images) == [(3, 1150), (699, 700)]


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
    assert audit.facts["copies"] == "1 pairs with equal bytes, 0 that look alike, 1 in one group"


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


def test_inverted_masks(make_folder, pictures):
    lesion = np.asarray(pictures[1]()) > 0
    everything = np.ones_like(lesion)
    assert not looks_inverted(lesion, everything)
    assert looks_inverted(~lesion, everything)
    assert not looks_inverted(everything, everything)
    strip = everything.copy()
    strip[:, :3] = False
    assert not looks_inverted(strip, everything)
    counts = everything.copy()
    counts[0] = False
    assert looks_inverted(~lesion & counts, counts)
    assert not looks_inverted(~lesion & counts, everything)
    folder = make_folder()
    for name in "ab":
        Image.fromarray(~lesion).save(folder / "masks" / f"{name}.png")
    (problem,) = audit_cases(read_folder(folder)).problems
    assert (problem.kind, problem.severity, problem.file) == ("mask_inverted", "warning", "masks/a.png and 1 more")
    assert "2 of 4 masks" in problem.message


def test_images_that_the_table_leaves_out(make_folder, pictures):
    folder = make_folder()
    pictures[0](9).save(folder / "images" / "extra.png")
    (problem,) = audit_cases(read_folder(folder)).problems
    assert (problem.kind, problem.severity, problem.file) == ("unlisted_images", "warning", "images/extra.png")


def test_unknown_allowance(make_folder):
    with pytest.raises(ConfigError, match="unknown problems leakage"):
        audit_cases(read_folder(make_folder()), allow=["leakage"])


def test_text_shortens_long_lists(make_folder):
    folder = make_folder(rows_of("ab" * 8))
    for path in (folder / "images").iterdir():
        path.write_bytes(b"x")
    text = audit_cases(read_folder(folder)).text(limit=3)
    assert text.count("[unreadable]") == 4 and "… and 13 more [unreadable]" in text and "16 errors" in text


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "across_labels", "across_parts", "copies"),
    [("oral", 1, 0, 25), ("isic2017", 0, 2, 5), ("ph2", 0, 0, 0), ("ebhi_seg", 0, 0, 1)],
)
def test_real_copies(data_folder, name, across_labels, across_parts, copies):
    """The copies were looked at by eye; none of them is a false alarm."""
    cases = read_folder(data_folder / name)
    audit = audit_cases(cases)
    assert kinds(audit).count("duplicate_across_labels") == across_labels
    assert kinds(audit).count("duplicate_across_parts") == across_parts
    exact, alike = (int(text.split()[0]) for text in audit.facts["copies"].split(", ")[:2])
    assert exact + alike == copies
