"""The contracting half of every segmenter: an image's feature maps at strides 1, 2, 4, …"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from tfseg.errors import ConfigError
from tfseg.layers.greyscale import Greyscale
from tfseg.models.atrous import keep_last_stride
from tfseg.models.backbones import BACKBONES, build_backbone, convolution_block


class KeptStrideError(ConfigError):
    """A backbone's last halving can't be undone."""


@dataclass(frozen=True)
class Encoder:
    """A network's maps, before a decoder is put on them.

    Args:
        image: the model's symbolic input, (B, H, W, 3 or 1) in [0, 1].
        scaled: the same in [−1, 1], grey where that was asked for.
        maps: from a stride s to the map of ⌈H / s⌉ × ⌈W / s⌉, in the order of the strides.
    """

    image: Any
    scaled: Any
    maps: dict[int, Any]

    @property
    def deepest(self) -> int:
        """The largest stride."""
        return max(self.maps)


def build_encoder(
    input_shape: tuple[int, int, int],
    encoder: str | None = None,
    weights: str | None = None,
    width: int = 16,
    depth: int = 4,
    norm: str | None = "batch",
    greyscale: bool = False,
    keep_from: int | None = None,
) -> Encoder:
    """Feature maps of a plain contracting path, or of a backbone by name, for images of any size.

    A backbone that takes multiples of some number only gets the image with black rows and columns added below and to
    the right, and its maps are cut; maps whose sides are not ⌈side / stride⌉ are resized to that.

    Args:
        input_shape: (height, width, channels): 3, or 1 for images that are grey to begin with.
        encoder: a name out of `BACKBONES`, or None for the plain path: two convolutions a level, then a 2×2 maximum.
        weights: of the backbone, see `build_backbone`.
        width: filters of the plain path's first level, doubled at every level down.
        depth: halvings of the plain path.
        norm: of the plain path, ``"batch"`` or None.
        greyscale: the network sees the image's luma only.
        keep_from: a stride beyond which a backbone's maps shall not be halved: its last stage then stays at this
            stride, see `keep_last_stride`. None, or a stride that is not the last but one, changes nothing.

    Raises:
        ConfigError: an argument out of range, an image that is too small, or weights without a backbone.
        KeptStrideError: a backbone whose last halving can't be undone.
    """
    if width < 1 or norm not in ("batch", None) or input_shape[-1] not in (1, 3):
        raise ConfigError(
            "a segmenter expects width ≥ 1, norm 'batch' or None, images of 1 or 3 channels; received "
            f"width={width}, norm={norm!r}, {input_shape[-1]} channels"
        )
    if encoder is not None:
        return _backbone(input_shape, encoder, weights, greyscale, keep_from)
    if weights is not None:
        raise ConfigError(f"weights {weights} need an encoder that they belong to; the plain path has none")
    if depth < 1 or min(input_shape[:2]) < 2**depth:
        raise ConfigError(
            f"a plain encoder of depth {depth} needs images of at least {2**depth} pixels, received {input_shape[:2]}"
        )
    image = keras.Input(input_shape, name="image")
    outputs, maps = _scaled(image, greyscale), {}
    scaled = outputs
    for level in range(depth + 1):
        if level:
            outputs = layers.MaxPooling2D(2, padding="same", name=f"down{level}_pool")(outputs)
        outputs = convolution_block(outputs, width * 2**level, f"down{level}_a", norm=norm)
        outputs = convolution_block(outputs, width * 2**level, f"down{level}_b", norm=norm)
        maps[2**level] = outputs
    return Encoder(image, scaled, maps)


def _scaled(image, greyscale, name="normalise"):
    seen = Greyscale(name="greyscale")(image) if greyscale and image.shape[-1] == 3 else image
    return layers.Rescaling(2.0, -1.0, name=name)(seen)


def _backbone(input_shape, name, weights, greyscale, keep_from):
    if name not in BACKBONES:
        raise ConfigError(f"there is no backbone named {name!r}; known: {', '.join(BACKBONES)}")
    backbone, sides = BACKBONES[name], input_shape[:2]
    padded = tuple(-(-side // backbone.multiple) * backbone.multiple for side in sides)
    network = build_backbone(name, (*padded, 3), weights)
    strides = dict(backbone.maps)
    if keep_from is not None and list(strides)[-2:-1] == [keep_from]:
        try:
            network = keep_last_stride(network, strides[keep_from])
        except ValueError as error:
            raise KeptStrideError(f"the backbone {name} can't keep stride {keep_from}: {error}") from error
        _, strides[keep_from] = strides.popitem()
    return encoder_of(network, strides, input_shape, greyscale, backbone.halves)


def encoder_of(
    network: keras.Model,
    layers_by_stride: dict[int, str],
    input_shape: tuple[int, int, int],
    greyscale: bool = False,
    halves: bool = True,
) -> Encoder:
    """A network's inner maps, for images that may be smaller than it was built for, or grey.

    Args:
        network: flat functional model from (B, H', W', 3) in [0, 1], its normalisation a layer named ``normalise``.
        layers_by_stride: which layer's output has which stride.
        input_shape: (H, W, 3 or 1), with H ≤ H' and W ≤ W'.
        greyscale: the network sees the image's luma only.
        halves: whether maps have ⌈H' / stride⌉ rows; where not they are resized.
    """
    sides, padded = input_shape[:2], network.input_shape[1:3]
    maps = {stride: network.get_layer(layer).output for stride, layer in layers_by_stride.items()}
    if padded == tuple(sides) and input_shape[-1] == 3 and not greyscale:
        normalise, image = network.get_layer("normalise"), network.input
        # Some networks are fed other ranges than [−1, 1].
        own = normalise.output if normalise.scale == 2.0 else _scaled(image, greyscale, "scaled")
        return Encoder(image, own, _at_strides(maps, halves, sides))
    image = keras.Input(input_shape, name="image")
    seen = Greyscale(name="greyscale")(image) if greyscale and input_shape[-1] == 3 else image
    scaled = layers.Rescaling(2.0, -1.0, name="scaled")(seen)
    if seen.shape[-1] == 1:
        seen = layers.Concatenate(name="three_channels")([seen] * 3)
    if padded != tuple(sides):
        missing = [whole - side for whole, side in zip(padded, sides, strict=True)]
        seen = layers.ZeroPadding2D(((0, missing[0]), (0, missing[1])), name="pad")(seen)
    inner = keras.Model(network.input, list(maps.values()), name=network.name)
    maps = dict(zip(maps, keras.tree.flatten(inner(seen)), strict=True))
    return Encoder(image, scaled, _at_strides(maps, halves, sides))


def _at_strides(maps, halves, sides):
    """The maps cut to the rows and columns that belong to the image."""
    found = {}
    for stride, outputs in maps.items():
        wanted = [-(-side // stride) for side in sides]
        if not halves and list(outputs.shape[1:3]) != wanted:
            outputs = layers.Resizing(*wanted, interpolation="bilinear", name=f"resize{stride}")(outputs)
        found[stride] = crop_to(outputs, wanted, f"crop{stride}")
    return found


def crop_to(inputs, sides, name):
    """Cut the last rows and columns, by which ceil-mode halving and doubling overshoot an odd size."""
    rows, columns = inputs.shape[1] - sides[0], inputs.shape[2] - sides[1]
    if rows == 0 and columns == 0:
        return inputs
    return layers.Cropping2D(((0, rows), (0, columns)), name=name)(inputs)


def upsample_to(inputs, factor, sides, name, interpolation="bilinear", dtype=None):
    """Enlarge maps by a whole factor and cut what overshoots.

    Raises:
        ValueError: maps that are not ⌈side / factor⌉.
    """
    if [-(-side // factor) for side in sides] != list(inputs.shape[1:3]):
        raise ValueError(f"maps of {inputs.shape[1:3]} are not {tuple(sides)} divided by {factor}")
    if factor > 1:
        inputs = layers.UpSampling2D(factor, interpolation=interpolation, dtype=dtype, name=name)(inputs)
    return crop_to(inputs, sides, f"{name}_crop")


def mask_logits(inputs, classes, name="logits"):
    """A 1×1 convolution to the mask's channels, float32 under any precision.

    Raises:
        ConfigError: fewer than one class.
    """
    if classes < 1:
        raise ConfigError(f"a segmenter expects classes ≥ 1; received classes={classes}")
    return layers.Conv2D(classes, 1, dtype="float32", name=name)(inputs)
