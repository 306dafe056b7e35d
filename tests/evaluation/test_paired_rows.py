"""Rows of several tables: the same cases or a refusal, repeats, groups, and which differences hold."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from tfseg.errors import UserError
from tfseg.evaluation.compared import ComparedRow, classifier_rows, segmenter_rows
from tfseg.evaluation.comparison_page import (
    comparison_markdown,
    difference_cells,
    difference_sentences,
    differences_figure,
    metrics_of,
    published_cells,
    score_cells,
)
from tfseg.evaluation.differences import compare_rows
from tfseg.evaluation.paired import delong, mcnemar, signed_rank

CLASSES = ["a", "b", "c"]


def table(true: str, predicted: str, **columns) -> pd.DataFrame:
    """A table of predictions with one letter per case."""
    ids = [f"case{number}" for number in range(len(true))]
    return pd.DataFrame({"id": ids, "true": list(true), "predicted": list(predicted), **columns})


def row(right: np.ndarray, groups=None, classes: int = 2) -> ComparedRow:
    """A row of one or several models, given which cases each has right, (N,) or (R, N); the true class is 0."""
    right = np.atleast_2d(right)
    count = right.shape[1]
    groups = np.arange(count) if groups is None else groups
    return ComparedRow(np.arange(count).astype(str), groups, np.zeros(count, int), np.where(right, 0, classes - 1))


def with_probabilities(true: np.ndarray, probabilities: np.ndarray, groups=None) -> ComparedRow:
    ids = np.arange(len(true)).astype(str)
    groups = ids if groups is None else groups
    return ComparedRow(ids, groups, true, probabilities.argmax(axis=1)[None], probabilities[None])


@pytest.fixture
def better_and_worse():
    """90 and 60 of 100 cases right, no probabilities."""
    numbers = np.arange(100)
    return {"better": row(numbers >= 10), "worse": row(numbers < 60)}


class TestSameCases:
    def test_order_is_the_first_tables(self):
        first, second = table("aab", "abb"), table("aab", "aaa").iloc[[2, 0, 1]]
        rows, classes, left_out = classifier_rows({"first": first, "second": second})
        assert classes == ["a", "b"] and left_out == 0
        assert rows["second"].ids.tolist() == ["case0", "case1", "case2"]
        assert rows["first"].true.tolist() == rows["second"].true.tolist() == [0, 0, 1]
        assert rows["first"].predicted.tolist() == [[0, 1, 1]]

    def test_different_cases_are_refused_by_name(self):
        first, second = table("aabb", "abbb"), table("aabb", "abbb").iloc[1:]
        with pytest.raises(UserError, match=r"1 are only in first \(case0\).*--common.* 3 "):
            classifier_rows({"first": first, "second": second})
        with pytest.raises(UserError, match=r"1 are only in first \(case0\)"):
            classifier_rows({"second": second, "first": first})
        rows, _, left_out = classifier_rows({"first": first, "second": second}, common=True)
        assert left_out == 1 and rows["first"].ids.tolist() == ["case1", "case2", "case3"]

    def test_nothing_in_common(self):
        first = table("ab", "ab")
        with pytest.raises(UserError, match="no test case is in all of first, second"):
            classifier_rows({"first": first, "second": first.assign(id=["x", "y"])}, common=True)

    @pytest.mark.parametrize("common", [False, True])
    def test_different_truth_is_refused(self, common):
        with pytest.raises(UserError, match=r"`true` of 1 cases \(case1\).*'a' in first and 'b' in second"):
            classifier_rows({"first": table("aab", "aab"), "second": table("abb", "aab")}, common=common)

    def test_different_groups_are_refused_and_missing_ones_taken_from_the_other(self):
        first, second = table("aab", "aab", group=["p", "p", "q"]), table("aab", "aab")
        rows, *_ = classifier_rows({"first": first, "second": second})
        assert rows["second"].groups.tolist() == ["p", "p", "q"]
        with pytest.raises(UserError, match="`group` of 1 cases"):
            classifier_rows({"first": first, "second": second.assign(group=["p", "q", "q"])})
        partly, *_ = classifier_rows({"first": table("ab", "ab", group=["p", ""]), "second": table("ab", "ab")})
        assert partly["first"].groups.tolist() == ["p", "case1"]

    def test_cases_without_a_label_are_left_out(self):
        first = table("aab", "aab")
        first.loc[1, "true"] = None
        rows, *_ = classifier_rows({"first": first, "second": first})
        assert rows["first"].ids.tolist() == ["case0", "case2"]
        with pytest.raises(UserError, match="no case has a true class"):
            classifier_rows({"first": first.assign(true=None), "second": first})

    def test_classes(self):
        one = table("aab", "aab", prob_a=[1.0, 1, 0], prob_b=[0.0, 0, 1])
        with pytest.raises(UserError, match="second has the classes a, b, c, not a, b"):
            classifier_rows({"first": one, "second": one.assign(prob_c=0.0)})
        with pytest.raises(UserError, match="second: `predicted` holds z"):
            classifier_rows({"first": one, "second": table("aab", "aaz")})
        turned = one[["id", "true", "predicted", "prob_b", "prob_a"]]
        rows, classes, _ = classifier_rows({"first": one, "second": turned})
        assert classes == ["a", "b"]
        assert rows["second"].probabilities.tolist() == rows["first"].probabilities.tolist()
        with pytest.raises(UserError, match="only the class a"):
            classifier_rows({"first": table("aa", "aa"), "second": table("aa", "aa")})

    def test_segmenters(self):
        first = pd.DataFrame({"dice": [0.5, 0.7]}, ["x", "y"])
        rows, left_out = segmenter_rows({"first": first, "second": first.iloc[::-1]}, {"x": "p"})
        assert left_out == 0 and rows["second"].per_case["dice"].tolist() == [0.5, 0.7]
        assert rows["first"].groups.tolist() == ["p", "y"]
        with pytest.raises(UserError, match=r"only in first \(y\)"):
            segmenter_rows({"first": first, "second": first.iloc[:1]}, {})


class TestRepeats:
    def test_folds_of_a_cross_validation_are_one_model(self):
        cases = table("aabb", "abbb", fold=[0, 1, 0, 1])
        rows, *_ = classifier_rows({"first": cases, "second": table("aabb", "aabb")})
        assert rows["first"].predicted.tolist() == [[0, 1, 1, 1]]

    def test_folds_on_a_fixed_test_set_are_models(self):
        cases = pd.concat([table("ab", "ab", fold="0"), table("ab", "bb", fold="1")])
        rows, *_ = classifier_rows({"first": cases, "second": table("ab", "ab")})
        assert rows["first"].predicted.tolist() == [[0, 1], [1, 1]]

    def test_repeats_of_a_cross_validation(self):
        first = table("aabb", "aabb", fold=["0", "1", "0", "1"], repeat="0")
        second = table("aabb", "bbbb", fold=["1", "1", "0", "0"], repeat="1")
        rows, *_ = classifier_rows({"first": pd.concat([second, first]), "second": table("aabb", "aabb")})
        assert rows["first"].predicted.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]

    def test_doubled_cases_need_a_repeat(self):
        cases = pd.concat([table("ab", "ab"), table("ab", "bb")])
        with pytest.raises(UserError, match="first: cases stand there more than once.*case0, case1"):
            classifier_rows({"first": cases, "second": table("ab", "ab")})

    def test_repeats_must_have_tested_the_same_cases(self):
        uneven = pd.concat([table("aab", "aab", repeat="0"), table("aab", "bbb", repeat="1").iloc[:2]])
        rows, *_ = classifier_rows({"first": uneven, "second": uneven})
        assert rows["first"].predicted.tolist() == [[0, 0, 1], [1, 1, -1]]
        found = compare_rows(rows, ["a", "b"], draws=20)
        # Three of three, and none of two.
        assert found["rows"]["first"]["metrics"]["accuracy"]["values"] == [1.0, 0.0]
        with pytest.raises(UserError, match="the repeats of first and second .* 2 to 3 cases, second 1 with 3 cases"):
            classifier_rows({"first": uneven, "second": table("aab", "aab")})

    def test_the_unit_is_the_case_not_case_and_model(self):
        """Copies of one model are one model: nothing gets more certain by them."""
        generator = np.random.default_rng(1)
        first, second = generator.random(80) < 0.8, generator.random(80) < 0.7
        once = compare_rows({"first": row(first), "second": row(second)}, CLASSES[:2], draws=500)
        copied = {"first": row(np.tile(first, (5, 1))), "second": row(np.tile(second, (5, 1)))}
        five = compare_rows(copied, CLASSES[:2], draws=500)
        one, many = (found["pairs"][0]["metrics"]["accuracy"] for found in (once, five))
        assert many["ci95"] == pytest.approx(one["ci95"]) and many["difference"] == pytest.approx(one["difference"])
        assert five["pairs"][0]["mcnemar"] is None and many["test"] == "bootstrap"
        assert five["pairs"][0]["wilcoxon"]["pairs"] == (first != second).sum()
        assert five["pairs"][0]["wilcoxon"]["quantity"] == "share of models that are right"

    def test_scores_are_means_over_the_models(self):
        models = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
        found = compare_rows({"first": row(models), "second": row(np.ones(4, bool))}, CLASSES[:2], draws=20)
        summary = found["rows"]["first"]["metrics"]["accuracy"]
        assert summary["values"] == [0.75, 0.25] and summary["mean"] == 0.5
        assert summary["std"] == pytest.approx(math.sqrt(0.125)) and found["rows"]["first"]["models"] == 2
        assert found["pairs"][0]["metrics"]["accuracy"]["difference"] == -0.5
        assert "not about training" in " ".join(found["notes"])


class TestDifferences:
    def test_one_model_each_without_groups(self, better_and_worse):
        found = compare_rows(better_and_worse, CLASSES[:2])
        (pair,) = found["pairs"]
        entry = pair["metrics"]["accuracy"]
        # Only the better one is right on 40 cases, only the worse one on 10.
        exact = mcnemar(*(values.predicted[0] == 0 for values in better_and_worse.values()))
        assert exact[:2] == (40, 10)
        assert pair["mcnemar"] == {**exact._asdict(), "assumes_independent_cases": False}
        assert entry["test"] == "mcnemar" and entry["p"] == exact.p and entry["holds"]
        assert entry["difference"] == pytest.approx(0.3)
        # Near the normal interval of a paired difference: variance (0.5 − 0.3²) / 100.
        half = 1.96 * math.sqrt(0.41 / 100)
        assert entry["ci95"] == pytest.approx([0.3 - half, 0.3 + half], abs=0.02)
        assert (found["cases"], found["groups"]) == (100, 100)

    def test_groups_are_the_unit(self, better_and_worse):
        """The same answers in groups of ten that agree within: ten units, and nothing is left to show."""
        grouped = {
            name: ComparedRow(found.ids, np.arange(100) // 10, found.true, found.predicted)
            for name, found in better_and_worse.items()
        }
        alone = compare_rows(better_and_worse, CLASSES[:2])["pairs"][0]["metrics"]["accuracy"]
        found = compare_rows(grouped, CLASSES[:2])
        (pair,) = found["pairs"]
        entry = pair["metrics"]["accuracy"]
        assert entry["test"] == "bootstrap" and pair["mcnemar"]["assumes_independent_cases"]
        assert pair["mcnemar"]["p"] < 0.001 < 0.05 < entry["p"] and not entry["holds"]
        wide, narrow = (end["ci95"][1] - end["ci95"][0] for end in (entry, alone))
        # Ten times fewer units: √10 times wider, but for what the few leave to chance.
        assert wide / narrow == pytest.approx(math.sqrt(10), rel=0.2)
        assert "10 groups with 100 cases" in found["notes"][0] and "few (10)" in found["notes"][-1]

    def test_two_classes_with_probabilities(self):
        generator = np.random.default_rng(3)
        true = generator.integers(0, 2, 80)
        scores = [np.clip(0.5 + 0.15 * (true - 0.5) * k + 0.2 * generator.normal(size=80), 0.01, 0.99) for k in (4, 1)]
        rows = {
            name: with_probabilities(true, np.stack([1 - score, score], axis=1))
            for name, score in zip(("sharp", "dull"), scores, strict=True)
        }
        found = compare_rows(rows, CLASSES[:2], draws=1000)
        (pair,) = found["pairs"]
        expected = delong(true == 1, *scores)
        assert pair["delong"]["p"] == expected.p and pair["metrics"]["auc"]["test"] == "delong"
        assert pair["metrics"]["auc"]["difference"] == pytest.approx(expected.first - expected.second)
        half = 1.96 * expected.std_error
        difference = expected.first - expected.second
        assert pair["metrics"]["auc"]["ci95"] == pytest.approx([difference - half, difference + half], abs=0.02)
        of_true = [np.where(true == 1, score, 1 - score) for score in scores]
        assert pair["wilcoxon"] == {
            **signed_rank(*of_true)._asdict(),
            "quantity": "probability of the true class",
        }
        for name, score in zip(rows, scores, strict=True):
            auc = sklearn_metrics.roc_auc_score(true, score)
            assert found["rows"][name]["metrics"]["auc"]["mean"] == pytest.approx(auc)

    def test_wilcoxon_takes_one_value_per_group(self):
        generator = np.random.default_rng(5)
        true, groups = generator.integers(0, 3, 30), np.repeat(np.arange(10), 3)
        rows = {name: with_probabilities(true, generator.dirichlet(np.ones(3), 30), groups) for name in "xy"}
        found = compare_rows(rows, CLASSES, draws=50)["pairs"][0]
        means = [values.probabilities[0, np.arange(30), true].reshape(10, 3).mean(axis=1) for values in rows.values()]
        assert found["wilcoxon"]["pairs"] == 10 and found["wilcoxon"]["p"] == signed_rank(*means).p
        assert found["delong"] is None

    def test_scores_per_case(self):
        ids, groups = np.array(list("stuvwxyz")), np.array([0, 0, 1, 2, 3, 4, 5, 6])
        dice = np.array([0.6, 0.8, 0.5, 0.7, 0.9, 0.4, 0.3, np.nan])
        gain = np.array([0.1, 0.3, 0.15, 0.05, 0.02, 0.25, 0.12, 0.1])
        rows = {
            "first": ComparedRow(ids, groups, per_case={"dice": dice + gain, "iou": dice}),
            "second": ComparedRow(ids, groups, per_case={"dice": dice}),
        }
        found = compare_rows(rows, draws=400)
        (pair,) = found["pairs"]
        assert list(pair["metrics"]) == ["dice"] and pair["mcnemar"] is None
        entry = pair["metrics"]["dice"]
        assert entry["difference"] == pytest.approx(gain[:7].mean())
        # Six groups with a known score, all for the first: 2 / 2⁶.
        assert entry["test"] == "wilcoxon" and entry["p"] == pytest.approx(2 / 64)
        assert entry["rank_biserial"] == 1.0 and entry["holds"]
        assert found["rows"]["first"]["metrics"]["dice"]["mean"] == pytest.approx((dice + gain)[:7].mean())

    def test_holm_over_all_pairs_of_a_metric(self):
        generator = np.random.default_rng(2)
        rows = {
            name: row(generator.random(60) < share) for name, share in zip("wxyz", (0.9, 0.7, 0.6, 0.5), strict=True)
        }
        found = compare_rows(rows, CLASSES[:2], draws=200)
        entries = [pair["metrics"]["accuracy"] for pair in found["pairs"]]
        assert len(entries) == 6
        smallest = min(entries, key=lambda entry: entry["p"])
        assert smallest["p_holm"] == pytest.approx(6 * smallest["p"])
        assert all(entry["p_holm"] >= entry["p"] for entry in entries)
        assert [entry["holds"] for entry in entries] == [entry["p_holm"] < 0.05 for entry in entries]
        some = compare_rows(rows, CLASSES[:2], against="z", draws=200)
        assert [(pair["first"], pair["second"]) for pair in some["pairs"]] == [("w", "z"), ("x", "z"), ("y", "z")]
        lowest = min((pair["metrics"]["accuracy"] for pair in some["pairs"]), key=lambda entry: entry["p"])
        assert lowest["p_holm"] == pytest.approx(3 * lowest["p"])

    def test_same_seed_same_result(self, better_and_worse):
        first, again, other = (
            compare_rows(better_and_worse, CLASSES[:2], draws=100, seed=seed)["pairs"] for seed in (1, 1, 2)
        )
        assert first == again and first != other

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("count", [1, 2, 30])
    def test_identical_rows(self, count):
        generator = np.random.default_rng(0)
        true = np.arange(count) % 2
        same = with_probabilities(true, generator.dirichlet(np.ones(2), count))
        found = compare_rows({"first": same, "second": same}, CLASSES[:2], draws=50)
        entry = found["pairs"][0]["metrics"]["accuracy"]
        assert (entry["difference"], entry["p"], entry["p_holm"], entry["holds"]) == (0.0, 1.0, 1.0, False)
        assert found["pairs"][0]["wilcoxon"]["p"] == 1.0
        assert difference_sentences(found, "accuracy")[0] == "The difference in accuracy does not hold."

    @pytest.mark.filterwarnings("error")
    def test_one_true_class(self):
        probabilities = np.random.default_rng(0).dirichlet(np.ones(2), 12)
        rows = {name: with_probabilities(np.zeros(12, int), part) for name, part in
                (("first", probabilities), ("second", probabilities[::-1]))}  # fmt: skip
        found = compare_rows(rows, CLASSES[:2], draws=50)
        entry = found["pairs"][0]["metrics"]["auc"]
        assert math.isnan(entry["difference"]) and math.isnan(entry["p_holm"]) and not entry["holds"]
        assert found["pairs"][0]["delong"] is None
        assert "cannot be tested" in difference_sentences(found, "auc")[1]

    @pytest.mark.filterwarnings("error")
    def test_one_group(self):
        groups = np.zeros(6, int)
        rows = {"first": row(np.ones(6, bool), groups), "second": row(np.zeros(6, bool), groups)}
        entry = compare_rows(rows, CLASSES[:2], draws=50)["pairs"][0]["metrics"]["accuracy"]
        assert entry["difference"] == 1.0 and math.isnan(entry["p"]) and not entry["holds"]

    def test_two_cases_show_nothing(self):
        rows = {"first": row(np.ones(2, bool)), "second": row(np.zeros(2, bool))}
        entries = compare_rows(rows, CLASSES[:2])["pairs"][0]["metrics"]
        assert not any(entry["holds"] for entry in entries.values())

    def test_misuse(self, better_and_worse):
        with pytest.raises(ValueError, match="at least two"):
            compare_rows({"better": better_and_worse["better"]}, CLASSES[:2])
        with pytest.raises(ValueError, match="`against`"):
            compare_rows(better_and_worse, CLASSES[:2], against="best")
        with pytest.raises(ValueError, match="different cases"):
            compare_rows({**better_and_worse, "other": row(np.ones(99, bool))}, CLASSES[:2])


class TestPage:
    @pytest.fixture
    def comparison(self, better_and_worse):
        third = row(np.arange(100) >= 11)
        return json.loads(json.dumps(compare_rows({**better_and_worse, "third": third}, CLASSES[:2], draws=500)))

    def test_sentences(self, comparison):
        head, *lines = difference_sentences(comparison, "accuracy")
        assert head == "2 of 3 differences in accuracy hold."
        assert lines[0].startswith("better − worse: accuracy +0.300 [+0.1")
        assert lines[0].endswith("McNemar p < 0.001, Holm p < 0.001: holds")
        assert lines[1].startswith("better − third: accuracy +0.010 [")
        assert lines[1].endswith("McNemar p = 1.000, Holm p = 1.000: does not hold")
        assert lines[2].startswith("worse − third: accuracy −0.290 [−0.")

    def test_lost_by_the_correction(self, comparison):
        entry = comparison["pairs"][1]["metrics"]["accuracy"]
        entry |= {"p": 0.03, "p_holm": 0.09, "holds": False}
        assert difference_sentences(comparison, "accuracy")[2].endswith(
            "p = 0.030, Holm p = 0.090: does not hold after correction"
        )

    def test_cells(self, comparison):
        header, lines = difference_cells(comparison, "accuracy")
        assert header == ["difference", "accuracy", "p", "test", "p (Holm)", "holds"]
        assert [line[-1] for line in lines] == ["yes", "no", "yes"] and lines[1][0] == "better − third"
        header, lines = score_cells(comparison)
        assert header[:2] == ["name", "accuracy"] and lines[0][1].startswith("0.900 [0.8")
        with pytest.raises(ValueError, match="`metric` 'dice'"):
            difference_cells(comparison, "dice")
        assert metrics_of(comparison)[:3] == ["accuracy", "balanced_accuracy", "kappa"]

    def test_published_scores(self, comparison):
        assert published_cells(comparison) is None
        details = {"source": "Table 1", "ddof": 0, "tolerance": 0.004}
        for name, value in (("better", 0.897), ("worse", 0.605)):
            comparison["rows"][name]["published"] = {"metrics": {"accuracy": [value, 0.01]}, **details}
        _, lines = published_cells(comparison)
        assert lines == [
            ["better", "0.900 ± 0.000 / 0.897 ± 0.010", "yes"],
            ["worse", "0.600 ± 0.000 / 0.605 ± 0.010", "no: accuracy"],
        ]
        assert any("Table 1" in line and "ddof 0" in line for line in comparison_markdown(comparison, "accuracy"))

    def test_markdown_is_made_of_whole_tables(self, comparison):
        lines = comparison_markdown(comparison, "accuracy")
        assert lines[0] == "2 of 3 differences in accuracy hold."
        tables = [block for block in "\n".join(lines).split("\n\n") if block.startswith("| ")]
        assert [block.split(" | ")[0] for block in tables] == ["| difference", "| name", "| difference", "| difference"]
        for block in tables:
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1
        assert "bootstrap over the independent units (500 draws, seed 0)" in lines[-2]

    def test_figure(self, comparison, tmp_path):
        from matplotlib import image

        path = differences_figure(comparison, "accuracy", tmp_path / "figures" / "differences.png")
        assert image.imread(path).std() > 0.05
