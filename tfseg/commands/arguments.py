"""Arguments that several subcommands share. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated

import tyro

Positional = tyro.conf.Positional
Data = Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
Model = Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]


def command_line() -> str:
    """The command line that runs now, as records keep it."""
    from tfseg.run import recorded_command

    return recorded_command()
