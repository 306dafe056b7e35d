"""Double U-Net: a second U-Net on what the first one lets through."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.errors import ConfigError
from tfseg.models.atrous import atrous_pyramid
from tfseg.models.backbones import convolution_block
from tfseg.models.encoders import build_encoder, crop_to, mask_logits
from tfseg.models.library import ChannelSlice

REDUCTION = 8


def double_unet(
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
    """Double U-Net (Jha et al. 2020) from image to mask logits, for any image size.

    The first U-Net's probabilities multiply the image, a channel each class (of several, the background is left out);
    the second U-Net, of plain encoders, reads that and joins the first encoder's maps too. Both bottoms are atrous
    spatial pyramids and every block weighs its channels (squeeze and excitation), as in the paper. The paper compares
    both masks with the truth; here a 1×1 convolution over both decoders' ends makes one mask, so that any loss
    reaches both.

    Args:
        input_shape: (height, width, channels).
        classes: channels of the mask: 1 for lesion against background, else one per class, background first.
        width: filters of the first level, doubled at every level down.
        depth: halvings of the plain encoders.
        norm: ``"batch"`` or None.
        dropout: rate after every convolution of the decoders, in [0, 1).
        encoder, encoder_weights, greyscale: the first encoder, see `build_encoder`; the paper's is VGG19.

    Returns:
        A functional model named ``segmenter``, image → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: an argument out of range.
    """
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"double_unet expects dropout in [0, 1), received {dropout}")
    found = build_encoder(input_shape, encoder, encoder_weights, width, depth, norm, greyscale)
    first = {**found.maps}
    if 1 not in first:
        first[1] = convolution_block(found.scaled, width, "first_full", norm=norm)
    rates = (1, 2, 4)
    bottom = atrous_pyramid(found.maps[found.deepest], 4 * width, rates, norm, "first_pyramid", dropout)
    outputs = _decode(bottom, found.deepest, [first], width, norm, dropout, "first")
    kind = "sigmoid" if classes == 1 else "softmax"
    mask = mask_logits(outputs, classes, "first_logits")
    mask = layers.Activation(kind, dtype="float32", name="first_mask")(mask)
    shown = [_visible(found.scaled, mask, channel) for channel in range(min(classes - 1, 1), classes)]
    seen = layers.Concatenate(name="shown")(shown) if len(shown) > 1 else shown[0]
    second = _plain_maps(seen, found.deepest, width, norm)
    bottom = atrous_pyramid(second[found.deepest], 4 * width, rates, norm, "second_pyramid", dropout)
    refined = _decode(bottom, found.deepest, [first, second], width, norm, dropout, "second")
    both = layers.Concatenate(name="both")([outputs, refined])
    return keras.Model(found.image, mask_logits(both, classes), name="segmenter")


def _visible(scaled, mask, channel):
    """The image times one class's probability; grey, which is 0 after scaling, where it isn't."""
    chosen = mask
    if mask.shape[-1] > 1:
        chosen = ChannelSlice(channel, channel + 1, dtype="float32", name=f"first_mask{channel}")(mask)
    return layers.Multiply(name=f"visible{channel}")([scaled, chosen])


def _plain_maps(inputs, deepest, width, norm):
    maps, outputs = {}, inputs
    for level in range(deepest.bit_length()):
        if level:
            outputs = layers.MaxPooling2D(2, padding="same", name=f"second{level}_pool")(outputs)
        outputs = _block(outputs, width * 2**level, norm, 0.0, f"second{level}")
        maps[2**level] = outputs
    return maps


def _decode(outputs, deepest, sources, width, norm, dropout, name):
    """Double the size level by level, joining every source's map where it has one of that stride."""
    stride = deepest
    while stride > 1:
        stride //= 2
        skips = [source[stride] for source in sources if stride in source]
        outputs = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_double{stride}")(outputs)
        sides = [-(-side // stride) for side in sources[0][1].shape[1:3]]
        outputs = crop_to(outputs, sides, f"{name}_crop{stride}")
        outputs = layers.Concatenate(name=f"{name}_skip{stride}")([outputs, *skips]) if skips else outputs
        outputs = _block(outputs, width * stride, norm, dropout, f"{name}_up{stride}")
    return outputs


def _block(inputs, filters, norm, dropout, name):
    """Two convolutions, then each channel weighed by what the whole map says (Hu et al. 2018)."""
    outputs = convolution_block(inputs, filters, f"{name}_a", norm=norm, dropout=dropout)
    outputs = convolution_block(outputs, filters, f"{name}_b", norm=norm, dropout=dropout)
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(outputs)
    weights = layers.Dense(max(1, filters // REDUCTION), activation="relu", name=f"{name}_excite1")(weights)
    weights = layers.Dense(filters, activation="sigmoid", name=f"{name}_excite2")(weights)
    return layers.Multiply(name=name)([outputs, weights])
