"""Class activation maps as a layer: the same code in the loss, the evaluation, the figures and the export.

The layer holds the classifier's head and takes the feature maps, so the gradient tape runs over the head alone and
the backbone's forward pass is shared with the classification. Methods differ in the weights of the feature maps only.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

PACKAGE = "tfseg"
TARGETS = ("predicted", "true")


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


def grad_cam(maps, gradients):
    """`α_k = mean_ij ∂y/∂A_ijk`, one weight per channel.

    Source: Selvaraju et al. 2017, eq. 1; the oral paper's map in CEntIoU.
    """
    return ops.mean(gradients, axis=(1, 2), keepdims=True)


def grad_cam_plus_plus(maps, gradients):
    """`w_k = Σ_ij α_ijk · ReLU(∂y/∂A_ijk)` with `α = g² / (2 g² + g³ Σ_ab A_abk)` and `g = ∂y/∂A_ijk`.

    Source: Chattopadhay et al. 2018, eq. 5 and 19, where the score is `exp(y)`; its factor `exp(y)` in the weights is
    left out, because every map is divided by its maximum.
    """
    return ops.sum(_pixel_shares(maps, gradients) * ops.maximum(gradients, 0.0), axis=(1, 2), keepdims=True)


def grad_cam_plus_plus_normalised(maps, gradients):
    """Grad-CAM++ with each channel's `α_ij` divided by their sum over the map.

    Source: the program that the authors of Grad-CAM++ published, and tf-keras-vis after it; their paper has no such
    division. Behind a head that pools and is linear it is Grad-CAM without the channels that speak against the class.
    """
    shares = _pixel_shares(maps, gradients)
    total = ops.sum(shares, axis=(1, 2), keepdims=True)
    shares = shares / ops.where(total == 0.0, ops.ones_like(total), total)
    return ops.sum(shares * ops.maximum(gradients, 0.0), axis=(1, 2), keepdims=True)


def hires_cam(maps, gradients):
    """`w_ijk = ∂y/∂A_ijk`: every pixel has a weight of its own, and `Σ_k w A` is what it adds to a linear score.

    Source: Draelos & Carin 2020, HiResCAM's definition; the map of the published code of CEntIoU.
    """
    return gradients


def layer_cam(maps, gradients):
    """`w_ijk = ReLU(∂y/∂A_ijk)`: gradients that speak for the class, pixel by pixel; meant for inner layers too.

    Source: Jiang et al. 2021, LayerCAM's weights.
    """
    return ops.maximum(gradients, 0.0)


def _pixel_shares(maps, gradients):
    """Grad-CAM++'s `α`, (B, h, w, K), with `g²` cancelled, so that small gradients don't vanish; 0 where `g` is 0."""
    total = ops.sum(maps, axis=(1, 2), keepdims=True)
    denominator = 2.0 + gradients * total
    defined = ops.logical_and(gradients != 0.0, denominator != 0.0)
    ones = ops.ones_like(denominator)
    return ops.where(defined, ones, ops.zeros_like(ones)) / ops.where(defined, denominator, ones)


METHODS: dict[str, Callable] = {
    function.__name__: function
    for function in (grad_cam, grad_cam_plus_plus, grad_cam_plus_plus_normalised, hires_cam, layer_cam)
}
"""By name: (feature maps `A` (B, h, w, K), gradients of the score by them) → weights that broadcast to the maps."""


@keras.saving.register_keras_serializable(package=PACKAGE)
class ClassActivationMap(keras.layers.Layer):
    """`ReLU(Σ_k w_k A_k)`, divided by its maximum and resized; the method says what the weights `w` are.

    The score `y` that is explained is a class's logit. Where the head gives mask logits (B, H, W, classes) it is the
    sum of the class's logits over the pixels of which it is the predicted class, or with one channel over those with
    positive logit (Seg-Grad-CAM, Vinogradova et al. 2020, eq. 1); a class predicted nowhere has an all-zero map.

    Args:
        head: a `keras.Model` from feature maps to logits; its ReLUs must be `Rectifier`s for a mobile export.
        size: (height, width) of the map in pixels.
        method: a name out of `METHODS`.
        target: the class that is explained: ``"predicted"``; ``"true"``, the one given in the call; or an index. For
            mask logits an index.
        grid: (rows, columns) of the patches where the feature maps are tokens (B, N, K); tokens in front of the last
            rows · columns, such as a class token, have no place on the map.

    Call:
        feature_maps: `A` (B, h, w, K) or tokens (B, N, K); or a list of what the head takes, `A` first.
        labels: class indices, int (B,); for ``target="true"`` only.

    Returns:
        ``{"logits": …, "saliency": (B, H, W, 1) float32 in [0, 1]}``, both differentiable with respect to the weights
        of backbone and head.

    Raises:
        ValueError: an argument that isn't one of these, or no labels where they are needed.

    Example:

    >>> features = keras.Input((4, 4, 8))
    >>> pooled = keras.layers.GlobalAveragePooling2D()(features)
    >>> head = keras.Model(features, keras.layers.Dense(3)(pooled))
    >>> ClassActivationMap(head, (16, 16), "layer_cam")(keras.ops.ones((2, 4, 4, 8)))["saliency"].shape
    TensorShape([2, 16, 16, 1])
    """

    def __init__(self, head, size, method="grad_cam", target="predicted", grid=None, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if not isinstance(head, keras.Model):
            raise ValueError(f"`head` must be a keras.Model from feature maps to logits. Received: {head!r}")
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}. Received: {method!r}")
        if target not in TARGETS and (isinstance(target, bool | str) or int(target) != target or target < 0):
            raise ValueError(f"`target` must be 'predicted', 'true' or a class index. Received: {target!r}")
        self.head = head
        self.size = tuple(int(length) for length in size)
        self.method = method
        self.target = target if target in TARGETS else int(target)
        self.grid = None if grid is None else tuple(int(length) for length in grid)

    def build(self, input_shape):
        if not self.head.built:
            self.head.build(input_shape)
        outputs = self.head.output_shape
        if len(outputs) == 4 and self.target in TARGETS:
            raise ValueError(f"mask logits need a class index as `target`. Received: {self.target!r}")
        if self.target not in TARGETS and self.target >= outputs[-1]:
            raise ValueError(f"`target` must lie below the {outputs[-1]} classes. Received: {self.target}")
        shape = input_shape[0] if isinstance(input_shape[0], list | tuple) else input_shape
        if len(shape) == 3 and (self.grid is None or self.grid[0] * self.grid[1] > shape[1]):
            raise ValueError(f"tokens {tuple(shape)} need a `grid` of at most as many patches. Received: {self.grid}")
        self.built = True

    def call(self, feature_maps, labels=None, training=False):
        maps = feature_maps[0] if isinstance(feature_maps, list | tuple) else feature_maps
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(maps)
            logits = self.head(feature_maps, training=training)
        # The class is handed to the tape instead of a product with the logits: what Keras makes of that needs
        # operations that a phone doesn't have.
        gradients = tape.gradient(logits, maps, output_gradients=tf.stop_gradient(self._scored(logits, labels)))
        return {"logits": logits, "saliency": self.drawn(maps, gradients)}

    def drawn(self, maps, gradients):
        """The map in [0, 1] at the layer's size, (B, H, W, 1), from feature maps and the score's gradient by them."""
        maps, gradients = self._on_grid(maps), self._on_grid(gradients)
        saliency = ops.sum(METHODS[self.method](maps, gradients) * maps, axis=-1, keepdims=True)
        return ops.image.resize(normalise_map(saliency), self.size, interpolation="bilinear")

    def _scored(self, logits, labels):
        """Which logits the score sums up: 1 or 0 for each."""
        classes = logits.shape[-1]
        if self.target not in TARGETS:
            chosen = tf.zeros_like(logits) + tf.one_hot(self.target, classes, dtype=logits.dtype)
            return chosen * self._predicted_mask(logits) if len(logits.shape) == 4 else chosen
        if self.target == "true" and labels is None:
            raise ValueError("`target='true'` needs `labels`. Received: None")
        # TensorFlow's own arg-max: Keras's needs operations that a phone doesn't have.
        chosen = labels if self.target == "true" else tf.argmax(logits, axis=-1)
        return tf.one_hot(tf.cast(chosen, tf.int32), classes, dtype=logits.dtype)

    def _predicted_mask(self, logits):
        if logits.shape[-1] == 1:
            return tf.cast(logits > 0.0, logits.dtype)
        found = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), self.target)
        return tf.cast(ops.expand_dims(found, -1), logits.dtype)

    def _on_grid(self, values):
        if len(values.shape) == 4:
            return values
        rows, columns = self.grid
        return ops.reshape(values[:, values.shape[1] - rows * columns :], (-1, rows, columns, values.shape[-1]))

    def compute_output_spec(self, feature_maps, labels=None, training=False):
        maps = feature_maps[0] if isinstance(feature_maps, list | tuple) else feature_maps
        return {
            "logits": keras.KerasTensor((maps.shape[0], *self.head.output_shape[1:]), dtype="float32"),
            "saliency": keras.KerasTensor((maps.shape[0], *self.size, 1), dtype="float32"),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "head": keras.saving.serialize_keras_object(self.head),
            "size": self.size,
            "method": self.method,
            "target": self.target,
            "grid": self.grid,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["head"] = keras.saving.deserialize_keras_object(config["head"])
        return cls(**config)
