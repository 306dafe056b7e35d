"""Scores of a lesion mask, per image and at the image's original resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tfseg.evaluation.postprocess import Threshold, binarise, check_binarisation

if TYPE_CHECKING:
    import pandas as pd

    from tfseg.data.cases import Cases

Resize = Literal["stretch", "pad"]
IGNORED = 255
COUNTS = ("true_positive", "false_positive", "false_negative", "true_negative")


def mask_scores(true: np.ndarray, predicted: np.ndarray, valid: np.ndarray | None = None) -> dict[str, float]:
    """Pixel scores of one predicted lesion mask.

    A score whose denominator is zero is 1 when the prediction is right in every pixel and 0 otherwise. So two
    empty masks score 1 throughout; a lesion predicted in an image that has none gets recall 0, no lesion
    predicted where there is one gets precision 0, and where the lesion fills the image a prediction that does
    not gets specificity 0. Without any valid pixel all scores are NaN.

    Args:
        true: bool (H, W).
        predicted: bool (H, W).
        valid: bool (H, W), False where pixels count nowhere; None where all count.

    Returns:
        ``dice, iou, pixel_accuracy, pixel_error`` (1 − accuracy), ``pixel_precision, pixel_recall,
        pixel_specificity``.

    Raises:
        ValueError: when the shapes differ.
    """
    return scores_of_counts(count_pixels(true, predicted, valid))


def count_pixels(true: np.ndarray, predicted: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Counts of the pixels in the order of `COUNTS`, int64 (4,); arguments as for `mask_scores`."""
    true, predicted = _checked(true, predicted)
    if valid is not None:
        valid = np.asarray(valid, bool)
        if valid.shape != true.shape:
            raise ValueError(f"`valid` must have the masks' shape {true.shape}, received {valid.shape}")
        true, predicted = true[valid], predicted[valid]
    both, lesion, found = (np.count_nonzero(mask) for mask in (true & predicted, true, predicted))
    return np.array([both, found - both, lesion - both, true.size - lesion - found + both], np.int64)


def scores_of_counts(counts: np.ndarray | Sequence[int]) -> dict[str, float]:
    """The scores of `mask_scores` from counts in the order of `COUNTS`, such as sums over images."""
    both, too_much, missed, neither = (int(count) for count in counts)
    wrong, total = too_much + missed, both + too_much + missed + neither

    def share(part: int, whole: int) -> float:
        if not total:
            return float("nan")
        return part / whole if whole else float(not wrong)

    return {
        "dice": share(2 * both, 2 * both + wrong),
        "iou": share(both, both + wrong),
        "pixel_accuracy": share(total - wrong, total),
        "pixel_error": share(wrong, total),
        "pixel_precision": share(both, both + too_much),
        "pixel_recall": share(both, both + missed),
        "pixel_specificity": share(neither, neither + too_much),
    }


def surface_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Distances between the outlines of two masks, in pixels.

    An outline is the mask's pixels with a neighbour (of four) outside the mask or outside the image. Two
    empty masks are 0 apart; where only one is empty both scores are the image's diagonal, the largest
    distance that can be, so that a lesion which was missed does not drop out of the mean.

    Args:
        true: bool (H, W).
        predicted: bool (H, W).

    Returns:
        ``hausdorff95``: the larger of the two directed 95th percentiles. ``surface_distance``: the mean
        distance over the pixels of both outlines (average symmetric surface distance).

    Raises:
        ValueError: when the shapes differ.
    """
    from scipy import ndimage

    true, predicted = _checked(true, predicted)
    if not (true.any() and predicted.any()):
        distance = float(np.hypot(*true.shape)) if true.any() or predicted.any() else 0.0
        return {"hausdorff95": distance, "surface_distance": distance}
    outlines = [mask & ~ndimage.binary_erosion(mask) for mask in (true, predicted)]
    there, back = (ndimage.distance_transform_edt(~other)[outline] for outline, other in (outlines, reversed(outlines)))
    return {
        "hausdorff95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "surface_distance": float(np.concatenate([there, back]).mean()),
    }


def score_cases(
    cases: Cases,
    lesion_probability: np.ndarray,
    threshold: Threshold = 0.5,
    resize: Resize = "stretch",
    surfaces: bool = False,
    postprocessing: Sequence[str] = (),
) -> pd.DataFrame:
    """Score predicted lesion maps against the cases' mask files, at the files' own resolution.

    The lesion is the union of the lesion classes; pixels with the ignore value are left out of the pixel
    scores, and count as background for the distances.

    Args:
        cases: N cases; those without a mask file are left out of the table.
        lesion_probability: (N, h, w) in [0, 1], one map per case in the same order.
        threshold: probability from which a pixel is lesion, or ``"otsu"`` for each map's own.
        resize: how images became the model's square: ``"stretch"`` did not keep their aspect; ``"pad"``
            scaled them to fit, centred them and filled the rest, which is cut off before scoring.
        surfaces: add ``hausdorff95`` and ``surface_distance`` (in pixels of the original image).
        postprocessing: what is done to the mask, names out of `POSTPROCESSING` in this order.

    Returns:
        One row per case that has a mask: ``id``, ``label`` and the scores of `mask_scores`.

    Raises:
        ValueError: when there is not one map per case, an option is unknown, or a mask file can't be read
            (`tfseg.data.ingest.ImageError`, which names the file).
    """
    import pandas as pd

    lesion_probability = np.asarray(lesion_probability)
    if lesion_probability.ndim != 3 or len(lesion_probability) != len(cases):
        raise ValueError(
            f"`lesion_probability` must be ({len(cases)}, h, w), one map per case, received {lesion_probability.shape}"
        )
    check_binarisation(threshold, postprocessing)
    rows = []
    for case, classes, restored in restored_maps(cases, lesion_probability[..., np.newaxis], resize):
        true, valid = lesion_of_classes(classes, cases), classes != IGNORED
        predicted = binarise(restored[..., 0], threshold, postprocessing, valid)
        scores = mask_scores(true, predicted, valid)
        if surfaces:
            scores |= surface_scores(true & valid, predicted & valid)
        rows.append({"id": case["id"], "label": case["label"], **scores})
    if not rows:
        nothing = np.zeros((1, 1), bool)
        columns = [*mask_scores(nothing, nothing), *(surface_scores(nothing, nothing) if surfaces else ())]
        return pd.DataFrame(columns=["id", "label", *columns])
    return pd.DataFrame(rows)


def restored_maps(
    cases: Cases, maps: np.ndarray, resize: Resize = "stretch"
) -> Iterator[tuple[pd.Series, np.ndarray, np.ndarray]]:
    """Every case that has a mask file, with its maps brought back to the file's size.

    Args:
        cases: N cases.
        maps: (N, h, w, C), in the same order.
        resize: how images became the model's square.

    Yields:
        The case's row, the mask's class indices uint8 (H, W) with 255 where a pixel is ignored, and the maps float32
        (H, W, C).

    Raises:
        ValueError: `resize` is unknown, or a mask file can't be read.
    """
    from tfseg.data.decode import check_resize_mode, restore_map
    from tfseg.data.ingest import read_mask

    check_resize_mode(resize)
    for position in np.flatnonzero(cases.has_mask):
        case = cases.table.iloc[position]
        classes = np.asarray(read_mask(case["mask"], cases.mask_classes))
        yield case, classes, restore_map(maps[position], *classes.shape, resize=resize)


def lesion_of_classes(classes: np.ndarray, cases: Cases) -> np.ndarray:
    """The union of the lesion classes of class indices, bool of the same shape."""
    names = cases.mask_classes.names
    return np.isin(classes, [names.index(name) for name in cases.mask_classes.lesion])


def mean_scores(scores: pd.DataFrame, over_labels: bool = False) -> dict[str, float]:
    """Mean of the per-image scores.

    Args:
        scores: a table by `score_cases`.
        over_labels: first the mean within each label, then the unweighted mean over the labels (the EBHI-Seg
            report's Table 1); cases without a label are left out. Otherwise the mean over all images.

    Returns:
        One value per score; NaN scores (no valid pixel) are left out.
    """
    values = scores.drop(columns=["id", "label"]).astype(float)
    if over_labels:
        values = values.groupby(scores["label"]).mean()
    return {name: float(value) for name, value in values.mean().items()}


def _checked(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = np.asarray(true), np.asarray(predicted)
    for name, mask in (("true", true), ("predicted", predicted)):
        if mask.dtype != bool:
            raise ValueError(
                f"`{name}` must be boolean (compare a probability with a threshold), received {mask.dtype}"
            )
    if true.shape != predicted.shape or true.ndim != 2:
        raise ValueError(f"`true` and `predicted` must both be (H, W), received {true.shape} and {predicted.shape}")
    return true, predicted
