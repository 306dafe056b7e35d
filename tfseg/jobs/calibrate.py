"""Choose anew what a trained classifier decides by, on a dataset of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tfseg.config_checks import check_decisions, check_positive
from tfseg.data.batches import load_arrays
from tfseg.data.checks import check
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError, UserError
from tfseg.evaluation.calibration import rescaled
from tfseg.evaluation.classification import classification_metrics
from tfseg.evaluation.out_of_distribution import choose_threshold
from tfseg.export.predictor import load_model
from tfseg.jobs.cells import save_model
from tfseg.jobs.decisions import LAYER, MARGIN, STRANGENESS, choose_decisions
from tfseg.jobs.masks import predict_pixels
from tfseg.jobs.scored_cases import check_classes, part_of
from tfseg.layers.outputs import model_info
from tfseg.models.classifier import decision_graph
from tfseg.progress import progress_bar


def calibrate_model(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    target: str = "label",
    part: str = "all",
    calibration: bool = True,
    sensitivity: float | None = None,
    positive: Sequence[str] = (),
    abstain_share: float = 0.0,
    familiar_share: float = 0.95,
    allow: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Write a classifier that decides by what is best on a dataset; its weights stay.

    Args:
        model: a ``.keras`` file of a classifier.
        data: labelled cases that the classifier was not trained on: a folder in the plain layout, or ``NAME:PATH``.
        out: the ``.keras`` file to write. It has no operating point and is never not sure unless that is asked for:
            those of `model` belong to its own temperature.
        target: the column that holds the model's classes.
        part: ``"all"``, or only ``"train"``, ``"val"`` or ``"test"`` of the data's ``split`` column.
        calibration, sensitivity, positive, abstain_share: see `ComparisonConfig`; without `calibration` the temperature
            is 1.
        familiar_share: of the cases that count as familiar, where the model has an ``unfamiliarity``; 0 leaves that as
            it is.
        allow: kinds of data errors to go on with.
        say: takes the lines that tell what was chosen.

    Returns:
        `out`.

    Raises:
        ConfigError: an argument out of range, an unknown class, or a file that is no ``.keras`` file.
        DataError: the data has errors, or classes that the model doesn't know.
        UserError: for whatever else the user has to mend.
    """
    check_decisions(sensitivity, positive, abstain_share, familiar_share)
    for name, path in (("model", model), ("out", out)):
        if Path(path).suffix != ".keras":
            raise ConfigError(f"`{name}` must be a .keras file, received {path}")
    graph = load_model(model)
    info = model_info(graph)
    if not info.classes:
        raise UserError(f"{model} gives {', '.join(info.outputs)}: there is no classifier to calibrate")
    check_positive(positive, info.classes)
    cases = part_of(load_cases(data, target), part)
    check_classes(cases, info.classes)
    cases = cases.subset(np.flatnonzero(cases.table["label"].notna()))
    if not len(cases):
        raise UserError(f"{data} has no labels to calibrate with")
    with progress_bar(f"checking {len(cases)} cases", len(cases)) as advance:
        for warning in check(cases, allow, progress=advance, classification=False):
            say(f"warning: {warning}")
    true = np.array([info.classes.index(name) for name in cases.table["label"]], np.int64)

    layer = graph.get_layer(LAYER)
    names = [name for name in (LAYER, STRANGENESS) if name in graph.output]
    images = load_arrays(cases, info.image_size, info.resize).images
    found = predict_pixels(decision_graph(graph, *names), images)
    probabilities = rescaled(found[LAYER], 1 / info.temperature)
    decisions = choose_decisions(
        probabilities,
        true,
        info.classes,
        calibration=calibration,
        sensitivity=sensitivity,
        positive=positive,
        abstain_share=abstain_share,
    )
    decisions.set_into(layer)
    pair = (found[LAYER], rescaled(probabilities, decisions.temperature))
    before, after = (classification_metrics(true, values, info.classes)["ece"] for values in pair)
    say(
        f"temperature {info.temperature:.3f} → {decisions.temperature:.3f}; expected calibration error {before:.3f} → "
        f"{after:.3f}, on the {len(cases)} cases that it was fitted to"
    )
    for note in decisions.notes:
        say(note)
    if abstain_share:
        say(f"not sure below a confidence of {decisions.abstain_below:.4f}")
    if STRANGENESS in found and familiar_share:
        _tune(graph.get_layer(STRANGENESS), found[STRANGENESS], familiar_share, say)
    save_model(graph, Path(out))
    say(f"written to {out}")
    return Path(out)


def _tune(layer, unfamiliarity: np.ndarray, share: float, say: Callable[[str], None]) -> None:
    """Let this share of the cases be familiar."""
    factor = choose_threshold(unfamiliarity, share) * (1 + MARGIN) if layer.fitted else 0.0
    if not factor:
        say("no image is called unfamiliar: the model doesn't know its training cases")
        return
    layer.threshold.assign(layer.threshold * factor)
    say(f"unfamiliar above {factor:.3f} times the distance before ({(unfamiliarity > 1).mean():.1%} of the cases were)")
