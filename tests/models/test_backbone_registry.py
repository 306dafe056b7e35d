"""Every backbone by name: the same contract, and the same numbers as the library that it comes from."""

from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_model

from tfseg.errors import ConfigError, WeightsError
from tfseg.models.backbones import BACKBONES, build_backbone
from tfseg.models.backbones.blocks import ReverseChannels, standardised
from tfseg.models.classifier import build_head
from tfseg.names import NO_IMAGENET, BackboneName

# Several seconds to build.
LARGE = ("densenet121", "convnext_tiny", "convnext_small", "efficientnet_b4", "vit_b16", "swin_s")
# One whose weights depend on the image's size, and one whose don't.
QUICK = ("squeezenet_1_1", "vit_tiny16")
APPLICATIONS = {
    "mobilenet_v2": ("MobileNetV2", keras.applications.mobilenet_v2),
    "resnet50": ("ResNet50", keras.applications.resnet50),
    "xception": ("Xception", keras.applications.xception),
    "densenet121": ("DenseNet121", keras.applications.densenet),
    "efficientnet_b0": ("EfficientNetB0", keras.applications.efficientnet),
    "efficientnet_b4": ("EfficientNetB4", keras.applications.efficientnet),
    "convnext_tiny": ("ConvNeXtTiny", keras.applications.convnext),
    "convnext_small": ("ConvNeXtSmall", keras.applications.convnext),
}
# Of the published networks without their tops; Keras counts batch norm's statistics.
PARAMETERS = {
    "squeezenet_1_0": 1_248_424 - 513_000,
    "squeezenet_1_1": 1_235_496 - 513_000,
    "shufflenet_v2": 2_278_604 - 1_025_000,
    "shufflenet_v2_x0_5": 1_366_792 - 1_025_000,
    "resnet34": 21_797_672 - 513_000,
    "densenet121": 7_978_856 - 1_025_000,
    # Positions of 4 × 6 patches in place of 14 × 14.
    "vit_b16": 85_798_656 - (14 * 14 - 4 * 6) * 768,
    "swin_t": 27_519_354,
    "swin_s": 48_837_258,
}


def named(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in names]


def pictures(height, width, count=2, seed=0):
    """Colours that change slowly over the image, in [0, 1]."""
    coarse = np.random.default_rng(seed).uniform(size=(count, 5, 5, 3))
    return tf.image.resize(coarse, (height, width), "bicubic").numpy().clip(0, 1).astype(np.float32)


def size_of(name):
    """Odd sides where the network takes them."""
    return (64, 96) if BACKBONES[name].multiple > 1 or name == "densenet121" else (75, 101)


@pytest.fixture(scope="module", params=named(BACKBONES))
def built(request):
    keras.utils.set_random_seed(0)
    yield request.param, build_backbone(request.param, (*size_of(request.param), 3))
    keras.backend.clear_session()


def test_the_contract(built):
    name, model = built
    height, width = size_of(name)
    backbone = BACKBONES[name]
    assert model.name == "features" and backbone.name == name
    maps = {stride: model.get_layer(layer).output for stride, layer in backbone.maps.items()}
    for stride, outputs in maps.items():
        exact = (-(-height // stride), -(-width // stride))
        if backbone.halves:
            assert outputs.shape[1:3] == exact, stride
        else:
            # Without padding each convolution takes a little off.
            assert all(0 <= whole - side <= 4 for whole, side in zip(exact, outputs.shape[1:3], strict=True))
    assert list(maps) == sorted(maps) and maps[max(maps)].shape[1:] == model.output.shape[1:]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(layer.momentum <= 0.9 and layer.trainable for layer in norms)
    if name in PARAMETERS:
        assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == PARAMETERS[name]


def test_a_head_on_the_maps_sees_every_part_of_the_image(built):
    """And the maps of two images in a batch don't mix."""
    name, model = built
    images = pictures(*size_of(name))
    maps = model(images, training=False)
    alone = model(images[1:], training=False)
    scale = np.abs(maps).max()
    np.testing.assert_allclose(maps[1:] / scale, alone / scale, atol=1e-4)
    assert np.ptp(maps, axis=(1, 2)).max() > 1e-3 * scale, "the same everywhere"
    head = build_head(maps.shape[1:], 3)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        score = head(maps)[:, 0]
    gradient = np.abs(tape.gradient(score, maps)).sum(-1)
    assert gradient.shape == maps.shape[:3] and gradient.min() > 0


@pytest.mark.parametrize("built", named(APPLICATIONS), indirect=True)
def test_the_same_numbers_as_keras_with_its_own_preprocessing(built):
    name, model = built
    constructor, module = APPLICATIONS[name]
    images = pictures(*size_of(name))
    reference = getattr(keras.applications, constructor)(
        weights=None, include_top=False, input_shape=(*size_of(name), 3)
    )
    reference.set_weights(model.get_weights())
    for layer in reference.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.finalize_state()
    expected = reference(module.preprocess_input(255.0 * images), training=False).numpy()
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(model(images, training=False) / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BACKBONES]
)
def test_weights_survive_a_file_and_another_image_size(name, tmp_path):
    model = build_backbone(name, (*size_of(name), 3))
    generator = np.random.default_rng(1)
    # Not what a fresh network begins with, such as ones and zeros.
    values = [value + generator.uniform(0.0, 0.1, value.shape) for value in model.get_weights()]
    model.set_weights(values)
    model.save_weights(tmp_path / "made.weights.h5")
    loaded = build_backbone(name, (*(2 * side for side in size_of(name)), 3), str(tmp_path / "made.weights.h5"))
    for weight, left, right in zip(loaded.weights, loaded.get_weights(), values, strict=True):
        if "positions" not in weight.path or left.shape == right.shape:
            np.testing.assert_array_equal(left, right.astype(left.dtype), err_msg=weight.path)
    assert not any(layer.trainable for layer in loaded.layers if isinstance(layer, keras.layers.BatchNormalization)), (
        "batch norm of pretrained weights stays as it is"
    )


def test_names_on_the_command_line_are_the_registry():
    assert get_args(BackboneName) == tuple(BACKBONES)
    lacking = {name for name, backbone in BACKBONES.items() if backbone.imagenet is None}
    assert lacking == {*NO_IMAGENET, "small_cnn"}


@pytest.mark.parametrize("name", ["vit_tiny16", "swin_t"])
def test_sizes_that_a_transformer_cannot_take(name):
    multiple = BACKBONES[name].multiple
    with pytest.raises(ConfigError, match=f"{name} .* multiples of {multiple} pixels.*{2 * multiple + 1}"):
        build_backbone(name, (64, 2 * multiple + 1, 3))


@pytest.mark.parametrize("name", ["squeezenet_1_0", "squeezenet_1_1", "shufflenet_v2_x0_5", "vit_tiny16", "swin_t"])
def test_the_smallest_size_works_and_nothing_below(name):
    smallest = BACKBONES[name].smallest
    model = build_backbone(name, (smallest, smallest, 3))
    assert np.isfinite(model(pictures(smallest, smallest), training=False)).all() and min(model.output.shape[1:3]) >= 1
    with pytest.raises(ConfigError, match=f"{name} takes images of at least {smallest} pixels"):
        build_backbone(name, (smallest - 1, smallest, 3))


@pytest.mark.parametrize("name", [name for name, backbone in BACKBONES.items() if backbone.imagenet])
def test_imagenet_weights_that_cannot_be_fetched(name, monkeypatch):
    import keras_hub

    def offline(*args, **options):
        raise OSError("no route to host")

    for constructor, _ in APPLICATIONS.values():
        monkeypatch.setattr(keras.applications, constructor, offline)
    for network in ("ResNetBackbone", "ViTBackbone", "SwinTransformerBackbone"):
        monkeypatch.setattr(getattr(keras_hub.models, network), "from_preset", offline)
    message = f"{name} could not be fetched by {BACKBONES[name].imagenet} .no route to host.*--weights PATH"
    with pytest.raises(WeightsError, match=message):
        build_backbone(name, (96, 96, 3), "imagenet")


@pytest.mark.parametrize("name", NO_IMAGENET)
def test_no_imagenet_weights_are_published(name):
    with pytest.raises(WeightsError, match=f"no ImageNet weights for {name}"):
        build_backbone(name, (64, 64, 3), "imagenet")


def test_fetched_weights_of_an_efficientnet(monkeypatch, tmp_path):
    """Keras's file has the standard deviation where the variance belongs; ours computes the same without that."""
    from keras.src.applications.efficientnet import DEFAULT_BLOCKS_ARGS, EfficientNet
    from keras.src.utils import file_utils

    def one_block(**options):
        return EfficientNet(0.25, 1.0, 32, blocks_args=DEFAULT_BLOCKS_ARGS[:1], weights_name="b0", **options)

    keras.utils.set_random_seed(1)
    published = one_block(weights=None, include_top=False, input_shape=(32, 32, 3))
    (standardise,) = (layer for layer in published.layers if isinstance(layer, keras.layers.Normalization))
    standardise.adapt_mean.assign([0.485, 0.456, 0.406])
    standardise.adapt_variance.assign([0.229, 0.224, 0.225])
    published.save_weights(tmp_path / "published.weights.h5")
    monkeypatch.setattr(file_utils, "get_file", lambda *args, **options: str(tmp_path / "published.weights.h5"))
    reference = one_block(weights="imagenet", include_top=False, input_shape=(32, 32, 3))
    monkeypatch.setattr(keras.applications, "EfficientNetB0", one_block)
    model = build_backbone("efficientnet_b0", (32, 32, 3), "imagenet")
    expected = reference(255.0 * pictures(32, 32), training=False).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(model(pictures(32, 32), training=False) / scale, expected / scale, atol=1e-5)


def test_fetched_weights_of_resnet34(monkeypatch):
    from keras_hub.models import ResNetBackbone

    keras.utils.set_random_seed(2)
    image = keras.Input((32, 32, 3))
    network = ResNetBackbone(
        [64], [7], [64, 128, 256, 512], [3, 4, 6, 3], [1, 2, 2, 2], "basic_block", image_shape=(32, 32, 3)
    )
    asked = []
    monkeypatch.setattr(ResNetBackbone, "from_preset", lambda preset, **options: asked.append(preset) or network)
    model = build_backbone("resnet34", (32, 32, 3), "imagenet")
    assert asked == ["hf://timm/resnet34.a1_in1k"]
    images = pictures(32, 32)
    expected = keras.Model(image, network(standardised(image)))(images, training=False)
    np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-4, atol=1e-4)


def test_standardised_by_hand():
    """(0.485 + 2 · 0.229, 0.456, 0.406 − 0.225) is (2, 0, −1)."""
    image = keras.Input((1, 1, 3))
    outputs = keras.Model(image, standardised(image))(np.array([[[[0.943, 0.456, 0.181]]]], np.float32))
    np.testing.assert_allclose(outputs[0, 0, 0], [2.0, 0.0, -1.0], atol=1e-6)


def test_channels_are_reversed():
    values = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(ReverseChannels()(values), values[..., ::-1])


def settled(model, images):
    """Batch norm with the statistics of some images, so that no layer's output is near nothing or far too large."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer in norms:
        layer.momentum = 0.9
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "resnet34", "resnet50", "xception", "convnext_tiny", "efficientnet_b0", "densenet121"]
)
def test_every_way_to_call_agrees(name, tmp_path):
    keras.utils.set_random_seed(0)
    size = (75, 101)
    model = settled(build_backbone(name, (*size, 3)), pictures(*size, count=16, seed=1))
    # The last maps of a random deep network amplify rounding; scaled to at most one, as a head would see them.
    outputs = keras.layers.Rescaling(1.0 / float(np.abs(model(pictures(*size), training=False)).max()))(model.output)
    check_model(keras.Model(model.input, outputs), pictures(*size), tmp_path, tolerance=3e-4)
