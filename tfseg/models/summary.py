"""The table of backbones: ``python -m tfseg.models.summary`` prints it as Markdown."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass

import keras
import tensorflow as tf

from tfseg.models.backbones import BACKBONES, build_backbone

SIZE = 224


@dataclass(frozen=True)
class BackboneSummary:
    """A row of the table, for images of `SIZE` × `SIZE` pixels.

    Args:
        name: of the backbone.
        parameters: numbers in its weights, statistics of batch norm included.
        multiply_adds: of one image.
        maps: (height, width, channels) of its output.
        strides: of the maps that encoders can take.
        sizes: what images it takes.
        imagenet: where its ImageNet weights come from.
    """

    name: str
    parameters: int
    multiply_adds: int
    maps: tuple[int, int, int]
    strides: tuple[int, ...]
    sizes: str
    imagenet: str


def backbone_table() -> list[BackboneSummary]:
    """Every backbone, built once."""
    rows = []
    for name, backbone in BACKBONES.items():
        model = build_backbone(name, (SIZE, SIZE, 3))
        sizes = f"from {backbone.smallest}" + (f", multiples of {backbone.multiple}" if backbone.multiple > 1 else "")
        source = backbone.imagenet or ("a file" if backbone.load_npz else "none")
        rows.append(
            BackboneSummary(
                name,
                model.count_params(),
                multiply_adds(model),
                tuple(model.output.shape[1:]),
                tuple(backbone.maps),
                sizes,
                source,
            )
        )
        keras.backend.clear_session()
    return rows


def multiply_adds(model: keras.Model) -> int:
    """Multiplications with an addition in convolutions and matrix products, for one image.

    TensorFlow's profiler counts two operations for each; it knows neither `Einsum`, of which attention is made, nor
    what Keras compiles apart, which is convolutions with groups: those are added by their shapes.
    """
    signature = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    graph = tf.function(lambda image: model(image, training=False)).get_concrete_function(signature).graph
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    products = [f"{kind}$" for kind in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMul.*")]
    options = builder(builder.float_operation()).with_accounted_types(products).with_empty_output().build()
    with contextlib.redirect_stdout(io.StringIO()):
        counted = tf.compat.v1.profiler.profile(graph, cmd="op", options=options).total_float_ops // 2
    counted += sum(_einsum(operation) for operation in graph.get_operations() if operation.type == "Einsum")
    for layer in model.layers:
        if type(layer) is keras.layers.Conv2D and layer.groups > 1:
            counted += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
    return counted


def _einsum(operation) -> int:
    """The product of the sizes of all indices of a sum of products."""
    inputs = operation.get_attr("equation").decode().split("->")[0].split(",")
    sizes = {}
    for indices, tensor in zip(inputs, operation.inputs, strict=True):
        sizes.update(zip(indices, tensor.shape, strict=True))
    return math.prod(sizes.values())


def markdown(rows: list[BackboneSummary]) -> str:
    """The rows as a table in Markdown."""
    head = "| name | parameters | multiply-adds | output | strides | image sides | ImageNet weights |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = (
            f"`{row.name}`",
            f"{row.parameters / 1e6:.2f} M",
            f"{row.multiply_adds / 1e9:.2f} G",
            " × ".join(map(str, row.maps)),
            ", ".join(map(str, row.strides)),
            row.sizes,
            row.imagenet,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(backbone_table()))
