"""From cases to batches: decoded once, kept as uint8, augmented in the graph, image and mask in step."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfseg.data.augment import DRAWS, Augmentation, warp
from tfseg.data.cases import Cases, MaskClasses
from tfseg.data.decode import IGNORE, decode_image, resize_image, resize_mask, to_model_input
from tfseg.data.ingest import image_bytes, read_mask
from tfseg.errors import DataError, Problem
from tfseg.progress import progress_bar


@dataclass(frozen=True)
class CaseArrays:
    """Every case at the model's size, in the order of the cases.

    Args:
        images: uint8 (N, S, S, 3).
        masks: class indices, uint8 (N, S, S); 255 where a pixel counts nowhere, and everywhere without a mask.
        has_mask: bool (N,).
        labels: int32 (N,), -1 where unknown.
        ids: str (N,).
        mask_classes: what mask values mean.
    """

    images: np.ndarray
    masks: np.ndarray
    has_mask: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    mask_classes: MaskClasses

    def __len__(self) -> int:
        return len(self.images)

    @property
    def lesions(self) -> np.ndarray:
        """The union of the lesion classes, bool (N, S, S); ignored pixels are outside."""
        return np.isin(self.masks, [self.mask_classes.names.index(name) for name in self.mask_classes.lesion])


def load_arrays(cases: Cases, size: int, resize: str = "stretch") -> CaseArrays:
    """Decode and resize every case, on all cores, with a progress bar.

    Args:
        cases: what to read.
        size: side of the model's square, in pixels.
        resize: ``"stretch"`` or ``"pad"``; see `resize_image`.

    Raises:
        DataError: names every file that can't be read.
    """
    count = len(cases)
    images = np.zeros((count, size, size, 3), np.uint8)
    masks = np.full((count, size, size), IGNORE, np.uint8)
    problems: list[Problem] = []

    def load(position: int) -> None:
        row = cases.table.iloc[position]
        try:
            images[position] = resize_image(decode_image(image_bytes(row["image"])), size, resize).numpy()
        except (ValueError, OSError, tf.errors.InvalidArgumentError) as error:
            problems.append(Problem("unreadable", str(row["image"]), str(error)))
        if not has_mask[position]:
            return
        try:
            masks[position] = resize_mask(read_mask(row["mask"], cases.mask_classes), size, resize).numpy()
        except (ValueError, OSError) as error:
            problems.append(Problem("unreadable", str(row["mask"]), str(error)))

    has_mask = cases.has_mask
    with progress_bar(f"reading {count} images", count) as advance, ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(load, range(count)):
            advance()
    if problems:
        raise DataError(problems, str(cases.root))
    ids = cases.table["id"].to_numpy(str)
    return CaseArrays(images, masks, has_mask, cases.labels, ids, cases.mask_classes)


def make_batches(
    arrays: CaseArrays,
    positions: np.ndarray,
    batch_size: int,
    *,
    training: bool = False,
    augmentation: Augmentation | None = None,
    lesion_probability: np.ndarray | None = None,
    seed: int = 0,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Batches of chosen cases.

    Args:
        arrays: decoded cases.
        positions: which of them, int (n,).
        batch_size: the global batch.
        training: shuffle anew every epoch and repeat without end (an epoch is `steps_per_epoch` batches, all of
            them full: the last is filled up from the start of the epoch's order). Otherwise one pass in order.
        augmentation: applied to images and maps alike; only in training.
        lesion_probability: a segmenter's maps for all cases, uint8 (N, S, S), 255 = certain; the batch then has
            ``lesion`` too.
        seed: order and augmentation of a case depend on seed, epoch and position alone.
        first_epoch: where to go on after an interruption.

    Returns:
        A dataset of dictionaries: ``image`` float32 (B, S, S, 3) in [0, 1]; ``mask`` float32 (B, S, S, C);
        ``valid`` float32 (B, S, S, 1), 0 where a pixel counts nowhere; ``has_mask`` bool (B,); ``label`` int32
        (B,); ``id`` string (B,); and ``lesion`` float32 (B, S, S, 1) in [0, 1] where it was given.

    Raises:
        ValueError: no positions, or an augmentation outside training.
    """
    positions = np.asarray(positions, np.int64)
    if len(positions) == 0:
        raise ValueError("`positions` must name at least one case, received none")
    if augmentation is not None and not training:
        raise ValueError("`augmentation` is for training only")
    # Held as tensors outside the function, so that every step reads the same memory instead of a graph constant.
    store = {
        "image": tf.constant(arrays.images),
        "mask": tf.constant(arrays.masks),
        "has_mask": tf.constant(arrays.has_mask),
        "label": tf.constant(arrays.labels),
        "id": tf.constant(arrays.ids),
    }
    if lesion_probability is not None:
        store["lesion"] = tf.constant(lesion_probability)

    def assemble(chosen, draws):
        raw = {name: tf.gather(values, chosen) for name, values in store.items()}
        image = to_model_input(raw["image"])
        classes = tf.cast(raw["mask"][..., None], tf.float32)
        lesion = to_model_input(raw["lesion"][..., None]) if "lesion" in raw else None
        if augmentation is not None:
            image, classes, lesion = warp(augmentation, draws, image, classes, lesion)
        batch = {"image": image, **_mask_channels(classes, arrays.mask_classes)}
        batch |= {name: raw[name] for name in ("has_mask", "label", "id")}
        if lesion is not None:
            batch["lesion"] = lesion
        return batch

    if not training:
        dataset = tf.data.Dataset.from_tensor_slices((positions, np.zeros((len(positions), DRAWS), np.float32)))
        dataset = dataset.batch(batch_size)
    else:
        batch_size = min(batch_size, len(positions))
        missing = -len(positions) % batch_size
        numbers = tf.constant(positions)

        def epoch_order(epoch):
            order = tf.random.experimental.stateless_shuffle(numbers, seed=tf.stack([tf.cast(seed, tf.int64), epoch]))
            order = tf.concat([order, order[:missing]], 0)
            draws = tf.random.stateless_uniform(
                (len(arrays), DRAWS), seed=tf.stack([tf.cast(seed + 1, tf.int64), epoch])
            )
            return tf.data.Dataset.from_tensor_slices((order, tf.gather(draws, order))).batch(batch_size)

        dataset = tf.data.Dataset.counter(first_epoch).flat_map(epoch_order)
    return dataset.map(assemble, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def steps_per_epoch(count: int, batch_size: int, most: int = 0) -> int:
    """Batches of one epoch over `count` cases, or over `most` of them where that is fewer; 0 takes all."""
    images = min(count, most) if most else count
    return -(-images // min(batch_size, count))


def _mask_channels(classes, mask_classes):
    """Class indices (B, S, S, 1) as the batch's ``mask`` and ``valid``."""
    valid = tf.cast(classes < float(len(mask_classes.names)), tf.float32)
    if mask_classes.channels == 1:
        mask = tf.cast(tf.equal(classes, 1.0), tf.float32)
    else:
        mask = tf.one_hot(tf.cast(classes[..., 0], tf.int32), mask_classes.channels) * valid
    return {"mask": mask, "valid": valid}


def lesion_of(mask, mask_classes: MaskClasses):
    """The lesion's channel of a batch's mask, (B, S, S, C) → (B, S, S, 1)."""
    return tf.reduce_sum(tf.gather(mask, mask_classes.lesion_channels, axis=-1), axis=-1, keepdims=True)


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """`N / (N_i · C)` for every class i, float32 (C,); SE-LCN's weights.

    Raises:
        ValueError: names the first class without a case.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    if (counts == 0).any():
        raise ValueError(f"class {int(np.argmin(counts))} has no training case to weigh")
    return (counts.sum() / (counts * classes)).astype(np.float32)
