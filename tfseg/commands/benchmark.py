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
        tfseg benchmark decisions --run runs/fusion --base classical --out runs/benchmark
    """

    names: Annotated[
        Positional[tuple[Literal["pipeline", "saliency", "decisions", "hair", "cascade"], ...]],
        tyro.conf.arg(metavar="NAME…"),
    ]
    """What to measure; pipeline: from the image file to the training step; saliency: maps beside forward passes, and
    CEntIoU's training step beside cross entropy's; decisions: the classifiers of a run, beside each other;
    hair: what hair removal costs, and what it gives back; cascade: SE-LCN's graph, beside its three networks."""
    out: str
    """Folder for the results; new, empty, or of an earlier benchmark. Several have a folder each in it."""
    cores: tuple[int, ...] = (1, 2)
    """Numbers of processor cores to measure on."""
    repetitions: int = 20
    """Of each measurement, interleaved with the others."""
    run_folder: Annotated[str | None, tyro.conf.arg(name="run")] = None
    """The run, for decisions."""
    base: str | None = None
    """The row that the others are compared with, for decisions; by default the first."""

    def run(self) -> int:
        from tfseg.benchmarks import cascade, decisions, hair, pipeline, saliency

        if not self.names:
            raise UserError("name at least one benchmark: pipeline, saliency, decisions, hair, cascade")
        if ("decisions" in self.names) != (self.run_folder is not None):
            raise UserError("`--run` names the run whose classifiers are measured: give both, or neither")
        for name in self.names:
            out = self.out if len(self.names) == 1 else str(Path(self.out) / name)
            if name == "pipeline":
                record = pipeline.benchmark_pipeline(out, self.cores, self.repetitions, command_line())
                print(pipeline.table(record))
            elif name == "decisions":
                record = decisions.benchmark_decisions(
                    self.run_folder, out, self.base, self.cores, self.repetitions, command_line()
                )
                print(decisions.table(record))
            elif name == "hair":
                record = hair.benchmark_hair(out, self.cores, self.repetitions, command_line())
                print(hair.table(record))
            elif name == "cascade":
                record = cascade.benchmark_cascade(out, self.cores, self.repetitions, command_line())
                print(cascade.table(record))
            else:
                record = saliency.benchmark_saliency(out, self.cores, self.repetitions, command_line())
                print(saliency.table(record))
        return 0
