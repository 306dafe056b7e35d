"""`tfseg benchmark`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tfseg.commands.arguments import Positional, command_line
from tfseg.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """Measure how fast parts are, beside other ways to do the same: benchmark.json and table.md.

    For example:
        tfseg benchmark pipeline --out runs/benchmark
        tfseg benchmark pipeline saliency --out runs/benchmarks
    """

    names: Annotated[Positional[tuple[Literal["pipeline", "saliency"], ...]], tyro.conf.arg(metavar="NAME…")]
    """What to measure; pipeline: from the image file to the training step; saliency: maps beside forward passes, and
    CEntIoU's training step beside cross entropy's."""
    out: str
    """Folder for the results; new, empty, or of an earlier benchmark. Several have a folder each in it."""
    cores: tuple[int, ...] = (1, 2)
    """Numbers of processor cores to measure on."""
    repetitions: int = 20
    """Of each measurement, interleaved with the others."""

    def run(self) -> int:
        from tfseg.benchmarks import pipeline, saliency

        if not self.names:
            raise UserError("name at least one benchmark: pipeline, saliency")
        for name in self.names:
            out = self.out if len(self.names) == 1 else str(Path(self.out) / name)
            if name == "pipeline":
                record = pipeline.benchmark_pipeline(out, self.cores, self.repetitions, command_line())
                print(pipeline.table(record))
            else:
                record = saliency.benchmark_saliency(out, self.cores, self.repetitions, command_line())
                print(saliency.table(record))
        return 0
