"""Backbones by name: image in [0, 1] → feature maps, the network's own normalisation inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
from keras import layers

from tfseg.errors import ConfigError, WeightsError
from tfseg.models.backbones import applications, shufflenet, squeezenet, swin, vit
from tfseg.models.backbones.blocks import MOMENTUM, convolution_block, symmetric
from tfseg.models.weights import load_folded_convolutions

__all__ = [
    "BACKBONES",
    "MOMENTUM",
    "Backbone",
    "build_backbone",
    "convolution_block",
    "freeze_batch_norm",
    "freeze_first",
]


@dataclass(frozen=True)
class Backbone:
    """How a backbone is built and where its inner feature maps are.

    Args:
        name: what users call it.
        build: ``(input_shape, keras_weights) -> keras.Model`` named ``features``.
        maps: from a stride to the layer that holds the last map of that stride, in the order of the network.
        smallest: least height and width that the network can take, in pixels.
        multiple: height and width must be multiples of this.
        halves: whether the map of stride s has ⌈side / s⌉ rows and columns at every image size; where not, maps must be
            resized before they are joined.
        imagenet: the library that has ImageNet weights for it, or None.
        load_npz: reads a ``.npz`` of convolutions into the built model, or None.
    """

    name: str
    build: Callable[..., keras.Model]
    maps: Mapping[int, str]
    smallest: int
    multiple: int = 1
    halves: bool = True
    imagenet: str | None = None
    load_npz: Callable[[keras.Model, Path], None] | None = None


def small_cnn(input_shape, keras_weights=None):
    """A small network for tests, demos and images of 64 to 128 pixels: stride 8, 0.3 M parameters."""
    image = keras.Input(input_shape, name="image")
    outputs = symmetric(image)
    for number, filters in enumerate((16, 32, 64), 1):
        outputs = convolution_block(outputs, filters, f"stage{number}_down", strides=2)
        outputs = convolution_block(outputs, filters, f"stage{number}")
    outputs = convolution_block(outputs, 128, "stage4_a")
    outputs = convolution_block(outputs, 128, "stage4")
    return keras.Model(image, outputs, name="features")


def _maps(*names: str, first: int = 2) -> dict[int, str]:
    """Layers at strides that double from `first` on."""
    return {first * 2**level: name for level, name in enumerate(names)}


def _fires(*numbers: int) -> dict[int, str]:
    return _maps("relu_conv1", *(f"fire{number}_concat" for number in numbers))


# The branches of a ShuffleNet unit hold convolutions of the same shape: their order says nothing.
_load_named = partial(load_folded_convolutions, by_name=True)

_RESNET50_MAPS = _maps("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
_RESNET34_MAPS = _maps("conv1_relu", "stack0_block2_out", "stack1_block3_out", "stack2_block5_out", "stack3_block2_out")
_XCEPTION_MAPS = _maps(
    "block1_conv2_act", "block3_sepconv2_act", "block4_sepconv2_act", "block13_sepconv2_act", "block14_sepconv2_act"
)
_MOBILENET_MAPS = _maps(
    "block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu"
)
_EFFICIENTNET_MAPS = _maps(*(f"block{n}a_expand_activation" for n in (2, 3, 4, 6)), "top_activation")
_SHUFFLENET_MAPS = _maps("conv1_relu", "maxpool", "stage2_3", "stage3_7", "conv5_relu")
_DENSENET_MAPS = _maps("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu")
_CONVNEXT_MAPS = _maps("stage1", "stage2", "stage3", "norm", first=4)
_SWIN_MAPS = _maps("stage1", "stage2", "stage3", "norm", first=4)

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("small_cnn", small_cnn, _maps("stage1_relu", "stage2_relu", "stage4_relu"), smallest=8),
        Backbone(
            "mobilenet_v2",
            applications.mobilenet_v2,
            _MOBILENET_MAPS,
            smallest=32,
            imagenet="Keras",
            load_npz=load_folded_convolutions,
        ),
        Backbone(
            "squeezenet_1_0",
            squeezenet.squeezenet_1_0,
            _fires(4, 8, 9),
            smallest=21,
            halves=False,
            load_npz=load_folded_convolutions,
        ),
        Backbone(
            "squeezenet_1_1",
            squeezenet.squeezenet_1_1,
            _fires(3, 5, 9),
            smallest=17,
            halves=False,
            load_npz=load_folded_convolutions,
        ),
        Backbone("shufflenet_v2", shufflenet.shufflenet_v2, _SHUFFLENET_MAPS, 32, load_npz=_load_named),
        Backbone("shufflenet_v2_x0_5", shufflenet.shufflenet_v2_x0_5, _SHUFFLENET_MAPS, 32, load_npz=_load_named),
        Backbone("resnet34", applications.resnet34, _RESNET34_MAPS, smallest=32, imagenet="KerasHub"),
        Backbone("resnet50", applications.resnet50, _RESNET50_MAPS, smallest=32, imagenet="Keras"),
        Backbone("xception", applications.xception, _XCEPTION_MAPS, smallest=71, halves=False, imagenet="Keras"),
        Backbone("convnext_tiny", applications.convnext_tiny, _CONVNEXT_MAPS, 32, halves=False, imagenet="Keras"),
        Backbone("convnext_small", applications.convnext_small, _CONVNEXT_MAPS, 32, halves=False, imagenet="Keras"),
        Backbone("efficientnet_b0", applications.efficientnet_b0, _EFFICIENTNET_MAPS, smallest=32, imagenet="Keras"),
        Backbone("efficientnet_b4", applications.efficientnet_b4, _EFFICIENTNET_MAPS, smallest=32, imagenet="Keras"),
        Backbone("densenet121", applications.densenet121, _DENSENET_MAPS, smallest=32, imagenet="Keras"),
        Backbone("vit_b16", vit.vit_b16, {16: "maps"}, smallest=32, multiple=16, imagenet="KerasHub"),
        Backbone("vit_tiny16", vit.vit_tiny16, {16: "maps"}, smallest=32, multiple=16),
        Backbone("swin_t", swin.swin_t, _SWIN_MAPS, smallest=32, multiple=32, imagenet="KerasHub"),
        Backbone("swin_s", swin.swin_s, _SWIN_MAPS, smallest=32, multiple=32, imagenet="KerasHub"),
        Backbone("small_swin", swin.small_swin, _maps("stage1", "stage2", "norm", first=4), smallest=16, multiple=16),
    )
}


def build_backbone(name: str, input_shape: tuple[int, int, int], weights: str | None = None) -> keras.Model:
    """Build a backbone with its weights.

    Args:
        name: a name out of `BACKBONES`.
        input_shape: (height, width, 3).
        weights: ``"imagenet"`` (Keras or KerasHub fetches them), the path of a ``.npz`` of convolutions or of a
            ``.weights.h5`` of this backbone, or None for random ones.

    Returns:
        A functional model named ``features``, from image (B, H, W, 3) in [0, 1] to maps (B, h, w, K). With
        pretrained weights its batch norm stays in inference mode: batch statistics of a small batch would
        destroy what the weights know.

    Raises:
        ConfigError: unknown name, or an image whose size the network can't take.
        WeightsError: weights that can't be had or don't fit; never a silent fall-back to random ones.
    """
    if name not in BACKBONES:
        raise ConfigError(f"there is no backbone named {name!r}; known: {', '.join(BACKBONES)}")
    backbone = BACKBONES[name]
    if min(input_shape[:2]) < backbone.smallest:
        raise ConfigError(f"{name} takes images of at least {backbone.smallest} pixels, received {input_shape[:2]}")
    if any(side % backbone.multiple for side in input_shape[:2]):
        raise ConfigError(
            f"{name} takes images whose sides are multiples of {backbone.multiple} pixels, received {input_shape[:2]}"
        )
    if weights is None:
        return backbone.build(input_shape)
    if weights == "imagenet":
        model = _with_imagenet(backbone, input_shape)
    else:
        model = backbone.build(input_shape)
        _load_file(model, backbone, Path(weights))
    freeze_batch_norm(model)
    return model


def freeze_batch_norm(model: keras.Model) -> None:
    """Keep a model's batch norm layers in inference mode during training."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False


def frozen_count(model: keras.Model, count: int | None) -> int:
    """How many first layers to freeze: `count`, or by default 87 % of those that have weights."""
    return round(0.87 * sum(bool(layer.weights) for layer in model.layers)) if count is None else count


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


def _with_imagenet(backbone, input_shape):
    if not backbone.imagenet:
        raise WeightsError(f"Keras has no ImageNet weights for {backbone.name}; give `--weights PATH` or leave it out")
    try:
        return backbone.build(input_shape, "imagenet")
    except Exception as error:
        raise WeightsError(
            f"the ImageNet weights of {backbone.name} could not be fetched by {backbone.imagenet} ({error}); choices: "
            "a machine with network, `--weights PATH` of a file, or no `--weights` for random ones"
        ) from error


def _load_file(model, backbone, path):
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist; choices: `imagenet`, a path, or none")
    if path.suffix == ".npz":
        if backbone.load_npz is None:
            raise WeightsError(f"{path}: {backbone.name} has no converter for .npz weights; give a .weights.h5 of it")
        backbone.load_npz(model, path)
        return
    if not path.name.endswith(".h5"):
        raise WeightsError(f"{path}: expected a .npz or a .weights.h5 file")
    try:
        model.load_weights(path)
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path} does not fit {backbone.name}: {error}") from error
