"""The EBHI-Seg report's study of a U-Net for glands in colorectal histology: losses, balance, skips, dropout, size.

Two masks made without looking, the baseline and its seven variants, each trained on every run's own split: 68 %
training, 12 % validation (which chooses epoch and threshold), 20 % test. Scores are the unweighted mean over the six
classes of the per-image mean, at the network's size as the report counts (`…_model_size`) and at the files' own
resolution. `…_flips` is the same model, averaged over mirror images. With `--weights`, the quick preset has one more
row, `pretrained`: colour, 128², an encoder with ImageNet weights, Dice + cross entropy, flips and quarter turns.

`--split random` splits image by image as the report does; `--split patient` keeps a patient's images together, which
is the honest number where several images are of one patient.

Expect of the quick preset, one run, an IoU of about 0.87 for the baseline and above 0.90 for `pretrained`. It takes
about twenty minutes on two cores and ends its trainings before they have converged: augmentation and dropout gain from
longer ones (`--segmenter-epochs 16 --epoch-images 0`).

    python experiments/ebhi.py --data ebhi:EBHI-SEG --preset quick --out runs/ebhi
    python experiments/ebhi.py --data ebhi:EBHI-SEG --split patient --cells baseline dropout --out runs/ebhi_patient
"""

import sys
from dataclasses import dataclass
from typing import Literal

from tfseg.cli import run_guarded
from tfseg.experiment import parse_experiment
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.presets import EBHI_PRESETS
from tfseg.quiet import import_tensorflow
from tfseg.run import recorded_command


@dataclass(frozen=True)
class Options:
    """What this experiment can be told beside the settings."""

    split: Literal["random", "patient"] = "random"
    """Every run's split: image by image as in the report, or by patient."""
    runs: int = 1
    """Number of runs, each with a split of its own."""


OPTIONS = {"quick": Options(), "paper": Options(runs=3)}

# Table 1: IoU, Dice, pixel error, seconds. Its "random" scores as an all-foreground mask does.
REPORT = {
    "all_foreground": (0.6329, 0.7676, 0.3671, None),
    "baseline": (0.8612, 0.9225, 0.0974, 2902.23),
    "bce_with_logits": (0.8572, 0.9205, 0.1015, 2195.16),
    "augmentation": (0.8906, 0.9401, 0.0744, 4007.25),
    "dropout": (0.8941, 0.9421, 0.0731, 4240.73),
}
# Tables 2 to 5: IoU, Dice, pixel error of each class.
CLASSES = ("adenocarcinoma", "high_grade_in", "low_grade_in", "normal", "polyp", "serrated_adenoma")
REPORT_CLASSES = {
    "baseline": (
        *((0.8231, 0.8973, 0.1304), (0.8359, 0.9089, 0.1249), (0.8983, 0.9454, 0.0702)),
        *((0.8908, 0.9414, 0.0745), (0.8979, 0.9453, 0.0593), (0.8210, 0.8968, 0.1250)),
    ),
    "bce_with_logits": (
        *((0.8156, 0.8932, 0.1332), (0.8476, 0.9165, 0.1150), (0.8868, 0.9388, 0.0774)),
        *((0.8784, 0.9343, 0.0808), (0.8909, 0.9407, 0.0643), (0.8238, 0.8994, 0.1384)),
    ),
    "augmentation": (
        *((0.8215, 0.8956, 0.1293), (0.8836, 0.9373, 0.0851), (0.8999, 0.9459, 0.0682)),
        *((0.9209, 0.9586, 0.0493), (0.9106, 0.9526, 0.0513), (0.9068, 0.9508, 0.0633)),
    ),
    "dropout": (
        *((0.8225, 0.8965, 0.1302), (0.8735, 0.9309, 0.0961), (0.9100, 0.9520, 0.0621)),
        *((0.9259, 0.9613, 0.0474), (0.9125, 0.9537, 0.0495), (0.9203, 0.9582, 0.0536)),
    ),
}
METRICS = ("iou", "dice", "pixel_error", "train_seconds")
# The report names the kinds of change and neither amounts nor the dropout rate.
BALANCED = {"balance": "majority", "augmentation": "ebhi"}
DROPOUT = ("dropout=0.2",)


PRETRAINED = {
    "image_size": 128,
    "segmenter_encoder": "auto",
    "segmenter_loss": "dice_cross_entropy",
    "augmentation": "se_lcn",
    "segmenter_epochs": 14,
    "segmenter_patience": 14,
}


def study_rows(pretrained: bool = False) -> list[StudyRow]:
    """The rows of the table, with the report's values where it has some.

    Args:
        pretrained: whether there are weights for an encoder.
    """
    flips = {"segmenter_flips": "both"}

    def row(name: str, **options) -> StudyRow:
        paper = {key: value for key, value in zip(METRICS, REPORT.get(name, ()), strict=False) if value is not None}
        classes = {
            label: dict(zip(METRICS[:3], values, strict=True))
            for label, values in zip(CLASSES, REPORT_CLASSES.get(name, ()), strict=False)
        }
        return StudyRow(name, paper=paper or None, paper_classes=classes or None, **options)

    return [
        row("all_foreground", baseline="foreground"),
        row("random_mask", baseline="random"),
        row("baseline"),
        row("bce_with_logits", changes={"segmenter_loss": "bce_with_logits"}),
        row("smooth_l1", changes={"segmenter_loss": "smooth_l1"}),
        row("augmentation", changes=BALANCED),
        row("no_skips", options=("skip_connections=false",)),
        row("skip_smoothing", options=("skip_smoothing=true",)),
        row("dropout", changes=BALANCED, options=DROPOUT),
        row("dropout_flips", changes=BALANCED | flips, options=DROPOUT, model_of="dropout"),
        row("size_128", changes={"image_size": 128}),
    ] + [
        row("pretrained", changes=PRETRAINED, options=("greyscale=false",)),
        row("pretrained_flips", changes=PRETRAINED | flips, options=("greyscale=false",), model_of="pretrained"),
    ] * pretrained


def run() -> int:
    experiment = parse_experiment(EBHI_PRESETS, __doc__, options=OPTIONS)

    import_tensorflow()
    from tfseg.jobs.study.job import describe_study, run_study

    pretrained = bool(experiment.config.weights or experiment.config.weights_dir)
    split_by = "random" if experiment.options.split == "random" else "group"
    finished = run_study(
        experiment.config,
        study_rows(pretrained=experiment.preset == "quick" and pretrained),
        experiment.out,
        design=StudyDesign(split_by, experiment.options.runs, over_labels=True, model_size=True),
        experiment="ebhi",
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
    )
    print(describe_study(finished))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run))
