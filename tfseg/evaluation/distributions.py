"""What every score of a classifier takes: rows of probabilities, and the true classes that go with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Probabilities are float32 on their way here, and text with few digits in a table.
SUM_TOLERANCE = 1e-3


def distributions(probabilities: np.ndarray, classes: Sequence[str] | None = None) -> np.ndarray:
    """The probabilities as float64 (N, C).

    Args:
        probabilities: (N, C).
        classes: the C class names; None: any.

    Raises:
        ValueError: no case, fewer than two classes, another number than `classes`, or rows that are no distributions.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or not len(probabilities) or probabilities.shape[1] < 2:
        raise ValueError(f"`probabilities` must be (N, C) with N > 0 and C > 1, received {probabilities.shape}")
    if classes is not None and probabilities.shape[1] != len(classes):
        raise ValueError(
            f"`probabilities` must have one column for each of {list(classes)}, received {probabilities.shape}"
        )
    wrong = ~((probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) <= SUM_TOLERANCE))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"rows of `probabilities` must be distributions (finite, ≥ 0, sum 1: logits need a softmax); "
            f"row {row} is {probabilities[row].tolist()}"
        )
    return probabilities


def labelled_distributions(
    probabilities: np.ndarray, true: np.ndarray, classes: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities as float64 (N, C) with the true class indices, int (N,).

    Raises:
        ValueError: as `distributions`, or class indices that do not fit.
    """
    probabilities, true = distributions(probabilities, classes), np.asarray(true)
    if true.shape != probabilities.shape[:1] or not np.issubdtype(true.dtype, np.integer):
        raise ValueError(f"`true` must be int ({len(probabilities)},), received {true.dtype} {true.shape}")
    if true.min() < 0 or true.max() >= probabilities.shape[1]:
        raise ValueError(
            f"`true` must hold class indices in 0…{probabilities.shape[1] - 1}, received {true.min()} to {true.max()}; "
            "leave out cases without a label"
        )
    return probabilities, true
