"""Score a trained model of any format on a dataset."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfseg.config import Flips
from tfseg.data.batches import load_arrays
from tfseg.data.cases import Cases
from tfseg.data.checks import check
from tfseg.data.copies import shared_with
from tfseg.data.sources import load_cases
from tfseg.data.splits import official_parts, read_split
from tfseg.errors import ConfigError, DataError, Problem, UserError
from tfseg.evaluation import figures, overlays
from tfseg.evaluation.classification import predictions_table
from tfseg.evaluation.explanations import explanation_scores, prediction_count
from tfseg.evaluation.postprocess import binarise
from tfseg.evaluation.report import write_metrics, write_report
from tfseg.evaluation.scores import TestScores, summarise_row
from tfseg.evaluation.segmentation import score_cases
from tfseg.evaluation.subgroups import subgroup_scores
from tfseg.evaluation.tables import table_markdown, table_text
from tfseg.export.explanations import shuffled_maps
from tfseg.export.predictions import mask_settings
from tfseg.export.predictor import KerasPredictor, Predictor, load_predictor
from tfseg.jobs.cells import SEGMENTER_ROW
from tfseg.jobs.export import trained_model
from tfseg.progress import progress_bar
from tfseg.run import Run, environment, read_json, recorded_path, write_json, write_text, written_whole

SHOWN_CASES = 6
SANITY_CASES = 32
# Maps of shuffled weights that are more alike than this to those of the trained ones hardly changed.
HARDLY_CHANGED = 0.5


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
    target = target or (Run(model).config["target"] if is_run else "label")
    cases = load_cases(data, target)
    own = is_run and _is_own(Run(model), cases)
    if own and part == "all":
        say(f"warning: {cases.name} is what {model} was trained on: training cases are scored too (see `--part`)")
    cases = _part_of(cases, part, Run(model).path("splits.json") if own else None)
    if is_run and not own and trained_on is None:
        trained_on = _trained_on(Run(model), say)
    if class_map:
        labelled_before = cases.table["label"].notna().sum()
        cases = mapped_cases(cases, class_map)
        left_out = labelled_before - cases.table["label"].notna().sum()
        if left_out:
            say(f"{left_out} cases of classes that map to null are not scored")
    if info.classes:
        _check_classes(cases, info.classes)
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
        },
    )
    for warning in warnings:
        say(f"warning: {warning}")
    write_json(run.path("environment.json"), environment(0, cases.fingerprint()))
    arrays = load_arrays(cases, info.image_size, info.resize)
    with progress_bar(f"predicting {len(arrays)} images", len(arrays)) as advance:
        outputs = _predict(predictor, arrays.images, advance, flips if masked else "none")
    rows = []
    if masked:
        rows.append(_segmentation_row(run, predictor, cases, arrays, outputs["mask"], subgroups, settings))
    if labelled:
        rows += _classification_rows(run, row, predictor, cases, arrays, outputs, subgroups, tests, say)
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
    return Path(data).exists() and Path(data).resolve() == cases.root.resolve()


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


def mapped_cases(cases: Cases, path: str | Path) -> Cases:
    """The cases with labels under other names; those whose class maps to null keep no label.

    Args:
        cases: to rename.
        path: JSON file ``{"their class": "our class" or null}``; a class that it doesn't name keeps its name.

    Raises:
        UserError: the file is no such object, or names classes that the cases don't have.
    """
    names = read_json(path)
    if not isinstance(names, dict) or not all(isinstance(value, str | None) for value in names.values()):
        raise UserError(f'{path} must hold a JSON object {{"their class": "our class" or null}}')
    try:
        return cases.relabelled(names)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _part_of(cases: Cases, part: str, split_file: Path | None) -> Cases:
    if part == "all":
        return cases
    if split_file is not None:
        splits = read_split(split_file, cases)
        if len(splits) > 1:
            raise UserError(f"{split_file} has {len(splits)} folds: a part can be scored of a single split only")
        return cases.subset(splits[0].parts[part])
    parts = official_parts(cases)
    chosen = np.flatnonzero(parts == part) if parts is not None else []
    if not len(chosen):
        raise UserError(f"{cases.name} has no cases whose `split` is {part}")
    return cases.subset(chosen)


def _check_classes(cases: Cases, classes: Sequence[str]) -> None:
    unknown = sorted(set(cases.classes) - set(classes))
    if unknown:
        raise DataError(
            [
                Problem("label", "labels.csv", f"class {name!r} is unknown to the model, which knows {list(classes)}")
                for name in unknown
            ],
            cases.name,
        )


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
    return tests


def _predict(predictor: Predictor, images, advance, flips: Flips = "none", batch_size: int = 16):
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        for name, values in predictor.predict(batch, flips).items():
            parts.setdefault(name, []).append(values)
        advance(len(batch))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _explained(predictor: Predictor, images, lesions, has_mask, outputs, steps: int) -> dict[str, np.ndarray]:
    """Localisation, reliance, insertion and deletion of the scored cases."""
    if not steps and not lesions[has_mask].any():
        return {}
    deciding = predictor.deciding()
    with progress_bar("explaining decisions", prediction_count(lesions, has_mask, steps)) as advance:
        return explanation_scores(
            lambda changed, positions: _predict(deciding, changed, advance)["probabilities"],
            images,
            lesions,
            has_mask,
            outputs,
            steps=steps,
        )


def _sanity(predictor: KerasPredictor, images: np.ndarray, say) -> dict[str, np.ndarray]:
    """How alike the maps of some scored images are to those of shuffled weights; NaN for the other images."""
    scores = {}
    chosen = np.random.default_rng(0).permutation(len(images))[:SANITY_CASES]
    for part, head_only in (("", False), ("_head", True)):
        found = shuffled_maps(predictor.graph, images[chosen], head_only)
        for name, (values,) in (("spearman", found.spearman), ("ssim", found.ssim)):
            scores[f"sanity_{name}{part}"] = np.full(len(images), np.nan)
            scores[f"sanity_{name}{part}"][chosen] = values
    alike = scores["sanity_spearman"][~np.isnan(scores["sanity_spearman"])]
    if len(alike) and alike.mean() > HARDLY_CHANGED:
        say(
            "warning: the saliency maps hardly change when the weights are shuffled (mean rank correlation "
            f"{alike.mean():.2f}): they show the images, not what was learnt"
        )
    return scores


def _segmentation_row(run, predictor, cases, arrays, mask, subgroups, settings) -> dict:
    lesion = mask[..., list(predictor.info.mask_classes.lesion_channels)].sum(-1)
    postprocessing = settings.get("postprocessing", ())
    table = score_cases(cases, lesion, resize=predictor.info.resize, surfaces=True, postprocessing=postprocessing)
    scored = np.flatnonzero(cases.has_mask)
    per_case = {name: table[name].to_numpy(float) for name in table.columns if name not in ("id", "label")}
    shown = scored[:SHOWN_CASES]
    overlays.segmentation_overlays(
        arrays.images[shown],
        arrays.lesions_at(shown),
        np.stack([binarise(values, postprocessing=postprocessing) for values in lesion[shown]]),
        run.path("figures", "segmentation.png"),
        arrays.ids[shown].tolist(),
    )
    scores = TestScores(cases.groups[scored], per_case=per_case)
    result = summarise_row(SEGMENTER_ROW, settings, [scores])
    if subgroups:
        result["subgroups"] = subgroup_scores(cases.table.iloc[scored], scores, (), subgroups)
    return result


def _classification_rows(run, row, predictor, cases, arrays, outputs, subgroups, tests, say) -> list[dict]:
    classes = predictor.info.classes
    number = {name: index for index, name in enumerate(classes)}
    labels = cases.table["label"]
    table = predictions_table(
        arrays.ids.tolist(),
        [Path(path).relative_to(cases.root).as_posix() for path in cases.table["image"]],
        labels.tolist(),
        outputs["probabilities"],
        classes,
        predictor.info.abstain_below,
    )
    with written_whole(run.path("predictions.csv")) as temporary:
        table.to_csv(temporary, index=False)
    known = np.flatnonzero(labels.notna())
    true = np.array([number[name] for name in labels.iloc[known]], np.int64)
    images, lesions, steps = arrays.images[known], arrays.lesions_at(known), tests.get("pixel_steps", 0)
    of_known = {name: outputs[name][known] for name in ("probabilities", "saliency") if name in outputs}
    per_case = _explained(predictor, images, lesions, arrays.has_mask[known], of_known, steps)
    notes = [f"insertion (high is good) and deletion (low is good) in {steps} steps"] if steps else []
    if "sanity" in tests:
        per_case |= _sanity(predictor, images, say)
        notes.append(
            f"sanity is the likeness of {min(len(known), SANITY_CASES)} maps to those of shuffled weights (low is "
            "good), head with only the head's shuffled"
        )
    scores = TestScores(cases.groups[known], true, outputs["probabilities"][known], per_case)
    result = summarise_row(row, tests, [scores], classes)
    if notes:
        result["notes"] = notes
    if subgroups:
        result["subgroups"] = subgroup_scores(cases.table.iloc[known], scores, classes, subgroups)
    rows = [result]
    present = np.unique(true)
    if 1 < len(present) < len(classes):
        rows.append(_shared_classes_row(row, scores, classes, present))
    figures.confusion(np.array(result["confusion"]), classes, run.path("figures", "confusion.png"), row)
    if "saliency" in outputs:
        overlays.saliency_overlays(
            images[:SHOWN_CASES],
            {row: outputs["saliency"][known, ..., 0][:SHOWN_CASES]},
            lesions[:SHOWN_CASES] if arrays.has_mask.any() else None,
            run.path("figures", "saliency.png"),
            labels.iloc[known[:SHOWN_CASES]].tolist(),
        )
    return rows


def _shared_classes_row(row: str, scores: TestScores, classes: Sequence[str], present: np.ndarray) -> dict:
    """The same predictions, chosen among the classes that the data has; absent ones can't be mistaken for then."""
    shared = scores.probabilities[:, present]
    shared = shared / np.maximum(shared.sum(1, keepdims=True), 1e-12)
    renumbered = TestScores(scores.groups, np.searchsorted(present, scores.true), shared)
    return summarise_row(f"{row} (shared classes)", {}, [renumbered], [classes[number] for number in present])
