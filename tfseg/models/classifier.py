"""Classifiers: backbone (`features`) and `head`, and the inference graphs of the training approaches."""

from __future__ import annotations

from dataclasses import dataclass

import keras
from keras import layers

from tfseg.data.cases import MaskClasses
from tfseg.errors import ConfigError
from tfseg.layers.masking import MASK_LAYERS, LesionProbability
from tfseg.layers.outputs import ClassProbabilities, MaskProbabilities
from tfseg.layers.saliency import ClassActivationMap
from tfseg.layers.taped import Rectifier
from tfseg.models.cut import cut

APPROACHES = {
    "plain": "cross entropy on the whole image",
    "hard_mask": "the image times the predicted mask, thresholded",
    "soft_mask": "the image times the predicted probability map",
    "lesion_area": "only the grown bounding box of the predicted lesion is visible",
    "centiou": "whole image; cross entropy minus the overlap of the saliency map with the mask",
}


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
        image = keras.Input(self.features.input_shape[1:], name="image")
        inputs, visible = {"image": image}, image
        if approach in MASK_LAYERS:
            inputs["lesion"] = keras.Input((*self.features.input_shape[1:3], 1), name="lesion")
            visible = MASK_LAYERS[approach](dtype="float32", name=approach)(image, inputs["lesion"])
        return keras.Model(inputs, self.head(self.features(visible)), name="classifier")


def build_head(feature_shape, classes: int, units: int | None = 64, dropout: float = 0.0) -> keras.Model:
    """Global average pooling → dropout → Dense(units, ReLU) → Dense(classes), in float32.

    Args:
        feature_shape: (h, w, K).
        classes: number of classes, at least 2.
        units: width of the hidden layer, or None for a linear head.
        dropout: rate before each dense layer, in [0, 1).

    Raises:
        ConfigError: fewer than two classes.
    """
    if classes < 2:
        raise ConfigError(f"a classifier needs at least two classes, received {classes}")
    maps = keras.Input(feature_shape, name="feature_maps", dtype="float32")
    outputs = layers.GlobalAveragePooling2D(dtype="float32", name="pool")(maps)
    if units:
        outputs = layers.Dropout(dropout, dtype="float32", name="dropout")(outputs)
        outputs = layers.Dense(units, dtype="float32", name="hidden")(outputs)
        outputs = Rectifier(dtype="float32", name="hidden_relu")(outputs)
    outputs = layers.Dropout(dropout, dtype="float32", name="logits_dropout")(outputs)
    logits = layers.Dense(classes, dtype="float32", name="logits")(outputs)
    return keras.Model(maps, logits, name="head")


def build_classifier(features: keras.Model, classes: int, units: int | None = 64, dropout: float = 0.0) -> Classifier:
    """Put a head on a backbone; see `build_backbone` and `build_head`."""
    return Classifier(features, build_head(features.output_shape[1:], classes, units, dropout))


def inference_graph(
    classifier: Classifier,
    class_names: tuple[str, ...],
    approach: str = "plain",
    segmenter: keras.Model | None = None,
    mask_classes: MaskClasses | None = None,
    saliency: str = "grad_cam",
    resize: str = "stretch",
    saliency_layer: str | None = None,
) -> keras.Model:
    """One graph from image to everything that is served.

    Args:
        classifier: the trained parts.
        class_names: sorted, in the order of the logits.
        approach: a name out of `APPROACHES`.
        segmenter: image → mask logits; needed by the approaches that mask, optional for the others.
        mask_classes: what the segmenter's channels mean.
        saliency: a name out of `tfseg.layers.saliency.METHODS`; the predicted class is explained.
        resize: how images were brought to the model's square, ``"stretch"`` or ``"pad"``.
        saliency_layer: the backbone's layer whose output is explained; None for its last maps.

    Returns:
        A functional model from ``image`` to ``probabilities`` (B, classes), ``saliency`` (B, H, W, 1) and, with a
        segmenter, ``mask`` (B, H, W, C).

    Raises:
        ConfigError: unknown approach, a masking approach without a segmenter, or a layer that can't be explained.
    """
    if approach not in APPROACHES:
        raise ConfigError(f"there is no approach named {approach!r}; known: {', '.join(APPROACHES)}")
    if approach in MASK_LAYERS and segmenter is None:
        raise ConfigError(f"the approach {approach} needs a segmenter")
    image = keras.Input(classifier.features.input_shape[1:], name="image", dtype="float32")
    outputs, visible = {}, image
    if segmenter is not None:
        mask_classes = mask_classes or MaskClasses()
        mask = MaskProbabilities(mask_classes.to_json(), resize=resize, name="mask")(segmenter(image, training=False))
        outputs["mask"] = mask
        if approach in MASK_LAYERS:
            lesion = LesionProbability(mask_classes.lesion_channels, dtype="float32", name="lesion")(mask)
            visible = MASK_LAYERS[approach](dtype="float32", name=approach)(image, lesion)
    features, head = classifier.features, classifier.head
    if saliency_layer is not None:
        features, head = cut(features, saliency_layer, head)
    size, grid = features.input_shape[1:3], classifier.features.output_shape[1:3]
    explain = ClassActivationMap(head, size, saliency, grid=grid, name="saliency")
    explained = explain(features(visible, training=False), training=False)
    outputs["saliency"] = explained["saliency"]
    outputs["probabilities"] = ClassProbabilities(class_names, resize=resize, name="probabilities")(explained["logits"])
    return keras.Model(image, outputs, name=approach)


def segmentation_graph(segmenter: keras.Model, mask_classes: MaskClasses, resize: str = "stretch") -> keras.Model:
    """A segmenter alone as an inference graph: ``image`` → ``mask`` probabilities."""
    image = keras.Input(segmenter.input_shape[1:], name="image", dtype="float32")
    mask = MaskProbabilities(mask_classes.to_json(), resize=resize, name="mask")(segmenter(image, training=False))
    return keras.Model(image, {"mask": mask}, name="segmentation")
