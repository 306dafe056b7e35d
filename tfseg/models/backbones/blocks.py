"""What several backbones are made of."""

from __future__ import annotations

import keras
from keras import layers, ops

# Of batch norm. With Keras's 0.99 the moving statistics of a training of a few hundred steps are still far from the
# data's, and the network scores chance in inference mode.
MOMENTUM = 0.9

# Of the images that ImageNet networks were trained on, RGB in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def convolution_block(inputs, filters, name, strides=1, norm="batch", dropout=0.0):
    """Convolution → normalisation → ReLU → dropout; 3×3, or 4×4 where it halves.

    A 3×3 convolution of stride 2 looks half a pixel to the right and below of where its output lies, and a saliency
    map adds those shifts up over the stages; 4×4 is centred.
    """
    size = 3 if strides == 1 else 4
    outputs = layers.Conv2D(filters, size, strides, padding="same", use_bias=norm is None, name=f"{name}_conv")(inputs)
    if norm == "batch":
        outputs = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(outputs)
    outputs = layers.ReLU(name=f"{name}_relu")(outputs)
    return layers.Dropout(dropout, name=f"{name}_dropout")(outputs) if dropout else outputs


def symmetric(inputs):
    """RGB in [0, 1] → [−1, 1]."""
    return layers.Rescaling(2.0, -1.0, name="normalise")(inputs)


def standardised(inputs):
    """RGB in [0, 1] → (x − mean) / standard deviation of ImageNet, as networks trained in PyTorch expect."""
    scale = [1.0 / std for std in IMAGENET_STD]
    offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return layers.Rescaling(scale, offset, name="normalise")(inputs)


def mean_free(inputs, bgr_mean):
    """RGB in [0, 1] → BGR in [0, 255] minus its mean, as networks trained in Caffe expect.

    Args:
        inputs: symbolic images (B, H, W, 3).
        bgr_mean: three numbers in [0, 255], blue first.
    """
    scaled = layers.Rescaling(255.0, [-value for value in reversed(bgr_mean)], name="normalise")(inputs)
    return ReverseChannels(name="bgr")(scaled)


@keras.saving.register_keras_serializable(package="tfseg")
class ReverseChannels(layers.Layer):
    """RGB ↔ BGR: (B, H, W, C) with the channels in reverse order."""

    def call(self, inputs):
        # Split and join run on every phone; a slice with step −1 does not.
        return ops.concatenate(list(reversed(ops.split(inputs, inputs.shape[-1], axis=-1))), axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape
