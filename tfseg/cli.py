"""The `tfseg` command. Nothing heavy is imported before a subcommand needs it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

import tyro

from tfseg.commands.audit import Audit
from tfseg.commands.benchmark import Benchmark
from tfseg.commands.calibrate import Calibrate
from tfseg.commands.compare import Compare
from tfseg.commands.explain import Explain
from tfseg.commands.importing import Import
from tfseg.commands.label import Label
from tfseg.commands.models import Evaluate, Export, Predict
from tfseg.commands.runs import List, Rerun
from tfseg.commands.search import Search
from tfseg.commands.train import Demo, Train
from tfseg.commands.weights import Weights
from tfseg.errors import ExportError, Paused, UserError

DESCRIPTION = """Segmentation-driven classification of medical images: train, compare, explain, serve.
Research software, not a medical device."""

COMMANDS = {
    "demo": Demo,
    "audit": Audit,
    "import": Import,
    "train": Train,
    "label": Label,
    "search": Search,
    "rerun": Rerun,
    "list": List,
    "compare": Compare,
    "evaluate": Evaluate,
    "calibrate": Calibrate,
    "predict": Predict,
    "explain": Explain,
    "export": Export,
    "weights": Weights,
    "benchmark": Benchmark,
}


def run_guarded(job: Callable[[], int]) -> int:
    """Run a job and turn the user's mistakes into a message and an exit code.

    Returns:
        The job's own code; 2 after a `UserError`; 1 when an export was refused; 3 when its time was over; 130 when
        interrupted.
    """
    try:
        return job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"export refused: {error}", file=sys.stderr)
        return 1
    except Paused as pause:
        print(f"paused: {pause}; the same command goes on", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"error: no space left on the disk ({error.filename}); free some and run again", file=sys.stderr)
            return 2
        raise


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `tfseg` command."""
    try:
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="tfseg", description=DESCRIPTION, args=arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read the help has read enough; without this Python would complain once more at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(run_guarded(command.run))
