"""A training outlives interruptions: everything that it needs to go on lies in one file, written whole."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfseg.errors import Paused, RunError
from tfseg.run import written_whole
from tfseg.training.sitting import Sitting

# Writing takes at most this share of the time.
WRITING_SHARE = 0.05


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole state of a training at the end of epochs, and pauses when time is short.

    Kept are: all variables of the model with the state of its random layers, the optimizer's, and what
    `get_state` of every part gives. Stands last among the callbacks: it saves what the others have just decided, and
    restores them after they have started afresh.

    Args:
        sitting: where to save and when to pause.
        parts: name → callback; those that have ``get_state() -> dict`` and ``set_state(dict)`` are kept. Values are
            JSON, or lists of arrays.
    """

    def __init__(self, sitting: Sitting, parts: dict[str, keras.callbacks.Callback]):
        super().__init__()
        self._sitting = sitting
        self._parts = {name: part for name, part in parts.items() if hasattr(part, "get_state")}
        self._state: dict | None = None
        self._saved = self._began = time.monotonic()
        self._cost = 0.0

    def read(self) -> dict:
        """What is known before training: ``epoch``, how many are done, and ``stopped``, whether that is all.

        Raises:
            RunError: the file is damaged.
        """
        path = self._sitting.checkpoint
        if path is not None and path.exists():
            self._state = _read(path)
        return {"epoch": 0, "stopped": False} if self._state is None else self._state["progress"]

    def restore(self) -> None:
        """Bring model, optimizer and parts to the state that was read.

        Raises:
            RunError: the file is of another model.
        """
        if self._state is None:
            return
        for name, variables in self._variables().items():
            _assign(variables, self._state[name], self._sitting.checkpoint)
        for name, part in self._parts.items():
            part.set_state(self._state["parts"][name])

    def on_train_begin(self, logs=None):
        self.restore()
        self._saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        done = self.model.stop_training or epoch + 1 == self.params.get("epochs")
        # An epoch that can't be finished in time would be lost.
        late = self._sitting.deadline is not None and now + (now - self._began) + self._cost > self._sitting.deadline
        due = (now - self._saved) * WRITING_SHARE >= self._cost
        if self._sitting.checkpoint is not None and (due or done or late):
            self._save(epoch + 1, bool(self.model.stop_training))
            self._saved = time.monotonic()
            self._cost = self._saved - now
        if late and not done:
            raise Paused(f"time is over after epoch {epoch + 1}")

    def _variables(self) -> dict[str, list]:
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        return {"model": list(self.model.variables), "optimizer": list(optimizer.variables)}

    def _save(self, epoch: int, stopped: bool) -> None:
        # Several workers read together, because a variable may be spread over them, and one writes.
        content = {name: [np.asarray(v) for v in variables] for name, variables in self._variables().items()}
        states = {name: part.get_state() for name, part in self._parts.items()}
        if not self._sitting.chief:
            return
        arrays = {f"{name}/{i:05d}": value for name, values in content.items() for i, value in enumerate(values)}
        plain: dict[str, dict] = {}
        for name, state in states.items():
            plain[name] = {}
            for key, value in state.items():
                if _is_arrays(value):
                    arrays |= {f"parts/{name}/{key}/{i:05d}": array for i, array in enumerate(value)}
                else:
                    plain[name][key] = value
        record = {"progress": {"epoch": epoch, "stopped": stopped}, "parts": plain}
        with written_whole(self._sitting.checkpoint) as temporary:
            np.savez(temporary, record=np.array(json.dumps(record)), **arrays)


def _is_arrays(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, np.ndarray) for item in value)


def _read(path: Path) -> dict:
    try:
        with np.load(path, allow_pickle=False) as file:
            state = {**json.loads(str(file["record"])), "model": [], "optimizer": []}
            for name in sorted(set(file.files) - {"record"}):
                first, *middle, _ = name.split("/")
                if first == "parts":
                    state["parts"][middle[0]].setdefault(middle[1], []).append(file[name])
                else:
                    state[first].append(file[name])
            return state
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is damaged ({error}); delete it to train this part from its beginning") from error


def _assign(variables: Sequence, values: Sequence[np.ndarray], path: Path) -> None:
    if [tuple(v.shape) for v in variables] != [value.shape for value in values]:
        raise RunError(f"{path} is of another model; delete it to train this part from its beginning")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
