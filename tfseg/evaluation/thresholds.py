"""Which threshold turns a lesion map into a mask: sweeps, the choice on validation, Otsu, and histograms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfseg.evaluation.postprocess import binarise, check_binarisation
from tfseg.evaluation.segmentation import (
    IGNORED,
    Resize,
    count_pixels,
    lesion_of_classes,
    mean_scores,
    restored_maps,
    score_cases,
    scores_of_counts,
)

if TYPE_CHECKING:
    import pandas as pd

    from tfseg.data.cases import Cases

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


def sweep_thresholds(
    cases: Cases,
    lesion_probability: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    resize: Resize = "stretch",
    postprocessing: Sequence[str] = (),
) -> pd.DataFrame:
    """Score lesion maps at several thresholds, each as `score_cases` does.

    Args:
        cases, lesion_probability, resize, postprocessing: see `score_cases`.
        thresholds: probabilities in [0, 1], rising.

    Returns:
        One row per case with a mask and threshold: ``id``, ``label``, ``threshold`` and the scores of `mask_scores`.

    Raises:
        ValueError: thresholds that do not rise or leave [0, 1], or maps that do not fit the cases.
    """
    import pandas as pd

    levels = np.asarray(thresholds, np.float64)
    if not levels.size or (np.diff(levels) <= 0).any():
        raise ValueError(f"`thresholds` must rise, received {list(thresholds)}")
    for level in levels:
        check_binarisation(float(level), postprocessing)
    maps = np.asarray(lesion_probability)
    if maps.ndim != 3 or len(maps) != len(cases):
        raise ValueError(f"`lesion_probability` must be ({len(cases)}, h, w), one map per case, received {maps.shape}")
    rows = []
    for case, classes, restored in restored_maps(cases, maps[..., np.newaxis], resize):
        true, valid = lesion_of_classes(classes, cases), classes != IGNORED
        if postprocessing:
            counts = [
                count_pixels(true, binarise(restored[..., 0], float(level), postprocessing), valid) for level in levels
            ]
        else:
            counts = _counts_at(restored[..., 0], true, valid, levels)
        for level, count in zip(levels, counts, strict=True):
            rows.append(
                {"id": case["id"], "label": case["label"], "threshold": float(level), **scores_of_counts(count)}
            )
    columns = ["id", "label", "threshold", *scores_of_counts([0, 0, 0, 0])]
    return pd.DataFrame(rows, columns=columns)


def _counts_at(probability, true, valid, levels) -> np.ndarray:
    """Counts at every threshold from one pass over the pixels, int64 (T, 4)."""
    # How many thresholds a pixel reaches, compared in the map's precision as `binarise` does.
    reached = np.searchsorted(levels.astype(probability.dtype), probability, side="right")
    lesion, other = (
        np.bincount(reached[part], minlength=len(levels) + 1)[::-1].cumsum()[::-1]
        for part in (true & valid, ~true & valid)
    )
    both, too_much = lesion[1:], other[1:]
    return np.stack([both, too_much, lesion[0] - both, other[0] - too_much], axis=1).astype(np.int64)


def threshold_curve(sweep: pd.DataFrame, over_labels: bool = False) -> pd.DataFrame:
    """The mean scores at every threshold: a table with ``threshold`` and the scores.

    Args:
        sweep: by `sweep_thresholds`.
        over_labels: see `mean_scores`.
    """
    import pandas as pd

    rows = [
        {"threshold": float(threshold), **mean_scores(part.drop(columns="threshold"), over_labels)}
        for threshold, part in sweep.groupby("threshold")
    ]
    return pd.DataFrame(rows)


def best_threshold(curve: pd.DataFrame, score: str = "iou") -> float:
    """The threshold of the highest score; of equal ones that nearest to 0.5.

    Args:
        curve: by `threshold_curve`, of the validation part.
        score: one of its columns.

    Raises:
        ValueError: no such score, or no threshold with a number.
    """
    if score not in curve or score == "threshold":
        raise ValueError(f"`score` must be one of {list(curve.columns[1:])}, received {score!r}")
    known = curve[curve[score].notna()]
    if known.empty:
        raise ValueError(f"no threshold has a {score}: there is no mask to score against")
    best = known[known[score] >= known[score].max() - 1e-12]
    return float(best["threshold"].iloc[int(np.argmin(np.abs(best["threshold"] - 0.5)))])


@dataclass(frozen=True)
class ThresholdStudy:
    """What thresholds do on the test part, the choice made on validation.

    Args:
        chosen: the threshold that was best on validation.
        validation, test: curves by `threshold_curve`.
        tables: scores per test case, by `score_cases`: ``"fixed"`` (0.5), ``"chosen"`` and ``"otsu"``.
    """

    chosen: float
    validation: pd.DataFrame
    test: pd.DataFrame
    tables: dict[str, pd.DataFrame]


def study_thresholds(
    validation: tuple[Cases, np.ndarray],
    test: tuple[Cases, np.ndarray],
    score: str = "iou",
    thresholds: Sequence[float] = THRESHOLDS,
    resize: Resize = "stretch",
    over_labels: bool = False,
    surfaces: bool = False,
    postprocessing: Sequence[str] = (),
) -> ThresholdStudy:
    """Choose a threshold on validation and score the test part with it, with 0.5 and with Otsu's per image.

    Args:
        validation, test: the parts' cases and their maps (N, h, w).
        score: what the choice looks at.
        thresholds, resize, postprocessing: see `sweep_thresholds`.
        over_labels: whether the choice and the curves give every label the same weight.
        surfaces: see `score_cases`.

    Raises:
        ValueError: as the functions that it calls.
    """
    curves = [
        threshold_curve(sweep_thresholds(*part, thresholds, resize, postprocessing), over_labels)
        for part in (validation, test)
    ]
    chosen = best_threshold(curves[0], score)
    tables = {
        name: score_cases(*test, threshold, resize, surfaces, postprocessing)
        for name, threshold in (("fixed", 0.5), ("chosen", chosen), ("otsu", "otsu"))
    }
    return ThresholdStudy(chosen, *curves, tables)


def histogram(images: Iterable[np.ndarray], bins: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """How often each value stands in images: the bands in which a network's output, or its input, clusters.

    Args:
        images: arrays with values in [0, 1] (floats), or in [0, 255] (uint8), one after the other.
        bins: number of bands of equal width.

    Returns:
        A pair: counts int64 (bins,), and the bands' edges in [0, 1], (bins + 1,).

    Raises:
        ValueError: fewer than one band.
    """
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, received {bins}")
    edges = np.linspace(0.0, 1.0, bins + 1)
    counts = np.zeros(bins, np.int64)
    for image in images:
        values = np.asarray(image)
        values = values / 255.0 if values.dtype == np.uint8 else np.clip(values, 0.0, 1.0)
        counts += np.histogram(values, edges)[0]
    return counts, edges
