"""How good labels are that a labelling has drawn, and what its own judgement of them is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.data.cases import Cases
from tfseg.data.ingest import read_mask
from tfseg.evaluation.mask_classes import certain_map, score_classes
from tfseg.evaluation.scores import TestScores
from tfseg.evaluation.segmentation import lesion_of_classes, score_cases
from tfseg.jobs.label.review import class_overlaps, rank_correlation
from tfseg.jobs.label.sheet import LIST

# The worst of the masks, as a share of all: what a review must not miss.
WORST = 0.1


def score_labels(truth: Cases, folder: Path) -> pd.DataFrame:
    """Compare drawn masks with the true ones, at the files' own resolution; unknown pixels count nowhere.

    Args:
        truth: N cases with their true masks, all of them drawn.
        folder: that a labelling has written, see `tfseg.jobs.label.job.label_masks`.

    Returns:
        One row per case: ``id``, the scores of `mask_scores` for all lesion classes together, ``iou_<class>`` of every
        mask class, their mean ``mean_iou``, the mean ``foreground_iou`` over those but the background that are there
        or drawn (see `class_overlaps`), and by the labelling ``confidence`` and ``check_first`` (1 or 0).
    """
    review = pd.read_csv(folder / LIST, dtype={"id": str}, keep_default_na=False).set_index("id")
    by_class, whole = [], []
    names = truth.mask_classes.names
    for position, name in enumerate(truth.table["id"]):
        case = truth.subset([position])
        drawn = read_mask(folder / review.loc[name, "mask"], truth.mask_classes)
        # It has the true mask's size, so that nothing is resized.
        by_class.append(score_classes(case, certain_map(drawn, truth.mask_classes)[np.newaxis]))
        whole.append(score_cases(case, lesion_of_classes(drawn, truth)[np.newaxis]))
    table = pd.concat(by_class, ignore_index=True)
    classes = table.pivot(index="id", columns="class", values="iou").loc[truth.table["id"], list(names)]
    scores = pd.concat(whole, ignore_index=True).drop(columns="label")
    listed = review.loc[truth.table["id"]]
    return scores.assign(
        **{f"iou_{name}": classes[name].to_numpy() for name in names},
        mean_iou=classes.mean(axis=1).to_numpy(),
        foreground_iou=class_overlaps(table, truth),
        confidence=listed["confidence"].to_numpy(float),
        check_first=(listed["check_first"] == "yes").to_numpy(float),
    )


class LabelScores(TestScores):
    """Scores of drawn masks, with what the labelling's own judgement of them is worth."""

    def metrics(self, classes: Sequence[str], positions: np.ndarray | None = None) -> dict[str, float]:
        """The mean scores over all cases, or over those at `positions` (which may repeat).

        Of drawn masks also, with the ``foreground_iou``: ``spearman``, its rank correlation with the confidence;
        ``check_first_iou`` and ``others_iou``, its means over the masks that the labelling wants checked first and
        over the others; ``worst_found``, the share of the worst tenth that is among the former.
        """
        results = super().metrics(classes, positions)
        if "confidence" not in self.per_case:
            return results
        chosen = np.arange(len(self.groups)) if positions is None else positions
        names = ("foreground_iou", "confidence", "check_first")
        overlap, confidence, flags = (self.per_case[name][chosen] for name in names)
        flagged = flags > 0.5
        worst = np.argsort(overlap, kind="stable")[: max(1, round(WORST * len(overlap)))]
        correlation = rank_correlation(confidence.tolist(), overlap.tolist())
        return results | {
            "spearman": float("nan") if correlation is None else correlation,
            "check_first_iou": _mean(overlap[flagged]),
            "others_iou": _mean(overlap[~flagged]),
            "worst_found": _mean(flags[worst]),
        }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
