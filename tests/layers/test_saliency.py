"""Class activation maps by hand, against tf-keras-vis, and in every way they are called."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import assert_close, check_gradient, check_layer

from tfseg.layers.saliency import METHODS, ClassActivationMap, normalise_map
from tfseg.layers.taped import Rectifier
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier

# Two maps, and the gradients of class 0 and class 1 by them: those of a linear head on the flattened maps.
MAPS = np.stack([[[1, 2], [0, 4]], [[0, 6], [2, 0]]], -1).astype(np.float32)
GRADIENTS = np.stack([[[1, -1], [2, 0]], [[0.5, 0.5], [-1, 1]]], -1).astype(np.float32)
OTHERS = np.stack([[[0, 0], [0, 3]], [[0, 0], [0, 0]]], -1).astype(np.float32)


def flat_head():
    maps = keras.Input((2, 2, 2))
    dense = keras.layers.Dense(2, use_bias=False)
    head = keras.Model(maps, dense(keras.layers.Flatten()(maps)))
    dense.set_weights([np.stack([GRADIENTS.ravel(), OTHERS.ravel()], -1)])
    return head


BY_HAND = {
    # Means of the gradients: 1/2 and 1/4.
    "grad_cam": [[0.5, 2.5], [0.5, 2.0]],
    # Sums of the maps 7 and 8, so α = 1 / (2 + 7 g) and 1 / (2 + 8 g): 1/9, −1/5, 1/16, none; 1/6, 1/6, −1/6, 1/10.
    # Times the positive gradients: 1/9 + 2/16 = 17/72 and 2 · 1/12 + 1/10 = 4/15.
    "grad_cam_plus_plus": [[17 / 72, 34 / 72 + 24 / 15], [8 / 15, 68 / 72]],
    # α sums to −19/720 and 4/15: the weights are −170/19 and 1.
    "grad_cam_plus_plus_normalised": [[-170 / 19, 6 - 340 / 19], [2, -680 / 19]],
    "hires_cam": [[1, 1], [-2, 0]],
    "layer_cam": [[1, 3], [0, 0]],
}


@pytest.mark.parametrize("method", METHODS)
def test_the_map_by_hand(method):
    expected = np.maximum(BY_HAND[method], 0.0) / np.max(BY_HAND[method])
    explained = ClassActivationMap(flat_head(), (2, 2), method, target=0)(MAPS[None])
    np.testing.assert_allclose(explained["saliency"][0, :, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(explained["logits"], [[0.0, 12.0]], atol=1e-6)


def test_which_class_is_explained():
    """Class 1 has the higher logit, and its map is one pixel."""
    head = flat_head()
    batch = np.stack([MAPS, MAPS])

    def maps_of(target, labels=None):
        return ClassActivationMap(head, (2, 2), "hires_cam", target)(batch, labels)["saliency"][..., 0].numpy()

    zero, one = [[1, 1], [0, 0]], [[0, 0], [0, 1]]
    np.testing.assert_allclose(maps_of("predicted"), [one, one], atol=1e-6)
    np.testing.assert_allclose(maps_of("true", np.array([1, 0])), [one, zero], atol=1e-6)
    np.testing.assert_allclose(maps_of(0), [zero, zero], atol=1e-6)
    with pytest.raises(ValueError, match="needs `labels`"):
        maps_of("true")


def test_maps_are_resized_bilinearly_after_the_division():
    saliency = ClassActivationMap(flat_head(), (4, 4), "hires_cam", target=1)(MAPS[None])["saliency"][0, :, :, 0]
    edge = np.array([0.0, 0.25, 0.75, 1.0])
    np.testing.assert_allclose(saliency, np.outer(edge, edge), atol=1e-6)


def test_an_all_zero_map_stays_zero_and_has_a_gradient_without_nan():
    values = tf.Variable(-np.ones((2, 3, 3, 1), np.float32))
    with tf.GradientTape() as tape:
        saliency = normalise_map(values)
        total = tf.reduce_sum(saliency)
    assert np.all(saliency == 0.0)
    assert np.isfinite(tape.gradient(total, values)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["no gradient", "no maps", "nothing for the class"])
def test_where_there_is_nothing_to_see_everything_stays_finite(method, kind):
    head = flat_head()
    maps = tf.Variable(np.zeros((1, 2, 2, 2), np.float32) if kind == "no maps" else MAPS[None])
    factor = {"no gradient": 0.0, "no maps": 1.0, "nothing for the class": -1.0}[kind]
    head.set_weights([factor * np.abs(weight) for weight in head.get_weights()])
    layer = ClassActivationMap(head, (4, 4), method, target=0)
    with tf.GradientTape() as tape:
        saliency = layer(maps)["saliency"]
        total = tf.reduce_sum(saliency)
    assert np.all(saliency == 0.0)
    for gradient in tape.gradient(total, [maps, *head.trainable_weights], unconnected_gradients="zero"):
        assert np.isfinite(gradient).all()


def test_a_pole_of_grad_cam_plus_plus_is_left_out():
    """2 + g ΣA = 0, where the formula has no value."""
    head = flat_head()
    head.set_weights([np.full((8, 2), 0.5, np.float32)])
    maps = np.stack([np.full((2, 2), -1.0), np.ones((2, 2))], -1).astype(np.float32)[None]
    for method in ("grad_cam_plus_plus", "grad_cam_plus_plus_normalised"):
        saliency = ClassActivationMap(head, (2, 2), method, target=0)(maps)["saliency"]
        np.testing.assert_allclose(saliency, np.ones((1, 2, 2, 1)), atol=1e-6)


def convolutional_head(feature_shape, classes):
    """SqueezeNet's own: convolution to the classes, ReLU, mean."""
    maps = keras.Input(feature_shape)
    outputs = keras.layers.Dropout(0.5)(maps)
    outputs = keras.layers.Conv2D(classes, 1, bias_initializer=keras.initializers.Constant(0.5))(outputs)
    outputs = keras.layers.GlobalAveragePooling2D()(Rectifier()(outputs))
    return keras.Model(maps, outputs)


@pytest.fixture(scope="module", params=["small_cnn", "mobilenet_v2", "squeezenet_1_1"])
def network(request):
    """Backbone, head and feature maps of four images."""
    keras.utils.set_random_seed(3)
    features = build_backbone(request.param, (64, 64, 3))
    head = build_classifier(features, 3, units=8).head
    if request.param == "squeezenet_1_1":
        head = convolutional_head(features.output_shape[1:], 3)
    image = np.random.default_rng(0).uniform(size=(4, 64, 64, 3)).astype(np.float32)
    return features, head, image, features(image, training=False)


LABELS = np.array([0, 2, 1, 1])


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_plus_plus_normalised"])
def test_agrees_with_tf_keras_vis(network, method):
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.utils.scores import CategoricalScore

    features, head, image, maps = network
    flat = keras.Model(features.input, head(features.output))
    theirs = (Gradcam if method == "grad_cam" else GradcamPlusPlus)(flat, clone=False)(
        CategoricalScore(LABELS.tolist()),
        image,
        penultimate_layer=features.layers[-1].name,
        seek_penultimate_conv_layer=False,
        expand_cam=False,
        normalize_cam=False,
    )
    theirs = np.asarray(theirs, np.float64)
    highest = theirs.max((1, 2), keepdims=True)
    shown = highest.ravel() > 0
    assert shown.sum() >= 2, "else nothing is compared"
    ours = ClassActivationMap(head, maps.shape[1:3], method, "true")(maps, LABELS)["saliency"][..., 0].numpy()
    np.testing.assert_allclose(ours[shown], (theirs / np.where(highest > 0, highest, 1.0))[shown], rtol=1e-5, atol=1e-5)
    assert np.all(ours[~shown] == 0.0)


def test_the_paper_differs_from_tf_keras_vis_by_the_division_only(network):
    """In the weights of Grad-CAM++; with literal powers of the gradient, in double precision."""
    _, head, _, maps = network
    with tf.GradientTape() as tape:
        tape.watch(maps)
        score = tf.reduce_sum(tf.gather(head(maps, training=False), LABELS, batch_dims=1))
    gradients = np.asarray(tape.gradient(score, maps), np.float64)
    values = np.asarray(maps, np.float64)
    denominator = 2 * gradients**2 + values.sum((1, 2), keepdims=True) * gradients**3
    shares = np.divide(gradients**2, denominator, np.zeros_like(values), where=gradients != 0)
    positive = np.maximum(gradients, 0)
    for method, divisor in (("", 1.0), ("_normalised", shares.sum((1, 2), keepdims=True))):
        divisor = np.where(np.equal(divisor, 0), 1.0, divisor)
        expected = np.maximum(((shares / divisor * positive).sum((1, 2), keepdims=True) * values).sum(-1), 0)
        highest = expected.max((1, 2), keepdims=True)
        expected /= np.where(highest > 0, highest, 1.0)
        ours = ClassActivationMap(head, maps.shape[1:3], f"grad_cam_plus_plus{method}", "true")(maps, LABELS)
        np.testing.assert_allclose(ours["saliency"][..., 0], expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def small_classifier():
    keras.utils.set_random_seed(3)
    return build_classifier(build_backbone("small_cnn", (32, 32, 3)), 3, units=8)


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_call_agrees(small_classifier, tmp_path, method):
    """Eager, graph, functional, `.keras`, LiteRT and mixed precision; then XLA and SavedModel."""
    maps = np.random.default_rng(1).uniform(size=(3, 4, 4, 128)).astype(np.float32)
    layer = check_layer(
        lambda: ClassActivationMap(small_classifier.head, (32, 32), method), [maps], tmp_path, trainable=True
    )
    expected = layer(maps)
    assert np.ptp(expected["saliency"]) > 0.1
    assert_close(tf.function(layer, jit_compile=True)(maps), expected)
    inputs = keras.Input(maps.shape[1:], name="maps")
    model = keras.Model(inputs, layer(inputs))
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"](maps=tf.constant(maps))
    assert_close({name: served[name] for name in expected}, expected)


def test_the_true_class_in_every_way(small_classifier, tmp_path):
    maps = np.random.default_rng(1).uniform(size=(3, 4, 4, 128)).astype(np.float32)
    labels = np.array([2, 0, 1], np.int32)
    make = lambda: ClassActivationMap(small_classifier.head, (8, 8), target="true")  # noqa: E731
    check_layer(make, [maps, labels], tmp_path, trainable=True)


def test_the_step_through_a_map_is_the_same_under_xla(small_classifier):
    maps = tf.constant(np.random.default_rng(2).uniform(size=(2, 4, 4, 128)), tf.float32)
    layer = ClassActivationMap(small_classifier.head, (8, 8), "grad_cam_plus_plus")
    layer(maps)

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(maps)
            total = tf.reduce_sum(layer(maps)["saliency"] ** 2)
        return tape.gradient(total, maps)

    compiled = tf.function(gradient, jit_compile=True)()
    np.testing.assert_allclose(compiled, gradient(), atol=1e-5 * np.abs(compiled).max())


@pytest.mark.parametrize("method", METHODS)
def test_it_can_be_trained_through(method):
    """The gradient of the map by the head's weights: the second-order term that CEntIoU lives on."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((4, 4, 6))
    # Smooth, or a finite difference would step over kinks; and different at every pixel.
    hidden = keras.layers.Dense(5, activation="softplus", name="hidden")(keras.layers.Flatten()(inputs))
    head = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    layer = ClassActivationMap(head, (8, 8), method, "true")
    maps = tf.constant(np.random.default_rng(2).uniform(size=(2, 4, 4, 6)), tf.float32)
    region = np.zeros((2, 8, 8, 1), np.float32)
    region[:, 2:5, 3:6] = 1.0

    def inside():
        saliency = layer(maps, np.array([0, 1]))["saliency"]
        return tf.reduce_sum(saliency * region) / tf.reduce_sum(saliency)

    check_gradient(inside, [head.get_layer("hidden").kernel], step=1e-3, tolerance=0.1)


def test_tokens_are_put_on_the_grid():
    """Row by row, without the class token in front."""
    tokens = keras.Input((5, 2))
    dense = keras.layers.Dense(2, use_bias=False)
    head = keras.Model(tokens, dense(keras.layers.Flatten()(tokens)))
    class_token = np.full((1, 2), 9.0, np.float32)
    kernel = np.stack([np.concatenate([class_token, flat.reshape(4, 2)]).ravel() for flat in (GRADIENTS, OTHERS)], -1)
    dense.set_weights([kernel])
    values = np.concatenate([class_token, MAPS.reshape(4, 2)])[None]
    for method in METHODS:
        expected = ClassActivationMap(flat_head(), (6, 6), method, 0)(MAPS[None])["saliency"]
        layer = ClassActivationMap(head, (6, 6), method, 0, grid=(2, 2))
        np.testing.assert_allclose(layer(values)["saliency"], expected, atol=1e-6)
    for grid in (None, (2, 3)):
        with pytest.raises(ValueError, match="tokens .* need a `grid`"):
            ClassActivationMap(head, (6, 6), target=0, grid=grid)(values)


def per_pixel_head(kernel, bias):
    maps = keras.Input((2, 2, 2))
    layer = keras.layers.Conv2D(len(bias), 1)
    head = keras.Model(maps, layer(maps))
    layer.set_weights([np.array(kernel, np.float32)[None, None], np.array(bias, np.float32)])
    return head


def test_a_mask_is_explained_by_its_own_pixels():
    # The logits A_1 − A_2 − 2 are positive at the last pixel only, where A_1 − A_2 is 4; at the first it is 1.
    head = per_pixel_head([[1.0], [-1.0]], [-2.0])
    explained = ClassActivationMap(head, (2, 2), "hires_cam", 0)(MAPS[None])
    np.testing.assert_allclose(explained["logits"][0, :, :, 0], [[-1, -6], [-4, 2]])
    np.testing.assert_allclose(explained["saliency"][0, :, :, 0], [[0, 0], [0, 1]], atol=1e-6)
    # The mean gradients are 1/4 and −1/4: Σ α A is a quarter of A_1 − A_2 everywhere.
    averaged = ClassActivationMap(head, (2, 2), "grad_cam", 0)(MAPS[None])["saliency"]
    np.testing.assert_allclose(averaged[0, :, :, 0], [[0.25, 0], [0, 1]], atol=1e-6)


def test_of_several_mask_classes_the_pixels_that_it_wins_count():
    # Class 1 has the logits A_2 against A_1 + 3: it wins 6 : 5 at the second pixel, and loses 2 : 3 at the third.
    head = per_pixel_head([[1.0, 0.0, 0.1], [0.0, 1.0, 0.0]], [3.0, 0.0, 0.0])
    saliency = ClassActivationMap(head, (2, 2), "hires_cam", 1)(MAPS[None])["saliency"]
    np.testing.assert_allclose(saliency[0, :, :, 0], [[0, 1], [0, 0]], atol=1e-6)
    nowhere = ClassActivationMap(head, (2, 2), "grad_cam", 2)(MAPS[None])["saliency"]
    assert np.all(nowhere == 0.0)
    with pytest.raises(ValueError, match="mask logits need a class index.*'predicted'"):
        ClassActivationMap(head, (2, 2))(MAPS[None])


def test_mask_maps_export(tmp_path):
    head = per_pixel_head([[1.0, 0.0, 0.1], [0.0, 1.0, 0.0]], [3.0, 0.0, 0.0])
    check_layer(lambda: ClassActivationMap(head, (5, 5), "layer_cam", 1), [MAPS[None]], tmp_path, trainable=True)


def test_what_is_no_head_no_method_and_no_class_is_refused():
    head = flat_head()
    with pytest.raises(ValueError, match="head"):
        ClassActivationMap(lambda maps: maps, (8, 8))
    with pytest.raises(ValueError, match="one of grad_cam, .*'gradcam'"):
        ClassActivationMap(head, (8, 8), "gradcam")
    for target in ("best", -1, 0.5, True):
        with pytest.raises(ValueError, match="'predicted', 'true' or a class index"):
            ClassActivationMap(head, (8, 8), target=target)
    with pytest.raises(ValueError, match="below the 2 classes. Received: 2"):
        ClassActivationMap(head, (8, 8), target=2)(MAPS[None])
