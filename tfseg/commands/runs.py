"""Runs that there are: `tfseg list` and `tfseg rerun`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import tyro

from tfseg.commands.arguments import Positional, command_line
from tfseg.quiet import import_tensorflow
from tfseg.session import Session


@dataclass(frozen=True)
class List:
    """Show the runs below a folder: how far each is, and its best row.

    For example:
        tfseg list
        tfseg list runs/oral
    """

    folder: Annotated[Positional[str], tyro.conf.arg(metavar="FOLDER")] = "runs"
    """Where to look."""

    def run(self) -> int:
        from tfseg.jobs.runs import list_runs, runs_text

        lines = list_runs(self.folder)
        print(runs_text(lines) if lines else f"there is no run below {self.folder}")
        return 0


@dataclass(frozen=True)
class Rerun(Session):
    """Train and test once more with the settings of a config.json.

    For example:
        tfseg rerun runs/soft/config.json --out runs/soft-again
    """

    config: Annotated[Positional[str], tyro.conf.arg(metavar="CONFIG")] = tyro.MISSING
    """A config.json, or the run folder that holds one."""
    out: str | None = None
    """Run folder; one whose config.json matches is resumed. Default: runs/<experiment>/<time>."""
    data: str | None = None
    """Where the data lies now; default: where it was."""

    def run(self) -> int:
        import_tensorflow()
        from tfseg.jobs.comparison import describe_files
        from tfseg.jobs.runs import rerun

        session = Session(**{entry.name: getattr(self, entry.name) for entry in fields(Session)})
        print(describe_files(rerun(self.config, self.out, session, self.data, command_line())))
        return 0
