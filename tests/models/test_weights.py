"""Folded convolutions: against a network folded by hand, and files that can't be used."""

import io
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tfseg.errors import WeightsError
from tfseg.models.weights import load_folded_convolutions


def network():
    """Convolution and depthwise convolution with batch norm, and a convolution with a bias of its own."""
    image = keras.Input((9, 9, 3))
    outputs = layers.Conv2D(4, 3, strides=2, use_bias=False, name="first")(image)
    outputs = layers.ReLU()(layers.BatchNormalization(epsilon=1e-2, name="first_norm")(outputs))
    outputs = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(outputs)
    outputs = layers.ReLU()(layers.BatchNormalization(name="depthwise_norm")(outputs))
    return keras.Model(image, layers.Conv2D(5, 1, name="last")(outputs))


@pytest.fixture
def trained():
    """The network with weights and statistics as after a training."""
    model, generator = network(), np.random.default_rng(0)
    model.set_weights([generator.uniform(0.3, 1.5, value.shape) for value in model.get_weights()])
    return model


@pytest.fixture
def folded(trained):
    """Its convolutions with batch norm folded in by hand: kernel · γ / √(σ² + ε), β − μ · γ / √(σ² + ε)."""
    arrays = {}
    for number, (name, epsilon) in enumerate((("first", 1e-2), ("depthwise", 1e-3))):
        kernel = trained.get_layer(name).get_weights()[0]
        gamma, beta, mean, variance = trained.get_layer(f"{name}_norm").get_weights()
        scale = gamma / np.sqrt(variance + epsilon)
        arrays[f"{number:02d}_{name}/kernel"] = kernel * (scale[:, None] if name == "depthwise" else scale)
        arrays[f"{number:02d}_{name}/bias"] = beta - mean * scale
    arrays["02_last/kernel"], arrays["02_last/bias"] = trained.get_layer("last").get_weights()
    return arrays


def test_the_loaded_network_is_the_folded_one(trained, folded, tmp_path):
    top = {"03_top/kernel": np.ones((1, 1, 5, 7), np.float32), "03_top/bias": np.ones(7, np.float32)}
    np.savez(tmp_path / "folded.npz", **folded, **top)
    model = network()
    load_folded_convolutions(model, tmp_path / "folded.npz")
    image = np.random.default_rng(1).uniform(size=(2, 9, 9, 3)).astype(np.float32)
    expected = trained(image, training=False)
    assert np.ptp(expected) > 1.0
    np.testing.assert_allclose(model(image, training=False), expected, rtol=1e-5, atol=1e-5)


def spoiled(folded, change):
    arrays = dict(folded)
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("02_last/kernel"), "holds 2 convolutions, the network has 3"),
        (lambda arrays: arrays.update({"00_first/kernel": np.ones((3, 3, 3, 8))}), r"first.*\(3, 3, 3, 4\).*3, 3, 8\)"),
        (lambda arrays: arrays.pop("01_depthwise/bias"), "depthwise.*bias.*none"),
        (lambda arrays: arrays.update({"01_depthwise/bias": np.ones(3)}), r"depthwise.*bias \(4,\).*\(3,\)"),
        (lambda arrays: arrays.update({"02_last/bias": np.ones((5, 1))}), r"last.*bias \(5,\)"),
    ],
)
def test_what_does_not_fit_is_named(folded, tmp_path, change, message):
    path = tmp_path / "spoiled.npz"
    np.savez(path, **spoiled(folded, change))
    with pytest.raises(WeightsError, match=f"spoiled.npz.*{message}"):
        load_folded_convolutions(network(), path)


def npy_bytes():
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize("damage", ["half", "tail", "middle", "text", "empty", "npy"])
def test_a_file_that_cannot_be_read_is_named(folded, tmp_path, damage):
    path = Path(tmp_path / "damaged.npz")
    np.savez_compressed(path, **folded)
    content = bytearray(path.read_bytes())
    if damage == "middle":
        content[60:300] = bytes(240)
    whole = bytes(content)
    path.write_bytes(
        {
            "half": whole[: len(whole) // 2],
            "tail": whole[:-3],
            "middle": whole,
            "text": b"<html>404</html>",
            "empty": b"",
            "npy": npy_bytes(),
        }[damage]
    )
    with pytest.raises(WeightsError, match="damaged.npz is not a readable .npz"):
        load_folded_convolutions(network(), path)
