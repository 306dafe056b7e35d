"""`tfseg benchmark`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from tfseg.commands.arguments import Positional, command_line
from tfseg.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """Measure how fast parts are, beside other ways to do the same: benchmark.json and table.md.

    For example:
        tfseg benchmark pipeline --out runs/benchmark
    """

    names: Annotated[Positional[tuple[Literal["pipeline"], ...]], tyro.conf.arg(metavar="NAME…")]
    """What to measure; pipeline: from the image file to the training step."""
    out: str
    """Folder for the results; new, empty, or of an earlier benchmark."""
    cores: tuple[int, ...] = (1, 2)
    """Numbers of processor cores to measure on."""
    repetitions: int = 20
    """Of each measurement, interleaved with the others."""

    def run(self) -> int:
        from tfseg.benchmarks.pipeline import benchmark_pipeline, table

        if not self.names:
            raise UserError("name at least one benchmark: pipeline")
        print(table(benchmark_pipeline(self.out, self.cores, self.repetitions, command_line())))
        return 0
