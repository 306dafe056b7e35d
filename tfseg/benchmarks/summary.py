"""Medians, ratios and goals of the pipeline's measurements, and their table."""

from __future__ import annotations

import numpy as np

from tfseg.benchmarks.process import counted, head, line, median, preface, shown

FLOOR, MEMORY, DISK, OURS = "decode and resize", "from memory", "from the disk cache", "from memory, augmented"
EVERYTHING = "from memory, augmented, with colours and background swap"
ONE_WARP, KERAS_CV, KERAS = "one warp by TensorFlow's operation", "keras_cv layers", "Keras preprocessing layers"


def summarise(result: dict) -> dict:
    """Medians with 95 % intervals of what `measure` gives, ratios by repetition, and the goals."""
    values = {name: np.array(numbers) for name, numbers in result["values"].items()}
    added = {OURS: "augmentation", EVERYTHING: "augmentation with colours and background swap"}
    added |= {ONE_WARP: ONE_WARP, KERAS_CV: KERAS_CV, KERAS: KERAS}
    alone = {label: values[name] - values[MEMORY] for name, label in added.items() if name in values}
    ours = alone["augmentation"]
    ratios = {f"{name} : augmentation": alone[name] / ours for name in (ONE_WARP, KERAS_CV, KERAS) if name in alone}
    for name in (MEMORY, DISK):
        ratios[f"first epoch : later epochs {name}"] = (values[FLOOR] + values[name]) / values[name]
    waited, worked = (np.array(result["training"][name]) for name in ("waited", "worked"))
    summary = {
        "cores": result["cores"],
        "ms_per_image": {name: median(numbers) for name, numbers in values.items()},
        "added_ms_per_image": {name: median(numbers) for name, numbers in alone.items()},
        "ratios": {name: median(numbers) for name, numbers in ratios.items()},
        "training": {
            "step_ms": median(worked),
            "wait_ms": median(waited),
            "longest_wait_ms": waited.max(),
            "waited_share": waited.sum() / (waited.sum() + worked.sum()),
        },
        "missing": result["missing"],
    }
    cached = f"first epoch : later epochs {DISK}"
    goals = {
        "augmentation ≤ 0.8 ms per pair": summary["added_ms_per_image"]["augmentation"]["median"] <= 0.8,
        "≥ 3 times faster than keras_cv": None
        if KERAS_CV in result["missing"]
        else summary["ratios"][f"{KERAS_CV} : augmentation"]["median"] >= 3.0,
        "later epochs from the cache ≥ 2.5 times faster": summary["ratios"][cached]["median"] >= 2.5,
        "training waits for data < 1 % of the time": summary["training"]["waited_share"] < 0.01,
    }
    summary["goals"] = {name: met if met is None else bool(met) for name, met in goals.items()}
    return summary


def table(record: dict) -> str:
    """The results as Markdown, a column per number of cores."""
    cores = record["cores"]
    width, height = record["settings"]["image"]
    lines = preface(record, f"image–mask pair, from JPEG files of {width}×{height} to")
    names = [counted(one["cores"]) for one in cores]

    def section(title: str, key: str, unit: str) -> None:
        lines.extend(head(title, *names))
        for name in cores[0][key]:
            lines.append(line(name, *(shown(one[key][name], unit) for one in cores)))
        for name, why in cores[0]["missing"].items():
            lines.append(line(name, *[why] * len(cores)))
        lines.append("")

    section("delivered", "ms_per_image", " ms")
    section("added to the delivery from memory", "added_ms_per_image", " ms")
    section("ratio of processor times", "ratios", "")
    for name, training in ((name, one["training"]) for name, one in zip(names, cores, strict=True)):
        lines.append(
            f"MobileNetV2 training on {name} (wall time): step {training['step_ms']['median']:.0f} ms, wait for its "
            f"batch {training['wait_ms']['median']:.2f} ms, longest {training['longest_wait_ms']:.2f} ms; "
            f"{100 * training['waited_share']:.2f} % of the time waited."
        )
    lines += ["", *head("goal", *names)]
    words = {True: "met", False: "missed", None: "not measured"}
    for goal in cores[0]["goals"]:
        lines.append(line(goal, *(words[one["goals"][goal]] for one in cores)))
    return "\n".join(lines) + "\n"
