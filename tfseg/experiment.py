"""The command line that every file in `experiments/` has: data, preset, folder, seed, and any setting."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from typing import Any

import tyro

from tfseg.config import ComparisonConfig
from tfseg.errors import UserError
from tfseg.session import Session

PARTS = (ComparisonConfig, Session)


@dataclass(frozen=True)
class Experiment:
    """What the command line of an experiment says.

    Args:
        config: the preset, with what was changed on the command line.
        session: which part of the grid is done now.
        preset: the preset's name.
        out: the run folder, or None.
        options: the experiment's own options, or None where it has none.
    """

    config: ComparisonConfig
    session: Session
    preset: str
    out: str | None
    options: Any = None


def parse_experiment(
    presets: Mapping[str, ComparisonConfig],
    description: str,
    arguments: list[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Experiment:
    """Read ``--data DATA --preset NAME --out RUN --seed N`` and every other setting.

    Args:
        presets: name → settings; the first is the default.
        description: for ``--help``.
        arguments: in place of the process's own.
        options: name of each preset → what an experiment can be told beside the settings: instances of one frozen
            dataclass, none of whose fields is a setting's name.

    Raises:
        UserError: for an unknown preset or a setting out of range; unknown options exit with 2.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--preset", default=next(iter(presets)))
    chosen, rest = first.parse_known_args(arguments)
    if chosen.preset not in presets:
        raise UserError(f"`--preset` must be one of {', '.join(presets)}, received {chosen.preset!r}")
    out = ("out", str | None, None)
    own = (options or {}).get(chosen.preset)
    parts = (*PARTS, type(own)) if own is not None else PARTS
    command = make_dataclass("Options", [out], bases=tuple(reversed(parts)), frozen=True)
    command.__doc__ = f"{description}\n\nPresets: {', '.join(presets)} (--preset NAME; shown: {chosen.preset})."
    values = {entry.name: getattr(presets[chosen.preset], entry.name) for entry in fields(ComparisonConfig)}
    if own is not None:
        values |= {entry.name: getattr(own, entry.name) for entry in fields(own)}
    parsed = tyro.cli(command, default=command(**values), args=rest)
    config, session, *others = (part(**{e.name: getattr(parsed, e.name) for e in fields(part)}) for part in parts)
    if not config.data:
        raise UserError("`--data` is missing: a folder with labels.csv and images/, or NAME:PATH")
    return Experiment(config, session, chosen.preset, parsed.out, others[0] if others else None)
