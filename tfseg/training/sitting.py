"""One sitting of a training: the process that it runs in, and for how long. Without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sitting:
    """What a training is told about the process that it runs in; nothing here changes its result.

    Args:
        checkpoint: the file to go on from where there is one, and to write to; None writes nothing.
        deadline: by `time.monotonic`, when the training must have paused; None for no limit.
        tensorboard: folder of the logs, or None.
        name: what the training is called on the screen; by default its approach or architecture.
        title: what stands behind that.
        chief: whether this process writes; of several workers one does.
    """

    checkpoint: Path | None = None
    deadline: float | None = None
    tensorboard: Path | None = None
    name: str = ""
    title: str = ""
    chief: bool = True


DETACHED = Sitting()


def described(what: str, sitting: Sitting) -> str:
    """The name of a training on the screen."""
    return " · ".join(filter(None, [sitting.name or what, sitting.title]))
