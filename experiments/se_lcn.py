"""SE-LCN: does a lesion classifier gain from seeing where a symmetry network looked?

Three networks, one after the other: a segmenter; a network that tells symmetric from asymmetric lesions; and the
lesion classifier, which is handed the second one's Grad-CAM++ map and joins it with its own feature maps by an E-Layer.
Each of the two classifiers sees the whole image, the lesion alone, or the lesion's grown box: with no transfer at all
beside the three maps, 12 cells. Hairs are taken out of every image first, in training as inside the trained models.

`--stage segmentation` (Table 5): DeepLabV3+ and U-Net with Dice and rank loss, on folds, each also with the hairs left
in. Its models go on as `--segmenter-file` where the other stages' data has no masks.

`--stage symmetry` (Table 6): the networks of `--networks`, and the first of them from scratch and on masked images.

`--stage search`: a Bayesian search over batch size, learning rate, momentum, weight decay and class weights, of the
classifier without transfer; with `--search per_cell` of every cell. `--searched FOLDER` takes what it found.

`--stage grid` (Tables 8 and 9): the 12 cells. One split, by lesion, binds all three networks: what a fold's classifier
is validated or tested on, neither its segmenter nor its symmetry network has seen. With `--rows all` also two controls,
the cell `none_none` with another image's map (`none_shuffled`) and with an empty one (`none_zeroed`); both networks
behind soft masks (`soft_soft`); and the cascade trained end to end, from the trained stages on, its gradient going
through the map (`none_none_joint`) and through soft masks and the map (`soft_soft_joint`). If a shuffled map helps as
much, the map is not what helps.

`--stage elsewhere --grid FOLDER` (Tables 9 and 10): the models of a grid on another dataset, less the images that it
shares with the training; scores of the classes by the arg-max over all that the models know and over those that the
data has, and where there are masks, where the maps lie. `--class-names` says which of its classes is which of ours;
`experiments/class_maps` has some.

The thesis splits images at random and puts augmented copies on both sides of the folds; with lesions kept together,
and none seen by an earlier stage, lower numbers are to be expected. Its paper preset is its code's: EfficientNet-B4 at
256², SqueezeNet for the symmetry, one linear layer behind global pooling, Adam, at most 100 epochs, and the learning
rates that its search found; the thesis's text flattens (`--head flatten`). Keras has no ImageNet weights of SqueezeNet:
give `--symmetry-weights`.

    python experiments/se_lcn.py --stage segmentation --data ph2:PH2 --weights imagenet --out runs/se_lcn/segmentation
    python experiments/se_lcn.py --data ham10000:HAM --weights-dir WEIGHTS --rows all --folds 0 --out runs/se_lcn/grid
    python experiments/se_lcn.py --stage elsewhere --grid runs/se_lcn/grid --data isic2017:ISIC --class-names FILE.json
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tfseg.cli import run_guarded
from tfseg.errors import ConfigError
from tfseg.experiment import Experiment, parse_experiment
from tfseg.jobs.rows import ClassifierRow
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.names import NO_IMAGENET, BackboneName
from tfseg.presets import SE_LCN_PRESETS
from tfseg.quiet import import_tensorflow
from tfseg.run import read_json, recorded_command


@dataclass(frozen=True)
class Options:
    """What this experiment can be told beside the settings."""

    networks: tuple[BackboneName, ...] = ("squeezenet_1_1", "mobilenet_v2")
    """Symmetry: networks to compare; the first is also trained from scratch and on masked images."""
    rows: Literal["thesis", "all"] = "thesis"
    """Grid: the 12 cells, or also the controls, the soft masks and the end-to-end trainings."""
    search: Literal["once", "per_cell"] = "once"
    """Search: the settings of all cells, or of each."""
    trials: int = 6
    """Search: of every cell that is searched."""
    searched: str | None = None
    """Grid: folder of a finished search."""
    grid: str | None = None
    """Elsewhere: folder of a grid, whose models are scored."""
    class_names: str | None = None
    """Elsewhere: JSON file {"their class": "our class" or null}; null leaves a class out."""


OPTIONS = {
    "quick": Options(),
    "paper": Options(networks=("squeezenet_1_0", "resnet34", "efficientnet_b0", "shufflenet_v2"), trials=15),
}

# Table 5.
SEGMENTATION = ("dice", "pixel_recall", "pixel_specificity", "pixel_accuracy")
TABLE_5 = {"deeplab_v3_plus": (0.8882, 0.9083, 0.9178, 0.9184), "unet": (0.8807, 0.8873, 0.9328, 0.9150)}
# Table 6b, of the test set.
SYMMETRY = ("balanced_accuracy", "kappa", "precision_weighted", "recall_weighted", "f1_weighted")
TABLE_6 = {
    "scratch": (0.673, 0.347, 0.680, 0.679, 0.678),
    "none": (0.758, 0.511, 0.761, 0.757, 0.758),
    "seg": (0.730, 0.458, 0.733, 0.729, 0.729),
    "lae": (0.732, 0.466, 0.736, 0.736, 0.735),
}
# Table 8b, of the test set, and Table 9, of all images.
CLASSES = ("accuracy", "kappa", "precision_macro", "recall_macro", "f1_macro")
TABLE_8 = {
    "none_no": (0.849, 0.713, 0.750, 0.814, 0.777),
    "none_none": (0.845, 0.716, 0.756, 0.822, 0.785),
    "none_seg": (0.849, 0.721, 0.770, 0.819, 0.792),
    "none_lae": (0.844, 0.716, 0.766, 0.824, 0.792),
    "seg_no": (0.782, 0.618, 0.638, 0.738, 0.680),
    "seg_none": (0.781, 0.617, 0.647, 0.742, 0.684),
    "seg_seg": (0.776, 0.610, 0.642, 0.738, 0.679),
    "seg_lae": (0.782, 0.616, 0.644, 0.723, 0.674),
    "lae_no": (0.804, 0.653, 0.670, 0.778, 0.713),
    "lae_none": (0.817, 0.672, 0.689, 0.784, 0.728),
    "lae_seg": (0.812, 0.666, 0.671, 0.776, 0.714),
    "lae_lae": (0.819, 0.677, 0.702, 0.801, 0.742),
}
MAPS = ("cam_iou", "cam_overlap", "cam_pointing")
TABLE_9 = {
    "none_no": (0.273, 0.964, 0.952),
    "none_none": (0.461, 0.895, 0.844),
    "none_seg": (0.458, 0.888, 0.828),
    "none_lae": (0.427, 0.894, 0.941),
    "seg_no": (0.270, 0.967, 0.956),
    "seg_none": (0.427, 0.958, 0.941),
    "seg_seg": (0.415, 0.959, 0.940),
    "seg_lae": (0.468, 0.955, 0.892),
    "lae_no": (0.260, 0.967, 0.956),
    "lae_none": (0.468, 0.950, 0.892),
    "lae_seg": (0.475, 0.951, 0.899),
    "lae_lae": (0.487, 0.949, 0.896),
}
# Table 10, of ISIC 2019 without squamous cell carcinoma.
TABLE_10 = {
    "none_no": (0.522, 0.339, 0.376, 0.516, 0.403),
    "none_none": (0.669, 0.499, 0.505, 0.541, 0.511),
    "none_seg": (0.675, 0.501, 0.512, 0.535, 0.514),
    "none_lae": (0.676, 0.505, 0.518, 0.539, 0.522),
    "seg_no": (0.622, 0.430, 0.465, 0.509, 0.465),
    "seg_none": (0.622, 0.434, 0.453, 0.503, 0.457),
    "seg_seg": (0.621, 0.433, 0.461, 0.501, 0.461),
    "seg_lae": (0.624, 0.430, 0.469, 0.495, 0.465),
    "lae_no": (0.643, 0.454, 0.460, 0.525, 0.457),
    "lae_none": (0.639, 0.433, 0.472, 0.506, 0.457),
    "lae_seg": (0.635, 0.434, 0.464, 0.507, 0.451),
    "lae_lae": (0.636, 0.425, 0.470, 0.502, 0.452),
}

STAGED = {"joint_symmetry": 0.0, "joint_segmentation": 0.0}
MASKS = {"none": "plain", "seg": "hard_mask", "lae": "lesion_area", "soft": "soft_mask"}
COLUMNS = (*CLASSES, "auc", "ece", *MAPS, "background_flip_rate", "parameters", "latency_ms")
# What the thesis searches, over its code's ranges.
SEARCHED = ("batch_size", "learning_rate=1e-5..1e-2:log", "momentum", "weight_decay=1e-5..1e-3:log", "class_weights")
TUNED = ("batch_size", "learning_rate", "momentum", "weight_decay", "class_weights")


def segmentation_rows() -> list[StudyRow]:
    """The rows of the table of segmenters, each also with the hairs left in the images."""
    rows = [StudyRow("all_foreground", baseline="foreground"), StudyRow("random_mask", baseline="random")]
    for name, values in TABLE_5.items():
        paper = dict(zip(SEGMENTATION, values, strict=True))
        rows.append(StudyRow(name, {"segmenter": name}, paper=paper))
        rows.append(StudyRow(f"{name}_hairs", {"segmenter": name, "hair_removal": False}))
    return rows


def symmetry_rows(experiment: Experiment) -> list[ClassifierRow]:
    """The rows of the table of symmetry networks."""
    first, *others = experiment.options.networks
    scratch = {"weights": None, "weights_dir": None, "batch_norm": "frozen"}
    rows = [_symmetry_row(experiment, "scratch", first, "plain", scratch)]
    rows += [_symmetry_row(experiment, name, first, MASKS[name]) for name in ("none", "seg", "lae")]
    return rows + [_symmetry_row(experiment, f"none_{network}", network, "plain") for network in others]


def _symmetry_row(experiment, name, network, approach, changes=()) -> ClassifierRow:
    config, settings = experiment.config, {"backbone": network, "mask_backbone": "auto"}
    settings |= {"epochs": config.symmetry_epochs, "learning_rate": config.symmetry_learning_rate}
    if config.symmetry_weights and network == experiment.options.networks[0]:
        settings |= {"weights": config.symmetry_weights, "weights_dir": None}
    elif config.weights == "imagenet" and network in NO_IMAGENET and not changes:
        raise ConfigError(f"Keras has no ImageNet weights for {network}: give `--symmetry-weights` or `--weights-dir`")
    paper = dict(zip(SYMMETRY, TABLE_6[name], strict=True)) if name in TABLE_6 else None
    return ClassifierRow(name, approach, settings | dict(changes), paper)


def grid_rows(experiment: Experiment) -> list[ClassifierRow]:
    """The cells, in the thesis's order; with all rows also what it lacks."""
    rows = [_cell(experiment, mask, transfer) for mask in ("none", "seg", "lae") for transfer in ("no", *MASKS)[:4]]
    if experiment.options.rows == "all":
        tuned = _tuned(experiment, "none_none") | STAGED
        rows += [
            ClassifierRow("none_shuffled", "se_lcn_shuffled", {"symmetry_approach": "plain"} | tuned),
            ClassifierRow("none_zeroed", "se_lcn_zeroed", tuned),
            _cell(experiment, "soft", "soft"),
            _cell(experiment, "none", "none", joint=True),
            _cell(experiment, "soft", "soft", joint=True),
        ]
    return rows


def _cell(experiment: Experiment, mask: str, transfer: str, joint: bool = False) -> ClassifierRow:
    name, approach = f"{mask}_{transfer}", MASKS[mask]
    changes = _tuned(experiment, name)
    # Staged cells leave the networks before them as they are.
    if transfer != "no":
        approach = "se_lcn" if mask == "none" else f"se_lcn_{approach}"
        changes |= {"symmetry_approach": MASKS[transfer]}
    if not joint:
        changes |= STAGED
    paper = None
    if name in TABLE_8 and not joint:
        paper = dict(zip((*CLASSES, *MAPS), (*TABLE_8[name], *TABLE_9[name]), strict=True))
    return ClassifierRow(f"{name}_joint" if joint else name, approach, changes, paper)


def _tuned(experiment: Experiment, name: str) -> dict:
    """What a search found for a cell, or for all of them."""
    folder = experiment.options.searched
    if folder is None:
        return {}
    own = Path(folder) / name / "best.json"
    path = own if own.is_file() else Path(folder) / "none_no" / "best.json"
    if not path.is_file():
        raise ConfigError(f"`searched`: {path} does not exist; run `--stage search` first")
    best = read_json(path)
    return {field: best[field] for field in TUNED}


def segmentation(experiment: Experiment) -> str:
    """Table 5; returns where things lie in the run."""
    from tfseg.jobs.study.job import describe_study, run_study

    finished = run_study(
        experiment.config,
        segmentation_rows(),
        experiment.out,
        design=StudyDesign("folds"),
        experiment="se_lcn_segmentation",
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
    )
    return describe_study(finished)


def symmetry(experiment: Experiment) -> str:
    """Table 6; returns where things lie in the run."""
    config = experiment.config
    rows = symmetry_rows(experiment)
    config = replace(config, target=config.symmetry_target, class_weights=True, balance="none", sensitivity=None)
    columns = (*SYMMETRY, "auc", "ece", *MAPS, "parameters", "latency_ms")
    return _compared(experiment, config, rows, "se_lcn_symmetry", columns)


def grid(experiment: Experiment) -> str:
    """Tables 8 and 9; returns where things lie in the run."""
    return _compared(experiment, experiment.config, grid_rows(experiment), "se_lcn_grid", COLUMNS)


def _compared(experiment, config, rows, name, columns) -> str:
    from tfseg.jobs.comparison import describe_files, run_comparison

    finished = run_comparison(
        config,
        experiment.out,
        rows=rows,
        columns=columns,
        experiment=name,
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
    )
    return describe_files(finished)


def search(experiment: Experiment) -> str:
    """The settings of the cells; returns where they lie."""
    from tfseg.data.sources import load_cases
    from tfseg.data.splits import split_cases, write_split
    from tfseg.jobs.search.job import run_search
    from tfseg.jobs.search.space import plan_search

    out, options, config = Path(experiment.out or "runs/se_lcn_search"), experiment.options, experiment.config
    cases = load_cases(config.data, config.target)
    # Three quarters of what is not tested to learn from, one to measure on.
    splits = split_cases(cases, seed=config.split_seed, folds=4, test_fraction=config.test_fraction)
    write_split(splits[:1], cases, out / "split.json")
    divided = {"split_file": str(out / "split.json"), "cross_validation": 1, "test_fraction": 0.0}
    cells = grid_rows(replace(experiment, options=replace(options, searched=None, rows="thesis")))
    for row in cells if options.search == "per_cell" else cells[:1]:
        own = replace(config, **divided, **row.changes, approaches=(row.approach,))
        plan = plan_search(own, SEARCHED, tuner="bayesian", trials=options.trials, objective="val_accuracy")
        run_search(own, plan, out / row.name, command=recorded_command(), session=experiment.session)
    return f"best settings  {out}/<cell>/best.json (for --stage grid --searched {out})"


def elsewhere(experiment: Experiment) -> str:
    """The grid's models on another dataset; returns where things lie in the run."""
    from tfseg.jobs.comparison import describe_files
    from tfseg.jobs.elsewhere import score_elsewhere

    if experiment.options.grid is None:
        raise ConfigError("`--grid` is missing: the folder of a grid whose models are to be scored")
    published = {
        name: dict(zip((*CLASSES, *MAPS), (*TABLE_10[name], *TABLE_9[name]), strict=True)) for name in TABLE_10
    }
    finished = score_elsewhere(
        experiment.options.grid,
        experiment.config.data,
        experiment.out,
        class_map=experiment.options.class_names,
        allow=experiment.config.allow,
        rows=experiment.session.cells,
        columns=(*CLASSES, *MAPS),
        paper=published,
        experiment="se_lcn_elsewhere",
        preset=experiment.preset,
        command=recorded_command(),
    )
    return describe_files(finished)


STAGES = {"grid": grid, "segmentation": segmentation, "symmetry": symmetry, "search": search, "elsewhere": elsewhere}


def run() -> int:
    experiment = parse_experiment(SE_LCN_PRESETS, __doc__, options=OPTIONS, stages=True)

    import_tensorflow()
    print(STAGES[experiment.stage](experiment))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run))
