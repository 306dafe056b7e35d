"""Fitting a model on batches: adapters to Keras's (inputs, targets, weights), stopping, records, progress."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfseg.data.batches import lesion_of
from tfseg.data.cases import MaskClasses
from tfseg.errors import UserError
from tfseg.progress import progress_bar
from tfseg.training.devices import SharedLossScale


def for_segmentation(batch):
    """A batch as (image, mask, pixel weights)."""
    return batch["image"], batch["mask"], batch["valid"]


def for_classification(weights: np.ndarray | None, masked: bool) -> Callable:
    """The adapter to ({image, lesion}, label, class weight).

    Args:
        weights: of the classes, (C,), or None.
        masked: whether the model takes the lesion's probability too.
    """
    table = None if weights is None else tf.constant(weights, tf.float32)

    def adapt(batch):
        inputs = {"image": batch["image"]} | ({"lesion": batch["lesion"]} if masked else {})
        weight = tf.ones_like(batch["label"], tf.float32) if table is None else tf.gather(table, batch["label"])
        return inputs, batch["label"], weight

    return adapt


def for_centiou(weights: np.ndarray | None, mask_classes: MaskClasses) -> Callable:
    """The adapter to (image, {label, lesion, valid}, class weight)."""
    classification = for_classification(weights, masked=False)

    def adapt(batch):
        inputs, label, weight = classification(batch)
        targets = {"label": label, "lesion": lesion_of(batch["mask"], mask_classes), "valid": batch["valid"]}
        return inputs["image"], targets, weight

    return adapt


def make_optimizer(learning_rate: float, schedule: str, steps: int) -> keras.optimizers.Optimizer:
    """Adam with a constant rate, or one that falls to zero along a half cosine over `steps`; scaled for float16."""
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps) if schedule == "cosine" else learning_rate
    adam = keras.optimizers.Adam(rate)
    return SharedLossScale(adam) if keras.config.dtype_policy().name == "mixed_float16" else adam


def fit(
    model: keras.Model,
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    epochs: int,
    steps: int,
    patience: int,
    monitor: str = "val_loss",
    mode: str = "min",
    description: str = "training",
) -> pd.DataFrame:
    """Fit a compiled model and leave it with the weights of its best epoch.

    Args:
        model: compiled.
        training: endless batches in the form that the model takes.
        validation: one pass, likewise.
        epochs: at most.
        steps: batches of an epoch.
        patience: epochs without a better `monitor` before training stops.
        monitor, mode: what is watched, and whether ``"min"`` or ``"max"`` is better.
        description: for the progress bar.

    Returns:
        One row per epoch: ``epoch`` from 1, ``seconds``, and what Keras reports.

    Raises:
        UserError: when the loss is no number in the first epoch, so that there are no good weights to keep.
    """
    stopping = keras.callbacks.EarlyStopping(monitor, patience=patience, mode=mode, restore_best_weights=True)
    with _Progress(description, epochs, steps, monitor) as progress:
        callbacks = [_NoNumber(monitor), stopping, progress]
        history = model.fit(
            training,
            validation_data=validation,
            epochs=epochs,
            steps_per_epoch=steps,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
    table = pd.DataFrame(history.history)
    if table.empty or not np.isfinite(table[monitor].iloc[0]):
        raise UserError(f"{description}: the loss is no number in the first epoch; try a lower learning rate")
    table.insert(0, "epoch", range(1, len(table) + 1))
    table.insert(1, "seconds", progress.seconds[: len(table)])
    return table


class _NoNumber(keras.callbacks.Callback):
    """Stops at a training loss that is no number, and keeps such an epoch from being the best.

    A broken network's masks are empty, which a metric of overlap finds right wherever there is no lesion. Stands
    before early stopping, which reads what this writes.
    """

    def __init__(self, monitor):
        super().__init__()
        self._monitor = monitor

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if logs and not np.isfinite([logs.get("loss", 0.0), logs.get("val_loss", 0.0)]).all():
            logs[self._monitor] = float("nan")


class _Progress(keras.callbacks.Callback, contextlib.AbstractContextManager):
    """A bar over all batches of a training, with the epoch and the watched value."""

    def __init__(self, description, epochs, steps, monitor):
        super().__init__()
        self._bar = progress_bar(description, epochs * steps)
        self._epochs, self._monitor = epochs, monitor
        self.seconds: list[float] = []
        self._started = 0.0
        self._advance = None

    def __enter__(self):
        self._advance = self._bar.__enter__()
        return self

    def __exit__(self, *error):
        return self._bar.__exit__(*error)

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._advance(1)

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._started)
        value = (logs or {}).get(self._monitor, float("nan"))
        self._advance(0, f"epoch {epoch + 1}/{self._epochs} {self._monitor} {value:.3f}")
