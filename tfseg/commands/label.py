"""`tfseg label`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import get_type_hints

from tfseg.commands.arguments import Data, command_line
from tfseg.config import ComparisonConfig
from tfseg.quiet import import_tensorflow
from tfseg.session import Session

Loss = get_type_hints(ComparisonConfig, include_extras=True)["segmenter_loss"]


@dataclass(frozen=True)
class Label(ComparisonConfig):
    """Train a segmenter on the masks there are, label the other images, and list the ones to check first.

    The folder that is written can be audited and trained on. Settings of classifiers have no use here.

    For example:
        tfseg label my_data --out runs/labelled
        tfseg label my_data --weights imagenet --image-size 224 --out runs/labelled
        tfseg audit runs/labelled
    """

    data: Data
    """A folder with labels.csv, images/ and masks/, or NAME:PATH. Cases whose cell `mask` is empty are labelled."""
    val_fraction: float = 0.2
    """Share of the given masks that chooses the epoch and tells what the confidences are worth."""
    segmenter_loss: Loss = "dice_focal"
    """With several mask classes, its Dice weighs them by their pixels unless `class_weights` is among the options."""
    segmenter_epochs: int = 60
    out: str | None = None
    """Folder to write; one whose config.json matches is gone on with. Default: runs/label/<time>."""
    link_images: bool = False
    """Hard links in place of copies of the images, where the disk has them; masks are always copied."""
    sheet: int = 240
    """Most predicted masks on the contact sheet, the ones to check first."""
    max_minutes: float | None = None
    """Stop at a checkpoint before this time is over, with exit code 3; the same command goes on."""
    tensorboard: bool = False
    """Write TensorBoard logs, with overlays of validation images, to the folder."""

    def __post_init__(self):
        super().__post_init__()
        self._session()

    def run(self) -> int:
        import_tensorflow()
        from tfseg.jobs.label.job import label_masks

        config = ComparisonConfig(**{e.name: getattr(self, e.name) for e in dataclasses.fields(ComparisonConfig)})
        label_masks(
            config,
            self.out,
            link_images=self.link_images,
            sheet=self.sheet,
            command=command_line(),
            session=self._session(),
        )
        return 0

    def _session(self) -> Session:
        return Session(max_minutes=self.max_minutes, tensorboard=self.tensorboard)
