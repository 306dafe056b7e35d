"""From cases to batches: decoded once, kept as uint8, augmented in the graph, image and mask in step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfseg.data.augment import DRAWS, Augmentation, swap_backgrounds, warp
from tfseg.data.balance import occurrences
from tfseg.data.cache import cached_arrays
from tfseg.data.cases import Cases, MaskClasses
from tfseg.data.decode import IGNORE, decode_image, resize_image, resize_mask, to_model_input
from tfseg.data.ingest import image_bytes, read_mask
from tfseg.errors import DataError, Problem
from tfseg.progress import progress_bar

# Cached data up to this size is held in memory, which is faster than reading it from the disk; in bytes.
MEMORY_BYTES = 2**30
# Batches that are assembled at once, and those that wait for the training.
MOST_PARALLEL, AHEAD = 16, 2


@dataclass(frozen=True)
class CaseArrays:
    """Every case at the model's size, in the order of the cases.

    Args:
        images: uint8 (N, S, S, 3); like the masks, in memory or a memory map.
        masks: class indices, uint8 (N, S, S); 255 where a pixel counts nowhere, and everywhere without a mask.
        has_mask: bool (N,).
        labels: int32 (N,), -1 where unknown.
        ids: str (N,).
        mask_classes: what mask values mean.
        without_hair: whether hairs were taken out of the images.
        attributes: further numbers of every case by their name in a batch, int32 (N,), -1 where unknown.
    """

    images: np.ndarray
    masks: np.ndarray
    has_mask: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    mask_classes: MaskClasses
    without_hair: bool = False
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def lesions_at(self, positions: np.ndarray) -> np.ndarray:
        """The union of the lesion classes of chosen cases, bool (n, S, S); ignored pixels are outside."""
        values = [self.mask_classes.names.index(name) for name in self.mask_classes.lesion]
        return np.isin(self.masks[positions], values)


def load_arrays(
    cases: Cases,
    size: int,
    resize: str = "stretch",
    cache_dir: str | Path | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> CaseArrays:
    """Decode and resize every case, on all cores, with a progress bar.

    Args:
        cases: what to read.
        size: side of the model's square, in pixels.
        resize: ``"stretch"`` or ``"pad"``; see `resize_image`.
        cache_dir: keeps what was decoded in a folder of this folder, for the next time and after an interruption.
        memory_bytes: images and masks of a cache that are larger together stay on the disk, as memory maps.

    Raises:
        DataError: names every file that can't be read.
        RunError: the cache can't be written.
    """
    count = len(cases)
    if cache_dir is None:
        images, masks = np.empty((count, size, size, 3), np.uint8), np.empty((count, size, size), np.uint8)
        _decode(cases, resize, np.arange(count), images, masks)
    else:

        def decode(positions, images, masks, done):
            _decode(cases, resize, positions, images, masks, done)

        images, masks = cached_arrays(cases, size, resize, cache_dir, decode)
        if images.nbytes + masks.nbytes <= memory_bytes:
            images, masks = np.array(images), np.array(masks)
    ids = cases.table["id"].to_numpy(str)
    return CaseArrays(images, masks, cases.has_mask, cases.labels, ids, cases.mask_classes)


def _decode(
    cases: Cases,
    resize: str,
    positions: np.ndarray,
    images: np.ndarray,
    masks: np.ndarray,
    done: Callable[[int], None] = lambda position: None,
) -> None:
    """Fill rows of `images` and `masks`; `done` is called for every row that could be read."""
    problems: list[Problem] = []
    has_mask, size = cases.has_mask, images.shape[1]

    def load(position: int) -> None:
        row, found = cases.table.iloc[position], []
        try:
            images[position] = resize_image(decode_image(image_bytes(row["image"])), size, resize).numpy()
        except (ValueError, OSError, tf.errors.InvalidArgumentError) as error:
            found.append(Problem("unreadable", str(row["image"]), str(error)))
        masks[position] = IGNORE
        if has_mask[position]:
            try:
                masks[position] = resize_mask(read_mask(row["mask"], cases.mask_classes), size, resize).numpy()
            except (ValueError, OSError) as error:
                found.append(Problem("unreadable", str(row["mask"]), str(error)))
        if found:
            problems.extend(found)
        else:
            done(position)

    count = len(positions)
    with progress_bar(f"reading {count} images", count) as advance, ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(load, positions):
            advance()
    if problems:
        raise DataError(problems, str(cases.root))


def make_batches(
    arrays: CaseArrays,
    positions: np.ndarray,
    batch_size: int,
    *,
    training: bool = False,
    augmentation: Augmentation | None = None,
    maps: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    first_batch: int = 0,
) -> tf.data.Dataset:
    """Batches of chosen cases.

    Args:
        arrays: decoded cases.
        positions: which of them, int (n,); one that stands there several times is seen as often in an epoch, each
            time augmented by draws of its own.
        batch_size: the global batch.
        training: shuffle anew every epoch and repeat without end (an epoch is `steps_per_epoch` batches, all of
            them full: the last is filled up from the start of the epoch's order). Otherwise one pass in order.
        augmentation: applied to images and maps alike; only in training.
        maps: further maps of all cases by their name in the batch, uint8 (N, h, w) or (N, h, w, 3), 255 = certain,
            such as a segmenter's; of any size.
        seed: the order depends on seed, epoch and the list of positions; how a case is augmented, on seed, epoch, the
            position, and how often it stood before in the list.
        first_batch: number of the batch to begin with, to go on after an interruption; only in training.

    Returns:
        A dataset of dictionaries: ``image`` float32 (B, S, S, 3) in [0, 1]; ``mask`` float32 (B, S, S, C);
        ``valid`` float32 (B, S, S, 1), 0 where a pixel counts nowhere; ``has_mask`` bool (B,); ``label`` int32
        (B,); ``id`` string (B,); the cases' attributes, int32 (B,); and each of the further maps, float32 (B, h, w, 1
        or 3) in [0, 1].

    Raises:
        ValueError: no positions, or an augmentation outside training.
    """
    positions = np.asarray(positions, np.int64)
    if len(positions) == 0:
        raise ValueError("`positions` must name at least one case, received none")
    if augmentation is not None and not training:
        raise ValueError("`augmentation` is for training only")
    store = {
        "image": arrays.images,
        "mask": arrays.masks,
        "has_mask": arrays.has_mask,
        "label": arrays.labels,
        "id": arrays.ids,
        **arrays.attributes,
    }
    maps = dict(maps or {})
    store |= maps
    fetch = {name: _fetcher(values) for name, values in store.items()}
    if augmentation is not None and not augmentation.changes:
        augmentation = None

    def assemble(chosen, draws):
        raw = {name: rows(chosen) for name, rows in fetch.items()}
        image, classes, further = raw["image"], raw["mask"], [raw[name] for name in maps]
        if augmentation is None:
            image = to_model_input(image)
            further = [to_model_input(values if len(values.shape) == 4 else values[..., None]) for values in further]
        else:
            if augmentation.background_swap:
                inside = _is_lesion(classes, arrays.mask_classes)
                image, *further = swap_backgrounds(augmentation, draws, inside, image, *further)
            image, classes, further = warp(augmentation, draws, image, classes, further)
        batch = {"image": image, **_mask_channels(classes, arrays.mask_classes)}
        batch |= {name: raw[name] for name in ("has_mask", "label", "id", *arrays.attributes)}
        return batch | dict(zip(maps, further, strict=True))

    if not training:
        dataset = tf.data.Dataset.from_tensor_slices((positions, np.zeros((len(positions), DRAWS), np.float32)))
        dataset = dataset.batch(batch_size)
    else:
        batch_size = min(batch_size, len(positions))
        missing = -len(positions) % batch_size
        # A case's first place in the list keeps its number however often the others are repeated.
        slots = positions + occurrences(positions) * len(arrays)
        most, numbers = int(slots.max()) + 1, tf.constant(slots)

        def epoch_order(epoch):
            order = tf.random.experimental.stateless_shuffle(numbers, seed=tf.stack([tf.cast(seed, tf.int64), epoch]))
            order = tf.concat([order, order[:missing]], 0)
            draws = tf.random.stateless_uniform((most, DRAWS), seed=tf.stack([tf.cast(seed + 1, tf.int64), epoch]))
            chosen = (order % len(arrays), tf.gather(draws, order))
            return tf.data.Dataset.from_tensor_slices(chosen).batch(batch_size)

        whole_epochs, rest = divmod(first_batch, steps_per_epoch(len(positions), batch_size))
        dataset = tf.data.Dataset.counter(whole_epochs).flat_map(epoch_order).skip(rest)
    options = tf.data.Options()
    # Of several workers each takes its part of every batch: the cases are in memory, not in files to be shared out.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # An iterator whose parallelism TensorFlow tunes takes up to ten seconds to end on a busy machine.
    options.autotune.enabled = False
    parallel = min(os.cpu_count() or 1, MOST_PARALLEL)
    return dataset.map(assemble, num_parallel_calls=parallel).prefetch(AHEAD).with_options(options)


def _fetcher(values: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from positions to rows, as an operation of the graph."""
    if not isinstance(values, np.memmap):
        # Held as a tensor outside the function, so that every step reads the same memory instead of a constant.
        held = tf.constant(values)
        return lambda chosen: tf.gather(held, chosen)

    # As a tensor the whole file would be read into memory.
    def rows(chosen):
        return np.asarray(values[chosen])

    def fetch(chosen):
        taken = tf.numpy_function(rows, [chosen], tf.as_dtype(values.dtype), stateful=False)
        return tf.ensure_shape(taken, (chosen.shape[0], *values.shape[1:]))

    return fetch


def steps_per_epoch(count: int, batch_size: int, most: int = 0) -> int:
    """Batches of one epoch over `count` cases, or over `most` of them where that is fewer; 0 takes all."""
    images = min(count, most) if most else count
    return -(-images // min(batch_size, count))


def _mask_channels(classes, mask_classes):
    """Class indices, uint8 (B, S, S), as the batch's ``mask`` and ``valid``."""
    classes = classes[..., None]
    valid = tf.cast(classes < len(mask_classes.names), tf.float32)
    if mask_classes.channels == 1:
        mask = tf.cast(tf.equal(classes, 1), tf.float32)
    else:
        mask = tf.one_hot(classes[..., 0], mask_classes.channels) * valid
    return {"mask": mask, "valid": valid}


def _is_lesion(classes, mask_classes: MaskClasses):
    """Class indices, uint8, as the union of the lesion classes, bool of the same shape."""
    return reduce(tf.logical_or, [tf.equal(classes, mask_classes.names.index(name)) for name in mask_classes.lesion])


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
