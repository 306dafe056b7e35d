"""Backbones: training, pretrained weights and what stays frozen of them, on the small and the default network."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.decode import decode_image, resize_image, to_model_input
from tfseg.errors import ConfigError, WeightsError
from tfseg.models.backbones import BACKBONES, build_backbone, freeze_first
from tfseg.models.classifier import build_classifier


@pytest.fixture(scope="module", params=["small_cnn", "mobilenet_v2"])
def oblong(request):
    """Each backbone, random, on an image whose sides are no multiples of anything."""
    keras.utils.set_random_seed(0)
    return request.param, build_backbone(request.param, (50, 37, 3))


def test_levels_halve_and_round_up(oblong):
    name, model = oblong
    assert model.name == "features"
    for stride, layer in BACKBONES[name].maps.items():
        assert model.get_layer(layer).output.shape[1:3] == (-(-50 // stride), -(-37 // stride)), layer


def test_normalisation_is_inside(oblong):
    """The network behind the input sees [−1, 1] when it is fed [0, 1]."""
    _, model = oblong
    image = np.linspace(0.0, 1.0, 50 * 37 * 3, dtype=np.float32).reshape(1, 50, 37, 3)
    seen = keras.Model(model.input, model.get_layer("normalise").output)(image)
    np.testing.assert_allclose(seen, 2.0 * image - 1.0, atol=1e-6)
    consumers = [layer.name for layer in model.layers if model.inputs[0] in keras.tree.flatten(layer.input)]
    assert [name for name in consumers if name != model.inputs[0].name] == ["normalise"]


def test_statistics_follow_the_data_quickly(oblong):
    """Keras's own momentum of MobileNetV2, 0.999, leaves a short training at chance in inference mode."""
    _, model = oblong
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms and all(layer.momentum <= 0.9 and layer.trainable for layer in norms)


def test_a_short_training_is_as_good_in_inference_mode():
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    labels = np.arange(48, dtype=np.int32) % 2
    # Far from the statistics that batch norm starts with: dim images, a faint difference between the classes.
    images = 0.1 + 0.02 * generator.uniform(size=(48, 24, 24, 3)) + 0.02 * labels[:, None, None, None]
    classifier = build_classifier(build_backbone("small_cnn", (24, 24, 3)), 2, units=8)
    model = classifier.logits_model()
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = {"image": images.astype(np.float32)}
    model.fit(inputs, labels, batch_size=16, epochs=14, verbose=0)
    accuracy = {
        training: np.mean(np.argmax(model(inputs, training=training), -1) == labels) for training in (True, False)
    }
    assert accuracy[True] >= 0.95
    assert accuracy[False] >= accuracy[True] - 0.05


def test_features_of_a_mirrored_image_are_mirrored():
    """Halving looks neither right nor left: with kernels made symmetric, both directions are alike."""
    keras.utils.set_random_seed(2)
    model = build_backbone("small_cnn", (32, 32, 3))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = layer.get_weights()[0]
            layer.set_weights([(kernel + kernel[:, ::-1] + kernel[::-1] + kernel[::-1, ::-1]) / 2.0])
    image = np.random.default_rng(2).uniform(size=(1, 32, 32, 3)).astype(np.float32)
    maps = model(image, training=False).numpy()
    tolerance = 1e-4 * maps.max()
    assert np.abs(maps - maps[:, :, ::-1]).max() > 100 * tolerance
    np.testing.assert_allclose(model(image[:, :, ::-1], training=False), maps[:, :, ::-1], atol=tolerance)
    np.testing.assert_allclose(model(image[:, ::-1], training=False), maps[:, ::-1], atol=tolerance)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Weights of small_cnn with statistics of a training, and the network that has them."""
    keras.utils.set_random_seed(3)
    model = build_backbone("small_cnn", (24, 24, 3))
    generator = np.random.default_rng(3)
    model.set_weights([value + generator.uniform(0.01, 0.2, value.shape) for value in model.get_weights()])
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    model.save_weights(path)
    return path, model


def test_weights_come_from_a_file_of_any_image_size(weights_file):
    path, model = weights_file
    loaded = build_backbone("small_cnn", (37, 50, 3), str(path))
    for left, right in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def train_a_step(features):
    """One step that moves what may move."""
    model = build_classifier(features, 2, units=4).logits_model()
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(4).uniform(size=(8, 24, 24, 3)).astype(np.float32)
    model.train_on_batch({"image": images}, np.arange(8) % 2)


def test_statistics_stay_when_pretrained(weights_file):
    path, _ = weights_file
    features = build_backbone("small_cnn", (24, 24, 3), str(path))
    norms = [layer for layer in features.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [value.copy() for layer in norms for value in layer.get_weights()]
    kernel = features.get_layer("stage1_conv").get_weights()[0]
    train_a_step(features)
    after = [value for layer in norms for value in layer.get_weights()]
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)
    assert np.abs(features.get_layer("stage1_conv").get_weights()[0] - kernel).max() > 0
    image = np.random.default_rng(5).uniform(size=(2, 24, 24, 3)).astype(np.float32)
    np.testing.assert_array_equal(features(image, training=True), features(image, training=False))


def test_random_statistics_move():
    features = build_backbone("small_cnn", (24, 24, 3))
    before = features.get_layer("stage1_norm").moving_mean.numpy()
    train_a_step(features)
    assert np.abs(features.get_layer("stage1_norm").moving_mean.numpy() - before).max() > 0


def test_the_first_layers_can_be_frozen(weights_file):
    features = build_backbone("small_cnn", (24, 24, 3), str(weights_file[0]))
    # Eight convolutions with a batch norm each; the first five layers with weights end with stage2_down's convolution.
    freeze_first(features, 5)
    image = np.random.default_rng(6).uniform(size=(2, 24, 24, 3)).astype(np.float32)
    parts = {
        name: keras.Model(features.input, features.get_layer(name).output)
        for name in ("stage2_down_conv", "stage2_conv")
    }
    before = {name: part(image, training=False).numpy() for name, part in parts.items()}
    train_a_step(features)
    np.testing.assert_array_equal(parts["stage2_down_conv"](image, training=False), before["stage2_down_conv"])
    assert np.abs(parts["stage2_conv"](image, training=False) - before["stage2_conv"]).max() > 0


def test_freezing_none_and_all():
    features = build_backbone("small_cnn", (24, 24, 3))
    everything = len(features.trainable_weights)
    freeze_first(features, 0)
    assert len(features.trainable_weights) == everything == 24
    freeze_first(features, 16)
    assert features.trainable_weights == []
    for wrong in (-1, 17):
        with pytest.raises(ConfigError, match=f"between 0 and 16 .*received {wrong}"):
            freeze_first(features, wrong)


def test_what_cannot_be_built():
    with pytest.raises(ConfigError, match="no backbone named 'resnet'.*small_cnn, mobilenet_v2"):
        build_backbone("resnet", (32, 32, 3))
    with pytest.raises(ConfigError, match="at least 32 pixels.*31"):
        build_backbone("mobilenet_v2", (64, 31, 3))


def test_weights_that_cannot_be_had(weights_file, tmp_path):
    def refused(weights, message, name="small_cnn"):
        with pytest.raises(WeightsError, match=message):
            build_backbone(name, (32, 32, 3), str(weights))

    refused("imagenet", "no ImageNet weights for small_cnn")
    refused(tmp_path / "none.npz", "none.npz does not exist")
    (tmp_path / "made.npz").touch()
    refused(tmp_path / "made.npz", "made.npz: small_cnn has no converter")
    (tmp_path / "made.pt").touch()
    refused(tmp_path / "made.pt", "made.pt: expected a .npz or a .weights.h5")
    content = weights_file[0].read_bytes()
    for name, damaged in (("half", content[: len(content) // 2]), ("empty", b""), ("text", b"no weights")):
        (tmp_path / f"{name}.weights.h5").write_bytes(damaged)
        refused(tmp_path / f"{name}.weights.h5", f"{name}.weights.h5 does not fit small_cnn")
    (tmp_path / "wrong_name.h5").write_bytes(content)
    refused(tmp_path / "wrong_name.h5", "wrong_name.h5")
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    other.save_weights(tmp_path / "other.weights.h5")
    refused(tmp_path / "other.weights.h5", "other.weights.h5 does not fit small_cnn")


@pytest.mark.parametrize("lost", ["the last convolution", "an array"])
def test_a_file_that_lacks_layers_leaves_none_random(weights_file, tmp_path, lost):
    import h5py

    path = tmp_path / "part.weights.h5"
    path.write_bytes(weights_file[0].read_bytes())
    with h5py.File(path, "a") as file:
        names = [name for name in file["layers"] if name.startswith("conv2d")]
        del file[f"layers/{names[-1]}" + ("" if lost == "the last convolution" else "/vars/0")]
    with pytest.raises(WeightsError, match="part.weights.h5 does not fit small_cnn"):
        build_backbone("small_cnn", (24, 24, 3), str(path))


def test_imagenet_weights_without_a_network(monkeypatch):
    def offline(*args, weights=None, **options):
        raise OSError(f"no route to the host of {weights}")

    monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
    with pytest.raises(WeightsError, match="mobilenet_v2 could not be fetched.*no route.*imagenet.*--weights PATH"):
        build_backbone("mobilenet_v2", (64, 64, 3), "imagenet")


@pytest.fixture(scope="module")
def pretrained(data_folder):
    path = data_folder / "weights" / "mobilenet_v2_imagenet_bn_folded.npz"
    model = build_backbone("mobilenet_v2", (224, 224, 3), str(path))
    contents = (data_folder / "weights" / "cat.jpg").read_bytes()
    image = to_model_input(resize_image(decode_image(contents), 224)[None])
    with np.load(path) as file:
        return model, image, {name: file[name] for name in file.files}


@pytest.mark.real_data
def test_real_weights_see_a_cat(pretrained, data_folder):
    model, image, arrays = pretrained
    top = "52_conv_2d"
    pooled = np.mean(model(image, training=False), (1, 2))
    logits = pooled @ arrays[f"{top}/kernel"][0, 0] + arrays[f"{top}/bias"]
    names = (data_folder / "weights" / "imagenet_labels_1001.txt").read_text().splitlines()
    best = [names[index].lower() for index in np.argsort(logits[0])[::-1][:5]]
    assert {"tabby", "tiger cat", "egyptian cat"} & set(best), best


@pytest.mark.real_data
def test_real_weights_against_the_folded_network_without_batch_norm(pretrained):
    """The whole of MobileNetV2 written down once more, from the file's arrays alone."""
    model, image, arrays = pretrained
    kernels = iter(sorted(name for name in arrays if name.endswith("/kernel")))

    def convolve(values, strides=1, rectify=True):
        name = next(kernels)
        operation = tf.nn.depthwise_conv2d if "depthwise" in name else tf.nn.conv2d
        values = operation(values, arrays[name], [1, strides, strides, 1], "SAME")
        values = values + arrays[name.replace("kernel", "bias")]
        return tf.nn.relu6(values) if rectify else values

    values = convolve(convolve(2.0 * image - 1.0, 2))
    values = convolve(values, rectify=False)
    named = {"expanded_conv_project_BN": values}
    strides = [2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    for block, stride in enumerate(strides, 1):
        inside = convolve(convolve(convolve(values), stride), rectify=False)
        same = inside.shape == values.shape
        values = values + inside if same else inside
        named[f"block_{block}_add" if same else f"block_{block}_project_BN"] = values
    named["out_relu"] = convolve(values)
    levels = keras.Model(model.input, {name: model.get_layer(name).output for name in named})(image, training=False)
    for name, expected in named.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(levels[name] / scale, expected / scale, atol=2e-5, err_msg=name)


@pytest.mark.real_data
def test_a_real_file_cut_short_is_named(data_folder, tmp_path):
    content = (data_folder / "weights" / "mobilenet_v2_imagenet_bn_folded.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 3])
    with pytest.raises(WeightsError, match="cut.npz"):
        build_backbone("mobilenet_v2", (32, 32, 3), str(tmp_path / "cut.npz"))
