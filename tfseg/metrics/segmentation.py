"""Keras metrics of masks, from int64 counts: per image and averaged over all images seen, or pooled over them."""

from __future__ import annotations

import keras
from keras import ops

from tfseg.losses.dice import mask_probabilities

PACKAGE = "tfseg"


class LesionOverlap(keras.metrics.Metric):
    """Template: a score of the predicted lesion, the share of one count of pixels in another.

    Takes mask logits (B, H, W, C); pixels of `sample_weight` 0 are left out, and images without a valid pixel
    count nowhere. A score whose denominator is 0 is 1 when every pixel is right, else 0.

    Args:
        lesion_channels: the channels whose sum is the lesion; one class alone gives that class's score.
        threshold: probability from which a pixel is lesion; None takes the channel of the highest probability
            (of one channel, 0.5).
        pooled: the score of all images' pixels together, in place of the images' mean.
    """

    def __init__(self, lesion_channels=(0,), threshold=0.5, pooled=False, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.lesion_channels = tuple(lesion_channels)
        self.threshold = threshold
        self.pooled = pooled
        if pooled:
            self.counts = self.add_variable((4,), initializer="zeros", dtype="int64", name="counts")
        else:
            self.total = self.add_variable((), initializer="zeros", name="total")
            self.images = self.add_variable((), initializer="zeros", name="images")

    def update_state(self, y_true, y_pred, sample_weight=None):
        true = self._lesion(ops.cast(y_true, "float32"), 0.5)
        predicted = self._predicted(mask_probabilities(y_pred))
        valid = ops.ones_like(true, dtype="bool") if sample_weight is None else ops.cast(sample_weight, "bool")
        pairs = (true & predicted, ~true & predicted, true & ~predicted, ~true & ~predicted)
        counts = [self._count(pixels & valid) for pixels in pairs]
        if self.pooled:
            self.counts.assign_add(ops.stack([ops.sum(count) for count in counts]))
            return
        scores = self._share(*counts)
        counted = ops.cast(ops.any(valid, axis=(1, 2, 3)), "float32")
        self.total.assign_add(ops.cast(ops.sum(scores * counted), self.total.dtype))
        self.images.assign_add(ops.cast(ops.sum(counted), self.images.dtype))

    def parts(self, true_positive, false_positive, false_negative, true_negative):
        """Numerator and denominator of the score, from int64 counts of one shape."""
        raise NotImplementedError(f"{type(self).__name__} must define `parts`")

    def _share(self, *counts):
        part, whole = self.parts(*counts)
        share = ops.cast(part, "float32") / ops.cast(ops.maximum(whole, 1), "float32")
        nothing_wrong = ops.cast(ops.equal(counts[1] + counts[2], 0), "float32")
        return ops.where(whole > 0, share, nothing_wrong)

    def _predicted(self, probabilities):
        if self.threshold is not None or probabilities.shape[-1] == 1:
            return self._lesion(probabilities, 0.5 if self.threshold is None else self.threshold)
        winner = ops.one_hot(ops.argmax(probabilities, axis=-1), probabilities.shape[-1])
        return self._lesion(winner, 0.5)

    def _lesion(self, values, threshold):
        lesion = ops.sum(ops.take(values, self.lesion_channels, axis=-1), axis=-1, keepdims=True)
        return lesion >= threshold

    def _count(self, pixels):
        return ops.sum(ops.cast(pixels, "int64"), axis=(1, 2, 3))

    def result(self):
        if not self.pooled:
            return self.total / ops.maximum(self.images, 1.0)
        seen = ops.cast(ops.sum(self.counts) > 0, "float32")
        return seen * self._share(*ops.unstack(self.counts, 4))

    def get_config(self):
        return {
            **super().get_config(),
            "lesion_channels": self.lesion_channels,
            "threshold": self.threshold,
            "pooled": self.pooled,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class LesionDice(LesionOverlap):
    """`2 |A∩B| / (|A| + |B|)`; empty against empty is 1."""

    def parts(self, true_positive, false_positive, false_negative, true_negative):
        return 2 * true_positive, 2 * true_positive + false_positive + false_negative


@keras.saving.register_keras_serializable(package=PACKAGE)
class LesionIoU(LesionOverlap):
    """`|A∩B| / |A∪B|`; empty against empty is 1."""

    def parts(self, true_positive, false_positive, false_negative, true_negative):
        return true_positive, true_positive + false_positive + false_negative


@keras.saving.register_keras_serializable(package=PACKAGE)
class PixelAccuracy(LesionOverlap):
    """Share of the pixels that are right, lesion or not."""

    def parts(self, true_positive, false_positive, false_negative, true_negative):
        right = true_positive + true_negative
        return right, right + false_positive + false_negative


@keras.saving.register_keras_serializable(package=PACKAGE)
class PixelError(LesionOverlap):
    """Share of the pixels that are wrong, 1 − accuracy."""

    def parts(self, true_positive, false_positive, false_negative, true_negative):
        wrong = false_positive + false_negative
        return wrong, wrong + true_positive + true_negative


@keras.saving.register_keras_serializable(package=PACKAGE)
class PixelPrecision(LesionOverlap):
    """Share of the pixels predicted as lesion that are lesion."""

    def parts(self, true_positive, false_positive, false_negative, true_negative):
        return true_positive, true_positive + false_positive


@keras.saving.register_keras_serializable(package=PACKAGE)
class PixelRecall(LesionOverlap):
    """Share of the lesion's pixels that are found: sensitivity."""

    def parts(self, true_positive, false_positive, false_negative, true_negative):
        return true_positive, true_positive + false_negative


@keras.saving.register_keras_serializable(package=PACKAGE)
class PixelSpecificity(LesionOverlap):
    """Share of the pixels outside the lesion that are predicted to be outside."""

    def parts(self, true_positive, false_positive, false_negative, true_negative):
        return true_negative, true_negative + false_positive


METRICS: dict[str, type[LesionOverlap]] = {
    "dice": LesionDice,
    "iou": LesionIoU,
    "pixel_accuracy": PixelAccuracy,
    "pixel_error": PixelError,
    "pixel_precision": PixelPrecision,
    "pixel_recall": PixelRecall,
    "pixel_specificity": PixelSpecificity,
}


def mask_metrics(names=("iou", "dice"), lesion_channels=(0,), pooled=False) -> list[LesionOverlap]:
    """Metrics by name for `compile(weighted_metrics=…)`; pooled ones are called ``…_pooled``.

    Raises:
        KeyError: for a name that isn't in `METRICS`.
    """
    ending = "_pooled" if pooled else ""
    return [METRICS[name](lesion_channels, pooled=pooled, name=name + ending) for name in names]


def class_metrics(classes, names=("iou",)) -> list[LesionOverlap]:
    """A metric per class and name, ``iou_nucleus``; each pixel belongs to the class of its highest probability.

    Args:
        classes: the mask's classes in the order of its channels, at least two.
        names: out of `METRICS`.

    Raises:
        KeyError: for a name that isn't in `METRICS`.
    """
    return [
        METRICS[name]((channel,), threshold=None, name=f"{name}_{label}")
        for name in names
        for channel, label in enumerate(classes)
    ]
