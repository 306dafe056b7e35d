"""U-Net at any size, with either contracting path, in every way it is called."""

import keras
import numpy as np
import pytest
from harness import check_model

from tfseg.errors import ConfigError
from tfseg.models.unet import unet


def shaken(model, seed=0):
    """Weights and statistics as if trained, so that no part of the network is near nothing or the identity."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [generator.uniform(0.5, 2.0, gamma.shape), generator.normal(0, 0.3, beta.shape)]
                + [generator.normal(0, 0.3, mean.shape), generator.uniform(0.3, 1.0, variance.shape)]
            )
    return model


def pictures(height, width, count=2):
    return np.random.default_rng(1).uniform(size=(count, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((37, 50), {"classes": 1, "depth": 2, "dropout": 0.3}),
        ((50, 37), {"classes": 3, "depth": 3, "norm": None}),
        ((37, 50), {"classes": 1, "encoder": "small_cnn"}),
        (
            (21, 34),
            {
                "classes": 2,
                "depth": 2,
                "greyscale": True,
                "upsampling": "transposed",
                "skip_smoothing": True,
                "attention_gates": True,
                "transformer_blocks": 1,
            },
        ),
    ],
)
def test_every_way_to_call_agrees(shape, options, tmp_path):
    keras.utils.set_random_seed(0)
    model = shaken(unet((*shape, 3), width=4, **options))
    assert model.name == "segmenter"
    assert model.output.shape == (None, *shape, options["classes"])
    image = pictures(*shape)
    logits = model(image, training=False).numpy()
    # Not a constant, and each pixel of its own: neither rows nor columns repeat.
    assert np.ptp(logits) > 0.05 * np.abs(logits).max()
    assert (
        np.abs(np.diff(logits, axis=1)).max((0, 2)).min() > 0 and np.abs(np.diff(logits, axis=2)).max((0, 1)).min() > 0
    )
    check_model(model, image, tmp_path, tolerance=1e-4)


def test_an_odd_size_is_cut_at_the_end_where_halving_padded():
    model = unet((37, 50, 3), width=4, depth=3)
    crops = [layer for layer in model.layers if isinstance(layer, keras.layers.Cropping2D)]
    assert len(crops) == 3
    for layer in crops:
        _, rows, columns, channels = layer.input.shape
        values = np.arange(rows * columns * channels, dtype=np.float32).reshape(1, rows, columns, channels)
        _, rows, columns, _ = layer.output.shape
        np.testing.assert_array_equal(layer(values), values[:, :rows, :columns])


def test_mobilenet_encoder():
    keras.utils.set_random_seed(0)
    model = unet((37, 50, 3), classes=3, width=4, encoder="mobilenet_v2")
    assert model.predict(pictures(37, 50), verbose=0).shape == (2, 37, 50, 3)
    names = {layer.name for layer in model.layers}
    assert {"normalise", "out_relu", "full_a_relu", "up4_reduce", "up0_b_relu", "logits"} <= names


def shapes_of(model):
    return [tuple(weight.shape) for weight in model.weights]


@pytest.mark.parametrize(
    ("options", "parameters", "layers", "first", "last"),
    [
        ({}, 1_814_961, 73, "normalise down0_a_conv down0_a_norm", "up0_b_norm up0_b_relu logits"),
        (
            {"encoder": "small_cnn", "width": 8},
            362_537,
            60,
            "normalise stage1_down_conv stage1_down_norm",
            "up0_b_norm up0_b_relu logits",
        ),
    ],
)
def test_the_default_network_stays_what_it_is(options, parameters, layers, first, last):
    """Stored weights, and results that name a seed, belong to exactly this network."""
    keras.utils.set_random_seed(0)
    model = unet((64, 64, 3), **options)
    names = [layer.name for layer in model.layers]
    assert (model.count_params(), len(names)) == (parameters, layers)
    assert " ".join(names[1:4]) == first and " ".join(names[-3:]) == last
    picture = np.random.default_rng(0).random((1, 64, 64, 3)).astype(np.float32)
    total = float(np.abs(model(picture, training=False)).sum())
    assert total == pytest.approx({1_814_961: 192.36619, 362_537: 366.65898}[parameters], rel=1e-4)


def test_no_skip_connections_leave_the_decoder_with_the_deepest_map():
    model = unet((37, 50, 3), width=4, depth=2, skip_connections=False)
    assert not any(isinstance(layer, keras.layers.Concatenate) for layer in model.layers)
    assert model.output.shape == (None, 37, 50, 1)
    deepest = keras.Model(model.input, model.get_layer("down2_b_relu").output)
    decoder = keras.Model(model.get_layer("down2_b_relu").output, model.output)
    image = pictures(37, 50)
    np.testing.assert_allclose(decoder(deepest(image)), model(image, training=False), atol=1e-5)


def test_skip_smoothing_is_a_five_by_five_mean():
    model = unet((20, 20, 3), width=4, depth=1, skip_smoothing=True)
    layer = model.get_layer("up0_smooth")
    spot = np.zeros((1, 9, 9, 1), np.float32)
    spot[0, 4, 4] = 25.0
    expected = np.zeros((9, 9))
    expected[2:7, 2:7] = 1.0
    np.testing.assert_allclose(layer(spot)[0, ..., 0], expected, atol=1e-6)
    # At the border the mean is over what is there, so that a constant map stays constant.
    np.testing.assert_allclose(layer(np.ones((1, 9, 9, 1), np.float32)), 1.0, atol=1e-6)
    assert shapes_of(model) == shapes_of(unet((20, 20, 3), width=4, depth=1))


def test_transposed_upsampling_replaces_the_bilinear_one():
    model = unet((20, 20, 3), width=4, depth=2, upsampling="transposed")
    up = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2DTranspose)]
    assert [layer.name for layer in up] == ["up1", "up0"] and [layer.filters for layer in up] == [8, 4]
    assert not any(isinstance(layer, keras.layers.UpSampling2D) for layer in model.layers)


def test_greyscale_sees_the_luma_only():
    model = unet((20, 20, 3), width=4, depth=1, greyscale=True)
    image = pictures(20, 20)
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = np.repeat(luma[..., None], 3, -1)
    np.testing.assert_allclose(model(image, training=False), model(grey, training=False), atol=1e-5)
    assert model.get_layer("down0_a_conv").kernel.shape == (3, 3, 1, 4)
    # The same network for images that are grey to begin with.
    native = unet((20, 20, 1), width=4, depth=1, greyscale=True)
    native.set_weights(model.get_weights())
    np.testing.assert_allclose(native(luma[..., None], training=False), model(image, training=False), atol=1e-5)


def test_attention_gates_can_close_a_skip_connection():
    model = unet((20, 20, 3), width=4, depth=2, attention_gates=True)
    image = pictures(20, 20)
    before = keras.Model(model.input, [model.get_layer(f"down{level}_b_relu").output for level in (0, 1)])
    gated = keras.Model(model.input, [model.get_layer(f"up{level}_gate").output for level in (0, 1)])
    for skip, passed in zip(before(image), gated(image), strict=True):
        skip, passed = skip.numpy(), passed.numpy()
        share = passed / np.maximum(skip, 1e-6)
        assert passed.shape == skip.shape and (share[skip > 1e-3] > 0).all() and (share[skip > 1e-3] < 1).all()
        # One weight a pixel, the same for every channel that isn't 0.
        seen = skip > 1e-3
        spread = np.where(seen, share, -1.0).max(-1) - np.where(seen, share, 2.0).min(-1)
        assert spread[seen.any(-1)].max() < 1e-4
    for level in (0, 1):
        model.get_layer(f"up{level}_gate_attend_norm").beta.assign([-50.0])
    for passed in gated(image):
        np.testing.assert_allclose(passed, 0.0, atol=1e-6)


def test_norm_none_has_no_batch_norm():
    model = unet((16, 16, 3), width=4, depth=2, norm=None)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    image = pictures(16, 16)
    np.testing.assert_allclose(model(image, training=True), model(image, training=False), atol=1e-6)


def test_dropout_is_in_the_decoder_and_for_training_only():
    model = unet((16, 16, 3), width=4, depth=2, norm=None, dropout=0.5)
    image = pictures(16, 16)
    assert np.abs(model(image, training=True) - model(image, training=True)).max() > 0
    np.testing.assert_array_equal(model(image, training=False), model(image, training=False))
    dropouts = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert len(dropouts) == 4 and all(name.startswith("up") for name in dropouts)


def test_depth_and_width_mean_what_they_say():
    model = unet((32, 32, 3), width=4, depth=3)
    for level, side in enumerate((32, 16, 8, 4)):
        assert model.get_layer(f"down{level}_b_relu").output.shape == (None, side, side, 4 * 2**level)
    assert model.get_layer("up0_b_relu").output.shape == (None, 32, 32, 4)


def test_it_learns_a_small_shape_at_its_place():
    """An odd size crops at every level up: a mask of a few pixels must still come out where it lies."""
    keras.utils.set_random_seed(4)
    image = np.full((1, 21, 19, 3), 0.2, np.float32)
    mask = np.zeros((1, 21, 19, 1), np.float32)
    image[:, 5:9, 11:17] = 0.7
    mask[:, 5:9, 11:17] = 1.0
    model = unet((21, 19, 3), width=4, depth=2)
    model.compile(keras.optimizers.Adam(2e-2), keras.losses.BinaryCrossentropy(from_logits=True))
    repeated = [np.repeat(values, 160, 0) for values in (image, mask)]
    model.fit(*repeated, batch_size=2, verbose=0)
    np.testing.assert_array_equal(model(image, training=False) > 0.0, mask > 0.5)


def test_logits_are_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = unet((16, 16, 3), 3, width=4, depth=2)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.get_layer("up0_b_conv").compute_dtype == "bfloat16"
    assert model(pictures(16, 16)).dtype == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "classes=0"),
        ({"width": 0}, "width=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"norm": "group"}, "norm='group'"),
        ({"depth": 0}, "depth 0"),
        ({"depth": 5}, "depth 5 needs images of at least 32 pixels.*20"),
        ({"upsampling": "nearest"}, "upsampling='nearest'"),
        ({"transformer_blocks": -1}, "transformer_blocks=-1"),
        ({"skip_connections": False, "skip_smoothing": True}, "need `skip_connections`"),
        ({"encoder_weights": "imagenet"}, "weights imagenet need an encoder"),
        ({"encoder": "resnet"}, "no backbone named 'resnet'"),
        ({"encoder": "mobilenet_v2"}, "at least 32 pixels"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        unet((20, 40, 3), **options)
