"""Maps of shuffled networks, and the two measures of how alike maps are."""

import keras
import numpy as np
import pytest

from tfseg.evaluation.sanity import randomisation_check, spearman, structural_similarity
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier


@pytest.fixture(scope="module")
def classifier():
    """Taught to tell where the bright square is, so that its maps have something to show."""
    keras.utils.set_random_seed(0)
    made = build_classifier(build_backbone("small_cnn", (32, 32, 3)), 2, units=8)
    images, labels = squares(64)
    model = made.logits_model()
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit({"image": images}, labels, batch_size=16, epochs=6, verbose=0)
    return made


def squares(count):
    """Class 1 has a red square on grey noise, class 0 a blue one."""
    generator = np.random.default_rng(count)
    images = generator.uniform(0.3, 0.5, size=(count, 32, 32, 3)).astype(np.float32)
    labels = np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        row, column = generator.integers(2, 20, 2)
        image[row : row + 10, column : column + 10, 0 if label else 2] = 1.0
    return images, labels


def test_maps_change_with_the_weights_and_the_weights_come_back(classifier):
    features, head = classifier.features, classifier.head
    kept = [value.copy() for value in features.get_weights() + head.get_weights()]
    images, labels = squares(8)
    found = randomisation_check(features, head, images, "hires_cam", labels, stages=3, seed=1)
    weighted = sum(bool(layer.weights) for layer in features.layers + head.layers)
    assert found.layers == [round(weighted / 3), round(2 * weighted / 3), weighted]
    assert found.shuffled[-1] == "stage1_down_conv"
    assert found.spearman.shape == found.ssim.shape == (3, 8)
    assert np.nanmean(found.spearman[-1]) < 0.5 and found.ssim[-1].mean() < 0.5
    for left, right in zip(kept, features.get_weights() + head.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_one_stage_is_all_at_once_and_the_head_can_go_alone(classifier):
    images, _ = squares(6)
    everything = randomisation_check(classifier.features, classifier.head, images)
    assert everything.layers == [sum(bool(layer.weights) for part in (classifier.features, classifier.head)
                                     for layer in part.layers)]  # fmt: skip
    head = randomisation_check(classifier.features, classifier.head, images, head_only=True, stages=2)
    assert head.shuffled == ["logits", "hidden"]
    with pytest.raises(ValueError, match=r"`stages` must lie in \[1, 2\]"):
        randomisation_check(classifier.features, classifier.head, images, head_only=True, stages=3)


def test_weights_come_back_after_a_failure(classifier, monkeypatch):
    from tfseg.evaluation import sanity

    kept = classifier.head.get_weights()
    monkeypatch.setattr(sanity.np.random, "default_rng", lambda seed: None)
    with pytest.raises(AttributeError):
        randomisation_check(classifier.features, classifier.head, squares(2)[0])
    for left, right in zip(kept, classifier.head.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_map_that_ignores_the_weights_is_found_out():
    """Of a network without anything learnt in its maps: they are the image, and the head weighs them alike."""
    image = keras.Input((16, 16, 3))
    kept = keras.layers.DepthwiseConv2D(1, use_bias=False, depthwise_initializer="ones")
    features = keras.Model(image, kept(image))
    head = build_classifier(features, 2, units=None).head
    head.set_weights([np.full((3, 2), 0.5), np.array([0.1, 0.1])])
    images = np.random.default_rng(3).uniform(size=(2, 16, 16, 3))
    found = randomisation_check(features, head, images, labels=np.array([0, 1]))
    np.testing.assert_allclose(found.spearman, 1.0)
    np.testing.assert_allclose(found.ssim, 1.0)


def test_tokens_are_put_on_their_grid(classifier):
    """Maps as tokens, behind a token without a place, they change as the maps themselves do."""
    images, labels = squares(4)
    maps = classifier.features.output
    side, channels = maps.shape[1], maps.shape[-1]
    tokens = keras.layers.Reshape((side**2, channels))(maps)
    features = keras.Model(classifier.features.input, keras.layers.ZeroPadding1D((1, 0))(tokens))
    inside = keras.Input((side**2 + 1, channels))
    logits = keras.layers.Reshape((side, side, channels))(keras.layers.Cropping1D((1, 0))(inside))
    for layer in classifier.head.layers[1:]:
        logits = layer(logits)
    head = keras.Model(inside, logits)
    found = randomisation_check(features, head, images, "hires_cam", labels, grid=(side, side))
    expected = randomisation_check(classifier.features, classifier.head, images, "hires_cam", labels)
    np.testing.assert_allclose(found.spearman, expected.spearman, atol=1e-3)
    np.testing.assert_allclose(found.ssim, expected.ssim, atol=1e-3)
    with pytest.raises(ValueError, match="need a `grid`"):
        randomisation_check(features, head, images)


def pairs():
    generator = np.random.default_rng(4)
    left = generator.uniform(size=(4, 20, 24))
    right = np.clip(left + generator.normal(0, 0.3, left.shape), 0, 1)
    right[1] = 1 - left[1]
    right[2] = left[2]
    left[3] = 0.0
    return left, right


def test_spearman_against_scipy():
    from scipy.stats import spearmanr

    left, right = pairs()
    found = spearman(np.round(left, 1), right)
    for number in range(3):
        expected = spearmanr(np.round(left[number], 1).ravel(), right[number].ravel()).statistic
        assert found[number] == pytest.approx(expected, abs=1e-9)
    assert found[0] < 1 and found[1] < -0.9 and np.isnan(found[3])


def test_structural_similarity_against_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    left, right = pairs()
    expected = [
        metrics.structural_similarity(one, other, data_range=1, gaussian_weights=True, use_sample_covariance=False)
        for one, other in zip(left, right, strict=True)
    ]
    np.testing.assert_allclose(structural_similarity(left, right), expected, atol=1e-6)
    assert structural_similarity(right, right) == pytest.approx(np.ones(4))
