"""What watches a training: records, stopping, the best epoch, the learning rate, and what thaws when."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfseg.progress import progress_bar


class BestEpoch(keras.callbacks.EarlyStopping):
    """Keras's early stopping with the best epoch's weights, which can go on after an interruption."""

    def __init__(self, monitor: str, mode: str, patience: int):
        super().__init__(monitor, patience=patience, mode=mode, restore_best_weights=True)

    def get_state(self) -> dict:
        return {
            "wait": self.wait,
            "best": None if self.best is None else float(self.best),
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
            "best_weights": self.best_weights or [],
        }

    def set_state(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self.best_weights = self.best_weights or None


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """Keras's halving of the learning rate on a plateau, which can go on after an interruption."""

    def __init__(self, monitor: str, mode: str, patience: int):
        super().__init__(monitor, factor=0.5, patience=patience, mode=mode)

    def get_state(self) -> dict:
        best = None if self.best is None else float(self.best)
        return {"wait": self.wait, "best": best, "cooldown_counter": self.cooldown_counter}

    def set_state(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class NoNumber(keras.callbacks.Callback):
    """Stops at a training loss that is no number, says where, and keeps such an epoch from being the best.

    A broken network's masks are empty, which a metric of overlap finds right wherever there is no lesion. Stands
    before early stopping, which reads what this writes.

    Args:
        monitor: the metric that chooses the best epoch.
        steps: batches of an epoch.
        names_of: gives the ids of the images of a batch, numbered from the training's beginning.
    """

    def __init__(self, monitor: str, steps: int, names_of: Callable[[int], list[str]] | None = None):
        super().__init__()
        self._monitor, self._steps, self._names_of = monitor, steps, names_of
        self._epoch = 0
        self.message = ""

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        logs = logs or {}
        if np.isfinite(logs.get("loss", 0.0)):
            return
        self.model.stop_training = True
        # The sum is no number because one of its terms isn't, which is the one to name.
        terms = [name for name, value in logs.items() if name != "loss" and not np.isfinite(value)]
        self.message = f"{' and '.join(terms) or 'the loss'} is no number in epoch {self._epoch + 1}, batch {batch + 1}"
        if self._names_of is not None:
            names = self._names_of(self._epoch * self._steps + batch)
            self.message += f" (images {', '.join(names[:4])}{' …' if len(names) > 4 else ''})"

    def on_epoch_end(self, epoch, logs=None):
        if logs and not np.isfinite([logs.get("loss", 0.0), logs.get("val_loss", 0.0)]).all():
            logs[self._monitor] = float("nan")

    def get_state(self) -> dict:
        return {"message": self.message}

    def set_state(self, state: dict) -> None:
        self.message = state["message"]


class Thaw(keras.callbacks.Callback):
    """Gradual unfreezing: from epoch to epoch fewer of the first layers are frozen.

    Args:
        layers: the frozen layers, in the order of the network; the last are trained first.
        per_epoch: how many more are trained in each epoch after the first.
    """

    def __init__(self, layers: list[keras.layers.Layer], per_epoch: int):
        super().__init__()
        self._layers, self._per_epoch = layers, per_epoch

    def prepare(self, model: keras.Model) -> None:
        """Let the optimizer know what it will ever train, before anything is trained."""
        self._freeze(0)
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        self._freeze(len(self._layers))

    def on_epoch_begin(self, epoch, logs=None):
        frozen = max(0, len(self._layers) - epoch * self._per_epoch)
        if frozen != sum(not layer.trainable for layer in self._layers):
            self._freeze(frozen)
            self.model.make_train_function(force=True)

    def _freeze(self, count: int) -> None:
        for number, layer in enumerate(self._layers):
            layer.trainable = number >= count


class Record(keras.callbacks.Callback, contextlib.AbstractContextManager):
    """One row per epoch, and a bar over all batches with the time left.

    Rows hold ``epoch`` from 1, ``seconds``, ``peak_memory_mb`` (of the accelerator in this epoch; without one, of the
    process so far) and what Keras reports.
    """

    def __init__(self, description: str, epochs: int, steps: int, monitor: str):
        super().__init__()
        self._bar = progress_bar(description, epochs * steps)
        self._epochs, self._steps, self._monitor = epochs, steps, monitor
        self.rows: list[dict] = []
        self._started = 0.0
        self._advance = None

    def __enter__(self):
        self._advance = self._bar.__enter__()
        return self

    def __exit__(self, *error):
        return self._bar.__exit__(*error)

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter()
        _reset_peak_memory()

    def on_train_batch_end(self, batch, logs=None):
        self._advance(1)

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self._started
        values = {name: float(value) for name, value in (logs or {}).items()}
        own = {"epoch": epoch + 1, "seconds": seconds, "peak_memory_mb": peak_memory_mb()}
        self.rows.append(own | values)
        note = f"epoch {epoch + 1}/{self._epochs} {self._monitor} {values.get(self._monitor, float('nan')):.3f}"
        self._advance(0, note)

    def get_state(self) -> dict:
        return {"rows": self.rows}

    def set_state(self, state: dict) -> None:
        self.rows = list(state["rows"])
        self._advance(len(self.rows) * self._steps, f"goes on after epoch {len(self.rows)}")


def peak_memory_mb() -> float:
    """Most memory in use: on the first GPU since it was reset, else of this process since it started; MiB."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    try:
        import resource
    except ImportError:  # Windows has no such module.
        return float("nan")
    # In KiB, but on macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _reset_peak_memory() -> None:
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")
