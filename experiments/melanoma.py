"""Lesions in dermoscopy by a feature pyramid network with Dice loss, beside a U-Net and DeepLabV3+.

Cross-validated: the validation part of each fold chooses the epoch by IoU at threshold 0.5, the test part is scored
at the files' own resolution. The table of epochs is of the validation parts, as the paper's; the threshold study says
what 0.5 costs, and the mean probability inside and outside of the lesions whether a network has learned the background
by mistake.

`fpn_flips` is the same network as `fpn`, its maps averaged over mirror images. `fpn_flips_clean` keeps of these maps
the largest part, its holes filled: in dermoscopy an image shows one lesion.

Expect, on PH2 with an encoder that has ImageNet weights, an IoU of 0.86 to 0.89 and a Dice of 0.92 to 0.94. The quick
preset takes about 25 minutes of processor time for all fifteen trainings and ends them before they have converged.
Without `--weights` encoders are plain and untrained, and the numbers are lower.

    python experiments/melanoma.py --data ph2:PH2 --preset quick --weights imagenet --out runs/melanoma
    python experiments/melanoma.py --data ph2:PH2 --weights imagenet --cells fpn --folds 0
"""

import sys

from tfseg.cli import run_guarded
from tfseg.experiment import parse_experiment
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.presets import MELANOMA_PRESETS
from tfseg.quiet import import_tensorflow
from tfseg.run import recorded_command

# Dice loss and IoU of each epoch.
PAPER_EPOCHS = (
    *((0.2968, 0.5616), (0.2972, 0.5546), (0.2690, 0.5879), (0.2960, 0.6389), (0.2371, 0.8415)),
    *((0.0929, 0.8626), (0.0792, 0.8626), (0.0692, 0.8798), (0.0556, 0.9017), (0.0542, 0.9039)),
)
LIBRARY_ENCODER = ("encoder=sm:seresnext50", "encoder_weights=imagenet")


def study_rows(preset: str) -> list[StudyRow]:
    """The rows of the table. The paper's IoU is of its validation images, after its last epoch."""
    paper, options = {"iou": PAPER_EPOCHS[-1][1]}, LIBRARY_ENCODER if preset == "paper" else ()
    flips = {"segmenter_flips": "both"}
    clean = {"segmenter_postprocessing": ("largest_component", "fill_holes")}
    return [
        StudyRow("all_foreground", baseline="foreground"),
        StudyRow("random_mask", baseline="random"),
        StudyRow("fpn", {"segmenter": "fpn"}, options, paper=paper, paper_epochs=PAPER_EPOCHS),
        StudyRow("fpn_flips", {"segmenter": "fpn", **flips}, options, model_of="fpn", paper=paper),
        StudyRow("fpn_flips_clean", {"segmenter": "fpn", **flips, **clean}, options, model_of="fpn", paper=paper),
        StudyRow("unet", {"segmenter": "unet"}),
        StudyRow("deeplab_v3_plus", {"segmenter": "deeplab_v3_plus"}),
    ]


def run() -> int:
    experiment = parse_experiment(MELANOMA_PRESETS, __doc__)

    import_tensorflow()
    from tfseg.jobs.study.job import describe_study, run_study

    finished = run_study(
        experiment.config,
        study_rows(experiment.preset),
        experiment.out,
        design=StudyDesign("folds", surfaces=True),
        experiment="melanoma",
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
    )
    print(describe_study(finished))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run))
