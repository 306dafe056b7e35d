"""Score a trained model of any format on a dataset."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfseg.data.batches import load_arrays
from tfseg.data.cases import Cases
from tfseg.data.checks import check
from tfseg.data.copies import shared_with
from tfseg.data.sources import load_cases
from tfseg.data.splits import read_split
from tfseg.errors import ConfigError, UserError
from tfseg.evaluation.report import write_metrics, write_report
from tfseg.evaluation.tables import table_markdown, table_text
from tfseg.export.explanations import explained_parts
from tfseg.export.predictions import mask_settings
from tfseg.export.predictor import KerasPredictor, Predictor, load_predictor
from tfseg.jobs.cells import SEGMENTER_ROW
from tfseg.jobs.export import trained_model
from tfseg.jobs.scored_cases import check_classes, mapped_cases, part_of
from tfseg.jobs.scored_rows import classification_rows, predicted, segmentation_row
from tfseg.jobs.unlike import check_unlike, unlike_rows
from tfseg.names import Flips
from tfseg.progress import progress_bar
from tfseg.run import Run, environment, read_json, recorded_path, write_json, write_text


def evaluate_model(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    target: str | None = None,
    row: str | None = None,
    part: str = "all",
    allow: Sequence[str] = (),
    class_map: str | Path | None = None,
    trained_on: Cases | None = None,
    subgroups: Sequence[str] = (),
    flips: Flips | None = None,
    postprocessing: Sequence[str] | None = None,
    pixel_steps: int = 0,
    sanity: bool = False,
    unlike: Sequence[str] = (),
    command: str = "",
    say=print,
) -> Run:
    """Write metrics with intervals, ``predictions.csv``, figures and a report of a model on a dataset.

    Args:
        model: a run folder, a ``.keras`` file, a SavedModel folder or a ``.tflite`` file.
        data: a folder in the plain layout, or ``NAME:PATH``.
        out: a new folder, or that of the same evaluation, which is written again.
        target: the column that holds the model's classes; None for the run's own, else ``label``.
        row: which row of a run; None for the best on validation.
        part: ``"all"``, or only ``"train"``, ``"val"`` or ``"test"``: of the run's own parts where the data is what it
            was trained on, else of the data's ``split`` column.
        allow: kinds of data errors to go on with.
        class_map: JSON file ``{"their class": "our class" or null}``; null leaves a class's cases out, and what it
            doesn't name keeps its name.
        trained_on: the training's cases; images that both have are left out. Of a run folder they are found by
            themselves, unless the data is the run's own.
        subgroups: columns by which the scores are broken down.
        flips: mirror images over which the masks that are scored are averaged, see
            `tfseg.evaluation.postprocess.flip_average`.
        postprocessing: what is done to them then, names out of `tfseg.evaluation.postprocess.POSTPROCESSING`. Both
            None: of a run folder what its own masks were scored with, else none.
        pixel_steps: in how many steps pixels are exchanged for insertion and deletion, see
            `tfseg.evaluation.explanations.explanation_scores`; 0 leaves them out.
        sanity: also compare the maps of up to 32 scored images with those of shuffled weights, see
            `tfseg.evaluation.sanity.randomisation_check`; of a run or a ``.keras`` file.
        unlike: datasets of other kinds of images: how well the model's unfamiliarity tells them from the scored ones,
            see `tfseg.jobs.unlike.unlike_rows`.
        command: for the records.
        say: takes the lines that tell what is going on.

    Raises:
        ConfigError: `pixel_steps` out of range; or these or `sanity`, and a model that can't be tested so.
        DataError: the data has errors, or classes that the model doesn't know.
        UserError: for whatever else the user has to mend.
    """
    started = time.monotonic()
    is_run = Path(model, "config.json").exists() and Path(model, "metrics.json").exists()
    row, path = trained_model(Run(model), row) if is_run else (row or "model", Path(model))
    predictor = load_predictor(path)
    info = predictor.info
    own_flips, own_postprocessing = _mask_settings_of(Run(model), row) if is_run else ("none", ())
    flips = own_flips if flips is None else flips
    postprocessing = own_postprocessing if postprocessing is None else tuple(postprocessing)
    predictor.check_masks(flips, postprocessing)
    settings = mask_settings(flips, postprocessing)
    tests = _checked_tests(predictor, path, pixel_steps, sanity)
    check_unlike(predictor, unlike)
    target = target or (Run(model).config["target"] if is_run else "label")
    cases = load_cases(data, target)
    own = is_run and _is_own(Run(model), cases)
    if own and part == "all":
        say(f"warning: {cases.name} is what {model} was trained on: training cases are scored too (see `--part`)")
    cases = part_of(cases, part, Run(model).path("splits.json") if own else None)
    if is_run and not own and trained_on is None:
        trained_on = _trained_on(Run(model), say)
    if class_map:
        labelled_before = cases.table["label"].notna().sum()
        cases = mapped_cases(cases, class_map)
        left_out = labelled_before - cases.table["label"].notna().sum()
        if left_out:
            say(f"{left_out} cases of classes that map to null are not scored")
    if info.classes:
        check_classes(cases, info.classes)
    with progress_bar(f"checking {len(cases)} cases", len(cases)) as advance:
        warnings = check(cases, allow, progress=advance, classification=False)
    if trained_on is not None:
        cases = _without_shared(cases, trained_on, say)
    labelled = bool(info.classes) and cases.table["label"].notna().any()
    masked = "mask" in info.outputs and cases.has_mask.any()
    if not labelled and not masked:
        raise UserError(
            f"nothing to score: {path} predicts {list(info.outputs)}, and {cases.name} has "
            f"{cases.table['label'].notna().sum()} labels and {cases.has_mask.sum()} masks"
        )
    if tests and not labelled:
        raise UserError(f"`pixel_steps` and `sanity` are for cases with a label, and {cases.name} has none")
    run = Run.open(
        out,
        {
            "experiment": "evaluate",
            "model": recorded_path(model),
            "row": row,
            "data": recorded_path(data),
            "target": target,
            "part": part,
            "class_map": recorded_path(class_map) if class_map else None,
            "subgroups": list(subgroups),
            **settings,
            **tests,
            **({"unlike": [recorded_path(other) for other in unlike]} if unlike else {}),
        },
    )
    for warning in warnings:
        say(f"warning: {warning}")
    write_json(run.path("environment.json"), environment(0, cases.fingerprint()))
    arrays = load_arrays(cases, info.image_size, info.resize)
    with progress_bar(f"predicting {len(arrays)} images", len(arrays)) as advance:
        outputs = predicted(predictor, arrays.images, advance, flips if masked else "none")
    rows = []
    if masked:
        rows.append(segmentation_row(run, predictor, cases, arrays, outputs["mask"], subgroups, settings))
    if labelled:
        rows += classification_rows(run, row, predictor, cases, arrays, outputs, subgroups, tests, say)
    if unlike:
        rows += unlike_rows(predictor, outputs["unfamiliarity"], cases.groups, unlike, allow)
    path = write_metrics(
        run.folder,
        experiment="evaluate",
        preset="",
        seed=0,
        data=recorded_path(data),
        command=command,
        seconds=round(time.monotonic() - started, 1),
        rows=rows,
    )
    metrics = read_json(path)
    write_text(run.path("table.md"), table_markdown(metrics))
    write_report(run.folder)
    say(table_text(metrics))
    say(f"written to {run.folder}")
    return run


def _mask_settings_of(run: Run, row: str) -> tuple[Flips, tuple[str, ...]]:
    """Flips and post-processing with which a run scored the masks of a row's models."""
    settings = {entry["name"]: entry["settings"] for entry in read_json(run.path("metrics.json"))["rows"]}
    # The masks of a comparison's classifiers are its segmenter's.
    own = settings.get(SEGMENTER_ROW, {}) | settings.get(row, {})
    return own.get("segmenter_flips", "none"), tuple(own.get("segmenter_postprocessing", ()))


def _is_own(run: Run, cases: Cases) -> bool:
    """Whether the cases are those that the run was trained on."""
    data = os.path.expandvars(run.config["data"])
    path = Path(data if Path(data).exists() else data.partition(":")[2] or data)
    return path.exists() and path.resolve() == cases.root.resolve()


def _trained_on(run: Run, say) -> Cases | None:
    """The training and validation cases of a run, or None where its data isn't there any more.

    Of a cross-validated run all cases count: each was trained on in some fold.
    """
    config = run.config
    try:
        trained = load_cases(os.path.expandvars(config["data"]), config["target"])
    except UserError:
        say(f"warning: the data of {run.folder} isn't there: images that both datasets share can't be left out")
        return None
    splits = read_split(run.path("splits.json"), trained)
    if len(splits) > 1:
        return trained
    return trained.subset(np.concatenate([splits[0].train, splits[0].val]))


def _without_shared(cases: Cases, trained_on: Cases, say) -> Cases:
    total = len(cases) + len(trained_on)
    with progress_bar(f"comparing with {len(trained_on)} training images", total) as advance:
        shared = shared_with(cases, trained_on, advance)
    if len(shared):
        names = ", ".join(cases.table["id"].iloc[shared[:5]]) + (" …" if len(shared) > 5 else "")
        say(f"warning: left out {len(shared)} images that the training data has too: {names}")
    if len(shared) == len(cases):
        raise UserError(f"nothing to score: every image of {cases.name} is in the training data")
    return cases.subset(np.setdiff1d(np.arange(len(cases)), shared))


def _checked_tests(predictor: Predictor, path: Path, pixel_steps: int, sanity: bool) -> dict:
    """What records keep of the further tests of a map; nothing where none is asked for."""
    tests = {"pixel_steps": pixel_steps} if pixel_steps else {}
    tests |= {"sanity": True} if sanity else {}
    info = predictor.info
    if not 0 <= pixel_steps <= info.image_size**2:
        raise ConfigError(
            f"`pixel_steps` must lie in [0, {info.image_size**2}], the number of pixels, received {pixel_steps}"
        )
    if tests and not {"probabilities", "saliency"} <= set(info.outputs):
        raise ConfigError(f"`{'`, `'.join(tests)}`: {path} gives {list(info.outputs)}, no classifier's saliency map")
    if sanity and not isinstance(predictor, KerasPredictor):
        raise ConfigError(f"`sanity` shuffles weights, which needs a run or a .keras file, received {path}")
    if sanity:
        explained_parts(predictor.graph)
    return tests
