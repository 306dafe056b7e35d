"""Segment-driven classification of oral lesions. Stage `segmentation`: the lesion's mask by FCN, DeepLab and U-Net.

Table II of the paper, on folds: each network is trained on the fold's training part, the validation part chooses the
epoch, and the test part is scored at the files' own resolution, as means over images. Two masks made without looking
stand above. The table shows pixel accuracy, precision, recall and specificity beside the paper's, and IoU and Dice,
which it does not give. Where lesions are small these two say more: without any lesion found the accuracy is still high.

The paper's 607 photographs all show a lesion. One without a lesion scores 1 in precision, recall, IoU and Dice where
nothing is found in it, and 0 otherwise; the tables of classes keep the two kinds apart.

Expect of the quick preset, on 109 photographs of which 35 show no lesion and with an encoder that has ImageNet weights,
an IoU of 0.37 from FCN to 0.46 from U-Net: 0.20 to 0.25 where there is a lesion, 0.7 to 0.9 where there is none. A
test part of 22 photographs says little by itself. A fold of the three takes about four minutes on two cores, all five
less than twenty minutes.

The paper says binary cross entropy, a random split of 70, 15 and 15 %, and early stopping on the validation part. Where
it is silent, the paper preset has the size, batch, augmentation and patience of its classifiers, a ResNet50 with
ImageNet weights under all three, Adam at 1e-4, and validation IoU to stop by. In both presets the photographs of one
group stay in one part, where the paper splits image by image.

    python experiments/oral.py --data ORAL --preset quick --weights imagenet --out runs/oral
    python experiments/oral.py --data ORAL --weights imagenet --cells unet --folds 0
"""

import sys
from dataclasses import dataclass
from typing import Literal

from tfseg.cli import run_guarded
from tfseg.experiment import Experiment, parse_experiment
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.presets import ORAL_PRESETS
from tfseg.quiet import import_tensorflow
from tfseg.run import recorded_command


@dataclass(frozen=True)
class Options:
    """What this experiment can be told beside the settings."""

    stage: Literal["segmentation"] = "segmentation"
    """Part of the paper."""


OPTIONS = {"quick": Options(), "paper": Options()}

# Table II.
METRICS = ("pixel_accuracy", "pixel_precision", "pixel_recall", "pixel_specificity")
TABLE_2 = {
    "fcn": (0.9409, 0.8005, 0.6860, 0.9697),
    "deeplab": (0.9432, 0.7886, 0.6986, 0.9738),
    "unet": (0.9515, 0.7986, 0.7196, 0.9790),
}
SEGMENTERS = {"fcn": "fcn_8s", "deeplab": "deeplab_v3_plus", "unet": "unet"}


def segmentation_rows() -> list[StudyRow]:
    """The rows of the table of segmenters."""
    trained = [
        StudyRow(name, {"segmenter": SEGMENTERS[name]}, paper=dict(zip(METRICS, values, strict=True)))
        for name, values in TABLE_2.items()
    ]
    return [StudyRow("all_foreground", baseline="foreground"), StudyRow("random_mask", baseline="random"), *trained]


def segmentation(experiment: Experiment) -> str:
    """Table II; returns where things lie in the run."""
    from tfseg.jobs.study.job import describe_study, run_study

    finished = run_study(
        experiment.config,
        segmentation_rows(),
        experiment.out,
        design=StudyDesign("folds"),
        experiment="oral_segmentation",
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
    )
    return describe_study(finished)


STAGES = {"segmentation": segmentation}


def run() -> int:
    experiment = parse_experiment(ORAL_PRESETS, __doc__, options=OPTIONS)

    import_tensorflow()
    print(STAGES[experiment.options.stage](experiment))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run))
