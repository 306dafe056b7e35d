"""Rows of metrics.json: what stands in them, and where the intervals come from."""

import numpy as np
import pytest

from tfseg.evaluation import scores as scores_module
from tfseg.evaluation.scores import localisation_scores, summarise_row

CLASSES = ("benign", "malignant")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(scores_module, "BOOTSTRAP_DRAWS", 60)


def fold(count=12, seed=0, groups=None, **per_case):
    generator = np.random.default_rng(seed)
    true = np.arange(count) % 2
    second = np.clip(0.5 + 0.3 * (2 * true - 1) + generator.normal(0, 0.3, count), 0.01, 0.99)
    groups = np.array([f"patient{number}" for number in range(count)]) if groups is None else groups
    return scores_module.TestScores(groups, true, np.stack([1 - second, second], 1), per_case)


def segmented(dice, groups=None):
    groups = np.array([f"patient{number}" for number in range(len(dice))]) if groups is None else groups
    return scores_module.TestScores(groups, per_case={"dice": np.array(dice, float)})


def test_a_row_holds_what_is_documented():
    row = summarise_row(
        "plain", {"λ": 1}, [fold(cam_iou=np.linspace(0, 1, 12))], CLASSES, {"epochs": [3]}, {"accuracy": 0.9}
    )
    assert set(row) == {"name", "settings", "metrics", "paper", "per_class", "confusion"}
    assert (row["name"], row["settings"], row["paper"]) == ("plain", {"λ": 1}, {"accuracy": 0.9})
    named = "accuracy balanced_accuracy kappa auc ece brier precision_macro recall_macro f1_macro cam_iou epochs"
    assert set(named.split()) <= set(row["metrics"])
    for values in row["metrics"].values():
        assert set(values) == {"mean", "std", "ci95", "values"}
    one = fold()
    assert row["metrics"]["accuracy"]["mean"] == np.mean(one.probabilities.argmax(1) == one.true)
    assert np.trace(row["confusion"]) == (one.probabilities.argmax(1) == one.true).sum()
    assert set(row["per_class"]) == set(CLASSES)


def test_a_segmenter_has_no_classes():
    row = summarise_row("segmenter", {}, [segmented([0.5, 0.7])])
    assert set(row) == {"name", "settings", "metrics", "paper"}
    assert row["metrics"]["dice"]["mean"] == pytest.approx(0.6)


def test_folds_have_students_interval():
    from scipy import stats

    means = [0.5, 0.8, 0.65]
    row = summarise_row("segmenter", {}, [segmented([mean - 0.1, mean + 0.1]) for mean in means])
    dice = row["metrics"]["dice"]
    np.testing.assert_allclose(dice["values"], means)
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    np.testing.assert_allclose(dice["ci95"], [low, high])
    assert dice["std"] == pytest.approx(np.std(means, ddof=1))


def test_one_split_is_drawn_anew_by_group():
    # Two patients of three cases each: a draw can only be all of one, half and half, or all of the other.
    groups = np.array(["a", "b"] * 3)
    dice = summarise_row("segmenter", {}, [segmented([0.2, 0.6] * 3, groups)])["metrics"]["dice"]
    assert dice["ci95"] == pytest.approx([0.2, 0.6])
    assert np.isnan(dice["std"])
    # What has no test case behind it can't be drawn anew.
    epochs = summarise_row("plain", {}, [fold()], CLASSES, {"epochs": [7]})["metrics"]["epochs"]
    assert epochs["mean"] == 7 and np.isnan(epochs["ci95"]).all()


def test_metrics_follow_the_drawn_cases():
    one = fold(dice=np.arange(12.0))
    positions = np.array([0, 0, 3, 5])
    drawn = one.metrics(CLASSES, positions)
    assert drawn["dice"] == pytest.approx((0 + 0 + 3 + 5) / 4)
    assert drawn["accuracy"] == np.mean(one.probabilities[positions].argmax(1) == one.true[positions])


def test_cases_that_say_nothing_are_left_out():
    row = summarise_row("segmenter", {}, [segmented([0.4, np.nan, 0.8])])
    assert row["metrics"]["dice"]["mean"] == pytest.approx(0.6)
    nothing = summarise_row("segmenter", {}, [segmented([np.nan, np.nan])])
    assert np.isnan(nothing["metrics"]["dice"]["mean"])


def test_a_metric_that_one_fold_lacks_is_no_number_over_folds():
    """A fold without a mask in its test part has no localisation; its row must still be written."""
    folds = [fold(seed=1), fold(seed=2, cam_iou=np.full(12, 0.5))]
    for order in (folds, folds[::-1]):
        metrics = summarise_row("plain", {}, order, CLASSES)["metrics"]
        assert np.isnan(metrics["cam_iou"]["mean"])
        assert sorted(np.isnan(metrics["cam_iou"]["values"])) == [False, True]
        assert np.isfinite(metrics["accuracy"]["mean"])


def test_localisation_is_against_the_lesion_dilated_twice():
    saliency = np.zeros((3, 40, 40), np.float32)
    lesions = np.zeros((3, 40, 40), bool)
    lesions[:2, 10:20, 10:20] = True
    # At 40 pixels the square has side 2; two dilations grow each side of 10 to 12.
    saliency[0, 10:20, 10:20] = 1.0
    saliency[1, 30, 30] = 1.0
    saliency[2, 5, 5] = 1.0
    scores = localisation_scores(saliency, lesions)
    np.testing.assert_allclose(scores["cam_iou"], [100 / 144, 0.0, np.nan])
    np.testing.assert_allclose(scores["cam_iou_undilated"], [1.0, 0.0, np.nan])
    np.testing.assert_allclose(scores["cam_overlap"], [1.0, 0.0, np.nan])
    np.testing.assert_allclose(scores["cam_pointing"], [1.0, 0.0, np.nan])
