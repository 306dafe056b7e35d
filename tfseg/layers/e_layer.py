"""The E-Layer: feature maps that know where another network looked."""

from __future__ import annotations

import keras
from keras import layers, ops

from tfseg.layers.taped import Rectifier


@keras.saving.register_keras_serializable(package="tfseg")
class ELayer(layers.Layer):
    """Feature maps joined with maps of the same scene, and brought back to their own number of channels.

    concat(feature maps, maps resized to their grid) → 1×1 convolution → batch norm → ReLU. Source: the SE-LCN thesis,
    its E-Layer, with one Grad-CAM++ map of the symmetry network; any number of maps can be given, with any number of
    channels.

    Args:
        momentum: of the batch norm's moving averages. Keras's own 0.99 leaves them far from the statistics of a
            training of some hundred steps.

    Call:
        inputs: a list: the feature maps (B, h, w, K), and at least one map (B, any height, any width, channels).
        training: batch norm by the batch's own statistics.

    Returns:
        (B, h, w, K), not negative.

    Raises:
        ValueError: no map, or inputs that are no images.

    Example:

    >>> ELayer()([keras.ops.ones((2, 7, 7, 16)), keras.ops.ones((2, 224, 224, 1))]).shape
    TensorShape([2, 7, 7, 16])
    """

    def __init__(self, momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum

    def build(self, input_shape):
        shapes = input_shape if isinstance(input_shape[0], list | tuple) else [input_shape]
        if len(shapes) < 2 or any(len(shape) != 4 for shape in shapes):
            raise ValueError(
                "`inputs` must be feature maps (B, h, w, K) and at least one map (B, H, W, channels). Received: "
                f"{[tuple(shape) for shape in shapes]}"
            )
        features = shapes[0]
        joined = sum(shape[-1] for shape in shapes)
        dtype = self.dtype_policy
        # The batch norm has a bias of its own.
        self.convolution = layers.Conv2D(features[-1], 1, use_bias=False, dtype=dtype, name="convolution")
        self.normalization = layers.BatchNormalization(momentum=self.momentum, dtype=dtype, name="normalization")
        self.rectifier = Rectifier(dtype=dtype, name="relu")
        self.convolution.build((*features[:-1], joined))
        self.normalization.build(tuple(features))

    def call(self, inputs, training=False):
        features, *maps = inputs
        grid = features.shape[1:3]
        maps = [
            values if values.shape[1:3] == grid else ops.image.resize(values, grid, interpolation="bilinear")
            for values in maps
        ]
        joined = ops.concatenate([features, *(ops.cast(values, features.dtype) for values in maps)], axis=-1)
        return self.rectifier(self.normalization(self.convolution(joined), training=training))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}
