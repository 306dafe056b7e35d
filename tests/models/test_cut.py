"""A model cut at an inner layer: the same function, maps of that layer, and an export that runs on a phone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import assert_close, check_gradient, check_litert

from tfseg.errors import ConfigError, ExportError
from tfseg.export.mobile import export_litert
from tfseg.layers.saliency import METHODS, ClassActivationMap
from tfseg.models.backbones import BACKBONES, build_backbone, convolution_block
from tfseg.models.backbones.swin import swin
from tfseg.models.backbones.vit import vit
from tfseg.models.classifier import Classifier, build_classifier, build_head, inference_graph
from tfseg.models.cut import cut
from tfseg.models.unet import unet
from tfseg.training.centiou import CEntIoUModel

SIDE = 48


def pictures(count=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, SIDE, SIDE, 3)).astype(np.float32)


def residual():
    """Two paths: what is cut inside of a block leaves the other one beside it."""
    image = keras.Input((SIDE, SIDE, 3), name="image")
    start = convolution_block(image, 6, "start", strides=2)
    inside = convolution_block(start, 6, "inside")
    joined = keras.layers.Add(name="joined")([start, inside])
    return keras.Model(image, convolution_block(joined, 8, "end", strides=2), name="features")


# The layer, and how many tensors pass by it.
NETWORKS = {
    "between blocks": (residual, "joined", 0),
    "inside a block": (residual, "inside_relu", 1),
    "squeezenet": (lambda: build_backbone("squeezenet_1_1", (SIDE, SIDE, 3)), "fire9_relu_expand3x3", 1),
    "vit": (lambda: vit((SIDE, SIDE, 3), width=16, depth=2, heads=2), "block1", 0),
    "swin": (lambda: swin((SIDE, SIDE, 3), 8, (1, 1), (1, 2), window=3), "stage1", 0),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """A classifier with weights away from their start, the cut's layer and number of tensors."""
    keras.utils.set_random_seed(1)
    build, layer, past = NETWORKS[request.param]
    classifier = build_classifier(build(), 3, units=None)
    return classifier, layer, past


def expected_map(classifier, layer, images, method):
    """The method's map of the layer's output, from a tape over the whole untouched network."""
    probe = keras.Model(
        classifier.features.input,
        [classifier.features.get_layer(layer).output, classifier.head(classifier.features.output)],
    )
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps, logits = probe(images, training=False)
        best = tf.reduce_max(logits, -1)
    gradients = tape.gradient(best, maps)
    if len(maps.shape) == 3:  # Tokens, of which the first is no patch.
        rows, columns = classifier.features.output_shape[1:3]
        maps, gradients = (tf.reshape(value[:, 1:], (-1, rows, columns, maps.shape[-1])) for value in (maps, gradients))
    saliency = np.maximum(np.sum(METHODS[method](maps, gradients) * maps, -1), 0.0)
    highest = saliency.max((1, 2), keepdims=True)
    return saliency / np.where(highest > 0, highest, 1.0), logits


def test_both_parts_together_are_the_network(network):
    classifier, layer, past = network
    lower, upper = cut(classifier.features, layer, classifier.head)
    between = lower(pictures(), training=False)
    assert len(keras.tree.flatten(between)) == 1 + past
    assert_close(upper(between, training=False), classifier.head(classifier.features(pictures(), training=False)))
    assert {id(weight) for weight in lower.weights + upper.weights} == {
        id(weight) for weight in classifier.features.weights + classifier.head.weights
    }


def test_the_map_is_that_of_the_inner_layer(network):
    classifier, layer, _ = network
    lower, upper = cut(classifier.features, layer, classifier.head)
    maps = lower(pictures(), training=False)
    for method in METHODS:
        expected, logits = expected_map(classifier, layer, pictures(), method)
        explain = ClassActivationMap(upper, expected.shape[1:], method, grid=classifier.features.output_shape[1:3])
        explained = explain(maps)
        np.testing.assert_allclose(explained["saliency"][..., 0], expected, atol=1e-5)
        assert_close(explained["logits"], logits)


def test_the_graph_with_an_inner_map_exports_and_is_saved(network, tmp_path):
    classifier, layer, _ = network
    graph = inference_graph(classifier, ("a", "b", "c"), saliency="layer_cam", saliency_layer=layer)
    outputs = graph(pictures())
    last = inference_graph(classifier, ("a", "b", "c"), saliency="layer_cam")(pictures())
    assert_close(outputs["probabilities"], last["probabilities"])
    assert np.abs(outputs["saliency"] - last["saliency"]).max() > 0.01, "it is another layer's map"
    graph.save(tmp_path / "model.keras")
    assert_close(keras.saving.load_model(tmp_path / "model.keras")(pictures()), outputs)
    check_litert(graph, [pictures()], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("small_cnn", "stage3_relu"),
        ("mobilenet_v2", "block_13_expand_relu"),
        ("efficientnet_b0", "block6a_expand_activation"),
        ("convnext_tiny", "stage3"),
        ("xception", "block14_sepconv1_act"),
        ("resnet34", "stack3_block0_out"),
        ("resnet50", "conv5_block1_out"),
        ("densenet121", "conv5_block10_concat"),
        ("shufflenet_v2_x0_5", "stage4_0"),
    ],
)
def test_inner_maps_of_the_backbones_export(name, layer, tmp_path):
    keras.utils.set_random_seed(1)
    side = max(64, BACKBONES[name].smallest)
    classifier = build_classifier(build_backbone(name, (side, side, 3)), 3)
    graph = inference_graph(classifier, ("a", "b", "c"), saliency="grad_cam_plus_plus", saliency_layer=layer)
    check_litert(graph, [np.random.default_rng(0).uniform(size=(2, side, side, 3)).astype(np.float32)], tmp_path)


def test_xla():
    keras.utils.set_random_seed(1)
    graph = inference_graph(build_classifier(residual(), 3), ("a", "b", "c"), saliency_layer="inside_relu")
    assert_close(tf.function(graph, jit_compile=True)(pictures()), graph(pictures()))


def test_a_tape_over_a_pool_works_in_keras_and_is_refused_for_phones(tmp_path):
    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    pooled = keras.layers.MaxPooling2D()(convolution_block(image, 6, "early"))
    features = keras.Model(image, convolution_block(pooled, 8, "late"), name="features")
    classifier = build_classifier(features, 3)
    graph = inference_graph(classifier, ("a", "b", "c"), saliency_layer="early_relu")
    expected, _ = expected_map(classifier, "early_relu", pictures(), "grad_cam")
    np.testing.assert_allclose(graph(pictures())["saliency"][..., 0], expected, atol=1e-5)
    assert np.ptp(expected) > 0.1
    with pytest.raises(ExportError, match="FlexMaxPoolGrad"):
        export_litert(graph, tmp_path / "model.tflite")


def test_a_segmenter_is_explained_at_its_bottleneck():
    """Against Seg-Grad-CAM written down once more, on a U-Net whose skip connections pass the cut."""
    keras.utils.set_random_seed(2)
    segmenter = unet((SIDE, SIDE, 3), classes=3, width=4, depth=2)
    lower, upper = cut(segmenter, "down2_b_relu")
    between = lower(pictures(), training=False)
    assert len(between) == 1 + 2, "the bottleneck and two skips"
    explained = ClassActivationMap(upper, (12, 12), "grad_cam", target=1)(between)
    assert_close(explained["logits"], segmenter(pictures(), training=False))
    probe = keras.Model(segmenter.input, [segmenter.get_layer("down2_b_relu").output, segmenter.output])
    images = tf.constant(pictures())
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps, logits = probe(images, training=False)
        predicted = np.argmax(logits, -1) == 1
        score = tf.reduce_sum(tf.where(predicted, logits[..., 1], 0.0))
    assert predicted.any((1, 2)).all()
    weights = tf.reduce_mean(tape.gradient(score, maps), (1, 2), keepdims=True)
    expected = np.maximum(tf.reduce_sum(weights * maps, -1), 0.0)
    highest = expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(explained["saliency"][..., 0], expected / np.where(highest > 0, highest, 1.0), atol=1e-5)
    assert (highest > 0).any()


def smooth_classifier():
    keras.utils.set_random_seed(6)
    image = keras.Input((8, 8, 3), name="image")
    inner = keras.layers.Conv2D(4, 3, padding="same", activation="softplus", name="inner")(image)
    maps = keras.layers.Conv2D(4, 3, padding="same", activation="softplus", name="outer")(inner)
    return Classifier(keras.Model(image, maps, name="features"), build_head((8, 8, 4), 3, None))


def test_centiou_trains_through_an_inner_map():
    classifier = smooth_classifier()
    generator = np.random.default_rng(1)
    image = generator.uniform(size=(4, 8, 8, 3)).astype(np.float32)
    lesion = np.zeros((4, 8, 8, 1), np.float32)
    lesion[:, 1:5, 2:6] = 1.0
    targets = {"label": np.array([0, 1, 2, 0]), "lesion": lesion, "valid": np.ones_like(lesion)}
    model = CEntIoUModel(classifier, 0.3, saliency="hires_cam", saliency_layer="inner")
    assert len(model.trainable_weights) == 6
    assert np.sum(model.objective(image, targets)[1]["iou"] > 0.05) >= 2, "else there is no map to go through"
    variables = [classifier.features.get_layer(name).kernel for name in ("inner", "outer")]
    check_gradient(lambda: model.objective(image, targets)[0], variables, step=2e-3, tolerance=5e-2, count=8)
    assert_close(model(image), classifier.head(classifier.features(image)))


def test_what_cannot_be_cut():
    features = build_backbone("small_cnn", (SIDE, SIDE, 3))
    with pytest.raises(ConfigError, match="features has no layer named 'stage9'"):
        cut(features, "stage9")
    image = keras.Input((SIDE, SIDE, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(image)
    model = keras.Model(image, keras.layers.Dense(2, name="logits")(pooled), name="small")
    with pytest.raises(ConfigError, match="layer pooled of small gives no feature maps"):
        cut(model, "pooled")
