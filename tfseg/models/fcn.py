"""Fully convolutional networks: a classifier's scores per pixel, refined by earlier maps."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.errors import ConfigError
from tfseg.models.backbones import convolution_block
from tfseg.models.encoders import build_encoder, mask_logits, upsample_to


def fcn(
    input_shape: tuple[int, int, int],
    classes: int = 1,
    stride: int = 8,
    width: int = 16,
    depth: int = 5,
    norm: str | None = "batch",
    dropout: float = 0.0,
    encoder: str | None = None,
    encoder_weights: str | None = None,
    greyscale: bool = False,
) -> keras.Model:
    """FCN-8s, -16s or -32s (Long et al. 2015) on any encoder, from image to mask logits, for any image size.

    The deepest map gets a 3×3 convolution and scores; these are doubled in size and added to the scores of the next
    finer map, down to `stride`, and then enlarged to the image at once. The original's 4096-channel layers belong to
    VGG and are left out; enlarging is bilinear, as the original starts with and keeps at the end.

    Args:
        input_shape: (height, width, channels).
        classes: channels of the mask: 1 for lesion against background, else one per class.
        stride: of the finest map that is scored: 8, 16 or 32.
        width: filters of the plain encoder's first level; the deepest map's convolution has 16 times as many.
        depth: halvings of the plain encoder.
        norm: ``"batch"`` or None.
        dropout: rate before the deepest scores, in [0, 1).
        encoder, encoder_weights, greyscale: see `build_encoder`.

    Returns:
        A functional model named ``segmenter``, image → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: an argument out of range, or an encoder without a map of this stride.
    """
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"fcn expects dropout in [0, 1), received {dropout}")
    found = build_encoder(input_shape, encoder, encoder_weights, width, depth, norm, greyscale)
    if stride not in (8, 16, 32) or stride not in found.maps:
        raise ConfigError(
            f"fcn scores maps of stride 8, 16 or 32, received stride={stride}; this encoder has maps of stride "
            f"{', '.join(map(str, found.maps))}"
        )
    deep = convolution_block(found.maps[found.deepest], 16 * width, "deep", norm=norm, dropout=dropout)
    scores = mask_logits(deep, classes, f"score{found.deepest}")
    reached = found.deepest
    for finer in sorted((each for each in found.maps if stride <= each < found.deepest), reverse=True):
        maps = found.maps[finer]
        scores = upsample_to(scores, reached // finer, maps.shape[1:3], f"up{finer}", dtype="float32")
        finer_scores = mask_logits(maps, classes, f"score{finer}")
        scores = layers.Add(dtype="float32", name=f"fuse{finer}")([scores, finer_scores])
        reached = finer
    scores = upsample_to(scores, reached, input_shape[:2], "up1", dtype="float32")
    return keras.Model(found.image, layers.Identity(dtype="float32", name="logits")(scores), name="segmenter")
