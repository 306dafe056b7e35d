"""Operations whose gradients a phone can run, and whose second derivatives are right.

A gradient tape inside a model that is exported writes the gradients of the operations it runs over into the graph.
TensorFlow's own of many operations (`ReluGrad`, `DepthwiseConv2dNativeBackpropInput`, `BroadcastGradientArgs`, …) are
not built into LiteRT. Those here are made of operations that are, for tensors whose sides are known but for the
batch's. They can be differentiated once more, for training through a map.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf


@tf.custom_gradient
def gelu(inputs):
    """`x Φ(x)` with the normal distribution `Φ`; its slope `Φ(x) + x φ(x)` takes `Φ` from the value itself."""
    outputs = tf.nn.gelu(inputs, approximate=False)

    def gradient(upstream):
        away = tf.not_equal(inputs, 0.0)
        share = tf.where(away, outputs / tf.where(away, inputs, tf.ones_like(inputs)), 0.5 * tf.ones_like(inputs))
        density = tf.exp(-0.5 * inputs * inputs) * float((2.0 * np.pi) ** -0.5)
        return upstream * (share + inputs * density)

    return outputs, gradient


@tf.custom_gradient
def multiply(left, right):
    """The product of two tensors of one rank, sides of length 1 stretched."""

    def gradient(upstream):
        return _summed(upstream * right, left), _summed(upstream * left, right)

    return left * right, gradient


def _summed(values, like):
    stretched = [axis for axis in range(1, len(like.shape)) if like.shape[axis] == 1 != values.shape[axis]]
    return tf.reduce_sum(values, stretched, keepdims=True) if stretched else values


@tf.custom_gradient
def matmul(left, right):
    """Matrix products of two tensors that have the same sides in front."""

    def gradient(upstream):
        return tf.matmul(upstream, right, transpose_b=True), tf.matmul(left, upstream, transpose_a=True)

    return tf.matmul(left, right), gradient


def concatenate(parts, axis):
    """Tensors joined along an axis."""
    sizes = [part.shape[axis] for part in parts]

    @tf.custom_gradient
    def joined(*parts):
        return tf.concat(parts, axis), lambda upstream: tf.split(upstream, sizes, axis)

    return joined(*parts)


def piece(values, axis, start, stop):
    """``values[…, start:stop, …]`` along an axis behind the batch's."""
    begin, size = [0] * len(values.shape), [-1, *values.shape[1:]]
    begin[axis], size[axis] = start, stop - start
    return tf.slice(values, begin, size)


def standardise(inputs, epsilon):
    """`(x − mean) / √(variance + ε)` over the last axis.

    TensorFlow's moments hold the mean constant where they are differentiated, which is right once and wrong twice.
    """

    @tf.custom_gradient
    def standardised(inputs):
        mean, variance = tf.nn.moments(inputs, [-1], keepdims=True)
        scale = tf.math.rsqrt(variance + epsilon)
        outputs = (inputs - mean) * scale

        def gradient(upstream):
            shared = tf.reduce_mean(upstream, -1, keepdims=True)
            along = tf.reduce_mean(upstream * outputs, -1, keepdims=True)
            return scale * (upstream - shared - outputs * along)

        return outputs, gradient

    return standardised(inputs)


def depthwise(inputs, kernel, stride, padding):
    """Depthwise convolution; its gradient by the input is one more, of the gradient with zeros in between.

    Args:
        inputs: (B, h, w, K).
        kernel: (rows, columns, K, 1).
        stride: in both directions.
        padding: ``"SAME"`` or ``"VALID"``.
    """
    steps = [1, stride, stride, 1]

    @tf.custom_gradient
    def convolved(inputs, kernel):
        outputs = tf.nn.depthwise_conv2d(inputs, kernel, steps, padding)
        sides = list(zip(inputs.shape[1:3], outputs.shape[1:3], kernel.shape[:2], strict=True))

        def gradient(upstream):
            spread = upstream
            for axis, (_, length, _) in enumerate(sides, 1):
                spread = _spread(spread, axis, length, stride)
            margins = [[0, 0], *(_margins(*lengths, stride, padding) for lengths in sides), [0, 0]]
            turned = tf.reverse(kernel, [0, 1])
            by_input = tf.nn.depthwise_conv2d(tf.pad(spread, margins), turned, [1, 1, 1, 1], "VALID")
            by_kernel = tf.nn.depthwise_conv2d_backprop_filter(inputs, kernel.shape, upstream, steps, padding)
            return by_input, by_kernel

        return outputs, gradient

    return convolved(inputs, kernel)


def _margins(before, after, size, stride, padding):
    """Zeros around the spread gradient, so that the turned kernel reaches every pixel of the input."""
    missing = max((after - 1) * stride + size - before, 0) if padding == "SAME" else 0
    front = size - 1 - missing // 2
    return [front, before + size - 1 - front - ((after - 1) * stride + 1)]


def _spread(values, axis, length, stride):
    """`stride − 1` zeros between neighbours along an axis of this length."""
    if stride == 1:
        return values
    shape = [-1, *values.shape[1:]]
    shape[axis] = length * stride
    apart = tf.pad(tf.expand_dims(values, axis + 1), [[0, (stride - 1) * (place == axis + 1)] for place in range(5)])
    return piece(tf.reshape(apart, shape), axis, 0, (length - 1) * stride + 1)
