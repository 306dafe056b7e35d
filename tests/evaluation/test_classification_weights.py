"""Scores of many weightings at once: each is what scikit-learn gives with these sample weights."""

import numpy as np
import pytest
from sklearn import metrics

from tfseg.evaluation.weighted import classification_scores, confusion_matrices, label_scores


@pytest.fixture
def case():
    generator = np.random.default_rng(4)
    true = generator.integers(0, 3, 60)
    # Few different values, so that there are ties.
    probabilities = np.round(generator.dirichlet(np.ones(3), 60), 1)
    probabilities[:, 2] = 1 - probabilities[:, :2].sum(axis=1)
    return true, probabilities.clip(0), generator.integers(0, 4, (5, 60)).astype(float)


def test_agrees_with_scikit_learn(case):
    true, probabilities, weights = case
    predicted = probabilities.argmax(axis=1)
    found = classification_scores(true, predicted, probabilities, 3, weights)
    assert all(values.shape == (5,) for values in found.values())
    one_hot = np.eye(3)[true]
    for draw, weight in enumerate(weights):
        given = {"sample_weight": weight}
        average = {"average": "macro", "zero_division": 0, **given}
        expected = {
            "accuracy": metrics.accuracy_score(true, predicted, **given),
            "balanced_accuracy": metrics.balanced_accuracy_score(true, predicted, **given),
            "kappa": metrics.cohen_kappa_score(true, predicted, **given),
            "precision_macro": metrics.precision_score(true, predicted, **average),
            "recall_macro": metrics.recall_score(true, predicted, **average),
            "f1_macro": metrics.f1_score(true, predicted, **average),
            "f1_weighted": metrics.f1_score(true, predicted, **{**average, "average": "weighted"}),
            "auc": np.mean([metrics.roc_auc_score(one_hot[:, c], probabilities[:, c], **given) for c in range(3)]),
            "average_precision": np.mean(
                [metrics.average_precision_score(one_hot[:, c], probabilities[:, c], **given) for c in range(3)]
            ),
            "brier": metrics.brier_score_loss(true, probabilities, scale_by_half=False, **given),
        }
        assert {name: found[name][draw] for name in expected} == pytest.approx(expected)


def test_a_weight_is_a_repetition(case):
    true, probabilities, weights = case
    predicted = probabilities.argmax(axis=1)
    found = classification_scores(true, predicted, probabilities, 3, weights[:1])
    copies = np.repeat(np.arange(60), weights[0].astype(int))
    once = np.ones((1, len(copies)))
    repeated = classification_scores(true[copies], predicted[copies], probabilities[copies], 3, once)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        {name: values[0] for name, values in repeated.items()}
    )


def test_confusion_by_hand():
    found = confusion_matrices([0, 0, 1], [0, 1, 1], 2, [[1, 1, 1], [2, 0, 3]])
    assert found.tolist() == [[[1, 1], [0, 1]], [[2, 0], [0, 3]]]


def test_nothing_drawn_is_undefined_and_silent(case):
    true, probabilities, _ = case
    with np.errstate(all="raise"):
        found = classification_scores(true, probabilities.argmax(axis=1), probabilities, 3, np.zeros((1, 60)))
    assert all(np.isnan(values[0]) for values in found.values())


def test_one_class_leaves_kappa_undefined():
    with np.errstate(all="raise"):
        scores = label_scores(np.array([[[7, 0], [0, 0]]]))
    assert np.isnan(scores["kappa"][0]) and scores["accuracy"][0] == 1 and scores["balanced_accuracy"][0] == 1
