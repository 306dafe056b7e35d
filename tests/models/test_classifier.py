"""Classifiers and the inference graph of every approach."""

import keras
import numpy as np
import pytest
from harness import assert_close, check_litert

from tfseg.data.cases import MaskClasses
from tfseg.errors import ConfigError
from tfseg.layers.masking import MASK_LAYERS
from tfseg.layers.outputs import model_info
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import APPROACHES, build_classifier, build_head, inference_graph, segmentation_graph
from tfseg.models.unet import unet

CELL = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), 255)
CLASSES = ("aphthous", "neoplastic", "traumatic")
SIDE = 32


@pytest.fixture(scope="module")
def classifier():
    """Large weights in the head, so that probabilities differ between images by more than rounding."""
    keras.utils.set_random_seed(0)
    made = build_classifier(build_backbone("small_cnn", (SIDE, SIDE, 3)), 3, units=8, dropout=0.5)
    for layer in made.features.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([1.5 * value for value in layer.get_weights()])
    return made


@pytest.fixture(scope="module")
def segmenter():
    keras.utils.set_random_seed(1)
    return unet((SIDE, SIDE, 3), CELL.channels, width=4, depth=2, norm=None)


@pytest.fixture(scope="module")
def fixed_segmenter():
    """A segmenter that finds the same rectangle in every image, with certainty."""
    place = np.full((1, SIDE, SIDE, 1), -200.0, np.float32)
    place[:, 8:20, 10:26] = 200.0
    image = keras.Input((SIDE, SIDE, 3))
    return keras.Model(image, keras.ops.sum(image, axis=-1, keepdims=True) * 0.0 + place)


def pictures(count=4, seed=2):
    return np.random.default_rng(seed).uniform(size=(count, SIDE, SIDE, 3)).astype(np.float32)


@pytest.mark.parametrize("approach", APPROACHES)
def test_the_graph_of_every_approach(approach, classifier, segmenter, tmp_path):
    graph = inference_graph(classifier, CLASSES, approach, segmenter, CELL, resize="pad")
    images = pictures()
    outputs = graph(images)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "probabilities": (4, 3),
        "saliency": (4, SIDE, SIDE, 1),
        "mask": (4, SIDE, SIDE, 3),
    }
    np.testing.assert_allclose(np.sum(outputs["probabilities"], 1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.sum(outputs["mask"], -1), 1.0, rtol=1e-5)
    assert np.min(outputs["saliency"]) >= 0.0 and 0.5 < np.max(outputs["saliency"]) <= 1.0
    assert np.ptp(outputs["probabilities"], axis=0).max() > 1e-3, "the images are told apart"

    info = model_info(graph)
    assert (info.classes, info.image_size, info.resize, info.mask_classes) == (CLASSES, SIDE, "pad", CELL)

    graph.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert_close(loaded(images), outputs)
    assert_close(loaded.predict(images, verbose=0), outputs)
    assert model_info(loaded) == info


def test_a_graph_runs_on_a_phone(classifier, segmenter, tmp_path):
    """The approach with the most layers of our own; the others hold a part of them."""
    graph = inference_graph(classifier, CLASSES, "lesion_area", segmenter, CELL)
    check_litert(graph, [pictures(1)], tmp_path, tolerance=1e-4)


def test_the_graph_holds_the_weights_that_were_trained(classifier, segmenter):
    """The graph's probabilities are the softmax of what cross entropy trains, mask by mask."""
    images = pictures()
    for approach in APPROACHES:
        graph = inference_graph(classifier, CLASSES, approach, segmenter, CELL)
        outputs = graph(images)
        inputs = {"image": images}
        if approach in MASK_LAYERS:
            inputs["lesion"] = np.sum(np.asarray(outputs["mask"])[..., 1:], -1, keepdims=True)
        logits = classifier.logits_model(approach)(inputs, training=False)
        assert_close(outputs["probabilities"], keras.ops.softmax(logits))


@pytest.mark.parametrize("approach", MASK_LAYERS)
def test_what_is_masked_out_has_no_influence(approach, classifier, fixed_segmenter):
    graph = inference_graph(classifier, CLASSES, approach, fixed_segmenter)
    images = pictures(2)
    hidden = np.ones((SIDE, SIDE, 1), bool)
    # The rectangle, or its box grown by 1.4 about its centre: the pixels with centres in 14 ± 8.4 and 18 ± 11.2.
    rows, columns = (slice(8, 20), slice(10, 26)) if approach != "lesion_area" else (slice(6, 22), slice(7, 29))
    hidden[rows, columns] = False
    elsewhere = np.where(hidden, pictures(2, seed=9), images)
    assert_close(graph(elsewhere)["probabilities"], graph(images)["probabilities"], 1e-6)
    assert_close(graph(elsewhere)["saliency"], graph(images)["saliency"], 1e-5)
    lesion_changed = np.where(hidden, images, pictures(2, seed=9))
    assert np.abs(graph(lesion_changed)["probabilities"] - graph(images)["probabilities"]).max() > 1e-4
    # Hidden pixels are black for the network: they are masked before its normalisation, which makes black a −1.
    plain = inference_graph(classifier, CLASSES, "plain", fixed_segmenter)
    black = np.where(hidden, 0.0, images).astype(np.float32)
    assert_close(graph(images)["probabilities"], plain(black)["probabilities"], 1e-5)
    assert np.abs(plain(elsewhere)["probabilities"] - plain(images)["probabilities"]).max() > 1e-4


def test_dropout_and_batch_statistics_are_off_in_the_graph(classifier, segmenter):
    graph = inference_graph(classifier, CLASSES, "soft_mask", segmenter, CELL)
    images = pictures()
    for _ in range(2):
        assert_close(graph(images), graph(images, training=False))


def test_without_a_segmenter_there_is_no_mask(classifier):
    for approach in ("plain", "centiou"):
        assert set(inference_graph(classifier, CLASSES, approach)(pictures(1))) == {"probabilities", "saliency"}


def test_the_saliency_is_of_the_predicted_class(classifier):
    outputs = inference_graph(classifier, CLASSES)(pictures())
    from tfseg.layers.saliency import ClassActivationMap

    predicted = np.argmax(outputs["probabilities"], -1)
    maps = classifier.features(pictures(), training=False)
    explained = ClassActivationMap(classifier.head, (SIDE, SIDE), target="true")(maps, predicted)
    assert_close(outputs["saliency"], explained["saliency"])


def test_a_segmenter_alone(segmenter):
    graph = segmentation_graph(segmenter, CELL, "pad")
    mask = graph(pictures())["mask"]
    assert_close(mask, keras.ops.softmax(segmenter(pictures(), training=False)))
    info = model_info(graph)
    assert (info.classes, info.outputs, info.mask_classes, info.resize) == ((), ("mask",), CELL, "pad")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_heads_and_outputs_are_float32_under_mixed_precision(policy):
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    try:
        made = build_classifier(build_backbone("small_cnn", (SIDE, SIDE, 3)), 3, units=8)
        graph = inference_graph(made, CLASSES, "hard_mask", unet((SIDE, SIDE, 3), 1, width=4, depth=1))
        assert {keras.backend.standardize_dtype(value.dtype) for value in graph(pictures()).values()} == {"float32"}
        maps = np.random.default_rng(3).uniform(size=(2, 4, 4, 128)).astype(np.float32)
        logits = made.head(maps)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert made.features.get_layer("stage4_conv").compute_dtype == policy[len("mixed_") :]
    same = build_head((4, 4, 128), 3, units=8)
    same.set_weights(made.head.get_weights())
    np.testing.assert_array_equal(logits, same(maps))


def test_the_head_by_hand():
    head = build_head((1, 2, 1), 2, units=2)
    head.get_layer("hidden").set_weights([np.array([[1.0, -1.0]]), np.array([0.5, 0.5])])
    head.get_layer("logits").set_weights([np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0.0, 0.25])])
    # Mean of 1 and 3 is 2; hidden ReLU(2 + 0.5, −2 + 0.5) = (2.5, 0); logits (2.5, 0.25).
    np.testing.assert_allclose(head(np.array([[[[1.0], [3.0]]]], np.float32)), [[2.5, 0.25]])
    linear = build_head((1, 2, 1), 2, units=None)
    linear.get_layer("logits").set_weights([np.array([[1.0, -1.0]]), np.array([0.0, 1.0])])
    np.testing.assert_allclose(linear(np.array([[[[1.0], [3.0]]]], np.float32)), [[2.0, -1.0]])


def test_what_cannot_be_built(classifier, segmenter):
    with pytest.raises(ConfigError, match="no approach named 'oracle'; known: plain, hard_mask"):
        inference_graph(classifier, CLASSES, "oracle")
    with pytest.raises(ConfigError, match="soft_mask needs a segmenter"):
        inference_graph(classifier, CLASSES, "soft_mask")
    with pytest.raises(ConfigError, match="at least two classes, received 1"):
        build_head((4, 4, 8), 1)
    with pytest.raises(ValueError, match="batch, 2"):
        inference_graph(classifier, CLASSES[:2], "plain")
    with pytest.raises(ValueError, match="mask classes"):
        inference_graph(classifier, CLASSES, "hard_mask", segmenter, MaskClasses())
