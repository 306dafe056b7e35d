"""Masks from a few, and fusion, for cervical cells.

`--stage labelling`: how near do drawn masks come to the true ones? The paper's experts drew masks for 20 images of each
class; a U-Net learned from them and drew the others. The paper's IoU of 0.94 is of one example. Here only
`--segmenter-masks` true masks of each class are given, `tfseg label` draws the others, and every one of these is
compared with the truth: IoU of background, cytoplasm and nucleus, their mean, IoU and Dice of the whole cell, all of it
by class of image too, and whether the masks that the labelling wants checked first are the bad ones. Every run draws
other masks to be given; intervals are over the runs.

`--stage fusion`: does a second network that sees the U-Net's class map help? `classical` is the image's network alone,
`fusion_flatten` and `fusion_gap` are the paper's proposed models 1 and 2, `fusion_gate` is a head of our own. The
U-Net of each fold learns from `--segmenter-masks` masks of each class of the first task, of the fold's training and
validation part. Two controls say what the segmentation gives: `fusion_oracle` sees the true masks, in the test too, and
`fusion_zeroed` an empty class map. Every column of `--tasks` is learned in a folder of its own; the paper's tasks are
four classes, and two. `tfseg benchmark decisions --run FOLDER` then measures what a decision of each row costs.

Herlev is a cleaned public set of single cells. The paper's authors hold that results on such sets are not comparable
with theirs, which are of smears as they leave the scanner.

Expect of the quick labelling, on Herlev and with an encoder that has ImageNet weights, a mean IoU of about 0.76 and an
IoU of the whole cell of about 0.86, against 0.68 of a mask that calls all of the image cell. The true masks were made
of just 40² pixels: their outlines have steps, which the drawn ones have not. On two cores a run takes about three
minutes, all five about a quarter of an hour.

The paper presets have the paper's U-Net: Dice and focal loss, batch 32, Adam at 1e-4, at most 500 epochs; and its
Xception and ResNet50, of which the first 40 layers stay, with 30 test cases of each class. Where the paper is silent:
224² pixels, 64 filters, the augmentation of its classifiers, and validation IoU for the U-Net's patience. The quick
labelling averages over mirror images, keeps the largest part of a cell and fills its holes. The quick fusion has
MobileNetV2 for the image, a small network for the class map and a U-Net at a quarter of the side.

    python experiments/cervical.py --data HERLEV --preset quick --weights imagenet --out runs/cervical
    python experiments/cervical.py --data HERLEV --weights imagenet --segmenter-masks 5 --runs 1
    python experiments/cervical.py --data HERLEV --stage fusion --weights imagenet --out runs/cervical_fusion
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tfseg.cli import run_guarded
from tfseg.errors import ConfigError
from tfseg.experiment import Experiment, parse_experiment
from tfseg.jobs.relabel.draw import RelabelDesign
from tfseg.jobs.rows import ClassifierRow
from tfseg.presets import CERVICAL_PRESETS
from tfseg.quiet import import_tensorflow
from tfseg.run import recorded_command


@dataclass(frozen=True)
class Options:
    """What this experiment can be told beside the settings."""

    runs: int = 5
    """Labelling: number of runs, each with other masks given."""
    tasks: tuple[str, ...] = ("label", "binary")
    """Fusion: columns to learn, as `target` takes them, one after the other."""


OPTIONS = {"quick": Options(), "paper": Options()}

# Section III-B: the IoU of one example.
PAPER = {"mean_iou": 0.94}
NOTES = (
    "the paper's 0.94 is the IoU of one example and does not say of which class",
    "Herlev is a cleaned public set, and the paper's authors hold that results on such sets are not comparable with "
    "theirs",
)


def labelling(experiment: Experiment) -> str:
    """The paper's generation of masks put to the test; returns where things lie in the run."""
    from tfseg.jobs.relabel.job import describe_relabelling, run_relabelling

    options = experiment.options
    finished = run_relabelling(
        replace(experiment.config, segmenter_masks=0),
        RelabelDesign(experiment.config.segmenter_masks, options.runs),
        experiment.out,
        experiment="cervical_labelling",
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
        paper=PAPER,
        notes=NOTES,
    )
    return describe_relabelling(finished)


# Section IV: accuracy and F1 with four classes, and with two.
METRICS = ("accuracy", "f1_macro")
TABLES = {
    "four": {"classical": (0.675, 0.667), "fusion_flatten": (0.708, 0.702), "fusion_gap": (0.725, 0.727)},
    "two": {"classical": (0.850, 0.858), "fusion_flatten": (0.933, 0.935), "fusion_gap": (0.942, 0.943)},
}
ROWS = {
    "classical": "plain",
    **{name: name for name in ("fusion_flatten", "fusion_gap", "fusion_gate", "fusion_oracle", "fusion_zeroed")},
}
COLUMNS = (
    *("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "auc"),
    *("ece", "ece_uncalibrated", "temperature", "sensitivity", "specificity", "unfamiliar_rate"),
)


def fusion_rows(classes: int) -> list[ClassifierRow]:
    """The rows of the comparison, with what the paper has for as many classes."""
    published = {2: TABLES["two"], 4: TABLES["four"]}.get(classes, {})
    return [
        ClassifierRow(
            name, approach, paper=dict(zip(METRICS, published[name], strict=True)) if name in published else None
        )
        for name, approach in ROWS.items()
    ]


def fusion(experiment: Experiment) -> str:
    """The paper's models compared, for each task; returns where things lie in the runs."""
    from tfseg.data.sources import load_cases
    from tfseg.jobs.comparison import describe_files, run_comparison

    folder, tasks = Path(experiment.out or "runs/cervical_fusion"), experiment.options.tasks
    names = [task.partition(":")[0] for task in tasks]
    if not tasks or len(set(names)) != len(names):
        raise ConfigError(f"`tasks` must name different columns, at least one, received {list(tasks)}")
    config = experiment.config
    classes = {task: load_cases(config.data, task).classes for task in tasks}
    unknown = set(config.positive) - {name for of_task in classes.values() for name in of_task}
    if unknown:
        raise ConfigError(f"`positive`: no task has a class {', '.join(sorted(unknown))}")
    texts = []
    for name, task in zip(names, tasks, strict=True):
        # Each task has its own names for what is to be found.
        positive = tuple(known for known in config.positive if known in classes[task])
        # As many masks for each task as the first one has.
        masks = round(config.segmenter_masks * len(classes[tasks[0]]) / len(classes[task]))
        own = {
            "target": task,
            "segmenter_masks": masks,
            "positive": positive,
            "sensitivity": config.sensitivity if positive else None,
        }
        finished = run_comparison(
            replace(config, **own),
            folder / name,
            rows=fusion_rows(len(classes[task])),
            columns=COLUMNS,
            experiment="cervical_fusion",
            preset=experiment.preset,
            command=recorded_command(),
            session=experiment.session,
        )
        texts.append(describe_files(finished))
    return "\n".join(texts)


STAGES = {"labelling": labelling, "fusion": fusion}


def run() -> int:
    experiment = parse_experiment(CERVICAL_PRESETS, __doc__, options=OPTIONS, stages=True)

    import_tensorflow()
    print(STAGES[experiment.stage](experiment))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run))
