import json

import numpy as np
import pytest

from tfseg.data.splits import read_split, split_cases, write_split
from tfseg.errors import ConfigError, DataError, RunError

LABELS = ["a"] * 40 + ["b"] * 20 + ["c"] * 20


def counts(cases, positions):
    return np.bincount(cases.labels[positions], minlength=len(cases.classes)).tolist()


def check_partition(cases, split):
    together = np.concatenate(list(split.parts.values()))
    assert sorted(together) == list(range(len(cases)))
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(cases.groups[split.parts[first]]) & set(cases.groups[split.parts[second]])
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in split.parts.values())


def test_exact_without_groups(make_cases):
    cases = make_cases(LABELS)
    (split,) = split_cases(cases)
    check_partition(cases, split)
    assert counts(cases, split.train) == [28, 14, 14]
    assert counts(cases, split.val) == counts(cases, split.test) == [6, 3, 3]


def test_groups_are_never_divided(make_cases):
    rng = np.random.default_rng(3)
    labels, groups = [], []
    for patient in range(120):
        size = int(rng.integers(1, 7))
        labels += [["a", "a", "b", "c"][patient % 4]] * size
        groups += [f"p{patient}"] * size
    cases = make_cases(labels, groups)
    (split,) = split_cases(cases)
    check_partition(cases, split)
    total = np.array(counts(cases, range(len(cases))))
    for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        np.testing.assert_allclose(counts(cases, split.parts[part]), share * total, atol=3)


def test_tested_groups_are_not_the_large_ones(make_cases):
    groups = [f"large{n}" for n in range(10) for _ in range(10)] + [f"small{n}" for n in range(100)]
    cases = make_cases(["a", "b"] * 100, groups)
    shares = [
        np.mean([group.startswith("large") for group in cases.groups[split_cases(cases, seed=seed)[0].test]])
        for seed in range(10)
    ]
    assert 0.25 < np.mean(shares) < 0.75


@pytest.mark.parametrize("per_group", [1, 2])
def test_seed_and_row_order(make_cases, per_group):
    cases = make_cases(LABELS, [f"g{n // per_group}" for n in range(80)])
    shuffled = cases.subset(np.random.default_rng(0).permutation(80))
    for folds in (None, 4):
        first, again = (split_cases(table, seed=5, folds=folds) for table in (cases, shuffled))
        for one, other in zip(first, again, strict=True):
            assert set(cases.table["id"][one.test]) == set(shuffled.table["id"][other.test])
            assert set(cases.table["id"][one.val]) == set(shuffled.table["id"][other.val])
        assert set(split_cases(cases, seed=6, folds=folds)[0].test) != set(first[0].test)


@pytest.mark.parametrize("per_group", [1, 2])
def test_folds(make_cases, per_group):
    cases = make_cases(LABELS, [f"g{n // per_group}" for n in range(80)])
    splits = split_cases(cases, folds=5)
    assert [split.name for split in splits] == [f"fold_{n}" for n in range(1, 6)]
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(80))
    for split in splits:
        check_partition(cases, split)
        assert counts(cases, split.test) == [8, 4, 4]
        np.testing.assert_allclose(counts(cases, split.val), [4.8, 2.4, 2.4], atol=1)


@pytest.mark.parametrize("per_group", [1, 2, 4])
def test_one_test_part_for_all_folds(make_cases, per_group):
    """The thesis's split: a fixed part is tested, and each of the other cases validates once."""
    cases = make_cases(LABELS, [f"g{n // per_group}" for n in range(80)])
    splits = split_cases(cases, folds=4, test_fraction=0.2)
    assert [split.name for split in splits] == [f"fold_{n}" for n in range(1, 5)]
    test = splits[0].test
    np.testing.assert_allclose(counts(cases, test), [8, 4, 4], atol=0 if per_group == 1 else per_group)
    assert sorted(np.concatenate([split.val for split in splits])) == sorted(set(range(80)) - set(test))
    for split in splits:
        check_partition(cases, split)
        np.testing.assert_array_equal(split.test, test)
        np.testing.assert_allclose(counts(cases, split.val), [8, 4, 4], atol=0 if per_group == 1 else per_group)


def test_one_test_part_of_uneven_groups(make_cases):
    rng = np.random.default_rng(4)
    labels, groups = [], []
    for lesion in range(100):
        size = int(rng.integers(1, 5))
        labels += [["a", "a", "b", None][lesion % 4]] * size
        groups += [f"lesion{lesion}"] * size
    cases = make_cases(labels, groups)
    splits = split_cases(cases, folds=3, test_fraction=0.25, seed=2)
    # Cases without a label are divided like a class of their own.
    total, tested = np.bincount(cases.labels + 1), np.bincount(cases.labels[splits[0].test] + 1)
    np.testing.assert_allclose(tested, 0.25 * total, atol=3)
    for split in splits:
        check_partition(cases, split)
    assert sum(len(split.val) for split in splits) + len(splits[0].test) == len(cases)


def test_one_test_part_by_seed_and_in_any_order(make_cases):
    cases = make_cases(LABELS, [f"g{n // 2}" for n in range(80)])
    shuffled = cases.subset(np.random.default_rng(0).permutation(80))
    first, again = (split_cases(table, seed=5, folds=3, test_fraction=0.2) for table in (cases, shuffled))
    for one, other in zip(first, again, strict=True):
        for part in one.parts:
            assert set(cases.table["id"][one.parts[part]]) == set(shuffled.table["id"][other.parts[part]])
    assert set(split_cases(cases, seed=6, folds=3, test_fraction=0.2)[0].test) != set(first[0].test)


def test_no_test_fraction_leaves_the_folds_as_they_were(make_cases):
    """Each fold is tested once, and its validation part is drawn from the rest by its own share."""
    cases = make_cases(LABELS)
    folds, same = split_cases(cases, folds=4), split_cases(cases, folds=4, test_fraction=0.0)
    assert all(np.array_equal(one.test, other.test) for one, other in zip(folds, same, strict=True))
    assert sorted(np.concatenate([split.test for split in folds])) == list(range(80))
    # Drawn by an earlier version: its results can be made anew.
    drawn = split_cases(make_cases(["a", "b"] * 6), folds=3)
    assert [split.test.tolist() for split in drawn] == [[0, 5, 6, 7], [2, 3, 4, 11], [1, 8, 9, 10]]


def test_a_class_that_is_too_rare_for_folds_and_a_test_part(make_cases):
    cases = make_cases(["a"] * 20 + ["b"] * 4)
    for split in split_cases(cases, folds=3, test_fraction=0.2):
        assert all(counts(cases, part)[1] for part in split.parts.values())
    with pytest.raises(DataError, match="class 'b'"):
        split_cases(make_cases(["a"] * 20 + ["b"] * 3), folds=3, test_fraction=0.2)


def test_fold_ignores_split_column(make_cases):
    cases = make_cases(LABELS, split=["train"] * 80)
    assert len(split_cases(cases, folds=2)[0].test) == 40


def test_official_parts(make_cases):
    parts = ["train", "Training", "val", "validation", "test"] * 4
    cases = make_cases(["a", "b", "a", "b"] * 5, split=parts)
    (split,) = split_cases(cases)
    assert {parts[n] for n in split.train} == {"train", "Training"}
    assert {parts[n] for n in split.val} == {"val", "validation"}
    assert {parts[n] for n in split.test} == {"test"}


def test_validation_comes_out_of_the_official_training_part(make_cases):
    cases = make_cases(LABELS, split=(["train"] * 3 + ["test"]) * 20)
    (split,) = split_cases(cases, val_fraction=0.2)
    check_partition(cases, split)
    assert split.test.tolist() == list(range(3, 80, 4))
    assert counts(cases, split.val) == [6, 3, 3]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["train", "test", "dev", "val"], "unknown values 'dev'"),
        (["train", "test", None, "val"], "1 of 4 cases have no value, the first is 'case0002'"),
        (["val", "val", "test", "test"], "part 'train'.*leaves no case"),
        (["train", "train", "val", "val"], "part 'test'.*leaves no case"),
    ],
)
def test_unusable_official_parts(make_cases, parts, text):
    with pytest.raises(DataError, match=text):
        split_cases(make_cases(["a"] * 4, split=parts))


def test_empty_split_column_is_none(make_cases):
    assert len(split_cases(make_cases(LABELS, split=[None] * 80))[0].test) == 12


def test_cases_without_label_are_divided_too(make_cases):
    cases = make_cases(LABELS + [None] * 20)
    (split,) = split_cases(cases)
    check_partition(cases, split)
    assert [(cases.labels[part] < 0).sum() for part in split.parts.values()] == [14, 3, 3]
    splits = split_cases(make_cases(LABELS + [None] * 2), folds=4)
    assert sum(len(split.test) for split in splits) == 82


def test_rare_class_is_in_every_part(make_cases):
    cases = make_cases(["a"] * 97 + ["b"] * 3)
    for seed in range(5):
        (split,) = split_cases(cases, seed=seed)
        assert [counts(cases, part)[1] for part in split.parts.values()] == [1, 1, 1]


def test_a_class_is_left_over_for_the_other_parts(make_cases):
    cases = make_cases(["a"] * 96 + ["b"] * 4)
    (split,) = split_cases(cases, fractions=(0.1, 0.1, 0.8))
    assert [counts(cases, part)[1] for part in split.parts.values()] == [1, 1, 2]


def test_presence_goes_before_exact_counts(make_cases):
    # Class c stands only in three large groups, each of them larger than a test part should be.
    labels, groups = ["a"] * 20 + ["b"] * 20, [f"single{n}" for n in range(40)]
    for group in range(3):
        labels += ["a"] * 20 + ["b"] * 20 + ["c"]
        groups += [f"large{group}"] * 41
    cases = make_cases(labels, groups)
    (split,) = split_cases(cases)
    check_partition(cases, split)
    assert [counts(cases, part)[2] for part in split.parts.values()] == [1, 1, 1]


def test_too_rare_class(make_cases):
    with pytest.raises(DataError, match="class 'b'.*missing.*2 cases in 2 groups"):
        split_cases(make_cases(["a"] * 20 + ["b"] * 2))
    groups = [f"g{n}" for n in range(20)] + ["x", "x", "y"]
    with pytest.raises(DataError, match="class 'b': has 3 cases in 2 groups, and 5 folds were asked for"):
        split_cases(make_cases(["a"] * 20 + ["b"] * 3, groups), folds=5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"fractions": (0.7, 0.2, 0.2)},
        {"fractions": (1.0, 0.0, 0.0)},
        {"fractions": (0.8, 0.2)},
        {"folds": 1},
        {"folds": 2.0},
        {"folds": 2, "val_fraction": 1.0},
        {"folds": 2, "test_fraction": 1.0},
        {"folds": 2, "test_fraction": -0.1},
        {"test_fraction": 0.2},
    ],
)
def test_arguments(make_cases, arguments):
    with pytest.raises(ConfigError, match="must"):
        split_cases(make_cases(LABELS), **arguments)


def test_written_split_is_read_for_other_row_order(make_cases, tmp_path):
    cases = make_cases(LABELS)
    splits = split_cases(cases, folds=3)
    write_split(splits, cases, tmp_path / "splits.json")
    shuffled = cases.subset(np.random.default_rng(0).permutation(80))
    for before, after in zip(splits, read_split(tmp_path / "splits.json", shuffled), strict=True):
        assert before.name == after.name
        for part in before.parts:
            assert set(cases.table["id"][before.parts[part]]) == set(shuffled.table["id"][after.parts[part]])


def test_split_of_other_cases_is_refused(make_cases, tmp_path):
    path = tmp_path / "splits.json"
    cases = make_cases(LABELS)
    write_split(split_cases(cases), cases, path)
    with pytest.raises(DataError, match="ids that the data doesn't have: case0079"):
        read_split(path, cases.subset(range(79)))
    with pytest.raises(DataError, match=r"leaves out: case0080 \(1\)"):
        read_split(path, make_cases([*LABELS, "a"]))
    value = json.loads(path.read_text())
    value[0]["val"].append(value[0]["train"][0])
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="more than once"):
        read_split(path, cases)
    path.write_text('{"train": []}')
    with pytest.raises(DataError, match="expected a list"):
        read_split(path, cases)
    with pytest.raises(RunError):
        read_split(tmp_path / "none.json", cases)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["ebhi_seg", "ham10000"])
def test_real_patients_and_lesions(data_folder, name):
    from tfseg.data.sources.folder import read_folder

    cases = read_folder(data_folder / name)
    total = np.array(counts(cases, range(len(cases))))
    for split in [*split_cases(cases), *split_cases(cases, folds=5)]:
        check_partition(cases, split)
        share = np.array(counts(cases, split.test)) / total
        assert (share > 0.1).all() and (share < 0.3).all()


def test_a_number_per_class_for_the_test_part(make_cases):
    labels = ["a"] * 40 + ["b"] * 15 + [None] * 6
    cases = make_cases(labels)
    (split,) = split_cases(cases, test_per_class=10, val_fraction=0.2)
    counts = {part: np.bincount(cases.labels[where] + 1, minlength=3) for part, where in split.parts.items()}
    np.testing.assert_array_equal(counts["test"], [0, 10, 10])
    # Of the rest, 30 a, 5 b and 6 without a label, a fifth.
    np.testing.assert_array_equal(counts["val"], [1, 6, 1])
    assert sum(len(where) for where in split.parts.values()) == len(cases)
    with pytest.raises(DataError, match="class 'b': has 15 cases"):
        split_cases(cases, test_per_class=14)
    with pytest.raises(ConfigError, match="test_per_class"):
        split_cases(cases, test_per_class=5, folds=3)


def test_a_number_per_class_keeps_groups_whole(make_cases):
    cases = make_cases(["a", "b"] * 30, groups=[f"p{number // 3}" for number in range(60)])
    (split,) = split_cases(cases, test_per_class=9)
    groups = [set(cases.groups[where]) for where in split.parts.values()]
    assert not (groups[0] & groups[2] or groups[1] & groups[2] or groups[0] & groups[1])
    assert np.abs(np.bincount(cases.labels[split.test]) - 9).max() <= 1
