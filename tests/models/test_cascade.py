"""SE-LCN as one graph: the same as its stages run apart, and wherever a graph has to run."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import assert_close

from tfseg.errors import ConfigError
from tfseg.export.mobile import export_litert
from tfseg.export.predictor import load_predictor
from tfseg.export.serving import export_saved_model
from tfseg.layers.hair import HairRemoval
from tfseg.layers.masking import HardMask, LesionAreaMask
from tfseg.layers.outputs import model_info
from tfseg.layers.saliency import ClassActivationMap
from tfseg.models.backbones import build_backbone
from tfseg.models.cascade import Enhanced, build_enhanced, cascade_graph
from tfseg.models.classifier import build_classifier
from tfseg.models.unet import unet

SIDE, SMALLER = 48, 32
CLASSES, SYMMETRY = ("bcc", "mel", "nv"), ("asymmetric", "symmetric")


def shaken(model, seed):
    """Weights away from their start, so that images are told apart."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if "kernel" in weight.path:
            weight.assign(weight + generator.normal(0.0, 0.15, weight.shape))
    return model


@pytest.fixture(scope="module")
def segmenter():
    keras.utils.set_random_seed(1)
    return shaken(unet((SIDE, SIDE, 3), 1, width=4, depth=2), 1)


@pytest.fixture(scope="module")
def symmetry():
    keras.utils.set_random_seed(2)
    parts = build_classifier(build_backbone("small_cnn", (SMALLER, SMALLER, 3)), 2, units=8)
    shaken(parts.features, 2), shaken(parts.head, 3)
    return parts


@pytest.fixture(scope="module", params=["dense", "flatten"])
def enhanced(request):
    keras.utils.set_random_seed(4)
    parts = build_enhanced(build_backbone("small_cnn", (SIDE, SIDE, 3)), 3, SIDE, units=8, head=request.param)
    for number, part in enumerate((parts.features, parts.enhancement)):
        shaken(part, 5 + number)
    # Logits of the order of 1, so that no probability is 0.
    seen = np.random.default_rng(9).uniform(size=(3, SIDE, SIDE, 3)).astype(np.float32)
    seen *= np.float32([[[[1.0]]], [[[0.6]]], [[[0.2]]]])
    logits = np.asarray(parts.logits_model()({"image": seen, "symmetry": seen[..., :1]}, training=False))
    last = parts.head.get_layer("logits")
    last.kernel.assign(2.0 * last.kernel / np.ptp(logits, axis=0).max())
    last.bias.assign(-2.0 * logits.mean(0) / np.ptp(logits, axis=0).max())
    return parts


@pytest.fixture(scope="module")
def whole():
    """Noise of three brightnesses."""
    noise = np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3))
    return (noise * np.reshape([1.0, 0.6, 0.2], (3, 1, 1, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def images(whole):
    return whole.astype(np.float32) / np.float32(255)


def resized(values, side):
    return tf.image.resize(values, (side, side))


def staged(images, segmenter, symmetry, classifier, symmetry_masking, masking):
    """The stages one after the other, as three separate models would be run."""
    mask = tf.sigmoid(segmenter(images, training=False))
    hide = {
        "none": lambda values: values,
        "segmentation": lambda values: HardMask()(values, mask),
        "lesion_area": lambda values: LesionAreaMask()(values, mask),
    }
    maps = symmetry.features(resized(hide[symmetry_masking](images), SMALLER), training=False)
    found = ClassActivationMap(symmetry.head, (SIDE, SIDE), "grad_cam_plus_plus")(maps)
    inputs = {"image": images, "symmetry": np.asarray(found["saliency"])}
    if masking != "none":
        inputs["lesion"] = np.asarray(mask)
    logits = classifier.logits_model(masking)(inputs, training=False)
    return mask, tf.nn.softmax(found["logits"]), found["saliency"], tf.nn.softmax(logits)


@pytest.mark.parametrize(
    ("symmetry_masking", "masking"),
    [("none", "none"), ("lesion_area", "segmentation"), ("segmentation", "lesion_area")],
)
def test_one_graph_gives_what_the_stages_give(segmenter, symmetry, enhanced, images, symmetry_masking, masking):
    maskings = {"symmetry_masking": symmetry_masking, "masking": masking}
    outputs = cascade_graph(segmenter, symmetry, enhanced, CLASSES, SYMMETRY, **maskings)(images)
    expected = staged(images, segmenter, symmetry, enhanced, **maskings)
    for name, value in zip(("mask", "symmetry", "saliency_symmetry", "probabilities"), expected, strict=True):
        np.testing.assert_allclose(outputs[name], value, atol=1e-5, err_msg=name)
    assert np.ptp(outputs["probabilities"], axis=0).max() > 1e-3, "the images are told apart"
    assert 0.01 < np.mean(np.asarray(outputs["mask"]) >= 0.5) < 0.99, "the masks hide something"
    assert np.max(outputs["saliency_symmetry"]) > 0


def test_the_map_that_is_handed_on_matters(enhanced, images):
    """The features are far larger than the map's numbers in networks that nobody trained: the map is made large."""
    model = enhanced.logits_model()
    maps = 20.0 * np.ones((3, SIDE, SIDE, 1), np.float32)
    found = [model({"image": images, "symmetry": values}, training=False) for values in (maps, np.zeros_like(maps))]
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_without_transfer_it_is_the_plain_classifier(segmenter, symmetry, images):
    classifier = build_classifier(build_backbone("small_cnn", (SIDE, SIDE, 3)), 3, units=None)
    outputs = cascade_graph(segmenter, symmetry, classifier, CLASSES, SYMMETRY)(images)
    expected = tf.nn.softmax(classifier.logits_model()({"image": images}, training=False))
    assert_close(outputs["probabilities"], expected)


def test_hair_is_removed_before_everything(segmenter, symmetry, enhanced, images):
    with_hair = cascade_graph(segmenter, symmetry, enhanced, CLASSES, SYMMETRY, hair_removal=True)(images)
    clean = np.asarray(HairRemoval()(images))
    assert_close(with_hair, cascade_graph(segmenter, symmetry, enhanced, CLASSES, SYMMETRY)(clean), 1e-4)


def test_saved_served_and_on_a_phone(segmenter, symmetry, enhanced, images, whole, tmp_path):
    graph = cascade_graph(
        segmenter, symmetry, enhanced, CLASSES, SYMMETRY, symmetry_masking="lesion_area", masking="segmentation"
    )
    expected = graph(images)
    graph.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert_close(loaded(images), expected, 1e-5)
    info = model_info(loaded)
    assert (info.classes, info.symmetry, info.image_size) == (CLASSES, SYMMETRY, SIDE)
    assert set(info.outputs) == {"probabilities", "mask", "saliency", "symmetry", "saliency_symmetry"}
    assert type(info).from_json(info.to_json()) == info
    export_litert(graph, tmp_path / "model.tflite")
    export_saved_model(graph, tmp_path / "served" / "1")
    for path in (tmp_path / "model.tflite", tmp_path / "served" / "1"):
        found = load_predictor(path).predict(whole)
        assert set(found) == set(expected), path.name
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=f"{path.name} {name}")


def test_what_can_not_be(segmenter, symmetry, enhanced):
    with pytest.raises(ConfigError, match="a masking must be one of none, segmentation, lesion_area, received 'box'"):
        cascade_graph(segmenter, symmetry, enhanced, CLASSES, SYMMETRY, masking="box")
    with pytest.raises(ConfigError, match="a masking must be one of"):
        enhanced.logits_model("hard")
    assert isinstance(enhanced, Enhanced)


def test_an_empty_mask_hides_nothing(symmetry, enhanced, images):
    """A segmenter that finds nothing leaves both networks the whole image."""
    inputs = keras.Input((SIDE, SIDE, 3))
    nothing = keras.Model(
        inputs, keras.layers.Conv2D(1, 1, bias_initializer=keras.initializers.Constant(-20.0))(inputs)
    )
    hidden = cascade_graph(
        nothing, symmetry, enhanced, CLASSES, SYMMETRY, symmetry_masking="segmentation", masking="lesion_area"
    )(images)
    shown = cascade_graph(nothing, symmetry, enhanced, CLASSES, SYMMETRY)(images)
    assert_close(hidden["probabilities"], shown["probabilities"])
    assert_close(hidden["symmetry"], shown["symmetry"])
