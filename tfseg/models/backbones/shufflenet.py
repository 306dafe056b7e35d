"""ShuffleNetV2 (Ma et al. 2018): no library that we keep has it."""

from __future__ import annotations

import keras
from keras import layers, ops

from tfseg.models.backbones.blocks import MOMENTUM, standardised

REPEATS = (4, 8, 4)


def shufflenet_v2(input_shape, keras_weights=None):
    """ShuffleNetV2 of width 1.0 without its top."""
    return shufflenet(input_shape, (116, 232, 464))


def shufflenet_v2_x0_5(input_shape, keras_weights=None):
    """ShuffleNetV2 of width 0.5 without its top."""
    return shufflenet(input_shape, (48, 96, 192))


def shufflenet(input_shape, widths, repeats=REPEATS, last=1024):
    """Image → maps (B, h, w, last), stride 32 (Table 5).

    Layers are named after the entries of torchvision's state dictionary, with an underscore for its dot.

    Args:
        input_shape: (height, width, 3).
        widths: channels of the three stages, even numbers.
        repeats: units of each stage.
        last: channels of the last convolution.
    """
    image = keras.Input(input_shape, name="image")
    outputs = _convolution(standardised(image), 24, "conv1_0", "conv1_1", size=3, strides=2)
    outputs = layers.ReLU(name="conv1_relu")(outputs)
    # Rectified above, so zeros at the edge change no maximum.
    outputs = layers.ZeroPadding2D(1, name="maxpool_pad")(outputs)
    outputs = layers.MaxPooling2D(3, 2, name="maxpool")(outputs)
    for stage, (width, units) in enumerate(zip(widths, repeats, strict=True), 2):
        for unit in range(units):
            outputs = _unit(outputs, width, f"stage{stage}_{unit}", halve=unit == 0)
    outputs = _convolution(outputs, last, "conv5_0", "conv5_1")
    return keras.Model(image, layers.ReLU(name="conv5_relu")(outputs), name="features")


def _unit(inputs, width, name, halve):
    """One half of the channels passes through three convolutions, then both are shuffled (Figure 3 c and d)."""
    half = width // 2
    if halve:
        passed, worked = inputs, inputs
        passed = _depthwise(passed, f"{name}_branch1_0", f"{name}_branch1_1", strides=2)
        passed = _convolution(passed, half, f"{name}_branch1_2", f"{name}_branch1_3")
        passed = layers.ReLU(name=f"{name}_branch1_relu")(passed)
    else:
        passed, worked = ops.split(inputs, 2, axis=-1)
    worked = _convolution(worked, half, f"{name}_branch2_0", f"{name}_branch2_1")
    worked = layers.ReLU(name=f"{name}_branch2_relu1")(worked)
    worked = _depthwise(worked, f"{name}_branch2_3", f"{name}_branch2_4", strides=2 if halve else 1)
    worked = _convolution(worked, half, f"{name}_branch2_5", f"{name}_branch2_6")
    worked = layers.ReLU(name=f"{name}_branch2_relu2")(worked)
    outputs = layers.Concatenate(name=f"{name}_concat")([passed, worked])
    rows, columns = outputs.shape[1:3]
    outputs = layers.Reshape((rows, columns, 2, half), name=f"{name}_groups")(outputs)
    outputs = layers.Permute((1, 2, 4, 3), name=f"{name}_mix")(outputs)
    return layers.Reshape((rows, columns, width), name=name)(outputs)


def _convolution(inputs, filters, name, norm, size=1, strides=1):
    """Convolution and batch norm; padded alike on all sides, as PyTorch does."""
    if size > 1:
        inputs = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(inputs)
    outputs = layers.Conv2D(filters, size, strides, use_bias=False, name=name)(inputs)
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=1e-5, name=norm)(outputs)


def _depthwise(inputs, name, norm, strides):
    padded = layers.ZeroPadding2D(1, name=f"{name}_pad")(inputs)
    outputs = layers.DepthwiseConv2D(3, strides, use_bias=False, name=name)(padded)
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=1e-5, name=norm)(outputs)
