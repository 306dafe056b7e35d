"""SE-LCN trained end to end, on pictures of a few pixels."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from tfseg.config import ComparisonConfig
from tfseg.data.batches import make_batches
from tfseg.data.splits import Split
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier, inference_graph
from tfseg.training.classifier import train_classifier
from tfseg.training.fit import for_joint

SIDE = 24
SPLIT = Split(np.arange(8), np.arange(8, 11), np.arange(11, 14))
CONFIG = ComparisonConfig(
    data="phantoms",
    image_size=SIDE,
    segmenter="none",
    approaches=("se_lcn",),
    epochs=2,
    batch_size=4,
    learning_rate=1e-2,
    dropout=0.0,
    head_units=4,
    learning_rate_schedule="constant",
    joint_symmetry=1.0,
).resolved()


@pytest.fixture
def arrays(tiny_arrays):
    """Of two training cases and one validation case nobody knows the symmetry."""
    symmetry = np.array([0, 1, -1, 1, 0, 1, 0, -1, 1, -1, 0, 1, 0, 1], np.int32)
    return replace(tiny_arrays(14, SIDE), attributes={"symmetry_label": symmetry})


@pytest.fixture
def stage(tmp_path):
    """A symmetry network's file, whose first layers were frozen in its training."""
    keras.utils.set_random_seed(3)
    parts = build_classifier(build_backbone("small_cnn", (SIDE, SIDE, 3)), 2, units=4)
    weighted = [layer for layer in parts.features.layers if layer.weights]
    for layer in weighted[:3]:
        layer.trainable = False
    graph = inference_graph(parts, ("asymmetric", "symmetric"), saliency="grad_cam_plus_plus")
    graph.save(tmp_path / "stage.keras")
    return lambda: keras.saving.load_model(tmp_path / "stage.keras", compile=False)


def test_all_but_its_frozen_layers_learn(arrays, stage):
    maps = {"symmetry": np.zeros(arrays.masks.shape, np.uint8)}
    trained = train_classifier(CONFIG, "se_lcn", arrays, SPLIT, 2, maps, stages={"symmetry": stage})
    before = [layer for layer in stage().get_layer("features").layers if layer.weights]
    after = [layer for layer in trained.symmetry.features.layers if layer.weights]
    changed = [
        any(not np.array_equal(*pair) for pair in zip(one.get_weights(), other.get_weights(), strict=True))
        for one, other in zip(before, after, strict=True)
    ]
    assert changed[:3] == [False] * 3 and all(changed[3:])
    head = (stage().get_layer("saliency").head, trained.symmetry.explain.head)
    assert not np.array_equal(*(part.get_layer("logits").get_weights()[0] for part in head))
    assert {"joint_loss", "val_joint_loss", "val_loss", "val_symmetry_loss"} <= set(trained.history)
    assert trained.symmetry.classes == ("asymmetric", "symmetric") and trained.segmenter is None


def test_its_loss_leaves_out_cases_without_a_value(arrays):
    batch = next(iter(make_batches(arrays, np.arange(8), 8)))
    adapt = for_joint(np.array([0.5, 2.0]), ("symmetry",), np.array([3.0, 5.0]))
    image, targets, weights = adapt(batch)
    assert image is batch["image"] and set(targets) == set(weights) == {"logits", "symmetry"}
    np.testing.assert_array_equal(weights["symmetry"], [3, 5, 0, 5, 3, 5, 3, 0])
    np.testing.assert_array_equal(targets["symmetry"], [0, 1, 0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(weights["logits"], [0.5, 2.0] * 4)
    _, targets, weights = for_joint(None, ("symmetry", "mask"), np.array([3.0, 5.0]))(batch)
    assert targets["mask"] is batch["mask"] and weights["mask"] is batch["valid"]


def test_attributes_go_with_their_case(arrays):
    positions = np.array([5, 2, 9])
    (batch,) = make_batches(arrays, positions, 3)
    np.testing.assert_array_equal(batch["symmetry_label"], arrays.attributes["symmetry_label"][positions])
    training = next(iter(make_batches(arrays, np.arange(14), 14, training=True, seed=3)))
    order = [int(name) for name in training["id"].numpy()]
    np.testing.assert_array_equal(training["symmetry_label"], arrays.attributes["symmetry_label"][order])
    assert order != sorted(order)
