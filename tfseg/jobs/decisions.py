"""What a trained classifier decides by, chosen on validation cases: temperature, operating point, when it is not sure,
and from where on an image is unfamiliar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfseg.config import ComparisonConfig
from tfseg.data.splits import Split
from tfseg.evaluation.calibration import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, fit_temperature, rescaled
from tfseg.evaluation.classification import classification_metrics
from tfseg.evaluation.decisions import OperatingPoint, choose_abstention, choose_operating_point
from tfseg.evaluation.out_of_distribution import choose_threshold, fit_mahalanobis
from tfseg.layers.outputs import ClassProbabilities
from tfseg.layers.unfamiliarity import Unfamiliarity, pooled_features

# Enough for the mean of a class and the largest variances.
TRAINING_CASES = 2000
# A model computes in float32: what a validation case just reached, it shall reach there too.
MARGIN = 1e-6
LAYER, STRANGENESS = "probabilities", "unfamiliarity"


@dataclass(frozen=True)
class Decisions:
    """What was chosen on validation cases.

    Args:
        temperature: by which the logits are divided.
        point: from which probability on a case is positive; None where that wasn't asked for, or can't be known.
        abstain_below: the confidence below which the model is not sure; 0 never.
        notes: what is worth knowing of the choice.
    """

    temperature: float = 1.0
    point: OperatingPoint | None = None
    abstain_below: float = 0.0
    notes: tuple[str, ...] = ()

    def set_into(self, layer: ClassProbabilities) -> None:
        """Let a model decide so, before anything of it is traced."""
        point = {}
        if self.point is not None:
            point = {"positive": self.point.positive, "threshold": max(0.0, self.point.threshold - MARGIN)}
        layer.decide(self.temperature, max(0.0, self.abstain_below - MARGIN), **point)


@dataclass(frozen=True)
class Settled:
    """A trained model's decisions and what they came from.

    Args:
        config: of the row.
        decisions: set into the model.
        decision: ``positive``, ``threshold`` and ``abstain_below`` as the model has them, see
            `tfseg.layers.outputs.ModelInfo`.
        validation: probabilities of the validation cases at the model's temperature, (n, C).
        notes: what is worth knowing.
    """

    config: ComparisonConfig
    decisions: Decisions
    decision: dict
    validation: np.ndarray
    notes: tuple[str, ...]

    def facts(self, probabilities: np.ndarray, true: np.ndarray) -> dict[str, float | None]:
        """What the records keep of the choice; None where it can't be known.

        Args:
            probabilities: of test cases at the model's temperature, (N, C).
            true: their class indices, int (N,).
        """
        facts: dict[str, float | None] = {}
        if self.config.calibration:
            temperature = self.decisions.temperature
            before = classification_metrics(
                true, rescaled(probabilities, 1 / temperature), range(probabilities.shape[1])
            )
            facts["temperature"] = temperature
            facts |= {f"{name}_uncalibrated": before[name] for name in ("ece", "brier")}
        if self.config.sensitivity is not None:
            point = self.decisions.point
            facts["positive_threshold"] = point.threshold if point else None
            facts["validation_sensitivity"] = point.sensitivity if point else None
        if self.config.abstain_share:
            facts["abstain_below"] = self.decisions.abstain_below
        return facts


def choose_decisions(
    probabilities: np.ndarray,
    true: np.ndarray,
    classes: Sequence[str],
    *,
    calibration: bool = True,
    sensitivity: float | None = None,
    positive: Sequence[str] = (),
    abstain_share: float = 0.0,
) -> Decisions:
    """Choose what a classifier decides by.

    Args:
        probabilities: of validation cases at temperature 1, (N, C), rows that sum to 1.
        true: class indices, int (N,).
        classes: the C class names, in the order of the columns.
        calibration, sensitivity, positive, abstain_share: see `ComparisonConfig`; threshold and confidence are chosen
            at the temperature that was fitted.

    Raises:
        ValueError: no case, shapes that do not fit, rows that are no distributions, an unknown class.
    """
    notes, temperature, point = [], 1.0, None
    if calibration and len(np.unique(true)) > 1:
        temperature = fit_temperature(probabilities, true)
        if not 1.01 * LOWEST_TEMPERATURE < temperature < 0.99 * HIGHEST_TEMPERATURE:
            notes.append(f"the temperature {temperature:.3g} lies at the end of what is searched")
    elif calibration:
        notes.append("temperature 1: the cases to fit it to are of one class only")
    probabilities = rescaled(probabilities, temperature)
    if sensitivity is not None:
        names, sick = " or ".join(positive), np.isin(np.asarray(classes)[true], positive)
        if sick.any() and not sick.all():
            point = choose_operating_point(probabilities, true, classes, positive, sensitivity)
            notes.append(
                f"{names} is called from a probability of {point.threshold:.4f} on, which finds "
                f"{round(point.sensitivity * point.positives)} of the {point.positives} that it was chosen on"
            )
        else:
            notes.append(f"no operating point: {sick.sum()} of the {len(sick)} cases to choose it on are {names}")
    abstain_below = choose_abstention(probabilities, abstain_share) if abstain_share else 0.0
    return Decisions(temperature, point, abstain_below, tuple(notes))


def settle(
    graph: keras.Model,
    config: ComparisonConfig,
    labels: np.ndarray,
    split: Split,
    predict: Callable[[keras.Model, np.ndarray], dict[str, np.ndarray]],
    held_out: np.ndarray | None = None,
) -> Settled:
    """Choose what a trained classifier decides by and set it into its layers.

    Args:
        graph: see `tfseg.models.classifier.inference_graph`, at temperature 1; nothing of it was traced yet.
        config: of the row.
        labels: class indices of all cases, int (N,); −1 where there is none.
        split: positions of the parts.
        predict: a graph with the same inputs, and positions → its outputs.
        held_out: probabilities of the labelled validation cases, (n, C), by a head that wasn't fitted to them, where
            the graph's was; None otherwise.
    """
    from scipy.special import softmax

    training, validation = (part[labels[part] >= 0] for part in (split.train, split.val))
    layer, raw = graph.get_layer(LAYER), raw_graph(graph)
    found = {} if held_out is not None and len(raw.output) == 1 else predict(raw, validation)
    probabilities = softmax(found["logits"].astype(np.float64), axis=1) if held_out is None else held_out
    decisions = choose_decisions(
        probabilities,
        labels[validation],
        layer.classes,
        calibration=config.calibration,
        sensitivity=config.sensitivity,
        positive=config.positive,
        abstain_share=config.abstain_share,
    )
    decisions.set_into(layer)
    notes = decisions.notes
    if "features" in found:
        chosen = np.random.default_rng(config.split_seed).permutation(training)[:TRAINING_CASES]
        known = predict(raw, np.sort(chosen))["features"]
        notes += fit_unfamiliarity(
            graph.get_layer(STRANGENESS), known, labels[np.sort(chosen)], found["features"], config.familiar_share
        )
    decision = {"positive": layer.positive, "threshold": layer.threshold, "abstain_below": layer.abstain_below}
    return Settled(config, decisions, decision, rescaled(probabilities, decisions.temperature), notes)


def raw_graph(graph: keras.Model) -> keras.Model:
    """The part of an inference graph that gives ``logits`` (B, C) and, where it tells what is unfamiliar, ``features``
    (B, K), the pooled maps that it does so by."""
    outputs = {"logits": graph.get_layer(LAYER).input}
    if STRANGENESS in graph.output:
        outputs["features"] = pooled_features(graph.get_layer(STRANGENESS).input)
    return keras.Model(graph.input, outputs)


def fit_unfamiliarity(
    layer: Unfamiliarity, features: np.ndarray, labels: np.ndarray, validation: np.ndarray, share: float
) -> tuple[str, ...]:
    """Fit the layer to training cases, and its threshold to validation cases.

    Args:
        layer: of a graph, built.
        features, labels: of training cases, (N, K) and (N,).
        validation: features of validation cases, (n, K).
        share: of the validation cases that count as familiar.

    Returns:
        A note where that can't be done; the layer then goes on giving 0.
    """
    try:
        fitted = fit_mahalanobis(features, labels, layer.rank)
        threshold = choose_threshold(fitted.distance(validation), share)
    except ValueError as error:
        return (f"no image is called unfamiliar: {error}",)
    if threshold == 0:
        return ("no image is called unfamiliar: all validation cases look like the mean of a class",)
    layer.fit(fitted.means, fitted.directions, fitted.variances, fitted.rest, threshold * (1 + MARGIN))
    return ()
