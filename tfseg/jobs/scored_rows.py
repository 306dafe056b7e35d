"""The rows of an evaluation: scores of masks and of classes, with their tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.data.checks import shown_path
from tfseg.evaluation import figures, overlays
from tfseg.evaluation.classification import predictions_table
from tfseg.evaluation.decisions import case_decisions
from tfseg.evaluation.explanations import explanation_scores, prediction_count
from tfseg.evaluation.postprocess import binarise
from tfseg.evaluation.scores import TestScores, summarise_row
from tfseg.evaluation.segmentation import score_cases
from tfseg.evaluation.subgroups import subgroup_scores
from tfseg.export.explanations import shuffled_maps
from tfseg.export.predictor import KerasPredictor, Predictor
from tfseg.jobs.cells import SEGMENTER_ROW
from tfseg.jobs.masks import lesion_maps
from tfseg.names import Flips
from tfseg.progress import progress_bar
from tfseg.run import Run, written_whole

SHOWN_CASES = 6
SANITY_CASES = 32
# Maps of shuffled weights that are more alike than this to those of the trained ones hardly changed.
HARDLY_CHANGED = 0.5


def predicted(
    predictor: Predictor, images: np.ndarray, advance: Callable, flips: Flips = "none", batch_size: int = 16
) -> dict[str, np.ndarray]:
    """The outputs of a model for images, uint8 (N, S, S, 3); `advance` takes how many more are done."""
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
            lambda changed, positions: predicted(deciding, changed, advance)["probabilities"],
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


def segmentation_row(
    run: Run,
    predictor: Predictor,
    cases: Cases,
    arrays: CaseArrays,
    mask: np.ndarray,
    subgroups: Sequence[str],
    settings: dict,
) -> dict:
    """Scores of the masks; draws some.

    Args:
        run: the evaluation's.
        predictor: with a mask.
        cases, arrays: the data.
        mask: of all cases, (N, S, S, C).
        subgroups: columns by which the scores are broken down.
        settings: see `tfseg.export.predictions.mask_settings`.
    """
    lesion = lesion_maps(mask, predictor.info.mask_classes)
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


def classification_rows(
    run: Run,
    row: str,
    predictor: Predictor,
    cases: Cases,
    arrays: CaseArrays,
    outputs: dict[str, np.ndarray],
    subgroups: Sequence[str],
    tests: dict,
    say: Callable[[str], None],
) -> list[dict]:
    """Scores of the classes, and beside them those among the classes that the data has, where it lacks some.

    Writes ``predictions.csv`` and figures.

    Args:
        run: the evaluation's.
        row: name of the row.
        predictor: a classifier.
        cases, arrays: the data.
        outputs: of all cases.
        subgroups: columns by which the scores are broken down.
        tests: ``pixel_steps`` and ``sanity``, where they are asked for.
        say: takes warnings.
    """
    info = predictor.info
    classes, unfamiliarity = info.classes, outputs.get("unfamiliarity")
    decision = {"positive": info.positive, "threshold": info.threshold, "abstain_below": info.abstain_below}
    number = {name: index for index, name in enumerate(classes)}
    labels = cases.table["label"]
    table = predictions_table(
        arrays.ids.tolist(),
        [shown_path(cases, path) for path in cases.table["image"]],
        labels.tolist(),
        outputs["probabilities"],
        classes,
        unfamiliarity=unfamiliarity,
        **decision,
    )
    with written_whole(run.path("predictions.csv")) as temporary:
        table.to_csv(temporary, index=False)
    known = np.flatnonzero(labels.notna())
    true = np.array([number[name] for name in labels.iloc[known]], np.int64)
    images, lesions, steps = arrays.images[known], arrays.lesions_at(known), tests.get("pixel_steps", 0)
    of_known = {name: outputs[name][known] for name in ("probabilities", "saliency") if name in outputs}
    per_case = _explained(predictor, images, lesions, arrays.has_mask[known], of_known, steps)
    per_case |= case_decisions(
        outputs["probabilities"][known],
        true,
        classes,
        unfamiliarity=None if unfamiliarity is None else unfamiliarity[known],
        **decision,
    )
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
