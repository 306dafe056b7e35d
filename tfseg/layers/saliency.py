"""Class activation maps as layers: the same code in the loss, the evaluation, the figures and the export.

A layer holds the classifier's head and takes the feature maps, so the gradient tape runs over the head alone and
the backbone's forward pass is shared with the classification.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

PACKAGE = "tfseg"


@keras.saving.register_keras_serializable(package=PACKAGE)
class Rectifier(keras.layers.Layer):
    """ReLU written as a maximum: its gradient exports with builtin LiteRT ops, the fused ReLU's doesn't."""

    def call(self, inputs):
        return ops.maximum(inputs, 0.0)

    def compute_output_shape(self, input_shape):
        return input_shape


def normalise_map(saliency):
    """Divide each map by its own maximum; a map without a positive value becomes zero.

    Args:
        saliency: (B, h, w, 1), any range.

    Returns:
        (B, h, w, 1) in [0, 1]; differentiable, without NaN.
    """
    saliency = ops.maximum(saliency, 0.0)
    highest = ops.max(saliency, axis=(1, 2, 3), keepdims=True)
    return saliency / ops.where(highest > 0.0, highest, ops.ones_like(highest))


class ClassActivationMap(keras.layers.Layer):
    """Template: a subclass gives the weight of each channel from activations and gradients.

    Call it with feature maps `A` (B, h, w, K) and, where a fixed class is to be explained, `target` (B,) int;
    without one the predicted class is explained. It returns ``{"logits": (B, classes), "saliency": (B, H, W, 1)}``
    with the map in [0, 1] at `size`. Both are differentiable with respect to the weights of backbone and head.

    Args:
        head: a `keras.Model` from feature maps to logits; its ReLUs must be `Rectifier`s for a mobile export.
        size: (height, width) of the map.
    """

    def __init__(self, head, size, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if not isinstance(head, keras.Model):
            raise ValueError(f"`head` must be a keras.Model from feature maps to logits. Received: {head!r}")
        self.head = head
        self.size = tuple(int(length) for length in size)

    def build(self, input_shape):
        if not self.head.built:
            self.head.build(input_shape)
        self.built = True

    def call(self, feature_maps, target=None, training=False):
        with tf.GradientTape() as tape:
            tape.watch(feature_maps)
            logits = self.head(feature_maps, training=training)
        # TensorFlow's own arg-max, and the class handed to the tape instead of a product with the logits: what Keras
        # makes of them needs operations that a phone doesn't have.
        chosen = tf.argmax(logits, axis=-1) if target is None else target
        one_hot = tf.one_hot(tf.cast(chosen, tf.int32), logits.shape[-1], dtype=logits.dtype)
        gradients = tape.gradient(logits, feature_maps, output_gradients=tf.stop_gradient(one_hot))
        saliency = ops.sum(self.channel_weights(feature_maps, gradients) * feature_maps, axis=-1, keepdims=True)
        saliency = ops.image.resize(normalise_map(saliency), self.size, interpolation="bilinear")
        return {"logits": logits, "saliency": saliency}

    def channel_weights(self, feature_maps, gradients):
        """Weights that broadcast to the feature maps (B, h, w, K).

        Args:
            feature_maps: activations `A`, (B, h, w, K).
            gradients: of the class score with respect to `A`, (B, h, w, K).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `channel_weights`")

    def compute_output_spec(self, feature_maps, target=None, training=False):
        classes = self.head.output_shape[-1]
        return {
            "logits": keras.KerasTensor((feature_maps.shape[0], classes), dtype="float32"),
            "saliency": keras.KerasTensor((feature_maps.shape[0], *self.size, 1), dtype="float32"),
        }

    def get_config(self):
        head = keras.saving.serialize_keras_object(self.head)
        return {**super().get_config(), "head": head, "size": self.size}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["head"] = keras.saving.deserialize_keras_object(config["head"])
        return cls(**config)


@keras.saving.register_keras_serializable(package=PACKAGE)
class GradCAM(ClassActivationMap):
    """Grad-CAM: `ReLU(Σ_k α_k A_k)` with `α_k = mean_ij ∂y_c/∂A_ijk`, divided by its maximum.

    Source: Selvaraju et al. 2017, eq. 1 and 2; the oral paper's map in CEntIoU.

    Example:

    >>> features = keras.Input((4, 4, 8))
    >>> pooled = keras.layers.GlobalAveragePooling2D()(features)
    >>> head = keras.Model(features, keras.layers.Dense(3)(pooled))
    >>> GradCAM(head, (16, 16))(keras.ops.ones((2, 4, 4, 8)))["saliency"].shape
    TensorShape([2, 16, 16, 1])
    """

    def channel_weights(self, feature_maps, gradients):
        return ops.mean(gradients, axis=(1, 2), keepdims=True)


SALIENCY_LAYERS = {"grad_cam": GradCAM}
