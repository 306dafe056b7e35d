"""Pretrained weights in a built network: folded convolutions from a file, and batch norm made fit for training."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tfseg.errors import WeightsError


def load_folded_convolutions(model: keras.Model, path: Path, by_name: bool = False) -> None:
    """Load convolutions into which batch norm was folded, into a network that may have batch norm.

    The file holds ``NAME/kernel`` and ``NAME/bias`` for each convolution; kernels HWIO float32, depthwise ones
    (h, w, channels, 1). Where the file has every layer's name (with ``/`` or ``.`` for ``_``) these count; else the
    order does: that of the names if they are numbered (``NN_name``), or the file's own, which must be that of the
    forward pass. Batch norm becomes the identity plus the bias: gamma = √(1 + ε), beta = bias, mean 0, variance 1. That
    is exact in inference mode; for training see `reestimate_batch_norm`. What the file holds beyond the model's
    convolutions (a classification top) is left unread.

    Args:
        model: built network.
        path: a ``.npz``.
        by_name: refuse to go by the order.

    Raises:
        WeightsError: names the file and the layer when a kernel is missing or has another shape.
    """
    arrays = read_npz(path)
    pairs = convolutions_with_norm(model)
    names = names_in_forward_order(arrays, [convolution.name for convolution, _ in pairs], path, by_name)
    for name, (convolution, norm) in zip(names, pairs, strict=True):
        outputs = convolution.output.shape[-1:]
        for part, shape in (("kernel", tuple(convolution.kernel.shape)), ("bias", outputs)):
            received = arrays[f"{name}/{part}"].shape if f"{name}/{part}" in arrays else "none"
            if received != shape:
                raise WeightsError(f"{path}: layer {convolution.name} expects {name}/{part} {shape}, found {received}")
        kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
        convolution.kernel.assign(kernel)
        if norm is None:
            convolution.bias.assign(bias)
            continue
        norm.gamma.assign(np.full(bias.shape, np.sqrt(1.0 + norm.epsilon), np.float32))
        norm.beta.assign(bias)
        norm.moving_mean.assign(np.zeros_like(bias))
        norm.moving_variance.assign(np.ones_like(bias))


def reestimate_batch_norm(model: keras.Model, images: np.ndarray, batch_size: int = 16) -> None:
    """Give batch norm the statistics of natural images without changing what the network computes.

    Mean and variance become those of what reaches the layer when `images` pass; gamma and beta are changed so that
    the layer's function in inference mode stays the same. With the identity statistics of `load_folded_convolutions`,
    the first training step in training mode would divide by statistics that the weights never saw.

    Args:
        model: built functional network from images in [0, 1].
        images: float32 (N, H, W, 3) in [0, 1] at the model's size; some dozens of natural ones.
        batch_size: how many pass at a time.
    """
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return
    moments = [moment for norm in norms for moment in (ops.mean(norm.input, (1, 2)), ops.var(norm.input, (1, 2)))]
    found = keras.Model(model.input, moments).predict(images, batch_size=batch_size, verbose=0)
    for norm, means, variances in zip(norms, found[::2], found[1::2], strict=True):
        means, variances = means.astype(np.float64), variances.astype(np.float64)
        mean = means.mean(0)
        # Within the images and between them.
        variance = variances.mean(0) + means.var(0)
        slope = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance, np.float64) + norm.epsilon)
        shift = np.asarray(norm.beta) - slope * np.asarray(norm.moving_mean)
        norm.gamma.assign(slope * np.sqrt(variance + norm.epsilon))
        norm.beta.assign(shift + slope * mean)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)


def convolutions_with_norm(model: keras.Model) -> list[tuple[keras.Layer, keras.Layer | None]]:
    """Convolutions in the order of the layers, each with the batch norm that takes its output (or None)."""
    convolution_types = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    norms = {id(layer.input): layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}
    return [(layer, norms.get(id(layer.output))) for layer in model.layers if isinstance(layer, convolution_types)]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` in the file's order.

    Raises:
        WeightsError: when the file is damaged or of another kind.
    """
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(f"{path} is not a readable .npz file: {error}") from error


def names_in_forward_order(arrays, layer_names, path, by_name=False) -> list[str]:
    """The file's names of a model's convolutions; see `load_folded_convolutions` for the rule.

    Args:
        arrays: of the file, with names ``NAME/kernel``.
        layer_names: of the model's convolutions, in the order of the forward pass.
        path: of the file.
        by_name: refuse to go by the order.

    Raises:
        WeightsError: the file has too few convolutions, or not the names that it has to have.
    """
    names = list(dict.fromkeys(name.rpartition("/")[0] for name in arrays if name.endswith("/kernel")))
    known = {name.replace("/", "_").replace(".", "_"): name for name in names}
    missing = [name for name in layer_names if name not in known]
    if not missing:
        return [known[name] for name in layer_names]
    if by_name:
        raise WeightsError(f"{path} holds no kernel for {missing[0]}; it has to name every layer")
    if len(names) < len(layer_names):
        raise WeightsError(f"{path} holds {len(names)} convolutions, the network has {len(layer_names)}")
    if all(name[:1].isdigit() for name in names):
        names = sorted(names)
    return names[: len(layer_names)]
