"""One U-Net builder; what papers vary is an argument of it."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.errors import ConfigError
from tfseg.models.backbones import MOMENTUM, convolution_block
from tfseg.models.encoders import build_encoder, crop_to, mask_logits
from tfseg.models.transformer import transform_maps


def unet(
    input_shape: tuple[int, int, int],
    classes: int = 1,
    width: int = 16,
    depth: int = 4,
    norm: str | None = "batch",
    dropout: float = 0.0,
    encoder: str | None = None,
    encoder_weights: str | None = None,
    greyscale: bool = False,
    upsampling: str = "bilinear",
    skip_connections: bool = True,
    skip_smoothing: bool = False,
    attention_gates: bool = False,
    transformer_blocks: int = 0,
) -> keras.Model:
    """U-Net (Ronneberger et al. 2015) from image to mask logits, for any image size.

    Args:
        input_shape: (height, width, channels); need not be a multiple of the stride. One channel for grey images.
        classes: channels of the mask: 1 for lesion against background, else one per class.
        width: filters of the first level, doubled at every level down.
        depth: number of halvings of the plain path.
        norm: ``"batch"`` or None.
        dropout: rate after every convolution of the decoder, in [0, 1).
        encoder: a backbone's name in place of the plain contracting path; levels that it has not are convolutions of
            our own. With a transformer (``"swin_t"``, ``"vit_tiny16"``) the network is a hybrid of both kinds.
        encoder_weights: see `build_backbone`.
        greyscale: the network sees the image's luma only (EBHI-Seg report).
        upsampling: ``"bilinear"``, or ``"transposed"`` for 2×2 transposed convolutions as in the original.
        skip_connections: join each level of the encoder to the decoder; without, nothing but the deepest map
            reaches it (EBHI-Seg report, "no skip connections").
        skip_smoothing: a 5×5 average pool of stride 1 on every skip connection (EBHI-Seg report).
        attention_gates: let the decoder weigh each skip connection's pixels (Attention U-Net, Oktay et al. 2018).
        transformer_blocks: self-attention blocks over the deepest map (TransUNet, Chen et al. 2021).

    Returns:
        A functional model named ``segmenter``, image (B, H, W, 3) in [0, 1] → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: for an argument out of range, or an image smaller than the network's stride.
    """
    if not 0.0 <= dropout < 1.0 or upsampling not in ("bilinear", "transposed") or transformer_blocks < 0:
        raise ConfigError(
            "unet expects dropout in [0, 1), upsampling 'bilinear' or 'transposed', transformer_blocks ≥ 0; received "
            f"dropout={dropout}, upsampling={upsampling!r}, transformer_blocks={transformer_blocks}"
        )
    if not skip_connections and (skip_smoothing or attention_gates):
        raise ConfigError("`skip_smoothing` and `attention_gates` need `skip_connections`")
    found = build_encoder(input_shape, encoder, encoder_weights, width, depth, norm, greyscale)
    skips = list(found.maps.values()) if encoder is None else _every_level(found, width, norm)
    outputs = skips.pop()
    if transformer_blocks:
        outputs = transform_maps(outputs, transformer_blocks, "bottleneck")
    for level, skip in reversed(list(enumerate(skips))):
        filters = width * 2**level
        outputs = _doubled(outputs, filters, upsampling, f"up{level}")
        outputs = crop_to(outputs, skip.shape[1:3], f"up{level}_crop")
        if skip_connections:
            if skip_smoothing:
                skip = layers.AveragePooling2D(5, 1, padding="same", name=f"up{level}_smooth")(skip)
            if attention_gates:
                skip = _gated(skip, outputs, filters, norm, f"up{level}_gate")
            outputs = layers.Concatenate(name=f"up{level}_skip")([outputs, skip])
        outputs = convolution_block(outputs, filters, f"up{level}_a", norm=norm, dropout=dropout)
        outputs = convolution_block(outputs, filters, f"up{level}_b", norm=norm, dropout=dropout)
    return keras.Model(found.image, mask_logits(outputs, classes), name="segmenter")


def _every_level(found, width, norm):
    """A backbone's maps as skips, with levels of our own at full resolution and where it has none."""
    # Inner maps of a classifier can be several times as wide as a U-Net of this width expects.
    skips = {
        stride: layers.Conv2D(width * stride, 1, name=f"skip{stride.bit_length() - 1}")(maps)
        for stride, maps in found.maps.items()
    }
    every = [convolution_block(found.scaled, width, "full_a", norm=norm)]
    for level in range(1, found.deepest.bit_length()):
        own = skips.get(2**level)
        if own is None:
            own = convolution_block(every[-1], width * 2**level, f"own{level}", strides=2, norm=norm)
        every.append(own)
    return every


def _doubled(inputs, filters, upsampling, name):
    if upsampling == "transposed":
        return layers.Conv2DTranspose(filters, 2, 2, name=name)(inputs)
    # Channels are brought down before the upsampling, where it costs a quarter.
    inputs = layers.Conv2D(filters, 1, name=f"{name}_reduce")(inputs)
    return layers.UpSampling2D(2, interpolation="bilinear", name=name)(inputs)


def _gated(skip, gate, filters, norm, name):
    """Additive attention: `sigmoid(w · ReLU(W_s skip + W_g gate))` times the skip, for every pixel."""
    inner = max(1, filters // 2)

    def projected(inputs, part, channels):
        outputs = layers.Conv2D(channels, 1, use_bias=norm is None, name=f"{name}_{part}")(inputs)
        return layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_{part}_norm")(outputs) if norm else outputs

    both = layers.Add(name=f"{name}_add")([projected(skip, "skip", inner), projected(gate, "signal", inner)])
    weight = layers.ReLU(name=f"{name}_relu")(both)
    weight = layers.Activation("sigmoid", name=f"{name}_weight")(projected(weight, "attend", 1))
    return layers.Multiply(name=name)([skip, weight])
