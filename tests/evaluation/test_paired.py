"""Paired tests against textbook values, other implementations and values by hand."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tfseg.evaluation.paired import bootstrap_p, delong, holm, mcnemar, signed_rank

# The example of DeLong, DeLong and Clarke-Pearson 1988 (49 patients, those with complete data), as listed in the
# SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver Operating Characteristic Curves": albumin, total protein,
# K-G score, and the outcome.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""
ALBUMIN, PROTEIN, SCORE, BENEFIT = np.array(OVARIAN.split(), float).reshape(-1, 4).T
SCORE, BENEFIT = 10 - SCORE, BENEFIT == 1


def right(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which cases two models have right, with these counts."""
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return np.array(first), np.array(second)


class TestMcNemar:
    def test_by_hand(self):
        # Eight cases differ, one of them for the first: 2 · (1 + 8) / 2⁸.
        found = mcnemar(*right(5, 1, 7, 2))
        assert found[:2] == (1, 7)
        assert found.p == pytest.approx(18 / 256)
        assert found.cohens_g == pytest.approx(1 / 8 - 0.5)

    def test_approval_ratings(self):
        # Agresti, Categorical Data Analysis, 2nd ed., Table 10.1: 86 and 150 of 1,600 changed their mind.
        found = mcnemar(*right(794, 150, 86, 570))
        assert found[:2] == (150, 86)
        assert found.p == pytest.approx(stats.binomtest(86, 236).pvalue)
        # The exact p lies near that of the book's z² = 17.36.
        assert found.p == pytest.approx(stats.chi2.sf((150 - 86) ** 2 / 236, 1), rel=0.3)
        assert mcnemar(*right(570, 86, 150, 794)).p == pytest.approx(found.p)

    def test_degenerate(self):
        assert mcnemar(*right(3, 0, 0, 2)) == (0, 0, 1.0, 0.0)
        assert mcnemar(*right(0, 2, 2, 0)).p == 1.0
        assert mcnemar([True], [False]) == (1, 0, 1.0, 0.5)
        with pytest.raises(ValueError, match="same N"):
            mcnemar([True], [True, False])


class TestSignedRank:
    # Darwin's maize: height of crossed minus self-fertilised plants, in eighths of an inch (Fisher, Design of
    # Experiments, chapter III). The smaller rank sum is 24, the exact p 0.0413.
    MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], float)

    def test_darwins_maize(self):
        found = signed_rank(self.MAIZE, np.zeros(15))
        assert found.pairs == 15
        assert found.p == pytest.approx(0.041259765625)
        assert found.rank_biserial == pytest.approx((96 - 24) / 120)

    def test_exact_by_all_signs(self):
        differences = np.array([1.5, -0.5, 2.5, 3.5, -4.5, 5.5])
        ranks = stats.rankdata(np.abs(differences))
        observed = abs((np.sign(differences) * ranks).sum())
        sums = [abs((np.array(signs) * ranks).sum()) for signs in product((-1, 1), repeat=6)]
        assert signed_rank(differences, np.zeros(6)).p == pytest.approx(np.mean(np.array(sums) >= observed))

    def test_direction(self):
        found = signed_rank(np.zeros(15), self.MAIZE)
        assert found.rank_biserial == pytest.approx(-0.6) and found.p == pytest.approx(0.041259765625)

    @pytest.mark.filterwarnings("error")
    def test_degenerate(self):
        assert signed_rank([0.2, 0.4], [0.2, 0.4]) == (0, 1.0, 0.0)
        assert signed_rank([0.9], [0.1]) == (1, 1.0, 1.0)
        # What is left of rounding is no difference.
        assert signed_rank([0.1 + 0.2, 1.0], [0.3, 0.5]).pairs == 1
        nothing = signed_rank([np.nan], [0.5])
        assert nothing.pairs == 0 and math.isnan(nothing.p)
        assert signed_rank([np.nan, 2.0], [1.0, 1.0]).pairs == 1


class TestDeLong:
    def test_worked_example(self):
        # Areas, errors of the contrasts with the K-G score and their p-values, to four decimals.
        albumin, protein = delong(BENEFIT, ALBUMIN, SCORE), delong(BENEFIT, PROTEIN, SCORE)
        assert (albumin.first, protein.first, albumin.second) == pytest.approx((0.7366, 0.6478, 0.7258), abs=5e-5)
        assert (albumin.std_error, albumin.p) == pytest.approx((0.0953, 0.9102), abs=5e-5)
        assert (protein.std_error, protein.p) == pytest.approx((0.1046, 0.4561), abs=5e-5)

    def test_by_the_definition(self):
        """The placements pair by pair, ties as one half."""

        def placements(scores):
            above = scores[BENEFIT][:, None] - scores[~BENEFIT]
            wins = (above > 0) + 0.5 * (above == 0)
            return wins.mean(axis=1), wins.mean(axis=0)

        (first_high, first_low), (second_high, second_low) = placements(PROTEIN), placements(ALBUMIN)
        variance = sum(
            np.var(apart, ddof=1) / len(apart) for apart in (first_high - second_high, first_low - second_low)
        )
        found = delong(BENEFIT, PROTEIN, ALBUMIN)
        assert found.first == pytest.approx(first_high.mean()) and found.second == pytest.approx(second_low.mean())
        assert found.std_error == pytest.approx(math.sqrt(variance))

    def test_any_monotone_scale(self):
        assert delong(BENEFIT, np.exp(ALBUMIN), SCORE) == pytest.approx(delong(BENEFIT, ALBUMIN, SCORE))

    @pytest.mark.filterwarnings("error")
    def test_degenerate(self):
        assert delong([True, False, True], [0.9, 0.2, 0.5], [0.8, 0.3, 0.4])[2:] == (0.0, 1.0)
        assert math.isnan(delong([True, False], [0.9, 0.2], [0.1, 0.2]).p)
        # A perfect and a wholly wrong ranking have no variance that a normal deviate could be made from.
        assert math.isnan(delong([True, True, False, False], [4, 3, 2, 1], [1, 2, 3, 4]).p)
        with pytest.raises(ValueError, match="both kinds"):
            delong([True, True], [0.1, 0.2], [0.1, 0.2])


class TestBootstrapP:
    def test_by_hand(self):
        # 30 draws of 999 at or below zero: 2 · 31 / 1000.
        differences = np.concatenate([np.full(30, -0.1), np.full(969, 0.1)])
        assert bootstrap_p(differences, 40) == pytest.approx(0.062)
        assert bootstrap_p(-differences, 40) == pytest.approx(0.062)

    def test_draws_without_a_difference_count_on_both_sides(self):
        assert bootstrap_p(np.zeros(500), 0) == 1.0
        assert bootstrap_p([0.0] * 100 + [0.2] * 899, 40) == pytest.approx(0.202)
        assert bootstrap_p([1e-17] * 100 + [0.2] * 899, 40) == pytest.approx(0.202)

    def test_few_differing_units_show_little(self):
        assert bootstrap_p(np.full(9999, 0.2), 3) == pytest.approx(0.25)
        assert bootstrap_p(np.full(9999, 0.2), 40) == pytest.approx(2e-4)

    def test_undefined_draws(self):
        assert bootstrap_p([np.nan, *[1.0] * 99], 40) == pytest.approx(0.02)
        assert math.isnan(bootstrap_p([np.nan], 40)) and math.isnan(bootstrap_p([], 40))

    def test_is_uniform_where_nothing_differs(self):
        """Of samples without a difference, about one in twenty has p < 0.05."""
        generator = np.random.default_rng(0)
        found = []
        for _ in range(400):
            sample = generator.normal(size=60)
            draws = sample[generator.integers(60, size=(300, 60))].mean(axis=1)
            found.append(bootstrap_p(draws, 60))
        assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.03)


class TestHolm:
    def test_by_hand(self):
        # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling: 0.02, 0.03, 0.06, 0.06.
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_agrees_with_statsmodels(self):
        p_values = np.random.default_rng(0).beta(0.5, 3, 40)
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])

    def test_tests_that_could_not_be_made_do_not_count(self):
        found = holm([0.01, math.nan, 0.04])
        assert found[[0, 2]] == pytest.approx([0.02, 0.04]) and math.isnan(found[1])
        assert np.isnan(holm([math.nan])).all() and len(holm([])) == 0

    def test_never_above_one(self):
        assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
