"""Does a case look like those of the training? A score of feature vectors, larger for stranger cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mahalanobis:
    """Gaussians around the classes' means with one covariance, by `fit_mahalanobis`.

    Args:
        means: of the classes, (C, D).
        directions: u_i, in which the features vary most, orthonormal, (R, D).
        variances: λ_i, along each of them, (R,), falling.
        rest: σ², the variance along every other direction.
    """

    means: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    rest: float

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Mahalanobis distance to the nearest class's mean, float64 (N,).

        Lee et al. 2018 (section 2.1, eq. 2) take minus its square as their confidence. Of an offset δ from a mean the
        square is Σ_i (u_i·δ)² / λ_i + |δ − Σ_i (u_i·δ) u_i|² / σ².

        Args:
            features: (N, D).

        Raises:
            ValueError: another number of features than in the fit.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != self.means.shape[1]:
            raise ValueError(f"`features` must be (N, {self.means.shape[1]}), received {features.shape}")
        squares = []
        for mean in self.means:
            offset = features - mean
            along = offset @ self.directions.T
            across = offset - along @ self.directions
            squares.append((along**2 / self.variances).sum(axis=1) + (across**2).sum(axis=1) / self.rest)
        return np.sqrt(np.min(squares, axis=0))


def fit_mahalanobis(features: np.ndarray, labels: np.ndarray, rank: int | None = None) -> Mahalanobis:
    """Fit a mean to each class and one covariance to all of them (Lee et al. 2018, section 2.1, eq. 1).

    The covariance is shrunk to a multiple of the identity (Ledoit & Wolf 2004): there may be more features than cases,
    and features that never move. With a `rank` it is that of probabilistic principal components (Tipping & Bishop
    1999, eq. 7 and 8): the largest variances stay, all others become their mean.

    Args:
        features: of training cases, (N, D), such as the pooled maps of a backbone.
        labels: class of each case, (N,).
        rank: how many variances stay, at least 1; None, or D and more: all.

    Raises:
        ValueError: shapes that do not fit, no case, numbers that are not finite, a rank below 1, or features whose
            covariance within the classes can't be inverted even so, such as with one case per class.
    """
    from sklearn.covariance import LedoitWolf

    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 2 or not features.size or not np.isfinite(features).all():
        raise ValueError(f"`features` must be finite, (N, D) with N > 0 and D > 0, received {features.shape}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"`labels` must be ({len(features)},), received {labels.shape}")
    if rank is not None and rank < 1:
        raise ValueError(f"`rank` must be at least 1, received {rank}")
    classes, class_of = np.unique(labels, return_inverse=True)
    means = np.stack([features[class_of == number].mean(axis=0) for number in range(len(classes))])
    covariance = LedoitWolf(store_precision=False, assume_centered=True).fit(features - means[class_of]).covariance_
    count = len(covariance)
    rank = count if rank is None else min(rank, count)
    variances, directions = np.linalg.eigh(covariance)
    rest = variances[: count - rank].mean() if rank < count else variances[0]
    variances, directions = variances[::-1][:rank], directions.T[::-1][:rank]
    if not rest > count * np.finfo(np.float64).eps * variances[0]:
        raise ValueError(
            f"`features` must vary within the classes: the covariance of {len(features)} cases of {len(classes)} "
            "classes can't be inverted"
        )
    return Mahalanobis(means, directions, variances, float(rest))


def choose_threshold(scores_validation: np.ndarray, kept: float = 0.95) -> float:
    """The smallest threshold that enough validation cases don't pass; a case with a larger score is unfamiliar.

    Args:
        scores_validation: of familiar cases that were not trained on, (N,), larger for stranger ones.
        kept: the least share of them with a score of at most the threshold, in (0, 1].

    Raises:
        ValueError: no score, numbers that are not finite, or a share out of range.
    """
    scores = np.sort(_scores(scores_validation, "scores_validation"))
    if not 0 < kept <= 1:
        raise ValueError(f"`kept` must lie in (0, 1], received {kept!r}")
    shares = np.arange(1, len(scores) + 1) / len(scores)
    return float(scores[(shares >= kept).argmax()])


def separation(familiar: np.ndarray, unfamiliar: np.ndarray) -> float:
    """Area under the ROC curve: how often an unfamiliar case has the larger score of the two, ties counting half.

    Args:
        familiar: scores of cases like those of the training, (N,).
        unfamiliar: scores of others, (M,).

    Raises:
        ValueError: no score on one side, or numbers that are not finite.
    """
    from sklearn.metrics import roc_auc_score

    familiar, unfamiliar = _scores(familiar, "familiar"), _scores(unfamiliar, "unfamiliar")
    strange = np.repeat([0, 1], [len(familiar), len(unfamiliar)])
    return float(roc_auc_score(strange, np.concatenate([familiar, unfamiliar])))


def _scores(scores: np.ndarray, argument: str) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"`{argument}` must be (N,) with N > 0 and finite, received shape {scores.shape}")
    return scores
