"""The `tfseg` command. Nothing heavy is imported before a subcommand needs it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro

from tfseg.config import ComparisonConfig
from tfseg.errors import DataError, ExportError, UserError
from tfseg.quiet import import_tensorflow

Positional = tyro.conf.Positional
Data = Annotated[Positional[str], tyro.conf.arg(metavar="DATA")]
Model = Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
DESCRIPTION = """Segmentation-driven classification of medical images: train, compare, explain, serve.
Research software, not a medical device."""


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

        run_demo(self.out, images=self.images, seed=self.seed, command=_command())
        return 0


@dataclass(frozen=True)
class Audit:
    """Count classes and parts of a dataset and name what is wrong with it; exit 1 if something is.

    For example:
        tfseg audit my_data
        tfseg audit my_data --out runs/audit --split-file runs/soft/splits.json
        tfseg audit my_data --allow duplicate_across_labels
    """

    data: Data
    """A folder with labels.csv and images/, or NAME:PATH."""
    target: str = "label"
    """The column to learn."""
    allow: tuple[str, ...] = ()
    """Kinds of errors to count as warnings."""
    out: str | None = None
    """Folder for audit.html (with pictures) and audit.json; new, empty, or of an earlier audit."""
    split_file: str | None = None
    """A splits.json: its parts are audited, of all folds, and not those of the `split` column."""

    def run(self) -> int:
        from tfseg.data.audit import audit_cases
        from tfseg.data.audit_page import audit_text, check_audit_folder, write_audit
        from tfseg.data.checks import check_allowed
        from tfseg.data.sources import load_cases
        from tfseg.data.splits import read_split
        from tfseg.progress import progress_bar

        check_allowed(self.allow)
        if self.out is not None:
            check_audit_folder(self.out)
        try:
            cases = load_cases(self.data, self.target)
        except DataError as error:
            if any(problem.kind in ("no_folder", "no_table", "target") for problem in error.problems):
                raise
            # The table alone is enough to see that something is wrong; a DataError's own text is shortened.
            lines = [f"  {problem}" for problem in error.problems]
            print("\n".join([f"{len(lines)} error{'s' if len(lines) != 1 else ''} in {self.data}:", *lines]))
            return 1
        splits = None if self.split_file is None else read_split(self.split_file, cases)
        with progress_bar(f"auditing {len(cases)} cases", len(cases)) as advance:
            audit = audit_cases(cases, splits, self.allow, advance)
        print(audit_text(audit))
        if self.out is not None:
            print(f"\nwritten to {write_audit(audit, cases, self.out)}")
        return 0 if audit.ok else 1


@dataclass(frozen=True)
class Train(ComparisonConfig):
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
        import_tensorflow()
        from tfseg.jobs.comparison import describe_files, run_comparison

        config = ComparisonConfig(**{entry.name: getattr(self, entry.name) for entry in fields(ComparisonConfig)})
        run = run_comparison(config, self.out, experiment="train", preset="custom", command=_command())
        print(describe_files(run))
        return 0


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
            command=_command(),
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

    def run(self) -> int:
        import_tensorflow()
        from tfseg.export.predictions import predict_folder

        if not self.images:
            raise UserError("give at least one image file or folder")
        summary = predict_folder(self.model, self.images, self.out, self.batch_size, self.overlays)
        for problem in summary["problems"]:
            print(f"warning: left out {problem}", file=sys.stderr)
        counts = ", ".join(f"{name} {count}" for name, count in summary["predicted"].items())
        print(f"{summary['images']} images predicted ({counts}); written to {summary['out']}")
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
        print(table(benchmark_pipeline(self.out, self.cores, self.repetitions, _command())))
        return 0


COMMANDS = {
    "demo": Demo,
    "audit": Audit,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "benchmark": Benchmark,
}


def _command() -> str:
    from tfseg.run import recorded_command

    return recorded_command()


def run_guarded(job: Callable[[], int]) -> int:
    """Run a job and turn the user's mistakes into a message and an exit code.

    Returns:
        The job's own code; 2 after a `UserError`; 1 when an export was refused; 130 when interrupted.
    """
    try:
        return job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"export refused: {error}", file=sys.stderr)
        return 1
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
