"""SE-LCN in one graph: segmentation → symmetry network → its Grad-CAM++ map → E-Layer → lesion classifier.

Source: the SE-LCN thesis, whose three networks run one after the other; its text joins the map after the backbone and
flattens, its code pools globally instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from tfseg.approaches import APPROACHES
from tfseg.data.cases import MaskClasses
from tfseg.errors import ConfigError
from tfseg.layers.e_layer import ELayer
from tfseg.layers.hair import cleaned
from tfseg.layers.masking import LesionProbability, built_mask
from tfseg.layers.outputs import ClassProbabilities, MaskProbabilities, SymmetryProbabilities
from tfseg.layers.saliency import ClassActivationMap
from tfseg.layers.unfamiliarity import Unfamiliarity
from tfseg.models.classifier import build_head


@dataclass(frozen=True)
class SymmetryNetwork:
    """The network whose map is handed on.

    Args:
        features: image (B, H, W, 3) in [0, 1] → what the map is made of.
        explain: from there → logits and saliency (B, H, W, 1); its map is the one that is handed on.
        classes: sorted, in the order of the logits.
        mask: the layer that hides a part of its image, out of `tfseg.layers.masking.MASK_LAYERS`; None: it sees all.
        temperature: by which its logits are divided.
    """

    features: keras.Model
    explain: ClassActivationMap
    classes: tuple[str, ...]
    mask: str | None = None
    temperature: float = 1.0

    def __call__(self, image, lesion, training: bool | None = None) -> dict:
        """``logits`` and ``saliency`` of an image inside a graph.

        Args:
            image: (B, H, W, 3).
            lesion: its lesion's probability (B, H, W, 1); None where nothing is hidden.
            training: as in Keras; None leaves it to the call around.
        """
        seen = built_mask(self.mask, "symmetry_masked")(image, lesion) if self.mask else image
        # A graph can't hold two layers of one name, and the lesion's classifier has these too.
        features = keras.Model(self.features.input, self.features.output, name="symmetry_features")
        own = self.explain
        explain = ClassActivationMap(own.head, own.size, own.method, own.target, own.grid, name="symmetry_map")
        return explain(features(seen, training=training), training=training)


def symmetry_network(graph: keras.Model) -> SymmetryNetwork:
    """The network inside its own inference graph.

    Args:
        graph: a classifier of symmetry, see `tfseg.models.classifier.inference_graph`.
    """
    probabilities = graph.get_layer("probabilities")
    return SymmetryNetwork(
        graph.get_layer("features"),
        graph.get_layer("saliency"),
        probabilities.classes,
        APPROACHES[graph.name].mask,
        probabilities.temperature,
    )


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

    def logits_model(self, approach: str = "se_lcn") -> keras.Model:
        """The model that cross entropy trains: ``image``, ``symmetry`` (and ``lesion`` for a masking) → logits.

        Args:
            approach: a name out of `tfseg.approaches.APPROACHES`.

        Lesion's probability (B, H, W, 1) and symmetry map (B, side, side, 1) are inputs, because those networks are
        frozen: what they give is computed once per case.
        """
        trunk, top = self.halves(approach)
        return keras.Model(trunk.input, top(trunk.output), name="classifier")

    def halves(self, approach: str = "se_lcn") -> tuple[keras.Model, keras.Model]:
        """The trained model in two: inputs → feature maps and the map that is handed on; and from there, through the
        E-Layer, → logits."""
        shape, side = self.features.input_shape[1:], self.enhancement.input_shape[1][1:]
        inputs = {"image": keras.Input(shape, name="image"), "symmetry": keras.Input(side, name="symmetry")}
        visible, kind = inputs["image"], APPROACHES[approach].mask
        if kind:
            inputs["lesion"] = keras.Input((*shape[:2], 1), name="lesion")
            visible = built_mask(kind, approach)(visible, inputs["lesion"])
        trunk = keras.Model(inputs, [self.features(visible), inputs["symmetry"]], name="trunk")
        joined = [keras.Input(values.shape[1:], dtype="float32") for values in trunk.output]
        return trunk, keras.Model(joined, self.head(self.enhancement(joined)), name="top")

    def joint_model(
        self,
        approach: str,
        symmetry: SymmetryNetwork,
        segmenter: keras.Model | None = None,
        mask_classes: MaskClasses | None = None,
    ) -> keras.Model:
        """The model that is trained end to end: ``image`` → ``logits``, those of ``symmetry`` and, with a segmenter,
        those of the ``mask`` (B, H, W, C).

        The classifier's gradient reaches the symmetry network through its map, and the segmenter through a soft mask;
        a hard mask and a box let none through.

        Args:
            approach: a name out of `tfseg.approaches.APPROACHES`.
            symmetry, segmenter: the networks that learn along.
            mask_classes: what the segmenter's channels mean.

        Raises:
            ConfigError: something is masked, and there is no segmenter.
        """
        image = keras.Input(self.features.input_shape[1:], name="image")
        outputs, lesion = _segmented(image, segmenter, mask_classes, (APPROACHES[approach].mask, symmetry.mask), None)
        found = symmetry(image, lesion)
        kind = APPROACHES[approach].mask
        visible = built_mask(kind, approach)(image, lesion) if kind else image
        maps = self.enhancement([self.features(visible), found["saliency"]])
        outputs |= {"logits": self.head(maps), "symmetry": found["logits"]}
        return keras.Model(image, outputs, name="classifier")


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

    Raises:
        ConfigError: feature maps without rows and columns, or a head that can't be.
    """
    maps = features.output_shape[1:]
    if len(maps) != 3:
        raise ConfigError(f"an E-Layer needs feature maps (h, w, channels); the backbone gives {tuple(maps)}")
    inputs = [keras.Input(maps, name="feature_maps"), keras.Input((side, side, 1), name="symmetry", dtype="float32")]
    enhancement = keras.Model(inputs, ELayer(name="e_layer")(inputs), name="enhancement")
    return Enhanced(features, enhancement, build_head(maps, classes, units, dropout, head))


def cascade_graph(
    classifier: Enhanced,
    class_names: tuple[str, ...],
    approach: str = "se_lcn",
    segmenter: keras.Model | None = None,
    mask_classes: MaskClasses | None = None,
    symmetry: SymmetryNetwork | None = None,
    saliency: str = "grad_cam_plus_plus",
    resize: str = "stretch",
    unfamiliarity: bool = False,
    hair_removal: bool = False,
) -> keras.Model:
    """One graph from image to everything that is served.

    Args:
        classifier: the trained parts.
        class_names: sorted, in the order of the logits.
        approach: a name out of `tfseg.approaches.APPROACHES`; where no lesion is found, its mask hides nothing.
        segmenter: image → mask logits; needed where classifier or symmetry network see a masked image.
        mask_classes: what the segmenter's channels mean.
        symmetry: the network whose map is handed on; None for the approaches whose map is given.
        saliency: a name out of `tfseg.layers.saliency.METHODS`, for the classifier's map of the predicted class.
        resize: how images were brought to the model's square, ``"stretch"`` or ``"pad"``.
        unfamiliarity: whether to tell how unlike the training cases an image is, by the maps behind the E-Layer.
        hair_removal: whether everything sees the image without hairs.

    Returns:
        A functional model from ``image`` to ``probabilities`` (B, classes), ``saliency`` (B, S, S, 1), ``symmetry`` (B,
        symmetry classes), ``saliency_symmetry`` (B, S, S, 1); with a segmenter ``mask`` (B, S, S, C), and
        ``unfamiliarity`` (B,). Of an approach whose map is given, from ``{"image", "symmetry"}`` and without the two
        outputs of the symmetry network: that can be tested, not served.

    Raises:
        ConfigError: a network that is needed is missing.
    """
    given = APPROACHES[approach].symmetry_given
    if not given and symmetry is None:
        raise ConfigError(f"the approach {approach} needs a symmetry network")
    image = keras.Input(classifier.features.input_shape[1:], name="image", dtype="float32")
    inputs, clean = image, cleaned(image, hair_removal)
    kinds = (APPROACHES[approach].mask, None if given else symmetry.mask)
    outputs, lesion = _segmented(clean, segmenter, mask_classes, kinds, resize)
    if given:
        handed = keras.Input(classifier.enhancement.input_shape[1][1:], name="symmetry", dtype="float32")
        inputs = {"image": image, "symmetry": handed}
    else:
        found = symmetry(clean, lesion, training=False)
        handed = outputs["saliency_symmetry"] = found["saliency"]
        outputs["symmetry"] = SymmetryProbabilities(symmetry.classes, symmetry.temperature, name="symmetry")(
            found["logits"]
        )
    kind = APPROACHES[approach].mask
    visible = built_mask(kind, approach)(clean, lesion) if kind else clean
    maps = classifier.enhancement([classifier.features(visible, training=False), handed], training=False)
    size = tuple(image.shape[1:3])
    told = ClassActivationMap(classifier.head, size, saliency, name="saliency")(maps, training=False)
    outputs["probabilities"] = ClassProbabilities(class_names, resize=resize, name="probabilities")(told["logits"])
    outputs["saliency"] = told["saliency"]
    if unfamiliarity:
        outputs["unfamiliarity"] = Unfamiliarity(len(class_names), name="unfamiliarity")(maps)
    return keras.Model(inputs, outputs, name=approach)


def _segmented(image, segmenter, mask_classes, kinds, resize):
    """The mask as an output (its logits where `resize` is None) and the lesion's probability; nothing without a
    segmenter."""
    if segmenter is None:
        if any(kinds):
            raise ConfigError("a masked image needs a segmenter")
        return {}, None
    mask_classes = mask_classes or MaskClasses()
    training = None if resize is None else False
    logits = segmenter(image, training=training)
    mask = MaskProbabilities(mask_classes.to_json(), resize=resize or "stretch", name="mask")(logits)
    lesion = LesionProbability(mask_classes.lesion_channels, dtype="float32", name="lesion")(mask)
    return {"mask": logits if resize is None else mask}, lesion
