"""ShuffleNetV2: against torchvision's definition written down once more in plain TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_model

from tfseg.errors import WeightsError
from tfseg.models.backbones import build_backbone
from tfseg.models.backbones.shufflenet import shufflenet


def shaken(model, seed=0):
    """Weights and statistics as if trained."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.set_weights(
                [generator.uniform(0.5, 2.0, size), generator.normal(0, 0.3, size)]
                + [generator.normal(0, 0.3, size), generator.uniform(0.3, 1.0, size)]
            )
    return model


def plain_shufflenet(model, image, repeats):
    """The forward pass of torchvision's ShuffleNetV2 in inference mode, from the layers' weights alone."""

    def weights(name):
        return model.get_layer(name.replace(".", "_")).get_weights()

    def convolve(values, name, norm, stride=1, rectify=True):
        (kernel,) = weights(name)
        margin = kernel.shape[0] // 2
        values = np.pad(values, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        values = tf.nn.conv2d(values, kernel, stride, "VALID")
        return normalise(values, norm, rectify)

    def depthwise(values, name, norm, stride):
        (kernel,) = weights(name)
        values = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return normalise(tf.nn.depthwise_conv2d(values, kernel, [1, stride, stride, 1], "VALID"), norm, False)

    def normalise(values, norm, rectify):
        gamma, beta, mean, variance = weights(norm)
        values = (values - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        return np.maximum(values, 0.0) if rectify else np.asarray(values)

    def branch2(values, unit, stride):
        values = convolve(values, f"{unit}.branch2.0", f"{unit}.branch2.1")
        values = depthwise(values, f"{unit}.branch2.3", f"{unit}.branch2.4", stride)
        return convolve(values, f"{unit}.branch2.5", f"{unit}.branch2.6")

    values = (image - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    values = convolve(values.astype(np.float32), "conv1.0", "conv1.1", 2)
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    values = np.asarray(tf.nn.max_pool2d(padded, 3, 2, "VALID"))
    for stage, units in enumerate(repeats, 2):
        for number in range(units):
            unit = f"stage{stage}.{number}"
            if number == 0:
                first = depthwise(values, f"{unit}.branch1.0", f"{unit}.branch1.1", 2)
                first = convolve(first, f"{unit}.branch1.2", f"{unit}.branch1.3")
                parts = first, branch2(values, unit, 2)
            else:
                half = values.shape[-1] // 2
                parts = values[..., :half], branch2(values[..., half:], unit, 1)
            # Shuffled: channels of the two parts in turn.
            values = np.stack(parts, -1).reshape(*parts[0].shape[:3], -1)
    return convolve(values, "conv5.0", "conv5.1")


def pictures(height, width):
    return np.random.default_rng(1).uniform(size=(2, height, width, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    return shaken(shufflenet((37, 50, 3), (8,), (2,), last=16))


def test_against_plain_tensorflow(small):
    expected = plain_shufflenet(small, pictures(37, 50), (2,))
    assert expected.max() > 0.1
    np.testing.assert_allclose(small(pictures(37, 50), training=False), expected, rtol=1e-4, atol=1e-4)


def test_the_whole_network_against_plain_tensorflow():
    keras.utils.set_random_seed(1)
    model = shaken(build_backbone("shufflenet_v2_x0_5", (64, 64, 3)))
    expected = plain_shufflenet(model, pictures(64, 64), (4, 8, 4))
    scale = expected.max()
    np.testing.assert_allclose(model(pictures(64, 64), training=False) / scale, expected / scale, atol=1e-4)


def test_every_way_to_call_agrees(small, tmp_path):
    check_model(small, pictures(37, 50), tmp_path, tolerance=1e-4)


def test_an_npz_has_to_name_every_layer(tmp_path):
    """The order can't tell the branches of a unit apart: their convolutions have the same shapes."""
    model = build_backbone("shufflenet_v2_x0_5", (32, 32, 3))
    arrays = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            name = layer.name.replace("_", ".", 1)
            arrays[f"{name}/kernel"] = layer.get_weights()[0]
            arrays[f"{name}/bias"] = np.full(layer.output.shape[-1], 0.1, np.float32)
    np.savez(tmp_path / "folded.npz", **arrays)
    loaded = build_backbone("shufflenet_v2_x0_5", (32, 32, 3), str(tmp_path / "folded.npz"))
    for layer in loaded.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            values = layer(np.zeros((1, 1, 1, layer.gamma.shape[0]), np.float32), training=False)
            np.testing.assert_allclose(values, 0.1, atol=1e-6)
    first = "stage2.0_branch1_0"
    arrays["other/kernel"] = arrays.pop(f"{first}/kernel")
    np.savez(tmp_path / "unnamed.npz", **arrays)
    with pytest.raises(WeightsError, match="unnamed.npz holds no kernel for stage2_0_branch1_0"):
        build_backbone("shufflenet_v2_x0_5", (32, 32, 3), str(tmp_path / "unnamed.npz"))
