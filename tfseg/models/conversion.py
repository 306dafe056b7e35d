"""Published weights of SqueezeNet and ShuffleNetV2 → a ``.weights.h5`` of ours, checked layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from tfseg.errors import WeightsError
from tfseg.models.backbones import build_backbone
from tfseg.models.backbones.blocks import IMAGENET_MEAN, IMAGENET_STD
from tfseg.models.backbones.squeezenet import BGR_MEAN
from tfseg.models.weight_files import read_weights
from tfseg.models.weights import convolutions_with_norm, names_in_forward_order

CONVERTIBLE = ("squeezenet_1_0", "squeezenet_1_1", "shufflenet_v2", "shufflenet_v2_x0_5")
TOLERANCE = 1e-4
CHECK_SHAPE = (64, 64, 3)
# Where torchvision's `features` keep fire 2 to 9.
FIRES = {"squeezenet_1_0": (3, 4, 5, 7, 8, 9, 10, 12), "squeezenet_1_1": (3, 4, 6, 7, 9, 10, 11, 12)}


@dataclass(frozen=True)
class SourceConvolution:
    """A convolution as it was published.

    Args:
        kernel: (outputs, inputs per group, height, width).
        bias: (outputs,) or None.
        norm: gamma, beta, mean and variance of the batch norm behind it, each (outputs,), or None.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    norm: tuple[np.ndarray, ...] | None = None


def convert_weights(path: str | Path, backbone: str, out: str | Path, trained_with: str = "auto") -> float:
    """Convert a weights file and compare every layer of the result with a plain convolution by the source.

    Args:
        path: ``.caffemodel``, ``.npz``, ``.pth``, ``.pt`` or ``.safetensors``.
        backbone: a name out of `CONVERTIBLE`.
        out: the ``.weights.h5`` to write.
        trained_with: what a SqueezeNet expects: ``"caffe"`` (BGR in [0, 255] minus its mean), ``"torch"``
            (standardised RGB), or ``"auto"`` by the kind of the file.

    Returns:
        The largest difference, relative to the largest output of its layer.

    Raises:
        WeightsError: a file that can't be read or does not fit, a difference above 1e-4 (nothing is written then), or
            an `out` that can't be written.
    """
    path, out = Path(path), Path(out)
    if backbone not in CONVERTIBLE:
        raise WeightsError(f"weights of {backbone} can't be converted, only those of {', '.join(CONVERTIBLE)}")
    if not out.name.endswith(".weights.h5"):
        raise WeightsError(f"`out` must end in .weights.h5, received {out}")
    model = build_backbone(backbone, CHECK_SHAPE)
    sources, torch_input = _sources(path, backbone, model)
    if backbone.startswith("shufflenet"):
        if trained_with == "caffe":
            raise WeightsError(f"{backbone} has PyTorch's normalisation inside; weights of Caffe's can't be converted")
        torch_input = True
    elif trained_with != "auto":
        torch_input = trained_with == "torch"
    _assign(model, _for_our_input(sources, backbone, torch_input), path)
    # Keras insists on the whole suffix, so the temporary name differs in front.
    partial = out.with_name(f".partial-{out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        model.save_weights(partial)
        difference = largest_difference(build_backbone(backbone, CHECK_SHAPE, str(partial)), sources, torch_input)
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"{path}: the converted {backbone} differs from the source by {difference:.1e}, at most {TOLERANCE:g} "
                "is allowed; nothing was written"
            )
        partial.replace(out)
    except OSError as error:
        raise WeightsError(f"{out} can't be written: {error}") from error
    finally:
        if partial.is_file():
            partial.unlink()
    return difference


def largest_difference(model: keras.Model, sources: dict[str, SourceConvolution], torch_input: bool) -> float:
    """The model's layers on random input against direct convolutions by the published numbers.

    The first layer is compared from the image on, so that what happens to the image is compared too; each other one
    with its batch norm.

    Args:
        model: of `build_backbone`.
        sources: by the name of the model's layer.
        torch_input: whether the source expects standardised RGB, else what Caffe feeds.
    """
    generator = np.random.default_rng(0)
    largest = 0.0
    for layer, norm in convolutions_with_norm(model):
        source = sources[layer.name]
        if layer.name.startswith("conv1"):
            inputs = generator.uniform(size=(1, *model.input_shape[1:])).astype(np.float32)
            ours = keras.Model(model.input, layer.output)(inputs)
            inputs = standardise(inputs) if torch_input else caffe_input(inputs)
        else:
            inputs = generator.normal(size=(1, 9, 9, layer.input.shape[-1])).astype(np.float32)
            ours = layer(inputs)
        # ShuffleNet pads in a layer of its own, which only the first layer's check runs through.
        padded = layer.padding == "same" or layer.name == "conv1_0"
        ours = ours if norm is None else norm(ours, training=False)
        expected = convolve(inputs, source, layer.strides[0], source.kernel.shape[-1] // 2 if padded else 0)
        scale = max(np.abs(expected).max(), 1e-12)
        largest = max(largest, float(np.abs(np.asarray(ours) - expected).max() / scale))
    return largest


def convolve(inputs: np.ndarray, source: SourceConvolution, stride: int, padding: int) -> np.ndarray:
    """Convolution by its definition, with its batch norm: (B, H, W, inputs) → (B, h, w, outputs), in float64."""
    inputs = np.pad(inputs.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    outputs, per_group, height, width = source.kernel.shape
    patches = np.lib.stride_tricks.sliding_window_view(inputs, (height, width), (1, 2))[:, ::stride, ::stride]
    groups = inputs.shape[-1] // per_group
    patches = patches.reshape(*patches.shape[:3], groups, per_group, height, width)
    kernel = source.kernel.astype(np.float64).reshape(groups, outputs // groups, per_group, height, width)
    result = np.einsum("bhwgcij,gocij->bhwgo", patches, kernel).reshape(*patches.shape[:3], outputs)
    if source.bias is not None:
        result = result + source.bias
    if source.norm is not None:
        gamma, beta, mean, variance = source.norm
        result = (result - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    return result


def standardise(image: np.ndarray) -> np.ndarray:
    """What networks trained in PyTorch are fed, from RGB in [0, 1]."""
    return (image - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)


def caffe_input(image: np.ndarray) -> np.ndarray:
    """What networks trained in Caffe are fed, from RGB in [0, 1]."""
    return 255.0 * image[..., ::-1] - np.array(BGR_MEAN)


def _sources(path, backbone, model):
    """The file's convolutions by our layers' names, and whether PyTorch wrote it."""
    arrays = read_weights(path)
    layers = [(layer.name, norm and norm.name) for layer, norm in convolutions_with_norm(model)]
    if path.suffix in (".caffemodel", ".npz"):
        by_name = backbone.startswith("shufflenet")
        names = names_in_forward_order(arrays, [name for name, _ in layers], path, by_name)
        return {
            layer: SourceConvolution(
                _published_layout(arrays[f"{name}/kernel"], model.get_layer(layer)), arrays.get(f"{name}/bias")
            )
            for (layer, _), name in zip(layers, names, strict=True)
        }, False
    sources = {}
    for layer, norm in layers:
        prefix = _torch_name(backbone, layer)
        try:
            source = SourceConvolution(arrays[f"{prefix}.weight"], arrays.get(f"{prefix}.bias"))
            if norm is not None:
                prefix = _torch_name(backbone, norm)
                parts = ("weight", "bias", "running_mean", "running_var")
                source = replace(source, norm=tuple(arrays[f"{prefix}.{part}"] for part in parts))
        except KeyError as error:
            raise WeightsError(f"{path} holds no {error.args[0]}; {backbone} needs it for its layer {layer}") from None
        sources[layer] = source
    return sources, True


def _torch_name(backbone, layer):
    """torchvision's name of a layer of ours."""
    if backbone.startswith("shufflenet"):
        stage, *rest = layer.split("_")
        return ".".join((stage, *rest))
    if layer == "conv1":
        return "features.0"
    fire, part = layer.split("_")
    place = FIRES[backbone][int(fire.removeprefix("fire")) - 2]
    return f"features.{place}.{'squeeze' if part.startswith('squeeze') else part}"


def _published_layout(kernel, layer):
    """HWIO, depthwise (h, w, channels, 1) → (outputs, inputs per group, height, width)."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return kernel.transpose(2, 3, 0, 1)
    return kernel.transpose(3, 2, 0, 1)


def _for_our_input(sources, backbone, torch_input):
    """A SqueezeNet that expects standardised RGB is given a first layer that expects BGR minus its mean.

    Both are linear in the image and the first convolution has no padding, so the change is exact:
    (x − m) / s = (255 x − M) / (255 s) + (M / 255 − m) / s for each channel.
    """
    if not torch_input or not backbone.startswith("squeezenet"):
        return sources
    first = sources["conv1"]
    rgb_mean = np.array(BGR_MEAN[::-1])
    std = np.array(IMAGENET_STD)
    kernel = first.kernel.astype(np.float64)
    constant = np.einsum("ocij,c->o", kernel, (rgb_mean / 255.0 - np.array(IMAGENET_MEAN)) / std)
    bias = constant if first.bias is None else first.bias + constant
    kernel = (kernel / (255.0 * std)[:, None, None])[:, ::-1]
    return {**sources, "conv1": SourceConvolution(kernel, bias)}


def _assign(model, sources, path):
    for layer, norm in convolutions_with_norm(model):
        source = sources[layer.name]
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernel = source.kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        values = [kernel]
        outputs = kernel.shape[2] if depthwise else kernel.shape[3]
        if norm is None:
            values.append(np.zeros(outputs) if source.bias is None else source.bias)
        for target, weights in ((layer, values), (norm, _norm_weights(norm, source, outputs))):
            if target is None:
                continue
            expected = [tuple(weight.shape) for weight in target.weights]
            received = [np.shape(value) for value in weights]
            if expected != received:
                raise WeightsError(f"{path}: layer {target.name} expects {expected}, found {received}")
            target.set_weights(weights)


def _norm_weights(norm, source, outputs):
    """Batch norm's own numbers; with a bias in place of them (folded), the identity plus that bias."""
    if norm is None:
        return []
    if source.norm is not None:
        return list(source.norm)
    bias = np.zeros(outputs) if source.bias is None else source.bias
    return [np.full(outputs, np.sqrt(1.0 + norm.epsilon)), bias, np.zeros(outputs), np.ones(outputs)]
