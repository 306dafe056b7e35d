"""A class-coloured patch beside every lesion: which approaches look at it, and which decide by it.

Synthetic lesions of three classes whose background gives the class away, in training and validation as in the test:
a disc of the class's colour. The table has every row's accuracy with that cue present, removed and of a random colour,
on the same test lesions; where the maps lie; and how often another background changes the decision (background
reliance). Rows: cross entropy on the image (`plain`) and on masked images (`hard_mask`, `soft_mask`), CEntIoU as its
published code has it (`centiou_published`: no gradient through the map) and with its gradient (`centiou`), each also
with background swap in half of the training images (`…_swap`).

Expect, as means over three trainings on one set of lesions: `plain` 1.00 with the cue, chance (0.33) without, its map
on the patch; `centiou_published` the same; `centiou` a CAM IoU with the mask above 0.8 and the decisions of `plain`
(the map has moved, the decision has not); `centiou_swap` as good a map and an accuracy of 0.9 whatever the patch's
colour. `cam_iou_undilated` compares with the mask as it is, on which CEntIoU trains; `cam_iou` with the mask dilated
twice, of which the mask itself covers about 0.69 at this size.

It draws its own data and needs no weights. All thirty trainings take about twelve minutes on two cores; with
`--epochs 14` nine and a half, and `centiou_swap` then falls to 0.89 under a random patch.

    python experiments/planted_cue.py --out runs/planted_cue
    python experiments/planted_cue.py --cells plain centiou centiou_swap --repeats 1 --out runs/planted_cue_short
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tfseg.cli import run_guarded
from tfseg.data.phantom import PhantomConfig
from tfseg.data.phantom_folder import phantom_folder
from tfseg.errors import ConfigError
from tfseg.experiment import parse_experiment
from tfseg.jobs.rows import ClassifierRow
from tfseg.presets import DEMO
from tfseg.quiet import import_tensorflow
from tfseg.run import read_json, recorded_command


@dataclass(frozen=True)
class Options:
    """What this experiment can be told beside the settings."""

    images: int = 720
    """Number of lesions."""
    difficulty: float = 0.0
    """How much the classes' lesions overlap, from 0 to 1."""


OPTIONS = {"quick": Options()}
DRAWN = "drawn"
PRESETS = {
    "quick": replace(
        DEMO,
        data=DRAWN,
        image_size=80,
        repeats=3,
        segmenter_epochs=5,
        # Nothing here is unlike the training, and nobody abstains.
        familiar_share=0.0,
        backbone="small_cnn",
        dropout=0.0,
        learning_rate=2e-3,
        augmentation="se_lcn",
    ),
}
# Name of a folder of images → what its patches are. The lesions and the skin are the same in all of them.
CUES = {
    "cue_present": {"planted_cue": 1.0, "cue": "class"},
    "cue_removed": {"planted_cue": None},
    "cue_random": {"planted_cue": 1.0, "cue": "random"},
}
ROWS = {
    "plain": ("plain", {}),
    "hard_mask": ("hard_mask", {}),
    "soft_mask": ("soft_mask", {}),
    "centiou_published": ("centiou", {"saliency_gradient": "none"}),
    "centiou": ("centiou", {}),
}
SWAP = {"background_swap": 0.5}
COLUMNS = (
    "accuracy",
    "cam_iou_undilated",
    "cam_iou",
    "cam_pointing",
    "background_flip_rate",
    "background_total_variation",
    "lesion_flip_rate",
)


def classifier_rows() -> list[ClassifierRow]:
    """The rows of the table: every approach, then each of them with background swap."""
    return [ClassifierRow(name, approach, changes) for name, (approach, changes) in ROWS.items()] + [
        ClassifierRow(f"{name}_swap", approach, changes | SWAP) for name, (approach, changes) in ROWS.items()
    ]


def phantoms(options: Options, size: int, seed: int) -> dict[str, PhantomConfig]:
    """What is drawn: name of a folder out of `CUES` → settings.

    Args:
        options: number and difficulty of the lesions.
        size: side of the images in pixels.
        seed: of the drawing.
    """
    # Hairs, dark corners and glints would only make the lesions harder to learn in so few steps.
    base = PhantomConfig(
        images=options.images,
        size=size,
        difficulty=options.difficulty,
        hairs=0.0,
        vignettes=0.0,
        specular=0.0,
        seed=seed,
    )
    return {name: replace(base, **cue) for name, cue in CUES.items()}


def run() -> int:
    experiment = parse_experiment(PRESETS, __doc__, options=OPTIONS)
    if experiment.config.data != DRAWN:
        raise ConfigError(f"this experiment draws its own lesions: leave `--data {experiment.config.data}` out")

    import_tensorflow()
    from tfseg.evaluation.planted_figure import planted_cue
    from tfseg.evaluation.report import write_report
    from tfseg.jobs.comparison import describe_files, run_comparison

    out, config = Path(experiment.out or "runs/planted_cue"), experiment.config
    wanted = phantoms(experiment.options, config.image_size, config.seed)
    folders = {name: phantom_folder(out / "data" / name, settings) for name, settings in wanted.items()}
    finished = run_comparison(
        replace(config, data=str(folders["cue_present"])),
        out / "run",
        rows=classifier_rows(),
        variants={name: folders[name] for name in ("cue_removed", "cue_random")},
        columns=COLUMNS,
        experiment="planted_cue",
        preset=experiment.preset,
        command=recorded_command(),
        session=experiment.session,
    )
    rows = read_json(finished.path("metrics.json"))["rows"]
    figure = planted_cue(rows, finished.path("figures", "planted_cue.png"), classes=len(wanted["cue_present"].classes))
    write_report(finished.folder)
    print(f"{describe_files(finished)}\nfigure        {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(run))
