"""`tfseg search`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import tyro

from tfseg.commands.arguments import Data, command_line
from tfseg.config import ComparisonConfig
from tfseg.jobs.search.space import Objective, Part, SearchPlan, Tuner, plan_search
from tfseg.quiet import import_tensorflow
from tfseg.session import Session


@dataclass(frozen=True)
class Search(ComparisonConfig):
    """Search the settings of one training with KerasTuner, on the validation part: trials.csv and best.json.

    For example:
        tfseg search my_data --approach plain --fields learning_rate batch_size class_weights --out runs/search
        tfseg search my_data --approach centiou --tuner bayesian --fields learning_rate=1e-7..2e-4:log
            cross_entropy_share=0.4..0.9:0.05 batch_size=8,16,32
        tfseg rerun runs/search/best.json --out runs/best
    """

    data: Data
    """A folder with labels.csv, images/ and masks/, or NAME:PATH."""
    fields: tuple[str, ...] = tyro.MISSING
    """Fields to search, each with its declared space, or as NAME=LOW..HIGH, NAME=LOW..HIGH:log, NAME=LOW..HIGH:STEP
    or NAME=A,B,C."""
    tuner: Tuner = "random"
    """How the next trial is chosen. Hyperband gives few epochs to many trials, and `epochs` to those that last."""
    trials: int | None = None
    """How many, at most. Default: 15, and with hyperband as many as its brackets have."""
    objective: Objective | None = None
    """What is best, in the epoch that a training keeps. Default: val_balanced_accuracy, for the segmenter val_iou."""
    part: Part = "classifier"
    """What is trained: the classifier of one `approach`, or the segmenter."""
    out: str | None = None
    """Run folder; one whose config.json matches is gone on with. Default: runs/search/<time>."""
    max_minutes: float | None = None
    """Stop at a checkpoint before this time is over, with exit code 3; the same command goes on."""
    tensorboard: bool = False
    """Write TensorBoard logs, with overlays of validation images, to the run's folder."""

    def __post_init__(self):
        super().__post_init__()
        self._plan()
        self._session()

    def run(self) -> int:
        import_tensorflow()
        from tfseg.jobs.search.job import run_search

        plan = self._plan()
        run = run_search(self._config(), plan, self.out, command=command_line(), session=self._session())
        print(f"trials        {run.path('trials.csv')}, {run.path('figures', 'search.png')}")
        print(f"best          tfseg rerun {run.path('best.json')}")
        return 0

    def _config(self) -> ComparisonConfig:
        return ComparisonConfig(**{e.name: getattr(self, e.name) for e in dataclasses.fields(ComparisonConfig)})

    def _session(self) -> Session:
        return Session(max_minutes=self.max_minutes, tensorboard=self.tensorboard)

    def _plan(self) -> SearchPlan:
        chosen = {"tuner": self.tuner, "trials": self.trials, "objective": self.objective, "part": self.part}
        return plan_search(self._config(), self.fields, **chosen)
