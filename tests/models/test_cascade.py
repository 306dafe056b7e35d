"""SE-LCN as one graph: the same as its stages run apart, end to end, and wherever a graph has to run."""

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
from tfseg.models.cascade import build_enhanced, cascade_graph, symmetry_network
from tfseg.models.classifier import behind_hair_removal, build_classifier, inference_graph, segmentation_graph
from tfseg.models.unet import unet

SIDE = 48
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
def classifier():
    """The symmetry network's parts."""
    keras.utils.set_random_seed(2)
    parts = build_classifier(build_backbone("small_cnn", (SIDE, SIDE, 3)), 2, units=8)
    shaken(parts.features, 2), shaken(parts.head, 3)
    return parts


@pytest.fixture(scope="module")
def symmetry(classifier, segmenter):
    """``symmetry(approach)``: the network that its own inference graph holds."""

    def make(approach="plain"):
        options = {"saliency": "grad_cam_plus_plus"}
        return symmetry_network(inference_graph(classifier, SYMMETRY, approach, segmenter, **options))

    return make


def enhanced_parts(head):
    keras.utils.set_random_seed(4)
    parts = build_enhanced(build_backbone("small_cnn", (SIDE, SIDE, 3)), 3, SIDE, units=8, head=head)
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
def enhanced():
    return enhanced_parts("dense")


@pytest.fixture(scope="module")
def whole():
    """Noise of three brightnesses."""
    noise = np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3))
    return (noise * np.reshape([1.0, 0.6, 0.2], (3, 1, 1, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def images(whole):
    return whole.astype(np.float32) / np.float32(255)


HIDE = {
    None: lambda values, mask: values,
    "hard": lambda values, mask: HardMask()(values, mask),
    "soft": lambda values, mask: values * mask,
    "lesion_area": lambda values, mask: LesionAreaMask()(values, mask),
}


def staged(images, segmenter, classifier, enhanced, symmetry_mask, mask_kind, approach):
    """The stages one after the other, as three separate models would be run."""
    mask = tf.sigmoid(segmenter(images, training=False))
    maps = classifier.features(HIDE[symmetry_mask](images, mask), training=False)
    found = ClassActivationMap(classifier.head, (SIDE, SIDE), "grad_cam_plus_plus")(maps)
    inputs = {"image": images, "symmetry": np.asarray(found["saliency"])}
    if mask_kind:
        inputs["lesion"] = np.asarray(mask)
    logits = enhanced.logits_model(approach)(inputs, training=False)
    return mask, tf.nn.softmax(found["logits"]), found["saliency"], tf.nn.softmax(logits)


@pytest.mark.parametrize(
    ("symmetry_approach", "symmetry_mask", "approach", "mask_kind", "head"),
    [
        ("plain", None, "se_lcn", None, "dense"),
        ("lesion_area", "lesion_area", "se_lcn_hard_mask", "hard", "flatten"),
        ("hard_mask", "hard", "se_lcn_lesion_area", "lesion_area", "dense"),
        ("soft_mask", "soft", "se_lcn_soft_mask", "soft", "flatten"),
    ],
)
def test_one_graph_gives_what_the_stages_give(
    segmenter, classifier, symmetry, images, symmetry_approach, symmetry_mask, approach, mask_kind, head
):
    enhanced = enhanced_parts(head)
    outputs = cascade_graph(enhanced, CLASSES, approach, segmenter, symmetry=symmetry(symmetry_approach))(images)
    expected = staged(images, segmenter, classifier, enhanced, symmetry_mask, mask_kind, approach)
    for name, value in zip(("mask", "symmetry", "saliency_symmetry", "probabilities"), expected, strict=True):
        np.testing.assert_allclose(outputs[name], value, atol=1e-5, err_msg=name)
    assert np.ptp(outputs["probabilities"], axis=0).max() > 1e-3, "the images are told apart"
    assert 0.01 < np.mean(np.asarray(outputs["mask"]) >= 0.5) < 0.99, "the masks hide something"
    assert np.max(outputs["saliency_symmetry"]) > 0


def test_the_network_of_an_inference_graph(classifier, segmenter, images):
    """Its classes, what it sees, and the temperature that its own training has found."""
    graph = inference_graph(classifier, SYMMETRY, "hard_mask", segmenter, saliency="grad_cam_plus_plus")
    graph.get_layer("probabilities").decide(temperature=2.5)
    network = symmetry_network(graph)
    assert (network.classes, network.mask, network.temperature) == (SYMMETRY, "hard", 2.5)
    cascade = cascade_graph(enhanced_parts("dense"), CLASSES, "se_lcn", segmenter, symmetry=network)(images)
    own = graph(images)
    assert_close(cascade["symmetry"], own["probabilities"])
    assert_close(cascade["saliency_symmetry"], own["saliency"])
    assert np.ptp(own["probabilities"]) > 0.01


def test_the_map_that_is_handed_on_matters(enhanced, images):
    """The features are far larger than the map's numbers in networks that nobody trained: the map is made large."""
    model = enhanced.logits_model()
    maps = 20.0 * np.ones((3, SIDE, SIDE, 1), np.float32)
    found = [model({"image": images, "symmetry": values}, training=False) for values in (maps, np.zeros_like(maps))]
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("approach", ["se_lcn_shuffled", "se_lcn_zeroed"])
def test_a_control_is_given_its_map(enhanced, symmetry, images, approach, tmp_path):
    """As the graph that makes the map itself, where it is given the same one; nobody can serve it."""
    graph = cascade_graph(enhanced, CLASSES, approach)
    own = cascade_graph(enhanced, CLASSES, symmetry=symmetry())(images)
    outputs = graph({"image": images, "symmetry": np.asarray(own["saliency_symmetry"])})
    assert set(outputs) == {"probabilities", "saliency"}
    assert_close(outputs["probabilities"], own["probabilities"])
    assert_close(outputs["saliency"], own["saliency"])
    graph.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    with pytest.raises(ValueError, match="takes a"):
        model_info(loaded)


def test_unfamiliarity_is_of_the_maps_behind_the_e_layer(enhanced, symmetry, images):
    graph = cascade_graph(enhanced, CLASSES, symmetry=symmetry(), unfamiliarity=True)
    assert graph(images)["unfamiliarity"].shape == (3,)
    told = graph.get_layer("unfamiliarity").input
    assert told is graph.get_layer("saliency").input and told.shape[1:] == enhanced.head.input_shape[1:]


class TestHair:
    """Whatever looks at an image looks at it without its hairs, and on clean images needs no removal."""

    @pytest.fixture
    def clean(self, images):
        return np.asarray(HairRemoval(dtype="float32")(images))

    @pytest.fixture
    def graphs(self, segmenter, classifier, symmetry, enhanced):
        network = symmetry("hard_mask")

        def make(kind, hair_removal):
            options = {"hair_removal": hair_removal}
            if kind == "cascade":
                parts = (enhanced, CLASSES, "se_lcn_lesion_area", segmenter)
                return cascade_graph(*parts, symmetry=network, unfamiliarity=True, **options)
            if kind == "classifier":
                return inference_graph(classifier, SYMMETRY, "soft_mask", segmenter, **options)
            return segmentation_graph(segmenter, model_info(make("classifier", False)).mask_classes, **options)

        return make

    @pytest.mark.parametrize("kind", ["cascade", "classifier", "segmentation"])
    def test_the_part_behind_it_takes_clean_images(self, kind, graphs, images, clean, tmp_path):
        graph, without = graphs(kind, True), graphs(kind, False)
        assert np.abs(clean - images).max() > 0.05, "there is something to remove"
        expected = {name: np.asarray(value) for name, value in graph(images).items()}
        assert_close(without(clean), expected, 1e-4)
        part = behind_hair_removal(graph)
        assert_close(part(clean), expected, 1e-5)
        assert_close(part.predict(clean, verbose=0), expected, 1e-5)
        assert part.name == graph.name and list(part.output) == list(graph.output)
        different = [name for name in expected if np.abs(np.asarray(part(images)[name]) - expected[name]).max() > 1e-5]
        assert different, "hairs matter"
        # What was cut off is still there.
        assert_close(graph(images), expected)
        graph.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        assert_close(loaded(images), expected)
        assert_close(behind_hair_removal(loaded)(clean), expected, 1e-5)
        assert model_info(loaded) == model_info(graph) == model_info(part)

    def test_a_graph_that_removes_none_stays(self, graphs):
        graph = graphs("cascade", False)
        assert behind_hair_removal(graph) is graph


def test_saved_served_and_on_a_phone(segmenter, symmetry, enhanced, images, whole, tmp_path):
    graph = cascade_graph(enhanced, CLASSES, "se_lcn_hard_mask", segmenter, symmetry=symmetry("lesion_area"))
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


def test_what_can_not_be(symmetry, enhanced):
    with pytest.raises(ConfigError, match="se_lcn needs a symmetry network"):
        cascade_graph(enhanced, CLASSES)
    with pytest.raises(ConfigError, match="a masked image needs a segmenter"):
        cascade_graph(enhanced, CLASSES, "se_lcn_hard_mask", symmetry=symmetry())
    with pytest.raises(ConfigError, match="a masked image needs a segmenter"):
        cascade_graph(enhanced, CLASSES, "se_lcn", symmetry=symmetry("soft_mask"))
    with pytest.raises(ConfigError, match="a masked image needs a segmenter"):
        enhanced.joint_model("se_lcn_soft_mask", symmetry())
    with pytest.raises(ConfigError, match="an E-Layer needs feature maps"):
        build_enhanced(keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten()]), 3, SIDE)


@pytest.mark.parametrize("logit", [-20.0, 20.0], ids=["no lesion", "a lesion that fills the image"])
def test_nothing_is_hidden_without_a_lesion_or_without_anything_else(symmetry, enhanced, images, logit):
    """An empty mask leaves both networks the whole image, and so does a full one; grey images are told apart too."""
    inputs = keras.Input((SIDE, SIDE, 3))
    flat = keras.layers.Conv2D(1, 1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(logit))
    everywhere = keras.Model(inputs, flat(inputs))
    grey = np.concatenate([images, np.repeat(images.mean(-1, keepdims=True), 3, -1)])
    hidden = cascade_graph(enhanced, CLASSES, "se_lcn_lesion_area", everywhere, symmetry=symmetry("hard_mask"))(grey)
    shown = cascade_graph(enhanced, CLASSES, "se_lcn", everywhere, symmetry=symmetry())(grey)
    assert_close(hidden["probabilities"], shown["probabilities"])
    assert_close(hidden["symmetry"], shown["symmetry"])
    assert np.isfinite(hidden["saliency"]).all() and np.isfinite(hidden["saliency_symmetry"]).all()


class TestEndToEnd:
    """Which networks the classifier's own loss reaches."""

    @pytest.fixture
    def reached(self, segmenter, symmetry, enhanced, images):
        def gradients(approach, symmetry_approach):
            """The largest gradient of the label's cross entropy in the symmetry network and in the segmenter."""
            segmenter.trainable = True
            network = symmetry(symmetry_approach)
            model = enhanced.joint_model(approach, network, segmenter)
            with tf.GradientTape() as tape:
                logits = model(images, training=False)["logits"]
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 2], logits))
            parts = [network.features.trainable_variables, segmenter.trainable_variables]
            found = tape.gradient(loss, parts)
            return [
                max((float(tf.reduce_max(tf.abs(value))) for value in part if value is not None), default=0.0)
                for part in found
            ]

        return gradients

    @pytest.mark.parametrize(
        ("approach", "symmetry_approach", "segments"),
        [
            ("se_lcn", "plain", False),
            ("se_lcn_hard_mask", "hard_mask", False),
            ("se_lcn_lesion_area", "lesion_area", False),
            ("se_lcn_soft_mask", "hard_mask", True),
            ("se_lcn_hard_mask", "soft_mask", True),
        ],
    )
    def test_what_the_classifiers_loss_reaches(self, reached, approach, symmetry_approach, segments):
        symmetry, segmenter = reached(approach, symmetry_approach)
        assert symmetry > 1e-10, "through its map"
        assert (segmenter > 1e-10) == segments, "through a soft mask only"

    def test_it_is_the_graph_that_is_served(self, segmenter, symmetry, enhanced, images):
        network = symmetry("lesion_area")
        outputs = enhanced.joint_model("se_lcn_hard_mask", network, segmenter)(images, training=False)
        served = cascade_graph(enhanced, CLASSES, "se_lcn_hard_mask", segmenter, symmetry=network)(images)
        assert_close(tf.nn.softmax(outputs["logits"]), served["probabilities"])
        assert_close(tf.nn.softmax(outputs["symmetry"]), served["symmetry"])
        assert_close(tf.sigmoid(outputs["mask"]), served["mask"])
