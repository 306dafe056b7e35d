"""Classifiers and the inference graph of every approach."""

import keras
import numpy as np
import pytest
from harness import assert_close, check_litert

from tfseg.approaches import APPROACHES
from tfseg.data.cases import MaskClasses
from tfseg.errors import ConfigError
from tfseg.layers.outputs import model_info
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier, build_head, inference_graph, segmentation_graph
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


ONE_BRANCH = {name: approach for name, approach in APPROACHES.items() if not approach.fusion}
SERVED = [name for name, approach in ONE_BRANCH.items() if not approach.mask_given]
GIVEN = [name for name, approach in ONE_BRANCH.items() if approach.mask_given]


@pytest.mark.parametrize("approach", SERVED)
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
    if approach not in ("inverse_mask", "lesion_removed"):  # this segmenter calls everything lesion
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
    for approach in SERVED:
        graph = inference_graph(classifier, CLASSES, approach, segmenter, CELL)
        outputs = graph(images)
        inputs = {"image": images}
        if APPROACHES[approach].masked:
            inputs["lesion"] = np.sum(np.asarray(outputs["mask"])[..., 1:], -1, keepdims=True)
        logits = classifier.logits_model(approach)(inputs, training=False)
        assert_close(outputs["probabilities"], keras.ops.softmax(logits))


@pytest.mark.parametrize("approach", GIVEN)
def test_a_control_that_is_given_its_mask(approach, classifier, tmp_path):
    """It sees what the mask shows, and nobody can serve it."""
    graph = inference_graph(classifier, CLASSES, approach)
    images, lesion = pictures(2), np.zeros((2, SIDE, SIDE, 1), np.float32)
    lesion[0, 4:20, 8:24] = 1.0
    outputs = graph({"image": images, "lesion": lesion})
    assert set(outputs) == {"probabilities", "saliency"}
    plain = inference_graph(classifier, CLASSES)
    visible = np.stack([images[0] * lesion[0], images[1]])
    assert_close(outputs["probabilities"], plain(visible)["probabilities"], 1e-5)
    assert_close(outputs["saliency"], plain(visible)["saliency"], 1e-4)
    graph.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert_close(loaded({"image": images, "lesion": lesion}), outputs)
    with pytest.raises(ValueError, match=f"'{approach}' takes a mask or a map with every image"):
        model_info(loaded)


SHOWING = ["hard_mask", "soft_mask", "lesion_area"]


@pytest.mark.parametrize("approach", ["inverse_mask", "lesion_removed"])
def test_what_is_in_the_lesion_has_no_influence_on_these_controls(approach, classifier, fixed_segmenter):
    graph = inference_graph(classifier, CLASSES, approach, fixed_segmenter)
    images, lesion = pictures(2), np.zeros((SIDE, SIDE, 1), bool)
    lesion[8:20, 10:26] = True
    # Exchanged inside the lesion: the image's mean, which fills the box, stays what it was.
    shuffled = images.copy()
    shuffled[:, 8:20, 10:26] = images[:, 8:20, 10:26][:, ::-1, ::-1]
    assert_close(graph(shuffled)["probabilities"], graph(images)["probabilities"], 1e-5)
    elsewhere = np.where(lesion, images, pictures(2, seed=9))
    assert np.abs(graph(elsewhere)["probabilities"] - graph(images)["probabilities"]).max() > 1e-4
    fill = 0.0 if approach == "inverse_mask" else images.mean((1, 2), keepdims=True)
    plain = inference_graph(classifier, CLASSES, "plain", fixed_segmenter)
    shown = np.where(lesion, fill, images).astype(np.float32)
    assert_close(graph(images)["probabilities"], plain(shown)["probabilities"], 1e-5)


def test_the_map_is_of_the_layer_and_by_the_method_that_are_asked_for(classifier):
    images = pictures(2)
    inner = classifier.features.layers[-4].name
    maps = {
        name: np.asarray(inference_graph(classifier, CLASSES, **options)(images)["saliency"])
        for name, options in {
            "last": {},
            "hires": {"saliency": "hires_cam"},
            "inner": {"saliency_layer": inner},
        }.items()
    }
    assert all(maps[name].max() == pytest.approx(1.0, abs=0.5) for name in maps)
    assert np.abs(maps["last"] - maps["inner"]).max() > 0.05
    with pytest.raises(ConfigError, match="no layer named 'nowhere'"):
        inference_graph(classifier, CLASSES, saliency_layer="nowhere")


def test_squeezenets_own_head_by_hand():
    """ReLU of each class's map, then its mean: (1 + 2 + 0) / 3 and (0 + 0 + 6) / 3."""
    head = build_head((1, 3, 1), 2, kind="convolution", dropout=0.5)
    head.get_layer("class_maps").set_weights([np.array([[[[1.0, -1.0]]]], np.float32), np.zeros(2, np.float32)])
    logits = head(np.array([[[[1.0], [2.0], [-6.0]]]], np.float32), training=False)
    np.testing.assert_allclose(logits, [[1.0, 2.0]])
    with pytest.raises(ConfigError, match="`head` must be dense, convolution or flatten, received 'flat'"):
        build_head((1, 3, 1), 2, kind="flat")


def test_the_map_of_squeezenets_own_head_trains_and_exports(tmp_path):
    """A class's map is where its own positive pixels are: ∂y/∂A is the kernel there and nothing elsewhere."""
    made = build_classifier(build_backbone("small_cnn", (SIDE, SIDE, 3)), 3, dropout=0.5, head="convolution")
    graph = inference_graph(made, CLASSES)
    images = pictures(2)
    check_litert(graph, [images[:1]], tmp_path, tolerance=1e-4)
    maps = np.asarray(made.features(images))
    kernel, bias = (np.asarray(value) for value in made.head.get_layer("class_maps").get_weights())
    scores = maps @ kernel[0, 0] + bias
    best = np.maximum(scores, 0.0).mean((1, 2)).argmax(1)
    for number, name in enumerate(best):
        active = (scores[number, ..., name] > 0.0).mean()
        raw = np.maximum(maps[number] @ (kernel[0, 0, :, name] * active), 0.0)
        expected = tf_resized(raw / max(raw.max(), 1e-12), SIDE)
        assert_close(graph(images)["saliency"][number, ..., 0], expected, 1e-4)


def tf_resized(values, side):
    return np.asarray(keras.ops.image.resize(values[..., None], (side, side), interpolation="bilinear"))[..., 0]


@pytest.mark.parametrize("approach", SHOWING)
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
    with pytest.raises(ConfigError, match="no approach named 'oracle_mask'; known: plain, hard_mask"):
        inference_graph(classifier, CLASSES, "oracle_mask")
    with pytest.raises(ConfigError, match="soft_mask needs a segmenter"):
        inference_graph(classifier, CLASSES, "soft_mask")
    with pytest.raises(ConfigError, match="at least two classes, received 1"):
        build_head((4, 4, 8), 1)
    with pytest.raises(ValueError, match="batch, 2"):
        inference_graph(classifier, CLASSES[:2], "plain")
    with pytest.raises(ValueError, match="mask classes"):
        inference_graph(classifier, CLASSES, "hard_mask", segmenter, MaskClasses())
