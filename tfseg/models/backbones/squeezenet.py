"""SqueezeNet (Iandola et al. 2016): no library that we keep has it."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.models.backbones.blocks import mean_free

BGR_MEAN = (104.0, 117.0, 123.0)


def squeezenet_1_0(input_shape, keras_weights=None):
    """SqueezeNet 1.0 without its top: 7×7 stem, halvings after fire 4 and fire 8."""
    return _squeezenet(input_shape, 96, 7, pools=(4, 8))


def squeezenet_1_1(input_shape, keras_weights=None):
    """SqueezeNet 1.1 without its top: 3×3 stem and earlier halvings, 2.4 times cheaper at the same accuracy."""
    return _squeezenet(input_shape, 64, 3, pools=(3, 5))


def _squeezenet(input_shape, stem, size, pools):
    """Image → the last fire module's maps (B, h, w, 512), stride 16.

    The published weights expect Caffe's input: BGR in [0, 255] minus its mean. Layers are named as in the published
    Caffe definition, with an underscore for its slash.
    """
    image = keras.Input(input_shape, name="image")
    outputs = mean_free(image, BGR_MEAN)
    outputs = layers.Conv2D(stem, size, strides=2, name="conv1")(outputs)
    outputs = _ceil_pool(layers.ReLU(name="relu_conv1")(outputs), "pool1")
    for number in range(2, 10):
        squeezed = 16 * (number // 2)
        outputs = _fire(outputs, squeezed, 4 * squeezed, f"fire{number}")
        if number in pools:
            outputs = _ceil_pool(outputs, f"pool{number}")
    return keras.Model(image, outputs, name="features")


def _fire(inputs, squeezed, expanded, name):
    """1×1 convolution to few channels, then 1×1 and 3×3 side by side (section 3.2)."""

    def convolution(inputs, filters, size, part):
        outputs = layers.Conv2D(filters, size, padding="same", name=f"{name}_{part}")(inputs)
        return layers.ReLU(name=f"{name}_relu_{part}")(outputs)

    squeeze = convolution(inputs, squeezed, 1, "squeeze1x1")
    expand = [convolution(squeeze, expanded, size, f"expand{size}x{size}") for size in (1, 3)]
    return layers.Concatenate(name=f"{name}_concat")(expand)


def _ceil_pool(inputs, name):
    """3×3 maximum of stride 2 whose last window may hang over the edge, as Caffe's does.

    Zeros at the edge change no maximum: everything that is pooled here was rectified.
    """
    rows, columns = ((side - 3) % 2 for side in inputs.shape[1:3])
    if rows or columns:
        inputs = layers.ZeroPadding2D(((0, rows), (0, columns)), name=f"{name}_pad")(inputs)
    return layers.MaxPooling2D(3, 2, name=name)(inputs)
