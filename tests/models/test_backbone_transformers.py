"""ViT and Swin: against KerasHub's, against attention by its definition, and at sizes that KerasHub can't take."""

import keras
import numpy as np
import pytest
from harness import check_layer, check_model

from tfseg.models.backbones import swin as swin_module
from tfseg.models.backbones import vit as vit_module
from tfseg.models.backbones.blocks import standardised, symmetric
from tfseg.models.backbones.swin import WindowAttention, swin
from tfseg.models.backbones.vit import ClassTokenAndPositions, resize_positions, vit


def pictures(height, width):
    return np.random.default_rng(1).uniform(size=(2, height, width, 3)).astype(np.float32)


def shaken(network):
    """Every weight away from the zeros and ones that a fresh network has in places."""
    generator = np.random.default_rng(0)
    network.set_weights([value + generator.normal(0.0, 0.1, value.shape) for value in network.get_weights()])
    return network


def behind(normalise, network, shape):
    image = keras.Input(shape)
    return keras.Model(image, network(normalise(image)))


@pytest.fixture(scope="module")
def vit_pair():
    """A small ViT of KerasHub and ours with its weights."""
    from keras_hub.models import ViTBackbone

    theirs = shaken(ViTBackbone((32, 48, 3), 16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=128))
    ours = vit((32, 48, 3), width=32, depth=2, heads=4)
    vit_module.load_kerashub(ours, theirs)
    return theirs, ours


def test_vit_against_kerashub(vit_pair):
    theirs, ours = vit_pair
    tokens = behind(symmetric, theirs, (32, 48, 3))(pictures(32, 48), training=False).numpy()
    expected = tokens[:, 1:].reshape(2, 2, 3, 32)
    np.testing.assert_allclose(ours(pictures(32, 48), training=False), expected, rtol=1e-4, atol=1e-4)


def test_vit_in_every_way_it_is_called(vit_pair, tmp_path):
    check_model(vit_pair[1], pictures(32, 48), tmp_path)


def test_vit_weights_at_another_size(vit_pair, tmp_path):
    theirs, ours = vit_pair
    larger = vit((64, 96, 3), width=32, depth=2, heads=4)
    vit_module.load_kerashub(larger, theirs)
    positions = larger.get_layer("tokens").positions.numpy()
    small = ours.get_layer("tokens").positions.numpy()
    np.testing.assert_array_equal(positions[0], small[0])
    assert positions.shape == (1 + 4 * 6, 32)
    ours.save_weights(tmp_path / "small.weights.h5")
    loaded = vit((64, 96, 3), width=32, depth=2, heads=4)
    loaded.load_weights(tmp_path / "small.weights.h5")
    for left, right in zip(loaded.get_weights(), larger.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_fetched_weights_of_vit(monkeypatch, vit_pair):
    from keras_hub.models import ViTBackbone

    asked = []
    monkeypatch.setattr(ViTBackbone, "from_preset", lambda preset: asked.append(preset) or vit_pair[0])
    monkeypatch.setattr(vit_module, "vit", lambda shape, **ignored: vit(shape, width=32, depth=2, heads=4))
    model = vit_module.vit_b16((32, 48, 3), "imagenet")
    assert asked == ["vit_base_patch16_224_imagenet"]
    np.testing.assert_array_equal(model(pictures(32, 48)), vit_pair[1](pictures(32, 48)))


def test_positions_are_resized():
    generator = np.random.default_rng(2)
    table = generator.normal(size=(1 + 3 * 4, 5)).astype(np.float32)
    assert resize_positions(table, (3, 4), (3, 4)) is table
    constant = np.concatenate([table[:1], np.broadcast_to(table[1:2], (12, 5))])
    expected = np.concatenate([table[:1], [table[1]] * 14])
    np.testing.assert_allclose(resize_positions(constant, (3, 4), (7, 2)), expected, rtol=1e-5)
    # What rises along the rows goes on rising along the rows, and stays the same along the columns.
    rising = np.concatenate([table[:1], np.repeat(np.arange(3.0)[:, None, None], 4, 1).repeat(5, 2).reshape(12, 5)])
    resized = resize_positions(rising.astype(np.float32), (3, 4), (6, 8))[1:].reshape(6, 8, 5)
    assert (np.diff(resized, axis=0) > 0).all()
    np.testing.assert_allclose(np.diff(resized, axis=1), 0.0, atol=1e-5)


def test_class_token_layer(tmp_path):
    maps = np.random.default_rng(3).normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = check_layer(ClassTokenAndPositions, [maps], tmp_path, trainable=True)
    tokens = layer(maps).numpy()
    positions = layer.positions.numpy()
    np.testing.assert_allclose(tokens[:, 0], np.broadcast_to(layer.token[0, 0] + positions[0], (2, 5)), atol=1e-6)
    np.testing.assert_allclose(tokens[:, 1:], maps.reshape(2, 12, 5) + positions[1:], atol=1e-6)


@pytest.fixture(scope="module")
def swin_pair():
    """A small Swin of KerasHub, windows shifted in both stages, and ours with its weights."""
    from keras_hub.models import SwinTransformerBackbone

    shape = dict(depths=(2, 2), num_heads=(2, 4), window_size=4)
    theirs = shaken(SwinTransformerBackbone((64, 64, 3), embed_dim=16, **shape))
    ours = swin((64, 64, 3), 16, (2, 2), (2, 4), window=4)
    swin_module.load_kerashub(ours, theirs)
    return theirs, ours


def test_swin_against_kerashub(swin_pair):
    theirs, ours = swin_pair
    expected = behind(standardised, theirs, (64, 64, 3))(pictures(64, 64), training=False).numpy()
    received = ours(pictures(64, 64), training=False)
    np.testing.assert_allclose(received, expected.reshape(2, 8, 8, 32), rtol=1e-4, atol=1e-4)


def test_swin_of_one_window_against_kerashub():
    """Where the map is one window KerasHub shifts nothing either."""
    from keras_hub.models import SwinTransformerBackbone

    theirs = shaken(SwinTransformerBackbone((32, 32, 3), 16, depths=(2,), num_heads=(2,), window_size=8))
    ours = swin((32, 32, 3), 16, (2,), (2,), window=8)
    swin_module.load_kerashub(ours, theirs)
    expected = behind(standardised, theirs, (32, 32, 3))(pictures(32, 32), training=False).numpy()
    received = ours(pictures(32, 32), training=False)
    np.testing.assert_allclose(received, expected.reshape(2, 8, 8, 16), rtol=1e-4, atol=1e-4)


def test_fetched_weights_of_swin(monkeypatch, swin_pair):
    from keras_hub.models import SwinTransformerBackbone

    asked = []
    monkeypatch.setattr(SwinTransformerBackbone, "from_preset", lambda preset: asked.append(preset) or swin_pair[0])
    monkeypatch.setattr(swin_module, "swin", lambda shape, *ignored: swin(shape, 16, (2, 2), (2, 4), window=4))
    for build in (swin_module.swin_t, swin_module.swin_s):
        np.testing.assert_array_equal(build((64, 64, 3), "imagenet")(pictures(64, 64)), swin_pair[1](pictures(64, 64)))
    assert asked == ["swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224"]


def test_swin_in_every_way_it_is_called(tmp_path):
    """Stages that are padded to whole windows, shifted and not, and of less than a window."""
    keras.utils.set_random_seed(0)
    model = shaken(swin((48, 80, 3), 8, (2, 1), (2, 4), window=7))
    assert [model.get_layer(name).output.shape[1:] for name in ("stage1", "stage2")] == [(12, 20, 8), (6, 10, 16)]
    check_model(model, pictures(48, 80), tmp_path, tolerance=1e-4)


def test_stochastic_depth_is_for_training_only():
    model = swin((32, 32, 3), 8, (2,), (2,), window=4, drop_path=0.5)
    images = np.repeat(pictures(32, 32)[:1], 16, 0)
    kept = model(images, training=False).numpy()
    np.testing.assert_allclose(kept, np.broadcast_to(kept[:1], kept.shape), atol=1e-5)
    dropped = model(images, training=True).numpy()
    assert 1 < len(np.unique(dropped[:, 0, 0, 0].round(4))) <= 4, "two branches, each there or not, for a whole image"


def attention_by_definition(layer, maps):
    """Pixel by pixel: who shares a window with it, where windows begin at the shift and end at the map's border."""
    _, height, width, channels = maps.shape
    window, heads = layer.window, layer.heads
    # Along a side that one window covers nothing is shifted.
    shifts = [layer.shift if side > window else 0 for side in (height, width)]
    kernel, bias = layer.query_key_value.get_weights()
    parts = np.split(maps @ kernel + bias, 3, axis=-1)
    query, key, value = (part.reshape(*maps.shape[:3], heads, channels // heads) for part in parts)
    table = layer.table.numpy()
    outputs = np.zeros_like(query)
    places = [(row, column) for row in range(height) for column in range(width)]
    window_of = {
        place: tuple((at - shift) // window for at, shift in zip(place, shifts, strict=True)) for place in places
    }
    for row, column in places:
        seen = [place for place in places if window_of[place] == window_of[row, column]]
        rows, columns = np.transpose(seen)
        distance = (row - rows + window - 1) * (2 * window - 1) + column - columns + window - 1
        for head in range(heads):
            keys, values = key[:, rows, columns, head], value[:, rows, columns, head]
            scores = np.einsum("bk,bpk->bp", query[:, row, column, head], keys) * (channels // heads) ** -0.5
            weights = np.exp(scores + table[distance, head])
            outputs[:, row, column, head] = np.einsum("bp,bpk->bk", weights / weights.sum(-1, keepdims=True), values)
    kernel, bias = layer.project.get_weights()
    return outputs.reshape(maps.shape) @ kernel + bias


@pytest.mark.parametrize(("size", "shift"), [((8, 8), 2), ((6, 9), 0), ((6, 9), 2), ((3, 10), 1), ((2, 3), 2)])
def test_window_attention_by_definition(size, shift):
    keras.utils.set_random_seed(3)
    maps = np.random.default_rng(3).normal(size=(2, *size, 6)).astype(np.float32)
    layer = WindowAttention(2, window=4, shift=shift)
    layer.build(maps.shape)
    shaken(layer)
    np.testing.assert_allclose(layer(maps), attention_by_definition(layer, maps), rtol=1e-4, atol=1e-5)


def test_window_attention_as_a_layer(tmp_path):
    keras.utils.set_random_seed(4)
    maps = np.random.default_rng(4).normal(size=(2, 6, 9, 8)).astype(np.float32)
    check_layer(lambda: WindowAttention(2, window=4, shift=2), [maps], tmp_path, trainable=True)
