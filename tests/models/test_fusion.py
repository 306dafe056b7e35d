"""Classifiers of two branches: heads by hand, what each branch sees, maps of both, and the graph wherever it runs."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import assert_close, check_layer

from tfseg.data.cases import MaskClasses
from tfseg.errors import ConfigError
from tfseg.export.mobile import export_litert
from tfseg.export.predictor import load_predictor
from tfseg.export.serving import export_saved_model
from tfseg.layers.branches import MASK_INPUTS, BranchActivationMaps, ClassMap, OnGrid
from tfseg.layers.outputs import model_info
from tfseg.models.backbones import build_backbone, convolution_block, freeze_first
from tfseg.models.classifier import build_classifier
from tfseg.models.fusion import (
    POOLINGS,
    build_fusion,
    build_fusion_head,
    class_map,
    class_map_graph,
    fusion_graph,
    head_parameters,
)
from tfseg.models.unet import unet

CELL = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), 255)
CLASSES = ("benign", "high", "low")
SIDE, MASK_SIDE, UNITS = 32, 40, 6


def pictures(count=2, seed=0):
    """Images that eight bits hold exactly, and the bytes."""
    whole = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)
    return whole.astype(np.float32) / 255.0, whole


def class_maps(count=2, seed=1, side=MASK_SIDE):
    values = np.random.default_rng(seed).uniform(size=(count, side, side, 3)).astype(np.float32)
    return values / values.sum(-1, keepdims=True)


def branch(side, filters):
    """A network of two convolutions: side / 8 rows and columns."""
    image = keras.Input((side, side, 3), name="image")
    outputs = convolution_block(image, filters, "first", strides=4)
    return keras.Model(image, convolution_block(outputs, filters, "second", strides=2), name="features")


def made(pooling, mask_side=MASK_SIDE, dropout=0.5):
    """Weights away from their start, so that nothing is symmetric and probabilities differ between images."""
    keras.utils.set_random_seed(3)
    fusion = build_fusion(branch(SIDE, 8), branch(mask_side, 5), 3, pooling, UNITS, dropout)
    generator = np.random.default_rng(4)
    for weight in fusion.head.weights:
        weight.assign(generator.normal(0.0, 0.4, weight.shape))
    return fusion


@pytest.fixture(scope="module", params=POOLINGS)
def pooling(request):
    return request.param


@pytest.fixture(scope="module")
def fusion(pooling):
    return made(pooling)


@pytest.fixture(scope="module")
def segmenter():
    keras.utils.set_random_seed(1)
    return unet((SIDE, SIDE, 3), CELL.channels, width=4, depth=1, norm=None)


def named(head):
    """Layers of the head and of its dense part by their names."""
    return {layer.name: layer for layer in (*head.layers, *head.get_layer("head").layers)}


def set_weights(head, **values):
    """Kernels and biases by the layer's name."""
    for name, (kernel, bias) in values.items():
        named(head)[name].set_weights([np.array(kernel, np.float32), np.array(bias, np.float32)])


def test_the_flattened_head_by_hand():
    """Mask maps of 2×4 on a grid of 1×2: means of 2×2 blocks, 2 and 6; flat: 10, 2, 20, 6."""
    head = build_fusion_head((1, 2, 1), (2, 4, 1), 2, "flatten", units=None, dropout=0.5)
    set_weights(head, logits=([[1, 0], [10, 0], [0, 1], [0, 10]], [0, 0.5]))
    image = np.array([10, 20], np.float32).reshape((1, 1, 2, 1))
    mask = np.array([[0, 2, 4, 6], [2, 4, 6, 8]], np.float32).reshape((1, 2, 4, 1))
    np.testing.assert_allclose(head([image, mask], training=False), [[30.0, 80.5]])


def test_the_pooled_head_by_hand():
    """Means 2, and 4 and 1; hidden ReLU(2 + 4 + 0.5, 2 − 4 − 1) = (6.5, 0)."""
    head = build_fusion_head((1, 2, 1), (2, 1, 2), 2, "gap", units=2, dropout=0.5)
    set_weights(head, hidden=([[1, 1], [1, -1], [0, -1]], [0.5, 0]), logits=([[2, 0], [1, 1]], [0, 0.25]))
    image = np.array([1, 3], np.float32).reshape((1, 1, 2, 1))
    mask = np.array([[8, 0], [0, 2]], np.float32).reshape((1, 2, 1, 2))
    np.testing.assert_allclose(head([image, mask], training=False), [[13.0, 0.25]])


def test_the_gated_head_by_hand():
    """Means 2 and 4. First unit: 6 and 2 with a share of 3/4, so 3. Second: ReLU(−2) = 0 and 8 with 1/2, so 4."""
    head = build_fusion_head((1, 2, 1), (1, 1, 1), 2, "gate", units=2, dropout=0.5)
    set_weights(
        head,
        image_hidden=([[3, -1]], [0, 0]),
        mask_hidden=([[0.5, 2]], [0, 0]),
        gate_logits=([[1, 2], [-1, -1]], [2 + np.log(3.0), 0]),
        logits=([[1, 0], [0, 1]], [0, 0.5]),
    )
    image = np.array([1, 3], np.float32).reshape((1, 1, 2, 1))
    np.testing.assert_allclose(
        head([image, np.full((1, 1, 1, 1), 4.0, np.float32)], training=False), [[3.0, 4.5]], rtol=1e-6
    )


@pytest.mark.parametrize(("before", "after"), [((3, 5), (4, 7)), ((6, 6), (4, 4)), ((1, 1), (2, 3)), ((4, 2), (4, 3))])
def test_maps_are_resized_as_tensorflow_does(before, after):
    maps = np.random.default_rng(0).normal(size=(2, *before, 3)).astype(np.float32)
    layer = OnGrid(after)
    np.testing.assert_allclose(layer(maps), tf.image.resize(maps, after), atol=1e-6)
    assert OnGrid.from_config(layer.get_config()).grid == after


def test_how_many_weights_a_head_has():
    def dense(width, units, classes):
        return width * units + units + units * classes + classes

    shapes = (2, 3, 5), (4, 4, 7)
    assert head_parameters(*shapes, 3, "flatten", 6) == dense(2 * 3 * 12, 6, 3)
    assert head_parameters(*shapes, 3, "flatten", None) == 2 * 3 * 12 * 3 + 3
    assert head_parameters(*shapes, 3, "gap", 6) == dense(12, 6, 3)
    assert head_parameters(*shapes, 3, "gate", 6) == 2 * 12 * 6 + 3 * 6 + 6 * 3 + 3
    # As documented, for two branches of 7×7×2048, and one.
    pooled = (1, 1, 2048), (1, 1, 2048)
    assert head_parameters(*pooled, 4, "gap") == 262_468 == dense(4096, 64, 4)
    assert head_parameters(*pooled, 4, "gate") == 524_740
    assert dense(49 * 4096, 64, 4) == 12_845_380
    assert dense(2048, 64, 4) == 131_396


@pytest.mark.parametrize(
    ("channels", "kind", "pixel", "expected"),
    [
        (1, "softmax", [0.25], [0.75, 0.25, 0.0]),
        (1, "argmax", [0.25], [1.0, 0.0, 0.0]),
        (1, "argmax", [0.5], [0.0, 1.0, 0.0]),
        (2, "softmax", [0.4, 0.6], [0.4, 0.6, 0.0]),
        (2, "argmax", [0.4, 0.6], [0.0, 1.0, 0.0]),
        (3, "softmax", [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        (3, "argmax", [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]),
    ],
)
def test_the_class_map_by_hand(channels, kind, pixel, expected):
    np.testing.assert_allclose(ClassMap(kind)(np.array([[[pixel]]], np.float32)), [[[expected]]])


@pytest.mark.parametrize(("channels", "kind"), [(1, "softmax"), (2, "argmax")])
def test_the_class_map_as_a_layer(channels, kind, tmp_path):
    probabilities = np.random.default_rng(0).uniform(size=(1, 4, 5, channels)).astype(np.float32)
    check_layer(lambda: ClassMap(kind), [probabilities], tmp_path)


def test_what_cannot_be_built(segmenter):
    with pytest.raises(ConfigError, match="at most 3 mask classes, the mask has 4"):
        ClassMap()(np.zeros((1, 2, 2, 4), np.float32))
    with pytest.raises(ConfigError, match="`mask_input` must be one of softmax, argmax, received 'hard'"):
        ClassMap("hard")
    with pytest.raises(ConfigError, match="`mask_input` must be one of"):
        build_fusion(branch(SIDE, 8), branch(SIDE, 5), 3, mask_input="hard")
    with pytest.raises(ConfigError, match="`pooling` must be one of flatten, gap, gate, received 'mean'"):
        build_fusion_head((2, 2, 3), (2, 2, 3), 2, "mean")
    with pytest.raises(ConfigError, match="gate needs `units`, received None"):
        build_fusion_head((2, 2, 3), (2, 2, 3), 2, "gate", units=None)
    with pytest.raises(ConfigError, match="at least two classes, received 1"):
        build_fusion_head((2, 2, 3), (2, 2, 3), 1)
    with pytest.raises(ValueError, match="mask classes"):
        fusion_graph(made("gap"), CLASSES, "fusion_gap", segmenter, MaskClasses())
    with pytest.raises(ConfigError, match="approach fusion_gate needs a segmenter"):
        fusion_graph(made("gate"), CLASSES, "fusion_gate")


def test_the_branches_are_the_networks_that_were_given():
    """Same layers in the same order, so that freezing counts the same; small images for one of them."""
    image, mask = build_backbone("small_cnn", (SIDE, SIDE, 3)), build_backbone("small_cnn", (MASK_SIDE, MASK_SIDE, 3))
    fusion = build_fusion(image, mask, 4, "gap", dropout=0.5)
    assert all(weight is other for weight, other in zip(fusion.image_features.weights, image.weights, strict=True))
    assert fusion.image_features.layers == image.layers and fusion.mask_features.layers == mask.layers
    freeze_first(fusion.mask_features, 4)
    assert sum(not layer.trainable for layer in mask.layers) == 4 and all(layer.trainable for layer in image.layers)
    assert fusion.logits_model().output_shape == (None, 4)


def test_every_weight_of_both_branches_learns(pooling):
    fusion = made(pooling)
    model = fusion.logits_model()
    with tf.GradientTape() as tape:
        logits = model({"image": pictures()[0], "classes": class_maps()}, training=True)
        loss = keras.losses.sparse_categorical_crossentropy(np.array([0, 2]), logits, from_logits=True)
    for weight, gradient in zip(model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True):
        assert gradient is not None and np.isfinite(gradient).all(), weight.path
    parts = (fusion.image_features, fusion.mask_features, fusion.head)
    assert len(model.trainable_weights) == sum(len(part.trainable_weights) for part in parts)


def without(fusion, silent):
    """The pooled head with the weights of one branch set to zero."""
    hidden = fusion.head.get_layer("head").get_layer("hidden")
    kernel, bias = hidden.get_weights()
    image_channels = fusion.image_features.output_shape[-1]
    kernel[slice(None, image_channels) if silent == "image" else slice(image_channels, None)] = 0.0
    hidden.set_weights([kernel, bias])
    return fusion


@pytest.mark.parametrize("silent", ["image", "classes"])
def test_each_input_reaches_the_logits_through_its_own_branch(silent):
    model = without(made("gap"), silent).logits_model()
    given = {"image": pictures()[0], "classes": class_maps()}
    expected = model(given, training=False)
    other = {"image": pictures(seed=8)[0], "classes": np.zeros_like(given["classes"])}
    for name in given:
        change = np.abs(model({**given, name: other[name]}, training=False) - expected).max()
        assert change == 0.0 if name == silent else change > 1e-3, name


def test_without_the_masks_branch_it_is_the_classical_classifier():
    fusion = without(made("gap"), "classes")
    classical = build_classifier(fusion.image_features, 3, UNITS)
    kernel, *others = fusion.head.get_weights()
    classical.head.set_weights([kernel[: fusion.image_features.output_shape[-1]], *others])
    images = pictures()[0]
    logits = fusion.logits_model()({"image": images, "classes": class_maps()}, training=False)
    assert_close(logits, classical.logits_model()({"image": images}, training=False))


@pytest.mark.parametrize("mask_input", MASK_INPUTS)
@pytest.mark.parametrize("side", [SIDE, MASK_SIDE, 24])
def test_the_masks_branch_has_a_size_of_its_own(side, mask_input):
    fusion, images = replace(made("flatten", side), mask_input=mask_input), pictures()[0]
    classes = class_maps(side=side)
    seen = np.eye(3, dtype=np.float32)[classes.argmax(-1)] if mask_input == "argmax" else classes
    maps = [fusion.image_features(images, training=False), fusion.mask_features(seen, training=False)]
    logits = fusion.logits_model()({"image": images, "classes": classes}, training=False)
    assert_close(logits, fusion.head(maps, training=False))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [SIDE, 24])
def test_the_class_map_is_made_of_resized_logits(channels, side):
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(2, SIDE, SIDE, channels)).astype(np.float32)
    names = MaskClasses() if channels == 1 else CELL
    found = np.asarray(class_map(logits, names, (side, side)))
    resized = np.asarray(tf.image.resize(logits, (side, side)))
    if channels == 1:
        lesion = 1.0 / (1.0 + np.exp(-resized[..., 0]))
        expected = np.stack([1.0 - lesion, lesion, np.zeros_like(lesion)], -1)
    else:
        expected = np.exp(resized) / np.exp(resized).sum(-1, keepdims=True)
    assert_close(found, expected)


def test_the_segmenters_class_maps_as_a_graph(fusion, segmenter):
    """What is computed once per case is what the whole graph computes on its way."""
    images = pictures()[0]
    classes = class_map_graph(segmenter, CELL, (MASK_SIDE, MASK_SIDE))(images)["classes"]
    logits = fusion.logits_model()({"image": images, "classes": np.asarray(classes)}, training=False)
    outputs = fusion_graph(fusion, CLASSES, "fusion_gap", segmenter, CELL)(images)
    assert_close(outputs["probabilities"], keras.ops.softmax(logits))


@pytest.mark.parametrize("mask_input", ["softmax", "argmax"])
def test_the_graph_predicts_what_was_trained(fusion, segmenter, mask_input):
    fusion, images = replace(fusion, mask_input=mask_input), pictures()[0]
    graph = fusion_graph(fusion, CLASSES, "fusion_gap", segmenter, CELL, resize="pad")
    outputs = graph(images)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "mask": (2, SIDE, SIDE, 3),
        "probabilities": (2, 3),
        "saliency": (2, SIDE, SIDE, 1),
        "saliency_mask": (2, SIDE, SIDE, 1),
    }
    assert_close(outputs["mask"], keras.ops.softmax(segmenter(images, training=False)))
    seen = tf.nn.softmax(tf.image.resize(segmenter(images, training=False), (MASK_SIDE, MASK_SIDE)))
    if mask_input == "argmax":
        seen = np.eye(3, dtype=np.float32)[np.asarray(seen).argmax(-1)]
    maps = [fusion.image_features(images, training=False), fusion.mask_features(seen, training=False)]
    logits = fusion.head(maps, training=False)
    assert_close(outputs["probabilities"], keras.ops.softmax(logits))
    info = model_info(graph)
    assert (info.classes, info.image_size, info.resize, info.mask_classes) == (CLASSES, SIDE, "pad", CELL)
    assert info.outputs == ("probabilities", "mask", "saliency", "saliency_mask")


def interpolation(before, after):
    """Linear, between the centres of pixels. TensorFlow has no second derivative of its own."""
    centres = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    return np.maximum(1.0 - np.abs(centres[:, None] - np.arange(before)), 0.0).astype(np.float32)


def plain_logits(pooling, head, image, mask):
    """The head once more, in TensorFlow's own operations and with their own gradients."""
    found = named(head)

    def dense(values, name):
        return tf.matmul(values, found[name].kernel.value) + found[name].bias.value

    pooled = [tf.reduce_mean(values, (1, 2)) for values in (image, mask)]
    if pooling == "gate":
        first, second = tf.nn.relu(dense(pooled[0], "image_hidden")), tf.nn.relu(dense(pooled[1], "mask_hidden"))
        share = tf.sigmoid(dense(tf.concat(pooled, -1), "gate_logits"))
        return dense((1.0 - share) * first + share * second, "logits")
    joined = tf.concat(pooled, -1)
    if pooling == "flatten":
        rows, columns = (interpolation(*sides) for sides in zip(mask.shape[1:3], image.shape[1:3], strict=True))
        joined = tf.concat([image, tf.einsum("nr,mc,brck->bnmk", rows, columns, mask)], -1)
        joined = tf.reshape(joined, (len(joined), -1))
    return dense(tf.nn.relu(dense(joined, "hidden")), "logits")


def plain_maps(pooling, head, maps, method):
    """Logits and both maps of the predicted class at the image's size, from a tape over plain operations."""
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logits = plain_logits(pooling, head, *maps)
        best = tf.reduce_max(logits, -1)
    drawn = []
    for values, weights in zip(maps, tape.gradient(best, maps), strict=True):
        if method == "grad_cam":
            weights = tf.reduce_mean(weights, (1, 2), keepdims=True)
        saliency = tf.nn.relu(tf.reduce_sum(weights * values, -1, keepdims=True))
        saliency = tf.math.divide_no_nan(saliency, tf.reduce_max(saliency, (1, 2, 3), keepdims=True))
        drawn.append(tf.image.resize(saliency, (SIDE, SIDE)))
    return logits, *drawn


@pytest.mark.parametrize("approach", ["fusion_oracle", "fusion_zeroed"])
def test_a_mask_that_is_given_is_an_input(fusion, segmenter, approach):
    images, classes = pictures()[0], class_maps()
    graph = fusion_graph(fusion, CLASSES, approach)
    outputs = graph({"image": images, "classes": classes})
    assert set(outputs) == {"probabilities", "saliency", "saliency_mask"} and graph.name == approach
    logits = fusion.logits_model()({"image": images, "classes": classes}, training=False)
    assert_close(outputs["probabilities"], keras.ops.softmax(logits))
    with pytest.raises(ValueError, match="with every image"):
        model_info(graph)


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
def test_both_maps_are_those_of_a_tape_over_plain_operations(pooling, fusion, segmenter, method):
    images = pictures()[0]
    outputs = fusion_graph(fusion, CLASSES, "fusion_gap", segmenter, CELL, saliency=method)(images)
    classes = tf.nn.softmax(tf.image.resize(segmenter(images, training=False), (MASK_SIDE, MASK_SIDE)))
    maps = [fusion.image_features(images, training=False), fusion.mask_features(classes, training=False)]
    logits, image, mask = plain_maps(pooling, fusion.head, maps, method)
    assert_close(outputs["probabilities"], tf.nn.softmax(logits))
    assert_close(outputs["saliency"], image, 1e-4)
    assert_close(outputs["saliency_mask"], mask, 1e-4)
    assert np.abs(image - mask).max() > 0.05 and min(np.max(image), np.max(mask)) > 0.3


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
def test_training_through_both_maps_has_the_derivatives_of_plain_operations(pooling, fusion, method):
    """The gate's and the grid's gradients are differentiated once more."""
    generator = np.random.default_rng(6)
    maps = [tf.constant(generator.uniform(size=(2, *shape[1:])), tf.float32) for shape in fusion.head.input_shape]
    wanted = generator.normal(size=(2, SIDE, SIDE, 2)).astype(np.float32)
    variables = [weight.value for weight in fusion.head.trainable_variables]
    explain = BranchActivationMaps(fusion.head, (SIDE, SIDE), method)

    def derivatives(function):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(wanted * tf.concat(function(), -1))
        return tape.gradient(value, variables, unconnected_gradients="zero")

    found = derivatives(lambda: [explain(maps)[name] for name in ("saliency", "saliency_mask")])
    expected = derivatives(lambda: plain_maps(pooling, fusion.head, maps, method)[1:])
    assert_close(found, expected, 1e-3)
    assert max(np.abs(value).max() for value in expected) > 0.1


def test_a_trainable_segmenter_learns_through_probabilities_and_not_through_classes(pooling, fusion, segmenter):
    images, variables = pictures()[0], segmenter.trainable_variables

    def derivatives(predict):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.math.log(predict()[:, 0]))
        return tape.gradient(value, variables)

    def plain():
        classes = tf.nn.softmax(tf.image.resize(segmenter(images), (MASK_SIDE, MASK_SIDE)))
        maps = [fusion.image_features(images, training=False), fusion.mask_features(classes, training=False)]
        return tf.nn.softmax(plain_logits(pooling, fusion.head, *maps))

    soft, hard = (
        fusion_graph(replace(fusion, mask_input=kind), CLASSES, "fusion_gap", segmenter, CELL)
        for kind in ("softmax", "argmax")
    )
    found = derivatives(lambda: soft(images)["probabilities"])
    assert_close(found, derivatives(plain), 1e-4)
    assert min(np.abs(gradient).max() for gradient in found) > 1e-5
    assert derivatives(lambda: hard(images)["probabilities"]) == [None] * len(variables)


@pytest.mark.parametrize(
    ("pooling", "mask_side", "mask_input"),
    [("flatten", MASK_SIDE, "softmax"), ("gap", SIDE, "softmax"), ("gate", MASK_SIDE, "argmax")],
)
def test_the_graph_is_saved_served_and_runs_on_a_phone(pooling, mask_side, mask_input, segmenter, tmp_path):
    fusion = replace(made(pooling, mask_side), mask_input=mask_input)
    graph = fusion_graph(fusion, CLASSES, f"fusion_{pooling}", segmenter, CELL)
    images, whole = pictures()
    expected = graph(images)
    assert np.ptp(expected["probabilities"], axis=0).max() > 1e-3, "the images are told apart"

    graph.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert_close(loaded(images), expected, 1e-5)
    assert model_info(loaded) == model_info(graph)

    export_litert(graph, tmp_path / "model.tflite")
    export_saved_model(graph, tmp_path / "served" / "1")
    for path in (tmp_path / "model.tflite", tmp_path / "served" / "1"):
        found = load_predictor(path).predict(whole)
        assert set(found) == set(expected), path.name
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=f"{path.name} {name}")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_head_and_outputs_are_float32_under_mixed_precision(policy, pooling, fusion):
    keras.mixed_precision.set_global_policy(policy)
    try:
        half = made(pooling)
        found = fusion_graph(half, CLASSES, "fusion_gap", unet((SIDE, SIDE, 3), 3, width=4, depth=1, norm=None), CELL)(
            pictures()[0]
        )
        maps = [np.random.default_rng(5).uniform(size=(2, *shape[1:])) for shape in half.head.input_shape]
        logits = half.head(maps, training=False)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert half.mask_features.layers[-1].compute_dtype == policy[len("mixed_") :]
    assert {keras.backend.standardize_dtype(value.dtype) for value in found.values()} == {"float32"}
    assert all(np.isfinite(value).all() for value in found.values())
    np.testing.assert_array_equal(logits, fusion.head(maps, training=False))
