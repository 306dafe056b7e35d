"""The layer that tells unfamiliar images: by hand, and against the distance of SciPy and of the fit."""

from dataclasses import asdict

import keras
import numpy as np
import pytest
from harness import check_layer
from scipy.spatial.distance import mahalanobis

from tfseg.evaluation.out_of_distribution import fit_mahalanobis
from tfseg.layers.unfamiliarity import Unfamiliarity, pooled_features

CHANNELS, SIDE = 12, 3


def maps(cases=40, seed=0, scale=1.0):
    """Feature maps of three classes whose channels differ a thousandfold in spread, as a backbone's do."""
    generator = np.random.default_rng(seed)
    labels = np.arange(cases) % 3
    spread = np.logspace(-1.5, 1.5, CHANNELS)
    pixels = generator.normal(size=(cases, SIDE, SIDE, CHANNELS)) + 2 * np.eye(3, CHANNELS)[labels][:, None, None]
    return (scale * spread * pixels + 100).astype(np.float32), labels


def fitted(rank=4, threshold=2.5, **options):
    values, labels = maps()
    layer = Unfamiliarity(3, rank, **options)
    layer.build(values.shape)
    model = fit_mahalanobis(values.mean(axis=(1, 2), dtype=np.float64), labels, rank)
    layer.fit(**asdict(model), threshold=threshold)
    return layer, model


@pytest.mark.parametrize("fit", [False, True])
def test_the_layer(tmp_path, fit):
    def make():
        return fitted()[0] if fit else Unfamiliarity(3, 4)

    layer = check_layer(make, [maps(5, seed=1)[0]], tmp_path)
    assert layer.fitted == fit


def test_by_hand():
    """Variance 4 along the first channel, 1 in the others; means 0 and (10, 0, 0); a threshold of 2."""
    layer = Unfamiliarity(2, 1)
    layer.build((None, 2, 2, 3))
    assert [tuple(weight.shape) for weight in layer.weights] == [(2, 3), (1, 3), (1,), (), ()]
    layer.fit([[0.0, 0, 0], [10, 0, 0]], [[1.0, 0, 0]], [4.0], 1.0, threshold=2.0)
    pooled = np.array([[0, 0, 0], [4, 0, 0], [0, 3, 4], [7, 0, 2], [2, 1, 0]], np.float32)
    noise = np.array([[1, -1], [-2, 2]], np.float32)[None, :, :, None]
    expected = np.sqrt([0, 4, 25, 9 / 4 + 4, 2]) / 2
    np.testing.assert_allclose(layer(pooled[:, None, None] + noise), expected, rtol=1e-6)
    np.testing.assert_allclose(layer(np.repeat(pooled[:, None], 4, axis=1)), expected, rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 4, CHANNELS, 64])
def test_against_the_fit_and_scipy(rank):
    layer, model = fitted(rank)
    values = np.concatenate([maps(9, seed=1)[0], maps(9, seed=2, scale=3.0)[0]])
    pooled = values.mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(layer(values) * 2.5, model.distance(pooled), rtol=2e-4)
    across = np.eye(CHANNELS) - model.directions.T @ model.directions
    covariance = model.directions.T @ np.diag(model.variances) @ model.directions + model.rest * across
    inverse = np.linalg.inv(covariance)
    expected = [min(mahalanobis(row, mean, inverse) for mean in model.means) for row in pooled]
    np.testing.assert_allclose(layer(values) * 2.5, expected, rtol=2e-4)


def test_before_it_is_fitted_nothing_is_unfamiliar():
    values = maps(4)[0]
    np.testing.assert_array_equal(Unfamiliarity(3)(values), np.zeros(4))


def test_a_class_without_a_training_case():
    values, labels = maps()
    pooled = values.mean(axis=(1, 2))
    model = fit_mahalanobis(pooled[labels > 0], labels[labels > 0], 4)
    layer = Unfamiliarity(3, 4)
    layer.build(values.shape)
    layer.fit(**asdict(model), threshold=1.0)
    np.testing.assert_allclose(layer(values), model.distance(pooled), rtol=2e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_float32_under_mixed_precision(policy):
    exact, mixed = fitted()[0], fitted(dtype=keras.DTypePolicy(policy))[0]
    values = maps(4, seed=1)[0]
    assert keras.backend.standardize_dtype(mixed(values).dtype) == "float32"
    np.testing.assert_array_equal(mixed(values), exact(values))
    half = keras.ops.cast(values, "float16")
    assert keras.backend.standardize_dtype(pooled_features(half).dtype) == "float32"
    np.testing.assert_array_equal(mixed(half), exact(keras.ops.cast(half, "float32")))


def test_no_matrix_of_all_channels():
    layer = Unfamiliarity(7)
    layer.build((None, 7, 7, 2048))
    assert layer.count_params() == (7 + 64) * 2048 + 64 + 2


def test_misuse():
    for name in ("classes", "rank"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, received 0"):
            Unfamiliarity(**{"classes": 2, name: 0})
    with pytest.raises(ValueError, match=r"`maps` must be \(batch, …, channels\)"):
        Unfamiliarity(2)(np.zeros((2, 5), np.float32))
    layer, model = fitted()
    good = asdict(model) | {"threshold": 1.0}
    for change, message in (
        ({"means": model.means[:, 1:]}, r"`means` must be \(3, 12\)"),
        ({"means": np.zeros((4, CHANNELS))}, "or fewer rows"),
        ({"directions": model.directions[:2]}, r"`directions` must be \(4, 12\)"),
        ({"variances": model.variances * 0}, "above 0"),
        ({"rest": 0.0}, "above 0"),
        ({"threshold": 0.0}, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.fit(**{**good, **change})
