"""What the trainings of a comparison have in common, from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfseg.config import ComparisonConfig
from tfseg.data.augment import RECIPES, Augmentation
from tfseg.data.batches import CaseArrays, make_batches
from tfseg.models.cascade import Enhanced, SymmetryNetwork
from tfseg.models.classifier import Classifier
from tfseg.models.fusion import Fusion
from tfseg.training.devices import make_strategy, seed_everything, set_precision
from tfseg.training.fit import make_optimizer


@dataclass(frozen=True)
class Trained:
    """What a training of a classifier gives.

    Args:
        classifier: the trained parts; a `Fusion` where there is a second branch, an `Enhanced` where a symmetry map is
            handed on.
        history: one row per epoch.
        note: why it broke off, or "".
        validation: probabilities of the validation cases, (n, C), where the classifier itself has seen them; else
            None.
        segmenter: the one that learned together with it, image → mask logits; else None.
        symmetry: likewise.
    """

    classifier: Classifier | Fusion | Enhanced
    history: pd.DataFrame
    note: str = ""
    validation: np.ndarray | None = None
    segmenter: keras.Model | None = None
    symmetry: SymmetryNetwork | None = None


def prepare(config: ComparisonConfig) -> tf.distribute.Strategy:
    """Seed, precision and strategy, before anything is built."""
    seed_everything(config.seed, config.deterministic)
    set_precision(config.precision)
    return make_strategy(config.distribution)


def optimizer_of(config: ComparisonConfig, learning_rate: float, epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a training of so many epochs of so many batches."""
    return make_optimizer(
        learning_rate,
        config.learning_rate_schedule,
        steps * epochs,
        warmup_steps=steps * config.warmup_epochs,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def augmentation_of(config: ComparisonConfig) -> Augmentation:
    """The recipe with the configuration's own amounts; without background swap, which only classifiers take."""
    names = ("flips", "rotation", "zoom", "shift", "shear", "brightness", "contrast", "saturation")
    own = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return replace(RECIPES[config.augmentation], **own)


def training_batches(
    arrays: CaseArrays, positions: np.ndarray, batch_size: int, adapt: Callable, **options
) -> tuple[Callable[[int], tf.data.Dataset], Callable[[int], list[str]]]:
    """Endless batches from any number on, and the ids of the cases in the batch of a number.

    Args:
        arrays, positions, batch_size, options: see `make_batches`.
        adapt: brings a batch into the form that the model takes.
    """

    def batches(first: int) -> tf.data.Dataset:
        return make_batches(arrays, positions, batch_size, training=True, first_batch=first, **options)

    def names(number: int) -> list[str]:
        (ids,) = batches(number).take(1).map(lambda batch: batch["id"]).as_numpy_iterator()
        return [name.decode() for name in ids]

    return lambda first: batches(first).map(adapt), names
