"""`tfseg explain`: what a model's file is explained with, and what is written."""

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg import cli
from tfseg.commands.explain import Method
from tfseg.data.cases import MaskClasses
from tfseg.data.decode import to_model_input
from tfseg.errors import DataError, UserError
from tfseg.evaluation.gradient_free import GRADIENT_FREE, ablation_cam
from tfseg.evaluation.sanity import randomisation_check
from tfseg.export.explanations import Explainer, explain_folder, shuffled_maps
from tfseg.export.predictor import KerasPredictor
from tfseg.layers.branches import BranchActivationMaps
from tfseg.layers.saliency import METHODS, ClassActivationMap
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier, inference_graph, segmentation_graph
from tfseg.models.cut import cut
from tfseg.models.fusion import build_fusion, class_map, fusion_graph
from tfseg.models.unet import unet

SIDE = 32
CLASSES = ("benign", "malignant", "unclear")


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(2)
    return build_classifier(build_backbone("small_cnn", (SIDE, SIDE, 3)), 3, units=8)


@pytest.fixture(scope="module")
def segmenter():
    keras.utils.set_random_seed(3)
    return unet((SIDE, SIDE, 3), 1, width=4, depth=1)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model_file(classifier, segmenter, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    inference_graph(classifier, CLASSES, "soft_mask", segmenter).save(path)
    return path


@pytest.fixture(scope="module")
def model(model_file):
    return keras.saving.load_model(model_file)


@pytest.fixture(scope="module")
def seen(classifier, segmenter, images):
    """What the backbone sees: the image times the mask."""
    graph = inference_graph(classifier, CLASSES, "soft_mask", segmenter)
    return keras.Model(graph.input, graph.get_layer("soft_mask").output)(to_model_input(images)).numpy()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_a_saved_model(classifier, model, images, seen, method):
    maps = classifier.features(seen, training=False)
    for target, chosen in (("predicted", "predicted"), ("malignant", 1)):
        found = Explainer(model, method, target).predict(images)
        expected = ClassActivationMap(classifier.head, (SIDE, SIDE), method, chosen)(maps)
        np.testing.assert_allclose(found["saliency"], expected["saliency"], atol=1e-5)
        np.testing.assert_allclose(found["probabilities"], keras.ops.softmax(expected["logits"]), atol=1e-5)
        assert set(found) == {"probabilities", "mask", "saliency"}


def test_an_inner_layer(classifier, model, images, seen):
    lower, upper = cut(classifier.features, "stage3_relu", classifier.head)
    expected = ClassActivationMap(upper, (SIDE, SIDE), "layer_cam")(lower(seen, training=False))["saliency"]
    found = Explainer(model, "layer_cam", layer="stage3_relu").predict(images)
    np.testing.assert_allclose(found["saliency"], expected, atol=1e-5)


def test_without_gradients(classifier, model, images, seen):
    found = Explainer(model, "ablation_cam", "malignant").predict(images)
    expected = ablation_cam(classifier.features, classifier.head, seen, np.full(3, 1))
    np.testing.assert_allclose(found["saliency"][..., 0], expected, atol=1e-5)
    with pytest.raises(UserError, match="ablation_cam explains the backbone's last maps"):
        Explainer(model, "ablation_cam", layer="stage3_relu")


@pytest.fixture
def photos(tmp_path, images):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(images[0]).resize((50, 40), Image.Resampling.BICUBIC).save(folder / "first.png")
    Image.fromarray(images[1]).resize((30, 60), Image.Resampling.BICUBIC).save(folder / "second.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_the_command_writes_a_table_maps_and_overlays(model_file, photos, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "explain",
        str(model_file),
        str(photos),
        "--out",
        str(out),
        "--target",
        "malignant",
        "--method",
        "hires_cam",
    ]
    for _ in range(2):  # The same again is written again.
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code == 0
    captured = capsys.readouterr()
    assert "2 images explained" in captured.out and "broken.png" in captured.err
    table = pd.read_csv(out / "explanations.csv")
    assert list(table.columns) == [
        *("id", "image", "predicted", "confidence", "explained", "explained_probability"),
        *("peak_x", "peak_y", "salient_share"),
    ]
    assert table["id"].tolist() == ["first", "second"] and set(table["explained"]) == {"malignant"}
    for row, (width, height) in zip(table.itertuples(), [(50, 40), (30, 60)], strict=True):
        levels = np.asarray(Image.open(out / "maps" / f"{row.id}.png"))
        assert levels.shape == (height, width)
        assert levels[row.peak_y, row.peak_x] == levels.max()
        assert row.salient_share == pytest.approx((levels >= 128).mean(), abs=0.01)
        overlay = Image.open(out / "overlays" / f"{row.id}.png")
        assert overlay.width == 2 * width and overlay.height >= height
    assert table["peak_x"].max() < 50 and table["confidence"].between(1 / 3, 1).all()


def test_the_commands_names_are_the_methods():
    assert set(Method.__args__) == {**METHODS, **GRADIENT_FREE}.keys()


def test_mistakes_are_named(model, model_file, segmenter, photos, tmp_path):
    with pytest.raises(UserError, match="no method 'cam'; known: grad_cam, .*ablation_cam"):
        Explainer(model, "cam")
    with pytest.raises(UserError, match="no class 'melanoma'; known: benign, malignant, unclear"):
        Explainer(model, target="melanoma")
    from tfseg.data.cases import MaskClasses

    with pytest.raises(UserError, match="no saliency map"):
        Explainer(segmentation_graph(segmenter, MaskClasses()))
    with pytest.raises(UserError, match="no layer named 'stage9'"):
        Explainer(model, layer="stage9")
    (tmp_path / "model.tflite").touch()
    for path in (tmp_path / "model.tflite", tmp_path / "none.keras"):
        with pytest.raises(UserError, match=f"{path.name} is no .keras file"):
            explain_folder(path, photos, tmp_path / "out")
    with pytest.raises(DataError, match="broken.png"):
        explain_folder(model_file, photos / "broken.png", tmp_path / "out")


def test_a_graph_whose_own_map_is_of_an_inner_layer(classifier, images):
    graph = inference_graph(classifier, CLASSES, saliency_layer="stage3_relu")
    lower, upper = cut(classifier.features, "stage3_relu", classifier.head)
    maps = lower(to_model_input(images), training=False)
    found = Explainer(graph, "hires_cam").predict(images)["saliency"]
    np.testing.assert_allclose(found, ClassActivationMap(upper, (SIDE, SIDE), "hires_cam")(maps)["saliency"], atol=1e-5)
    deeper = Explainer(graph, "hires_cam", layer="stage2_relu").predict(images)["saliency"]
    assert np.abs(deeper - found).max() > 0.01


@pytest.mark.parametrize("head_only", [False, True])
def test_shuffled_maps_are_of_what_the_backbone_sees(classifier, segmenter, images, seen, head_only):
    """By the graph's own method, with the weights of backbone and head; the segmenter keeps its own."""
    graph = inference_graph(classifier, CLASSES, "soft_mask", segmenter, saliency="layer_cam")
    kept = [value.copy() for value in graph.get_weights()]
    found = shuffled_maps(graph, images, head_only, seed=4)
    expected = randomisation_check(classifier.features, classifier.head, seen, "layer_cam", head_only=head_only, seed=4)
    assert found.layers == expected.layers and found.shuffled == expected.shuffled
    assert found.shuffled == (["hidden"] if head_only else ["stage1_down_conv"])
    np.testing.assert_allclose(found.spearman, expected.spearman, atol=1e-3)
    np.testing.assert_allclose(found.ssim, expected.ssim, atol=1e-3)
    for before, after in zip(kept, graph.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_shuffled_maps_of_an_inner_layer(classifier, images):
    graph = inference_graph(classifier, CLASSES, saliency_layer="stage3_relu")
    lower, upper = cut(classifier.features, "stage3_relu", classifier.head)
    expected = randomisation_check(lower, upper, to_model_input(images))
    np.testing.assert_allclose(shuffled_maps(graph, images).spearman, expected.spearman, atol=1e-3)


def test_a_decision_needs_no_segmenter_that_hides_nothing(classifier, segmenter, images):
    for approach, needed in (("plain", False), ("soft_mask", True)):
        predictor = KerasPredictor(inference_graph(classifier, CLASSES, approach, segmenter))
        deciding = predictor.deciding()
        names = [layer.name for layer in deciding.graph.layers]
        assert (segmenter.name in names) == needed
        found = deciding.predict(images)
        assert set(found) == {"probabilities"} and deciding.info.classes == CLASSES
        np.testing.assert_allclose(found["probabilities"], predictor.predict(images)["probabilities"], atol=1e-6)


class TestTwoBranches:
    @pytest.fixture(scope="class")
    def fusion(self, segmenter):
        keras.utils.set_random_seed(5)
        networks = [build_backbone("small_cnn", (side, side, 3)) for side in (SIDE, 24)]
        return build_fusion(*networks, 3, "gap", units=8)

    @pytest.fixture(scope="class")
    def graph(self, fusion, segmenter, tmp_path_factory):
        path = tmp_path_factory.mktemp("fusion") / "model.keras"
        fusion_graph(fusion, CLASSES, "fusion_gap", segmenter).save(path)
        return keras.saving.load_model(path)

    @pytest.mark.parametrize("target", ["predicted", "malignant"])
    def test_both_maps_by_another_method_of_another_class(self, fusion, segmenter, graph, images, target):
        found = Explainer(graph, "layer_cam", target).predict(images)
        classes = class_map(segmenter(to_model_input(images)), MaskClasses(), (24, 24))
        maps = fusion.feature_maps(to_model_input(images), classes, training=False)
        chosen = target if target == "predicted" else CLASSES.index(target)
        expected = BranchActivationMaps(fusion.head, (SIDE, SIDE), "layer_cam", chosen)(maps)
        for name in ("saliency", "saliency_mask"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
        own = graph(to_model_input(images))
        np.testing.assert_allclose(found["probabilities"], own["probabilities"], atol=1e-5)
        assert np.abs(found["saliency"] - own["saliency"]).max() > 0.01

    def test_what_two_branches_can_not_have(self, graph):
        for options in ({"layer": "stage3_relu"}, {"method": "score_cam"}):
            with pytest.raises(UserError, match="the model has two branches"):
                Explainer(graph, **options)
        with pytest.raises(UserError, match="the model has two branches"):
            shuffled_maps(graph, np.zeros((1, SIDE, SIDE, 3), np.uint8))
