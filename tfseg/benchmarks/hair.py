"""What hair removal costs, and what it gives back of images whose hairs were drawn on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tfseg.benchmarks.process import (
    bind,
    counted,
    head,
    line,
    median,
    on_each,
    preface,
    prepare,
    shown,
    spent,
    write_results,
)

BATCH, QUALITY_IMAGES = 16, 32
PLAIN, LAYER, REFERENCE = "plain pass of the image", "hair removal in the graph", "OpenCV, image by image"
NOTHING = "no removal"
GOAL = 3.0


def benchmark_hair(
    out: str | Path, cores: Sequence[int] = (1, 2), repetitions: int = 20, command: str = "", side: int = 224
) -> dict:
    """Measure the layer beside a pass that only inverts the image, and beside OpenCV; ``benchmark.json``, ``table.md``.

    Costs are processor time of all threads, on synthetic lesions with drawn hairs; each repetition does the ways one
    after the other. The quality is that of 32 such images, against themselves before hairs were drawn.

    Args:
        out: folder for the results; new, empty, or of an earlier benchmark.
        cores: numbers of cores to measure on.
        repetitions: of each measurement, interleaved with the others.
        command: recorded with the results.
        side: of the images, in pixels.

    Returns:
        What ``benchmark.json`` holds.

    Raises:
        ConfigError: `cores` or `repetitions` is out of range.
        RunError: `out` holds something else.
    """
    out = prepare(out, cores, repetitions)
    results = on_each(cores, measure, repetitions, side)
    settings = {"side": side, "batch": BATCH, "repetitions": repetitions, "quality_images": QUALITY_IMAGES}
    return write_results(out, command, settings, "synthetic lesions", [summarise(result) for result in results], table)


def measure(cores: int, repetitions: int, side: int) -> dict:
    """All measurements on so many cores; changes the process, and is meant for one of its own.

    Returns:
        ``cores``; ``values``: by way, milliseconds of processor time per image of every repetition; ``quality``: see
        `quality`.
    """
    import cv2

    bind(cores)
    cv2.setNumThreads(cores)
    images = drawn_images(QUALITY_IMAGES, side)
    ways = _ways(images[1][:BATCH])
    for work in ways.values():
        work()
    values: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, work in ways.items():
            values[name].append(spent(work) / BATCH * 1e3)
    return {"cores": cores, "values": values, "quality": quality(*images)}


def drawn_images(count: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Synthetic lesions without and with drawn hairs, uint8 (N, side, side, 3), and where these are, bool."""
    from tfseg.data.hair import draw_hair
    from tfseg.data.phantom import PhantomConfig, draw_phantoms

    rng = np.random.default_rng(0)
    config = PhantomConfig(images=count, size=side, hairs=0.0)
    clean = [phantom.image for phantom in draw_phantoms(config)]
    hairy, masks = zip(*(draw_hair(image, rng) for image in clean), strict=True)
    return np.stack(clean), np.stack(hairy), np.stack(masks)


def _ways(hairy: np.ndarray) -> dict[str, Callable[[], object]]:
    import tensorflow as tf

    from tfseg.data.hair import remove_hair
    from tfseg.layers.hair import HairRemoval

    image, layer = tf.constant(hairy, tf.float32) / 255.0, HairRemoval()
    plain = tf.function(lambda values: 1.0 - values)
    removed = tf.function(layer)
    return {
        PLAIN: lambda: plain(image),
        LAYER: lambda: removed(image),
        REFERENCE: lambda: [remove_hair(one) for one in hairy],
    }


def quality(clean: np.ndarray, hairy: np.ndarray, masks: np.ndarray) -> dict[str, dict[str, float]]:
    """How near the images without hairs are to what they were before hairs were drawn.

    Args:
        clean, hairy: uint8 (N, H, W, 3).
        masks: the hairs, bool (N, H, W).

    Returns:
        By way, in decibels: ``inside`` and ``outside``, the mean PSNR of the pixels that hairs cover and of the
        others; ``hairless``, the median PSNR of what the way makes of the clean images, 120 at the most.
    """
    import tensorflow as tf

    from tfseg.data.hair import remove_hair
    from tfseg.layers.hair import HairRemoval

    layer = HairRemoval()

    def in_the_graph(images):
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        return np.concatenate([layer(tf.constant(batch, tf.float32) / 255.0).numpy() * 255.0 for batch in batches])

    ways = {
        NOTHING: lambda images: images,
        REFERENCE: lambda images: np.stack([remove_hair(image)[0] for image in images]),
        LAYER: in_the_graph,
    }
    found = {}
    for name, way in ways.items():
        removed, without = way(hairy), way(clean)
        found[name] = {
            "inside": float(np.mean(list(map(psnr, removed, clean, masks)))),
            "outside": float(np.mean(list(map(psnr, removed, clean, ~masks)))),
            "hairless": float(np.median(list(map(psnr, without, clean, np.ones_like(masks))))),
        }
    return found


def psnr(image: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Peak signal-to-noise ratio of whole numbers of 255 over the chosen pixels in decibels, 120 at the most.

    Args:
        image, truth: (H, W, 3) in [0, 255].
        where: bool (H, W).
    """
    error = np.square(image.astype(np.float64) - truth)[where].mean()
    return float(min(10.0 * np.log10(255.0**2 / max(error, 1e-9)), 120.0))


def summarise(result: dict) -> dict:
    """Medians with 95 % intervals of what `measure` gives, what the layer adds to the plain pass, and the goal."""
    values = {name: np.array(numbers) for name, numbers in result["values"].items()}
    added = median(values[LAYER] - values[PLAIN])
    return {
        "cores": result["cores"],
        "ms_per_image": {name: median(numbers) for name, numbers in values.items()},
        "added_ms_per_image": added,
        "quality_db": result["quality"],
        "goals": {f"added ≤ {GOAL:g} ms": bool(added["median"] <= GOAL)},
    }


def table(record: dict) -> str:
    """The results as Markdown: costs with a column per number of cores, and the quality."""
    cores = record["cores"]
    lines = preface(record, "image of") + head("cost", *(counted(one["cores"]) for one in cores))
    for name in cores[0]["ms_per_image"]:
        lines.append(line(name, *(shown(one["ms_per_image"][name], " ms") for one in cores)))
    lines.append(line("added to the plain pass", *(shown(one["added_ms_per_image"], " ms") for one in cores)))
    for goal in cores[0]["goals"]:
        lines.append(line(f"goal: {goal}", *("met" if one["goals"][goal] else "missed" for one in cores)))
    count = record["settings"]["quality_images"]
    lines += ["", *head(f"PSNR, {count} images", "inside the hairs", "outside", "images without hairs (median)")]
    for name, decibels in cores[0]["quality_db"].items():
        lines.append(line(name, *(f"{decibels[key]:.1f} dB" for key in ("inside", "outside", "hairless"))))
    return "\n".join(lines) + "\n"
