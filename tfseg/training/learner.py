"""A classifier of any approach, built, frozen and compiled: what `fit` trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import keras
import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays, class_weights
from tfseg.metrics.classification import BalancedAccuracy
from tfseg.models.backbones import build_backbone, freeze_first, frozen_count
from tfseg.models.cascade import Enhanced, SymmetryNetwork, build_enhanced, symmetry_network
from tfseg.models.classifier import Classifier, build_classifier
from tfseg.models.fusion import Fusion, build_fusion
from tfseg.models.weights import reestimate_batch_norm
from tfseg.training.centiou import CEntIoUModel
from tfseg.training.fit import for_centiou, for_classification, for_joint
from tfseg.training.segmenter import configured_loss
from tfseg.training.setup import optimizer_of

# Enough to know the statistics of a layer's channels, each of which has many pixels per image.
NATURAL_IMAGES = 64


@dataclass(frozen=True)
class Learner:
    """What is trained.

    Args:
        classifier: the parts.
        model: compiled, made of them.
        adapt: brings a batch into the form that the model takes.
        frozen: the layers that stay as their weights have them, until they are thawed.
        segmenter: the one that learns too, image → mask logits; else None.
        symmetry: likewise.
        maps: those that go with each image in a batch.
    """

    classifier: Classifier | Fusion | Enhanced
    model: keras.Model
    adapt: Callable
    frozen: list[keras.layers.Layer] = field(default_factory=list)
    segmenter: keras.Model | None = None
    symmetry: SymmetryNetwork | None = None
    maps: tuple[str, ...] = ()

    @property
    def joint(self) -> bool:
        """Whether networks of other tasks learn too."""
        return self.segmenter is not None or self.symmetry is not None


def compiled(
    config: ComparisonConfig,
    approach: str,
    arrays: CaseArrays,
    training: np.ndarray,
    classes: int,
    maps: Mapping[str, np.ndarray],
    weights: np.ndarray | None,
    steps: int,
    stages: Mapping[str, Callable[[], keras.Model]] | None = None,
) -> Learner:
    """Build a classifier for training; within the scope of a strategy.

    Args:
        config, approach, arrays, classes, maps, stages: see `tfseg.training.classifier.train_classifier`.
        training: positions of the training cases, int (n,).
        weights: of the classes, (C,), or None.
        steps: batches of an epoch.
    """
    shown = training[:NATURAL_IMAGES]
    features, frozen = _backbone(config, config.backbone, config.image_size, arrays.images[shown])
    pooling, transfer = APPROACHES[approach].fusion, APPROACHES[approach].symmetry
    head = {"units": config.head_units or None, "dropout": config.dropout}
    if pooling:
        mask_features, held = _backbone(config, config.mask_backbone, config.class_map_size, maps["classes"][shown])
        frozen += held
        branches = (features, mask_features)
        classifier = build_fusion(*branches, classes, pooling, **head, mask_input=config.mask_input)
    elif transfer:
        classifier = build_enhanced(features, classes, config.image_size, **head, head=config.head)
    else:
        classifier = build_classifier(features, classes, **head, head=config.head)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracies = [keras.metrics.SparseCategoricalAccuracy(name="accuracy"), BalancedAccuracy(classes)]
    optimizer = optimizer_of(config, config.learning_rate, config.epochs, steps)
    settings = {"optimizer": optimizer, "jit_compile": False}
    if approach == "centiou":
        model = CEntIoUModel(
            classifier,
            config.cross_entropy_share,
            saliency=config.saliency,
            saliency_target=config.saliency_target,
            saliency_gradient=config.saliency_gradient,
            saliency_layer=config.saliency_layer,
            accuracies=accuracies,
            name="centiou",
        )
        model.compile(**settings)
        return Learner(classifier, model, for_centiou(weights, arrays.mask_classes), frozen)
    if transfer and config.joint_symmetry and APPROACHES[approach].served:
        metrics = {"logits": accuracies}
        learner = _joint_cascade(config, approach, arrays, training, classifier, weights, stages)
        losses, shares = _joint_losses(config, learner)
        learner.model.compile(**settings, loss=losses, loss_weights=shares, metrics=metrics)
        return replace(learner, frozen=frozen)
    if pooling and config.joint_segmentation and not APPROACHES[approach].mask_given:
        segmenter = stages["segmenter"]()
        segmenter.trainable = True
        model = classifier.joint_model(segmenter, arrays.mask_classes)
        model.compile(
            **settings,
            loss={"logits": cross_entropy, "mask": configured_loss(config)},
            loss_weights={"logits": 1.0, "mask": config.joint_segmentation},
            metrics={"logits": accuracies},
        )
        return Learner(classifier, model, for_joint(weights), frozen, segmenter)
    model = classifier.logits_model() if pooling else classifier.logits_model(approach)
    model.compile(**settings, loss=cross_entropy, metrics=accuracies)
    return Learner(classifier, model, for_classification(weights, tuple(maps)), frozen, maps=tuple(maps))


def _joint_cascade(
    config: ComparisonConfig,
    approach: str,
    arrays: CaseArrays,
    training: np.ndarray,
    classifier: Enhanced,
    weights: np.ndarray | None,
    stages: Mapping[str, Callable[[], keras.Model]],
) -> Learner:
    """SE-LCN end to end: the symmetry network goes on from its own training, with the same layers frozen, and with it
    the segmenter where it has a loss."""
    network = symmetry_network(stages["symmetry"]())
    segmenter = stages["segmenter"]() if "segmenter" in stages else None
    learns_masks = segmenter is not None and config.joint_segmentation > 0 and arrays.has_mask[training].any()
    if segmenter is not None:
        segmenter.trainable = learns_masks
    model = classifier.joint_model(approach, network, segmenter, arrays.mask_classes)
    names = ("symmetry", "mask") if learns_masks else ("symmetry",)
    model = keras.Model(model.input, {name: model.output[name] for name in ("logits", *names)}, name=model.name)
    labels = arrays.attributes["symmetry_label"][training]
    of_symmetry = class_weights(labels[labels >= 0], len(network.classes))
    adapt = for_joint(weights, names, of_symmetry)
    return Learner(classifier, model, adapt, segmenter=segmenter if learns_masks else None, symmetry=network)


def _joint_losses(config: ComparisonConfig, learner: Learner) -> tuple[dict, dict]:
    """The losses of a cascade's outputs, and their weights."""
    losses = {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in ("logits", "symmetry")}
    shares = {"logits": 1.0, "symmetry": config.joint_symmetry}
    if learner.segmenter is not None:
        losses["mask"], shares["mask"] = configured_loss(config), config.joint_segmentation
    return losses, shares


def _backbone(
    config: ComparisonConfig, name: str, size: int, images: np.ndarray
) -> tuple[keras.Model, list[keras.layers.Layer]]:
    """A network with its weights, frozen as configured; and the layers that were frozen.

    Args:
        config: resolved.
        name: of the network.
        size: side of its input, in pixels.
        images: of which it may take its statistics, uint8 (n, any height, any width, 3).
    """
    weights_file = config.weights_of(name)
    features = build_backbone(name, (size, size, 3), weights_file)
    if weights_file and config.batch_norm == "reestimated":
        _train_batch_norm(features, images)
    return features, _freeze(features, frozen_count(features, config.freeze_first) if weights_file else 0)


def _train_batch_norm(features: keras.Model, images: np.ndarray) -> None:
    """Let pretrained batch norm be trained, from the statistics of these images, uint8 (n, S, S, 3)."""
    reestimate_batch_norm(features, images.astype(np.float32) / np.float32(255))
    for layer in features.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = True


def _freeze(features: keras.Model, count: int) -> list[keras.layers.Layer]:
    """Freeze the first layers; gives those that were not frozen before, as pretrained batch norm is."""
    trained = [layer for layer in features.layers if layer.weights and layer.trainable]
    freeze_first(features, count)
    return [layer for layer in trained if not layer.trainable]
