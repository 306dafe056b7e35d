"""The figures of a comparison, drawn from its stored cells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tfseg.evaluation import calibration_figures, figures, overlays
from tfseg.evaluation.calibration import reliability, rescaled
from tfseg.evaluation.decisions import net_benefit, positive_score
from tfseg.evaluation.postprocess import binarise
from tfseg.jobs.cells import SEGMENTER_ROW, Comparison, read_arrays
from tfseg.jobs.gather import curves
from tfseg.jobs.grid import Cell, Progress, stored

SHOWN_CASES = 6
# Of the decision curve; who would treat from a higher probability on hardly needs a classifier.
THRESHOLDS = np.arange(1, 100) / 100
COMPARED = ("accuracy", "balanced_accuracy", "f1_macro", "cam_iou", "background_flip_rate")


def draw_figures(comparison: Comparison, progress: Progress, rows: list[dict]) -> None:
    """Curves, confusion matrices and the comparison; masks and saliency on the test part of the first fold."""
    run, config, cases, arrays = comparison.run, comparison.config, comparison.cases, comparison.arrays
    folder = run.path("figures")
    fold = min(cell.fold for cell in progress.done)
    shown_cells = {cell.row: cell for cell in progress.done if cell.fold == fold and cell.repeat == 0}
    split = comparison.splits[fold]
    classifiers = [row for row in rows if row["name"] != SEGMENTER_ROW]
    trainings = curves(run, list(shown_cells.values()))
    of_segmenter = trainings.pop(SEGMENTER_ROW, None)
    if trainings:
        figures.training_curves(trainings, folder / "curves.png")
    if of_segmenter is not None:
        figures.training_curves({SEGMENTER_ROW: of_segmenter}, folder / "segmenter_curves.png")
    compared = [name for name in COMPARED if any(name in row["metrics"] for row in classifiers)]
    answers = [row for row in classifiers if "target" not in row]
    if answers:
        figures.comparison(answers, compared, folder / "comparison.png")
    for row in classifiers:
        name = row["name"]
        classes = comparison.cases_of(name).classes
        figures.confusion(np.array(row["confusion"]), classes, folder / f"confusion_{name}.png", name)
    _draw_decisions(comparison, progress, folder)
    if SEGMENTER_ROW in shown_cells:
        _draw_masks(comparison, shown_cells[SEGMENTER_ROW], split.test, folder)

    test = split.test[arrays.labels[split.test] >= 0]
    shown = np.sort(
        np.random.default_rng(config.split_seed).choice(len(test), min(SHOWN_CASES, len(test)), replace=False)
    )
    images, lesions = arrays.images[test[shown]], arrays.lesions_at(test[shown])
    labels, ids = cases.table["label"].iloc[test[shown]].tolist(), cases.table["id"].iloc[test[shown]].tolist()
    saliency = {}
    for name, cell in shown_cells.items():
        stored_maps = read_arrays(run, cell)
        place = {case: number for number, case in enumerate(stored(run, cell)["ids"])}
        at = [place.get(case, -1) for case in ids]
        for kind, title in (("saliency", name), ("saliency_mask", f"{name}: mask's branch")):
            if kind in stored_maps:
                maps = stored_maps[kind] / np.float32(255)
                # A stage has no map of a case whose label it doesn't know.
                saliency[title] = np.stack([maps[number] if number >= 0 else np.zeros_like(maps[0]) for number in at])
    if saliency:
        overlays.saliency_overlays(images, saliency, lesions, folder / "saliency.png", labels)


def _draw_decisions(comparison: Comparison, progress: Progress, folder: Path) -> None:
    """Reliability of each calibrated row on the test cases of all its cells; and with positive classes the decision
    curves of all rows, on the test cases that all have."""
    run, config, classes = comparison.run, comparison.config, comparison.cases.classes
    position_of = {name: number for number, name in enumerate(comparison.cases.table["id"])}
    tested: dict[str, dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]] = {}
    for name in (row.name for row in comparison.classifiers):
        before = []
        for cell in (cell for cell in progress.done if cell.row == name):
            result, probabilities = stored(run, cell), read_arrays(run, cell)["probabilities"]
            true = comparison.arrays.labels[[position_of[case] for case in result["ids"]]]
            tested.setdefault(name, {})[cell.fold, cell.repeat] = (probabilities, true)
            if "temperature" in result["extra"]:
                before.append(rescaled(probabilities, 1 / result["extra"]["temperature"]))
        if before:
            after, true = _joined(tested[name].values())
            tables = {"before": np.concatenate(before), "after": after}
            calibration_figures.reliability_diagram(
                {f"{when} calibration": reliability(values, true) for when, values in tables.items()},
                folder / f"reliability_{name}.png",
                name,
            )
    shared = set.intersection(*(set(cells) for cells in tested.values())) if tested else set()
    if config.positive and shared:
        curves = {}
        for name, cells in tested.items():
            probabilities, true = _joined(cells[key] for key in sorted(shared))
            score = positive_score(probabilities, classes, config.positive)
            curves[name] = net_benefit(score, np.isin(np.asarray(classes)[true], config.positive), THRESHOLDS)
        title = f"Positive: {', '.join(config.positive)}"
        calibration_figures.decision_curves(curves, folder / "decision_curves.png", title)


def _joined(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and true classes of several cells after each other."""
    probabilities, true = zip(*parts, strict=True)
    return np.concatenate(probabilities), np.concatenate(true)


def _draw_masks(comparison: Comparison, segmented: Cell, test: np.ndarray, folder: Path) -> None:
    """The best, the middle and the worst test masks."""
    cases, arrays = comparison.cases, comparison.arrays
    cell = stored(comparison.run, segmented)
    maps = read_arrays(comparison.run, segmented)["lesion"] / np.float32(255)
    if not cell["ids"]:
        return
    row_of = {case: number for number, case in enumerate(cases.table["id"].iloc[test])}
    order = np.argsort(-np.array(cell["per_case"]["iou"], float))
    middle = len(order) // 2
    chosen = list(dict.fromkeys([*order[:2], *order[middle : middle + 2], *order[-2:]]))
    where = [row_of[cell["ids"][number]] for number in chosen]
    postprocessing = comparison.config.segmenter_postprocessing
    overlays.segmentation_overlays(
        arrays.images[test[where]],
        arrays.lesions_at(test[where]),
        np.stack([binarise(values, postprocessing=postprocessing) for values in maps[where]]),
        folder / "segmentation.png",
        [cell["ids"][number] for number in chosen],
    )
