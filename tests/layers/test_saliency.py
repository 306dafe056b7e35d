"""Grad-CAM by hand, against tf-keras-vis, and in every way it is called."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_gradient, check_layer

from tfseg.layers.saliency import GradCAM, normalise_map
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier


def linear_head(weights):
    """Global average pooling and a dense layer with given weights (K, classes)."""
    maps = keras.Input((2, 2, len(weights)))
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    dense = keras.layers.Dense(len(weights[0]), use_bias=False)
    head = keras.Model(maps, dense(pooled))
    dense.set_weights([np.array(weights, np.float32)])
    return head


def test_the_map_by_hand():
    # A linear head on pooled features: y_c = mean_ij Σ_k w_kc A_ijk, so α_k = w_kc / 4 / … mean over 4 of w_kc / 4.
    # With w = [2, −1] for class 0 and A_1 = [[1, 2], [0, 4]], A_2 = [[0, 6], [2, 0]], Σ α A is proportional to
    # [[2, −2], [−2, 8]]; ReLU and division by the maximum give [[0.25, 0], [0, 1]].
    maps = np.array([[[1, 0], [2, 6]], [[0, 2], [4, 0]]], np.float32)[None]
    explained = GradCAM(linear_head([[2.0, 0.0], [-1.0, 1.0]]), (2, 2))(maps, target=np.array([0]))
    np.testing.assert_allclose(explained["saliency"][0, :, :, 0], [[0.25, 0.0], [0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(explained["logits"], [[2 * 1.75 - 2.0, 2.0]], atol=1e-6)


def test_without_a_target_the_predicted_class_is_explained():
    maps = np.array([[[1, 0], [2, 6]], [[0, 2], [4, 0]]], np.float32)[None]
    layer = GradCAM(linear_head([[2.0, 0.0], [-1.0, 1.0]]), (2, 2))
    predicted = layer(maps)["saliency"]
    np.testing.assert_allclose(predicted, layer(maps, target=np.array([1]))["saliency"])
    assert not np.allclose(predicted, layer(maps, target=np.array([0]))["saliency"])


def test_an_all_zero_map_stays_zero_and_has_a_gradient_without_nan():
    values = tf.Variable(-np.ones((2, 3, 3, 1), np.float32))
    with tf.GradientTape() as tape:
        saliency = normalise_map(values)
        total = tf.reduce_sum(saliency)
    assert np.all(saliency == 0.0)
    assert np.isfinite(tape.gradient(total, values)).all()


@pytest.fixture(scope="module")
def small_classifier():
    keras.utils.set_random_seed(3)
    return build_classifier(build_backbone("small_cnn", (32, 32, 3)), 3, units=8)


def test_agrees_with_tf_keras_vis(small_classifier):
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.scores import CategoricalScore

    image = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32)
    features = small_classifier.features
    flat = keras.Model(features.input, small_classifier.head(features.output))
    labels = [0, 2, 1, 1]
    theirs = Gradcam(flat, clone=False)(
        CategoricalScore(labels),
        image,
        penultimate_layer=features.layers[-1].name,
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )
    theirs = np.asarray(theirs, np.float32)
    highest = theirs.max((1, 2), keepdims=True)
    assert (highest > 0).all()
    maps = features(image, training=False)
    ours = GradCAM(small_classifier.head, maps.shape[1:3])(maps, target=np.array(labels))["saliency"]
    np.testing.assert_allclose(ours[..., 0], theirs / highest, rtol=1e-5, atol=1e-5)


def test_every_way_to_call_agrees(small_classifier, tmp_path):
    maps = np.random.default_rng(1).uniform(size=(3, 4, 4, 128)).astype(np.float32)
    check_layer(lambda: GradCAM(small_classifier.head, (32, 32)), [maps], tmp_path, trainable=True)


def test_it_can_be_trained_through(small_classifier):
    """The gradient of the map by the head's weights: the second-order term that CEntIoU lives on."""
    maps = tf.constant(np.random.default_rng(2).uniform(size=(2, 4, 4, 128)), tf.float32)
    layer = GradCAM(small_classifier.head, (8, 8))
    region = np.zeros((2, 8, 8, 1), np.float32)
    region[:, 2:5, 3:6] = 1.0
    kernel = small_classifier.head.get_layer("hidden").kernel

    def inside():
        saliency = layer(maps, target=np.array([0, 1]))["saliency"]
        return tf.reduce_sum(saliency * region) / tf.reduce_sum(saliency)

    check_gradient(inside, [kernel], step=3e-3, tolerance=0.1)


def test_what_is_no_head_is_refused():
    with pytest.raises(ValueError, match="head"):
        GradCAM(lambda maps: maps, (8, 8))
