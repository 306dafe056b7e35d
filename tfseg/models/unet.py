"""One U-Net builder; what papers vary is an argument of it."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.errors import ConfigError
from tfseg.models.backbones import BACKBONES, build_backbone, convolution_block


def unet(
    input_shape: tuple[int, int, int],
    classes: int = 1,
    width: int = 16,
    depth: int = 4,
    norm: str | None = "batch",
    dropout: float = 0.0,
    encoder: str | None = None,
    encoder_weights: str | None = None,
) -> keras.Model:
    """U-Net (Ronneberger et al. 2015) from image to mask logits, for any image size.

    Args:
        input_shape: (height, width, channels); need not be a multiple of the stride.
        classes: channels of the mask: 1 for lesion against background, else one per class.
        width: filters of the first level, doubled at every level down.
        depth: number of halvings.
        norm: ``"batch"`` or None.
        dropout: rate after every convolution of the decoder, in [0, 1).
        encoder: a backbone's name in place of the plain contracting path.
        encoder_weights: see `build_backbone`.

    Returns:
        A functional model named ``segmenter``, image (B, H, W, 3) in [0, 1] → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: for an argument out of range, or an image smaller than the network's stride.
    """
    if classes < 1 or width < 1 or not 0.0 <= dropout < 1.0 or norm not in ("batch", None):
        raise ConfigError(
            "unet expects classes ≥ 1, width ≥ 1, dropout in [0, 1), norm 'batch' or None; received "
            f"classes={classes}, width={width}, dropout={dropout}, norm={norm!r}"
        )
    if encoder is None:
        if depth < 1 or min(input_shape[:2]) < 2**depth:
            raise ConfigError(
                f"unet of depth {depth} needs images of at least {2**depth} pixels, received {input_shape[:2]}"
            )
        image, skips = _plain_encoder(input_shape, width, depth, norm)
    else:
        image, skips = _backbone_encoder(input_shape, encoder, encoder_weights, width, norm)
    outputs = skips.pop()
    for level, skip in reversed(list(enumerate(skips))):
        filters = width * 2**level
        # Channels are brought down before the upsampling, where it costs a quarter.
        outputs = layers.Conv2D(filters, 1, name=f"up{level}_reduce")(outputs)
        outputs = layers.UpSampling2D(2, interpolation="bilinear", name=f"up{level}")(outputs)
        outputs = _crop_to(outputs, skip, f"up{level}_crop")
        outputs = layers.Concatenate(name=f"up{level}_skip")([outputs, skip])
        outputs = convolution_block(outputs, filters, f"up{level}_a", norm=norm, dropout=dropout)
        outputs = convolution_block(outputs, filters, f"up{level}_b", norm=norm, dropout=dropout)
    logits = layers.Conv2D(classes, 1, dtype="float32", name="logits")(outputs)
    return keras.Model(image, logits, name="segmenter")


def _plain_encoder(input_shape, width, depth, norm):
    image = keras.Input(input_shape, name="image")
    outputs, skips = layers.Rescaling(2.0, -1.0, name="normalise")(image), []
    for level in range(depth + 1):
        if level:
            outputs = layers.MaxPooling2D(2, padding="same", name=f"down{level}_pool")(outputs)
        outputs = convolution_block(outputs, width * 2**level, f"down{level}_a", norm=norm)
        outputs = convolution_block(outputs, width * 2**level, f"down{level}_b", norm=norm)
        skips.append(outputs)
    return image, skips


def _backbone_encoder(input_shape, encoder, weights, width, norm):
    """A backbone's levels as skips, with one level of our own at full resolution."""
    backbone = build_backbone(encoder, input_shape, weights)
    skips = []
    for level, name in enumerate(BACKBONES[encoder].levels, 1):
        # Inner maps of a classifier can be several times as wide as a U-Net of this width expects.
        skips.append(layers.Conv2D(width * 2**level, 1, name=f"skip{level}")(backbone.get_layer(name).output))
    full = convolution_block(backbone.get_layer("normalise").output, width, "full_a", norm=norm)
    return backbone.input, [full, *skips]


def _crop_to(inputs, reference, name):
    """Cut the rows and columns by which ceil-mode halving and doubling overshoot an odd size."""
    rows = inputs.shape[1] - reference.shape[1]
    columns = inputs.shape[2] - reference.shape[2]
    if rows == 0 and columns == 0:
        return inputs
    return layers.Cropping2D(((0, rows), (0, columns)), name=name)(inputs)


SEGMENTERS = {"unet": unet}


def build_segmenter(name: str, input_shape: tuple[int, int, int], classes: int = 1, **options) -> keras.Model:
    """Build a segmenter by name.

    Args:
        name: a name out of `SEGMENTERS`.
        input_shape, classes, options: see the builder.

    Raises:
        ConfigError: unknown name.
    """
    if name not in SEGMENTERS:
        raise ConfigError(f"there is no segmenter named {name!r}; known: {', '.join(SEGMENTERS)}")
    return SEGMENTERS[name](input_shape, classes, **options)
