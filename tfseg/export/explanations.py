"""Explain folders of images by any method, out of a trained model's file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfseg.approaches import APPROACHES
from tfseg.data.decode import restore_map, to_model_input
from tfseg.errors import DataError, UserError
from tfseg.evaluation.gradient_free import GRADIENT_FREE
from tfseg.evaluation.sanity import Randomised, randomisation_check
from tfseg.export.overlays import draw_overlay, write_png
from tfseg.export.predictions import find_images
from tfseg.export.predictor import KerasPredictor, load_model
from tfseg.layers.branches import BranchActivationMaps
from tfseg.layers.hair import HairRemoval
from tfseg.layers.outputs import model_info
from tfseg.layers.saliency import METHODS, ClassActivationMap
from tfseg.models.cut import cut
from tfseg.progress import progress_bar
from tfseg.run import Run, recorded_path, written_whole

# Images at a time through a segmenter.
BATCH = 8


def explain_folder(
    model_path: str | Path,
    images: Iterable[str | Path],
    out: str | Path,
    method: str = "grad_cam",
    target: str = "predicted",
    layer: str | None = None,
    batch_size: int = 16,
) -> dict:
    """Draw what speaks for a class in files and folders of images.

    Writes ``explanations.csv``, ``maps/<id>.png`` (grey, 0 to 255, at the original size) and ``overlays/<id>.png``.
    The table's columns: ``id, image, predicted, confidence``; ``explained``, the class; ``explained_probability``;
    ``peak_x, peak_y``, the most salient pixel of the original image; ``salient_share``, the share of pixels with a
    saliency of 0.5 or more.

    Args:
        model_path: a ``.keras`` file of a classifier.
        images: see `tfseg.export.predictions.find_images`.
        out: a new or empty folder, or that of the same explanation before, which is written again.
        method: a name out of `tfseg.layers.saliency.METHODS` or `tfseg.evaluation.gradient_free.GRADIENT_FREE`.
        target: ``"predicted"``, or a class of the model.
        layer: of the backbone, whose output is explained; None: as the model was made.
        batch_size: images per call of the model.

    Returns:
        ``images``, how many were explained; ``problems``, the files that could not be read; ``out``.

    Raises:
        UserError: a model that can't be explained, or an argument that isn't one of these; a `DataError` when no file
            at all could be read.
    """
    images = [images] if isinstance(images, str | Path) else list(images)
    files = find_images(images)
    if Path(model_path).suffix != ".keras" or not Path(model_path).is_file():
        raise UserError(f"{model_path} is no .keras file: explanations need the network's parts, which only that keeps")
    predictor = Explainer(load_model(model_path), method, target, layer)
    config = {"experiment": "explain", "model": recorded_path(model_path), "method": method, "target": target}
    run = Run.open(out, config | {"layer": layer, "images": [recorded_path(path) for path in images]})
    names, rows = {path: name for name, path in files.items()}, []
    with progress_bar(f"explaining {len(files)} images", len(files)) as advance:
        for path, outputs, original in predictor.predict_files(files.values(), batch_size, advance, "collect"):
            saliency = restore_map(outputs["saliency"], *original.shape[:2], predictor.info.resize)[..., 0]
            row = _row(predictor.info.classes, outputs["probabilities"], saliency, target)
            rows.append({"id": names[path], "image": recorded_path(path), **row})
            levels = np.round(255 * np.clip(saliency, 0.0, 1.0)).astype(np.uint8)
            write_png(run.path("maps", f"{names[path]}.png"), levels)
            caption = f"{row['explained']} {row['explained_probability']:.2f}"
            picture = draw_overlay(original, saliency=saliency, caption=caption)
            write_png(run.path("overlays", f"{names[path]}.png"), picture)
    if not rows:
        raise DataError(predictor.problems, where=f"the {len(files)} images")
    import pandas as pd

    with written_whole(run.path("explanations.csv")) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return {"images": len(rows), "problems": predictor.problems, "out": run.folder}


def _row(classes, probabilities, saliency, target) -> dict:
    best = int(probabilities.argmax())
    explained = best if target == "predicted" else classes.index(target)
    y, x = np.unravel_index(saliency.argmax(), saliency.shape)
    return {
        "predicted": classes[best],
        "confidence": float(probabilities[best]),
        "explained": classes[explained],
        "explained_probability": float(probabilities[explained]),
        "peak_x": int(x),
        "peak_y": int(y),
        "salient_share": float((saliency >= 0.5).mean()),
    }


def explained_parts(graph: keras.Model) -> tuple[keras.Model, ClassActivationMap, keras.KerasTensor]:
    """What a classifier's graph makes its map with.

    Args:
        graph: see `tfseg.models.classifier.inference_graph`.

    Returns:
        The backbone; the saliency layer, which holds the head; and the image inside the graph as the backbone sees it,
        (B, H, W, 3).

    Raises:
        UserError: a graph without a saliency layer, or one of two branches.
    """
    explain = next((found for found in graph.layers if isinstance(found, ClassActivationMap)), None)
    if explain is None:
        raise UserError("the model has no saliency map that could be made in another way: it is no classifier")
    if isinstance(explain, BranchActivationMaps):
        raise UserError(
            "the model has two branches: of it only maps by one gradient can be made, of the last layer of each "
            f"({', '.join(METHODS)})"
        )
    explain = graph.get_layer("saliency")
    approach = APPROACHES[graph.name]
    if approach.symmetry:
        # What is explained lies behind the E-Layer, which takes another network's map of the image too.
        return keras.Model(graph.input, explain.input), explain, graph.input
    removal = next((layer for layer in graph.layers if isinstance(layer, HairRemoval)), None)
    clean = graph.input if removal is None else removal.output
    # A masking layer is named after the approach, and so is the graph.
    visible = graph.get_layer(graph.name).output if approach.masked else clean
    return graph.get_layer("features"), explain, visible


def shuffled_maps(graph: keras.Model, images: np.ndarray, head_only: bool = False, seed: int = 0) -> Randomised:
    """The randomisation check of a classifier's graph: of its own maps, of the classes that it predicts.

    Args:
        graph: see `tfseg.models.classifier.inference_graph`. Its weights are put back in the end.
        images: uint8 (N, S, S, 3) at the model's size.
        head_only: shuffle the head's weights and leave the backbone as it is.
        seed: of the shuffling.

    Returns:
        One stage: all weights at once, or all of the head's. A segmenter that masks the image keeps its own.

    Raises:
        UserError: a graph without a saliency layer.
    """
    features, explain, visible = explained_parts(graph)
    hide, starts = keras.Model(graph.input, visible), range(0, len(images), BATCH)
    seen = [hide(to_model_input(images[start : start + BATCH]), training=False).numpy() for start in starts]
    return randomisation_check(
        features, explain.head, np.concatenate(seen), explain.method, head_only=head_only, seed=seed, grid=explain.grid
    )


def _with_maps(graph: keras.Model, found: dict, names: tuple[str, ...]) -> keras.Model:
    """The graph with other maps."""
    probabilities = graph.get_layer("probabilities")(found["logits"])
    maps = {name: found[name] for name in names}
    return keras.Model(graph.input, {**graph.output, "probabilities": probabilities, **maps})


class Explainer(KerasPredictor):
    """Predicts with a classifier's graph whose saliency is made by another method, of another class or layer.

    Args:
        graph: see `tfseg.models.classifier.inference_graph`.
        method, target, layer: see `explain_folder`.

    Raises:
        UserError: a graph without a saliency layer, or an argument that isn't one of these.
    """

    def __init__(self, graph: keras.Model, method: str = "grad_cam", target: str = "predicted", layer=None):
        info = model_info(graph)
        if method not in {**METHODS, **GRADIENT_FREE}:
            raise UserError(f"there is no method {method!r}; known: {', '.join({**METHODS, **GRADIENT_FREE})}")
        if target != "predicted" and target not in info.classes:
            raise UserError(f"the model has no class {target!r}; known: {', '.join(info.classes)}")
        chosen = target if target == "predicted" else info.classes.index(target)
        branches = next((found for found in graph.layers if isinstance(found, BranchActivationMaps)), None)
        if branches is not None and method in METHODS and layer is None:
            seen = (graph.input, graph.get_layer("class_map").output)
            maps = [
                graph.get_layer(f"{branch}_features")(values, training=False)
                for branch, values in zip(("image", "mask"), seen, strict=True)
            ]
            found = BranchActivationMaps(branches.head, branches.size, method, chosen)(maps, training=False)
            super().__init__(_with_maps(graph, found, ("saliency", "saliency_mask")))
            return
        features, explain, visible = explained_parts(graph)
        head, grid = explain.head, explain.grid
        if layer is not None:
            if isinstance(features.output, list):
                raise UserError("the model's map is of an inner layer already, past which other paths lead")
            features, head = cut(features, layer, head)
        if method in METHODS:
            found = ClassActivationMap(head, explain.size, method, chosen, grid)(features(visible, training=False))
            super().__init__(_with_maps(graph, found, ("saliency",)))
            return
        if layer is not None or isinstance(features.output, list) or len(features.output.shape) != 4:
            raise UserError(f"{method} explains the backbone's last maps, not an inner layer")
        seen = keras.Model(graph.input, {**graph.output, "saliency": visible})
        super().__init__(graph)

        def outputs(images):
            found = seen(to_model_input(tf.constant(images)), training=False)
            labels = None if chosen == "predicted" else np.full(len(images), chosen)
            saliency = GRADIENT_FREE[method](features, head, found["saliency"].numpy(), labels)
            return {**found, "saliency": saliency[..., None]}

        self._outputs = outputs
