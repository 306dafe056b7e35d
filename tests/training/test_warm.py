"""The head before the rest."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError
from tfseg.models.backbones import build_backbone
from tfseg.models.cascade import build_enhanced
from tfseg.models.classifier import build_classifier
from tfseg.models.fusion import build_fusion
from tfseg.training.warm import train_head_first

SIDE = 16


def small():
    return build_backbone("small_cnn", (SIDE, SIDE, 3))


def batches(images, labels, names=("image",), weights=None):
    weights = np.ones(len(labels), np.float32) if weights is None else weights
    return tf.data.Dataset.from_tensor_slices((dict.fromkeys(names, images), labels, weights)).batch(8)


@pytest.fixture
def bright():
    """Images that a linear head on random features tells apart: bright and dark ones."""
    labels = np.arange(32) % 2
    noise = np.random.default_rng(0).uniform(0, 0.2, (32, SIDE, SIDE, 3))
    return (noise + 0.7 * labels[:, None, None, None]).astype(np.float32), labels.astype(np.int32)


@pytest.mark.parametrize("kind", ["plain", "centiou", "se_lcn", "fusion_gap"])
def test_only_what_lies_behind_the_backbone_learns(kind, bright):
    keras.utils.set_random_seed(0)
    images, labels = bright
    names = {"se_lcn": ("image", "symmetry"), "fusion_gap": ("image", "classes")}.get(kind, ("image",))
    if kind == "se_lcn":
        parts = build_enhanced(small(), 2, SIDE)
        backbones = [parts.features]
        data = tf.data.Dataset.from_tensor_slices(
            ({"image": images, "symmetry": images[..., :1]}, labels, np.ones(32, np.float32))
        ).batch(8)
    elif kind == "fusion_gap":
        parts = build_fusion(small(), small(), 2, "gap")
        backbones = [parts.image_features, parts.mask_features]
        data = batches(images, labels, names)
    else:
        parts = build_classifier(small(), 2)
        backbones = [parts.features]
        data = batches(images, labels)
    before = [[value.numpy().copy() for value in part.weights] for part in (*backbones, parts.head)]
    train_head_first(parts, kind, data.repeat(), data, 32, 20, "test")
    after = [[value.numpy() for value in part.weights] for part in (*backbones, parts.head)]
    for old, new in zip(before[:-1], after[:-1], strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(old, new, strict=True))
    assert any(not np.array_equal(one, other) for one, other in zip(before[-1], after[-1], strict=True))
    model = parts.logits_model()
    inputs = {"image": images, "symmetry": images[..., :1], "classes": images}
    logits = np.asarray(model({name: inputs[name] for name in names}, training=False))
    assert (logits.argmax(1) == labels).mean() > 0.9


def test_weights_of_the_cases_count(bright):
    """Where one class has no weight, the head calls everything the other."""
    keras.utils.set_random_seed(0)
    images, labels = bright
    parts = build_classifier(small(), 2, units=None)
    data = batches(images, labels, weights=(labels == 1).astype(np.float32))
    train_head_first(parts, "plain", data.repeat(), data, 32, 20, "test")
    assert (np.asarray(parts.logits_model()({"image": images}, training=False)).argmax(1) == 1).all()


def test_the_setting_is_checked():
    with pytest.raises(ConfigError, match="`head_epochs` must be at least 0"):
        ComparisonConfig(data="d", head_epochs=-1)
    with pytest.raises(ConfigError, match="`head_epochs` trains on one machine"):
        ComparisonConfig(data="d", head_epochs=5, distribution="multiworker")
