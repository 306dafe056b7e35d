"""The training of a classifier by any approach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import keras
import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.balance import balance_positions
from tfseg.data.batches import CaseArrays, class_weights, make_batches, steps_per_epoch
from tfseg.data.splits import Split
from tfseg.errors import ConfigError
from tfseg.layers.branches import BranchActivationMaps
from tfseg.layers.masking import mask_layer
from tfseg.metrics.classification import BalancedAccuracy
from tfseg.models.backbones import build_backbone, freeze_first, frozen_count
from tfseg.models.classifier import build_classifier, explained
from tfseg.models.fusion import build_fusion
from tfseg.models.weights import reestimate_batch_norm
from tfseg.training.callbacks import Plateau, Thaw
from tfseg.training.centiou import CEntIoUModel
from tfseg.training.devices import training_batch_size, validation_batch_size
from tfseg.training.fit import fit, for_centiou, for_classification, for_joint
from tfseg.training.probe import train_probe
from tfseg.training.segmenter import configured_loss
from tfseg.training.setup import Trained, augmentation_of, optimizer_of, prepare, training_batches
from tfseg.training.sitting import DETACHED, Sitting, described
from tfseg.training.tensorboard import SHOWN, EpochPictures, blended
from tfseg.training.workers import detached, several_workers

# Enough to know the statistics of a layer's channels, each of which has many pixels per image.
NATURAL_IMAGES = 64


def train_classifier(
    config: ComparisonConfig,
    approach: str,
    arrays: CaseArrays,
    split: Split,
    classes: int,
    maps: np.ndarray | None = None,
    sitting: Sitting = DETACHED,
    memo: dict | None = None,
    segmenter: Callable[[], keras.Model] | None = None,
) -> Trained:
    """Train a classifier by one approach; the epoch is chosen on the validation part.

    Args:
        config: see `ComparisonConfig`, resolved.
        approach: a name out of `tfseg.approaches.APPROACHES`.
        arrays: decoded cases.
        split: positions of the parts; cases without a label are left out.
        classes: number of classes.
        maps: what the approach looks at beside the images of all cases, uint8: the lesion's probability (N, S, S) or
            the class map (N, h, w, 3), see `tfseg.approaches.Approach.map_input`.
        sitting: see `fit`.
        memo: keeps what several trainings of a run would compute alike.
        segmenter: gives the one that learns together with a fusion, image → mask logits; where the configuration's
            `joint_segmentation` says so.

    Raises:
        ConfigError: labels, maps or masks that the approach needs are missing.
        TrainingError, Paused, RunError: see `fit`.
    """
    map_input = APPROACHES[approach].map_input
    if map_input and maps is None:
        raise ConfigError(f"the approach {approach} needs maps of the lesions")
    training, validation = (part[arrays.labels[part] >= 0] for part in (split.train, split.val))
    if not len(training) or not len(validation):
        raise ConfigError(
            f"a classifier needs labels: {len(training)} of the training and {len(validation)} of the validation "
            "cases have one"
        )
    if APPROACHES[approach].needs_true_masks and not arrays.has_mask[training].any():
        raise ConfigError(f"the approach {approach} needs masks: no training case has one")
    if config.training == "probe":
        return train_probe(config, approach, arrays, training, validation, classes, maps, memo)
    augmentation = replace(augmentation_of(config), background_swap=config.background_swap)
    if config.background_swap and not arrays.has_mask[training].any():
        raise ConfigError("`background_swap` needs masks: no training case has one")
    training = balance_positions(arrays.labels, training, config.balance, config.seed)
    strategy = prepare(config)
    weights = class_weights(arrays.labels[training], classes) if config.class_weights else None
    replicas = strategy.num_replicas_in_sync
    batch = training_batch_size(len(training), config.batch_size, replicas)
    steps = steps_per_epoch(len(training), batch, config.epoch_images)
    with strategy.scope():
        features, frozen = _backbone(
            config, config.backbone, config.image_size, arrays.images[training[:NATURAL_IMAGES]]
        )
        pooling = APPROACHES[approach].fusion
        if pooling:
            mask_size = config.mask_size or config.image_size
            mask_features, held = _backbone(config, config.mask_backbone, mask_size, maps[training[:NATURAL_IMAGES]])
            frozen += held
            units, dropout = config.head_units or None, config.dropout
            classifier = build_fusion(
                features, mask_features, classes, pooling, units, dropout, mask_input=config.mask_input
            )
        else:
            classifier = build_classifier(features, classes, config.head_units or None, config.dropout, config.head)
        optimizer = optimizer_of(config, config.learning_rate, config.epochs, steps)
        joint = bool(pooling and config.joint_segmentation and not APPROACHES[approach].mask_given)
        learner = None
        accuracies = [keras.metrics.SparseCategoricalAccuracy(name="accuracy"), BalancedAccuracy(classes)]
        if approach == "centiou":
            adapt = for_centiou(weights, arrays.mask_classes)
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
            model.compile(optimizer=optimizer, jit_compile=False)
        elif joint:
            adapt, learner = for_joint(weights), segmenter()
            learner.trainable = True
            model = classifier.joint_model(learner, arrays.mask_classes)
            model.compile(
                optimizer=optimizer,
                loss={
                    "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                    "mask": configured_loss(config),
                },
                loss_weights={"logits": 1.0, "mask": config.joint_segmentation},
                metrics={"logits": accuracies},
                jit_compile=False,
            )
        else:
            adapt = for_classification(weights, map_input)
            model = classifier.logits_model() if pooling else classifier.logits_model(approach)
            model.compile(
                optimizer=optimizer,
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=accuracies,
                jit_compile=False,
            )
    further = {map_input: maps} if map_input else None
    batches, names_of = training_batches(
        arrays, training, batch, adapt, augmentation=augmentation, maps=further, seed=config.seed
    )
    # The epoch of a joint training is chosen by what it is for.
    monitor = config.monitor.replace("val_", "val_logits_") if joint else config.monitor
    mode = "min" if config.monitor == "val_loss" else "max"
    extra = {}
    if config.unfreeze_per_epoch and frozen:
        extra["thaw"] = Thaw(frozen, config.unfreeze_per_epoch)
    if config.learning_rate_schedule == "plateau":
        extra["plateau"] = Plateau(monitor, mode, max(1, config.patience // 3))
    if sitting.tensorboard is not None and sitting.chief:
        draw = _saliency_pictures(classifier, config, approach, arrays, validation[:SHOWN], further)
        extra["pictures"] = EpochPictures(sitting.tensorboard, draw)
    size = validation_batch_size(len(validation), batch, replicas)
    history, note = fit(
        model,
        batches,
        make_batches(arrays, validation, size, maps=further).map(adapt),
        epochs=config.epochs,
        steps=steps,
        patience=config.patience,
        monitor=monitor,
        mode=mode,
        description=described(approach, sitting),
        extra=extra,
        names_of=names_of,
        sitting=sitting,
    )
    if several_workers(strategy):
        parts = [entry.name for entry in fields(classifier) if isinstance(getattr(classifier, entry.name), keras.Model)]
        classifier = replace(classifier, **{name: detached(getattr(classifier, name)) for name in parts})
        learner = None if learner is None else detached(learner)
    if joint:
        history = history.rename(columns={"loss": "joint_loss", "val_loss": "val_joint_loss"})
        history = history.rename(columns=lambda name: name.replace("logits_", ""))
    return Trained(classifier, history, note, segmenter=learner)


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


def _saliency_pictures(classifier, config, approach, arrays, positions, maps) -> Callable[[], np.ndarray]:
    """Draws the saliency of the predicted class on some cases."""
    (batch,) = make_batches(arrays, positions, len(positions), maps=maps)
    visible = batch["image"]
    if APPROACHES[approach].fusion:
        explain = BranchActivationMaps(classifier.head, visible.shape[1:3], config.saliency)
        return lambda: blended(
            visible, explain(classifier.feature_maps(visible, batch["classes"], training=False))["saliency"]
        )
    if APPROACHES[approach].masked:
        visible = mask_layer(approach)(visible, batch["lesion"])
    features, explain = explained(classifier, config.saliency, config.saliency_layer)
    return lambda: blended(batch["image"], explain(features(visible, training=False))["saliency"])
