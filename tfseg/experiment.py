"""The command line that every file in `experiments/` has: data, preset, folder, seed, and any setting."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
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
        stage: which part of the experiment; None where it has only one.
    """

    config: ComparisonConfig
    session: Session
    preset: str
    out: str | None
    options: Any = None
    stage: str | None = None


def parse_experiment(
    presets: Mapping[str, Any],
    description: str,
    arguments: list[str] | None = None,
    options: Mapping[str, Any] | None = None,
    stages: bool = False,
) -> Experiment:
    """Read ``--data DATA --preset NAME --out RUN --seed N`` and every other setting.

    Args:
        presets: name → settings; the first is the default. With `stages`, stage → such presets.
        description: for ``--help``.
        arguments: in place of the process's own.
        options: name of each preset → what an experiment can be told beside the settings: instances of one frozen
            dataclass, none of whose fields is a setting's name.
        stages: whether the experiment has parts with presets of their own, one of which `--stage` names; the first is
            the default.

    Raises:
        UserError: for an unknown preset or stage, or a setting out of range; unknown options exit with 2.
    """
    shown, stage, rest = description, None, arguments
    if stages:
        stage, rest = _taken("stage", list(presets), rest)
        shown += f"\n\nStages: {', '.join(presets)} (--stage NAME; shown: {stage})."
        presets = presets[stage]
    preset, rest = _taken("preset", list(presets), rest)
    out = ("out", str | None, None)
    own = (options or {}).get(preset)
    parts = (*PARTS, type(own)) if own is not None else PARTS
    command = make_dataclass("Options", [out], bases=tuple(reversed(parts)), frozen=True)
    command.__doc__ = f"{shown}\n\nPresets: {', '.join(presets)} (--preset NAME; shown: {preset})."
    values = {entry.name: getattr(presets[preset], entry.name) for entry in fields(ComparisonConfig)}
    if own is not None:
        values |= {entry.name: getattr(own, entry.name) for entry in fields(own)}
    parsed = tyro.cli(command, default=command(**values), args=rest)
    config, session, *others = (part(**{e.name: getattr(parsed, e.name) for e in fields(part)}) for part in parts)
    if not config.data:
        raise UserError("`--data` is missing: a folder with labels.csv and images/, or NAME:PATH")
    return Experiment(config, session, preset, parsed.out, others[0] if others else None, stage)


def _taken(name: str, known: Sequence[str], arguments: Sequence[str] | None) -> tuple[str, list[str]]:
    """The value of `--name`, by default the first known one, and the other arguments.

    Raises:
        UserError: a value that isn't known.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", default=known[0])
    chosen, rest = parser.parse_known_args(arguments)
    value = getattr(chosen, name)
    if value not in known:
        raise UserError(f"`--{name}` must be one of {', '.join(known)}, received {value!r}")
    return value, rest
