"""What an image costs on its way from the file to the training step, in processor time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfseg.benchmarks.process import bind, on_each, prepare, spent, write_results
from tfseg.benchmarks.summary import DISK, EVERYTHING, FLOOR, KERAS, KERAS_CV, MEMORY, ONE_WARP, OURS, summarise, table
from tfseg.errors import ConfigError

WIDTH, HEIGHT, BATCH = 600, 450, 16
BACKBONE = "mobilenet_v2"


def benchmark_pipeline(
    out: str | Path,
    cores: Sequence[int] = (1, 2),
    repetitions: int = 20,
    command: str = "",
    side: int = 224,
    steps: int = 12,
) -> dict:
    """Measure every way of delivering an image–mask pair, in turn, and write ``benchmark.json`` and ``table.md``.

    Costs are processor time of all threads, so that other programs on the machine don't count; each number of cores
    is measured in a process of its own that is bound to so many.

    Args:
        out: folder for the results; new, empty, or of an earlier benchmark.
        cores: numbers of cores to measure on.
        repetitions: of each measurement, interleaved with the others.
        command: recorded with the results.
        side: of the delivered images, in pixels.
        steps: training steps to watch.

    Returns:
        What ``benchmark.json`` holds.

    Raises:
        ConfigError: `cores` or `repetitions` is out of range.
        RunError: `out` holds something else.
    """
    out = prepare(out, cores, repetitions)
    if steps < 1:
        raise ConfigError(f"`steps` must be at least 1, received {steps}")
    results = on_each(cores, measure, repetitions, side, steps)
    settings = {"image": [WIDTH, HEIGHT], "side": side, "batch": BATCH, "repetitions": repetitions}
    return write_results(out, command, settings, "synthetic lesions", [summarise(result) for result in results], table)


def measure(cores: int, repetitions: int, side: int, steps: int) -> dict:
    """All measurements on so many cores; changes the process, and is meant for one of its own.

    Returns:
        ``cores``; ``values``: milliseconds of processor time per image of every repetition, by name; ``missing``: why
        a name isn't among them; ``training``: see `_watch_training`.
    """
    bind(cores)
    with tempfile.TemporaryDirectory() as folder:
        ways, missing, arrays = _ways(Path(folder), side, cores)
        values: dict[str, list[float]] = {name: [] for name in ways}
        for _, work in ways.values():
            work()
        for _ in range(repetitions):
            for name, (images, work) in ways.items():
                values[name].append(spent(work) / images * 1e3)
        training = _watch_training(arrays, steps)
    return {"cores": cores, "values": values, "missing": missing, "training": training}


def _ways(folder: Path, side: int, cores: int) -> tuple[dict, dict, object]:
    """By name: how many images a piece of work delivers, and the work; why others are missing; the cases."""
    import tensorflow as tf

    from tfseg.data.augment import RECIPES
    from tfseg.data.batches import load_arrays, make_batches
    from tfseg.data.decode import decode_image, resize_image, resize_mask
    from tfseg.data.ingest import image_bytes, read_mask

    cases = _write_cases(folder / "data")
    arrays = load_arrays(cases, side, cache_dir=folder / "cache")
    mapped = load_arrays(cases, side, cache_dir=folder / "cache", memory_bytes=0)
    positions = np.arange(len(cases))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = cores

    def decode():
        for row in cases.table.itertuples():
            resize_image(decode_image(image_bytes(row.image)), side)
            resize_mask(read_mask(row.mask, cases.mask_classes), side)

    def delivered(dataset, batches=2):
        iterator = iter(dataset.with_options(options))
        return batches * BATCH, lambda: [next(iterator) for _ in range(batches)]

    def ours(held, augmentation=None):
        return delivered(make_batches(held, positions, BATCH, training=True, augmentation=augmentation))

    free = RECIPES["free"]
    ways = {
        FLOOR: (len(cases), decode),
        MEMORY: ours(arrays),
        DISK: ours(mapped),
        OURS: ours(arrays, free),
        EVERYTHING: ours(arrays, replace(free, brightness=0.2, contrast=0.2, saturation=0.2, background_swap=0.5)),
    }
    missing, plain = {}, make_batches(arrays, positions, BATCH, training=True)
    for name, make in ((ONE_WARP, _one_warp), (KERAS_CV, _keras_cv), (KERAS, _keras)):
        try:
            ways[name] = delivered(plain.map(make(free)))
        except ImportError as error:
            missing[name] = f"not installed: {error.name}"
    return ways, missing, arrays


def _write_cases(folder: Path):
    """One batch of synthetic lesions as photographs of 600×450 pixels."""
    import pandas as pd
    from PIL import Image

    from tfseg.data.cases import Cases
    from tfseg.data.phantom import PhantomConfig, draw_phantoms

    folder.mkdir(parents=True)
    rows, top = [], (WIDTH - HEIGHT) // 2
    for number, phantom in enumerate(draw_phantoms(PhantomConfig(images=BATCH, size=150))):
        entry = {"id": str(number), "label": phantom.label, "group": str(number)}
        for kind, pixels, suffix in (("image", phantom.image, "jpg"), ("mask", phantom.mask * np.uint8(255), "png")):
            method = Image.Resampling.BICUBIC if kind == "image" else Image.Resampling.NEAREST
            picture = Image.fromarray(pixels).resize((WIDTH, WIDTH), method)
            picture = picture.crop((0, top, WIDTH, top + HEIGHT))
            entry[kind] = str(folder / f"{kind}{number}.{suffix}")
            picture.save(entry[kind], quality=90)
        rows.append(entry)
    return Cases(pd.DataFrame(rows), folder, name="synthetic lesions")


def _one_warp(augmentation) -> Callable:
    """The same transform by the operation that TensorFlow has for it, once for images and once for masks."""
    import tensorflow as tf

    from tfseg.data.augment import DRAWS, transforms

    def change(batch):
        image, mask = batch["image"], batch["mask"]
        side = image.shape[1]
        matrices = transforms(augmentation, tf.random.uniform((tf.shape(image)[0], DRAWS)), side, side)
        moved = [
            tf.raw_ops.ImageProjectiveTransformV3(
                images=values, transforms=matrices, output_shape=[side, side], fill_value=0.0,
                interpolation=interpolation, fill_mode=augmentation.fill.upper(),
            )
            for values, interpolation in ((image, "BILINEAR"), (mask, "NEAREST"))
        ]  # fmt: skip
        return batch | {"image": moved[0], "mask": moved[1]}

    return change


def _keras(augmentation) -> Callable:
    from keras import layers

    return _one_by_one(layers, augmentation, {})


def _keras_cv(augmentation) -> Callable:
    # No longer developed; not every installation has it.
    from keras_cv import layers

    return _one_by_one(layers, augmentation, {"segmentation_classes": 2})


def _one_by_one(layers, augmentation, rotation: dict) -> Callable:
    import tensorflow as tf

    options = {"fill_mode": augmentation.fill}
    chain = [
        layers.RandomFlip("horizontal_and_vertical"),
        layers.RandomZoom((-augmentation.zoom, augmentation.zoom), **options),
        layers.RandomTranslation(augmentation.shift, augmentation.shift, **options),
        layers.RandomRotation(augmentation.rotation / 360.0, **options, **rotation),
    ]

    def change(batch):
        pair = {"images": batch["image"], "segmentation_masks": batch["mask"]}
        for layer in chain:
            pair = layer(pair, training=True)
        return batch | {"image": pair["images"], "mask": tf.cast(pair["segmentation_masks"], tf.float32)}

    return change


def _watch_training(arrays, steps: int) -> dict:
    """How long the steps of a MobileNetV2 training take, and how long each waits for its batch, in milliseconds."""
    import keras

    from tfseg.data.augment import RECIPES
    from tfseg.data.batches import make_batches
    from tfseg.models.backbones import build_backbone
    from tfseg.models.classifier import build_classifier

    side = arrays.images.shape[1]
    model = build_classifier(build_backbone(BACKBONE, (side, side, 3), None), 3).logits_model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    batches = make_batches(arrays, np.arange(len(arrays)), BATCH, training=True, augmentation=RECIPES["free"])
    iterator, waited, worked = iter(batches), [], []
    for _ in range(steps + 2):
        started = time.perf_counter()
        batch = next(iterator)
        received = time.perf_counter()
        model.train_on_batch({"image": batch["image"]}, batch["label"])
        waited.append((received - started) * 1e3)
        worked.append((time.perf_counter() - received) * 1e3)
    # The first steps compile.
    return {"waited": waited[2:], "worked": worked[2:]}
