"""Temperature and reliability: by hand, by brute force, and as the project's ECE and scikit-learn have them."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from tfseg.evaluation.calibration import fit_temperature, reliability, rescaled
from tfseg.evaluation.classification import classification_metrics


def drawn(cases=400, classes=3, temperature=1.0, seed=0):
    """Logits at `temperature`, and labels drawn from what they say at 1."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (cases, classes))
    cumulated = softmax(logits, axis=1).cumsum(axis=1)
    true = (generator.random((cases, 1)) > cumulated[:, :-1]).sum(axis=1)
    return logits * temperature, true


def test_the_temperature_of_two_cases_in_three_by_hand():
    """Always 0.9 sure and right in 2 of 3: log(0.9 / 0.1) / T = log 2, so T = 2 log 3 / log 2."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])
    assert fit_temperature(probabilities, np.array([0, 1, 1])) == pytest.approx(2 * np.log(3) / np.log(2), rel=1e-4)
    # The wrong case half as heavy: right in 4 of 5.
    found = fit_temperature(probabilities, np.array([0, 1, 1]), weights=np.array([1, 1, 0.5]))
    assert found == pytest.approx(np.log(9) / np.log(4), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_no_temperature_of_a_fine_grid_is_better(temperature):
    logits, true = drawn(temperature=temperature)
    weights = np.random.default_rng(1).integers(0, 3, len(true))
    found = fit_temperature(softmax(logits, axis=1).astype(np.float32), true, weights)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 6001))
    losses = [
        -np.average(log_softmax(logits / level, axis=1)[range(len(true)), true], weights=weights) for level in grid
    ]
    assert found == pytest.approx(grid[np.argmin(losses)], rel=2e-3)
    # What the labels were drawn from, up to chance.
    assert found == pytest.approx(temperature, rel=0.25)


def test_a_weight_is_a_repetition_and_zero_leaves_out():
    logits, true = drawn(60)
    probabilities, weights = softmax(2 * logits, axis=1), np.arange(60) % 3
    copies = np.repeat(np.arange(60), weights)
    expected = fit_temperature(probabilities[copies], true[copies])
    assert fit_temperature(probabilities, true, weights) == pytest.approx(expected, rel=1e-4)


def test_where_the_likelihood_has_no_minimum():
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
    assert fit_temperature(probabilities, np.array([0, 1, 1])) == 1.0
    # The one wrong case does not count.
    assert fit_temperature(probabilities, np.array([0, 0, 1]), np.array([1, 0, 1])) == 1.0
    # Worse than chance: the less sure, the better.
    assert fit_temperature(probabilities, np.array([1, 0, 1])) == pytest.approx(20, rel=1e-3)
    # So nearly always right that the minimum lies below.
    many, labels = np.tile([0.51, 0.49], (10000, 1)), np.zeros(10000, int)
    labels[0] = 1
    assert np.log(0.51 / 0.49) / np.log(9999) < 0.05
    assert fit_temperature(many, labels) == pytest.approx(0.05, rel=1e-3)


def test_a_probability_of_zero_is_only_very_small():
    """One certain error in three: 87.3 / T = log 2 is out of reach, and nothing is infinite."""
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert fit_temperature(probabilities, np.array([0, 1, 1])) == pytest.approx(20, rel=1e-3)
    assert np.isfinite(rescaled(probabilities, 3.0)).all()


def test_rescaled_is_softmax_of_divided_logits():
    logits, true = drawn(50)
    for temperature in (0.5, 1.0, 3.0):
        expected = softmax(logits / temperature, axis=1)
        np.testing.assert_allclose(rescaled(softmax(logits, axis=1), temperature), expected, rtol=1e-9)
    assert rescaled([[0.8, 0.2]], 2.0).tolist() == [pytest.approx([2 / 3, 1 / 3])]
    with pytest.raises(ValueError, match="`temperature`"):
        rescaled([[0.8, 0.2]], 0.0)
    with pytest.raises(ValueError, match="`temperature`"):
        rescaled([[0.8, 0.2]], float("nan"))


def test_scaling_lowers_loss_and_calibration_error():
    logits, true = drawn(2000, temperature=3.0)
    before = softmax(logits, axis=1)
    after = rescaled(before, fit_temperature(before[:1000], true[:1000]))
    assert log_loss(true[1000:], after[1000:]) < log_loss(true[1000:], before[1000:])
    errors = [classification_metrics(true[1000:], values[1000:], "abc")["ece"] for values in (before, after)]
    assert errors[1] < 0.5 * errors[0]
    assert (before.argmax(1) == after.argmax(1)).all()


def test_bins_by_hand():
    probabilities = np.array([[0.5, 0.5], [0.3, 0.7], [0.2, 0.8], [1.0, 0.0], [0.25, 0.75]])
    table = reliability(probabilities, np.array([0, 1, 0, 0, 1]), bins=4)
    assert list(table.columns) == ["lower", "upper", "confidence", "accuracy", "count"]
    assert table["lower"].tolist() == [0, 0.25, 0.5, 0.75] and table["upper"].tolist() == [0.25, 0.5, 0.75, 1]
    # A confidence on an edge belongs to the lower bin.
    assert table["count"].tolist() == [0, 1, 2, 2]
    assert table["confidence"].tolist()[1:] == pytest.approx([0.5, 0.725, 0.9]) and np.isnan(table["confidence"][0])
    assert table["accuracy"].tolist()[1:] == [1.0, 1.0, 0.5] and np.isnan(table["accuracy"][0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_bins_are_those_of_the_ece(classes, dtype):
    logits, true = drawn(500, classes, 2.0, seed=classes)
    # Rounded, so that confidences lie on edges.
    probabilities = softmax(logits, axis=1).astype(dtype)
    probabilities[:100] = np.eye(classes)[true[:100]] * 0.6 + 0.4 / classes
    table = reliability(probabilities, true)
    assert len(table) == 15 and table["count"].sum() == 500
    gap = ((table["accuracy"] - table["confidence"]).abs() * table["count"]).sum() / 500
    ece = classification_metrics(true, probabilities, [str(number) for number in range(classes)])["ece"]
    assert gap == pytest.approx(ece, rel=1e-12)


def test_bins_agree_with_scikit_learn():
    logits, true = drawn(300, 3, 1.5)
    probabilities = softmax(logits, axis=1)
    table = reliability(probabilities, true, bins=10)
    full = table[table["count"] > 0]
    right = probabilities.argmax(1) == true
    accuracy, confidence = calibration_curve(right, probabilities.max(1), n_bins=10)
    np.testing.assert_allclose(full["accuracy"], accuracy)
    np.testing.assert_allclose(full["confidence"], confidence)


GOOD = np.array([[0.6, 0.4], [0.3, 0.7]])


@pytest.mark.parametrize(
    ("probabilities", "true", "message"),
    [
        (np.zeros((0, 2)), [], r"`probabilities` must be \(N, C\) with N > 0"),
        (np.ones((2, 1)), [0, 0], r"C > 1, received \(2, 1\)"),
        (np.array([0.6, 0.4]), [0, 1], "`probabilities` must be"),
        (GOOD * 3, [0, 1], "must be distributions"),
        (np.array([[1.2, -0.2], [0.3, 0.7]]), [0, 1], "must be distributions"),
        (np.array([[np.nan, 1], [0.3, 0.7]]), [0, 1], "must be distributions"),
        (GOOD, [0, 1, 1], r"`true` must be int \(2,\), received int64 \(3,\)"),
        (GOOD, [0.0, 1.0], "`true` must be int"),
        (GOOD, [0, 2], r"indices in 0…1, received 0 to 2"),
        (GOOD, [-1, 0], "received -1 to 0"),
    ],
)
def test_wrong_cases_are_refused_by_name(probabilities, true, message):
    for function in (fit_temperature, reliability):
        with pytest.raises(ValueError, match=message):
            function(probabilities, np.array(true))


def test_misuse():
    with pytest.raises(ValueError, match="`true` must hold at least two classes, received 2 cases of class 1"):
        fit_temperature(GOOD, np.array([1, 1]))
    with pytest.raises(ValueError, match="at least two classes, received 1 cases"):
        fit_temperature(GOOD, np.array([0, 1]), np.array([1, 0]))
    for weights in ([1], [-1, 2], [0, 0], [np.nan, 1], [np.inf, 1]):
        with pytest.raises(ValueError, match="`weights` must be"):
            fit_temperature(GOOD, np.array([0, 1]), np.array(weights))
    with pytest.raises(ValueError, match="`bins`"):
        reliability(GOOD, np.array([0, 1]), bins=0)
