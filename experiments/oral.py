"""Segment-driven classification of oral lesions: masks, then classifiers by four approaches, on photographs.

`--stage segmentation` (Table II): the lesion's mask by FCN, DeepLab and U-Net, on folds. The validation part chooses
the epoch, the test part is scored at the files' own resolution, as means over images; two masks made without looking
stand above. A photograph without a lesion scores 1 in precision, recall, IoU and Dice where nothing is found in it, and
0 otherwise: where lesions are small these say more than accuracy, and the tables of classes keep the two kinds apart.

`--stage search`: learning rate and CEntIoU's λ of every network and approach at random, measured on the validation part
of one split; `--searched FOLDER` takes the best of them in the other stages.

`--stage comparison` (Table I): every network by cross entropy (`plain`), `hard_mask`, `soft_mask` and `centiou`, on the
same folds. With `--rows all` also what the paper lacks: CEntIoU as its code has it (`centiou_published`: the map is
thresholded and constant, so that no gradient goes through it), background swap, and the controls: `inverse_mask`
(without the lesion's pixels), `lesion_removed` (without its box), `random_mask` (the mask somewhere else) and `oracle`
(the true mask). A gain that `random_mask` gives too is none of the segmentation. Beside accuracy stands where the maps
lie and what the decisions rely on; the report tests every pair of rows on the same cases.

`--stage convergence` (Table III): epochs until the validation loss has not improved for `--patience` epochs, seconds
per epoch and in all, of `plain` and `centiou` at a constant learning rate.

Where the masks of one class are empty, the approaches that look at true masks are given a hint: the oracle, and in
training CEntIoU and background swap. Where every image shows a lesion they are not.

The paper's 607 photographs all show a lesion of one of three kinds; it splits 70, 15 and 15 % image by image, here
groups stay together. The paper preset has its networks at 224², Adam, batch 32, patience 20, Table I's learning rates
and λ, and for what the paper leaves open: a ResNet50 under all segmenters, Adam at 1e-4 for them, and validation IoU to
stop by. SqueezeNet's ImageNet weights can't be fetched by Keras: give `--squeezenet-weights`. The quick preset has
SqueezeNet 1.1 and MobileNetV2, whose first layers stay as the weights have them; `vit_tiny16` and `small_swin` can be
named as `--networks` and are trained from scratch, which on a hundred images only proves the path.

    python experiments/oral.py --data ORAL --preset quick --weights imagenet --cells unet --folds 0
    python experiments/oral.py --data ORAL --stage comparison --weights-dir WEIGHTS --rows all --out runs/oral
    python experiments/oral.py --data POCI --stage comparison --preset paper --squeezenet-weights squeezenet.weights.h5
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tfseg.cli import run_guarded
from tfseg.config import ComparisonConfig
from tfseg.errors import ConfigError
from tfseg.experiment import Experiment, parse_experiment
from tfseg.jobs.rows import ClassifierRow
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.names import BackboneName
from tfseg.presets import ORAL_PRESETS
from tfseg.quiet import import_tensorflow
from tfseg.run import read_json, recorded_command


@dataclass(frozen=True)
class Options:
    """What this experiment can be told beside the settings."""

    networks: tuple[BackboneName, ...] = ("squeezenet_1_1", "mobilenet_v2")
    """Networks of the classifiers."""
    rows: Literal["paper", "all"] = "paper"
    """Comparison: the paper's four approaches, or also background swap, CEntIoU without gradient and the controls."""
    searched: str | None = None
    """Comparison and convergence: folder of a finished search, whose best learning rates and λ are taken."""
    trials: int = 8
    """Search: of every network and approach."""
    squeezenet_weights: str | None = None
    """File of SqueezeNet's weights where `--weights imagenet` is for the others."""


OPTIONS = {
    "quick": Options(),
    "paper": Options(networks=("squeezenet_1_0", "convnext_small", "vit_b16", "swin_s"), trials=15),
}

# Table II.
METRICS = ("pixel_accuracy", "pixel_precision", "pixel_recall", "pixel_specificity")
TABLE_2 = {
    "fcn": (0.9409, 0.8005, 0.6860, 0.9697),
    "deeplab": (0.9432, 0.7886, 0.6986, 0.9738),
    "unet": (0.9515, 0.7986, 0.7196, 0.9790),
}
SEGMENTERS = {"fcn": "fcn_8s", "deeplab": "deeplab_v3_plus", "unet": "unet"}

# Table I: learning rate, λ, accuracy.
TABLE_1 = {
    "squeezenet": {
        "hard_mask": (1.34e-4, None, 0.7324),
        "soft_mask": (2.88e-5, None, 0.7816),
        "plain": (2.53e-5, None, 0.7021),
        "centiou": (3.08e-6, 0.5, 0.7079),
    },
    "convnext": {
        "hard_mask": (2.13e-5, None, 0.8134),
        "soft_mask": (2.64e-6, None, 0.8452),
        "plain": (2.64e-5, None, 0.7976),
        "centiou": (4.75e-5, 0.6, 0.7997),
    },
    "vit": {
        "hard_mask": (1.28e-5, None, 0.7943),
        "soft_mask": (1.39e-6, None, 0.8316),
        "plain": (1.88e-5, None, 0.8069),
        "centiou": (1.67e-6, 0.6, 0.8156),
    },
    "swin": {
        "hard_mask": (5.81e-5, None, 0.8124),
        "soft_mask": (3.76e-6, None, 0.8252),
        "plain": (5.28e-7, None, 0.8112),
        "centiou": (5.50e-5, 0.7, 0.8173),
    },
}
# Table III: epochs, seconds per epoch, seconds of training.
TABLE_3 = {
    "squeezenet": {"plain": (381, 85, 32400), "centiou": (214, 102, 21900)},
    "convnext": {"plain": (146, 99, 14400), "centiou": (74, 129, 9500)},
    "vit": {"plain": (150, 107, 16100), "centiou": (106, 139, 14700)},
    "swin": {"plain": (179, 98, 17500), "centiou": (96, 145, 13900)},
}
CONVERGENCE = ("epochs", "seconds_per_epoch", "train_seconds")
FAMILIES = {
    **dict.fromkeys(("squeezenet_1_0", "squeezenet_1_1"), "squeezenet"),
    **dict.fromkeys(("convnext_tiny", "convnext_small"), "convnext"),
    **dict.fromkeys(("vit_b16", "vit_tiny16"), "vit"),
    **dict.fromkeys(("swin_t", "swin_s", "small_swin"), "swin"),
}
# Networks of which there are no weights: nothing is frozen, and the head's learning rate is all of it.
FROM_SCRATCH = ("small_cnn", "vit_tiny16", "small_swin")
APPROACHES = ("plain", "hard_mask", "soft_mask", "centiou")
# Row → its approach, the approach whose learning rate and λ it takes, and what else it differs in.
SWAP = {"background_swap": 0.5}
FURTHER = {
    "centiou_published": ("centiou", "centiou", {"saliency_gradient": "none"}),
    "plain_swap": ("plain", "plain", SWAP),
    "hard_mask_swap": ("hard_mask", "hard_mask", SWAP),
    "centiou_swap": ("centiou", "centiou", SWAP),
    "inverse_mask": ("inverse_mask", "hard_mask", {}),
    "lesion_removed": ("lesion_removed", "hard_mask", {}),
    "random_mask": ("random_mask", "hard_mask", {}),
    "oracle": ("oracle", "hard_mask", {}),
}


def segmentation_rows() -> list[StudyRow]:
    """The rows of the table of segmenters."""
    trained = [
        StudyRow(name, {"segmenter": SEGMENTERS[name]}, paper=dict(zip(METRICS, values, strict=True)))
        for name, values in TABLE_2.items()
    ]
    return [StudyRow("all_foreground", baseline="foreground"), StudyRow("random_mask", baseline="random"), *trained]


def classifier_rows(experiment: Experiment) -> list[ClassifierRow]:
    """The rows of the comparison, network by network."""
    options, rows = experiment.options, []
    for network in options.networks:
        published = TABLE_1.get(FAMILIES.get(network), {})
        for approach in APPROACHES:
            paper = {"accuracy": published[approach][2]} if approach in published else None
            rows.append(_row(experiment, network, approach, approach, approach, {}, paper))
        if options.rows == "all":
            rows += [_row(experiment, network, name, *further) for name, further in FURTHER.items()]
    return rows


def convergence_rows(experiment: Experiment) -> list[ClassifierRow]:
    """Cross entropy and CEntIoU of every network."""
    rows = []
    for network in experiment.options.networks:
        for approach in ("plain", "centiou"):
            published = TABLE_3.get(FAMILIES.get(network), {}).get(approach)
            paper = dict(zip(CONVERGENCE, published, strict=True)) if published else None
            rows.append(_row(experiment, network, approach, approach, approach, {}, paper))
    return rows


def _row(experiment, network, name, approach, tuned_as, changes, paper=None) -> ClassifierRow:
    changes = network_settings(experiment, network) | tuned(experiment, network, tuned_as) | changes
    return ClassifierRow(f"{network}_{name}", approach, changes, paper)


def network_settings(experiment: Experiment, network: str) -> dict:
    """In what a network differs from the preset."""
    config, settings = experiment.config, {"backbone": network}
    if FAMILIES.get(network) == "squeezenet":
        paper = {"head": "convolution", "dropout": 0.5}
        settings |= paper if experiment.preset == "paper" else {"learning_rate": 2e-4}
    if network in FROM_SCRATCH:
        return settings | {"weights": None, "weights_dir": None}
    if FAMILIES.get(network) == "squeezenet" and config.weights == "imagenet":
        if experiment.options.squeezenet_weights is None:
            raise ConfigError(f"Keras has no ImageNet weights for {network}: give `--squeezenet-weights FILE`")
        settings["weights"] = experiment.options.squeezenet_weights
    return settings


def tuned(experiment: Experiment, network: str, approach: str) -> dict:
    """Learning rate and λ: those of a search, of Table I in the paper preset, or the preset's own."""
    folder = experiment.options.searched
    if folder:
        path = Path(folder) / f"{network}_{approach}" / "best.json"
        if not path.is_file():
            raise ConfigError(f"`searched`: {path} does not exist; run `--stage search` for {network} first")
        best = read_json(path)
        return {name: best[name] for name in _searched(approach)}
    if experiment.preset != "paper" or network not in FAMILIES:
        return {}
    rate, share, _ = TABLE_1[FAMILIES[network]][approach]
    return {"learning_rate": rate} | ({"cross_entropy_share": share} if share else {})


def _searched(approach: str) -> tuple[str, ...]:
    return ("learning_rate", "cross_entropy_share") if approach == "centiou" else ("learning_rate",)


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


def search(experiment: Experiment) -> str:
    """The settings of every network and approach; returns where they lie."""
    from tfseg.jobs.search.job import run_search
    from tfseg.jobs.search.space import plan_search

    options, out = experiment.options, Path(experiment.out or "runs/oral_search")
    spaces = {"learning_rate": "learning_rate=1e-7..2e-4:log", "cross_entropy_share": "cross_entropy_share"}
    if experiment.preset == "quick":
        spaces["learning_rate"] = "learning_rate=1e-4..3e-3:log"
    # All of them look at the same segmenter.
    base, segmenter = experiment.config, experiment.config.segmenter_file
    for network in options.networks:
        for approach in APPROACHES:
            masked = approach in ("hard_mask", "soft_mask")
            given = {"segmenter_file": segmenter} if masked else {}
            changes = network_settings(experiment, network) | given | {"approaches": (approach,)}
            config: ComparisonConfig = replace(base, **changes)
            plan = plan_search(config, [spaces[name] for name in _searched(approach)], trials=options.trials)
            folder = out / f"{network}_{approach}"
            run_search(config, plan, folder, command=recorded_command(), session=experiment.session)
            if masked and segmenter is None:
                segmenter = str(folder / "models" / "segmenter.keras")
    return f"best settings  {out}/<network>_<approach>/best.json (for --stage comparison --searched {out})"


def comparison(experiment: Experiment) -> str:
    """Table I and what it lacks; returns where things lie in the run."""
    return _compared(experiment, classifier_rows(experiment), "oral_comparison")


def convergence(experiment: Experiment) -> str:
    """Table III; returns where things lie in the run."""
    columns = ("accuracy", "best_epoch", *CONVERGENCE)
    return _compared(experiment, convergence_rows(experiment), "oral_convergence", columns)


def _compared(experiment: Experiment, rows: list[ClassifierRow], name: str, columns: tuple[str, ...] = ()) -> str:
    from tfseg.jobs.comparison import describe_files, run_comparison

    finished = run_comparison(
        experiment.config,
        experiment.out,
        rows=rows,
        columns=columns,
        experiment=name,
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
    )
    return describe_files(finished)


STAGES = {"segmentation": segmentation, "search": search, "comparison": comparison, "convergence": convergence}


def run() -> int:
    experiment = parse_experiment(ORAL_PRESETS, __doc__, options=OPTIONS, stages=True)

    import_tensorflow()
    print(STAGES[experiment.stage](experiment))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run))
