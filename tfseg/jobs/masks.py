"""What trained models predict for decoded cases: outputs of any graph, and the maps by which classifiers mask."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tfseg.data.batches import CaseArrays
from tfseg.data.cases import MaskClasses
from tfseg.data.decode import to_model_input
from tfseg.evaluation.postprocess import flip_average
from tfseg.layers.branches import CHANNELS
from tfseg.models.classifier import behind_hair_removal, decision_graph
from tfseg.models.fusion import class_map_graph
from tfseg.names import Flips


def predict_pixels(
    model: keras.Model, images: np.ndarray, maps: Mapping[str, np.ndarray] | None = None, batch_size: int = 32
) -> dict[str, np.ndarray]:
    """The outputs of an inference graph.

    Args:
        model: see `inference_graph`.
        images: uint8 (n, S, S, 3).
        maps: what goes with them by the name of the input, uint8 (n, h, w) or (n, h, w, 3), 255 = certain, for a
            graph that is given its masks.
        batch_size: images at a time.
    """
    pixels = images
    if maps:
        given = {name: values if values.ndim == 4 else values[..., None] for name, values in maps.items()}
        pixels = {"image": images, **given}

    def to_inputs(batch):
        return tf.nest.map_structure(to_model_input, batch)

    return model.predict(tf.data.Dataset.from_tensor_slices(pixels).batch(batch_size).map(to_inputs), verbose=0)


def predict_masks(graph: keras.Model, arrays: CaseArrays, positions: np.ndarray, flips: Flips = "none") -> np.ndarray:
    """A segmentation graph's masks of chosen cases, float32 (n, S, S, C).

    Args:
        graph: a segmentation graph.
        arrays: decoded cases.
        positions: the cases, (n,).
        flips: mirror images over which they are averaged, see `flip_average`.
    """
    graph = fitting(graph, arrays)
    return flip_average(lambda images: predict_pixels(graph, images)["mask"], arrays.images[positions], flips)


def fitting(graph: keras.Model, arrays: CaseArrays) -> keras.Model:
    """An inference graph as it takes these images: hairs that are out of them need not be taken out once more."""
    return behind_hair_removal(graph) if arrays.without_hair else graph


def lesion_maps(mask: np.ndarray, mask_classes: MaskClasses) -> np.ndarray:
    """The lesion's probability from mask probabilities, (n, S, S, C) → (n, S, S)."""
    return mask[..., list(mask_classes.lesion_channels)].sum(-1)


def frozen_maps(
    graph: keras.Model,
    arrays: CaseArrays,
    class_size: int | None = None,
    positions: np.ndarray | None = None,
    chunk: int = 256,
) -> np.ndarray:
    """What classifiers see of a trained segmenter, uint8, 255 = certain.

    Args:
        graph: a segmentation graph.
        arrays: decoded cases.
        class_size: None for the lesion's probability (N, S, S), else the side of the class map (N, side, side, 3).
        positions: of which cases; the others stay empty. None: all.
        chunk: how many at a time: float32 masks of all cases at once would be large.
    """
    positions = np.arange(len(arrays)) if positions is None else positions
    if class_size is None:
        maps = np.zeros(arrays.masks.shape, np.uint8)
    else:
        maps, size = np.zeros((len(arrays), class_size, class_size, CHANNELS), np.uint8), (class_size, class_size)
        drawn = class_map_graph(graph.get_layer("segmenter"), arrays.mask_classes, size)
    for start in range(0, len(positions), chunk):
        part = positions[start : start + chunk]
        if class_size is None:
            found = lesion_maps(predict_masks(graph, arrays, part), arrays.mask_classes)
        else:
            found = predict_pixels(drawn, arrays.images[part])["classes"]
        maps[part] = np.round(255.0 * found)
    return maps


def symmetry_maps(
    graph: keras.Model, arrays: CaseArrays, positions: np.ndarray | None = None, chunk: int = 256
) -> np.ndarray:
    """The maps that a trained symmetry network hands on, uint8 (N, S, S), 255 = most salient.

    Args:
        graph: its inference graph.
        arrays: decoded cases.
        positions: of which cases; the others' stay empty. None: all.
        chunk: how many at a time.
    """
    positions = np.arange(len(arrays)) if positions is None else positions
    maps, drawn = np.zeros(arrays.masks.shape, np.uint8), fitting(decision_graph(graph, "saliency"), arrays)
    for start in range(0, len(positions), chunk):
        part = positions[start : start + chunk]
        maps[part] = np.round(255.0 * predict_pixels(drawn, arrays.images[part])["saliency"][..., 0])
    return maps


def exchanged_maps(maps: np.ndarray, positions: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every case's map is another one's: what the maps have in common stays, what they say of their own image doesn't.

    Args:
        maps: (N, h, w).
        positions: the cases among which maps are exchanged, at least two; the others keep theirs.
        seed: draws the order in a ring of which each takes the next one's.
    """
    exchanged, order = maps.copy(), np.random.default_rng(seed).permutation(positions)
    exchanged[order] = maps[np.roll(order, 1)]
    return exchanged


def moved_maps(maps: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every map moved to a random place, around the image's edges: its area stays, what it shows is chance.

    Args:
        maps: (N, h, w) or (N, h, w, 3).
        seed: draws the place, of each map by its number.
    """
    moved = np.empty_like(maps)
    for number, values in enumerate(maps):
        offsets = np.random.default_rng([seed, number]).integers(0, values.shape[:2])
        moved[number] = np.roll(values, offsets, (0, 1))
    return moved


def true_maps(arrays: CaseArrays, class_size: int | None = None) -> np.ndarray:
    """The cases' own masks as maps, uint8, empty where there is none.

    Args:
        arrays: decoded cases.
        class_size: None for (N, S, S), 255 = lesion; else the side of the class maps (N, side, side, 3), where a
            channel is the share of its class in the pixel, and pixels that count nowhere have 0 in all of them.
    """
    if class_size is None:
        return np.where(arrays.lesions_at(np.arange(len(arrays))), np.uint8(255), np.uint8(0))
    maps = np.empty((len(arrays), class_size, class_size, CHANNELS), np.uint8)
    for number, mask in enumerate(arrays.masks):
        classes = (mask[..., None] == np.arange(CHANNELS)).astype(np.float32)
        maps[number] = np.round(255.0 * tf.image.resize(classes, (class_size, class_size), "area"))
    return maps
