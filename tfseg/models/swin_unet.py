"""Swin-UNet: a U-Net whose blocks attend within windows instead of convolving."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from tfseg.errors import ConfigError
from tfseg.models.backbones.swin import swin, swin_block
from tfseg.models.encoders import build_encoder, crop_to, encoder_of, mask_logits

PATCH, HEAD_WIDTH = 4, 32


def swin_unet(
    input_shape: tuple[int, int, int],
    classes: int = 1,
    width: int = 16,
    depth: int = 4,
    norm: str | None = "batch",
    dropout: float = 0.0,
    encoder: str | None = None,
    encoder_weights: str | None = None,
    greyscale: bool = False,
    window: int = 7,
) -> keras.Model:
    """Swin-UNet (Cao et al. 2021) from image to mask logits, for any image size.

    4×4 patches, stages of two Swin blocks with halvings between them, and the mirror image of that: each level up
    takes a pixel's channels apart into 2×2 pixels, joins the encoder's map of that size and attends again.

    Args:
        input_shape: (height, width, channels).
        classes: channels of the mask: 1 for lesion against background, else one per class.
        width: the map of stride 4 has 6 times as many channels (96 by default, as Swin-T), doubled at every level
            down.
        depth: stages of the plain encoder, of stride 4, 8, … and at least 2; 4 is the paper's.
        norm: has no effect, every block has layer normalisation; here so that all segmenters take the same options.
        dropout: largest rate of the decoder's branches left out in training (stochastic depth), in [0, 1).
        encoder: a backbone in place of the plain stages, ``"swin_t"`` for pretrained ones; see `build_encoder`.
        encoder_weights: see `build_backbone`.
        greyscale: the network sees the image's luma only.
        window: side of the attention's windows, in pixels of the map, at least 2.

    Returns:
        A functional model named ``segmenter``, image → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: an argument out of range.
    """
    if depth < 2 or width < 1 or window < 2 or not 0.0 <= dropout < 1.0:
        raise ConfigError(
            "swin_unet expects depth ≥ 2, width ≥ 1, window ≥ 2, dropout in [0, 1); received "
            f"depth={depth}, width={width}, window={window}, dropout={dropout}"
        )
    if encoder is None:
        found = _plain_encoder(input_shape, width, depth, window, encoder_weights, greyscale)
    else:
        found = build_encoder(input_shape, encoder, encoder_weights, greyscale=greyscale)
    strides = [stride for stride in found.maps if stride >= PATCH][::-1]
    outputs = found.maps[strides[0]]
    rates = iter(np.linspace(dropout, 0.0, 2 * len(strides) - 2))
    for stride in strides[1:]:
        channels, skip = 6 * width * stride // PATCH, found.maps[stride]
        outputs = crop_to(_expanded(outputs, 2, channels, f"up{stride}"), skip.shape[1:3], f"up{stride}_crop")
        outputs = layers.Concatenate(name=f"up{stride}_skip")([outputs, skip])
        outputs = layers.Dense(channels, name=f"up{stride}_join")(outputs)
        for number in (1, 2):
            shift = window // 2 if number == 2 else 0
            heads, rate = _heads(channels), float(next(rates))
            outputs = swin_block(outputs, heads, window, shift, rate, f"up{stride}_block{number}")
    outputs = _expanded(outputs, strides[-1], outputs.shape[-1], "up1")
    outputs = crop_to(outputs, input_shape[:2], "up1_crop")
    return keras.Model(found.image, mask_logits(outputs, classes), name="segmenter")


def _heads(channels):
    """Heads of about 32 channels, as many as divide them."""
    return next(heads for heads in range(max(1, channels // HEAD_WIDTH), 0, -1) if channels % heads == 0)


def _plain_encoder(input_shape, width, depth, window, weights, greyscale):
    if weights is not None:
        raise ConfigError(f"weights {weights} need an encoder that they belong to; the plain path has none")
    multiple = PATCH * 2 ** (depth - 1)
    if input_shape[-1] not in (1, 3) or min(input_shape[:2]) < multiple:
        raise ConfigError(
            f"swin_unet of depth {depth} needs images of at least {multiple} pixels and 1 or 3 channels, received "
            f"{tuple(input_shape)}"
        )
    padded = [-(-side // multiple) * multiple for side in input_shape[:2]]
    channels = [6 * width * 2**stage for stage in range(depth)]
    network = swin((*padded, 3), channels[0], (2,) * depth, [_heads(count) for count in channels], window)
    names = {PATCH * 2**stage: f"stage{stage + 1}" for stage in range(depth)}
    # The last stage with the normalisation behind it.
    return encoder_of(network, names | {multiple: "norm"}, input_shape, greyscale)


def _expanded(inputs, factor, channels, name):
    """Every pixel becomes factor × factor pixels: (B, h, w, K) → (B, f·h, f·w, channels)."""
    rows, columns = inputs.shape[1:3]
    outputs = layers.Dense(factor * factor * channels, use_bias=False, name=f"{name}_expand")(inputs)
    outputs = layers.Reshape((rows, columns, factor, factor, channels), name=f"{name}_apart")(outputs)
    outputs = layers.Permute((1, 3, 2, 4, 5), name=f"{name}_order")(outputs)
    outputs = layers.Reshape((factor * rows, factor * columns, channels), name=f"{name}_pixels")(outputs)
    return layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm")(outputs)
