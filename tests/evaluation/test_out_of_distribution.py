"""Scores of unfamiliar cases: by hand, and against SciPy's and scikit-learn's own distances."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from tfseg.evaluation.out_of_distribution import choose_threshold, fit_mahalanobis, separation


def clusters(cases=30, features=5, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(cases) % 3
    mixing = generator.normal(size=(features, features))
    return generator.normal(size=(cases, features)) @ mixing + 4 * np.eye(3, features)[labels], labels


def test_distances_by_hand():
    """One feature, variance 4 around both means: nothing to shrink."""
    model = fit_mahalanobis(np.array([[0.0], [4], [10], [14]]), np.array([0, 0, 1, 1]))
    assert model.means.tolist() == [[2], [12]] and np.abs(model.directions).tolist() == [[1]]
    assert model.variances.tolist() == [4]
    assert model.distance([[2], [5], [7], [12], [20]]).tolist() == [0, 1.5, 2.5, 0, 4]


@pytest.mark.parametrize("features", [5, 60])
def test_distances_agree_with_scipy(features):
    """Also with more features than cases."""
    values, labels = clusters(features=features)
    model = fit_mahalanobis(values, labels)
    means = np.stack([values[labels == label].mean(axis=0) for label in range(3)])
    covariance, shrinkage = ledoit_wolf(values - means[labels], assume_centered=True)
    assert shrinkage > 0
    others = np.random.default_rng(1).normal(size=(8, features)) * 3
    expected = [min(mahalanobis(row, mean, np.linalg.inv(covariance)) for mean in means) for row in others]
    np.testing.assert_allclose(model.distance(others), expected, rtol=1e-6)
    np.testing.assert_allclose(covariance_of(model), covariance, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_rank_makes_the_small_variances_one(rank):
    """Against SciPy with the covariance of probabilistic principal components written out."""
    values, labels = clusters()
    model, means = fit_mahalanobis(values, labels, rank), fit_mahalanobis(values, labels).means
    covariance, _ = ledoit_wolf(values - means[labels], assume_centered=True)
    left, variances, _ = np.linalg.svd(covariance)
    rest = variances[rank:].mean()
    kept = left[:, :rank] @ np.diag(variances[:rank] - rest) @ left[:, :rank].T + rest * np.eye(5)
    np.testing.assert_allclose(covariance_of(model), kept, rtol=1e-8, atol=1e-8)
    assert np.trace(kept) == pytest.approx(np.trace(covariance))
    others = np.random.default_rng(1).normal(size=(8, 5)) * 3
    expected = [min(mahalanobis(row, mean, np.linalg.inv(kept)) for mean in means) for row in others]
    np.testing.assert_allclose(model.distance(others), expected, rtol=1e-8)
    assert np.abs(model.distance(others) - fit_mahalanobis(values, labels).distance(others)).max() > 0.01


def test_a_rank_of_all_features_is_exact():
    values, labels = clusters()
    others = np.random.default_rng(1).normal(size=(8, 5)) * 3
    exact = fit_mahalanobis(values, labels).distance(others)
    for rank in (5, 64):
        np.testing.assert_allclose(fit_mahalanobis(values, labels, rank).distance(others), exact)


def covariance_of(model):
    """The covariance that a fit stands for."""
    across = np.eye(model.means.shape[1]) - model.directions.T @ model.directions
    return model.directions.T @ np.diag(model.variances) @ model.directions + model.rest * across


def test_the_shrinkage_is_ledoit_and_wolfs():
    """Their lemma 3.2 written out: distances of the empirical covariance to the truth and to a multiple of I."""
    values, labels = clusters()
    centred = values - np.stack([values[labels == label].mean(axis=0) for label in range(3)])[labels]
    empirical = centred.T @ centred / len(centred)
    target = np.trace(empirical) / 5 * np.eye(5)
    spread = np.mean([np.sum((np.outer(row, row) - empirical) ** 2) for row in centred]) / len(centred)
    share = min(1, spread / np.sum((empirical - target) ** 2))
    model = fit_mahalanobis(values, labels)
    np.testing.assert_allclose(covariance_of(model), (1 - share) * empirical + share * target, rtol=1e-8, atol=1e-8)


def test_a_feature_that_never_moves_is_no_obstacle():
    values, labels = clusters()
    values[:, 2] = 0.0
    model = fit_mahalanobis(values, labels)
    strange = model.means[:1].copy()
    strange[0, 2] = 3.0
    assert model.distance(strange) > model.distance(values).mean()


def test_labels_are_any_names():
    values, labels = clusters()
    named = fit_mahalanobis(values, np.array(["nv", "mel", "bkl"])[labels])
    np.testing.assert_allclose(named.distance(values), fit_mahalanobis(values, labels).distance(values))


def test_thresholds_by_hand():
    scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    assert [choose_threshold(scores, kept) for kept in (0.2, 0.21, 0.6, 0.95, 1.0)] == [1, 2, 3, 5, 5]
    assert choose_threshold(np.arange(1, 101.0)) == 95
    # 0.55 · 20 is a little more than 11 in floating point.
    assert choose_threshold(np.arange(1, 21.0), 0.55) == 11


def test_separation_counts_pairs():
    familiar, unfamiliar = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    pairs = [(a < b) + 0.5 * (a == b) for a in familiar for b in unfamiliar]
    assert separation(familiar, unfamiliar) == pytest.approx(np.mean(pairs)) == pytest.approx(4.5 / 6)
    values, labels = clusters(90)
    model = fit_mahalanobis(values[:60], labels[:60])
    assert separation(model.distance(values[60:]), model.distance(values[60:] + 30)) > 0.99


def test_misuse():
    values, labels = clusters()
    with pytest.raises(ValueError, match=r"`features` must be finite.*\(0, 5\)"):
        fit_mahalanobis(values[:0], labels[:0])
    with pytest.raises(ValueError, match="`features` must be finite"):
        fit_mahalanobis(np.full((3, 2), np.nan), [0, 0, 1])
    with pytest.raises(ValueError, match=r"`labels` must be \(30,\), received \(29,\)"):
        fit_mahalanobis(values, labels[1:])
    with pytest.raises(ValueError, match="`features` must vary within the classes: .* 3 cases of 3 classes"):
        fit_mahalanobis(values[:3], labels[:3])
    with pytest.raises(ValueError, match="`rank` must be at least 1, received 0"):
        fit_mahalanobis(values, labels, 0)
    with pytest.raises(ValueError, match=r"`features` must be \(N, 5\), received \(2, 4\)"):
        fit_mahalanobis(values, labels).distance(np.zeros((2, 4)))
    for kept in (0, 1.5):
        with pytest.raises(ValueError, match="`kept`"):
            choose_threshold(np.ones(3), kept)
    with pytest.raises(ValueError, match="`scores_validation`"):
        choose_threshold(np.array([]))
    with pytest.raises(ValueError, match="`unfamiliar`"):
        separation(np.ones(2), np.array([np.inf]))
