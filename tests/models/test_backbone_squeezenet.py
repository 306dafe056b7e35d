"""SqueezeNet: against the same network in plain TensorFlow, and with its real weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_model

from tfseg.data.decode import decode_image, resize_image, to_model_input
from tfseg.errors import WeightsError
from tfseg.models.backbones import BACKBONES, build_backbone

# Of Caffe's published definitions: size of the first kernel, and the fire modules that a pooling follows.
DEFINITIONS = {"squeezenet_1_0": (7, (4, 8)), "squeezenet_1_1": (3, (3, 5))}


def ceil_pool(values):
    """3×3 maximum of stride 2; a last window may hang over the edge where it still begins inside."""
    _, height, width, _ = values.shape
    rows, columns = (int(np.ceil((side - 3) / 2)) + 1 for side in (height, width))
    windows = [
        [values[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].max((1, 2)) for column in range(columns)]
        for row in range(rows)
    ]
    return np.stack([np.stack(row, 1) for row in windows], 1)


def plain_squeezenet(name, image, arrays):
    """Outputs by the layers' published names, from an RGB image in [0, 1] and the arrays of a file."""
    size, pools = DEFINITIONS[name]

    def convolve(values, layer, padding="SAME", stride=1):
        values = tf.nn.conv2d(values, arrays[f"{layer}/kernel"], stride, padding) + arrays[f"{layer}/bias"]
        return np.maximum(values, 0.0)

    assert arrays["conv1/kernel"].shape[0] == size
    bgr = 255.0 * image[..., ::-1] - np.array([104.0, 117.0, 123.0], np.float32)
    outputs = {"relu_conv1": convolve(bgr.astype(np.float32), "conv1", "VALID", 2)}
    values = outputs["pool1"] = ceil_pool(outputs["relu_conv1"])
    for number in range(2, 10):
        squeezed = convolve(values, f"fire{number}/squeeze1x1")
        expanded = [convolve(squeezed, f"fire{number}/expand{part}") for part in ("1x1", "3x3")]
        values = outputs[f"fire{number}_concat"] = np.concatenate(expanded, -1)
        if number in pools:
            values = outputs[f"pool{number}"] = ceil_pool(values)
    return outputs


def assert_same_network(model, name, image, arrays):
    expected = plain_squeezenet(name, image, arrays)
    received = keras.Model(model.input, {key: model.get_layer(key).output for key in expected})(image)
    for key, values in expected.items():
        scale = np.abs(values).max()
        assert scale > 0
        np.testing.assert_allclose(received[key] / scale, values / scale, atol=2e-5, err_msg=key)
    np.testing.assert_array_equal(model(image), received["fire9_concat"])


@pytest.fixture(scope="module", params=DEFINITIONS)
def shaken(request):
    """A network with biases that count, and its arrays under the published names."""
    keras.utils.set_random_seed(0)
    model = build_backbone(request.param, (50, 37, 3))
    generator = np.random.default_rng(0)
    arrays = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.bias.assign(generator.normal(0.0, 0.1, layer.bias.shape))
            name = layer.name.replace("_", "/")
            arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = layer.get_weights()
    return request.param, model, arrays


def pictures(height, width):
    return np.random.default_rng(1).uniform(size=(2, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(50, 37), (49, 39), (64, 63)])
def test_against_plain_tensorflow(shaken, size):
    """Sides whose halvings come out even and odd, so that windows hang over some edges and not over others."""
    name, trained, arrays = shaken
    model = build_backbone(name, (*size, 3))
    model.set_weights(trained.get_weights())
    assert_same_network(model, name, pictures(*size), arrays)


def test_every_way_to_call_agrees(shaken, tmp_path):
    name, model, _ = shaken
    if name == "squeezenet_1_1":
        check_model(model, pictures(50, 37), tmp_path, tolerance=1e-4)


def test_arrays_load_by_name_in_any_order(shaken, tmp_path):
    name, model, arrays = shaken
    top = {"conv10/kernel": np.ones((1, 1, 512, 10), np.float32), "conv10/bias": np.ones(10, np.float32)}
    np.savez(tmp_path / "named.npz", **top, **dict(sorted(arrays.items(), reverse=True)))
    loaded = build_backbone(name, (50, 37, 3), str(tmp_path / "named.npz"))
    np.testing.assert_array_equal(loaded(pictures(50, 37)), model(pictures(50, 37)))


def test_other_names_load_in_the_order_of_the_forward_pass(shaken, tmp_path):
    name, model, arrays = shaken
    layers = list(dict.fromkeys(key.rpartition("/")[0] for key in arrays))
    assert layers[:4] == ["conv1", "fire2/squeeze1x1", "fire2/expand1x1", "fire2/expand3x3"]
    renamed = {
        f"{'zyxwvutsrqponmlkjihgfedcba'[number]}/{part}": arrays[f"{layer}/{part}"]
        for number, layer in enumerate(layers)
        for part in ("kernel", "bias")
    }
    np.savez(tmp_path / "ordered.npz", **renamed)
    loaded = build_backbone(name, (50, 37, 3), str(tmp_path / "ordered.npz"))
    np.testing.assert_array_equal(loaded(pictures(50, 37)), model(pictures(50, 37)))


def test_weights_of_the_other_version_do_not_fit(shaken, tmp_path):
    name, _, arrays = shaken
    other = next(version for version in DEFINITIONS if version != name)
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(WeightsError, match="other.npz: layer conv1 expects conv1/kernel"):
        build_backbone(other, (50, 37, 3), str(tmp_path / "other.npz"))


@pytest.fixture(scope="module")
def pretrained(data_folder):
    path = data_folder / "weights" / "squeezenet1_1_imagenet.npz"
    contents = (data_folder / "weights" / "cat.jpg").read_bytes()
    image = to_model_input(resize_image(decode_image(contents), 227)[None])
    with np.load(path) as file:
        return build_backbone("squeezenet_1_1", (227, 227, 3), str(path)), np.asarray(image), dict(file)


@pytest.mark.real_data
def test_real_weights_see_a_cat(pretrained, data_folder):
    model, image, arrays = pretrained
    logits = np.maximum(model(image) @ arrays["conv10/kernel"][0, 0] + arrays["conv10/bias"], 0.0).mean((1, 2))
    # The list begins with a class for the background, which this network has not.
    names = (data_folder / "weights" / "imagenet_labels_1001.txt").read_text().splitlines()[1:]
    best = [names[index].lower() for index in np.argsort(logits[0])[::-1][:5]]
    assert any(cat in name for name in best for cat in ("tabby", "tiger cat", "egyptian cat")), best


@pytest.mark.real_data
def test_real_weights_against_plain_tensorflow(pretrained):
    model, image, arrays = pretrained
    assert_same_network(model, "squeezenet_1_1", image, arrays)
    assert model.output.shape[1:] == (14, 14, 512) and BACKBONES["squeezenet_1_1"].maps[16] == "fire9_concat"
