"""Semi-automatic labelling: learn from the masks there are, predict the others, and say which to check first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from tfseg.config import CLASSIFIER_FIELDS, ComparisonConfig
from tfseg.data.audit import audit_cases
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.data.checks import check
from tfseg.data.decode import restore_map
from tfseg.data.ingest import read_mask
from tfseg.data.sources import load_cases
from tfseg.data.splits import Split, write_split
from tfseg.errors import ConfigError, DataError, TrainingError
from tfseg.evaluation.mask_classes import certain_map, score_classes
from tfseg.evaluation.postprocess import class_mask
from tfseg.evaluation.segmentation import restored_maps, score_cases
from tfseg.jobs.cells import SEGMENTER_ROW, save_model
from tfseg.jobs.gather import write_csv
from tfseg.jobs.grid import Cell, run_grid, stored, write_state
from tfseg.jobs.label.data import (
    divide,
    file_names,
    lesion_value,
    pixel_weights,
    upright_size,
    with_given_masks,
    write_folder,
    write_mask,
)
from tfseg.jobs.label.review import (
    MaskFacts,
    class_overlaps,
    mask_confidence,
    mask_facts,
    rank_correlation,
    scores_by_class,
)
from tfseg.jobs.label.sheet import REPORT, write_review
from tfseg.jobs.masks import lesion_maps, predict_masks
from tfseg.jobs.preparation import configured_arrays, record_environment, recorded_config
from tfseg.losses.segmentation import loss_options
from tfseg.progress import progress_bar
from tfseg.run import Run, read_json
from tfseg.session import Session
from tfseg.training.segmenter import train_segmenter
from tfseg.training.sitting import Sitting
from tfseg.words import named_values

Say = Callable[[str], None]
WHOLE = Session()
MASKS_ROW = "masks"
# Images whose masks are stored before the next are predicted: what an interruption loses.
CHUNK = 256
# Images whose probabilities are in memory together: 150 MB with three classes at 512².
AT_ONCE = 48
# Settings of a comparison that a labelling has no use for.
UNUSED = (
    *("cross_validation", "repeats", "split_file", "test_per_class", "subgroups", "external", "class_map"),
    *("segmenter_file", "approaches"),
    # A resolved configuration has networks in the place of "auto".
    *(name for name in CLASSIFIER_FIELDS if name not in ("backbone", "mask_backbone")),
)


def label_masks(
    config: ComparisonConfig,
    out: str | Path | None = None,
    *,
    link_images: bool = False,
    sheet: int = 240,
    command: str = "",
    session: Session = WHOLE,
    say: Say = print,
) -> Run:
    """Train a segmenter on the cases that have a mask and predict the masks of the others.

    The way of the cervical paper, section III-A: experts label a few images of each class, a U-Net with class-weighted
    Dice and focal loss learns from them and labels the rest. The result is a folder in the plain layout, with the given
    masks byte for byte, and a review of the predicted ones. The data's own folder is only read.

    Args:
        config: what to learn from, and the segmenter; settings of classifiers must be left alone. `val_fraction` of
            the given masks chooses the epoch and tells what the confidences are worth. With several mask classes, a
            loss that has ``class_weights`` gets N / (N_c · C) of the training pixels unless they are given.
        out: the folder to write; see `Run.open`.
        link_images: hard links in place of copies of the images. Masks are always copied.
        sheet: most pictures on the contact sheet.
        command: for the records.
        session: how long, and whether with TensorBoard; it has no cells to choose from.
        say: takes the lines that tell what is going on.

    Returns:
        The folder: ``labels.csv``, ``images/``, ``masks/``, ``dataset.json``, ``review.csv``, ``review.html``,
        ``labelling.json`` and ``models/segmenter.keras``.

    Raises:
        ConfigError: a setting that has no use here, no mask or nothing but masks, or a folder inside the data's.
        DataError: unreadable files, copies in both parts, or a mask class that can't be learned.
        TrainingError: the training broke down.
        Paused: the session's time is over; the same call goes on.
        RunError: the folder is another run's.
    """
    check_settings(config, sheet)
    config = config.resolved()
    # Masks don't depend on what a class is called, so the rules that rename them are left out.
    cases = with_given_masks(load_cases(config.data, config.target.partition(":")[0]))
    if Path(out or "runs").resolve().is_relative_to(cases.root.resolve()):
        raise ConfigError(
            f"`--out` {out or 'runs'} lies inside the data {cases.root}, which is only read: give another folder"
        )
    record = {"experiment": "label", "labelling": {"link_images": link_images, "sheet": sheet}}
    run = Run.open(out, record | recorded_config(config))
    say(f"folder: {run.folder}")
    return label_cases(
        run, config, cases, link_images=link_images, sheet=sheet, command=command, session=session, say=say
    )


def label_cases(
    run: Run,
    config: ComparisonConfig,
    cases: Cases,
    *,
    link_images: bool = False,
    sheet: int = 240,
    command: str = "",
    session: Session = WHOLE,
    say: Say = print,
) -> Run:
    """Label in a folder that is open: what `label_masks` does once the cases are read.

    Args:
        run: the folder, new or interrupted.
        config: resolved.
        cases: with the given masks alone, see `with_given_masks`.
        link_images, sheet, command, session, say: see `label_masks`.

    Raises:
        UserError, Paused: see `label_masks`.
    """
    started = time.monotonic()
    if run.finished:
        say(read_json(run.path(REPORT))["text"])
        say("this labelling was finished before; nothing is written again")
        return run
    spent = run.spent
    with run.withdrawn_on_mistake():
        labelling = prepare_labelling(run, config, cases)
        record_environment(run, config, cases)
        given = cases.subset(np.flatnonzero(cases.has_mask))
        write_split([labelling.split], given, run.path("splits.json"))
        cells = labelling.cells()
        progress = run_grid(run, cells, labelling.compute, session, (), len(cells), say)
        if progress.failed:
            raise TrainingError(next(iter(progress.failed.values())))
    learned = stored(run, cells[0])
    predicted = [entry for cell in cells[1:] for entry in stored(run, cell)["cases"]]
    confidence = {entry["id"]: entry["confidence"] for entry in predicted}
    write_folder(run.folder, cases, labelling.names, confidence, link_images)
    facts = {entry["id"]: MaskFacts.from_json(entry["facts"]) for entry in predicted}
    report = {
        **{"data": recorded_config(config)["data"], "command": command},
        **{"seconds": round(spent + time.monotonic() - started, 1), "cases": len(cases), "predicted": len(predicted)},
        **{"given": len(given), "training": len(labelling.split.train), "validation": learned["validation"]},
        "training_facts": learned["training"],
    }
    text = write_review(run, report, learned, facts, confidence, sheet)
    write_state(run, cells, "finished")
    say(text)
    return run


@dataclass
class Labelling:
    """What the cells of one labelling share.

    Args:
        run: the folder.
        config: resolved.
        cases: all, with the given masks alone.
        arrays: of the cases that have a mask, decoded.
        split: of those.
    """

    run: Run
    config: ComparisonConfig
    cases: Cases
    arrays: CaseArrays
    split: Split
    names: list[str] = field(init=False)
    _graph: keras.Model | None = None
    _lesion: int | None = None

    def __post_init__(self):
        self.names = file_names(self.cases.table["id"])
        self.given = self.cases.subset(np.flatnonzero(self.cases.has_mask))
        self.rest = np.flatnonzero(~self.cases.has_mask)

    @property
    def model_path(self) -> Path:
        return self.run.path("models", "segmenter.keras")

    def cells(self) -> list[Cell]:
        """The training, then the masks by chunks."""
        segmenter = Cell(SEGMENTER_ROW)
        return [segmenter, *(Cell(MASKS_ROW, chunk, 0, (segmenter,)) for chunk in range(-(-len(self.rest) // CHUNK)))]

    def compute(self, cell: Cell, sitting: Sitting) -> dict:
        """Train, or predict a chunk; gives the result to be stored."""
        return self._train(sitting) if cell.row == SEGMENTER_ROW else self._predict(cell)

    def _train(self, sitting: Sitting) -> dict:
        config = weighted(self.config, self.arrays, self.split)
        graph, history, note = train_segmenter(config, self.arrays, self.split, sitting)
        save_model(graph, self.model_path)
        write_csv(self.run.path("history", "segmenter.csv"), history)
        val = self.given.subset(self.split.val)
        maps = predict_masks(graph, self.arrays, self.split.val, config.segmenter_flips)
        confidences, tables = [], []
        for at, (_, _, probabilities) in enumerate(restored_maps(val, maps, config.resize)):
            classes = class_mask(probabilities, val.mask_classes, config.segmenter_postprocessing)
            confidences.append(mask_confidence(probabilities, classes))
            # What is drawn has the mask file's size, so that nothing is resized.
            tables.append(score_classes(val.subset([at]), certain_map(classes, val.mask_classes)[np.newaxis]))
        table = pd.concat(tables, ignore_index=True)
        overlaps = class_overlaps(table, val)
        lesion = score_cases(
            val,
            lesion_maps(maps, val.mask_classes),
            resize=config.resize,
            postprocessing=config.segmenter_postprocessing,
        )
        return {
            "note": note,
            "given": [
                mask_facts(read_mask(path, val.mask_classes), val).to_json() for path in self.given.table["mask"]
            ],
            "ids": val.table["id"].tolist(),
            "confidence": confidences,
            "iou": overlaps,
            "validation": {
                "masks": len(val),
                "classes": scores_by_class(table),
                "lesion": {name: float(lesion[name].mean()) for name in ("iou", "dice")},
                "spearman": rank_correlation(confidences, overlaps),
            },
            "training": {
                "epochs": len(history),
                "best_epoch": int(history["epoch"][history["val_iou"].idxmax()]),
                "seconds": float(history["seconds"].sum()),
                "loss_options": list(config.segmenter_loss_options),
            },
        }

    def _predict(self, cell: Cell) -> dict:
        if self._graph is None:
            self._graph = keras.saving.load_model(self.model_path, compile=False)
            self._lesion = lesion_value(self.given)
        positions = self.rest[cell.fold * CHUNK : (cell.fold + 1) * CHUNK]
        part, config = self.cases.subset(positions), self.config
        arrays = configured_arrays(replace(config, cache="memory"), part)
        found = []
        for start in range(0, len(part), AT_ONCE):
            chosen = np.arange(start, min(start + AT_ONCE, len(part)))
            maps = predict_masks(self._graph, arrays, chosen, config.segmenter_flips)
            for at, values in zip(chosen, maps, strict=True):
                row = part.table.iloc[at]
                probabilities = restore_map(values, *upright_size(row["image"]), resize=config.resize)
                classes = class_mask(probabilities, part.mask_classes, config.segmenter_postprocessing)
                path = self.run.path("masks", f"{self.names[positions[at]]}.png")
                write_mask(path, classes, part.mask_classes, self._lesion)
                facts = mask_facts(classes, part).to_json()
                found.append({"id": row["id"], "confidence": mask_confidence(probabilities, classes), "facts": facts})
        return {"cases": found}


def prepare_labelling(run: Run, config: ComparisonConfig, cases: Cases) -> Labelling:
    """Read the given masks, divide them, and audit all files.

    Raises:
        DataError: see `label_masks`.
    """
    given = np.flatnonzero(cases.has_mask)
    known = cases.subset(given)
    try:
        arrays = configured_arrays(config, known)
    except DataError:
        # All files that are wrong, not only those with a mask.
        check(cases, config.allow, classification=False)
        raise
    split = divide(known, arrays, config.val_fraction, config.split_seed)
    everywhere = replace(split, train=given[split.train], val=given[split.val])
    with progress_bar(f"auditing {len(cases)} cases", len(cases)) as advance:
        audit = audit_cases(cases, [everywhere], config.allow, advance)
    if audit.errors:
        raise DataError(audit.errors, cases.name)
    return Labelling(run, config, cases, arrays, split)


def weighted(config: ComparisonConfig, arrays: CaseArrays, split: Split) -> ComparisonConfig:
    """The configuration with the loss's ``class_weights`` by pixel frequency, unless it takes none or has some."""
    classes = len(arrays.mask_classes.names)
    given = named_values(config.segmenter_loss_options, "segmenter_loss_options")
    if classes == 2 or "class_weights" in given or "class_weights" not in loss_options(config.segmenter_loss):
        return config
    weights = ",".join(map(str, pixel_weights(arrays.masks[split.train], classes)))
    return replace(config, segmenter_loss_options=(*config.segmenter_loss_options, f"class_weights={weights}"))


def check_settings(config: ComparisonConfig, sheet: int) -> None:
    """Raise a `ConfigError` for settings that a labelling can't have or has no use for."""
    default = {entry.name: entry.default for entry in fields(ComparisonConfig)}
    wrong = [name for name in UNUSED if getattr(config, name) != default[name]]
    if wrong:
        raise ConfigError(f"a labelling trains a segmenter alone: it has no use for {', '.join(wrong)}")
    if config.segmenter == "none":
        raise ConfigError("a labelling needs a segmenter, and `segmenter` is none")
    if config.distribution == "multiworker":
        raise ConfigError("a labelling runs on one machine: `distribution` must be one or mirrored")
    if sheet < 1:
        raise ConfigError(f"`sheet` must be at least 1, received {sheet}")
