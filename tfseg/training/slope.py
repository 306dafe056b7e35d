"""Early stopping on the slope of the training loss (EBHI-Seg report, section 0.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np


def loss_slope(losses: Sequence[float], largest: float = 1.0) -> float:
    """How a loss moves at the end of a window, per epoch.

    A quadratic runs through the first and the last value and fits the ones between by least squares; the slope is its
    derivative at the last.

    Args:
        losses: a window of at least three values, one per epoch, the last one now.
        largest: what the losses are divided by, such as the largest loss of the run so far. With 0, which only losses
            of 0 have, the slope is 0.

    Returns:
        The slope; negative while the loss falls. NaN where a loss is no finite number.

    Raises:
        ValueError: fewer than three values.
    """
    values = np.asarray(losses, np.float64)
    if values.ndim != 1 or len(values) < 3:
        raise ValueError(f"`losses` must hold at least 3 values, received shape {values.shape}")
    if not np.isfinite(values).all():
        return float("nan")
    last = len(values) - 1
    epochs = np.arange(len(values))
    line = values[0] + (values[-1] - values[0]) * epochs / last
    # A parabola that is 0 at both ends: what can be added to the line between the fixed points.
    bow = epochs * (epochs - last)
    curvature = np.sum(bow * (values - line)) / np.sum(bow * bow)
    slope = (values[-1] - values[0]) / last + curvature * last
    return float(slope / largest) if largest else 0.0


class SlopeStopping(keras.callbacks.Callback):
    """Stops a training that no longer falls.

    The loss, divided by the largest of the run so far, is watched over a window of epochs; the training has converged
    when its `loss_slope` stays above −`threshold` for more than `patience` epochs in a row after epoch `start`. By
    default that is epoch 16 at the earliest. Every epoch's slope goes into the history as ``loss_slope``, NaN while
    the window isn't full, and ``stopped_epoch`` is the last epoch (from 1), or 0.

    Args:
        monitor: the loss, as Keras reports it; the training loss by default.
        window: number of values that the slope is taken from, at least 3.
        threshold: least fall per epoch that counts as falling, as a share of the largest loss, from 0 on.
        patience: epochs in a row that may pass without falling.
        start: the last epoch that can't count.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self, monitor: str = "loss", window: int = 10, threshold: float = 1e-3, patience: int = 5, start: int = 10
    ):
        super().__init__()
        if window < 3 or threshold < 0.0 or patience < 0 or start < 0:
            raise ValueError(
                "`window` must be at least 3, `threshold`, `patience` and `start` 0 or more. "
                f"Received: {window}, {threshold}, {patience}, {start}"
            )
        self.monitor = monitor
        self.window = window
        self.threshold = threshold
        self.patience = patience
        self.start = start
        self._resumed = False
        self._forget()

    def _forget(self) -> None:
        self._losses: list[float] = []
        self._largest = 0.0
        self._flat_epochs = 0
        self.stopped_epoch = 0

    def get_state(self) -> dict[str, Any]:
        """What a resumed training needs, as JSON values."""
        return {
            "losses": [loss if np.isfinite(loss) else None for loss in self._losses],
            "largest": self._largest,
            "flat_epochs": self._flat_epochs,
            "stopped_epoch": self.stopped_epoch,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `get_state` in the next `fit`."""
        self._losses = [float("nan") if loss is None else float(loss) for loss in state["losses"]]
        self._largest = float(state["largest"])
        self._flat_epochs = int(state["flat_epochs"])
        self.stopped_epoch = int(state["stopped_epoch"])
        self._resumed = True

    def on_train_begin(self, logs=None):
        if not self._resumed:
            self._forget()
        self._resumed = False

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or self.monitor not in logs:
            known = ", ".join(logs or ()) or "none"
            raise ValueError(f"SlopeStopping watches {self.monitor!r}, which is not reported; known: {known}")
        loss = float(logs[self.monitor])
        self._losses = [*self._losses, loss][-self.window :]
        if np.isfinite(loss):
            self._largest = max(self._largest, abs(loss))
        full = len(self._losses) == self.window
        slope = loss_slope(self._losses, self._largest) if full else float("nan")
        logs["loss_slope"] = slope
        # Epochs count from 1 here, from 0 in Keras. NaN is not flat: nothing has converged.
        flat = epoch + 1 > self.start and slope > -self.threshold
        self._flat_epochs = self._flat_epochs + 1 if flat else 0
        if self._flat_epochs > self.patience:
            self.stopped_epoch = epoch + 1
            self.model.stop_training = True
