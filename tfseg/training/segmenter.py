"""The training of a segmenter, and its maps of the cases."""

from __future__ import annotations

import functools
from pathlib import Path

import keras
import pandas as pd

from tfseg.config import ComparisonConfig
from tfseg.data.balance import balance_positions, drawn_per_class
from tfseg.data.batches import CaseArrays, make_batches, steps_per_epoch
from tfseg.data.splits import Split
from tfseg.errors import ConfigError, UserError
from tfseg.losses.dice import MaskLoss
from tfseg.losses.segmentation import build_loss
from tfseg.metrics.segmentation import LesionDice, LesionIoU
from tfseg.models.classifier import behind_hair_removal, segmentation_graph
from tfseg.models.segmenters import at_scale, build_segmenter
from tfseg.training.callbacks import Plateau
from tfseg.training.devices import training_batch_size, validation_batch_size
from tfseg.training.fit import fit, for_segmentation
from tfseg.training.setup import augmentation_of, optimizer_of, prepare, training_batches
from tfseg.training.sitting import DETACHED, Sitting, described
from tfseg.training.slope import SlopeStopping
from tfseg.training.tensorboard import SHOWN, EpochPictures, lesion_pictures
from tfseg.training.workers import detached, several_workers
from tfseg.words import named_values


def train_segmenter(
    config: ComparisonConfig, arrays: CaseArrays, split: Split, sitting: Sitting = DETACHED
) -> tuple[keras.Model, pd.DataFrame, str]:
    """Train on the training cases that have masks; the epoch is chosen by validation IoU.

    Args:
        config: see `ComparisonConfig`, resolved.
        arrays: decoded cases.
        split: positions of the parts.
        sitting: see `fit`.

    Returns:
        The inference graph image → mask, the training's record, and a note on why it broke off, or "".

    Raises:
        ConfigError: when training or validation part has no case with a mask.
        TrainingError, Paused, RunError: see `fit`.
    """
    training, validation = (part[arrays.has_mask[part]] for part in (split.train, split.val))
    if not len(training) or not len(validation):
        raise ConfigError(
            f"a segmenter needs masks: {len(training)} of the training and {len(validation)} of the validation "
            "cases have one; give `--segmenter-file` of a trained one, or only approaches that need none"
        )
    if config.segmenter_masks:
        validated = max(1, round(config.val_fraction * config.segmenter_masks))
        learned = max(1, config.segmenter_masks - validated)
        training, validation = (
            drawn_per_class(arrays.labels, part, count, config.split_seed)
            for part, count in ((training, learned), (validation, validated))
        )
    training = balance_positions(arrays.labels, training, config.balance, config.seed)
    strategy = prepare(config)
    mask_classes = arrays.mask_classes
    replicas = strategy.num_replicas_in_sync
    batch = training_batch_size(len(training), config.segmenter_batch_size, replicas)
    steps = steps_per_epoch(len(training), batch, config.epoch_images)
    with strategy.scope():
        model = configured_segmenter(config, mask_classes.channels)
        channels = mask_classes.lesion_channels
        model.compile(
            optimizer=optimizer_of(config, config.segmenter_learning_rate, config.segmenter_epochs, steps),
            loss=configured_loss(config),
            weighted_metrics=[LesionIoU(channels, name="iou"), LesionDice(channels, name="dice")],
            jit_compile=False,
        )
    augmentation = augmentation_of(config)
    batches, names_of = training_batches(
        arrays, training, batch, for_segmentation, augmentation=augmentation, seed=config.seed
    )
    extra = {}
    if config.learning_rate_schedule == "plateau":
        extra["plateau"] = Plateau("val_iou", "max", max(1, config.segmenter_patience // 3))
    if config.segmenter_slope is not None:
        extra["slope"] = SlopeStopping(threshold=config.segmenter_slope)
    graph = segmentation_graph(model, mask_classes, config.resize, config.hair_removal)
    if sitting.tensorboard is not None and sitting.chief:
        shown = arrays.images[validation[:SHOWN]]
        draw = functools.partial(lesion_pictures, behind_hair_removal(graph), shown, mask_classes)
        extra["pictures"] = EpochPictures(sitting.tensorboard, draw)
    history, note = fit(
        model,
        batches,
        make_batches(arrays, validation, validation_batch_size(len(validation), batch, replicas)).map(for_segmentation),
        epochs=config.segmenter_epochs,
        steps=steps,
        patience=config.segmenter_patience,
        monitor="val_iou",
        mode="max",
        description=described(config.segmenter, sitting),
        extra=extra,
        names_of=names_of,
        sitting=sitting,
    )
    # What is stored of it later needs neither the optimizer nor the loss.
    model.compiled = False
    if several_workers(strategy):
        graph = segmentation_graph(detached(model), mask_classes, config.resize, config.hair_removal)
    return graph, history, note


def configured_segmenter(config: ComparisonConfig, channels: int, pretrained: bool = True) -> keras.Model:
    """The network that a configuration names.

    Args:
        config: resolved.
        channels: of the mask.
        pretrained: whether its encoder's weights are loaded, if it has some.

    Raises:
        ConfigError: an option that the architecture hasn't, or one out of range.
        WeightsError: weights that can't be had.
    """
    encoder = None if config.segmenter_encoder == "none" else config.segmenter_encoder
    options = {
        "width": config.segmenter_width,
        "depth": config.segmenter_depth,
        "encoder": encoder,
        "encoder_weights": config.weights_of(encoder) if encoder and pretrained else None,
    }
    options |= named_values(config.segmenter_options, "segmenter_options")
    side, scale = config.image_size, config.segmenter_scale
    segmenter = build_segmenter(config.segmenter, (side // scale, side // scale, 3), channels, **options)
    return at_scale(segmenter, scale)


def configured_loss(config: ComparisonConfig) -> MaskLoss:
    """The segmenter's loss.

    Raises:
        ConfigError: an option that the loss hasn't, or one out of range.
    """
    return build_loss(config.segmenter_loss, **named_values(config.segmenter_loss_options, "segmenter_loss_options"))


def given_or_trained(
    config: ComparisonConfig, arrays: CaseArrays, split: Split, sitting: Sitting = DETACHED
) -> tuple[keras.Model, pd.DataFrame, str]:
    """The segmenter of a ``segmenter_file``, with an empty record, or one trained by `train_segmenter`."""
    if config.segmenter_file:
        graph = load_segmenter(config.segmenter_file, arrays, config.resize)
        return graph, pd.DataFrame({"epoch": [], "seconds": []}), ""
    return train_segmenter(config, arrays, split, sitting)


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
    graph = keras.Model(graph.input, {"mask": graph.output["mask"]}, name="segmentation")
    if behind_hair_removal(graph) is not graph and not arrays.without_hair:
        raise UserError(f"{path} removes hairs before it looks: give `--hair-removal`, so that everything does")
    return graph
