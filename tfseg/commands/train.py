"""`tfseg demo` and `tfseg train`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tfseg.commands.arguments import Data, command_line
from tfseg.config import ComparisonConfig
from tfseg.quiet import import_tensorflow
from tfseg.session import Session

PARTS = (ComparisonConfig, Session)


@dataclass(frozen=True)
class Demo:
    """Run the main job on built-in synthetic lesions, in a few minutes on two cores.

    Draws a dataset, trains a U-Net and four classifiers, tests them, exports the best one for TF-Serving and for
    phones, checks that both exports agree with Keras, and predicts a folder through the export.

    For example:
        tfseg demo --out runs/my-demo
    """

    out: str = "runs/demo"
    """Folder of the run; the same command resumes it."""
    images: int = 480
    """Synthetic images to draw."""
    seed: int = 0

    def run(self) -> int:
        import_tensorflow()
        from tfseg.jobs.demo import run_demo

        run_demo(self.out, images=self.images, seed=self.seed, command=command_line())
        return 0


@dataclass(frozen=True)
class Train(Session, ComparisonConfig):
    """Train a segmenter and one or several classifiers, and test them on the same held-out cases.

    For example:
        tfseg train my_data --approach soft_mask --out runs/soft
        tfseg train my_data --approach plain centiou --weights imagenet --image-size 224
    """

    data: Data
    """A folder with labels.csv, images/ and masks/, or NAME:PATH."""
    out: str | None = None
    """Run folder; one whose config.json matches is resumed. Default: runs/train/<time>."""

    def run(self) -> int:
        config, session = (part(**{e.name: getattr(self, e.name) for e in fields(part)}) for part in PARTS)
        import_tensorflow()
        from tfseg.jobs.comparison import describe_files, run_comparison

        run = run_comparison(
            config, self.out, experiment="train", preset="custom", command=command_line(), session=session
        )
        if run.path("metrics.json").exists():
            print(describe_files(run))
        return 0
