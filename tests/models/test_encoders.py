"""Encoders: maps of every stride at any image size, and a backbone's last halving undone."""

import keras
import numpy as np
import pytest

from tfseg.errors import ConfigError
from tfseg.models.atrous import keep_last_stride
from tfseg.models.backbones import BACKBONES, build_backbone
from tfseg.models.encoders import KeptStrideError, build_encoder, upsample_to


def pictures(height, width):
    return np.random.default_rng(0).uniform(size=(1, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({"depth": 3}, (1, 2, 4, 8)),
        ({"encoder": "small_cnn"}, (2, 4, 8)),
        ({"encoder": "small_cnn", "greyscale": True}, (2, 4, 8)),
        ({"encoder": "vit_tiny16"}, (16,)),
        # Its convolutions cut the borders.
        ({"encoder": "squeezenet_1_1"}, (2, 4, 8, 16)),
    ],
)
def test_maps_of_every_stride(options, strides):
    found = build_encoder((37, 50, 3), **options)
    sides = {stride: tuple(maps.shape[1:3]) for stride, maps in found.maps.items()}
    assert sides == {stride: (-(-37 // stride), -(-50 // stride)) for stride in strides}
    assert found.deepest == strides[-1]
    scaled = keras.Model(found.image, found.scaled)(pictures(37, 50)).numpy()
    assert scaled.shape == (1, 37, 50, 1 if options.get("greyscale") else 3)
    assert -1.0 <= scaled.min() < -0.5 and 0.5 < scaled.max() <= 1.0


def test_a_backbone_fed_another_range_gets_a_scaled_picture_beside_it():
    found = build_encoder((64, 64, 3), "efficientnet_b0")
    scaled = keras.Model(found.image, found.scaled)(pictures(64, 64)).numpy()
    assert scaled.min() >= -1.0 and scaled.max() <= 1.0


def test_a_padded_image_has_the_maps_of_the_padded_image():
    keras.utils.set_random_seed(0)
    found = build_encoder((37, 50, 3), "vit_tiny16")
    image = pictures(37, 50)
    padded = np.zeros((1, 48, 64, 3), np.float32)
    padded[:, :37, :50] = image
    network = build_backbone("vit_tiny16", (48, 64, 3))
    encoder = keras.Model(found.image, found.maps[16])
    network.set_weights(encoder.get_weights())
    np.testing.assert_allclose(encoder(image), network(padded, training=False)[:, :3, :4], atol=1e-4)


def test_grey_pictures_reach_a_backbone_as_three_equal_channels():
    keras.utils.set_random_seed(0)
    found = build_encoder((40, 40, 1), "small_cnn")
    grey = pictures(40, 40)[..., :1]
    encoder = keras.Model(found.image, found.maps[8])
    network = build_backbone("small_cnn", (40, 40, 3))
    network.set_weights(encoder.get_weights())
    np.testing.assert_allclose(encoder(grey), network(np.repeat(grey, 3, -1), training=False), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "side", "offset"),
    # Where the halving pads at the end only, its outputs lie at odd places.
    [("mobilenet_v2", 64, 1), ("mobilenet_v2", 80, 0)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("resnet50", 64, 0), ("resnet34", 64, 0))],
)
def test_the_undone_halving_keeps_what_every_other_pixel_saw(name, side, offset):
    """Dilated by two, the last stage computes the old map at every other place, and new ones between."""
    keras.utils.set_random_seed(0)
    network = build_backbone(name, (side, side, 3))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    deep, *_ = list(BACKBONES[name].maps.values())[-2:]
    dense = keep_last_stride(network, deep)
    image = pictures(side, side)
    old, new = network(image, training=False).numpy(), dense(image, training=False).numpy()
    assert new.shape[1] == network.get_layer(deep).output.shape[1] == -(-side // 16)
    np.testing.assert_allclose(new[:, offset::2, offset::2], old, atol=1e-5 * np.abs(old).max())
    between = new[:, 1 - offset :: 2, 1 - offset :: 2]
    assert np.abs(between - old[:, : between.shape[1], : between.shape[2]]).max() > 1e-2 * np.abs(old).max()
    frozen = [layer.trainable for layer in dense.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert frozen and not any(frozen)


@pytest.mark.parametrize("name", ["efficientnet_b0", pytest.param("xception", marks=pytest.mark.slow)])
def test_nothing_changes_before_the_undone_halving(name):
    network = build_backbone(name, (96, 96, 3))
    *_, early, deep, _ = BACKBONES[name].maps.values()
    dense = keep_last_stride(network, deep)
    image = pictures(96, 96)
    for layer in (early, deep):
        old, new = (
            keras.Model(one.input, one.get_layer(layer).output)(image, training=False) for one in (network, dense)
        )
        np.testing.assert_allclose(new, old, atol=1e-5)
    assert dense.output.shape[1:3] == (6, 6)


def test_a_halving_that_cannot_be_undone_is_told():
    with pytest.raises(KeptStrideError, match="backbone shufflenet_v2_x0_5 can't keep stride 16"):
        build_encoder((64, 64, 3), "shufflenet_v2_x0_5", keep_from=16)
    with pytest.raises(ValueError, match="no layer of features halves behind stage4_relu"):
        keep_last_stride(build_backbone("small_cnn", (32, 32, 3)), "stage4_relu")
    # Not the last but one: nothing to keep.
    assert list(build_encoder((64, 64, 3), "small_cnn", keep_from=16).maps) == [2, 4, 8]


def test_enlarging_refuses_maps_of_another_size():
    maps = keras.Input((5, 7, 2))
    assert upsample_to(maps, 8, (37, 50), "up").shape == (None, 37, 50, 2)
    assert upsample_to(maps, 1, (5, 7), "same") is maps
    with pytest.raises(ValueError, match="are not"):
        upsample_to(maps, 16, (37, 50), "up")


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="no backbone named 'vgg16'; known: small_cnn"):
        build_encoder((64, 64, 3), "vgg16")
    with pytest.raises(ConfigError, match="weights some.npz need an encoder"):
        build_encoder((64, 64, 3), weights="some.npz")
    with pytest.raises(ConfigError, match="2 channels"):
        build_encoder((64, 64, 2))
