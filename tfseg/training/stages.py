"""The two trainings of a comparison: the segmenter, and a classifier of any approach on its masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfseg.config import ComparisonConfig
from tfseg.data.augment import RECIPES, Augmentation
from tfseg.data.balance import balance_positions
from tfseg.data.batches import CaseArrays, class_weights, make_batches, steps_per_epoch
from tfseg.data.cases import MaskClasses
from tfseg.data.splits import Split
from tfseg.errors import ConfigError, UserError
from tfseg.layers.masking import MASK_LAYERS
from tfseg.losses.dice import DiceCrossEntropy
from tfseg.metrics.segmentation import LesionDice, LesionIoU
from tfseg.models.backbones import build_backbone, freeze_first
from tfseg.models.classifier import Classifier, build_classifier, segmentation_graph
from tfseg.models.unet import build_segmenter
from tfseg.training.centiou import CEntIoUModel
from tfseg.training.devices import (
    make_strategy,
    seed_everything,
    set_precision,
    training_batch_size,
    validation_batch_size,
)
from tfseg.training.fit import fit, for_centiou, for_classification, for_segmentation, make_optimizer


def train_segmenter(config: ComparisonConfig, arrays: CaseArrays, split: Split) -> tuple[keras.Model, pd.DataFrame]:
    """Train on the training cases that have masks; the epoch is chosen by validation IoU.

    Args:
        config: see `ComparisonConfig`, resolved.
        arrays: decoded cases.
        split: positions of the parts.

    Returns:
        A pair: the inference graph image → mask, and the training's record.

    Raises:
        ConfigError: when training or validation part has no case with a mask.
    """
    training, validation = (part[arrays.has_mask[part]] for part in (split.train, split.val))
    if not len(training) or not len(validation):
        raise ConfigError(
            f"a segmenter needs masks: {len(training)} of the training and {len(validation)} of the validation "
            "cases have one; give `--segmenter-file` of a trained one, or only approaches that need none"
        )
    training = balance_positions(arrays.labels, training, config.balance, config.seed)
    strategy = _prepare(config)
    mask_classes = arrays.mask_classes
    replicas = strategy.num_replicas_in_sync
    batch = training_batch_size(len(training), config.segmenter_batch_size, replicas)
    steps = steps_per_epoch(len(training), batch, config.epoch_images)
    with strategy.scope():
        encoder = None if config.segmenter_encoder == "none" else config.segmenter_encoder
        model = build_segmenter(
            config.segmenter,
            (config.image_size, config.image_size, 3),
            mask_classes.channels,
            width=config.segmenter_width,
            depth=config.segmenter_depth,
            encoder=encoder,
            encoder_weights=config.weights if encoder == "mobilenet_v2" else None,
        )
        channels = mask_classes.lesion_channels
        model.compile(
            optimizer=make_optimizer(
                config.segmenter_learning_rate, config.learning_rate_schedule, steps * config.segmenter_epochs
            ),
            loss=DiceCrossEntropy(),
            weighted_metrics=[LesionIoU(channels, name="iou"), LesionDice(channels, name="dice")],
            jit_compile=False,
        )
    batches = make_batches(arrays, training, batch, training=True, augmentation=_augmentation(config), seed=config.seed)
    history = fit(
        model,
        batches.map(for_segmentation),
        make_batches(arrays, validation, validation_batch_size(len(validation), batch, replicas)).map(for_segmentation),
        epochs=config.segmenter_epochs,
        steps=steps,
        patience=config.segmenter_patience,
        monitor="val_iou",
        mode="max",
        description=f"{config.segmenter} · {split.name}",
    )
    return segmentation_graph(model, mask_classes, config.resize), history


def predict_masks(graph: keras.Model, arrays: CaseArrays, positions: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """A segmentation graph's masks of chosen cases, float32 (n, S, S, C)."""
    batches = make_batches(arrays, positions, batch_size).map(lambda batch: batch["image"])
    return graph.predict(batches, verbose=0)["mask"]


def lesion_maps(mask: np.ndarray, mask_classes: MaskClasses) -> np.ndarray:
    """The lesion's probability from mask probabilities, (n, S, S, C) → (n, S, S)."""
    return mask[..., list(mask_classes.lesion_channels)].sum(-1)


def train_classifier(
    config: ComparisonConfig,
    approach: str,
    arrays: CaseArrays,
    split: Split,
    classes: int,
    lesion_probability: np.ndarray | None = None,
) -> tuple[Classifier, pd.DataFrame]:
    """Train a classifier by one approach; the epoch is chosen by validation loss.

    Args:
        config: see `ComparisonConfig`, resolved.
        approach: a name out of `APPROACHES`.
        arrays: decoded cases.
        split: positions of the parts; cases without a label are left out.
        classes: number of classes.
        lesion_probability: the frozen segmenter's maps of all cases, uint8 (N, S, S); for the masking approaches.

    Returns:
        A pair: the trained parts, and the training's record.

    Raises:
        ConfigError: labels, maps or masks that the approach needs are missing.
    """
    masked = approach in MASK_LAYERS
    if masked and lesion_probability is None:
        raise ConfigError(f"the approach {approach} needs a segmenter's maps")
    training, validation = (part[arrays.labels[part] >= 0] for part in (split.train, split.val))
    if not len(training) or not len(validation):
        raise ConfigError(
            f"a classifier needs labels: {len(training)} of the training and {len(validation)} of the validation "
            "cases have one"
        )
    if approach == "centiou" and not arrays.has_mask[training].any():
        raise ConfigError("the approach centiou needs masks: no training case has one")
    augmentation = replace(_augmentation(config), background_swap=config.background_swap)
    if config.background_swap and not arrays.has_mask[training].any():
        raise ConfigError("`background_swap` needs masks: no training case has one")
    training = balance_positions(arrays.labels, training, config.balance, config.seed)
    strategy = _prepare(config)
    weights = class_weights(arrays.labels[training], classes) if config.class_weights else None
    replicas = strategy.num_replicas_in_sync
    batch = training_batch_size(len(training), config.batch_size, replicas)
    steps = steps_per_epoch(len(training), batch, config.epoch_images)
    with strategy.scope():
        shape = (config.image_size, config.image_size, 3)
        features = build_backbone(config.backbone, shape, config.weights)
        freeze_first(features, config.freeze_first if config.weights else 0)
        classifier = build_classifier(features, classes, config.head_units or None, config.dropout)
        optimizer = make_optimizer(config.learning_rate, config.learning_rate_schedule, steps * config.epochs)
        if approach == "centiou":
            adapt = for_centiou(weights, arrays.mask_classes)
            model = CEntIoUModel(
                classifier, config.cross_entropy_share, saliency_gradient=config.saliency_gradient, name="centiou"
            )
            model.compile(optimizer=optimizer, jit_compile=False)
        else:
            adapt = for_classification(weights, masked)
            model = classifier.logits_model(approach)
            model.compile(
                optimizer=optimizer,
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
                jit_compile=False,
            )
    maps = lesion_probability if masked else None
    batches = make_batches(
        arrays,
        training,
        batch,
        training=True,
        augmentation=augmentation,
        lesion_probability=maps,
        seed=config.seed,
    )
    size = validation_batch_size(len(validation), batch, replicas)
    history = fit(
        model,
        batches.map(adapt),
        make_batches(arrays, validation, size, lesion_probability=maps).map(adapt),
        epochs=config.epochs,
        steps=steps,
        patience=config.patience,
        description=f"{approach} · {split.name}",
    )
    return classifier, history


def load_segmenter(path: str | Path, arrays: CaseArrays, resize: str = "stretch") -> keras.Model:
    """Load a trained segmentation graph.

    Args:
        path: a ``.keras`` inference graph with a mask.
        arrays: the cases that it shall be used on.
        resize: how they were brought to the model's size.

    Raises:
        UserError: the file is missing, is no segmenter, or doesn't fit the data's size or mask classes.
    """
    from tfseg.layers.outputs import model_info

    if not Path(path).is_file():
        raise UserError(f"segmenter file {path} does not exist")
    try:
        graph = keras.saving.load_model(path, compile=False)
        info = model_info(graph)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is not a segmenter of tfseg: {error}") from error
    if info.mask_classes is None or info.image_size != arrays.images.shape[1]:
        raise UserError(
            f"{path} has outputs {list(info.outputs)} at {info.image_size} pixels; expected a mask at "
            f"{arrays.images.shape[1]}"
        )
    if info.mask_classes != arrays.mask_classes or info.resize != resize:
        raise UserError(
            f"{path} knows the mask classes {list(info.mask_classes.names)} and resize={info.resize!r}; the data has "
            f"{list(arrays.mask_classes.names)}, and resize={resize!r} is asked (`dataset.json` names the classes)"
        )
    return keras.Model(graph.input, {"mask": graph.output["mask"]}, name="segmentation")


def _prepare(config: ComparisonConfig) -> tf.distribute.Strategy:
    """Seed, precision and strategy, before anything is built."""
    seed_everything(config.seed, config.deterministic)
    set_precision(config.precision)
    return make_strategy(config.distribution)


def _augmentation(config: ComparisonConfig) -> Augmentation:
    """The recipe with the configuration's own amounts; without background swap, which only classifiers take."""
    names = ("flips", "rotation", "zoom", "shift", "shear", "brightness", "contrast", "saturation")
    own = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return replace(RECIPES[config.augmentation], **own)
