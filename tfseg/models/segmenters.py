"""Segmenters by name: image in [0, 1] → mask logits, any number of classes, any image size."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import keras

from tfseg.errors import ConfigError
from tfseg.models.deeplab import deeplab
from tfseg.models.double_unet import double_unet
from tfseg.models.fcn import fcn
from tfseg.models.fpn import fpn
from tfseg.models.swin_unet import swin_unet
from tfseg.models.unet import unet

SEGMENTERS: dict[str, Callable[..., keras.Model]] = {
    "unet": unet,
    "attention_unet": partial(unet, attention_gates=True),
    "trans_unet": partial(unet, transformer_blocks=4),
    "double_unet": double_unet,
    "swin_unet": swin_unet,
    "fcn_8s": partial(fcn, stride=8),
    "fcn_16s": partial(fcn, stride=16),
    "fcn_32s": partial(fcn, stride=32),
    "deeplab_v3_plus": deeplab,
    "fpn": fpn,
}


def build_segmenter(name: str, input_shape: tuple[int, int, int], classes: int = 1, **options) -> keras.Model:
    """Build a segmenter by name.

    Args:
        name: a name out of `SEGMENTERS`.
        input_shape: (height, width, channels).
        classes: channels of the mask: 1 for lesion against background, else one per class.
        options: the builder's own. All have `width`, `depth`, `norm`, `dropout`, `encoder`, `encoder_weights` and
            `greyscale`.

    Returns:
        A functional model named ``segmenter``, image (B, H, W, 3) in [0, 1] → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: unknown name, an option that the builder hasn't, or one out of range.
    """
    if name not in SEGMENTERS:
        raise ConfigError(f"there is no segmenter named {name!r}; known: {', '.join(SEGMENTERS)}")
    known = segmenter_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"the segmenter {name} has no option {unknown[0]!r}; known: {', '.join(known)}")
    return SEGMENTERS[name](input_shape, classes, **options)


def at_scale(segmenter: keras.Model, scale: int) -> keras.Model:
    """A segmenter for larger images, which works on them made smaller by averaging.

    Args:
        segmenter: image (B, h, w, 3) in [0, 1] → logits (B, h, w, classes).
        scale: how many times larger the new one's images are, at least 1.

    Returns:
        A functional model named ``segmenter``, image (B, scale · h, scale · w, 3) → logits of the same size, float32,
        brought back bilinearly.
    """
    if scale == 1:
        return segmenter
    height, width, channels = segmenter.input_shape[1:]
    image = keras.Input((scale * height, scale * width, channels), name="image")
    smaller = keras.layers.AveragePooling2D(scale, name="made_smaller")(image)
    inner = keras.Model(segmenter.input, segmenter.output, name="scaled_segmenter")
    logits = keras.layers.UpSampling2D(scale, interpolation="bilinear", dtype="float32", name="made_larger")(
        inner(smaller)
    )
    return keras.Model(image, logits, name="segmenter")


def segmenter_options(name: str) -> tuple[str, ...]:
    """The options of a segmenter, by name."""
    builder = SEGMENTERS[name]
    fixed = builder.keywords if isinstance(builder, partial) else {}
    names = inspect.signature(builder).parameters
    return tuple(option for option in names if option not in ("input_shape", "classes", *fixed))
