"""Atrous convolution: looking far without halving."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfseg.models.backbones import MOMENTUM

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)


def keep_last_stride(features: keras.Model, map_layer: str) -> keras.Model:
    """The same network and weights with the halving behind one layer undone, and dilated convolutions after it.

    As DeepLab does to reach an output stride of 16: the strided layers keep every position, and kernels behind them
    reach twice as far, so that each still sees what it was trained to see.

    Args:
        features: a flat functional backbone of which the last stage halves once.
        map_layer: the layer of the last map before that halving.

    Returns:
        A new functional model whose output is as large as the map of `map_layer`.

    Raises:
        ValueError: when the last stage does not halve, or by other than strided convolutions and pools.
    """
    sides = features.get_layer(map_layer).output.shape[1:3]
    strided, dilated = set(), set()
    for layer in features.layers:
        if not isinstance(layer, (*CONVOLUTIONS, layers.MaxPooling2D, layers.AveragePooling2D)):
            continue
        if layer.output.shape[1:3] == sides or layer.output.shape[1] > sides[0] or layer.output.shape[2] > sides[1]:
            continue
        (strided if max(layer.strides) > 1 else dilated).add(layer.name)
    paddings = {
        tensor._keras_history.operation.name
        for layer in features.layers
        if layer.name in strided
        for tensor in keras.tree.flatten(layer.input)
        if isinstance(tensor._keras_history.operation, layers.ZeroPadding2D)
    }
    if not strided:
        raise ValueError(f"no layer of {features.name} halves behind {map_layer}")

    def changed(layer):
        config = layer.get_config()
        if layer.name in paddings:
            config["padding"] = 0
        elif layer.name in strided:
            config |= {"strides": 1, "padding": "same"}
        elif layer.name in dilated and isinstance(layer, CONVOLUTIONS) and max(layer.kernel_size) > 1:
            config["dilation_rate"] = 2
        clone = type(layer).from_config(config)
        if isinstance(layer, keras.Layer):
            clone.trainable = layer.trainable
        return clone

    image = keras.Input(features.input_shape[1:], name="image")
    clone = keras.models.clone_model(features, input_tensors=image, clone_function=changed)
    clone.set_weights(features.get_weights())
    for layer in clone.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # It computes with what its weights were when it was built.
    if clone.output.shape[1:3] != sides:
        raise ValueError(f"{features.name} is {clone.output.shape[1:3]} behind {map_layer} of {sides}, not the same")
    return keras.Model(image, clone.output, name=features.name)


def atrous_pyramid(
    maps, filters: int, rates: Sequence[int], norm: str | None, name: str, dropout: float = 0.0, separable: bool = False
):
    """Atrous spatial pyramid pooling (Chen et al. 2017): one 1×1, several dilated 3×3 convolutions, and the mean.

    Args:
        maps: symbolic (B, h, w, K).
        filters: of every branch and of the 1×1 convolution that joins them.
        rates: dilations of the 3×3 convolutions.
        norm: ``"batch"`` or None.
        name: what the layers' names begin with.
        dropout: rate behind the join, in [0, 1).
        separable: whether the 3×3 convolutions are separable in depth (Chen et al. 2018, section 3.1).

    Returns:
        Symbolic (B, h, w, filters).
    """
    branches = [pointwise_block(maps, filters, f"{name}_point", norm)]
    for rate in rates:
        branches.append(square_block(maps, filters, f"{name}_rate{rate}", norm, rate=rate, separable=separable))
    mean = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(maps)
    # Without normalisation: over one pixel an image, the statistics of a small batch say nothing.
    mean = pointwise_block(mean, filters, f"{name}_mean", None)
    branches.append(layers.UpSampling2D(maps.shape[1:3], interpolation="nearest", name=f"{name}_mean_up")(mean))
    joined = layers.Concatenate(name=f"{name}_concat")(branches)
    return pointwise_block(joined, filters, f"{name}_join", norm, dropout)


def pointwise_block(inputs, filters, name, norm="batch", dropout=0.0):
    """1×1 convolution → normalisation → ReLU → dropout."""
    outputs = layers.Conv2D(filters, 1, use_bias=norm is None, name=f"{name}_conv")(inputs)
    return _activated(outputs, norm, name, dropout)


def square_block(inputs, filters, name, norm="batch", dropout=0.0, rate=1, separable=False):
    """3×3 convolution, dilated by `rate` and separable in depth where asked → normalisation → ReLU → dropout."""
    convolution = layers.SeparableConv2D if separable else layers.Conv2D
    outputs = convolution(filters, 3, padding="same", dilation_rate=rate, use_bias=norm is None, name=f"{name}_conv")(
        inputs
    )
    return _activated(outputs, norm, name, dropout)


def _activated(inputs, norm, name, dropout=0.0):
    if norm == "batch":
        inputs = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(inputs)
    outputs = layers.ReLU(name=f"{name}_relu")(inputs)
    return layers.Dropout(dropout, name=f"{name}_dropout")(outputs) if dropout else outputs
