"""A model cut in two at one of its layers, so that saliency maps can be made of that layer's output."""

from __future__ import annotations

import keras

from tfseg.errors import ConfigError
from tfseg.layers.taped import taped


def cut(model: keras.Model, layer: str, head: keras.Model | None = None) -> tuple[keras.Model, keras.Model]:
    """The part of a model up to a layer, and the part from there to its output, with shared weights.

    Where other paths lead past the layer, as in a U-Net or inside a residual block, the first part gives their tensors
    too and the second one takes them. In the second part layers are replaced by those of `tfseg.layers.taped`, so that
    a tape over it can be exported.

    Args:
        model: a flat functional model with one input and one output.
        layer: its layer, whose output is (B, h, w, K) or tokens (B, N, K).
        head: put on the model's output.

    Returns:
        A pair: input → the layer's output, or a list that begins with it; and from there → the model's output, or
        the head's.

    Raises:
        ConfigError: there is no such layer, or its output is no map, or the output doesn't depend on it.
    """
    operations = {operation.name: operation for operation in model.operations}
    if layer not in operations:
        raise ConfigError(f"{model.name} has no layer named {layer!r}")
    maps = operations[layer].output
    if isinstance(maps, list | tuple) or len(maps.shape) not in (3, 4):
        raise ConfigError(f"the layer {layer} of {model.name} gives no feature maps: {maps}")
    behind, past = {id(maps)}, {}
    for operation in model.operations:
        if isinstance(operation, keras.layers.InputLayer) or operation is operations[layer]:
            continue
        taken = keras.tree.flatten(operation.input)
        if any(id(tensor) in behind for tensor in taken):
            behind |= {id(tensor) for tensor in keras.tree.flatten(operation.output)}
            past |= {id(tensor): tensor for tensor in taken if id(tensor) not in behind}
    if id(model.output) not in behind:
        raise ConfigError(f"the output of {model.name} does not depend on its layer {layer}")
    between = [maps, *past.values()] if past else maps
    lower = keras.Model(model.input, between, name=model.name)
    upper = keras.Model(between, model.output if head is None else head(model.output), name="rest")
    return lower, keras.models.clone_model(upper, clone_function=taped)
