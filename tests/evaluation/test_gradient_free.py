"""Score-CAM and Ablation-CAM against their formulas, written down with loops."""

import keras
import numpy as np
import pytest

from tfseg.evaluation.gradient_free import GRADIENT_FREE, ablation_cam, score_cam
from tfseg.models.classifier import build_head

SIDE = 6


@pytest.fixture(scope="module")
def parts():
    """A backbone that keeps the image's size and one with maps a third of it, and a head with a hidden layer."""
    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3))
    maps = keras.layers.Conv2D(5, 3, strides=3, padding="same", activation="relu")(image)
    return keras.Model(image, maps), build_head((2, 2, 5), 3, units=6)


def pictures(count=3):
    return np.random.default_rng(1).uniform(size=(count, SIDE, SIDE, 3)).astype(np.float32)


def enlarged(maps):
    """Bilinear, to the image's size."""
    return keras.ops.convert_to_numpy(keras.ops.image.resize(maps, (SIDE, SIDE)))


def normalised(weighted):
    weighted = np.maximum(weighted, 0.0)
    return weighted / weighted.max() if weighted.max() > 0 else weighted


def expected_score_cam(features, head, image, label, channels):
    maps = np.asarray(features(image[None]))[0]
    scores = []
    for channel in channels:
        seen = enlarged(maps[None, ..., channel, None])[0]
        mask = (seen - seen.min()) / (seen.max() - seen.min())
        scores.append(float(head(features((image * mask)[None]))[0, label]))
    shares = np.exp(scores) / np.sum(np.exp(scores))
    return enlarged(normalised((maps[..., channels] * shares).sum(-1))[None, ..., None])[0, ..., 0]


def expected_ablation_cam(features, head, image, label, channels):
    maps = np.asarray(features(image[None]))[0]
    whole, weighted = float(head(maps[None])[0, label]), 0.0
    for channel in channels:
        without = maps.copy()
        without[..., channel] = 0.0
        weighted = weighted + (whole - float(head(without[None])[0, label])) * maps[..., channel]
    return enlarged(normalised(weighted)[None, ..., None])[0, ..., 0]


@pytest.mark.parametrize(
    ("function", "expected"), [(score_cam, expected_score_cam), (ablation_cam, expected_ablation_cam)]
)
@pytest.mark.parametrize("batch_size", [2, 64])
def test_against_loops(parts, function, expected, batch_size):
    features, head = parts
    maps = np.asarray(features(pictures()))
    alive = [np.flatnonzero(np.ptp(one.reshape(-1, 5), axis=0)) for one in maps]
    assert all(len(one) >= 2 for one in alive)
    predicted = np.argmax(head(maps), -1)
    labels = (predicted + 1) % 3
    highest = 0.0
    for given, explained in ((None, predicted), (labels, labels)):
        received = function(features, head, pictures(), given, batch_size=batch_size)
        highest = max(highest, received.max())
        assert received.shape == (3, SIDE, SIDE) and received.dtype == np.float32
        for image, label, channels, one in zip(pictures(), explained, alive, received, strict=True):
            np.testing.assert_allclose(one, expected(features, head, image, label, channels), atol=1e-5)
    assert highest > 0.5, "else all maps are zero"


def test_the_largest_channels_only(parts):
    features, head = parts
    maps = np.asarray(features(pictures()))
    channels = np.argsort(-maps.mean((1, 2)), axis=1)[:, :2]
    for function, expected in ((score_cam, expected_score_cam), (ablation_cam, expected_ablation_cam)):
        received = function(features, head, pictures(), np.zeros(3, int), max_channels=2)
        for image, chosen, one in zip(pictures(), channels, received, strict=True):
            np.testing.assert_allclose(one, expected(features, head, image, 0, chosen), atol=1e-5)


def test_behind_a_linear_head_ablation_is_a_channels_share_of_the_logit():
    """y − y_k = w_k · mean(A_k): by hand for two channels with means 1 and 2, weights 3 and −1."""
    image = keras.Input((2, 2, 2))
    features = keras.Model(image, keras.layers.Identity()(image))
    head = build_head((2, 2, 2), 2, units=None)
    head.set_weights([np.array([[3.0, 0.0], [-1.0, 0.0]]), np.array([-50.0, 0.0])])
    maps = np.stack([[[1, 0], [0, 3]], [[0, 0], [4, 4]]], -1).astype(np.float32)[None]
    # 3 · 1 · A_1 − 1 · 2 · A_2 = [[3, 0], [−8, 1]], though the logit −49 is negative.
    received = ablation_cam(features, head, maps, np.array([0]))
    np.testing.assert_allclose(received, [[[1, 0], [0, 1 / 3]]], atol=1e-6)


def test_a_constant_channel_says_nothing():
    image = keras.Input((2, 2, 2))
    features = keras.Model(image, keras.layers.Identity()(image))
    pictures = np.stack([[[0.1, 0.2], [0.3, 0.4]], np.full((2, 2), 0.5)], -1).astype(np.float32)[None]
    received = score_cam(features, build_head((2, 2, 2), 2, units=None), pictures)
    np.testing.assert_allclose(received, [[[0.25, 0.5], [0.75, 1.0]]], atol=1e-6)


def test_without_any_channel_that_shows_something_the_map_is_zero(parts):
    features, head = parts
    black = np.zeros((1, SIDE, SIDE, 3), np.float32)
    assert np.all(np.asarray(features(black)) == 0.0)
    for function in GRADIENT_FREE.values():
        assert np.all(function(features, head, black) == 0.0)


def test_mistakes_are_named(parts):
    features, head = parts
    for options in ({"max_channels": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be ≥ 1"):
            score_cam(features, head, pictures(), **options)
    with pytest.raises(ValueError, match="one for each of the 3 images, received 2"):
        ablation_cam(features, head, pictures(), np.zeros(2, int))
