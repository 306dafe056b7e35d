"""The output ``unfamiliarity`` of the graphs that are served."""

import keras
import numpy as np
import pytest
from harness import check_litert

from tfseg.layers.unfamiliarity import pooled_features
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier, decision_graph, inference_graph
from tfseg.models.fusion import build_fusion, fusion_graph
from tfseg.models.unet import unet

SIDE, CLASSES = 32, ("a", "b", "c")


def backbone(name="features"):
    built = build_backbone("small_cnn", (SIDE, SIDE, 3))
    return keras.Model(built.input, built.output, name=name)


def images(count=3):
    return np.random.default_rng(0).random((count, SIDE, SIDE, 3)).astype(np.float32)


def fit(layer):
    """Distances from 0 in units of 2."""
    channels = layer.means.shape[1]
    rank = layer.directions.shape[0]
    layer.fit(np.zeros((3, channels)), np.eye(rank, channels), np.ones(rank), 1.0, threshold=2.0)


@pytest.mark.parametrize("saliency_layer", [None, "stage3_relu"])
def test_of_a_classifier(tmp_path, saliency_layer):
    classifier = build_classifier(backbone(), 3, units=8)
    graph = inference_graph(classifier, CLASSES, saliency_layer=saliency_layer, unfamiliarity=True)
    assert set(graph.output) == {"probabilities", "saliency", "unfamiliarity"}
    assert set(decision_graph(graph).output) == {"probabilities"}
    assert set(inference_graph(classifier, CLASSES).output) == {"probabilities", "saliency"}
    np.testing.assert_array_equal(graph(images())["unfamiliarity"], np.zeros(3))
    fit(graph.get_layer("unfamiliarity"))
    maps = graph.get_layer("features")(images(), training=False)
    maps = maps[0] if isinstance(maps, list) else maps
    expected = np.linalg.norm(pooled_features(maps), axis=1) / 2
    np.testing.assert_allclose(graph(images())["unfamiliarity"], expected, rtol=1e-5)
    assert expected.min() > 0
    check_litert(graph, [images()], tmp_path, tolerance=1e-4)


def test_of_a_fusion_it_is_the_images_branch():
    fusion = build_fusion(backbone("image"), backbone("mask"), 3, "gap", units=8)
    segmenter = unet((SIDE, SIDE, 3), 1, width=4, depth=1)
    graph = fusion_graph(fusion, CLASSES, segmenter=segmenter, unfamiliarity=True)
    assert set(graph.output) == {"mask", "probabilities", "saliency", "saliency_mask", "unfamiliarity"}
    fit(graph.get_layer("unfamiliarity"))
    expected = np.linalg.norm(pooled_features(fusion.image_features(images(), training=False)), axis=1) / 2
    np.testing.assert_allclose(graph(images())["unfamiliarity"], expected, rtol=1e-5)
