"""Classes of unequal size made even, by repeating cases: every repetition is augmented anew."""

from __future__ import annotations

import numpy as np

METHODS = ("none", "majority", "towards")


def balance_positions(
    labels: np.ndarray,
    positions: np.ndarray,
    method: str = "none",
    seed: int = 0,
    *,
    target: int = 2000,
    versions: int = 4,
) -> np.ndarray:
    """Repeat and leave out training cases so that the classes have like numbers.

    For the training part only: copies of a case must not stand on both sides of a split.

    Args:
        labels: class indices of all cases, int (N,), -1 where unknown.
        positions: the training cases, int (n,).
        method: ``"none"``; ``"majority"``: every class is repeated up to the largest one (the cervical and the EBHI
            paper); ``"towards"``: classes above `target` cases are sampled down to it, smaller ones are repeated up
            to it, no case more than `versions` times (the SE-LCN thesis, its Figure 6).
        seed: chooses which cases are left out, and which are repeated once more than the others of their class.
        target: cases per class that ``"towards"`` aims at.
        versions: how often ``"towards"`` takes a case at most: the original and its three copies.

    Returns:
        Positions in ascending order, a case as often as it is to be seen, int64. Cases without a label are kept once.

    Raises:
        ValueError: an unknown method, or a target or number of versions below 1.
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {list(METHODS)}, received {method!r}")
    if target < 1 or versions < 1:
        raise ValueError(f"`target` and `versions` must be at least 1, received {target} and {versions}")
    positions = np.asarray(positions, np.int64)
    if method == "none" or not len(positions):
        return positions
    present = np.asarray(labels)[positions]
    generator = np.random.default_rng(seed)
    parts = [positions[present < 0]]
    counts = {label: int((present == label).sum()) for label in np.unique(present[present >= 0])}
    for label, count in counts.items():
        members = generator.permutation(positions[present == label])
        wanted = max(counts.values()) if method == "majority" else min(target, versions * count)
        # The start of the order is repeated once more than its end, so that nobody is seen two times more often.
        parts.append(np.resize(members, wanted))
    return np.sort(np.concatenate(parts))


def occurrences(positions: np.ndarray) -> np.ndarray:
    """How often each position stood before in the list, int64 (n,): 0 for the first time.

    `[3, 5, 3, 3]` gives `[0, 0, 1, 2]`.
    """
    positions = np.asarray(positions, np.int64)
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.array([], np.int64)
    result = np.empty(len(positions), np.int64)
    result[order] = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
    return result


def drawn_per_class(labels: np.ndarray, positions: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """At most so many of the cases of each class, drawn at random; cases without a label are left out.

    Args:
        labels: class indices of all cases, int (N,), -1 where unknown.
        positions: cases to draw from, int (n,).
        count: of each class.
        seed: of the draw.

    Returns:
        Positions in ascending order, int64.
    """
    positions, generator = np.asarray(positions, np.int64), np.random.default_rng(seed)
    present = np.asarray(labels)[positions]
    drawn = [generator.permutation(positions[present == label])[:count] for label in np.unique(present[present >= 0])]
    return np.sort(np.concatenate([*drawn, np.array([], np.int64)]))
