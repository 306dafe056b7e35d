"""Intervals by hand and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from tfseg.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_intervals,
    bootstrap_weights,
    interval,
    percentile_interval,
    summarise,
)


def test_student_interval_by_hand():
    mean, std, (low, high) = interval([1.0, 2.0, 3.0])
    assert (mean, std) == (2.0, 1.0)
    # t(0.975, 2) = 4.302653, over the square root of 3.
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_student_interval_agrees_with_scipy():
    values = np.random.default_rng(0).normal(size=7)
    _, _, found = interval(values, 0.9)
    assert found == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.9))


def test_undefined_intervals():
    mean, std, ends = interval([0.8])
    assert mean == 0.8 and math.isnan(std) and all(math.isnan(end) for end in ends)
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.0, (0.5, 0.5))
    assert math.isnan(interval([0.5, float("nan")])[0])
    with pytest.raises(ValueError, match="at least one"):
        interval([])
    with pytest.raises(ValueError, match="`confidence`"):
        interval([1.0], 95)


def test_bootstrap_of_a_mean_is_near_the_normal_interval():
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap_interval(lambda positions: values[positions].mean(), np.arange(400))
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)
    assert found.undefined == 0


def test_bootstrap_keeps_groups_whole():
    groups = np.array(["a", "b", "a", "c", "b", "a"])
    sizes = {"a": 3, "b": 2, "c": 1}

    def whole(positions):
        counts = np.bincount(positions, minlength=6)
        for group in sizes:
            assert len(set(counts[groups == group])) == 1
        drawn = sum(counts[groups == group][0] for group in sizes)
        assert drawn == 3
        return 0.0

    bootstrap_interval(whole, groups, draws=50)


def test_copies_in_a_group_do_not_narrow_the_interval():
    values = np.random.default_rng(2).normal(size=30)
    copied = np.repeat(values, 10)
    alone = bootstrap_interval(lambda p: values[p].mean(), np.arange(30))
    grouped = bootstrap_interval(lambda p: copied[p].mean(), np.repeat(np.arange(30), 10))
    naive = bootstrap_interval(lambda p: copied[p].mean(), np.arange(300))
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low)
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)


def test_undefined_draws_are_left_out_and_counted():
    # Undefined when neither of two groups is the first: one draw in four.
    found = bootstrap_interval(lambda p: 1.0 if 0 in p else float("nan"), ["a", "b"], draws=2000)
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.undefined == pytest.approx(500, abs=80)
    nothing = bootstrap_interval(lambda p: float("nan"), ["a", "b"], draws=10)
    assert math.isnan(nothing.low) and nothing.undefined == 10


def test_one_group_says_nothing_about_others():
    found = bootstrap_interval(lambda p: 1.0, ["a", "a", "a"])
    assert math.isnan(found.low) and math.isnan(found.high)


def test_several_statistics_share_draws_and_seed():
    values = np.arange(20.0)
    both = bootstrap_intervals(
        lambda p: {"mean": values[p].mean(), "double": 2 * values[p].mean()}, np.arange(20), draws=200, seed=3
    )
    assert both["double"].high == pytest.approx(2 * both["mean"].high)
    again = bootstrap_interval(lambda p: values[p].mean(), np.arange(20), draws=200, seed=3)
    assert again == both["mean"]
    assert again != bootstrap_interval(lambda p: values[p].mean(), np.arange(20), draws=200, seed=4)


def test_weights_are_the_same_draws(monkeypatch):
    from tfseg.evaluation import statistics

    values, groups = np.arange(8.0), np.array(list("abcaabcd"))
    means = []
    drawn = bootstrap_interval(lambda p: means.append(values[p].mean()) or means[-1], groups, draws=23, seed=5)
    # Chunks of three draws, the last one smaller.
    monkeypatch.setattr(statistics, "CHUNK_CELLS", 24)
    chunks = list(bootstrap_weights(groups, 23, seed=5))
    assert [len(chunk) for chunk in chunks] == [3] * 7 + [2]
    weights = np.concatenate(chunks)
    assert weights @ values / weights.sum(axis=1) == pytest.approx(np.array(means))
    assert percentile_interval(weights @ values / weights.sum(axis=1)) == pytest.approx(drawn)
    # Groups are drawn whole: as many as there are, each case of a group as often as the others.
    assert (weights[:, 0] == weights[:, 3]).all() and (weights[:, [0, 1, 2, 7]].sum(axis=1) == 4).all()


def test_no_weights_for_one_group():
    assert list(bootstrap_weights(["a", "a"], 10)) == []
    with pytest.raises(ValueError, match="`groups`"):
        list(bootstrap_weights([], 10))


def test_percentiles_by_hand():
    # Linear interpolation between the order statistics: positions 0.025 · 4 and 0.975 · 4.
    assert percentile_interval([3.0, 1.0, 0.0, 4.0, 2.0, np.nan]) == pytest.approx((0.1, 3.9, 1))


def test_summaries():
    found = summarise([1.0, 2.0, 3.0])
    assert list(found) == ["mean", "std", "ci95", "values"]
    assert (found["mean"], found["std"], found["values"]) == (2.0, 1.0, [1.0, 2.0, 3.0])
    assert found["ci95"] == pytest.approx([-0.484138, 4.484138], abs=1e-5)
    single = summarise([0.8], bootstrap_interval(lambda p: 0.5, ["a", "b"], draws=5))
    assert single["ci95"] == [0.5, 0.5] and math.isnan(single["std"])
    with pytest.raises(ValueError, match="single run"):
        summarise([0.8, 0.9], (0.7, 0.95))
