"""Whether an image's label can be told without looking at what the image shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.checks import Finding, Inspection
from tfseg.errors import Problem

if TYPE_CHECKING:
    import pandas as pd

# What a fact is called, and the columns of `image_facts` that it is made of.
FACTS = {
    "size": ("width", "height"),
    "aspect": ("aspect",),
    "border colour": ("red", "green", "blue", "red_spread", "green_spread", "blue_spread"),
    "bytes per pixel": ("bytes_per_pixel",),
    "JPEG quality": ("quantisation",),
    "EXIF": ("exif",),
    "file type": ("extension", "form"),
}
# These also change with what the picture rightly shows: a lesion that reaches the frame, a tissue's texture.
PICTURE_FACTS = ("border colour", "bytes per pixel")
FRAME = 0.05
MARGIN = 0.05
LEAST_CASES = 20
_FOLDS = 5
_MOST_CASES = 6000
_RESAMPLES = 1000
_LEVEL = 0.99


@dataclass(frozen=True)
class Score:
    """A cross-validated balanced accuracy with its 99 % interval (bootstrap over groups)."""

    balanced_accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class LeakTest:
    """How well the facts tell the label.

    Args:
        score: of all facts together.
        by_fact: the score of each fact alone, best first; facts that never vary are left out.
        chance: the balanced accuracy of guessing, 1 / number of classes.
        cases: number of cases tested on.
        classes: names of the classes that had enough cases.
        medians: of every column of `image_facts` that is a number, by class.
    """

    score: Score
    by_fact: dict[str, Score]
    chance: float
    cases: int
    classes: tuple[str, ...]
    medians: dict[str, dict[str, float]]

    def leaks(self, score: Score) -> bool:
        """Whether a score is surely more than 5 % of the way from chance to perfect."""
        return score.low > self.chance + MARGIN * (1 - self.chance)

    @property
    def carriers(self) -> dict[str, Score]:
        """The facts that alone tell the label."""
        return {name: score for name, score in self.by_fact.items() if self.leaks(score)}


def border_colour(pixels: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of red, green and blue in a frame of 5 % of the shorter side.

    Args:
        pixels: uint8 (H, W, 3).

    Returns:
        float64 (6,): three means, three deviations, in [0, 255].
    """
    import cv2

    height, width = pixels.shape[:2]
    frame = max(1, round(FRAME * min(height, width)))
    inner = pixels[frame : height - frame]
    strips = (pixels[:frame], pixels[height - frame :], inner[:, :frame], inner[:, width - frame :])
    values = np.concatenate([strip.reshape(-1, 3) for strip in strips])
    return np.concatenate(cv2.meanStdDev(values[None]))[:, 0]


def image_facts(cases: Cases, inspections: Sequence[Inspection], borders: Mapping[int, np.ndarray]) -> pd.DataFrame:
    """What is known of each readable image beside its content, one row per image, indexed by position.

    Args:
        cases: all of them.
        inspections: from `tfseg.data.checks.inspect_files`.
        borders: `border_colour` by position.
    """
    import pandas as pd

    rows = {}
    for position in sorted(borders):
        header, (width, height) = inspections[position].header, inspections[position].size
        rows[position] = {
            "width": width,
            "height": height,
            "aspect": round(width / height, 4),
            **dict(zip(FACTS["border colour"], borders[position].tolist(), strict=True)),
            "bytes_per_pixel": header.bytes / (width * height),
            "quantisation": header.quantisation,
            "exif": int(header.exif),
            "extension": Path(cases.table["image"].iloc[position]).suffix,
            "form": header.form,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def leak_test(facts: pd.DataFrame, cases: Cases) -> LeakTest | None:
    """Learn the label from the facts alone: 5-fold cross-validation by whole groups, extremely randomised trees.

    Classes with fewer than 20 cases or 5 groups are left out; of more than 6,000 cases that many are drawn. Names
    of files are never looked at.

    Args:
        facts: from `image_facts`.
        cases: gives labels and groups.

    Returns:
        The result, the same for the same data; None when fewer than two classes are left.
    """
    if facts.empty:
        return None
    positions, labels, groups = facts.index.to_numpy(), cases.labels, cases.groups
    enough = [
        number
        for number in range(len(cases.classes))
        if (chosen := positions[labels[positions] == number]).size >= LEAST_CASES
        and len(np.unique(groups[chosen])) >= _FOLDS
    ]
    facts = facts[np.isin(labels[positions], enough)]
    if len(enough) < 2:
        return None
    if len(facts) > _MOST_CASES:
        facts = facts.sample(_MOST_CASES, random_state=0)
    names = [cases.classes[number] for number in enough]
    label = np.searchsorted(enough, labels[facts.index])
    _, group = np.unique(groups[facts.index], return_inverse=True)
    numbers = facts.select_dtypes("number")
    values = numbers.assign(**{name: facts[name].astype("category").cat.codes for name in ("extension", "form")})
    folds = _folds(label, group)
    by_fact = {}
    for name, columns in FACTS.items():
        chosen = values[list(columns)]
        if (chosen.nunique() > 1).any():
            by_fact[name] = _score(chosen.to_numpy(float), label, group, folds)
    by_fact = dict(sorted(by_fact.items(), key=lambda item: -item[1].balanced_accuracy))
    score = _score(values.to_numpy(float), label, group, folds)
    medians = numbers.groupby(label).median().set_axis(names).round(4).to_dict("index")
    return LeakTest(score, by_fact, 1 / len(names), len(facts), tuple(names), medians)


def _folds(label: np.ndarray, group: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if len(np.unique(group)) < len(group):
        return list(StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(label, label, group))
    return list(StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(label, label))


def _score(values: np.ndarray, label: np.ndarray, group: np.ndarray, folds: Sequence) -> Score:
    from sklearn.ensemble import ExtraTreesClassifier

    hit = np.zeros(len(label), bool)
    for train, test in folds:
        trees = ExtraTreesClassifier(40, min_samples_leaf=5, class_weight="balanced", random_state=0)
        hit[test] = trees.fit(values[train], label[train]).predict(values[test]) == label[test]
    classes, groups = label.max() + 1, group.max() + 1
    right, total = np.zeros((groups, classes)), np.zeros((groups, classes))
    np.add.at(right, (group, label), hit)
    np.add.at(total, (group, label), 1)
    recalls = right.sum(0) / total.sum(0)
    drawn = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), _RESAMPLES)
    there = drawn @ total
    resampled = np.where(there > 0, (drawn @ right) / np.maximum(there, 1), recalls).mean(1)
    low, high = np.quantile(resampled, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Score(float(recalls.mean()), float(low), float(high))


def leak_findings(test: LeakTest | None, cases: Cases) -> list[Finding]:
    """A warning where all facts together, or one of them alone, tell the label."""
    if test is None or not (test.leaks(test.score) or test.carriers):
        return []
    score, alone = test.score, test.carriers
    message = (
        f"facts about the file alone tell the class with a balanced accuracy of {score.balanced_accuracy:.2f} "
        f"(99 % interval {score.low:.2f} to {score.high:.2f}, chance {test.chance:.2f})"
    )
    if alone:
        message += ": " + ", ".join(f"{name} {one.balanced_accuracy:.2f}" for name, one in alone.items())
    artefacts = [name for name in alone if name not in PICTURE_FACTS]
    if artefacts:
        message += f"; a network can learn {' and '.join(artefacts)} instead of the lesion"
    else:
        message += "; this can be what the picture rightly shows (tissue, lesions up to the frame): look at it"
    return [Finding(Problem("facts_leak_label", f"target {cases.target!r}", message, "warning"))]
