"""How far a predicted mask can be trusted: its confidence, what is odd about it, and the order of a review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.checks import lesion_pixels, lesion_share
from tfseg.data.ingest import IGNORED
from tfseg.evaluation.mask_classes import class_means, pooled_scores

if TYPE_CHECKING:
    import pandas as pd

# A part smaller than this share of the lesion is a speck, not a component.
SPECK = 0.01
# A mask of an unusual size is this many standard deviations away from the given ones, on the logit scale, where a
# lesion that fills the image is as far out as one that is hardly there. Given masks that are all of one size still
# leave room for 0.25, about a sixth of the area up or down for each deviation.
DEVIATIONS, LEAST_DEVIATION = 3.0, 0.25
# What at most one in ten given masks does is worth a look.
RARE = 0.1
# The lesion classes together, beside the mask's own classes.
WHOLE = "*"
# Of fewer images a rank correlation says nothing.
LEAST_RANKED = 10


@dataclass(frozen=True)
class MaskFacts:
    """What can be said of a mask without a look at its image.

    Args:
        share: the lesion's share of the known pixels, in [0, 1].
        components: parts that don't touch by a side or a corner, without specks, of every class that occurs but the
            background; and of all lesion classes together under ``"*"``.
        on_frame: whether the lesion reaches the image's outermost pixels.
    """

    share: float
    components: dict[str, int]
    on_frame: bool

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that occur, without the background."""
        return tuple(name for name in self.components if name != WHOLE)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping) -> MaskFacts:
        return cls(**value)


@dataclass(frozen=True)
class Usual:
    """What the given masks are like, as far as `reasons` compares with it.

    Args:
        confidence: lower ones are low: nine of ten validation masks are predicted with a higher one.
        components: what nine of ten given masks don't exceed, by the names of `MaskFacts.components`.
        on_frame: share of the given masks that reach the frame.
        size: mean and standard deviation of the logit of the lesion's share.
        shares: the smallest and the largest share.
        classes: those that every given mask has.
        several: whether there is more than one class beside the background, so that each is looked at by itself.
    """

    confidence: float
    components: dict[str, int]
    on_frame: float
    size: tuple[float, float]
    shares: tuple[float, float]
    classes: tuple[str, ...]
    several: bool


def mask_confidence(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """How much a map of probabilities agrees with the mask that was made of it: the Dice coefficient to be expected.

    With `p` a class's probability and `b` the pixels that are given to it, `2 Σ p·b / (Σ p + Σ b)`: the expectation of
    intersection and of areas if every pixel were of the class with probability `p`. It is the mean over the classes
    that the mask has, without the background. Where the mask is empty it is `1 − max p` of the lesion, so that an
    image without any trace of one is certain.

    Args:
        probabilities: (H, W, C) in [0, 1]: one channel is the lesion's; with more, the first is the background, and
            they sum to 1.
        classes: the mask, class indices (H, W).

    Returns:
        In [0, 1]. A well-trained network errs from this number mostly upwards; the order of the images is what counts.
    """
    probabilities = np.asarray(probabilities, np.float64)
    channels = probabilities.shape[-1]
    maps = {1: probabilities[..., 0]} if channels == 1 else {c: probabilities[..., c] for c in range(1, channels)}
    found = []
    for value, p in maps.items():
        b = classes == value
        if b.any():
            found.append(2.0 * p[b].sum() / (p.sum() + b.sum()))
    if found:
        return float(np.mean(found))
    return float(1.0 - np.max(sum(maps.values())))


def mask_facts(classes: np.ndarray, cases: Cases) -> MaskFacts:
    """Measure a mask of class indices, uint8 (H, W), 255 where nothing is known."""
    names = cases.mask_classes.names
    lesion = lesion_pixels(classes, cases) & (classes != IGNORED)
    occurring = [value for value in np.unique(classes).tolist() if 0 < value < len(names)]
    components = {names[value]: _components(classes == value) for value in occurring}
    return MaskFacts(
        share=lesion_share(classes, cases),
        components=components | ({WHOLE: _components(lesion)} if lesion.any() else {}),
        on_frame=bool(lesion[[0, -1]].any() or lesion[:, [0, -1]].any()),
    )


def _components(mask: np.ndarray) -> int:
    from scipy import ndimage

    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return int((np.bincount(parts.ravel())[1:] >= SPECK * mask.sum()).sum())


def usual(given: Sequence[MaskFacts], confidences: Sequence[float]) -> Usual:
    """What is usual, from the given masks and the confidences of the validation images."""
    shares = np.array([facts.share for facts in given])
    logits = _logit(shares[shares > 0])
    spread = float(logits.std(ddof=1)) if len(logits) > 1 else 0.0
    always = set.intersection(*(set(facts.classes) for facts in given))
    counts = {name: [facts.components.get(name, 0) for facts in given] for facts in given for name in facts.components}
    return Usual(
        confidence=float(np.quantile(confidences, 0.1)),
        components={name: int(np.quantile(some, 1.0 - RARE, method="higher")) for name, some in counts.items()},
        on_frame=float(np.mean([facts.on_frame for facts in given])),
        size=(float(logits.mean()), max(LEAST_DEVIATION, spread)),
        shares=(float(shares.min()), float(shares.max())),
        classes=tuple(sorted(always)),
        several=len(set(counts) - {WHOLE}) > 1,
    )


def reasons(facts: MaskFacts, confidence: float, known: Usual) -> list[str]:
    """Why an expert should look at a predicted mask before others; none where it is like the given ones.

    Each is a kind, and mostly its numbers in brackets.
    """
    found = []
    if confidence < known.confidence:
        found.append(f"low confidence (below {known.confidence:.2f})")
    if WHOLE not in facts.components:
        return ["empty mask", *found]
    found += [f"no {name}" for name in known.classes if name not in facts.classes]
    named = [name for name in facts.components if name == WHOLE or known.several]
    for name in named:
        count, most = facts.components[name], max(1, known.components.get(name, 0))
        if count > most:
            of_class = "" if name == WHOLE else f" of {name}"
            found.append(f"several parts{of_class} ({count}; nine of ten given masks have at most {most})")
    if facts.on_frame and known.on_frame <= RARE:
        found.append(f"touches the frame ({known.on_frame:.0%} of the given masks do)")
    mean, deviation = known.size
    if abs(_logit(facts.share) - mean) > DEVIATIONS * deviation:
        low, high = known.shares
        found.append(f"unusual size ({facts.share:.1%} of the image; given masks have {low:.1%} to {high:.1%})")
    return found


def review_order(found: Sequence[Sequence[str]], confidences: Sequence[float], ids: Sequence[str]) -> list[int]:
    """Positions in the order of a review: those with a reason first, the least confident first, ties by id."""
    return sorted(range(len(ids)), key=lambda at: (not found[at], confidences[at], ids[at]))


def rank_correlation(confidences: Sequence[float], overlaps: Sequence[float]) -> float | None:
    """Spearman's ρ of confidence and true overlap; None below ten images, or where either is constant."""
    if len(confidences) < LEAST_RANKED or len(set(confidences)) == 1 or len(set(overlaps)) == 1:
        return None
    from scipy import stats

    return float(stats.spearmanr(confidences, overlaps).statistic)


def class_overlaps(table: pd.DataFrame, cases: Cases) -> list[float]:
    """What a confidence stands for: each image's IoU, the mean over its classes without the background.

    Args:
        table: by `score_classes`. A class that is neither there nor predicted is left out; an image with none has 1.
        cases: whose masks were scored, all with a mask.
    """
    seen = table[["true_positive", "false_positive", "false_negative"]].sum(axis=1) > 0
    counted = table[seen & (table["class"] != cases.mask_classes.names[0])]
    means = counted.groupby("id")["iou"].mean()
    return [float(means.get(name, 1.0)) for name in cases.table["id"]]


def scores_by_class(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Every class's IoU as the mean over images and over all pixels, and how many masks have it."""
    means, pooled = class_means(table), pooled_scores(table)
    there = table[table["true_positive"] + table["false_negative"] > 0].groupby("class").size()
    return {
        name: {"iou": means[name]["iou"], "iou_pooled": pooled[name]["iou"], "masks": int(there.get(name, 0))}
        for name in means
    }


def _logit(share):
    share = np.clip(share, 1e-4, 1.0 - 1e-4)
    return np.log(share / (1.0 - share))
