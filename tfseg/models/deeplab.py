"""DeepLabV3+: an atrous spatial pyramid on a deep map, joined with an early one."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfseg.errors import ConfigError
from tfseg.models.atrous import atrous_pyramid, pointwise_block, square_block
from tfseg.models.encoders import KeptStrideError, build_encoder, mask_logits, upsample_to


def deeplab(
    input_shape: tuple[int, int, int],
    classes: int = 1,
    width: int = 16,
    depth: int = 4,
    norm: str | None = "batch",
    dropout: float = 0.0,
    encoder: str | None = None,
    encoder_weights: str | None = None,
    greyscale: bool = False,
    output_stride: int | None = None,
    rates: Sequence[int] = (6, 12, 18),
    separable: bool = True,
) -> keras.Model:
    """DeepLabV3+ (Chen et al. 2018) from image to mask logits, for any image size.

    Args:
        input_shape: (height, width, channels).
        classes: channels of the mask: 1 for lesion against background, else one per class.
        width: filters of the plain encoder's first level; pyramid and decoder have 16 times as many (256 by default,
            the paper's number), the early map is brought to 3 times as many.
        depth: halvings of the plain encoder.
        norm: ``"batch"`` or None.
        dropout: rate behind the pyramid and the decoder's convolutions, in [0, 1).
        encoder, encoder_weights, greyscale: see `build_encoder`.
        output_stride: of the map that the pyramid is put on. 16 undoes a backbone's last halving and dilates what
            comes after it; 32 leaves the backbone as it is. None is 16 where that is possible (not in ShuffleNet,
            ConvNeXt and Swin). An encoder that does not go so deep ends where it does.
        rates: dilations of the pyramid, at output stride 16; twice as dense a map would want twice the numbers.
        separable: the 3×3 convolutions of pyramid and decoder are separable in depth, as section 3.1 of the paper has
            them: a seventh of the work on MobileNetV2.

    Returns:
        A functional model named ``segmenter``, image → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: an argument out of range, or a backbone whose last halving can't be undone.
    """
    if not 0.0 <= dropout < 1.0 or output_stride not in (None, 16, 32) or not rates or min(rates) < 1:
        raise ConfigError(
            "deeplab expects dropout in [0, 1), output_stride 16, 32 or None, rates from 1 on; received "
            f"dropout={dropout}, output_stride={output_stride}, rates={tuple(rates)}"
        )
    arguments = (input_shape, encoder, encoder_weights, width, depth, norm, greyscale)
    try:
        found = build_encoder(*arguments, keep_from=output_stride or 16)
    except KeptStrideError:
        if output_stride is not None:
            raise
        found = build_encoder(*arguments)
    deepest, early = found.deepest, 4 if 4 in found.maps else min(found.maps)
    pyramid = atrous_pyramid(found.maps[deepest], 16 * width, tuple(rates), norm, "pyramid", dropout, separable)
    low = found.maps[early]
    outputs = upsample_to(pyramid, deepest // early, low.shape[1:3], "up_pyramid")
    low = pointwise_block(low, 3 * width, "early", norm)
    outputs = layers.Concatenate(name="join")([outputs, low])
    for block in ("decoder_a", "decoder_b"):
        outputs = square_block(outputs, 16 * width, block, norm, dropout, separable=separable)
    scores = upsample_to(mask_logits(outputs, classes, "scores"), early, input_shape[:2], "up_scores", dtype="float32")
    return keras.Model(found.image, layers.Identity(dtype="float32", name="logits")(scores), name="segmenter")
