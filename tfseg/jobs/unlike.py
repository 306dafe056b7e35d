"""How well a model's unfamiliarity tells its own kind of images from others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfseg.data.batches import load_arrays
from tfseg.data.checks import check
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError
from tfseg.evaluation.out_of_distribution import separation
from tfseg.evaluation.statistics import bootstrap_interval, summarise
from tfseg.export.predictor import Predictor
from tfseg.jobs.scored_cases import external_name
from tfseg.jobs.scored_rows import predicted
from tfseg.progress import progress_bar


def unlike_rows(
    predictor: Predictor,
    familiar: np.ndarray,
    groups: np.ndarray,
    others: Sequence[str],
    allow: Sequence[str] = (),
) -> list[dict]:
    """A row for each dataset of another kind of images, named "unlike" and the dataset.

    ``unfamiliar_auroc`` is the area under the ROC curve of the unfamiliarity between the scored images and those of the
    other dataset, ``unfamiliar_rate`` the share of the latter that the model calls unfamiliar.

    Args:
        predictor: of a model that gives ``unfamiliarity``.
        familiar: unfamiliarity of the scored images, (N,).
        groups: their groups, (N,).
        others: folders in the plain layout, or ``NAME:PATH``.
        allow: kinds of data errors to go on with.

    Raises:
        DataError: images that can't be read.
    """
    rows, telling = [], predictor.deciding("unfamiliarity")
    for data in others:
        cases = load_cases(data)
        check(cases, allow, classification=False)
        arrays = load_arrays(cases, predictor.info.image_size, predictor.info.resize)
        with progress_bar(f"predicting {len(arrays)} images of {cases.name}", len(arrays)) as advance:
            strange = predicted(telling, arrays.images, advance)["unfamiliarity"]
        rows.append(_row(f"unlike {external_name(data)}", familiar, groups, strange, cases.groups))
    return rows


def _row(name, familiar, groups, strange, other_groups) -> dict:
    scores, count = np.concatenate([familiar, strange]), len(familiar)

    def area(positions):
        inside = positions < count
        if inside.all() or not inside.any():
            return float("nan")
        return separation(scores[positions[inside]], scores[positions[~inside]])

    def rate(positions):
        return float((strange[positions] > 1).mean())

    # Groups of two datasets are different ones, whatever they are called.
    everyone = np.concatenate([np.char.add("familiar ", groups), np.char.add("other ", other_groups)])
    whole = np.arange(len(scores))
    metrics = {
        "unfamiliar_auroc": summarise([area(whole)], bootstrap_interval(area, everyone)),
        "unfamiliar_rate": summarise([rate(whole[: len(strange)])], bootstrap_interval(rate, other_groups)),
    }
    return {"name": name, "settings": {"images": len(strange)}, "metrics": metrics, "paper": None}


def check_unlike(predictor: Predictor, others: Sequence[str]) -> None:
    """Refuse a model that doesn't know what is unfamiliar, and datasets of one name.

    Raises:
        ConfigError: says so.
    """
    names = [external_name(data) for data in others]
    if len(set(names)) != len(names):
        raise ConfigError(f"`unlike` datasets must have different names, received {', '.join(names)}")
    if others and "unfamiliarity" not in predictor.info.outputs:
        raise ConfigError(f"`unlike`: the model gives {list(predictor.info.outputs)}, no unfamiliarity")
