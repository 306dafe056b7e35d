"""Layers that compute what Keras's do, by operations whose gradients export: what a tape in a model may run over."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers, ops

from tfseg.layers import gradients

PACKAGE = "tfseg"


@keras.saving.register_keras_serializable(package=PACKAGE)
class Rectifier(layers.Layer):
    """ReLU written as a maximum.

    Args:
        max_value: values above it become it, as in ReLU6; None for no limit.
    """

    def __init__(self, max_value=None, **kwargs):
        super().__init__(**kwargs)
        self.max_value = max_value

    def call(self, inputs):
        # The constant comes first: on a tie the gradient goes there, and the slope at 0 is 0 as ReLU's is.
        outputs = tf.maximum(0.0, inputs)
        return outputs if self.max_value is None else tf.minimum(self.max_value, outputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "max_value": self.max_value}


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedGelu(layers.Layer):
    """GELU, not approximated."""

    def call(self, inputs):
        return gradients.gelu(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedAdd(layers.Layer):
    """The sum of tensors of one shape, in a list or one by one."""

    def call(self, inputs, other=None):
        return tf.add_n(inputs if other is None else [inputs, other])

    def compute_output_shape(self, inputs_shape, other_shape=None):
        return inputs_shape[0] if other_shape is None else inputs_shape


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedMultiply(layers.Layer):
    """The product of two tensors of one rank, sides of length 1 stretched."""

    def call(self, inputs):
        return gradients.multiply(*inputs)

    def compute_output_shape(self, input_shape):
        left, right = input_shape
        return (left[0], *(max(pair) for pair in zip(left[1:], right[1:], strict=True)))


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedConcatenate(layers.Layer):
    """Tensors joined along the channels."""

    def call(self, inputs):
        return gradients.concatenate(inputs, -1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:-1], sum(shape[-1] for shape in input_shape))


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedCropping1D(layers.Cropping1D):
    """Tokens without the first and the last."""

    def call(self, inputs):
        first, last = self.cropping
        return gradients.piece(inputs, 1, first, inputs.shape[1] - last)


class _Borrowing(layers.Layer):
    """Computes what another layer does, with that layer's weights.

    Args:
        layer: whose weights are used.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)
        self.built = True

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["layer"] = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**config)

    def _weight(self, name):
        return ops.cast(getattr(self.layer, name), self.compute_dtype)

    def _with_bias(self, outputs):
        return outputs + self._weight("bias") if self.layer.use_bias else outputs


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedDense(_Borrowing):
    """A `Dense` with GELU behind it."""

    def call(self, inputs):
        return gradients.gelu(self._with_bias(ops.matmul(inputs, self._weight("kernel"))))


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedDepthwise(_Borrowing):
    """A `DepthwiseConv2D`, or a `Conv2D` of one group per channel."""

    def call(self, inputs):
        kernel = self._weight("kernel")
        if not isinstance(self.layer, layers.DepthwiseConv2D):
            kernel = ops.transpose(kernel, (0, 1, 3, 2))
        outputs = gradients.depthwise(inputs, kernel, self.layer.strides[0], self.layer.padding.upper())
        return self._with_bias(outputs)


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedSeparable(_Borrowing):
    """A `SeparableConv2D`: a depthwise convolution and one over the channels."""

    def call(self, inputs):
        kernel, (stride, _) = self._weight("depthwise_kernel"), self.layer.strides
        outputs = gradients.depthwise(inputs, kernel, stride, self.layer.padding.upper())
        return self._with_bias(tf.nn.conv2d(outputs, self._weight("pointwise_kernel"), 1, "VALID"))


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedLayerNormalization(_Borrowing):
    """A `LayerNormalization` of the last axis."""

    def call(self, inputs):
        outputs = gradients.standardise(ops.cast(inputs, "float32"), self.layer.epsilon)
        outputs = ops.cast(outputs, self.compute_dtype)
        outputs = outputs * self._weight("gamma") if self.layer.scale else outputs
        return outputs + self._weight("beta") if self.layer.center else outputs


@keras.saving.register_keras_serializable(package=PACKAGE)
class TapedAttention(_Borrowing):
    """A `MultiHeadAttention` of tokens (B, N, K) over themselves."""

    def build(self, query_shape, value_shape):
        if not self.layer.built:
            self.layer.build(query_shape, value_shape)
        self.built = True

    def call(self, query, value):
        heads, tokens = self.layer.num_heads, query.shape[1]
        weights = [ops.cast(weight, self.compute_dtype) for weight in self.layer.weights]

        def projected(inputs, kernel, bias):
            width = inputs.shape[-1]
            outputs = ops.matmul(ops.reshape(inputs, (-1, width)), ops.reshape(kernel, (width, -1)))
            return ops.reshape(outputs + ops.reshape(bias, (-1,)), (-1, tokens, outputs.shape[-1]))

        def by_head(part):
            return ops.transpose(ops.reshape(part, (-1, tokens, heads, part.shape[-1] // heads)), (0, 2, 1, 3))

        asked, known, told = (by_head(projected(query, *weights[first : first + 2])) for first in (0, 2, 4))
        scores = gradients.matmul(asked * self.layer.key_dim**-0.5, ops.transpose(known, (0, 1, 3, 2)))
        outputs = ops.transpose(gradients.matmul(ops.softmax(scores), told), (0, 2, 1, 3))
        return projected(ops.reshape(outputs, (-1, tokens, heads * told.shape[-1])), *weights[6:])

    def compute_output_shape(self, query_shape, value_shape):
        return query_shape


def taped(layer):
    """The layer itself, or one that computes the same and whose gradient exports.

    Weights are shared. Left as they are: what needs nothing, and pooling, resizing, dilated convolutions and ReLUs
    inside of other layers, whose gradients LiteRT doesn't have.

    Args:
        layer: a layer or operation of a functional model.
    """
    if isinstance(layer, keras.Sequential):
        return keras.Sequential([layer.inputs[0], *map(taped, layer.layers)], name=layer.name)
    if type(layer).__name__ == "Add":  # Keras's layer, and the operation behind a plus sign.
        alike = len({tuple(tensor.shape) for tensor in keras.tree.flatten(layer.input)}) == 1
        return TapedAdd(name=layer.name) if alike else layer
    if not isinstance(layer, layers.Layer):
        return layer
    options = {"dtype": layer.dtype_policy.name, "name": layer.name}
    if isinstance(layer, layers.ReLU) and not layer.negative_slope and not layer.threshold:
        return Rectifier(layer.max_value, **options)
    if isinstance(layer, layers.Activation) and layer.activation in ACTIVATIONS:
        return ACTIVATIONS[layer.activation](**options)
    if isinstance(layer, layers.Multiply) and len(layer.input) == 2:
        return TapedMultiply(**options)
    if isinstance(layer, layers.Concatenate) and layer.axis in (-1, len(layer.output.shape) - 1):
        return TapedConcatenate(**options)
    if isinstance(layer, layers.Cropping1D):
        return TapedCropping1D(layer.cropping, **options)
    for replacement, fits in BORROWING.items():
        if fits(layer):
            return replacement(layer, **options)
    return layer


ACTIVATIONS = {
    keras.activations.relu: Rectifier,
    keras.activations.relu6: lambda **options: Rectifier(6.0, **options),
    keras.activations.gelu: TapedGelu,
}


def _is_plain(layer):
    """The same stride both ways, no dilation, no activation."""
    alike = len(set(layer.strides)) == 1 and set(layer.dilation_rate) == {1}
    return alike and layer.activation is keras.activations.linear


def _is_depthwise(layer):
    """One filter for each channel."""
    if isinstance(layer, layers.DepthwiseConv2D):
        return layer.depth_multiplier == 1 and _is_plain(layer)
    grouped = isinstance(layer, layers.Conv2D) and 1 < layer.groups == layer.filters == layer.input.shape[-1]
    return grouped and _is_plain(layer)


def _is_separable(layer):
    return isinstance(layer, layers.SeparableConv2D) and layer.depth_multiplier == 1 and _is_plain(layer)


def _is_self_attention(layer):
    """Over tokens, with all weights and without dropout."""
    if not isinstance(layer, layers.MultiHeadAttention) or layer.get_config()["dropout"]:
        return False
    query, value = layer.input[:2]
    return query is value and len(query.shape) == 3 and len(layer.weights) == 8


BORROWING = {
    TapedDense: lambda layer: isinstance(layer, layers.Dense) and layer.activation is keras.activations.gelu,
    TapedDepthwise: _is_depthwise,
    TapedSeparable: _is_separable,
    TapedLayerNormalization: lambda layer: (
        isinstance(layer, layers.LayerNormalization) and list(layer.axis) in ([-1], [len(layer.input.shape) - 1])
    ),
    TapedAttention: _is_self_attention,
}
