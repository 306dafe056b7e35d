"""Which true masks a labelling is given, and which are hidden from it. No TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.splits import Split
from tfseg.errors import ConfigError, DataError, Problem


@dataclass(frozen=True)
class RelabelDesign:
    """How many masks are given, and how often they are drawn.

    Args:
        masks_per_class: masks of each class of image that the labelling is given (cervical paper, section III-B: 20).
        runs: number of draws; run r draws with the seed ``split_seed + r``.

    Raises:
        ConfigError: either is below 1.
    """

    masks_per_class: int = 20
    runs: int = 1

    def __post_init__(self):
        for name in ("masks_per_class", "runs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, received {getattr(self, name)}")


def draw_masks(cases: Cases, design: RelabelDesign, seed: int) -> list[Split]:
    """The masks of every run: in the training part those that are given, in the test part all other cases.

    Drawn image by image, whatever patient an image is of, as the images are that an expert is given. The order of the
    rows makes no difference. Cases without a label or a mask are in the test part.

    Args:
        cases: what to draw from.
        design: how many.
        seed: of the first run.

    Raises:
        ConfigError: there are no masks, or no labels to draw by.
        DataError: classes of which no mask would be left to hide.
    """
    if not cases.has_mask.any():
        raise ConfigError(f"{cases.name} has no masks to hide and to compare with")
    if not cases.classes:
        raise ConfigError(f"{cases.name} has no labels: masks are drawn class by class")
    order = np.argsort(cases.table["id"].to_numpy(str), kind="stable")
    labels, known = cases.labels[order], cases.has_mask[order]
    members = [order[known & (labels == number)] for number in range(len(cases.classes))]
    least = design.masks_per_class + 1
    problems = [
        Problem("too_few", f"class {name!r}", f"has {len(found)} masks; at least {least} are needed to hide one")
        for name, found in zip(cases.classes, members, strict=True)
        if len(found) < least
    ]
    if problems:
        raise DataError(problems, cases.name)
    splits = []
    for run in range(design.runs):
        generator = np.random.default_rng(seed + run)
        drawn = [generator.choice(found, design.masks_per_class, replace=False) for found in members]
        given = np.sort(np.concatenate(drawn)).astype(np.int64)
        hidden = np.setdiff1d(np.arange(len(cases)), given)
        splits.append(Split(given, np.array([], np.int64), hidden, f"run_{run}"))
    return splits


def with_hidden_masks(cases: Cases, given: np.ndarray) -> Cases:
    """The cases with the masks at the positions `given` alone."""
    kept = cases.table["mask"].where(np.isin(np.arange(len(cases)), given), None)
    return replace(cases, table=cases.table.assign(mask=kept.astype(object)))
