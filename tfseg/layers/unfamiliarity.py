"""How unlike the training cases an image is, as a layer: it goes with the model wherever that is served."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


def pooled_features(maps):
    """Feature maps (B, h, w, K), or tokens (B, N, K), averaged over the image in float32: (B, K)."""
    return ops.mean(ops.cast(maps, "float32"), axis=tuple(range(1, len(maps.shape) - 1)))


@keras.saving.register_keras_serializable(package="tfseg")
class Unfamiliarity(keras.layers.Layer):
    """Mahalanobis distance of pooled features to the nearest class's mean, as a multiple of a threshold.

    The covariance is shared by the classes (Lee et al. 2018, section 2.1) and held as principal components: the
    variances along its largest directions, and one for all others (Tipping & Bishop 1999), so that a network with
    thousands of channels needs no matrix of their square. Computed in float32 under every precision policy. Before
    `fit` it gives 0.

    Args:
        classes: number of classes, at least 1.
        rank: how many directions have a variance of their own; at most the number of channels.

    Call:
        maps: (B, h, w, K), or tokens (B, N, K); returns float32 (B,), ≥ 0. Above 1 a case is unfamiliar.

    Raises:
        ValueError: arguments out of range, or maps without channels.

    Example:

    >>> Unfamiliarity(2)(keras.ops.ones((3, 4, 4, 8)))
    [0.0, 0.0, 0.0]
    """

    def __init__(self, classes: int, rank: int = 64, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        for name, value in (("classes", classes), ("rank", rank)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, received {value!r}")
        self.classes, self.rank = int(classes), int(rank)

    def build(self, input_shape):
        channels = input_shape[-1]
        if len(input_shape) not in (3, 4) or channels is None:
            raise ValueError(f"`maps` must be (batch, …, channels), received {tuple(input_shape)}")
        rank = min(self.rank, channels)

        def fixed(name, shape, start="zeros"):
            return self.add_weight(name=name, shape=shape, initializer=start, trainable=False)

        self.means = fixed("means", (self.classes, channels))
        self.directions = fixed("directions", (rank, channels))
        self.precisions = fixed("precisions", (rank,))
        self.rest_precision = fixed("rest_precision", ())
        self.threshold = fixed("threshold", (), "ones")

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called, in this process or before the layer was saved."""
        return bool(self.rest_precision > 0)

    def fit(self, means, directions, variances, rest: float, threshold: float) -> None:
        """Take over what `tfseg.evaluation.out_of_distribution.fit_mahalanobis` found.

        Args:
            means: (C, K), C at least 1 and at most `classes`: a class without a training case has none.
            directions: (R, K), R = min(rank, K).
            variances: (R,), above 0.
            rest: the variance of the other directions, above 0.
            threshold: the distance that counts as 1, above 0.

        Raises:
            ValueError: another shape, or a number that is not positive.
        """
        means, directions, variances = np.asarray(means), np.asarray(directions), np.asarray(variances)
        channels = self.means.shape[1:]
        if means.shape[1:] != channels or not 1 <= len(means) <= self.classes:
            raise ValueError(f"`means` must be ({self.classes}, {channels[0]}) or fewer rows, received {means.shape}")
        if directions.shape != self.directions.shape or variances.shape != self.precisions.shape:
            raise ValueError(
                f"`directions` must be {tuple(self.directions.shape)}, with as many variances, received "
                f"{directions.shape} and {variances.shape}"
            )
        if not ((variances > 0).all() and rest > 0 and threshold > 0):
            raise ValueError(
                f"variances and `threshold` must be above 0, received {variances.min()}, {rest} and {threshold}"
            )
        # A mean that is there twice changes nothing about the nearest.
        self.means.assign(np.concatenate([means, np.repeat(means[:1], self.classes - len(means), axis=0)]))
        self.directions.assign(directions)
        self.precisions.assign(1.0 / variances)
        self.rest_precision.assign(1.0 / rest)
        self.threshold.assign(threshold)

    def call(self, maps):
        offset = ops.expand_dims(pooled_features(maps), 1) - self.means
        along = ops.matmul(offset, ops.transpose(self.directions))
        # Subtracted before it is squared: the difference of two large squares would be lost in float32.
        across = offset - ops.matmul(along, self.directions)
        squares = ops.sum(ops.square(along) * self.precisions, axis=-1)
        squares += ops.sum(ops.square(across), axis=-1) * self.rest_precision
        return ops.sqrt(ops.min(squares, axis=1)) / self.threshold

    def compute_output_shape(self, input_shape):
        return (input_shape[0],)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "rank": self.rank}
