"""`tfseg explain`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from tfseg.commands.arguments import Model, Positional
from tfseg.errors import UserError
from tfseg.quiet import import_tensorflow

Method = Literal[
    "grad_cam",
    "grad_cam_plus_plus",
    "grad_cam_plus_plus_normalised",
    "hires_cam",
    "layer_cam",
    "score_cam",
    "ablation_cam",
]


@dataclass(frozen=True)
class Explain:
    """Show what speaks for a class in images, by a trained classifier: explanations.csv, maps and overlays.

    For example:
        tfseg explain runs/soft/models/soft_mask/model.keras my_photos --out explained
        tfseg explain model.keras a.jpg --out explained --method layer_cam --target melanoma
    """

    model: Model
    """A .keras file of a classifier."""
    images: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGES…")]
    """Image files and folders."""
    out: str
    """Folder for explanations.csv, maps/ and overlays/."""
    method: Method = "grad_cam"
    """How maps are made; score_cam and ablation_cam need many forward passes an image."""
    target: str = "predicted"
    """The class that is explained: its name, or predicted for each image's own."""
    layer: str | None = None
    """The backbone's layer whose output is explained; default: the model's own, its last maps."""
    batch_size: int = 16
    """Images at a time."""

    def run(self) -> int:
        import_tensorflow()
        from tfseg.export.explanations import explain_folder

        if not self.images:
            raise UserError("give at least one image file or folder")
        summary = explain_folder(
            self.model, self.images, self.out, self.method, self.target, self.layer, self.batch_size
        )
        for problem in summary["problems"]:
            print(f"warning: left out {problem}", file=sys.stderr)
        print(f"{summary['images']} images explained; written to {summary['out']}")
        return 0
