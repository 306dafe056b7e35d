"""Classifiers of two branches: one sees the image, the other the segmenter's class map; a head joins their maps.

Source: the cervical paper, section III-C: Xception sees the image, ResNet50 what U-Net makes of it. Its Proposed Model
1 flattens both branches' maps, its Proposed Model 2 pools them globally. Its Classical Model is the image's branch
alone, which is a `tfseg.models.classifier.Classifier`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
from keras import layers

from tfseg.approaches import APPROACHES
from tfseg.data.cases import MaskClasses
from tfseg.errors import ConfigError
from tfseg.layers.branches import BranchActivationMaps, ClassMap, Gate, OnGrid, check_mask_input
from tfseg.layers.hair import cleaned
from tfseg.layers.outputs import ClassProbabilities, MaskProbabilities
from tfseg.layers.taped import Rectifier, TapedConcatenate
from tfseg.layers.unfamiliarity import Unfamiliarity
from tfseg.models.classifier import build_head

POOLINGS = ("flatten", "gap", "gate")


@dataclass(frozen=True)
class Fusion:
    """A classifier of two branches, cut where saliency needs it.

    Args:
        image_features: image (B, H, W, 3) in [0, 1] → feature maps (B, r, c, K).
        mask_features: class map (B, h, w, 3) in [0, 1] → feature maps (B, r', c', K').
        head: both feature maps, the image's first → logits (B, classes), float32.
        mask_input: what the mask's branch sees of a class map, see `ClassMap`.
    """

    image_features: keras.Model
    mask_features: keras.Model
    head: keras.Model
    mask_input: str = "softmax"

    def feature_maps(self, image, classes, training: bool | None = None) -> list:
        """What the head takes: the image's maps and those of the class map.

        Args:
            image: (B, H, W, 3) in [0, 1].
            classes: (B, h, w, 3) in [0, 1].
            training: as in Keras; None leaves it to the call around.
        """
        classes = ClassMap(self.mask_input, dtype="float32", name="class_map")(classes)
        return [self.image_features(image, training=training), self.mask_features(classes, training=training)]

    def logits_model(self) -> keras.Model:
        """The model that cross entropy trains: inputs ``image`` and ``classes`` (B, h, w, 3) → ``logits``.

        The class map is an input, because a frozen segmenter's maps are computed once per case and moved together with
        the image.
        """
        trunk, top = self.halves()
        return keras.Model(trunk.input, top(trunk.output), name="classifier")

    def halves(self) -> tuple[keras.Model, keras.Model]:
        """The trained model in two: inputs → both branches' feature maps; and from there → logits."""
        inputs = {
            "image": keras.Input(self.image_features.input_shape[1:], name="image"),
            "classes": keras.Input(self.mask_features.input_shape[1:], name="classes"),
        }
        return keras.Model(inputs, self.feature_maps(inputs["image"], inputs["classes"]), name="trunk"), self.head

    def joint_model(self, segmenter: keras.Model, mask_classes: MaskClasses) -> keras.Model:
        """The model that trains the segmenter too: ``image`` → ``logits`` and the ``mask``'s logits (B, H, W, C).

        Raises:
            ConfigError: the branch sees classes, through which no gradient comes back.
        """
        if self.mask_input != "softmax":
            raise ConfigError(f"`mask_input` must be softmax where the segmenter learns, received {self.mask_input!r}")
        image = keras.Input(self.image_features.input_shape[1:], name="image")
        mask = segmenter(image)
        seen = class_map(mask, mask_classes, self.mask_features.input_shape[1:3])
        logits = self.head(self.feature_maps(image, seen))
        return keras.Model(image, {"logits": logits, "mask": mask}, name="classifier")


def build_fusion(
    image_features: keras.Model,
    mask_features: keras.Model,
    classes: int,
    pooling: str = "flatten",
    units: int | None = 64,
    dropout: float = 0.0,
    mask_input: str = "softmax",
) -> Fusion:
    """Join two backbones by a head.

    Args:
        image_features, mask_features: two networks, see `tfseg.models.backbones.build_backbone`; their inputs may have
            different sizes. Layers and weights are taken over, not copied.
        classes, pooling, units, dropout: see `build_fusion_head`.
        mask_input: see `Fusion`.

    Raises:
        ConfigError: an argument of the head out of range, or an unknown `mask_input`.
    """
    check_mask_input(mask_input)
    # A graph can't hold two networks of one name.
    image_features, mask_features = (
        keras.Model(features.input, features.output, name=name)
        for features, name in ((image_features, "image_features"), (mask_features, "mask_features"))
    )
    shapes = [features.output_shape[1:] for features in (image_features, mask_features)]
    head = build_fusion_head(*shapes, classes, pooling, units, dropout)
    return Fusion(image_features, mask_features, head, mask_input)


def build_fusion_head(
    image_shape,
    mask_shape,
    classes: int,
    pooling: str = "flatten",
    units: int | None = 64,
    dropout: float = 0.0,
) -> keras.Model:
    """From two branches' feature maps to logits, in float32.

    - ``"flatten"``: mask maps brought to the image maps' grid bilinearly → joined along the channels → flattened →
      `build_head`'s dense layers (Proposed Model 1). Its first layer has a weight for every pixel, channel and unit.
    - ``"gap"``: global average pooling of each branch → joined → the same dense layers (Proposed Model 2).
    - ``"gate"``: global average pooling of each branch → `a` of the image and `b` of the mask, each by its own
      Dense(units, ReLU) → `a + σ(z) (b − a)`, `z` a Dense(units) of both pooled vectors → Dense(classes). Our own,
      after the gated multimodal unit of Arevalo et al. 2017, with ReLU in place of tanh.

    Args:
        image_shape: (r, c, K).
        mask_shape: (r', c', K').
        classes: number of classes, at least 2.
        pooling: a name out of `POOLINGS`.
        units: width of the hidden layer; None for a linear head, which the gate can't be.
        dropout: rate before each layer with weights, in [0, 1).

    Raises:
        ConfigError: an unknown pooling, a gate without units, or fewer than two classes.
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"`pooling` must be one of {', '.join(POOLINGS)}, received {pooling!r}")
    if pooling == "gate" and not units:
        raise ConfigError(f"the pooling gate needs `units`, received {units}")
    maps = [
        keras.Input(shape, name=name, dtype="float32")
        for shape, name in ((image_shape, "image_maps"), (mask_shape, "mask_maps"))
    ]
    if pooling == "flatten":
        on_grid = OnGrid(image_shape[:2], dtype="float32", name="mask_maps_on_grid")(maps[1])
        joined = TapedConcatenate(dtype="float32", name="joined")([maps[0], on_grid])
        vector = layers.Reshape((1, 1, math.prod(joined.shape[1:])), dtype="float32", name="flat")(joined)
    else:
        pooled = [
            layers.GlobalAveragePooling2D(keepdims=True, dtype="float32", name=f"{branch}_pool")(values)
            for branch, values in zip(("image", "mask"), maps, strict=True)
        ]
        vector = TapedConcatenate(dtype="float32", name="joined")(pooled)
        if pooling == "gate":
            vector, units = _gated(pooled, vector, units, dropout), None
    logits = build_head(vector.shape[1:], classes, units, dropout)(vector)
    return keras.Model(maps, logits, name="head")


def _gated(pooled, joined, units, dropout):
    def dense(values, name):
        values = layers.Dropout(dropout, dtype="float32", name=f"{name}_dropout")(values)
        return layers.Dense(units, dtype="float32", name=name)(values)

    hidden = [
        Rectifier(dtype="float32", name=f"{branch}_hidden_relu")(dense(values, f"{branch}_hidden"))
        for branch, values in zip(("image", "mask"), pooled, strict=True)
    ]
    return Gate(dtype="float32", name="gate")([*hidden, dense(joined, "gate_logits")])


def head_parameters(image_shape, mask_shape, classes: int, pooling: str = "flatten", units: int | None = 64) -> int:
    """How many weights a head has, see `build_fusion_head`.

    With `N = r c (K + K')` numbers for ``"flatten"`` and `N = K + K'` for the others, `u` units and `k` classes:
    `N u + u + u k + k`, or `N k + k` without units; ``"gate"`` has `2 N u + 3 u + u k + k`. Two backbones with 7×7×2048
    maps, 64 units and 4 classes: 12,845,380 flattened, 262,468 pooled, 524,740 gated.
    """
    return build_fusion_head(image_shape, mask_shape, classes, pooling, units).count_params()


def fusion_graph(
    fusion: Fusion,
    class_names: tuple[str, ...],
    approach: str = "fusion_gap",
    segmenter: keras.Model | None = None,
    mask_classes: MaskClasses | None = None,
    saliency: str = "grad_cam",
    resize: str = "stretch",
    unfamiliarity: bool = False,
    hair_removal: bool = False,
) -> keras.Model:
    """One graph from image to everything that is served.

    Args:
        fusion: the trained parts.
        class_names: sorted, in the order of the logits.
        approach: a name out of `tfseg.approaches.APPROACHES`.
        segmenter: image → mask logits; called in inference mode. Approaches whose mask is given have none.
        mask_classes: what the segmenter's channels mean, at most three.
        saliency: a name out of `tfseg.layers.saliency.METHODS`; the predicted class is explained.
        resize: how images were brought to the model's square, ``"stretch"`` or ``"pad"``.
        unfamiliarity: whether to tell how unlike the training cases an image is, by the maps of its own branch, as the
            output ``unfamiliarity`` (B,).
        hair_removal: whether everything sees the image without hairs.

    Returns:
        A functional model from ``image`` to ``mask`` (B, H, W, C), ``probabilities`` (B, classes), ``saliency`` and
        ``saliency_mask`` (B, H, W, 1), the maps of the image's and of the mask's branch. Of an approach whose mask is
        given, from ``{"image", "classes"}``, classes (B, h, w, 3), and without ``mask``: that can be tested, not
        served.

    Raises:
        ConfigError: no segmenter where one is needed, or more than three mask classes.
    """
    given = APPROACHES[approach].mask_given
    if not given and segmenter is None:
        raise ConfigError(f"the approach {approach} needs a segmenter")
    image = keras.Input(fusion.image_features.input_shape[1:], name="image", dtype="float32")
    inputs, outputs, clean = image, {}, cleaned(image, hair_removal)
    if given:
        seen = keras.Input(fusion.mask_features.input_shape[1:], name="classes", dtype="float32")
        inputs = {"image": image, "classes": seen}
    else:
        mask_classes = mask_classes or MaskClasses()
        logits = segmenter(clean, training=False)
        outputs["mask"] = MaskProbabilities(mask_classes.to_json(), resize=resize, name="mask")(logits)
        seen = class_map(logits, mask_classes, fusion.mask_features.input_shape[1:3])
    maps = fusion.feature_maps(clean, seen, training=False)
    found = BranchActivationMaps(fusion.head, image.shape[1:3], saliency, name="saliency")(maps, training=False)
    outputs |= {
        "probabilities": ClassProbabilities(class_names, resize=resize, name="probabilities")(found["logits"]),
        "saliency": found["saliency"],
        "saliency_mask": found["saliency_mask"],
    }
    if unfamiliarity:
        outputs["unfamiliarity"] = Unfamiliarity(len(class_names), name="unfamiliarity")(maps[0])
    return keras.Model(inputs, outputs, name=approach)


def class_map(logits, mask_classes: MaskClasses, size: tuple[int, int]):
    """What the second branch sees of a segmenter, at its own size.

    The logits are resized, bilinearly, and not the probabilities: a softmax over all pixels of the image would take
    longer than the branch itself.

    Args:
        logits: of a mask, (B, H, W, C).
        mask_classes: what the channels mean.
        size: (h, w).

    Returns:
        (B, h, w, 3) in [0, 1], see `ClassMap`.
    """
    if tuple(logits.shape[1:3]) != tuple(size):
        logits = layers.Resizing(*size, dtype="float32", name="resized_logits")(logits)
    kind = "sigmoid" if mask_classes.channels == 1 else "softmax"
    probabilities = layers.Activation(kind, dtype="float32", name="resized_probabilities")(logits)
    return ClassMap(dtype="float32", name="classes_as_image")(probabilities)


def class_map_graph(segmenter: keras.Model, mask_classes: MaskClasses, size: tuple[int, int]) -> keras.Model:
    """A segmenter's class maps: ``image`` (B, H, W, 3) → ``classes`` (B, h, w, 3); see `class_map`."""
    image = keras.Input(segmenter.input_shape[1:], name="image", dtype="float32")
    return keras.Model(image, {"classes": class_map(segmenter(image, training=False), mask_classes, size)})
