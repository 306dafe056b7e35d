"""Repeating and leaving out cases until the classes have like numbers."""

import numpy as np
import pytest

from tfseg.data.balance import balance_positions, drawn_per_class, occurrences

# Positions 10 to 21: six of class 0, two of class 1, three of class 2, one without a label.
LABELS = np.r_[np.full(10, 7), [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, -1]]
POSITIONS = np.arange(10, 22)


def per_case(method, **options):
    balanced = balance_positions(LABELS, POSITIONS, method, **options)
    assert balanced.dtype == np.int64 and (np.diff(balanced) >= 0).all() and balanced.min() >= 10
    return np.bincount(balanced - 10, minlength=12)


def test_none_changes_nothing():
    given = np.array([3, 1, 2])
    np.testing.assert_array_equal(balance_positions(np.array([0, 0, 1, 1]), given), given)


def test_up_to_the_majority():
    np.testing.assert_array_equal(per_case("majority"), [1] * 6 + [3, 3] + [2, 2, 2] + [1])
    uneven = balance_positions(np.array([0, 0, 0, 0, 0, 1, 1]), np.arange(7), "majority")
    np.testing.assert_array_equal(np.bincount(uneven)[:5], 1)
    assert sorted(np.bincount(uneven)[5:]) == [2, 3], "no case is repeated two times more often than another"


def test_towards_a_number_per_class():
    """Towards 4: class 0 is sampled down to 4; class 1 has two cases, twice each; class 2 three cases, one twice."""
    counts = per_case("towards", target=4)
    assert sorted(counts[:6]) == [0, 0, 1, 1, 1, 1]
    np.testing.assert_array_equal(counts[6:8], 2)
    assert sorted(counts[8:11]) == [1, 1, 2] and counts[11] == 1


def test_no_more_versions_of_a_case_than_allowed():
    """Towards 20 with four versions: 6 · 4 is enough for 20, 2 · 4 = 8 and 3 · 4 = 12 stay below it."""
    counts = per_case("towards", target=20)
    assert (counts[:6].sum(), counts[6:8].sum(), counts[8:11].sum()) == (20, 8, 12) and counts.max() == 4
    assert per_case("towards", target=20, versions=2)[:11].tolist() == [2] * 11


def test_ham10000_as_in_the_thesis():
    """Its classes after balancing (Figure 6): 2,000, and four times 327, 142 and 115 where that is not enough."""
    sizes = [6705, 1113, 1099, 514, 327, 142, 115]
    labels = np.repeat(np.arange(7), sizes)
    balanced = balance_positions(labels, np.arange(len(labels)), "towards")
    assert np.bincount(labels[balanced]).tolist() == [2000, 2000, 2000, 2000, 1308, 568, 460]


def test_the_seed_chooses():
    first, second = (balance_positions(LABELS, POSITIONS, "towards", seed, target=3) for seed in (0, 1))
    np.testing.assert_array_equal(first, balance_positions(LABELS, POSITIONS, "towards", 0, target=3))
    assert not np.array_equal(first, second)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="`method`.*'upwards'"):
        balance_positions(LABELS, POSITIONS, "upwards")
    with pytest.raises(ValueError, match="`target`"):
        balance_positions(LABELS, POSITIONS, "towards", target=0)


def test_occurrences_by_hand():
    np.testing.assert_array_equal(occurrences([3, 5, 3, 3, 5]), [0, 0, 1, 2, 1])
    assert len(occurrences([])) == 0


def test_so_many_of_each_class_are_drawn():
    labels = np.array([0, 1, 0, 1, 1, 2, -1, 0, 1])
    drawn = drawn_per_class(labels, np.array([8, 0, 1, 2, 3, 4, 5, 6]), 2, seed=3)
    assert drawn.tolist() == sorted(set(drawn.tolist())) and 7 not in drawn and 6 not in drawn
    assert np.bincount(labels[drawn]).tolist() == [2, 2, 1]
    np.testing.assert_array_equal(drawn, drawn_per_class(labels, np.array([8, 0, 1, 2, 3, 4, 5, 6]), 2, seed=3))
    others = {tuple(drawn_per_class(labels, np.arange(9), 2, seed=seed)) for seed in range(20)}
    assert len(others) > 5
    assert drawn_per_class(labels, np.array([6]), 2).tolist() == []
