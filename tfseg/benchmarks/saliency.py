"""What a saliency map costs: beside a forward pass that only classifies, and CEntIoU's step beside cross entropy's."""

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

BACKBONES = ("mobilenet_v2", "efficientnet_b0", "convnext_tiny")
BATCH, CLASSES = 8, 3
FORWARD, MAP, LIBRARY = "forward pass", "with Grad-CAM++ map", "Grad-CAM++ by tf-keras-vis"
STEP, CENTIOU = "cross-entropy step", "CEntIoU step"
# By name: what is divided by what, and the goal; the library stands beside for comparison.
RATIOS = {"map": (MAP, FORWARD, 1.15), "tf-keras-vis": (LIBRARY, FORWARD, None), "CEntIoU": (CENTIOU, STEP, 1.08)}


def benchmark_saliency(
    out: str | Path,
    cores: Sequence[int] = (1, 2),
    repetitions: int = 20,
    command: str = "",
    side: int = 224,
    backbones: Sequence[str] = BACKBONES,
) -> dict:
    """Measure classification with and without a map, and both training steps; ``benchmark.json`` and ``table.md``.

    Costs are processor time of all threads; each repetition does the ways that are compared one after the other, in
    turn forwards and backwards, and gives one ratio. Networks have random weights, which cost the same.

    Args:
        out: folder for the results; new, empty, or of an earlier benchmark.
        cores: numbers of cores to measure on.
        repetitions: of each comparison.
        command: recorded with the results.
        side: of the images, in pixels.
        backbones: names.

    Returns:
        What ``benchmark.json`` holds.

    Raises:
        ConfigError: `cores` or `repetitions` is out of range.
        RunError: `out` holds something else.
    """
    out = prepare(out, cores, repetitions)
    results = on_each(cores, measure, repetitions, side, tuple(backbones))
    settings = {"side": side, "batch": BATCH, "repetitions": repetitions}
    return write_results(out, command, settings, "random images", [summarise(result) for result in results], table)


def measure(cores: int, repetitions: int, side: int, backbones: Sequence[str]) -> dict:
    """All measurements on so many cores; changes the process, and is meant for one of its own.

    Returns:
        ``cores``, and ``values``: by backbone and way, milliseconds of processor time per image of every repetition.
    """
    bind(cores)
    values = {}
    for backbone in backbones:
        ways = _ways(backbone, side)
        for work in ways.values():
            work()
        values[backbone] = {name: [] for name in ways}
        for repetition in range(repetitions):
            for name in list(ways) if repetition % 2 else reversed(ways):
                values[backbone][name].append(spent(ways[name]) / BATCH * 1e3)
    return {"cores": cores, "values": values}


def _ways(backbone: str, side: int) -> dict[str, Callable[[], object]]:
    import keras
    import tensorflow as tf

    from tfseg.layers.saliency import ClassActivationMap
    from tfseg.models.backbones import build_backbone
    from tfseg.models.classifier import build_classifier
    from tfseg.training.centiou import CEntIoUModel

    generator = np.random.default_rng(0)
    image = tf.constant(generator.uniform(size=(BATCH, side, side, 3)), tf.float32)
    labels = np.arange(BATCH, dtype=np.int32) % CLASSES
    lesion = np.zeros((BATCH, side, side, 1), np.float32)
    lesion[:, side // 4 : side // 2, side // 4 : side // 2] = 1.0
    targets = {"label": labels, "lesion": lesion, "valid": np.ones_like(lesion)}

    def classifier():
        return build_classifier(build_backbone(backbone, (side, side, 3)), CLASSES)

    shown_one = classifier()
    features, head = shown_one.features, shown_one.head
    explain = ClassActivationMap(head, (side, side), "grad_cam_plus_plus")
    plain = tf.function(lambda: head(features(image, training=False), training=False))
    mapped = tf.function(lambda: explain(features(image, training=False)))
    trained, overlapping = classifier().logits_model(), CEntIoUModel(classifier())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    overlapping.compile("adam", jit_compile=False)
    ways = {
        FORWARD: lambda: plain().numpy(),
        MAP: lambda: mapped()["saliency"].numpy(),
        STEP: lambda: trained.train_on_batch({"image": image}, labels),
        CENTIOU: lambda: overlapping.train_on_batch(image, targets),
    }
    try:
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
        from tf_keras_vis.utils.scores import CategoricalScore
    except ImportError:
        return ways
    library = GradcamPlusPlus(keras.Model(features.input, head(features.output)), clone=False)
    score, last = CategoricalScore(labels.tolist()), features.layers[-1].name
    ways[LIBRARY] = lambda: library(score, image, penultimate_layer=last, seek_penultimate_conv_layer=False)
    return ways


def summarise(result: dict) -> dict:
    """Medians with 95 % intervals of what `measure` gives, ratios by repetition, and the goals."""
    backbones = {}
    for backbone, values in result["values"].items():
        ratios = {
            name: median(np.array(values[above]) / np.array(values[below]))
            for name, (above, below, _) in RATIOS.items()
            if above in values
        }
        met = {name: bool(ratios[name]["median"] <= goal) for name, (_, _, goal) in RATIOS.items() if goal}
        milliseconds = {name: median(numbers) for name, numbers in values.items()}
        backbones[backbone] = {"ms_per_image": milliseconds, "ratios": ratios, "goals": met}
    return {"cores": result["cores"], "backbones": backbones}


def table(record: dict) -> str:
    """The results as Markdown, a table for each number of cores."""
    lines = preface(record, "image of")
    for one in record["cores"]:
        backbones = one["backbones"]
        lines += head(counted(one["cores"]), *backbones)
        for name in (FORWARD, MAP, LIBRARY, STEP, CENTIOU):
            lines.append(line(name, *(_cell(found["ms_per_image"], name, " ms") for found in backbones.values())))
        for name, (above, below, goal) in RATIOS.items():
            ratio = f"{above} : {below}"
            lines.append(line(ratio, *(_cell(found["ratios"], name) for found in backbones.values())))
            if goal:
                words = ["met" if found["goals"][name] else "missed" for found in backbones.values()]
                lines.append(line(f"goal ≤ {goal}", *words))
        lines.append("")
    return "\n".join(lines)


def _cell(values: dict, name: str, unit: str = "") -> str:
    return shown(values[name], unit) if name in values else "not installed"
