"""What SE-LCN's one graph costs, beside the plain forward passes of the three networks in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tfseg.benchmarks.process import bind, counted, head, line, median, on_each, prepare, shown, spent, write_results

CLASSES, SYMMETRY = tuple("abcdefg"), ("asymmetric", "symmetric")
PARTS = ("segmenter", "symmetry network", "classifier")
NETWORKS, HAIR = "the three networks", "hair removal alone"
# What the classifier and the symmetry network see: the classifier's approach, and the symmetry network's mask.
VARIANTS = {"whole images": ("se_lcn", None), "masked images": ("se_lcn_hard_mask", "lesion_area")}
GOAL = 1.15


@dataclass(frozen=True)
class Setup:
    """Three networks to measure.

    Args:
        side: of the images, in pixels.
        batches: numbers of images that are worked on at a time.
        segmenter: a name out of `tfseg.models.segmenters.SEGMENTERS`.
        options: of the segmenter.
        symmetry, classifier: names of backbones.
    """

    side: int
    batches: tuple[int, ...] = (1, 16)
    segmenter: str = "unet"
    options: dict = field(default_factory=lambda: {"width": 16, "encoder": "mobilenet_v2"})
    symmetry: str = "squeezenet_1_1"
    classifier: str = "mobilenet_v2"

    @property
    def name(self) -> str:
        """The networks and the side of the images, for a table."""
        segmenter = "/".join(filter(None, (self.segmenter, self.options.get("encoder"))))
        return f"{segmenter} + {self.symmetry} + {self.classifier}, {self.side}²"


SETUPS = (
    Setup(128),
    Setup(224),
    # The thesis's networks. Sixteen images at a time take too long for twenty repetitions.
    Setup(256, (1,), "deeplab_v3_plus", {"encoder": "resnet50"}, "squeezenet_1_0", "efficientnet_b4"),
)


def benchmark_cascade(
    out: str | Path,
    cores: Sequence[int] = (1, 2),
    repetitions: int = 20,
    command: str = "",
    setups: Sequence[Setup] = SETUPS,
) -> dict:
    """Measure the cascade and its networks one by one; ``benchmark.json`` and ``table.md``.

    The graph gives the mask, both classifications and both maps; its decision the classifier's probabilities alone,
    for which the graph on whole images needs no segmenter. The networks give their logits, each in a graph of its own.
    Costs are processor time of all threads; each repetition does all of it one after the other, in turn forwards and
    backwards, and gives one ratio. Networks have random weights, which cost the same.

    Args:
        out: folder for the results; new, empty, or of an earlier benchmark.
        cores: numbers of cores to measure on.
        repetitions: of each measurement, interleaved with the others.
        command: recorded with the results.
        setups: what is measured.

    Returns:
        What ``benchmark.json`` holds.

    Raises:
        ConfigError: `cores` or `repetitions` is out of range.
        RunError: `out` holds something else.
    """
    out = prepare(out, cores, repetitions)
    results = on_each(cores, measure, repetitions, tuple(setups))
    settings = {"setups": [asdict(setup) for setup in setups], "repetitions": repetitions}
    return write_results(out, command, settings, "random images", [summarise(result) for result in results], table)


def measure(cores: int, repetitions: int, setups: Sequence[Setup]) -> dict:
    """All measurements on so many cores; changes the process, and is meant for one of its own.

    Returns:
        ``cores``; and ``values``: by setup's name, batch and way, milliseconds of processor time per image of every
        repetition.
    """
    bind(cores)
    values = {}
    for setup in setups:
        built, found = _build(setup), {}
        for batch in setup.batches:
            ways = _ways(built, setup.side, batch)
            for work in ways.values():
                work()
            found[batch] = {name: [] for name in ways}
            for repetition in range(repetitions):
                for name in list(ways) if repetition % 2 else reversed(ways):
                    found[batch][name].append(spent(ways[name]) / batch * 1e3)
        values[setup.name] = found
    return {"cores": cores, "values": values}


def _build(setup: Setup) -> dict[str, Callable]:
    """By way, what takes an image (B, side, side, 3) through it."""
    from tfseg.layers.hair import HairRemoval
    from tfseg.models.backbones import build_backbone
    from tfseg.models.cascade import Enhanced, SymmetryNetwork, build_enhanced, cascade_graph
    from tfseg.models.classifier import build_classifier, decision_graph, explained
    from tfseg.models.segmenters import build_segmenter

    shape = (setup.side, setup.side, 3)
    segmenter = build_segmenter(setup.segmenter, shape, **setup.options)
    symmetry = build_classifier(build_backbone(setup.symmetry, shape), len(SYMMETRY))
    classifier = build_classifier(build_backbone(setup.classifier, shape), len(CLASSES))
    looked, told = symmetry.logits_model(), classifier.logits_model()
    ways = {
        PARTS[0]: lambda image: segmenter(image, training=False),
        PARTS[1]: lambda image: looked({"image": image}, training=False),
        PARTS[2]: lambda image: told({"image": image}, training=False),
    }
    # The graph has the weights of the plain classifier, and an E-Layer.
    enhancement = build_enhanced(classifier.features, len(CLASSES), setup.side).enhancement
    enhanced = Enhanced(classifier.features, enhancement, classifier.head)
    features, explain = explained(symmetry, "grad_cam_plus_plus")
    for variant, (approach, mask) in VARIANTS.items():
        network = SymmetryNetwork(features, explain, SYMMETRY, mask)
        graph = cascade_graph(enhanced, CLASSES, approach, segmenter, symmetry=network)
        ways |= {whole(variant): partial(graph, training=False)}
        ways |= {decision(variant): partial(decision_graph(graph), training=False)}
    return ways | {HAIR: HairRemoval()}


def _ways(built: dict[str, Callable], side: int, batch: int) -> dict[str, Callable[[], object]]:
    import tensorflow as tf

    image = tf.constant(np.random.default_rng(0).uniform(size=(batch, side, side, 3)), tf.float32)

    def way(model):
        run = tf.function(lambda: model(image))
        return lambda: tf.nest.map_structure(lambda values: values.numpy(), run())

    ways = {name: way(model) for name, model in built.items()}
    # In one measurement, because each has the same small cost of its own.
    ways[NETWORKS] = lambda: [ways[part]() for part in PARTS]
    return ways


def whole(variant: str) -> str:
    """The way that gives all outputs of the graph."""
    return f"one graph, {variant}"


def decision(variant: str) -> str:
    """The way that gives the graph's probabilities alone."""
    return f"its decision alone, {variant}"


def summarise(result: dict) -> dict:
    """Medians with 95 % intervals of what `measure` gives, ratios to the three networks by repetition, goals."""
    setups = {}
    for name, found in result["values"].items():
        setups[name] = {str(batch): _summary(values) for batch, values in found.items()}
    return {"cores": result["cores"], "setups": setups}


def _summary(values: dict) -> dict:
    networks = np.array(values[NETWORKS])
    ways = [way(variant) for way in (whole, decision) for variant in VARIANTS]
    ratios = {name: median(np.array(values[name]) / networks) for name in ways}
    rows = [*PARTS, NETWORKS, *ways, HAIR]
    return {
        "ms_per_image": {name: median(values[name]) for name in rows},
        "ratios": ratios,
        "goals": {name: bool(ratios[name]["median"] <= GOAL) for name in map(whole, VARIANTS)},
    }


def table(record: dict) -> str:
    """The results as Markdown, a table for each setup and number of cores."""
    lines = [
        f"Command: `{record['command']}`",
        "",
        f"Processor time per image; median of {record['settings']['repetitions']} interleaved repetitions and its "
        "95 % interval.",
        "",
    ]
    for one in record["cores"]:
        for name, found in one["setups"].items():
            lines += head(f"{name}, {counted(one['cores'])}", *(f"batches of {batch}" for batch in found))
            batches = list(found.values())
            for row in batches[0]["ms_per_image"]:
                lines.append(line(row, *(shown(values["ms_per_image"][row], " ms") for values in batches)))
            for row in batches[0]["ratios"]:
                lines.append(line(f"{row} : {NETWORKS}", *(shown(values["ratios"][row]) for values in batches)))
                if row in batches[0]["goals"]:
                    words = ["met" if values["goals"][row] else "missed" for values in batches]
                    lines.append(line(f"goal ≤ {GOAL}", *words))
            lines.append("")
    return "\n".join(lines)
