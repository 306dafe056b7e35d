"""Feature pyramid networks: on our encoders, or those of segmentation-models."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.errors import ConfigError
from tfseg.models.backbones import convolution_block
from tfseg.models.encoders import build_encoder, mask_logits, upsample_to
from tfseg.models.library import LIBRARY, library_network


def fpn(
    input_shape: tuple[int, int, int],
    classes: int = 1,
    width: int = 16,
    depth: int = 4,
    norm: str | None = "batch",
    dropout: float = 0.0,
    encoder: str | None = None,
    encoder_weights: str | None = None,
    greyscale: bool = False,
) -> keras.Model:
    """Feature pyramid network (Kirillov et al. 2019) from image to mask logits, for any image size.

    Args:
        input_shape: (height, width, channels).
        classes: channels of the mask: 1 for lesion against background, else one per class.
        width: filters of the plain encoder's first level; the pyramid's maps have 16 times, the decoder's 8 times as
            many (256 and 128 by default, the paper's and the library's numbers).
        depth: halvings of the plain encoder.
        norm: ``"batch"`` or None; of segmentation-models' networks always ``"batch"``.
        dropout: rate before the logits, in [0, 1).
        encoder: see `build_encoder`; or ``"sm:NAME"`` for segmentation-models' whole network on its encoder, such as
            ``"sm:seresnext50"``, the melanoma paper's.
        encoder_weights: see `build_backbone`; with ``"sm:NAME"`` ``"imagenet"`` or None.
        greyscale: the network sees the image's luma only; not with ``"sm:NAME"``.

    Returns:
        A functional model named ``segmenter``, image → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: an argument out of range or an unknown encoder.
        WeightsError: the library's weights can't be had.
    """
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"fpn expects dropout in [0, 1), received {dropout}")
    if encoder is not None and encoder.startswith(LIBRARY):
        if greyscale or input_shape[-1] != 3:
            raise ConfigError(f"the encoder {encoder} takes colour images only")
        return library_network(
            "FPN",
            encoder.removeprefix(LIBRARY),
            input_shape,
            classes,
            encoder_weights,
            pyramid_block_filters=16 * width,
            pyramid_dropout=dropout or None,
        )
    found = build_encoder(input_shape, encoder, encoder_weights, width, depth, norm, greyscale)
    strides = [stride for stride in found.maps if stride >= 4] or [found.deepest]
    outputs, parts = None, []
    for stride in reversed(strides):
        lateral = layers.Conv2D(16 * width, 1, name=f"lateral{stride}")(found.maps[stride])
        if outputs is not None:
            larger = upsample_to(outputs, 2, lateral.shape[1:3], f"down{stride}", "nearest")
            lateral = layers.Add(name=f"pyramid{stride}")([lateral, larger])
        outputs = lateral
        part = convolution_block(outputs, 8 * width, f"fpn{stride}_a", norm=norm)
        part = convolution_block(part, 8 * width, f"fpn{stride}_b", norm=norm)
        finest = found.maps[strides[0]].shape[1:3]
        parts.append(upsample_to(part, stride // strides[0], finest, f"up{stride}"))
    joined = layers.Concatenate(name="join")(parts) if len(parts) > 1 else parts[0]
    joined = convolution_block(joined, 8 * width, "decoder", norm=norm, dropout=dropout)
    scores = mask_logits(joined, classes, "scores")
    scores = upsample_to(scores, strides[0], input_shape[:2], "up_scores", dtype="float32")
    return keras.Model(found.image, layers.Identity(dtype="float32", name="logits")(scores), name="segmenter")
