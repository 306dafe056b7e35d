"""Scores of masks with several classes: per image and class, and pooled over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfseg.evaluation.segmentation import (
    COUNTS,
    IGNORED,
    Resize,
    count_pixels,
    restored_maps,
    scores_of_counts,
    surface_scores,
)

if TYPE_CHECKING:
    import pandas as pd

    from tfseg.data.cases import Cases, MaskClasses


def score_classes(
    cases: Cases, probabilities: np.ndarray, resize: Resize = "stretch", surfaces: bool = False
) -> pd.DataFrame:
    """Score every class of predicted masks against the cases' mask files, at the files' own resolution.

    A pixel belongs to the class of its highest probability, after interpolation; with one channel, to the lesion from
    0.5 on. Pixels with the ignore value are left out of the counts.

    Args:
        cases: N cases; those without a mask file are left out of the table.
        probabilities: (N, h, w, C) in [0, 1], the mask's channels, in the same order.
        resize: see `score_cases`.
        surfaces: add ``hausdorff95`` and ``surface_distance`` (in pixels of the original image).

    Returns:
        One row per case and class: ``id``, ``label``, ``class``, the scores of `mask_scores`, and the int64 counts
        `COUNTS`, for `pooled_scores`.

    Raises:
        ValueError: when the maps' shape does not fit the cases or `resize` is unknown.
    """
    import pandas as pd

    probabilities = np.asarray(probabilities)
    channels, names = cases.mask_classes.channels, cases.mask_classes.names
    if probabilities.ndim != 4 or len(probabilities) != len(cases) or probabilities.shape[-1] != channels:
        raise ValueError(
            f"`probabilities` must be ({len(cases)}, h, w, {channels}), one map per case and class of {list(names)}, "
            f"received {probabilities.shape}"
        )
    rows = []
    for case, classes, restored in restored_maps(cases, probabilities, resize):
        winner = restored[..., 0] >= 0.5 if channels == 1 else restored.argmax(axis=-1)
        valid = classes != IGNORED
        for value, name in enumerate(names):
            true, predicted = classes == value, winner == value
            counts = count_pixels(true, predicted, valid)
            row = {"id": case["id"], "label": case["label"], "class": name, **scores_of_counts(counts)}
            if surfaces:
                row |= surface_scores(true & valid, predicted & valid)
            rows.append(row | dict(zip(COUNTS, counts.tolist(), strict=True)))
    nothing = ["id", "label", "class", *scores_of_counts([0, 0, 0, 0]), *COUNTS]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=nothing)


def certain_map(classes: np.ndarray, mask_classes: MaskClasses) -> np.ndarray:
    """A mask as a map of probabilities, which `score_classes` takes: 1 for the class of a pixel, 0 for the others.

    Args:
        classes: class indices, integers (H, W), without the ignore value.
        mask_classes: what they mean.

    Returns:
        The mask's channels, float32 (H, W, C).
    """
    # With one channel the background has none.
    return np.eye(len(mask_classes.names), dtype=np.float32)[:, -mask_classes.channels :][classes]


def class_means(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean over images of every class's scores, from a table by `score_classes`; NaN scores are left out."""
    values = table.drop(columns=["id", "label", *COUNTS]).groupby("class", sort=False).mean()
    return {name: {key: float(value) for key, value in row.items()} for name, row in values.iterrows()}


def pooled_scores(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The scores of every class from the pixels of all images together, from a table by `score_classes`."""
    sums = table.groupby("class", sort=False)[list(COUNTS)].sum()
    return {name: scores_of_counts(row.to_numpy(np.int64)) for name, row in sums.iterrows()}
