"""What is done with a trained model: `tfseg evaluate`, `predict` and `export`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from tfseg.commands.arguments import Data, Model, Positional, command_line
from tfseg.errors import UserError
from tfseg.names import Flips, Postprocessing
from tfseg.quiet import import_tensorflow


@dataclass(frozen=True)
class Evaluate:
    """Score a trained model on a dataset: metrics with intervals, predictions.csv, figures, report.

    For example:
        tfseg evaluate runs/soft other_data --out runs/soft-on-other
    """

    model: Model
    """A run folder, a .keras file, a SavedModel folder or a .tflite file."""
    data: Data
    """A folder in the plain layout, or NAME:PATH."""
    out: str
    """New folder for the results."""
    target: str | None = None
    """The column that holds the model's classes; default: the run's own, else label."""
    row: str | None = None
    """Which row of a run; default: the best on validation."""
    part: Literal["all", "train", "val", "test"] = "all"
    """Only cases of this part: the run's own on its own data, else by the data's `split` column."""
    class_map: str | None = None
    """JSON file {"their class": "our class" or null}; null leaves a class out."""
    subgroups: tuple[str, ...] = ()
    """Columns by which the scores are broken down."""
    flips: Flips | None = None
    """Mirror images (left–right, up–down; both: these and both at once) whose maps are averaged with the image's own,
    for the scores of masks; what a classifier decides stays that of the image alone. Default: a run's own, else
    none."""
    postprocessing: tuple[Postprocessing, ...] | None = None
    """What is done to the masks that are scored, in this order. Default: a run's own, else nothing."""
    pixel_steps: int = 0
    """Steps in which pixels are put onto the blurred image, and removed from the image, most salient first: insertion
    and deletion. Each step is two further predictions an image; 0: off."""
    sanity: bool = False
    """Tell how alike the saliency maps of up to 32 images stay when the weights are shuffled: a map of what was learnt
    changes. For a run or a .keras file."""
    unlike: tuple[str, ...] = ()
    """Datasets of other kinds of images: how well the model's unfamiliarity tells them from the scored ones."""
    allow: tuple[str, ...] = ()
    """Kinds of data errors to go on with."""

    def run(self) -> int:
        import_tensorflow()
        from tfseg.jobs.evaluate import evaluate_model

        evaluate_model(
            self.model,
            self.data,
            self.out,
            target=self.target,
            row=self.row,
            part=self.part,
            allow=self.allow,
            class_map=self.class_map,
            subgroups=self.subgroups,
            flips=self.flips,
            postprocessing=self.postprocessing,
            pixel_steps=self.pixel_steps,
            sanity=self.sanity,
            unlike=self.unlike,
            command=command_line(),
        )
        return 0


@dataclass(frozen=True)
class Predict:
    """Predict images with a trained model: predictions.csv, masks and overlays.

    For example:
        tfseg predict saved_models/demo my_photos --out predictions
        tfseg predict runs/soft/models/soft_mask/model.keras a.jpg b.png --out predictions
    """

    model: Model
    """A .keras file, a SavedModel folder or a .tflite file."""
    images: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGES…")]
    """Image files and folders."""
    out: str
    """Folder for predictions.csv, masks/ and overlays/."""
    batch_size: int = 16
    """Images at a time."""
    overlays: bool = True
    """Whether to draw an overlay of every image."""
    flips: Flips = "none"
    """Mirror images (left–right, up–down; both: these and both at once) whose maps are averaged with the image's own,
    for the masks that are written; classes and saliency stay those of the image alone."""
    postprocessing: tuple[Postprocessing, ...] = ()
    """What is done to the masks that are written, in this order: keep the lesion's largest part, fill its holes."""

    def run(self) -> int:
        import_tensorflow()
        from tfseg.export.predictions import predict_folder

        if not self.images:
            raise UserError("give at least one image file or folder")
        summary = predict_folder(
            self.model,
            self.images,
            self.out,
            self.batch_size,
            self.overlays,
            flips=self.flips,
            postprocessing=self.postprocessing,
        )
        for problem in summary["problems"]:
            print(f"warning: left out {problem}", file=sys.stderr)
        counts = ", ".join(f"{name} {count}" for name, count in summary["predicted"].items())
        doubts = (("abstained", "not sure"), ("unfamiliar", "unfamiliar"))
        doubts = "".join(f"; {summary[key]} {text}" for key, text in doubts if summary[key])
        print(f"{summary['images']} images predicted ({counts}{doubts}); written to {summary['out']}")
        return 0


@dataclass(frozen=True)
class Export:
    """Export a trained row for TF-Serving and for phones, and refuse an export that disagrees with Keras.

    Writes OUT/NAME/VERSION/ (SavedModel), OUT/NAME/NAME.float32.tflite and the parity report.

    For example:
        tfseg export runs/soft --name skin --row soft_mask
    """

    folder: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""
    name: str
    """What the server calls the model."""
    row: str | None = None
    """Which row of the run; default: the best on validation."""
    formats: tuple[Literal["saved_model", "float32"], ...] = ("saved_model", "float32")
    """What to write."""
    out: str = "saved_models"
    """Where models are kept."""
    data: str | None = None
    """Where the run's data lies now; default: where it was."""

    def run(self) -> int:
        import_tensorflow()
        from tfseg.jobs.export import export_run

        report = export_run(self.folder, self.name, self.row, self.formats, self.out, self.data)
        for path in report["files"].values():
            print(path)
        print(f"agrees with Keras on {report['images']} images (row {report['row']})")
        return 0
