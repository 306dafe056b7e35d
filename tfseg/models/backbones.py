"""Backbones by name: image in [0, 1] → feature maps, the network's own normalisation inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers

from tfseg.errors import ConfigError, WeightsError
from tfseg.models.weights import load_folded_convolutions

# Of batch norm. With Keras's 0.99 the moving statistics of a training of a few hundred steps are still far from the
# data's, and the network scores chance in inference mode.
MOMENTUM = 0.9


@dataclass(frozen=True)
class Backbone:
    """How a backbone is built and where its inner feature maps are.

    Args:
        build: ``(input_shape, keras_weights) -> keras.Model`` named ``features``.
        levels: layer names of the maps at strides 2, 4, 8, 16, … in this order, for encoders.
        smallest: least height and width that the network can take, in pixels.
        imagenet: whether Keras has ImageNet weights for it.
        load_npz: reads a ``.npz`` of batch-norm-folded convolutions into the built model, or None.
    """

    build: Callable[..., keras.Model]
    levels: tuple[str, ...]
    smallest: int
    imagenet: bool = False
    load_npz: Callable[[keras.Model, Path], None] | None = None


def convolution_block(inputs, filters, name, strides=1, norm="batch", dropout=0.0):
    """Convolution → normalisation → ReLU → dropout; 3×3, or 4×4 where it halves.

    A 3×3 convolution of stride 2 looks half a pixel to the right and below of where its output lies, and a saliency
    map adds those shifts up over the stages; 4×4 is centred.
    """
    size = 3 if strides == 1 else 4
    outputs = layers.Conv2D(filters, size, strides, padding="same", use_bias=norm is None, name=f"{name}_conv")(inputs)
    if norm == "batch":
        outputs = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(outputs)
    outputs = layers.ReLU(name=f"{name}_relu")(outputs)
    return layers.Dropout(dropout, name=f"{name}_dropout")(outputs) if dropout else outputs


def small_cnn(input_shape, keras_weights=None):
    """A small network for tests, demos and images of 64 to 128 pixels: stride 8, 0.3 M parameters."""
    image = keras.Input(input_shape, name="image")
    outputs = layers.Rescaling(2.0, -1.0, name="normalise")(image)
    for number, filters in enumerate((16, 32, 64), 1):
        outputs = convolution_block(outputs, filters, f"stage{number}_down", strides=2)
        outputs = convolution_block(outputs, filters, f"stage{number}")
    outputs = convolution_block(outputs, 128, "stage4_a")
    outputs = convolution_block(outputs, 128, "stage4")
    return keras.Model(image, outputs, name="features")


def mobilenet_v2(input_shape, keras_weights=None):
    """MobileNetV2 (Sandler et al. 2018) without its top; scales [0, 1] to [−1, 1] itself."""
    image = keras.Input(input_shape, name="image")
    scaled = layers.Rescaling(2.0, -1.0, name="normalise")(image)
    network = keras.applications.MobileNetV2(
        input_tensor=scaled, input_shape=input_shape, include_top=False, weights=keras_weights
    )
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = MOMENTUM  # Keras's is 0.999 here.
    return keras.Model(image, network.output, name="features")


BACKBONES: dict[str, Backbone] = {
    "small_cnn": Backbone(small_cnn, ("stage1_relu", "stage2_relu", "stage4_relu"), smallest=8),
    "mobilenet_v2": Backbone(
        mobilenet_v2,
        ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu"),
        smallest=32,
        imagenet=True,
        load_npz=load_folded_convolutions,
    ),
}


def build_backbone(name: str, input_shape: tuple[int, int, int], weights: str | None = None) -> keras.Model:
    """Build a backbone with its weights.

    Args:
        name: a name out of `BACKBONES`.
        input_shape: (height, width, 3).
        weights: ``"imagenet"`` (Keras fetches them), the path of a ``.npz`` of folded convolutions or of a
            ``.weights.h5`` of this backbone, or None for random ones.

    Returns:
        A functional model named ``features``, from image (B, H, W, 3) in [0, 1] to maps (B, h, w, K). With
        pretrained weights its batch norm stays in inference mode: batch statistics of a small batch would
        destroy what the weights know.

    Raises:
        ConfigError: unknown name, or an image that is too small for the network.
        WeightsError: weights that can't be had or don't fit; never a silent fall-back to random ones.
    """
    if name not in BACKBONES:
        raise ConfigError(f"there is no backbone named {name!r}; known: {', '.join(BACKBONES)}")
    backbone = BACKBONES[name]
    if min(input_shape[:2]) < backbone.smallest:
        raise ConfigError(f"{name} takes images of at least {backbone.smallest} pixels, received {input_shape[:2]}")
    if weights is None:
        return backbone.build(input_shape)
    if weights == "imagenet":
        model = _with_imagenet(name, backbone, input_shape)
    else:
        model = backbone.build(input_shape)
        _load_file(model, backbone, name, Path(weights))
    freeze_batch_norm(model)
    return model


def freeze_batch_norm(model: keras.Model) -> None:
    """Keep a model's batch norm layers in inference mode during training."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False


def freeze_first(model: keras.Model, count: int) -> None:
    """Make the first `count` layers that have weights untrainable (those before them have none to train).

    Raises:
        ConfigError: when `count` is negative or the model has fewer such layers.
    """
    weighted = [layer for layer in model.layers if layer.weights]
    if not 0 <= count <= len(weighted):
        raise ConfigError(f"`freeze_first` must lie between 0 and {len(weighted)} for {model.name}, received {count}")
    for layer in weighted[:count]:
        layer.trainable = False


def _with_imagenet(name, backbone, input_shape):
    if not backbone.imagenet:
        raise WeightsError(f"Keras has no ImageNet weights for {name}; give `--weights PATH` or leave it out")
    try:
        return backbone.build(input_shape, "imagenet")
    except Exception as error:
        raise WeightsError(
            f"the ImageNet weights of {name} could not be fetched ({error}); choices: a machine with network, "
            "`--weights PATH` of a file, or no `--weights` for random ones"
        ) from error


def _load_file(model, backbone, name, path):
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist; choices: `imagenet`, a path, or none")
    if path.suffix == ".npz":
        if backbone.load_npz is None:
            raise WeightsError(f"{path}: {name} has no converter for .npz weights; give a .weights.h5 of it")
        backbone.load_npz(model, path)
        return
    if not path.name.endswith(".h5"):
        raise WeightsError(f"{path}: expected a .npz or a .weights.h5 file")
    try:
        model.load_weights(path)
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path} does not fit {name}: {error}") from error
