"""The training of a classifier by any approach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from tfseg.layers.saliency import ClassActivationMap
from tfseg.models.classifier import explained
from tfseg.models.fusion import class_map
from tfseg.training.callbacks import Plateau, Thaw
from tfseg.training.devices import training_batch_size, validation_batch_size
from tfseg.training.fit import fit
from tfseg.training.learner import compiled
from tfseg.training.probe import train_probe
from tfseg.training.setup import Trained, augmentation_of, prepare, training_batches
from tfseg.training.sitting import DETACHED, Sitting, described
from tfseg.training.tensorboard import SHOWN, EpochPictures, blended
from tfseg.training.warm import train_head_first
from tfseg.training.workers import detached, several_workers


def train_classifier(
    config: ComparisonConfig,
    approach: str,
    arrays: CaseArrays,
    split: Split,
    classes: int,
    maps: Mapping[str, np.ndarray] | None = None,
    sitting: Sitting = DETACHED,
    memo: dict | None = None,
    stages: Mapping[str, Callable[[], keras.Model]] | None = None,
) -> Trained:
    """Train a classifier by one approach; the epoch is chosen on the validation part.

    Args:
        config: see `ComparisonConfig`, resolved.
        approach: a name out of `tfseg.approaches.APPROACHES`.
        arrays: decoded cases.
        split: positions of the parts; cases without a label are left out.
        classes: number of classes.
        maps: what the approach looks at beside the images of all cases, uint8 by name: ``lesion``, its probability (N,
            S, S); ``classes``, the class map (N, h, w, 3); ``symmetry``, a symmetry network's map (N, S, S).
        sitting: see `fit`.
        memo: keeps what several trainings of a run would compute alike.
        stages: by name what gives a trained network that may learn along, see the configuration's `joint_segmentation`
            and `joint_symmetry`: ``segmenter``, image → mask logits, and ``symmetry``, an inference graph.

    Raises:
        ConfigError: labels, maps or masks that the approach needs are missing.
        TrainingError, Paused, RunError: see `fit`.
    """
    maps, needed = dict(maps or {}), APPROACHES[approach]
    for name in (needed.map_input, "symmetry" if needed.symmetry else None):
        if name and name not in maps:
            raise ConfigError(f"the approach {approach} needs maps of the lesions: {name}")
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
        learner = compiled(config, approach, arrays, training, classes, maps, weights, steps, stages)
    # Networks that learn too make their maps anew.
    further = {name: maps[name] for name in learner.maps}
    batches, names_of = training_batches(
        arrays, training, batch, learner.adapt, augmentation=augmentation, maps=further, seed=config.seed
    )
    # The epoch of a joint training is chosen by what it is for.
    monitor = config.monitor.replace("val_", "val_logits_") if learner.joint else config.monitor
    mode = "min" if config.monitor == "val_loss" else "max"
    extra = {}
    if config.unfreeze_per_epoch and learner.frozen:
        extra["thaw"] = Thaw(learner.frozen, config.unfreeze_per_epoch)
    if config.learning_rate_schedule == "plateau":
        extra["plateau"] = Plateau(monitor, mode, max(1, config.patience // 3))
    if sitting.tensorboard is not None and sitting.chief:
        draw = _saliency_pictures(learner, config, approach, arrays, validation[:SHOWN], further)
        extra["pictures"] = EpochPictures(sitting.tensorboard, draw)
    size = validation_batch_size(len(validation), batch, replicas)
    validated = make_batches(arrays, validation, size, maps=further).map(learner.adapt)
    begun = sitting.checkpoint is not None and sitting.checkpoint.exists()
    if config.head_epochs and not learner.joint and not begun:
        # As many as make each case be seen in two ways.
        seen = 2 * len(training)
        train_head_first(
            learner.classifier, approach, batches(0), validated, seen, config.head_epochs, described(approach, sitting)
        )
    history, note = fit(
        learner.model,
        batches,
        validated,
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
    if learner.joint:
        history = history.rename(columns={"loss": "joint_loss", "val_loss": "val_joint_loss"})
        history = history.rename(columns=lambda name: name.replace("logits_", ""))
    classifier, segmenting = learner.classifier, learner.segmenter
    if several_workers(strategy):
        parts = [entry.name for entry in fields(classifier) if isinstance(getattr(classifier, entry.name), keras.Model)]
        classifier = replace(classifier, **{name: detached(getattr(classifier, name)) for name in parts})
        segmenting = segmenting and detached(segmenting)
    return Trained(classifier, history, note, segmenter=segmenting, symmetry=learner.symmetry)


def _saliency_pictures(learner, config, approach, arrays, positions, maps) -> Callable[[], np.ndarray]:
    """Draws the saliency of the predicted class on some cases."""
    (batch,) = make_batches(arrays, positions, len(positions), maps=maps)
    visible, classifier = batch["image"], learner.classifier
    if APPROACHES[approach].fusion:
        explain = BranchActivationMaps(classifier.head, visible.shape[1:3], config.saliency)
        size = (config.class_map_size, config.class_map_size)

        def of_image() -> np.ndarray:
            learning = learner.segmenter
            seen = (
                class_map(learning(visible, training=False), arrays.mask_classes, size)
                if learning
                else batch["classes"]
            )
            return blended(visible, explain(classifier.feature_maps(visible, seen, training=False))["saliency"])

        return of_image
    if learner.symmetry:
        network = learner.symmetry
        return lambda: blended(visible, network.explain(network.features(visible, training=False))["saliency"])
    if APPROACHES[approach].masked:
        visible = mask_layer(approach)(visible, batch["lesion"])
    if APPROACHES[approach].symmetry:
        explain = ClassActivationMap(classifier.head, visible.shape[1:3], config.saliency)

        def of_enhanced() -> np.ndarray:
            maps = classifier.features(visible, training=False)
            maps = classifier.enhancement([maps, batch["symmetry"]], training=False)
            return blended(batch["image"], explain(maps)["saliency"])

        return of_enhanced
    features, explain = explained(classifier, config.saliency, config.saliency_layer)
    return lambda: blended(batch["image"], explain(features(visible, training=False))["saliency"])
