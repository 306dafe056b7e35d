"""Keras metrics of masks: per image, averaged over all images seen."""

from __future__ import annotations

import keras
from keras import ops

from tfseg.losses.dice import mask_probabilities

PACKAGE = "tfseg"


class LesionOverlap(keras.metrics.Metric):
    """Template: a per-image score of the thresholded lesion, averaged over images.

    Takes mask logits (B, H, W, C); pixels of `sample_weight` 0 are left out, and images without a valid pixel
    count nowhere.

    Args:
        lesion_channels: the channels whose sum is the lesion.
        threshold: probability from which a pixel is lesion.
    """

    def __init__(self, lesion_channels=(0,), threshold=0.5, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.lesion_channels = tuple(lesion_channels)
        self.threshold = threshold
        self.total = self.add_variable((), initializer="zeros", name="total")
        self.images = self.add_variable((), initializer="zeros", name="images")

    def update_state(self, y_true, y_pred, sample_weight=None):
        true = self._lesion(ops.cast(y_true, "float32"))
        predicted = self._lesion(mask_probabilities(y_pred))
        valid = ops.ones_like(true, dtype="bool") if sample_weight is None else ops.cast(sample_weight, "bool")
        overlap = self._count(true & predicted & valid)
        sizes = self._count(true & valid) + self._count(predicted & valid)
        scores = ops.where(sizes > 0, self.score(overlap, sizes), ops.ones_like(overlap, dtype="float32"))
        counted = ops.cast(ops.any(valid, axis=(1, 2, 3)), "float32")
        self.total.assign_add(ops.cast(ops.sum(scores * counted), self.total.dtype))
        self.images.assign_add(ops.cast(ops.sum(counted), self.images.dtype))

    def score(self, overlap, sizes):
        """The score of every image from int64 counts `|A∩B|` and `|A| + |B|`, float32 (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define `score`")

    def _lesion(self, values):
        lesion = ops.sum(ops.take(values, self.lesion_channels, axis=-1), axis=-1, keepdims=True)
        return lesion >= self.threshold

    def _count(self, pixels):
        return ops.sum(ops.cast(pixels, "int64"), axis=(1, 2, 3))

    def result(self):
        return self.total / ops.maximum(self.images, 1.0)

    def get_config(self):
        return {**super().get_config(), "lesion_channels": self.lesion_channels, "threshold": self.threshold}


@keras.saving.register_keras_serializable(package=PACKAGE)
class LesionDice(LesionOverlap):
    """Mean over images of `2 |A∩B| / (|A| + |B|)`; empty against empty is 1."""

    def score(self, overlap, sizes):
        return 2.0 * ops.cast(overlap, "float32") / ops.cast(ops.maximum(sizes, 1), "float32")


@keras.saving.register_keras_serializable(package=PACKAGE)
class LesionIoU(LesionOverlap):
    """Mean over images of `|A∩B| / |A∪B|`; empty against empty is 1."""

    def score(self, overlap, sizes):
        return ops.cast(overlap, "float32") / ops.cast(ops.maximum(sizes - overlap, 1), "float32")
