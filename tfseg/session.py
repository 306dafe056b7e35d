"""One sitting of a run: which part of it is done now, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfseg.errors import ConfigError


@dataclass(frozen=True)
class Session:
    """One sitting of a run: which part of it is done now. The results are the same however many sittings there are."""

    cells: tuple[str, ...] = ()
    """Only these rows of the table: names, or numbers from 1 in the order of the approaches. Default: all."""
    folds: tuple[str, ...] = ()
    """Only these folds, numbered from 0. Default: all."""
    max_minutes: float | None = None
    """Stop at a checkpoint before this time is over, with exit code 3; the same command goes on."""
    tensorboard: bool = False
    """Write TensorBoard logs, with overlays of validation images, to the run's folder."""

    def __post_init__(self):
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ConfigError(f"`max_minutes` must be above 0, received {self.max_minutes}")

    def rows(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are asked for.

        Raises:
            ConfigError: a name or number that there isn't.
        """
        chosen = []
        for word in _words(self.cells):
            number = int(word) if word.isdecimal() else 0
            if word not in names and not 1 <= number <= len(names):
                known = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
                raise ConfigError(f"`cells`: there is no row {word!r}; there are {known}")
            chosen.append(word if word in names else names[number - 1])
        return [name for name in names if name in chosen] if chosen else list(names)

    def fold_numbers(self, count: int) -> list[int]:
        """Those of `count` folds that are asked for.

        Raises:
            ConfigError: a number that there isn't.
        """
        words = _words(self.folds)
        wrong = [word for word in words if not word.isdecimal() or int(word) >= count]
        if wrong:
            raise ConfigError(f"`folds` must be numbers from 0 to {count - 1}, received {', '.join(wrong)}")
        return sorted({int(word) for word in words}) if words else list(range(count))


def _words(values: tuple[str, ...]) -> list[str]:
    """``("1,4", "7")`` as ``["1", "4", "7"]``."""
    return [word.strip() for value in values for word in value.split(",") if word.strip()]
