"""Fitting a model on batches: adapters to Keras's (inputs, targets, weights), stopping, records, progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfseg.data.batches import lesion_of
from tfseg.data.cases import MaskClasses
from tfseg.errors import TrainingError
from tfseg.training.callbacks import BestEpoch, NoNumber, Record, Thaw
from tfseg.training.checkpoint import Checkpoint
from tfseg.training.devices import SharedLossScale
from tfseg.training.sitting import DETACHED, Sitting
from tfseg.training.workers import fitting


def for_segmentation(batch):
    """A batch as (image, mask, pixel weights)."""
    return batch["image"], batch["mask"], batch["valid"]


def for_classification(weights: np.ndarray | None, maps: Sequence[str] = ()) -> Callable:
    """The adapter to ({image, maps}, label, class weight).

    Args:
        weights: of the classes, (C,), or None.
        maps: those that the model takes too: ``"lesion"``, ``"classes"``, ``"symmetry"``.
    """
    table = None if weights is None else tf.constant(weights, tf.float32)

    def adapt(batch):
        inputs = {name: batch[name] for name in ("image", *maps)}
        weight = tf.ones_like(batch["label"], tf.float32) if table is None else tf.gather(table, batch["label"])
        return inputs, batch["label"], weight

    return adapt


def for_joint(
    weights: np.ndarray | None, outputs: Sequence[str] = ("mask",), symmetry_weights: np.ndarray | None = None
) -> Callable:
    """The adapter to (image, {logits: label, mask, symmetry}, {logits: class weight, mask: pixel weights, symmetry}).

    Args:
        weights: of the classes, (C,), or None.
        outputs: what is learned beside the label: ``"mask"``, ``"symmetry"``.
        symmetry_weights: of its classes, where it is learned; cases without a value have weight 0.
    """
    classification = for_classification(weights)

    def adapt(batch):
        inputs, label, weight = classification(batch)
        targets, shares = {"logits": label}, {"logits": weight}
        if "mask" in outputs:
            targets["mask"], shares["mask"] = batch["mask"], batch["valid"]
        if "symmetry" in outputs:
            known = batch["symmetry_label"] >= 0
            targets["symmetry"] = tf.maximum(batch["symmetry_label"], 0)
            share = tf.gather(tf.constant(symmetry_weights, tf.float32), targets["symmetry"])
            shares["symmetry"] = tf.where(known, share, 0.0)
        return inputs["image"], targets, shares

    return adapt


def for_centiou(weights: np.ndarray | None, mask_classes: MaskClasses) -> Callable:
    """The adapter to (image, {label, lesion, valid}, class weight)."""
    classification = for_classification(weights)

    def adapt(batch):
        inputs, label, weight = classification(batch)
        targets = {"label": label, "lesion": lesion_of(batch["mask"], mask_classes), "valid": batch["valid"]}
        return inputs["image"], targets, weight

    return adapt


def make_optimizer(
    learning_rate: float,
    schedule: str,
    steps: int,
    *,
    warmup_steps: int = 0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Adam for a training of `steps` batches; with its loss scaled under float16.

    Args:
        learning_rate: the highest.
        schedule: ``"cosine"`` (to zero along a half cosine), ``"step"`` (a tenth from half of the steps on), or one
            that begins constant: ``"constant"``, ``"plateau"``.
        steps: batches of the whole training.
        warmup_steps: over which the rate rises from zero, out of `steps`.
        momentum: β₁.
        weight_decay: decoupled, per step.
    """
    rate = _schedule(learning_rate, schedule, steps, warmup_steps)
    adam = keras.optimizers.Adam(rate, beta_1=momentum, weight_decay=weight_decay or None)
    return SharedLossScale(adam) if keras.config.dtype_policy().name == "mixed_float16" else adam


def _schedule(learning_rate, schedule, steps, warmup_steps):
    schedules = keras.optimizers.schedules
    if schedule == "cosine":
        if not warmup_steps:
            return schedules.CosineDecay(learning_rate, steps)
        rest = max(steps - warmup_steps, 1)
        return schedules.CosineDecay(0.0, rest, warmup_target=learning_rate, warmup_steps=warmup_steps)
    bounds, values = [], [learning_rate]
    if schedule == "step":
        bounds, values = [steps // 2], [learning_rate, learning_rate / 10.0]
    if not warmup_steps:
        return schedules.PiecewiseConstantDecay(bounds, values) if bounds else learning_rate
    return Warmup(warmup_steps, bounds, values)


@keras.saving.register_keras_serializable(package="tfseg")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises from zero and is constant from bound to bound afterwards.

    Args:
        warmup_steps: over which it rises to the first value.
        bounds: steps after which the next value holds, ascending.
        values: one more than `bounds`.
    """

    def __init__(self, warmup_steps: int, bounds: list[int], values: list[float]):
        super().__init__()
        self.warmup_steps, self.bounds, self.values = warmup_steps, list(bounds), list(values)

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rate = keras.ops.convert_to_tensor(self.values[0], "float32")
        for bound, value in zip(self.bounds, self.values[1:], strict=True):
            rate = keras.ops.where(step > bound, value, rate)
        return rate * keras.ops.minimum(1.0, step / self.warmup_steps)

    def get_config(self):
        return {"warmup_steps": self.warmup_steps, "bounds": self.bounds, "values": self.values}


def fit(
    model: keras.Model,
    batches: Callable[[int], tf.data.Dataset],
    validation: tf.data.Dataset,
    *,
    epochs: int,
    steps: int,
    patience: int,
    monitor: str = "val_loss",
    mode: str = "min",
    description: str = "training",
    extra: Mapping[str, keras.callbacks.Callback] | None = None,
    names_of: Callable[[int], list[str]] | None = None,
    sitting: Sitting = DETACHED,
) -> tuple[pd.DataFrame, str]:
    """Fit a compiled model and leave it with the weights of its best epoch.

    Args:
        model: compiled.
        batches: gives endless batches in the form that the model takes, from the batch of this number on.
        validation: one pass, likewise.
        epochs: at most.
        steps: batches of an epoch.
        patience: epochs without a better `monitor` before training stops.
        monitor, mode: what is watched, and whether ``"min"`` or ``"max"`` is better.
        description: for the progress bar.
        extra: further callbacks by name; see `Checkpoint` for what is kept of them.
        names_of: gives the ids of the images of a batch by its number.
        sitting: a training that was interrupted goes on from its checkpoint, as if it had not been.

    Returns:
        A pair: one row per epoch (``epoch`` from 1, ``seconds``, ``peak_memory_mb``, and what Keras reports), and a
        note on why the training broke off, or "".

    Raises:
        TrainingError: the loss is no number in the first epoch, so that there are no good weights to keep.
        Paused: the time of the sitting is over; the checkpoint is written.
        RunError: the checkpoint is damaged or of another model.
    """
    no_number = NoNumber(monitor, steps, names_of)
    best = BestEpoch(monitor, mode, patience)
    with Record(description, epochs, steps, monitor) as record:
        parts = {"no_number": no_number, "best": best, **(extra or {}), "record": record}
        checkpoint = Checkpoint(sitting, parts)
        progress = checkpoint.read()
        for part in parts.values():
            part.set_model(model)
        checkpoint.set_model(model)
        if isinstance(parts.get("thaw"), Thaw):
            parts["thaw"].prepare(model)
        if progress["stopped"] or progress["epoch"] >= epochs:
            # Interrupted after its end: nothing is left but to take the best epoch's weights.
            checkpoint.restore()
            best.on_train_end()
        else:
            callbacks = list(parts.values())
            if sitting.tensorboard is not None and sitting.chief:
                log = keras.callbacks.TensorBoard(str(sitting.tensorboard), write_graph=False)
                callbacks.append(log)
            training = batches(progress["epoch"] * steps)
            with fitting(model, training):
                model.fit(
                    training,
                    validation_data=validation,
                    initial_epoch=progress["epoch"],
                    epochs=epochs,
                    steps_per_epoch=steps,
                    callbacks=[*callbacks, checkpoint],
                    shuffle=False,
                    verbose=0,
                )
    table = pd.DataFrame(record.rows)
    if table.empty or not np.isfinite(table[monitor].iloc[0]):
        where = no_number.message or "the validation loss is no number in epoch 1"
        raise TrainingError(f"{description}: {where}; nothing was learned before, try a lower learning rate")
    return table, no_number.message
