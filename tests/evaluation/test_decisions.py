"""Operating points, abstention and decision curves: by hand, by brute force, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score

from tfseg.evaluation.decisions import (
    OperatingPoint,
    case_decisions,
    choose_abstention,
    choose_operating_point,
    net_benefit,
    positive_score,
)

CLASSES = ("akiec", "mel", "nv")


def two(scores):
    """Probabilities of two classes from those of the second."""
    scores = np.asarray(scores, np.float64)
    return np.stack([1 - scores, scores], axis=1)


def random_cases(cases=90, seed=0):
    generator = np.random.default_rng(seed)
    # Few different values, so that there are ties.
    scores = np.round(generator.dirichlet(np.ones(3), cases), 1)
    scores[:, 2] = 1 - scores[:, :2].sum(axis=1)
    return scores.clip(0), generator.integers(0, 3, cases)


def test_an_operating_point_by_hand():
    probabilities = two([0.9, 0.8, 0.4, 0.3, 0.85, 0.35, 0.2, 0.1])
    true = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    point = choose_operating_point(probabilities, true, ("benign", "malignant"), ("malignant",), 0.75)
    assert point == OperatingPoint(("malignant",), 0.4, 0.75, 0.75, 0.75, 4, 4)
    # One more is wanted than 3 of 4.
    point = choose_operating_point(probabilities, true, ("benign", "malignant"), ("malignant",), 0.76)
    assert (point.threshold, point.sensitivity, point.specificity) == (0.3, 1.0, 0.5)
    # The other class positive: its cases score 0.15, 0.65, 0.8 and 0.9, the others 0.1, 0.2, 0.6 and 0.7.
    point = choose_operating_point(probabilities, true, ("benign", "malignant"), ("benign",), 1)
    assert point.threshold == pytest.approx(0.15) and point.specificity == 0.25


@pytest.mark.parametrize("wanted", [0.01, 0.55, 0.9, 0.95, 1.0])
def test_no_larger_threshold_finds_enough(wanted):
    probabilities, true = random_cases()
    point = choose_operating_point(probabilities, true, CLASSES, ("akiec", "mel"), wanted)
    score, sick = probabilities[:, :2].sum(axis=1), true < 2
    enough = [level for level in np.unique(score) if recall_score(sick, score >= level) >= wanted]
    assert point.threshold == pytest.approx(max(enough))
    called = score >= point.threshold
    assert point.sensitivity == recall_score(sick, called) >= wanted
    assert point.specificity == recall_score(~sick, ~called)
    assert (point.positives, point.negatives) == (sick.sum(), (~sick).sum())


def test_a_share_that_is_met_exactly_is_enough():
    """0.55 · 20 is a little more than 11 in floating point."""
    scores = np.append(np.linspace(0.95, 0.5, 20), 0.1)
    true = np.array([1] * 20 + [0])
    point = choose_operating_point(two(scores), true, "ab", "b", 0.55)
    assert (scores[:20] >= point.threshold).sum() == 11 and point.sensitivity == 0.55


def test_positive_score_sums_some_classes():
    probabilities = np.array([[0.2, 0.5, 0.3]])
    assert positive_score(probabilities, CLASSES, ("nv", "akiec")).tolist() == pytest.approx([0.5])
    # Naming a class twice does not count it twice; rounded sums don't pass 1.
    assert positive_score(probabilities, CLASSES, ("nv", "nv")).tolist() == [0.3]
    assert positive_score(np.array([[0.6, 0.4004, 0.0]]), CLASSES, ("akiec", "mel")).tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive": ("mole",)}, r"`positive` must be some of \['akiec', 'mel', 'nv'\].*'mole'"),
        ({"positive": "mel"}, "`positive` must be some of .* received 'mel'"),
        ({"positive": ()}, "`positive` must be some"),
        ({"positive": CLASSES}, "and not all"),
        ({"classes": ("a", "b")}, r"`classes` must be 3 names, received \['a', 'b'\]"),
        ({"sensitivity": 0}, r"`sensitivity` must lie in \(0, 1\], received 0"),
        ({"sensitivity": 1.01}, "`sensitivity`"),
        ({"sensitivity": float("nan")}, "`sensitivity`"),
        ({"true": np.zeros(90, int)}, r"`true` must hold cases of \['mel'\] and of other classes, received 0 and 90"),
        ({"true": np.ones(90, int)}, "received 90 and 0"),
        ({"true": np.full(90, 3)}, "`true` must hold class indices"),
        ({"probabilities": np.ones((90, 3))}, "`probabilities`"),
    ],
)
def test_operating_points_refuse_by_name(change, message):
    probabilities, true = random_cases()
    given = {"probabilities": probabilities, "true": true, "classes": CLASSES, "positive": ("mel",)}
    with pytest.raises(ValueError, match=message):
        choose_operating_point(**{**given, "sensitivity": 0.9, **change})


def test_abstention_by_hand():
    probabilities = two([0.55, 0.4, 0.7, 0.1, 1.0])  # confidences 0.55, 0.6, 0.7, 0.9, 1.0
    assert [choose_abstention(probabilities, share) for share in (0, 0.19, 0.2, 0.5, 0.99)] == pytest.approx(
        [0.55, 0.55, 0.6, 0.7, 1.0]
    )
    # Ties: 0.8 cannot be told from 0.8, so nobody lies below.
    assert choose_abstention(two([0.8, 0.2, 0.8]), 0.9) == pytest.approx(0.8)
    for share in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match="`share`"):
            choose_abstention(probabilities, share)
    with pytest.raises(ValueError, match="`probabilities`"):
        choose_abstention(np.zeros((0, 2)), 0.1)


@pytest.mark.parametrize("share", [0.0, 0.07, 0.29, 0.3, 0.9])
def test_no_larger_confidence_leaves_out_so_few(share):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 100)
    chosen, confidence = choose_abstention(probabilities, share), probabilities.max(axis=1)
    assert (confidence < chosen).mean() <= share < (confidence <= chosen).mean()


def test_a_decision_curve_by_hand():
    score, positive = np.array([0.9, 0.5, 0.2, 0.1]), np.array([True, False, True, False])
    curve = net_benefit(score, positive, [0.0, 0.2, 0.5, 0.75])
    assert curve["threshold"].tolist() == [0.0, 0.2, 0.5, 0.75]
    # 2 and 2, 2 and 1 at odds 1/4, 1 and 1 at odds 1, 1 and 0.
    assert curve["net_benefit"].tolist() == pytest.approx([2 / 4, 2 / 4 - 1 / 4 / 4, 0, 1 / 4])
    assert curve["treat_all"].tolist() == pytest.approx([1 / 2, 1 / 2 - 1 / 2 / 4, 0, 1 / 2 - 3 / 2])
    assert curve["treat_none"].tolist() == [0] * 4


def test_who_is_sure_of_everybody_treats_all():
    positive = np.array([True, False, False])
    levels = np.linspace(0, 0.99, 12)
    curve = net_benefit(np.ones(3), positive, levels)
    np.testing.assert_allclose(curve["net_benefit"], curve["treat_all"])
    perfect = net_benefit(positive.astype(float), positive, levels[1:])
    np.testing.assert_allclose(perfect["net_benefit"], 1 / 3)
    # Treating all is worth nothing where the threshold is the prevalence.
    assert net_benefit(np.ones(3), positive, [1 / 3])["treat_all"][0] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], np.zeros(0, bool), [0.5]), "`score` must be"),
        (([0.2, 1.2], np.array([True, False]), [0.5]), "`score` must be"),
        (([0.2, np.nan], np.array([True, False]), [0.5]), "`score` must be"),
        (([0.2, 0.3], np.array([1, 0]), [0.5]), "`positive` must be bool"),
        (([0.2, 0.3], np.array([True]), [0.5]), "`positive` must be bool"),
        (([0.2, 0.3], np.array([True, False]), [0.5, 1.0]), "`thresholds`"),
        (([0.2, 0.3], np.array([True, False]), []), "`thresholds`"),
    ],
)
def test_decision_curves_refuse_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        net_benefit(*arguments)


def test_case_decisions_by_hand():
    probabilities = [[0.2, 0.5, 0.3], [0.45, 0.35, 0.2], [0.1, 0.1, 0.8], [0.6, 0.1, 0.3]]
    scores = case_decisions(
        probabilities,
        np.array([1, 1, 2, 0]),
        CLASSES,
        positive=CLASSES[1:2],
        threshold=0.35,
        abstain_below=0.5,
        unfamiliarity=np.array([0.5, 1.0, 1.01, 7.0]),
    )
    nan = np.nan
    expected = {
        "sensitivity": [1, 1, nan, nan],
        "specificity": [nan, nan, 1, 1],
        "coverage": [1, 0, 1, 1],
        "accuracy_kept": [1, nan, 1, 1],
        "accuracy_left_out": [nan, 0, nan, nan],
        "unfamiliar_rate": [0, 0, 1, 1],
    }
    assert scores.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(scores[name], values, name)
    strict = case_decisions(probabilities, np.array([1, 1, 2, 0]), CLASSES, positive=CLASSES[1:2], threshold=0.4)
    assert strict.keys() == {"sensitivity", "specificity"}
    np.testing.assert_array_equal(strict["sensitivity"], [1, 0, nan, nan])
    assert case_decisions(probabilities, np.array([1, 1, 2, 0]), CLASSES) == {}


def test_means_of_case_decisions_are_scikit_learns_scores():
    probabilities, true = random_cases(seed=3)
    point = choose_operating_point(*random_cases(seed=4), CLASSES, ("mel", "akiec"), 0.8)
    scores = case_decisions(
        probabilities, true, CLASSES, positive=point.positive, threshold=point.threshold, abstain_below=0.5
    )
    means = {name: np.nanmean(values) for name, values in scores.items()}
    called, sick = probabilities[:, :2].sum(axis=1) >= point.threshold - 1e-12, true < 2
    assert means["sensitivity"] == pytest.approx(recall_score(sick, called))
    assert means["specificity"] == pytest.approx(recall_score(~sick, ~called))
    kept, found = probabilities.max(axis=1) >= 0.5, probabilities.argmax(axis=1)
    assert means["coverage"] == kept.mean() and 0 < means["coverage"] < 1
    assert means["accuracy_kept"] == pytest.approx(accuracy_score(true[kept], found[kept]))
    assert means["accuracy_left_out"] == pytest.approx(accuracy_score(true[~kept], found[~kept]))


def test_a_point_of_another_model_is_refused():
    with pytest.raises(ValueError, match="`positive` must be some of .*'malignant'"):
        case_decisions(*random_cases(), CLASSES, positive=("malignant",), threshold=0.4)
