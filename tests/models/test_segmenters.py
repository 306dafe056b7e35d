"""Every segmenter by name: shapes, call paths, gradients, learning, precision, and what each is made of."""

from typing import get_args, get_type_hints

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_model

from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError
from tfseg.models.backbones import BACKBONES
from tfseg.models.segmenters import SEGMENTERS, at_scale, build_segmenter, segmenter_options

# Small, on an image whose sides are multiples of nothing.
SMALL = {
    "unet": {"depth": 2},
    "attention_unet": {"depth": 2},
    "trans_unet": {"depth": 2},
    "double_unet": {"depth": 2},
    "swin_unet": {"depth": 2, "window": 4},
    "fcn_8s": {"depth": 4},
    "fcn_16s": {"depth": 5},
    "fcn_32s": {"depth": 5},
    "deeplab_v3_plus": {"depth": 3, "rates": (1, 2)},
    "fpn": {"depth": 3},
}
COMMON = {"width", "depth", "norm", "dropout", "encoder", "encoder_weights", "greyscale"}
# U-Net and its options have tests of their own; the others take longer.
CHECKED = ["deeplab_v3_plus", "fpn", "swin_unet"]


def small(name, shape=(37, 50, 3), classes=1, **options):
    keras.utils.set_random_seed(0)
    return build_segmenter(name, shape, classes, **{"width": 2, **SMALL[name], **options})


def pictures(height=37, width=50, count=2):
    return np.random.default_rng(1).uniform(size=(count, height, width, 3)).astype(np.float32)


def test_every_name_is_tested_and_can_be_configured():
    assert set(SMALL) == set(SEGMENTERS)
    assert set(get_args(get_type_hints(ComparisonConfig)["segmenter"])) - {"none"} == set(SEGMENTERS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in CHECKED else pytest.mark.slow) for name in SMALL]
)
def test_every_way_to_call_agrees(name, tmp_path):
    classes = 3 if name in ("double_unet", "swin_unet") else 1
    model = small(name, classes=classes)
    assert model.name == "segmenter" and model.output.shape == (None, 37, 50, classes)
    check_model(model, pictures(), tmp_path, tolerance=1e-4)


@pytest.mark.parametrize("name", list(SMALL))
def test_any_number_of_classes_and_every_common_option(name):
    assert set(segmenter_options(name)) >= COMMON
    model = small(name, classes=4, norm=None, dropout=0.6, greyscale=True)
    assert model.output.shape == (None, 37, 50, 4)
    image = pictures()
    logits = model(image, training=False)
    assert logits.dtype == "float32" and np.ptp(logits) > 0
    # In training something is left out; in inference nothing is.
    assert np.abs(model(image, training=True) - model(image, training=True)).max() > 0
    np.testing.assert_array_equal(model(image, training=False), logits)
    grey = np.repeat((image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None], 3, -1)
    np.testing.assert_allclose(model(grey, training=False), logits, atol=2e-4 * np.abs(logits).max())


@pytest.mark.parametrize("name", list(SMALL))
def test_the_loss_reaches_every_weight(name):
    model = small(name, classes=3, norm=None)
    target = np.random.default_rng(2).normal(size=(2, 37, 50, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(tf.square(model(pictures(), training=True) - target))
    gradients = tape.gradient(value, model.trainable_weights)
    missing = [
        weight.path for weight, gradient in zip(model.trainable_weights, gradients, strict=True) if gradient is None
    ]
    assert not missing
    zero = [w.path for w, g in zip(model.trainable_weights, gradients, strict=True) if not np.any(np.asarray(g))]
    # A key's bias cancels in the softmax; a ReLU of few channels may be dead by chance.
    assert [path for path in zero if "attention" not in path and "squeeze" not in path and "excite" not in path] == []


@pytest.mark.parametrize("name", ["deeplab_v3_plus", "fpn", "swin_unet"])
def test_logits_are_float32_under_mixed_precision(name):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = small(name)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert {layer.compute_dtype for layer in model.layers} >= {"bfloat16", "float32"}
    logits = model(pictures())
    assert logits.dtype == "float32" and np.isfinite(logits).all()


def learns(name, steps, places, rate=1e-2):
    """The overlap after a training on one picture whose lesions are rectangles at these places."""
    image = np.full((1, 37, 50, 3), 0.2, np.float32)
    mask = np.zeros((1, 37, 50, 1), np.float32)
    for place in places:
        image[0][place], mask[0][place] = 0.8, 1.0
    model = small(name, width=4)
    model.compile(keras.optimizers.Adam(rate), keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    repeated = [np.repeat(values, 2 * steps, 0) for values in (image, mask)]
    model.fit(*repeated, batch_size=2, verbose=0)
    found = model.predict(image, verbose=0) > 0
    return float((found & (mask > 0)).sum() / (found | (mask > 0)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name != "unet"])
def test_it_learns_shapes_at_their_place(name):
    if name in ("fcn_16s", "fcn_32s"):
        # Scores 16 or 32 pixels apart can follow the outline of something large only.
        assert learns(name, 150, [(slice(0, 37), slice(0, 22))]) > 0.8
    else:
        squares = [(slice(5, 14), slice(30, 42)), (slice(24, 34), slice(8, 16))]
        assert learns(name, 150, squares) > (0.6 if name == "fcn_8s" else 0.8)


def test_fcn_fuses_scores_down_to_its_stride():
    names = {stride: {layer.name for layer in small(f"fcn_{stride}s", depth=5).layers} for stride in (8, 16, 32)}
    assert {"score32", "score16", "score8"} <= names[8] and "score4" not in names[8]
    assert "score16" in names[16] and "score8" not in names[16]
    assert not any(name.startswith("fuse") for name in names[32])
    # The finest scores alone: constant over cells of their stride but for the interpolation between them.
    model = small("fcn_32s", (64, 64, 3), depth=5)
    assert model.get_layer("score32").output.shape == (None, 2, 2, 1)


def test_fcn_needs_a_map_of_its_stride():
    with pytest.raises(ConfigError, match="received stride=32; this encoder has maps of stride 1, 2, 4, 8$"):
        small("fcn_32s", depth=3)
    with pytest.raises(ConfigError, match="stride 2, 4, 8$"):
        small("fcn_16s", encoder="small_cnn")


def test_deeplab_is_separable_in_depth_unless_told():
    kernels = {}
    for separable in (True, False):
        model = small("deeplab_v3_plus", (64, 64, 3), encoder="mobilenet_v2", separable=separable)
        kernels[separable] = sum(
            isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)
            for layer in model.layers
            if layer.name.startswith(("pyramid", "decoder"))
        )
    # Two dilated ones (`small` has two rates) and two of the decoder.
    assert kernels == {True: 0, False: 4}


def test_deeplab_keeps_stride_16():
    """The pyramid sees a map of stride 16, and the weights behind the halving that is undone are still there."""
    model = small("deeplab_v3_plus", (64, 96, 3), encoder="mobilenet_v2")
    assert model.get_layer("pyramid_point_conv").input.shape == (None, 4, 6, 1280)
    assert model.get_layer("join").output.shape == (None, 16, 24, 32 + 6)
    model = small("deeplab_v3_plus", (64, 96, 3), encoder="mobilenet_v2", output_stride=32)
    assert model.get_layer("pyramid_point_conv").input.shape == (None, 2, 3, 1280)
    rates = [
        layer.dilation_rate for layer in model.layers if layer.name.startswith("pyramid_rate") and "conv" in layer.name
    ]
    assert rates == [(1, 1), (2, 2)]
    # Nothing to undo in a network that ends at stride 8.
    model = small("deeplab_v3_plus", encoder="small_cnn", output_stride=16)
    assert model.get_layer("pyramid_point_conv").input.shape == (None, 5, 7, 128)


def test_fpn_adds_from_the_top_down():
    model = small("fpn", (64, 64, 3), depth=4)
    assert [model.get_layer(f"lateral{stride}").output.shape[1] for stride in (4, 8, 16)] == [16, 8, 4]
    sums = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert sums == ["pyramid8", "pyramid4"]
    assert model.get_layer("join").output.shape == (None, 16, 16, 3 * 16)


def test_the_second_network_of_double_unet_sees_what_the_first_lets_through():
    model = small("double_unet", depth=2)
    image = pictures()
    inner = keras.Model(model.input, [model.get_layer(name).output for name in ("normalise", "first_mask", "visible0")])
    scaled, mask, seen = inner(image)
    np.testing.assert_allclose(seen, scaled * mask, rtol=1e-5)
    assert mask.shape == (2, 37, 50, 1) and 0 < mask.numpy().min() < mask.numpy().max() < 1
    # Of three classes, the background lets nothing through: one picture for each of the others.
    model = small("double_unet", depth=2, classes=3)
    assert model.get_layer("shown").output.shape == (None, 37, 50, 6)
    np.testing.assert_allclose(
        keras.Model(model.input, model.get_layer("first_mask").output)(image).numpy().sum(-1), 1.0, rtol=1e-5
    )


def test_swin_unet_takes_pixels_apart():
    """The expanding layer only moves values: a dense layer that copies shows where each goes."""
    model = small("swin_unet", (16, 16, 3), depth=2)
    order = keras.Model(model.get_layer("up4_apart").input, model.get_layer("up4_pixels").output)
    rows, columns, values = order.input.shape[1:]
    channels = values // 4
    maps = np.arange(rows * columns * values, dtype=np.float32).reshape(1, rows, columns, values)
    apart = order(maps).numpy()
    assert apart.shape == (1, 2 * rows, 2 * columns, channels)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = maps[..., (2 * row + column) * channels : (2 * row + column + 1) * channels]
        np.testing.assert_array_equal(apart[:, row::2, column::2], part)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("segnet", {}, "no segmenter named 'segnet'; known: unet, attention_unet, "),
        ("fpn", {"window": 7}, "the segmenter fpn has no option 'window'; known: width, "),
        ("fcn_8s", {"stride": 16}, "the segmenter fcn_8s has no option 'stride'"),
        ("deeplab_v3_plus", {"output_stride": 8}, "output_stride=8"),
        ("deeplab_v3_plus", {"rates": ()}, r"rates=\(\)"),
        ("swin_unet", {"depth": 1}, "depth=1"),
        ("swin_unet", {"depth": 6}, "depth 6 needs images of at least 128 pixels"),
        ("swin_unet", {"encoder_weights": "imagenet"}, "weights imagenet need an encoder"),
        ("fpn", {"dropout": 1.0}, "dropout in"),
        ("fpn", {"classes": 0}, "classes=0"),
        ("fcn_8s", {"width": 0}, "width=0"),
        ("double_unet", {"norm": "group"}, "norm='group'"),
        ("fpn", {"encoder": "vgg16"}, "no backbone named 'vgg16'"),
        ("fpn", {"input_shape": (37, 50, 4)}, "4 channels"),
    ],
)
def test_mistakes_are_named(name, options, message):
    options = {"input_shape": (37, 50, 3), **options}
    with pytest.raises(ConfigError, match=message):
        build_segmenter(name, **options)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [name for name in BACKBONES if name not in ("vit_b16", "swin_s", "convnext_small")])
@pytest.mark.parametrize("name", ["unet", "deeplab_v3_plus"])
def test_every_encoder_serves(name, encoder):
    shape = (75, 90, 3)
    model = small(name, shape, 2, encoder=encoder)
    image = pictures(75, 90)
    logits = model.predict(image, verbose=0)
    assert logits.shape == (2, 75, 90, 2) and np.isfinite(logits).all()
    assert len({weight.path for weight in model.weights}) == len(model.weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("unet", "vit_tiny16"),
        ("unet", "swin_t"),
        ("attention_unet", "efficientnet_b0"),
        ("double_unet", "mobilenet_v2"),
        ("swin_unet", "swin_t"),
        ("fcn_16s", "resnet50"),
        ("deeplab_v3_plus", "mobilenet_v2"),
        ("deeplab_v3_plus", "resnet50"),
        ("deeplab_v3_plus", "xception"),
        ("deeplab_v3_plus", "efficientnet_b0"),
        ("fpn", "mobilenet_v2"),
        ("fpn", "densenet121"),
    ],
)
def test_backbones_as_encoders_agree_in_every_way_to_call(name, encoder, tmp_path):
    model = small(name, (75, 90, 3), encoder=encoder)
    check_model(model, pictures(75, 90), tmp_path, tolerance=1e-3)


def test_a_segmenter_of_a_smaller_image():
    """Blocks of equal pixels: averaging changes nothing, and the logits come back between the blocks' middles."""
    inner = small("unet", (12, 16, 3), 2)
    whole = at_scale(inner, 3)
    assert whole.name == "segmenter" and whole.output_shape == (None, 36, 48, 2)
    blocks = pictures(12, 16)
    images = blocks.repeat(3, axis=1).repeat(3, axis=2)
    logits, expected = whole(images, training=False).numpy(), inner(blocks, training=False).numpy()
    np.testing.assert_allclose(logits[:, 1::3, 1::3], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[:, 1, 2], (2 * expected[:, 0, 0] + expected[:, 0, 1]) / 3, rtol=1e-4, atol=1e-5)
    assert at_scale(inner, 1) is inner
