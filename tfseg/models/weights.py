"""Reading pretrained weights from files that aren't Keras's own."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np

from tfseg.errors import WeightsError


def load_folded_convolutions(model: keras.Model, path: Path) -> None:
    """Load convolutions into which batch norm was folded, into a network that has batch norm.

    The file holds ``NN_name/kernel`` and ``NN_name/bias`` for each convolution in forward order; kernels HWIO
    float32, depthwise ones (h, w, channels, 1). Batch norm becomes the identity plus the bias: gamma = √(1 + ε),
    beta = bias, mean 0, variance 1. That is exact in inference mode; training must keep these layers there. What
    the file holds beyond the model's convolutions (a classification top) is left unread.

    Raises:
        WeightsError: names the file and the layer when a kernel is missing or has another shape.
    """
    arrays = _read_arrays(path)
    names = sorted({name.rpartition("/")[0] for name in arrays if name.endswith("/kernel")})
    pairs = _convolutions_with_norm(model)
    if len(names) < len(pairs):
        raise WeightsError(f"{path} holds {len(names)} convolutions, the network has {len(pairs)}")
    for name, (convolution, norm) in zip(names, pairs, strict=False):
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


def _read_arrays(path):
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(f"{path} is not a readable .npz file: {error}") from error


def _convolutions_with_norm(model):
    """Convolutions in the order of the layers, each with the batch norm that follows it (or None)."""
    convolution_types = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    pairs = []
    for layer in model.layers:
        if isinstance(layer, convolution_types):
            pairs.append((layer, None))
        elif isinstance(layer, keras.layers.BatchNormalization) and pairs:
            pairs[-1] = (pairs[-1][0], layer)
    return pairs
