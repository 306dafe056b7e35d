"""The same images through Keras, the SavedModel and LiteRT: an export that disagrees is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfseg.errors import ExportError
from tfseg.export.predictor import KerasPredictor, load_predictor

BYTES_IMAGES = 4
SALIENCY = ("saliency", "saliency_mask", "saliency_symmetry")
# Of an unfamiliarity, as a multiple of the tolerance of a probability.
RELATIVE = 10


def check_parity(
    model: keras.Model,
    images: np.ndarray,
    saved_model: str | Path | None = None,
    litert: str | Path | None = None,
    tolerance: float = 1e-4,
    saliency_tolerance: float = 1e-2,
    batch_size: int = 16,
) -> dict:
    """Compare exported models with the Keras model that they were made from.

    Args:
        model: the inference graph.
        images: uint8 (N, S, S, 3) at the model's size, N at least 1. Real ones: on noise everything agrees.
        saved_model, litert: the exports to check; what is None is left out.
        tolerance: largest absolute difference of ``probabilities`` and ``mask``. An ``unfamiliarity`` has no unit: its
            largest difference is taken relative to the Keras model's, and ten times the tolerance is allowed.
        saliency_tolerance: the same for ``saliency`` and ``saliency_mask``, which are divided by their own maximum and
            so magnify rounding where a map is nearly empty: reported, never a reason to refuse.
        batch_size: images per call. The last batch may be smaller, so two batch sizes are tried.

    Returns:
        A report of plain values: ``images``, ``tolerance``, ``passed``, ``problems`` (list of str), and for each of
        ``saved_model``, ``saved_model_bytes`` and ``litert`` that was checked: the largest difference per output under
        ``max_difference``, ``argmax_agreement`` in [0, 1] (None for a segmenter alone),
        ``saliency_within_tolerance`` (None where there is none).

    Raises:
        ValueError: on images of another shape or type, or when there is nothing to check.
        ExportError: when ``probabilities``, ``mask`` or ``unfamiliarity`` differ by more than is allowed, an output is
            missing or anything isn't finite. Its attribute ``report`` is the report.
    """
    if saved_model is None and litert is None:
        raise ValueError("nothing to compare: give `saved_model`, `litert` or both")
    report: dict = {"images": len(images), "tolerance": tolerance, "saliency_tolerance": saliency_tolerance}
    problems: list[str] = []
    with _full_float32():
        reference = _predict(KerasPredictor(model), images, batch_size)
        problems += [f"keras: {name} holds NaN or infinity" for name in _not_finite(reference)]

        def compare(kind, expected, received):
            report[kind] = _differences(expected, received, saliency_tolerance)
            problems.extend(f"{kind}: {text}" for text in _refusals(expected, received, report[kind], tolerance))

        if saved_model is not None:
            served = load_predictor(saved_model)
            from_images = _predict(served, images, batch_size)
            compare("saved_model", reference, from_images)
            few = images[:BYTES_IMAGES]
            files = [tf.io.encode_png(image).numpy() for image in few]
            from_bytes = {name: value[: len(few)] for name, value in from_images.items()}
            compare("saved_model_bytes", from_bytes, served.predict_bytes(files))
        if litert is not None:
            compare("litert", reference, _predict(load_predictor(litert), images, batch_size))
    report |= {"passed": not problems, "problems": problems}
    if problems:
        error = ExportError(f"the export disagrees with the model: {'; '.join(problems)}\n{json.dumps(report)}")
        error.report = report
        raise error
    return report


def _predict(predictor, images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    batches = [predictor.predict(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
    if not batches:
        raise ValueError("`images` must hold at least one image, received none")
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _not_finite(outputs: dict[str, np.ndarray]) -> list[str]:
    return [name for name, value in outputs.items() if not np.isfinite(value).all()]


def _differences(expected: dict, received: dict, saliency_tolerance: float) -> dict:
    same = [name for name in expected if name in received and expected[name].shape == received[name].shape]
    largest = {name: float(_difference(name, expected[name], received[name]).max()) for name in same}
    maps = [largest[name] for name in SALIENCY if name in largest]
    agreement = None
    if "probabilities" in same:
        chosen = [outputs["probabilities"].argmax(-1) for outputs in (expected, received)]
        agreement = float((chosen[0] == chosen[1]).mean())
    return {
        "max_difference": largest,
        "argmax_agreement": agreement,
        "saliency_within_tolerance": max(maps) <= saliency_tolerance if maps else None,
    }


def _difference(name: str, expected: np.ndarray, received: np.ndarray) -> np.ndarray:
    difference = np.abs(expected - received)
    return difference / np.maximum(np.abs(expected), 1e-6) if name == "unfamiliarity" else difference


def _refusals(expected: dict, received: dict, differences: dict, tolerance: float) -> Iterator[str]:
    for name, value in expected.items():
        if name not in received:
            yield f"{name} is missing"
        elif received[name].shape != value.shape:
            yield f"{name} has shape {received[name].shape} and not {value.shape}"
        elif not np.isfinite(received[name]).all():
            yield f"{name} holds NaN or infinity"
        elif name not in SALIENCY:
            allowed = RELATIVE * tolerance if name == "unfamiliarity" else tolerance
            if not differences["max_difference"][name] <= allowed:
                yield f"{name} differs by {differences['max_difference'][name]:.3g}, more than {allowed:g}"


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    # On recent GPUs TensorFlow rounds the inputs of float32 products to 10 bits (TF32): a difference of the device,
    # not of the export, and ten times the tolerance.
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(enabled)
