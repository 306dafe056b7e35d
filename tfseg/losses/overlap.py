"""Overlap losses beside Dice: Tversky's index, and Jaccard's as a case of it."""

from __future__ import annotations

import keras
from keras import ops

from tfseg.losses.dice import PACKAGE, MaskLoss, checked_class_weights, mask_probabilities, mean_over_classes


def tversky_index(y_true, y_pred, valid=None, alpha=0.3, beta=0.7, per_image=True, smooth=1e-6, class_weights=None):
    """`TP / (TP + α·FP + β·FN)` of every channel, averaged over channels (Salehi et al. 2017, equation 4).

    α = β = 0.5 is Dice, α = β = 1 is Jaccard's index (IoU). β above α counts a missed pixel more than a false one.

    Args:
        y_true: (B, H, W, C) in {0, 1}.
        y_pred: (B, H, W, C) probabilities in [0, 1].
        valid: (B, H, W, 1), 0 where a pixel counts nowhere; None counts all.
        alpha, beta: weights of false positives and of false negatives, from 0 on.
        per_image: one index an image, else one pooled over the batch.
        smooth: added to numerator and denominator, so that empty against empty is perfect.
        class_weights: C weights of the mean over channels; None weighs all alike.

    Returns:
        float32 (B,), or a scalar when pooled.
    """
    y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
    valid = ops.ones_like(y_true[..., :1]) if valid is None else ops.cast(valid, "float32")
    axes = (1, 2) if per_image else (0, 1, 2)
    overlap = ops.sum(valid * y_true * y_pred, axis=axes)
    false_positive = ops.sum(valid * (1.0 - y_true) * y_pred, axis=axes)
    false_negative = ops.sum(valid * y_true * (1.0 - y_pred), axis=axes)
    whole = overlap + alpha * false_positive + beta * false_negative
    return mean_over_classes((overlap + smooth) / (whole + smooth), class_weights)


@keras.saving.register_keras_serializable(package=PACKAGE)
class TverskyLoss(MaskLoss):
    """`1 − Tversky index` on logits.

    Args:
        alpha, beta: weights of false positives and of false negatives, from 0 on and not both 0.
        per_image: average the images' indices, or pool the batch (each replica's share of it) into one.
        smooth, class_weights: see `tversky_index`.

    Raises:
        ValueError: for a negative weight, or both 0.
    """

    def __init__(
        self,
        alpha=0.3,
        beta=0.7,
        per_image=True,
        smooth=1e-6,
        class_weights=None,
        name="tversky_loss",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if min(alpha, beta) < 0.0 or alpha + beta <= 0.0:
            raise ValueError(f"`alpha` and `beta` must be 0 or more, and not both 0. Received: {alpha}, {beta}")
        self.alpha = alpha
        self.beta = beta
        self.index_per_image = per_image
        self.smooth = smooth
        self.class_weights = checked_class_weights(class_weights)

    def per_image(self, y_true, logits, valid):
        index = tversky_index(
            y_true,
            mask_probabilities(logits),
            valid,
            self.alpha,
            self.beta,
            self.index_per_image,
            self.smooth,
            self.class_weights,
        )
        return 1.0 - index

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "per_image": self.index_per_image,
            "smooth": self.smooth,
            "class_weights": self.class_weights,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class JaccardLoss(TverskyLoss):
    """`1 − IoU` on logits, `IoU = Σ t·p / Σ (t + p − t·p)`; arguments as `TverskyLoss` has them."""

    def __init__(self, per_image=True, smooth=1e-6, class_weights=None, name="jaccard_loss", **kwargs):
        super().__init__(1.0, 1.0, per_image, smooth, class_weights, name=name, **kwargs)

    def get_config(self):
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in ("alpha", "beta")}
