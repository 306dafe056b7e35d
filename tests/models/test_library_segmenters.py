"""Networks of segmentation-models: normalisation inside, any size, loaded in a process that knows only tfseg."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from harness import check_model

from tfseg.errors import ConfigError
from tfseg.models.library import ChannelSlice, affine_preprocessing, library_network
from tfseg.models.segmenters import build_segmenter

LOAD = """
import sys
import numpy as np
from tfseg.export.predictor import load_model
import keras
import tfseg.models.segmenters
model = keras.saving.load_model(sys.argv[1], compile=False)
image = np.random.default_rng(0).uniform(size=(1, 50, 66, 3)).astype(np.float32)
np.save(sys.argv[2], model(image, training=False))
"""


def pictures():
    return np.random.default_rng(0).uniform(size=(1, 50, 66, 3)).astype(np.float32)


def test_preprocessing_becomes_scale_and_offset():
    means, stds = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scale, offset = affine_preprocessing(lambda pixels: (pixels / 255.0 - means) / stds, "x")
    np.testing.assert_allclose(scale, 1.0 / stds)
    np.testing.assert_allclose(offset, -means / stds)
    with pytest.raises(ConfigError, match="mixes colour channels"):
        affine_preprocessing(lambda pixels: pixels[..., ::-1] - 100.0, "vgg16")


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="no encoder named 'resnet9'; known: .*seresnext50"):
        build_segmenter("fpn", (64, 64, 3), encoder="sm:resnet9")
    with pytest.raises(ConfigError, match="'imagenet' or None, received 'file.npz'"):
        build_segmenter("fpn", (64, 64, 3), encoder="sm:mobilenetv2", encoder_weights="file.npz")
    with pytest.raises(ConfigError, match="colour images only"):
        build_segmenter("fpn", (64, 64, 3), encoder="sm:mobilenetv2", greyscale=True)
    with pytest.raises(ConfigError, match="vgg16 of segmentation-models mixes"):
        build_segmenter("fpn", (64, 64, 3), encoder="sm:vgg16")


@pytest.fixture(scope="module")
def fpn():
    keras.utils.set_random_seed(0)
    return build_segmenter("fpn", (50, 66, 3), 3, encoder="sm:mobilenetv2", width=2, dropout=0.1)


def test_what_the_encoder_sees(fpn):
    """MobileNetV2 of the library takes [−1, 1]; the 50×66 picture lies in one of 64×96."""
    seen = keras.Model(fpn.input, fpn.get_layer("pad").output)(pictures()).numpy()
    assert seen.shape == (1, 64, 96, 3)
    np.testing.assert_allclose(seen[:, :50, :66], 2.0 * pictures() - 1.0, atol=1e-5)
    assert not seen[:, 50:].any() and not seen[:, :, 66:].any()
    assert fpn.name == "segmenter" and fpn.output.shape == (None, 50, 66, 3)
    assert fpn(pictures()).dtype == "float32"


def test_the_clone_is_the_librarys_network(fpn):
    import segmentation_models

    theirs = segmentation_models.FPN(
        "mobilenetv2", (64, 96, 3), 3, activation="linear", encoder_weights=None, pyramid_block_filters=32
    )
    theirs.set_weights(fpn.get_weights())
    padded = np.zeros((1, 64, 96, 3), np.float32)
    padded[:, :50, :66] = 2.0 * pictures() - 1.0
    expected = theirs(padded, training=False).numpy()
    np.testing.assert_allclose(fpn(pictures(), training=False), expected[:, :50, :66], atol=1e-4)


def test_channels_are_sliced():
    layer = ChannelSlice.from_config(ChannelSlice(1, 3).get_config())
    values = np.arange(10.0).reshape(2, 5)
    np.testing.assert_array_equal(layer(values), values[:, 1:3])


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mobilenetv2", "seresnext50", "efficientnetb0", "resnet34"])
def test_a_fresh_process_loads_it(encoder, tmp_path):
    keras.utils.set_random_seed(0)
    model = library_network("FPN", encoder, (50, 66, 3), 1, pyramid_block_filters=16)
    model.save(tmp_path / "model.keras")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    arguments = [sys.executable, "-c", LOAD, str(tmp_path / "model.keras"), str(tmp_path / "logits.npy")]
    subprocess.run(arguments, check=True, env=environment)
    expected = model(pictures(), training=False).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mobilenetv2", "seresnext50", "efficientnetb0"])
def test_it_agrees_in_every_way_to_call(encoder, tmp_path):
    keras.utils.set_random_seed(0)
    model = library_network("FPN", encoder, (50, 66, 3), 1, pyramid_block_filters=16)
    # A network of random weights has logits of any size; they are brought to about one.
    last = next(weight for weight in reversed(model.weights) if weight.shape[-1] == 1 and len(weight.shape) == 4)
    last.assign(last / np.abs(model(pictures(), training=False)).max())
    check_model(model, pictures(), tmp_path, tolerance=1e-4)
