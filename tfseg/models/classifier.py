"""Classifiers: backbone (`features`) and `head`, and the inference graphs of the training approaches."""

from __future__ import annotations

from dataclasses import dataclass

import keras
from keras import layers

from tfseg.approaches import APPROACHES
from tfseg.data.cases import MaskClasses
from tfseg.errors import ConfigError
from tfseg.layers.hair import HairRemoval, cleaned
from tfseg.layers.masking import LesionProbability, mask_layer
from tfseg.layers.outputs import ClassProbabilities, MaskProbabilities
from tfseg.layers.saliency import ClassActivationMap
from tfseg.layers.taped import Rectifier
from tfseg.layers.unfamiliarity import Unfamiliarity
from tfseg.models.cut import cut


@dataclass(frozen=True)
class Classifier:
    """A classifier cut where saliency needs it.

    Args:
        features: image (B, H, W, 3) in [0, 1] → feature maps (B, h, w, K).
        head: feature maps → logits (B, classes), float32.
    """

    features: keras.Model
    head: keras.Model

    def logits_model(self, approach: str = "plain") -> keras.Model:
        """The model that cross entropy trains: inputs ``image`` (and ``lesion`` for a mask) → ``logits``.

        The lesion's probability (B, H, W, 1) is an input, because a frozen segmenter's maps are computed once
        per case and cached.
        """
        trunk, top = self.halves(approach)
        return keras.Model(trunk.input, top(trunk.output), name="classifier")

    def halves(self, approach: str = "plain") -> tuple[keras.Model, keras.Model]:
        """The trained model in two: inputs → feature maps, which pretrained weights make; and from there → logits."""
        image = keras.Input(self.features.input_shape[1:], name="image")
        inputs, visible = {"image": image}, image
        if APPROACHES[approach].masked:
            inputs["lesion"] = keras.Input((*self.features.input_shape[1:3], 1), name="lesion")
            visible = mask_layer(approach)(image, inputs["lesion"])
        return keras.Model(inputs, self.features(visible), name="trunk"), self.head


def build_head(
    feature_shape, classes: int, units: int | None = 64, dropout: float = 0.0, kind: str = "dense"
) -> keras.Model:
    """From feature maps to logits, in float32.

    ``"dense"``: global average pooling → dropout → Dense(units, ReLU) → dropout → Dense(classes). ``"convolution"``:
    dropout → 1×1 convolution to the classes → ReLU → global average pooling (SqueezeNet, Iandola et al. 2016, figure
    2; the oral paper's code). Its logits are not negative. ``"flatten"``: as ``"dense"``, with all pixels of the maps
    in place of their average.

    Args:
        feature_shape: (h, w, K).
        classes: number of classes, at least 2.
        units: width of the dense head's hidden layer, or None for a linear one.
        dropout: rate before each layer with weights, in [0, 1).
        kind: ``"dense"``, ``"convolution"`` or ``"flatten"``.

    Raises:
        ConfigError: fewer than two classes, or an unknown kind.
    """
    if classes < 2:
        raise ConfigError(f"a classifier needs at least two classes, received {classes}")
    if kind not in ("dense", "convolution", "flatten"):
        raise ConfigError(f"`head` must be dense, convolution or flatten, received {kind!r}")
    maps = keras.Input(feature_shape, name="feature_maps", dtype="float32")
    if kind == "convolution":
        outputs = layers.Dropout(dropout, dtype="float32", name="dropout")(maps)
        outputs = layers.Conv2D(classes, 1, dtype="float32", name="class_maps")(outputs)
        outputs = Rectifier(dtype="float32", name="class_maps_relu")(outputs)
        logits = layers.GlobalAveragePooling2D(dtype="float32", name="logits")(outputs)
        return keras.Model(maps, logits, name="head")
    pool = layers.Flatten if kind == "flatten" else layers.GlobalAveragePooling2D
    outputs = pool(dtype="float32", name="pool")(maps)
    if units:
        outputs = layers.Dropout(dropout, dtype="float32", name="dropout")(outputs)
        outputs = layers.Dense(units, dtype="float32", name="hidden")(outputs)
        outputs = Rectifier(dtype="float32", name="hidden_relu")(outputs)
    outputs = layers.Dropout(dropout, dtype="float32", name="logits_dropout")(outputs)
    logits = layers.Dense(classes, dtype="float32", name="logits")(outputs)
    return keras.Model(maps, logits, name="head")


def build_classifier(
    features: keras.Model, classes: int, units: int | None = 64, dropout: float = 0.0, head: str = "dense"
) -> Classifier:
    """Put a head on a backbone; see `build_backbone` and `build_head`."""
    return Classifier(features, build_head(features.output_shape[1:], classes, units, dropout, head))


def explained(
    classifier: Classifier, method: str = "grad_cam", layer: str | None = None, target: str | int = "predicted"
) -> tuple[keras.Model, ClassActivationMap]:
    """A classifier cut where its map is made.

    Args:
        classifier: the parts.
        method: a name out of `tfseg.layers.saliency.METHODS`.
        layer: the backbone's layer whose output is explained; None for its last maps.
        target: see `ClassActivationMap`.

    Returns:
        A pair: image → what the map is made of; and from there → logits and saliency.

    Raises:
        ConfigError: a layer that can't be explained.
    """
    features, head = classifier.features, classifier.head
    if layer is not None:
        features, head = cut(features, layer, head)
    size, grid = classifier.features.input_shape[1:3], classifier.features.output_shape[1:3]
    return features, ClassActivationMap(head, size, method, target, grid, name="saliency")


def inference_graph(
    classifier: Classifier,
    class_names: tuple[str, ...],
    approach: str = "plain",
    segmenter: keras.Model | None = None,
    mask_classes: MaskClasses | None = None,
    saliency: str = "grad_cam",
    resize: str = "stretch",
    saliency_layer: str | None = None,
    unfamiliarity: bool = False,
    hair_removal: bool = False,
) -> keras.Model:
    """One graph from image to everything that is served.

    Args:
        classifier: the trained parts.
        class_names: sorted, in the order of the logits.
        approach: a name out of `tfseg.approaches.APPROACHES`.
        segmenter: image → mask logits; needed by the approaches that mask, optional for the others. Those whose mask
            is given have none.
        mask_classes: what the segmenter's channels mean.
        saliency: a name out of `tfseg.layers.saliency.METHODS`; the predicted class is explained.
        resize: how images were brought to the model's square, ``"stretch"`` or ``"pad"``.
        saliency_layer: the backbone's layer whose output is explained; None for its last maps.
        unfamiliarity: whether to tell how unlike the training cases an image is, by the maps that are explained.
        hair_removal: whether everything sees the image without hairs.

    Returns:
        A functional model from ``image`` to ``probabilities`` (B, classes), ``saliency`` (B, H, W, 1) and, with a
        segmenter, ``mask`` (B, H, W, C); with `unfamiliarity` that too, (B,), 0 until its layer is fitted. Of an
        approach whose mask is given, from ``{"image", "lesion"}``, lesion (B, H, W, 1): that can be tested, not served.

    Raises:
        ConfigError: unknown approach, a masking approach without a segmenter, or a layer that can't be explained.
    """
    if approach not in APPROACHES:
        raise ConfigError(f"there is no approach named {approach!r}; known: {', '.join(APPROACHES)}")
    masked, given = APPROACHES[approach].masked, APPROACHES[approach].mask_given
    if masked and not given and segmenter is None:
        raise ConfigError(f"the approach {approach} needs a segmenter")
    image = keras.Input(classifier.features.input_shape[1:], name="image", dtype="float32")
    clean = cleaned(image, hair_removal)
    inputs, outputs, visible = image, {}, clean
    if given:
        inputs = {"image": image, "lesion": keras.Input((*image.shape[1:3], 1), name="lesion", dtype="float32")}
        visible = mask_layer(approach)(clean, inputs["lesion"])
    elif segmenter is not None:
        mask_classes = mask_classes or MaskClasses()
        mask = MaskProbabilities(mask_classes.to_json(), resize=resize, name="mask")(segmenter(clean, training=False))
        outputs["mask"] = mask
        if masked:
            lesion = LesionProbability(mask_classes.lesion_channels, dtype="float32", name="lesion")(mask)
            visible = mask_layer(approach)(clean, lesion)
    features, explain = explained(classifier, saliency, saliency_layer)
    maps = features(visible, training=False)
    found = explain(maps, training=False)
    outputs["saliency"] = found["saliency"]
    outputs["probabilities"] = ClassProbabilities(class_names, resize=resize, name="probabilities")(found["logits"])
    if unfamiliarity:
        last = maps[0] if isinstance(maps, list) else maps
        outputs["unfamiliarity"] = Unfamiliarity(len(class_names), name="unfamiliarity")(last)
    return keras.Model(inputs, outputs, name=approach)


def decision_graph(graph: keras.Model, *names: str) -> keras.Model:
    """The part of an inference graph that gives some of its outputs, by default ``probabilities``: without a segmenter
    that they don't depend on, and without the map."""
    outputs = {name: graph.output[name] for name in names or ("probabilities",)}
    return keras.Model(graph.input, outputs, name=graph.name)


def behind_hair_removal(graph: keras.Model) -> keras.Model:
    """The part of an inference graph that takes images without hairs; the graph itself where it removes none."""
    removal = next((layer for layer in graph.layers if isinstance(layer, HairRemoval)), None)
    if removal is None:
        return graph
    return keras.Model(removal.output, graph.output, name=graph.name)


def segmentation_graph(
    segmenter: keras.Model, mask_classes: MaskClasses, resize: str = "stretch", hair_removal: bool = False
) -> keras.Model:
    """A segmenter alone as an inference graph: ``image`` → ``mask`` probabilities."""
    image = keras.Input(segmenter.input_shape[1:], name="image", dtype="float32")
    logits = segmenter(cleaned(image, hair_removal), training=False)
    mask = MaskProbabilities(mask_classes.to_json(), resize=resize, name="mask")(logits)
    return keras.Model(image, {"mask": mask}, name="segmentation")
