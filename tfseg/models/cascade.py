"""SE-LCN in one graph: segmentation → symmetry network → its Grad-CAM++ map → E-Layer → lesion classifier.

Source: the SE-LCN thesis, whose three networks run one after the other; its text joins the map after the backbone and
flattens, its code pools globally instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
from keras import layers

from tfseg.data.cases import MaskClasses
from tfseg.errors import ConfigError
from tfseg.layers.e_layer import ELayer
from tfseg.layers.hair import HairRemoval
from tfseg.layers.masking import LesionProbability, built_mask
from tfseg.layers.outputs import ClassProbabilities, MaskProbabilities, SymmetryProbabilities
from tfseg.layers.saliency import ClassActivationMap
from tfseg.models.classifier import Classifier, build_head

# What a network of the cascade sees of its image, and the layer that hides the rest.
MASKINGS = {"none": None, "segmentation": "hard", "lesion_area": "lesion_area"}


@dataclass(frozen=True)
class Enhanced:
    """A classifier that is told where another network looked.

    Args:
        features: image (B, H, W, 3) in [0, 1] → feature maps (B, h, w, K).
        enhancement: feature maps and a map (B, side, side, 1) in [0, 1] → feature maps (B, h, w, K).
        head: feature maps → logits (B, classes), float32.
    """

    features: keras.Model
    enhancement: keras.Model
    head: keras.Model

    def logits_model(self, masking: str = "none") -> keras.Model:
        """The model that cross entropy trains: ``image``, ``symmetry`` (and ``lesion`` for a masking) → logits.

        The symmetry network's map (B, side, side, 1) and the lesion's probability (B, H, W, 1) are inputs, because
        those networks are frozen: what they give is computed once per case.
        """
        shape, side = self.features.input_shape[1:], self.enhancement.input_shape[1][1:]
        inputs = {"image": keras.Input(shape, name="image"), "symmetry": keras.Input(side, name="symmetry")}
        visible = inputs["image"]
        kind = _kind_of(masking)
        if kind:
            inputs["lesion"] = keras.Input((*shape[:2], 1), name="lesion")
            visible = built_mask(kind, "masked")(visible, inputs["lesion"])
        maps = self.enhancement([self.features(visible), inputs["symmetry"]])
        return keras.Model(inputs, self.head(maps), name="classifier")


def build_enhanced(
    features: keras.Model,
    classes: int,
    side: int,
    units: int | None = None,
    dropout: float = 0.0,
    head: str = "dense",
) -> Enhanced:
    """Put an E-Layer and a head on a backbone.

    Args:
        features: see `tfseg.models.backbones.build_backbone`.
        classes, units, dropout: see `tfseg.models.classifier.build_head`.
        side: of the symmetry network's map, in pixels.
        head: ``"dense"`` pools the maps globally (the thesis's code), ``"flatten"`` doesn't (its text).
    """
    maps = features.output_shape[1:]
    inputs = [keras.Input(maps, name="feature_maps"), keras.Input((side, side, 1), name="symmetry", dtype="float32")]
    enhancement = keras.Model(inputs, ELayer(name="e_layer")(inputs), name="enhancement")
    return Enhanced(features, enhancement, build_head(maps, classes, units, dropout, head))


def cascade_graph(
    segmenter: keras.Model,
    symmetry: Classifier,
    classifier: Classifier | Enhanced,
    class_names: tuple[str, ...],
    symmetry_names: tuple[str, ...],
    mask_classes: MaskClasses | None = None,
    symmetry_masking: str = "none",
    masking: str = "none",
    saliency: str = "grad_cam_plus_plus",
    hair_removal: bool = False,
    resize: str = "stretch",
) -> keras.Model:
    """One graph from image to everything that is served.

    Args:
        segmenter: image (B, S, S, 3) → mask logits.
        symmetry: the classifier whose map is handed on; its images may have another size.
        classifier: of the lesions; a plain `Classifier` is handed no map.
        class_names, symmetry_names: sorted, in the order of the logits.
        mask_classes: what the segmenter's channels mean.
        symmetry_masking, masking: what the two classifiers see, names out of `MASKINGS`. Where no lesion is found, the
            whole image.
        saliency: a name out of `tfseg.layers.saliency.METHODS`, for both maps; the predicted class is explained.
        hair_removal: whether everything sees the image without hairs.
        resize: how images were brought to the model's square, ``"stretch"`` or ``"pad"``.

    Returns:
        A functional model from ``image`` to ``mask`` (B, S, S, C), ``symmetry`` (B, symmetry classes),
        ``saliency_symmetry`` (B, S, S, 1), ``probabilities`` (B, classes) and ``saliency`` (B, S, S, 1).

    Raises:
        ConfigError: an unknown masking.
    """
    image = keras.Input(segmenter.input_shape[1:], name="image", dtype="float32")
    size = tuple(image.shape[1:3])
    clean = HairRemoval(dtype="float32", name="hair_removal")(image) if hair_removal else image
    mask_classes = mask_classes or MaskClasses()
    mask = MaskProbabilities(mask_classes.to_json(), resize=resize, name="mask")(segmenter(clean, training=False))
    lesion = LesionProbability(mask_classes.lesion_channels, dtype="float32", name="lesion")(mask)
    # A graph can't hold two networks of one name.
    looking, telling = (
        keras.Model(features.input, features.output, name=name)
        for features, name in ((symmetry.features, "symmetry_features"), (classifier.features, "features"))
    )
    seen = _seen(clean, lesion, symmetry_masking, looking, "symmetry")
    explain = ClassActivationMap(symmetry.head, size, saliency, name="symmetry_map")
    found = explain(looking(seen, training=False), training=False)
    maps = telling(_seen(clean, lesion, masking, telling, "lesion"), training=False)
    if isinstance(classifier, Enhanced):
        handed = _at(found["saliency"], classifier.enhancement.input_shape[1][1:3], "map_handed_on")
        maps = classifier.enhancement([maps, handed], training=False)
    told = ClassActivationMap(classifier.head, size, saliency, name="saliency")(maps, training=False)
    outputs = {
        "mask": mask,
        "symmetry": SymmetryProbabilities(symmetry_names, name="symmetry")(found["logits"]),
        "saliency_symmetry": found["saliency"],
        "probabilities": ClassProbabilities(class_names, resize=resize, name="probabilities")(told["logits"]),
        "saliency": told["saliency"],
    }
    return keras.Model(image, outputs, name="se_lcn")


def _kind_of(masking):
    if masking not in MASKINGS:
        raise ConfigError(f"a masking must be one of {', '.join(MASKINGS)}, received {masking!r}")
    return MASKINGS[masking]


def _seen(image, lesion, masking, features, name):
    """What a network of the cascade sees, at its size."""
    kind = _kind_of(masking)
    if kind:
        image = built_mask(kind, f"{name}_masked")(image, lesion)
    return _at(image, features.input_shape[1:3], f"{name}_resized")


def _at(values, size, name):
    if tuple(values.shape[1:3]) == tuple(size):
        return values
    return layers.Resizing(*size, dtype="float32", name=name)(values)
