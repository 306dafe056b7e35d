"""Losses that are a mean over pixels: cross entropy in two numerical forms, smooth L1, focal."""

from __future__ import annotations

import keras
from keras import ops

from tfseg.losses.dice import (
    PACKAGE,
    MaskLoss,
    checked_class_weights,
    dice_coefficient,
    mask_probabilities,
    pixel_cross_entropy,
)

# Keras's own: probabilities are kept this far from 0 and 1 before their logarithm is taken.
CLIPPED = 1e-7


def mean_over_pixels(losses, valid=None):
    """The mean of a loss (B, H, W, 1) over each image's valid pixels, float32 (B,); 0 where none is valid."""
    valid = ops.ones_like(losses) if valid is None else ops.cast(valid, "float32")
    return ops.sum(losses * valid, axis=(1, 2, 3)) / ops.maximum(ops.sum(valid, axis=(1, 2, 3)), 1.0)


def clipped_cross_entropy(y_true, logits):
    """Cross entropy of probabilities clipped to [1e-7, 1 − 1e-7], (B, H, W, 1).

    One channel is binary, more are classes that exclude each other. It never exceeds 16.1, and a pixel that is
    wrong beyond the clipping has no gradient. `keras.ops.binary_crossentropy` is not used: inside a graph it
    recognises a sigmoid and goes back to the logits, and then this would be the loss on logits.
    """
    y_true = ops.cast(y_true, "float32")
    probabilities = ops.clip(mask_probabilities(logits), CLIPPED, 1.0 - CLIPPED)
    losses = -y_true * ops.log(probabilities)
    if logits.shape[-1] == 1:
        return losses - (1.0 - y_true) * ops.log(1.0 - probabilities)
    return ops.sum(losses, axis=-1, keepdims=True)


def smooth_l1(y_true, logits, beta=1.0):
    """`d²/2β` where `d = |t − p|` is below β, else `d − β/2`; averaged over channels, (B, H, W, 1)."""
    distance = ops.abs(ops.cast(y_true, "float32") - mask_probabilities(logits))
    losses = ops.where(distance < beta, 0.5 * distance * distance / beta, distance - 0.5 * beta)
    return ops.mean(losses, axis=-1, keepdims=True)


def focal_cross_entropy(y_true, logits, alpha=0.25, gamma=2.0):
    """`−α_t (1 − p_t)^γ log p_t` of every pixel, (B, H, W, 1) (Lin et al. 2017, equation 5).

    Args:
        y_true: (B, H, W, C) in {0, 1}. With one channel the lesion weighs α and the background 1 − α; with more,
            every class weighs α, or a weight of its own.
        logits: (B, H, W, C).
        alpha: a number in [0, 1], or with several channels one number per channel.
        gamma: from 0 on; 0 is weighted cross entropy.
    """
    y_true, logits = ops.cast(y_true, "float32"), ops.cast(logits, "float32")
    if logits.shape[-1] == 1:
        log_true = y_true * ops.log_sigmoid(logits) + (1.0 - y_true) * ops.log_sigmoid(-logits)
        weight = y_true * alpha + (1.0 - y_true) * (1.0 - alpha)
        return -weight * _power(1.0 - ops.exp(log_true), gamma) * log_true
    log_probabilities = ops.log_softmax(logits, axis=-1)
    weight = ops.convert_to_tensor(alpha, "float32")
    losses = -weight * y_true * _power(1.0 - ops.exp(log_probabilities), gamma) * log_probabilities
    return ops.sum(losses, axis=-1, keepdims=True)


def _power(base, exponent):
    """A power whose gradient is finite at 0, where rounding can put a pixel that is right."""
    return ops.ones_like(base) if exponent == 0.0 else ops.power(ops.maximum(base, 1e-12), exponent)


@keras.saving.register_keras_serializable(package=PACKAGE)
class CrossEntropy(MaskLoss):
    """Cross entropy of a mask, the mean over each image's valid pixels.

    Args:
        from_logits: take it from the logits, which is exact for every value; or from clipped probabilities, see
            `clipped_cross_entropy`. The EBHI-Seg report compares the two.
    """

    def __init__(self, from_logits=True, name="cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.from_logits = from_logits

    def per_image(self, y_true, logits, valid):
        if self.from_logits:
            return pixel_cross_entropy(y_true, logits, valid)
        return mean_over_pixels(clipped_cross_entropy(y_true, logits), valid)

    def get_config(self):
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package=PACKAGE)
class SmoothL1Loss(MaskLoss):
    """Smooth L1 between mask and probabilities, the mean over each image's valid pixels.

    Args:
        beta: distance from which the loss is linear, above 0. From 1 on it is half the squared error.
    """

    def __init__(self, beta=1.0, name="smooth_l1", **kwargs):
        super().__init__(name=name, **kwargs)
        if not beta > 0.0:
            raise ValueError(f"`beta` must be above 0. Received: {beta}")
        self.beta = beta

    def per_image(self, y_true, logits, valid):
        return mean_over_pixels(smooth_l1(y_true, logits, self.beta), valid)

    def get_config(self):
        return {**super().get_config(), "beta": self.beta}


@keras.saving.register_keras_serializable(package=PACKAGE)
class FocalLoss(MaskLoss):
    """Binary or categorical focal loss, by the mask's channels; the mean over each image's valid pixels.

    Args:
        alpha, gamma: see `focal_cross_entropy`.
    """

    def __init__(self, alpha=0.25, gamma=2.0, name="focal_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        alpha = alpha if isinstance(alpha, int | float) else tuple(float(value) for value in alpha)
        if min(alpha if isinstance(alpha, tuple) else (alpha, 1.0 - alpha)) < 0.0 or gamma < 0.0:
            raise ValueError(
                "`alpha` must lie in [0, 1], or hold one weight per class, and `gamma` must be 0 or more. "
                f"Received: {alpha}, {gamma}"
            )
        self.alpha = alpha
        self.gamma = gamma

    def per_image(self, y_true, logits, valid):
        channels = logits.shape[-1]
        if isinstance(self.alpha, tuple) and (channels == 1 or len(self.alpha) != channels):
            wanted = "one number" if channels == 1 else f"one number, or {channels} of them,"
            raise ValueError(f"`alpha` must be {wanted} for this mask. Received: {list(self.alpha)}")
        return mean_over_pixels(focal_cross_entropy(y_true, logits, self.alpha, self.gamma), valid)

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha, "gamma": self.gamma}


@keras.saving.register_keras_serializable(package=PACKAGE)
class DiceFocal(FocalLoss):
    """`1 − class-weighted Dice + weight · focal` (the cervical paper's loss of its U-Net).

    Args:
        alpha, gamma: see `focal_cross_entropy`.
        focal_weight: factor on the focal loss, from 0 on.
        class_weights: of the Dice's mean over channels; None weighs all alike.
    """

    def __init__(self, alpha=0.25, gamma=2.0, focal_weight=1.0, class_weights=None, name="dice_focal", **kwargs):
        super().__init__(alpha, gamma, name=name, **kwargs)
        self.focal_weight = focal_weight
        self.class_weights = checked_class_weights(class_weights)

    def per_image(self, y_true, logits, valid):
        dice = dice_coefficient(y_true, mask_probabilities(logits), valid, class_weights=self.class_weights)
        return 1.0 - dice + self.focal_weight * super().per_image(y_true, logits, valid)

    def get_config(self):
        return {**super().get_config(), "focal_weight": self.focal_weight, "class_weights": self.class_weights}
