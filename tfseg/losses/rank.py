"""The rank loss: the worst background pixels must stay below the worst lesion pixels."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from tfseg.losses.dice import PACKAGE, MaskLoss, dice_coefficient, mask_probabilities


def rank_loss(y_true, y_pred, valid=None, pixels=30, margin=0.3):
    """`1/(K⁰·K¹) Σ_i Σ_j max(0, H⁰_i − H¹_j + margin)` of every channel, averaged over channels.

    H⁰ are the K background pixels of the highest, H¹ the K lesion pixels of the lowest probability. An image with
    fewer than K of a kind uses what it has; a channel that has only one kind has nothing to rank and counts nowhere.

    Source: SE-LCN thesis, L_rank, after MB-DCNN (Xie et al. 2020), which fills up missing pixels with ones instead.

    Args:
        y_true: (B, H, W, C) in {0, 1}.
        y_pred: (B, H, W, C) probabilities in [0, 1].
        valid: (B, H, W, 1); pixels of weight 0 are not ranked, all others count alike. None counts all.
        pixels: K, at least 1.
        margin: least distance between the two kinds, from 0 on.

    Returns:
        float32 (B,), from 0 to 1 + margin.
    """
    channels = y_pred.shape[-1]
    true, probabilities = _by_channel(y_true), _by_channel(y_pred)
    counted = ops.ones_like(true) if valid is None else _by_channel(ops.cast(valid, "float32") > 0.0)
    lesion, background = true * counted, (1.0 - true) * counted
    # Pixels of the other kind get a value that no probability has, and come last.
    count = tf.minimum(pixels, tf.shape(probabilities)[-1])
    highest = tf.math.top_k(tf.where(background > 0.0, probabilities, -1.0), count).values
    lowest = -tf.math.top_k(tf.where(lesion > 0.0, -probabilities, -2.0), count).values
    taken_background = ops.cast(highest > -1.0, "float32")
    taken_lesion = ops.cast(lowest < 2.0, "float32")
    pairs = ops.expand_dims(taken_background, -1) * ops.expand_dims(taken_lesion, -2)
    violations = ops.maximum(ops.expand_dims(highest, -1) - ops.expand_dims(lowest, -2) + margin, 0.0)
    number = ops.sum(pairs, axis=(-2, -1))
    per_channel = ops.sum(violations * pairs, axis=(-2, -1)) / ops.maximum(number, 1.0)
    ranked = ops.cast(number > 0.0, "float32")
    if channels == 1:
        return per_channel[:, 0]
    return ops.sum(per_channel, axis=-1) / ops.maximum(ops.sum(ranked, axis=-1), 1.0)


def _by_channel(values):
    """(B, H, W, C) → float32 (B, C, H·W)."""
    values = ops.transpose(ops.cast(values, "float32"), (0, 3, 1, 2))
    shape = ops.shape(values)
    return ops.reshape(values, (shape[0], shape[1], shape[2] * shape[3]))


@keras.saving.register_keras_serializable(package=PACKAGE)
class RankLoss(MaskLoss):
    """The rank loss on logits; see `rank_loss`.

    Args:
        pixels: K, at least 1.
        margin: from 0 on.

    Raises:
        ValueError: for one out of range.
    """

    def __init__(self, pixels=30, margin=0.3, name="rank_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        if pixels < 1 or margin < 0.0:
            raise ValueError(f"`pixels` must be at least 1 and `margin` 0 or more. Received: {pixels}, {margin}")
        self.pixels = pixels
        self.margin = margin

    def per_image(self, y_true, logits, valid):
        return rank_loss(y_true, mask_probabilities(logits), valid, self.pixels, self.margin)

    def get_config(self):
        return {**super().get_config(), "pixels": self.pixels, "margin": self.margin}


@keras.saving.register_keras_serializable(package=PACKAGE)
class DiceRank(RankLoss):
    """`1 − Dice + λ · rank` (SE-LCN thesis, segmentation loss).

    Args:
        pixels, margin: see `rank_loss`.
        rank_weight: λ, from 0 on.
    """

    def __init__(self, pixels=30, margin=0.3, rank_weight=0.05, name="dice_rank", **kwargs):
        super().__init__(pixels, margin, name=name, **kwargs)
        self.rank_weight = rank_weight

    def per_image(self, y_true, logits, valid):
        dice = dice_coefficient(y_true, mask_probabilities(logits), valid)
        return 1.0 - dice + self.rank_weight * super().per_image(y_true, logits, valid)

    def get_config(self):
        return {**super().get_config(), "rank_weight": self.rank_weight}
