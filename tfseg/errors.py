"""The errors that are the user's to mend: the command line prints them without a traceback and exits with 2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


class UserError(Exception):
    """Something in the arguments, the files or the folder must be changed by the user."""


class ConfigError(UserError):
    """An argument or a configuration key is unknown, of the wrong type or out of range."""


class RunError(UserError):
    """A run folder cannot be used as asked (it belongs to another run, it is unfinished, the disk is full)."""


class WeightsError(UserError):
    """Pretrained weights cannot be had; the message names the file and the choices."""


class TrainingError(UserError):
    """A training broke down before there was anything to keep of it; the message says where."""


class Paused(Exception):
    """The time given to a run is over; what it was at is on disk, and the same command goes on."""


class ExportError(Exception):
    """An exported model disagrees with the Keras model that it was made from."""


@dataclass(frozen=True)
class Problem:
    """One thing found wrong with the data.

    Args:
        kind: a short stable name, such as ``"truncated"`` or ``"mask_size"``.
        file: the file or the table row at fault, relative to the data folder where it lies inside it.
        message: what was expected and what came.
        severity: ``"error"`` stops a training, ``"warning"`` is told and lets it go on.
    """

    kind: str
    file: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.file}: {self.message} [{self.kind}]"


class DataError(UserError):
    """The data can't be trained on; carries every problem found, not only the first.

    Args:
        problems: what is wrong, at least one.
        where: the folder or table that was read.
        hint: lines to show below the problems, such as the layout that was expected.
    """

    def __init__(self, problems: Iterable[Problem], where: str = "", hint: str = ""):
        self.problems, self.hint = list(problems), hint
        shown = [f"  {problem}" for problem in self.problems[:20]]
        if len(self.problems) > 20:
            shown.append(f"  … and {len(self.problems) - 20} more (`tfseg audit DATA --out DIR` lists them all)")
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([f"{count} in {where or 'the data'}:", *shown, *([hint] if hint else [])]))
