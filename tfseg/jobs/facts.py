"""What the records keep of a training and of a model beside their scores: epochs, seconds, weights, latency."""

from __future__ import annotations

import time

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfseg.data.batches import CaseArrays
from tfseg.data.decode import to_model_input
from tfseg.evaluation.postprocess import flip_average
from tfseg.layers.unfamiliarity import Unfamiliarity
from tfseg.names import Flips


def training_facts(history: pd.DataFrame, monitor: str, mode: str) -> dict:
    """Epochs, seconds, and the epoch that `monitor` chose as the lowest (`mode` "min") or the highest ("max")."""
    if history.empty:
        return {"epochs": 0, "train_seconds": 0.0, "seconds_per_epoch": 0.0}
    chosen = history[monitor].idxmin() if mode == "min" else history[monitor].idxmax()
    memory = {"peak_memory_mb": float(history["peak_memory_mb"].max())} if "peak_memory_mb" in history else {}
    return memory | {
        "epochs": len(history),
        "best_epoch": int(history["epoch"][chosen]),
        "train_seconds": float(history["seconds"].sum()),
        "seconds_per_epoch": float(history["seconds"].median()),
    }


def model_facts(model: keras.Model, arrays: CaseArrays, flips: Flips = "none") -> dict:
    """Parameters, and the median time of one image with its `flips` over 20 times after 3 to warm up."""
    image, times = to_model_input(arrays.images[:1]), []
    # A graph that is given its masks takes them beside the image.
    inputs = model.input if isinstance(model.input, dict) else {}
    given = {name: tf.ones((1, *value.shape[1:])) for name, value in inputs.items() if name != "image"}
    call = tf.function(lambda image: model({"image": image, **given} if given else image, training=False))
    for _ in range(23):
        started = time.perf_counter()
        if flips == "none":
            keras.tree.map_structure(lambda value: value.numpy(), call(image))
        else:
            flip_average(lambda images: call(images)["mask"], image.numpy(), flips)
        times.append(time.perf_counter() - started)
    # What was measured of the training cases is no part of the network.
    measured = sum(layer.count_params() for layer in model.layers if isinstance(layer, Unfamiliarity))
    return {"parameters": model.count_params() - measured, "latency_ms": 1000 * float(np.median(times[3:]))}
