"""The symmetry network of SE-LCN as a stage of a comparison: its cases, its row, and how it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import keras
import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.data.sources import load_cases
from tfseg.data.splits import Split, check_classes
from tfseg.errors import ConfigError, UserError
from tfseg.jobs.rows import ClassifierRow
from tfseg.models.classifier import behind_hair_removal
from tfseg.names import SymmetryApproach

PREFIX = "symmetry_"


def symmetry_row(config: ComparisonConfig) -> ClassifierRow:
    """The row of the symmetry network that a row's configuration, resolved, asks for."""
    changes = {
        "backbone": config.symmetry_backbone,
        "epochs": config.symmetry_epochs,
        "learning_rate": config.symmetry_learning_rate,
        # The thesis's map, and its weighted loss.
        "saliency": "grad_cam_plus_plus",
        "saliency_layer": config.symmetry_layer,
        "class_weights": True,
        "balance": "none",
        "head": "dense",
        "sensitivity": None,
        "positive": (),
        # One file of weights is for the row's own network.
        "mask_backbone": "auto",
    }
    if config.symmetry_backbone == "small_cnn":
        changes |= {"weights": None, "weights_dir": None}
    elif config.symmetry_weights:
        changes |= {"weights": config.symmetry_weights, "weights_dir": None}
    return ClassifierRow(f"{PREFIX}{config.symmetry_approach}", config.symmetry_approach, changes, symmetry=True)


def symmetry_rows(config: ComparisonConfig, rows: Sequence[ClassifierRow]) -> list[ClassifierRow]:
    """The symmetry networks that must be trained for rows, each once; none where one is given."""
    if config.symmetry_file:
        return []
    needed = [symmetry_row(row.config(config)) for row in rows if needs_symmetry(row)]
    return list({row.name: row for row in needed}.values())


def needs_symmetry(row: ClassifierRow) -> bool:
    """Whether a row looks at a symmetry network's maps."""
    return APPROACHES[row.approach].symmetry in ("own", "shuffled")


def symmetry_cases(config: ComparisonConfig, cases: Cases, splits: Sequence[Split] = ()) -> Cases:
    """The same cases, in the same order, with their symmetry as label.

    Args:
        config: of the comparison.
        cases: its data.
        splits: parts, in each of which every class must be.

    Raises:
        DataError: the data has no such column, or a part lacks a class.
        ConfigError: fewer than two classes.
    """
    found = load_cases(config.data, config.symmetry_target)
    place = {case: number for number, case in enumerate(found.table["id"])}
    found = found.subset(np.array([place[case] for case in cases.table["id"]]))
    if len(found.classes) < 2:
        raise ConfigError(
            f"`symmetry_target` {config.symmetry_target}: {cases.name} has {len(found.classes)} classes of it, "
            "and a network needs two"
        )
    check_classes(splits, found, f"`symmetry_target` {config.symmetry_target}")
    return found


def load_symmetry(path: str | Path, arrays: CaseArrays, resize: str = "stretch") -> keras.Model:
    """Load a trained symmetry network.

    Args:
        path: a ``.keras`` inference graph of a classifier by an approach that a symmetry network may have.
        arrays: the cases that it shall be used on.
        resize: how they were brought to the model's size.

    Raises:
        UserError: the file is missing, is no such network, or takes other images.
    """
    from tfseg.layers.outputs import model_info

    if not Path(path).is_file():
        raise UserError(f"symmetry file {path} does not exist")
    try:
        graph = keras.saving.load_model(path, compile=False)
        info = model_info(graph)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is not a model of tfseg: {error}") from error
    if graph.name not in get_args(SymmetryApproach):
        raise UserError(
            f"{path} was trained by {graph.name}; a symmetry network is trained by one of "
            f"{', '.join(get_args(SymmetryApproach))}"
        )
    if info.image_size != arrays.images.shape[1] or info.resize != resize:
        raise UserError(
            f"{path} takes {info.image_size} pixels with resize={info.resize!r}; expected {arrays.images.shape[1]} "
            f"with {resize!r}"
        )
    if behind_hair_removal(graph) is not graph and not arrays.without_hair:
        raise UserError(f"{path} removes hairs before it looks: give `--hair-removal`, so that everything does")
    return graph


def symmetry_arrays(arrays: CaseArrays, cases: Cases) -> CaseArrays:
    """Decoded cases with their symmetry as label."""
    return replace(arrays, labels=cases.labels)
