"""Files of PyTorch, Caffe, safetensors and NumPy, written here byte by byte, become weights of ours."""

import pickle
import subprocess
import zipfile

import keras
import numpy as np
import pytest
from weight_writers import torch_pickle, write_caffemodel, write_safetensors, write_torch_stream, write_torch_zip

from tfseg.commands.weights import Weights
from tfseg.errors import WeightsError
from tfseg.models import conversion
from tfseg.models.backbones import build_backbone
from tfseg.models.conversion import convert_weights
from tfseg.models.weight_files import read_weights

SMALL = (32, 32, 3)


def published_arrays(model, seed=0):
    """Random convolutions of a SqueezeNet under Caffe's names, HWIO; the top included."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            name, shape = layer.name.replace("_", "/"), tuple(layer.kernel.shape)
            deviation = np.sqrt(2.0 / np.prod(shape[:3])) / (50.0 if name == "conv1" else 1.0)
            arrays[f"{name}/kernel"] = generator.normal(0.0, deviation, shape).astype(np.float32)
            arrays[f"{name}/bias"] = generator.normal(0.0, 0.1, shape[-1]).astype(np.float32)
    arrays["conv10/kernel"] = generator.normal(size=(1, 1, 512, 4)).astype(np.float32)
    arrays["conv10/bias"] = generator.normal(size=4).astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def caffe(tmp_path_factory):
    """A SqueezeNet 1.1 as a .npz, loaded the way that is tested elsewhere, and its arrays."""
    keras.utils.set_random_seed(0)
    arrays = published_arrays(build_backbone("squeezenet_1_1", SMALL))
    path = tmp_path_factory.mktemp("caffe") / "published.npz"
    np.savez(path, **arrays)
    return path, arrays, build_backbone("squeezenet_1_1", SMALL, str(path))


def torchvision_squeezenet(arrays):
    """The same arrays under torchvision's names, OIHW."""
    places = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))
    state = {}
    for key, values in arrays.items():
        *layer, part = key.split("/")
        if layer == ["conv1"]:
            name = "features.0"
        elif layer == ["conv10"]:
            name = "classifier.1"
        else:
            inner = "squeeze" if layer[1] == "squeeze1x1" else layer[1]
            name = f"features.{places[int(layer[0].removeprefix('fire'))]}.{inner}"
        if part == "kernel":
            state[f"{name}.weight"] = values.transpose(3, 2, 0, 1)
        else:
            state[f"{name}.bias"] = values
    return state


def torchvision_shufflenet(model, seed=0):
    """Random weights under torchvision's names; depthwise kernels (channels, 1, h, w)."""
    generator = np.random.default_rng(seed)
    state = {}
    for layer in model.layers:
        stage, *rest = layer.name.split("_")
        name = ".".join((stage, *rest))
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            values = generator.normal(0.0, 0.4, layer.kernel.shape)
            state[f"{name}.weight"] = values.transpose(2, 3, 0, 1).astype(np.float32)
        elif isinstance(layer, keras.layers.Conv2D):
            values = generator.normal(0.0, np.sqrt(1.0 / np.prod(layer.kernel.shape[:3])), layer.kernel.shape)
            state[f"{name}.weight"] = values.transpose(3, 2, 0, 1).astype(np.float32)
        elif isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            state[f"{name}.weight"] = generator.uniform(0.5, 1.5, size).astype(np.float32)
            state[f"{name}.bias"] = generator.normal(0.0, 0.3, size).astype(np.float32)
            state[f"{name}.running_mean"] = generator.normal(0.0, 0.3, size).astype(np.float32)
            state[f"{name}.running_var"] = generator.uniform(0.5, 2.0, size).astype(np.float32)
            state[f"{name}.num_batches_tracked"] = np.array(7, np.int64)
    state["fc.weight"] = generator.normal(size=(3, 1024)).astype(np.float32)
    state["fc.bias"] = np.zeros(3, np.float32)
    return state


def pictures():
    return np.random.default_rng(5).uniform(size=(2, *SMALL)).astype(np.float32)


@pytest.mark.parametrize("writer", [write_torch_zip, write_torch_stream, write_safetensors])
def test_tensors_are_read_as_they_were_written(writer, tmp_path):
    generator = np.random.default_rng(0)
    state = {
        "features.0.weight": generator.normal(size=(4, 3, 2, 5)).astype(np.float32),
        "features.0.bias": generator.normal(size=4).astype(np.float32),
        "steps": np.array([3, 5], np.int64),
        "number": np.array(7, np.int64),
    }
    path = tmp_path / ("made.safetensors" if writer is write_safetensors else "made.pth")
    writer(path, state)
    received = read_weights(path)
    assert list(received) == list(state)
    for name, values in state.items():
        np.testing.assert_array_equal(received[name], values)
        assert received[name].dtype == values.dtype and received[name].shape == values.shape


@pytest.mark.parametrize("old", [False, True])
def test_a_caffemodel_gives_what_the_npz_gives(caffe, old, tmp_path):
    path, arrays, expected = caffe
    write_caffemodel(tmp_path / "published.caffemodel", arrays, old)
    difference = convert_weights(tmp_path / "published.caffemodel", "squeezenet_1_1", tmp_path / "made.weights.h5")
    assert 0.0 < difference < 1e-5
    loaded = build_backbone("squeezenet_1_1", SMALL, str(tmp_path / "made.weights.h5"))
    np.testing.assert_array_equal(loaded(pictures()), expected(pictures()))


def test_an_npz_converts(caffe, tmp_path, capsys):
    path, _, expected = caffe
    out = tmp_path / "new" / "made.weights.h5"
    assert Weights("convert", str(path), "squeezenet_1_1", str(out)).run() == 0
    assert "every layer agrees with" in capsys.readouterr().out
    loaded = build_backbone("squeezenet_1_1", SMALL, str(out))
    np.testing.assert_array_equal(loaded(pictures()), expected(pictures()))
    assert [file.name for file in out.parent.iterdir()] == ["made.weights.h5"]


@pytest.mark.parametrize("writer", [write_torch_zip, write_torch_stream, write_safetensors])
def test_a_squeezenet_of_torch_sees_standardised_rgb(caffe, writer, tmp_path):
    """The same arrays after another normalisation: the first layer is rewritten so that the output is the same."""
    _, arrays, _ = caffe
    arrays = {**arrays, "conv1/kernel": 50.0 * arrays["conv1/kernel"]}
    path = tmp_path / ("torch.safetensors" if writer is write_safetensors else "torch.pth")
    writer(path, torchvision_squeezenet(arrays))
    assert convert_weights(path, "squeezenet_1_1", tmp_path / "made.weights.h5") < 1e-5
    loaded = build_backbone("squeezenet_1_1", SMALL, str(tmp_path / "made.weights.h5"))
    # The network from its second layer on, behind a first layer as PyTorch has it.
    image = keras.Input(SMALL)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    outputs = keras.layers.Normalization(mean=mean, variance=std**2)(image)
    first = keras.layers.Conv2D(64, 3, 2)
    reference = keras.Model(image, first(outputs))
    first.set_weights([arrays["conv1/kernel"], arrays["conv1/bias"]])
    expected = reference(pictures()).numpy()
    received = keras.Model(loaded.input, loaded.get_layer("conv1").output)(pictures()).numpy()
    np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max())
    squeeze = loaded.get_layer("fire2_squeeze1x1").kernel
    np.testing.assert_array_equal(squeeze, arrays["fire2/squeeze1x1/kernel"])


def test_what_images_the_weights_expect_can_be_said(caffe, tmp_path):
    _, arrays, expected = caffe
    write_torch_zip(tmp_path / "caffe.pth", torchvision_squeezenet(arrays))
    convert_weights(tmp_path / "caffe.pth", "squeezenet_1_1", tmp_path / "made.weights.h5", trained_with="caffe")
    loaded = build_backbone("squeezenet_1_1", SMALL, str(tmp_path / "made.weights.h5"))
    np.testing.assert_array_equal(loaded(pictures()), expected(pictures()))


def test_squeezenet_1_0_of_torch(tmp_path):
    model = build_backbone("squeezenet_1_0", SMALL)
    arrays = published_arrays(model)
    state = torchvision_squeezenet(arrays)
    # Its halvings come later than version 1.1's, and so do the modules behind them.
    moved = {6: 5, 7: 7, 9: 8, 10: 9, 11: 10}
    state = {
        ".".join(
            [
                *name.split(".")[:1],
                str(moved.get(int(name.split(".")[1]), int(name.split(".")[1]))),
                *name.split(".")[2:],
            ]
        ): values
        for name, values in state.items()
    }
    write_torch_zip(tmp_path / "torch.pth", state)
    assert convert_weights(tmp_path / "torch.pth", "squeezenet_1_0", tmp_path / "made.weights.h5") < 1e-5
    loaded = build_backbone("squeezenet_1_0", SMALL, str(tmp_path / "made.weights.h5"))
    for name in ("fire4", "fire5", "fire9"):
        kernel = loaded.get_layer(f"{name}_expand3x3").kernel
        np.testing.assert_array_equal(kernel, arrays[f"{name}/expand3x3/kernel"])


def test_shufflenet_of_torch(tmp_path):
    keras.utils.set_random_seed(0)
    state = torchvision_shufflenet(build_backbone("shufflenet_v2_x0_5", SMALL))
    prefixed = {f"module.{name}": values for name, values in state.items()}
    write_torch_zip(tmp_path / "torch.pt", prefixed)
    assert convert_weights(tmp_path / "torch.pt", "shufflenet_v2_x0_5", tmp_path / "made.weights.h5") < 1e-5
    loaded = build_backbone("shufflenet_v2_x0_5", SMALL, str(tmp_path / "made.weights.h5"))
    norm = loaded.get_layer("stage3_2_branch2_4")
    parts = ("weight", "bias", "running_mean", "running_var")
    np.testing.assert_array_equal(norm.get_weights(), [state[f"stage3.2.branch2.4.{part}"] for part in parts])
    kernel = loaded.get_layer("stage3_2_branch2_3").get_weights()[0]
    np.testing.assert_array_equal(kernel[:, :, 5, 0], state["stage3.2.branch2.3.weight"][5, 0])


@pytest.mark.parametrize("damage", ["kernel", "bias", "norm", "first"])
def test_the_check_sees_a_wrong_conversion(caffe, damage, tmp_path, monkeypatch):
    """Every way in which a converter can go wrong, one at a time, ends in an error and no file."""
    original = conversion._assign

    def wrong(model, sources, path):
        original(model, sources, path)
        if damage == "norm":
            variance = model.get_layer("stage4_3_branch2_6").moving_variance
            variance.assign(1.01 * variance)
        else:
            layer = model.get_layer({"kernel": "fire9_expand3x3", "bias": "fire5_expand1x1", "first": "conv1"}[damage])
            if damage == "bias":
                layer.bias.assign(layer.bias + 0.01)
            else:
                layer.kernel.assign(np.flip(layer.kernel, 2 if damage == "first" else 0))

    monkeypatch.setattr(conversion, "_assign", wrong)
    if damage == "norm":
        write_torch_zip(tmp_path / "torch.pth", torchvision_shufflenet(build_backbone("shufflenet_v2_x0_5", SMALL)))
        source, name = tmp_path / "torch.pth", "shufflenet_v2_x0_5"
    else:
        source, name = caffe[0], "squeezenet_1_1"
    with pytest.raises(WeightsError, match="differs from the source by .*nothing was written"):
        convert_weights(source, name, tmp_path / "out" / "made.weights.h5")
    assert list((tmp_path / "out").iterdir()) == []


class Command:
    """What an attacker pickles."""

    def __reduce__(self):
        return subprocess.call, (["touch", "attacked"],)


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_pickle_cannot_run_anything(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    content = pickle.dumps({"conv1.weight": Command()}, protocol=2)
    if layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="evil.pth asks for .*call; only tensors are read"):
        read_weights(path)
    assert not (tmp_path / "attacked").exists()


def test_a_tensor_beyond_its_storage(tmp_path):
    """Numbers of a damaged file must not become a view of foreign memory."""
    content, storages = torch_pickle({"weight": np.zeros((2, 3), np.float32)})
    with zipfile.ZipFile(tmp_path / "short.pth", "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", storages["0"].values.tobytes()[:-4])
    with pytest.raises(WeightsError, match="short.pth .*beyond its storage"):
        read_weights(tmp_path / "short.pth")


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors", "caffemodel", "npz"])
@pytest.mark.parametrize("damage", ["half", "text", "empty"])
def test_damaged_files_are_named(caffe, suffix, damage, tmp_path):
    path = tmp_path / f"damaged.{suffix}"
    if suffix == "caffemodel":
        write_caffemodel(path, caffe[1])
    elif suffix == "npz":
        path.write_bytes(caffe[0].read_bytes())
    else:
        writer = {"pth": write_torch_zip, "pt": write_torch_stream, "safetensors": write_safetensors}[suffix]
        writer(path, torchvision_squeezenet(caffe[1]))
    content = path.read_bytes()
    path.write_bytes({"half": content[: len(content) // 2], "text": b"<html>404</html>", "empty": b""}[damage])
    with pytest.raises(WeightsError, match=f"damaged.{suffix}"):
        convert_weights(path, "squeezenet_1_1", tmp_path / "made.weights.h5")
    assert not (tmp_path / "made.weights.h5").exists()


def test_what_cannot_be_converted(caffe, tmp_path):
    path, arrays, _ = caffe
    out = tmp_path / "made.weights.h5"
    with pytest.raises(WeightsError, match="weights of resnet50 can't be converted, only those of squeezenet_1_0"):
        convert_weights(path, "resnet50", out)
    with pytest.raises(WeightsError, match="must end in .weights.h5, received .*made.h5"):
        convert_weights(path, "squeezenet_1_1", tmp_path / "made.h5")
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="made.weights.h5 can't be written"):
        convert_weights(path, "squeezenet_1_1", tmp_path / "file" / "made.weights.h5")
    with pytest.raises(WeightsError, match="none.npz does not exist"):
        convert_weights(tmp_path / "none.npz", "squeezenet_1_1", out)
    (tmp_path / "made.onnx").touch()
    with pytest.raises(WeightsError, match="made.onnx: expected a file that ends in .caffemodel, .npz, .pth"):
        convert_weights(tmp_path / "made.onnx", "squeezenet_1_1", out)
    with pytest.raises(WeightsError, match=r"layer conv1 expects .*7, 7, 3, 96.*found .*3, 3, 3, 64"):
        convert_weights(path, "squeezenet_1_0", out)
    state = torchvision_squeezenet(arrays)
    del state["features.7.expand3x3.weight"]
    write_torch_zip(tmp_path / "part.pth", state)
    with pytest.raises(WeightsError, match="part.pth holds no features.7.expand3x3.weight.*fire5_expand3x3"):
        convert_weights(tmp_path / "part.pth", "squeezenet_1_1", out)
    with pytest.raises(WeightsError, match="published.npz holds no kernel for conv1_0"):
        convert_weights(path, "shufflenet_v2_x0_5", out)
    write_torch_zip(tmp_path / "torch.pth", torchvision_shufflenet(build_backbone("shufflenet_v2_x0_5", SMALL)))
    with pytest.raises(WeightsError, match="shufflenet_v2_x0_5 has PyTorch's normalisation inside"):
        convert_weights(tmp_path / "torch.pth", "shufflenet_v2_x0_5", out, trained_with="caffe")
    assert not out.exists()


@pytest.mark.real_data
def test_real_weights_convert(data_folder, tmp_path):
    source = data_folder / "weights" / "squeezenet1_1_imagenet.npz"
    assert convert_weights(source, "squeezenet_1_1", tmp_path / "made.weights.h5") < 1e-5
    loaded = build_backbone("squeezenet_1_1", SMALL, str(tmp_path / "made.weights.h5"))
    direct = build_backbone("squeezenet_1_1", SMALL, str(source))
    np.testing.assert_array_equal(loaded(pictures()), direct(pictures()))
