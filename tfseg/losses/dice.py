"""Overlap and cross-entropy losses of masks, per image, with pixels that count nowhere left out."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

PACKAGE = "tfseg"


def dice_coefficient(y_true, y_pred, valid=None, per_image=True, smooth=1e-6, class_weights=None):
    """`2 Σ t·p / (Σ t + Σ p)` of every channel, averaged over channels.

    Args:
        y_true: (B, H, W, C) in {0, 1}.
        y_pred: (B, H, W, C) probabilities in [0, 1].
        valid: (B, H, W, 1), 0 where a pixel counts nowhere; None counts all.
        per_image: one coefficient an image, else one pooled over the batch.
        smooth: added to numerator and denominator, so that empty against empty is perfect.
        class_weights: C weights of the mean over channels; None weighs all alike.

    Returns:
        float32 (B,), or a scalar when pooled. Sums are taken in float32, because float16 overflows at 512².
    """
    y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
    valid = ops.ones_like(y_true[..., :1]) if valid is None else ops.cast(valid, "float32")
    axes = (1, 2) if per_image else (0, 1, 2)
    overlap = ops.sum(valid * y_true * y_pred, axis=axes)
    total = ops.sum(valid * (y_true + y_pred), axis=axes)
    return mean_over_classes((2.0 * overlap + smooth) / (total + smooth), class_weights)


def mean_over_classes(values, class_weights=None):
    """`Σ w_c · v_c / Σ w_c` over the last axis; without weights the plain mean.

    Raises:
        ValueError: not one weight per channel.
    """
    if class_weights is None:
        return ops.mean(values, axis=-1)
    if len(class_weights) != values.shape[-1]:
        raise ValueError(f"`class_weights` must hold {values.shape[-1]} weights. Received: {list(class_weights)}")
    weights = ops.convert_to_tensor(class_weights, "float32")
    return ops.sum(values * weights, axis=-1) / ops.sum(weights)


def checked_class_weights(class_weights):
    """A tuple of weights, at least one of them above 0, or None.

    Raises:
        ValueError: for negative weights, or none above 0.
    """
    if class_weights is None:
        return None
    weights = tuple(float(weight) for weight in class_weights)
    if not weights or min(weights) < 0.0 or max(weights) <= 0.0:
        raise ValueError(f"`class_weights` must be 0 or more, and not all of them 0. Received: {list(class_weights)}")
    return weights


def pixel_cross_entropy(y_true, logits, valid=None):
    """Cross entropy averaged over the valid pixels of each image.

    One channel is binary (sigmoid), more are classes that exclude each other (softmax).

    Args:
        y_true: (B, H, W, C) in {0, 1}.
        logits: (B, H, W, C).
        valid: (B, H, W, 1), 0 where a pixel counts nowhere; None counts all.

    Returns:
        float32 (B,); 0 for an image without a valid pixel.
    """
    y_true, logits = ops.cast(y_true, "float32"), ops.cast(logits, "float32")
    if logits.shape[-1] == 1:
        losses = ops.binary_crossentropy(y_true, logits, from_logits=True)
    else:
        losses = ops.expand_dims(ops.categorical_crossentropy(y_true, logits, from_logits=True), -1)
    valid = ops.ones_like(losses) if valid is None else ops.cast(valid, "float32")
    return ops.sum(losses * valid, axis=(1, 2, 3)) / ops.maximum(ops.sum(valid, axis=(1, 2, 3)), 1.0)


def mask_probabilities(logits):
    """Sigmoid of one channel, softmax over more, float32."""
    logits = ops.cast(logits, "float32")
    return ops.sigmoid(logits) if logits.shape[-1] == 1 else ops.softmax(logits, axis=-1)


class MaskLoss(keras.losses.Loss):
    """Template of losses on mask logits: `sample_weight` (B, H, W, 1) weighs pixels inside the formula.

    Keras multiplies a finished loss by its weights, which can't take a pixel out of a ratio; so the weights are
    handed to the subclass's `per_image`. The result is the mean over the batch's images.
    """

    def __call__(self, y_true, y_pred, sample_weight=None):
        shape = getattr(sample_weight, "shape", None)
        if shape is not None and len(shape) != 4:
            raise ValueError(
                f"`sample_weight` of {type(self).__name__} must weigh pixels, shape (B, H, W, 1). Received: {shape}"
            )
        if tuple(y_true.shape[1:]) != tuple(y_pred.shape[1:]):
            raise ValueError(
                f"`y_true` {tuple(y_true.shape)} and `y_pred` {tuple(y_pred.shape)} must have the same shape"
            )
        # Gradients are added up over replicas; Keras's own losses divide at this place too.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return ops.mean(self.per_image(y_true, y_pred, sample_weight)) / replicas

    def call(self, y_true, y_pred):
        return self.per_image(y_true, y_pred, None)

    def per_image(self, y_true, logits, valid):
        """The loss of every image, (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define `per_image`")


@keras.saving.register_keras_serializable(package=PACKAGE)
class DiceLoss(MaskLoss):
    """`1 − Dice` on logits.

    Args:
        per_image: average the images' Dice (default), or pool the batch (each replica's share of it) into one.
        smooth: see `dice_coefficient`.
        class_weights: of the mean over channels; None weighs all alike. With `background` there are two channels,
            background first.
        background: of a one-channel mask, average the background's Dice and the lesion's, as the code published
            with the SE-LCN thesis does.
    """

    def __init__(self, per_image=True, smooth=1e-6, class_weights=None, background=False, name="dice_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.dice_per_image = per_image
        self.smooth = smooth
        self.class_weights = checked_class_weights(class_weights)
        self.background = background

    def per_image(self, y_true, logits, valid):
        y_true, probabilities = ops.cast(y_true, "float32"), mask_probabilities(logits)
        if self.background and logits.shape[-1] == 1:
            y_true, probabilities = (
                ops.concatenate([1.0 - values, values], axis=-1) for values in (y_true, probabilities)
            )
        dice = dice_coefficient(y_true, probabilities, valid, self.dice_per_image, self.smooth, self.class_weights)
        return 1.0 - dice

    def get_config(self):
        return {
            **super().get_config(),
            "per_image": self.dice_per_image,
            "smooth": self.smooth,
            "class_weights": self.class_weights,
            "background": self.background,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class DiceCrossEntropy(MaskLoss):
    """`1 − Dice + weight · cross entropy` on logits: overlap for the shape, cross entropy for steady gradients.

    Args:
        cross_entropy_weight: factor on the cross entropy, from 0 on.
    """

    def __init__(self, cross_entropy_weight=1.0, name="dice_cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.cross_entropy_weight = cross_entropy_weight

    def per_image(self, y_true, logits, valid):
        dice = dice_coefficient(y_true, mask_probabilities(logits), valid)
        return 1.0 - dice + self.cross_entropy_weight * pixel_cross_entropy(y_true, logits, valid)

    def get_config(self):
        return {**super().get_config(), "cross_entropy_weight": self.cross_entropy_weight}
