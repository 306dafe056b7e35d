"""The last layers of the inference graph: they turn logits into probabilities and remember what these mean.

A ``.keras`` file is all that prediction and export need, because class names, the resize mode and the threshold of
"not sure" stand in the configuration of these layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import keras
from keras import ops

from tfseg.data.cases import MaskClasses
from tfseg.data.decode import check_resize_mode
from tfseg.errors import ConfigError

OUTPUTS = (
    *("probabilities", "mask", "saliency", "saliency_mask", "unfamiliarity"),
    # Of the SE-LCN cascade's symmetry network.
    *("symmetry", "saliency_symmetry"),
)


@dataclass(frozen=True)
class ModelInfo:
    """What a model's inputs and outputs mean.

    Args:
        classes: class names in the order of ``probabilities``; empty for a segmenter alone.
        image_size: side of the square input in pixels.
        resize: how an image becomes that square, ``"stretch"`` or ``"pad"``.
        mask_classes: what the channels of ``mask`` are; None where the model has no mask.
        abstain_below: a prediction whose confidence is below this is "not sure"; 0 never abstains.
        outputs: the names of the outputs that the model has.
        positive: names of the classes that count as positive; empty where the model has no operating point.
        threshold: a case is positive from this sum of their probabilities on; None without an operating point.
        temperature: by which the logits are divided.
        symmetry: class names in the order of ``symmetry``; empty where the model has no such output.
    """

    classes: tuple[str, ...]
    image_size: int
    resize: str
    mask_classes: MaskClasses | None
    abstain_below: float
    outputs: tuple[str, ...]
    positive: tuple[str, ...] = ()
    threshold: float | None = None
    temperature: float = 1.0
    symmetry: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """Plain values; `from_json` reads them back."""
        value = asdict(self)
        value["mask_classes"] = self.mask_classes.to_json() if self.mask_classes else None
        return {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}

    @classmethod
    def from_json(cls, value: dict) -> ModelInfo:
        """Read what `to_json` writes, also without the fields that have a default; further keys are left alone.

        Raises:
            KeyError: when a key is missing.
        """
        masks, threshold = value["mask_classes"], value.get("threshold")
        return cls(
            classes=tuple(value["classes"]),
            image_size=int(value["image_size"]),
            resize=check_resize_mode(value["resize"]),
            mask_classes=MaskClasses.from_json(masks) if masks else None,
            abstain_below=float(value["abstain_below"]),
            outputs=tuple(value["outputs"]),
            positive=tuple(value.get("positive", ())),
            threshold=None if threshold is None else float(threshold),
            temperature=float(value.get("temperature", 1.0)),
            symmetry=tuple(value.get("symmetry", ())),
        )


@keras.saving.register_keras_serializable(package="tfseg")
class ClassProbabilities(keras.layers.Layer):
    """Softmax of temperature-scaled logits, in float32 under every precision policy.

    Args:
        classes: the class names in the order of the logits; sorted, different, at least two.
        temperature: logits are divided by it (Guo et al. 2017, section 4.2); above 1 makes a model less sure.
            The arg-max doesn't change.
        abstain_below: in [0, 1]; a largest probability below it is a "not sure". Kept, not applied.
        resize: how images become the model's square, ``"stretch"`` or ``"pad"``. Kept, not applied.
        positive: names of the classes that count as positive, some of `classes` and not all. Kept, not applied.
        threshold: in [0, 1]; a case is positive when the sum of their probabilities is at least this. Given with
            `positive`, or neither.

    Call:
        logits: (B, classes); returns float32 (B, classes), rows sum to 1.

    Raises:
        ValueError: on arguments out of range, and on logits with another number of classes.

    Example:
        >>> ClassProbabilities(["benign", "malignant"], temperature=2.0)(ops.zeros((1, 2)))
        [[0.5, 0.5]]
    """

    def __init__(
        self,
        classes: Sequence[str],
        temperature: float = 1.0,
        abstain_below: float = 0.0,
        resize: str = "stretch",
        positive: Sequence[str] = (),
        threshold: float | None = None,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if isinstance(classes, str) or not all(isinstance(name, str) and name for name in classes):
            raise ValueError(f"`classes` must be a list of class names, received {classes!r}")
        if len(classes) < 2 or list(classes) != sorted(set(classes)):
            raise ValueError(
                f"`classes` must be at least two different names in sorted order, received {list(classes)}"
            )
        self.classes = tuple(classes)
        self.decide(temperature, abstain_below, positive, threshold)
        self.resize = check_resize_mode(resize)

    def decide(
        self,
        temperature: float = 1.0,
        abstain_below: float = 0.0,
        positive: Sequence[str] = (),
        threshold: float | None = None,
    ) -> None:
        """Set what is chosen on validation cases. A function that was traced before keeps the temperature it had.

        Raises:
            ValueError: on arguments out of range; see the class.
        """
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"`temperature` must be a positive number, received {temperature!r}")
        if not 0 <= abstain_below <= 1:
            raise ValueError(f"`abstain_below` must lie in [0, 1], received {abstain_below!r}")
        if isinstance(positive, str) or not set(positive) < set(self.classes):
            raise ValueError(f"`positive` must be some of {list(self.classes)} and not all, received {positive!r}")
        if bool(positive) != (threshold is not None):
            raise ValueError(f"`positive` and `threshold` go together, received {positive!r} and {threshold!r}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], received {threshold!r}")
        self.temperature, self.abstain_below = float(temperature), float(abstain_below)
        self.positive, self.threshold = tuple(positive), None if threshold is None else float(threshold)

    def build(self, input_shape):
        if len(input_shape) != 2 or input_shape[-1] != len(self.classes):
            raise ValueError(
                f"`logits` must have shape (batch, {len(self.classes)}) for the classes {list(self.classes)}, "
                f"received {tuple(input_shape)}"
            )

    def call(self, logits):
        return ops.softmax(ops.cast(logits, "float32") / self.temperature, axis=-1)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "classes": list(self.classes),
            "temperature": self.temperature,
            "abstain_below": self.abstain_below,
            "resize": self.resize,
            "positive": list(self.positive),
            "threshold": self.threshold,
        }


@keras.saving.register_keras_serializable(package="tfseg")
class MaskProbabilities(keras.layers.Layer):
    """Sigmoid of one channel or softmax over several, in float32 under every precision policy.

    Args:
        mask_classes: what the channels are: a `MaskClasses`, or what its ``to_json`` gives.
        resize: how images become the model's square, ``"stretch"`` or ``"pad"``. Kept, not applied.

    Call:
        logits: (B, H, W, C) with C = 1 for background and lesion, else one channel per mask class; returns
        float32 probabilities of the same shape.

    Raises:
        ValueError: on mask classes that do not fit together or logits with another number of channels.
    """

    def __init__(self, mask_classes: dict | MaskClasses, resize: str = "stretch", **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        try:
            self.mask_classes = (
                mask_classes if isinstance(mask_classes, MaskClasses) else MaskClasses.from_json(mask_classes)
            )
        except (ConfigError, AttributeError, TypeError) as error:
            raise ValueError(f"`mask_classes` must be what MaskClasses.to_json() gives: {error}") from error
        self.resize = check_resize_mode(resize)

    def build(self, input_shape):
        if len(input_shape) != 4 or input_shape[-1] != self.mask_classes.channels:
            raise ValueError(
                f"`logits` must have shape (batch, height, width, {self.mask_classes.channels}) for the mask classes "
                f"{list(self.mask_classes.names)}, received {tuple(input_shape)}"
            )

    def call(self, logits):
        logits = ops.cast(logits, "float32")
        return ops.sigmoid(logits) if self.mask_classes.channels == 1 else ops.softmax(logits, axis=-1)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "mask_classes": self.mask_classes.to_json(), "resize": self.resize}


@keras.saving.register_keras_serializable(package="tfseg")
class SymmetryProbabilities(keras.layers.Layer):
    """Softmax of the symmetry network's logits, in float32 under every precision policy.

    Args:
        classes: the class names in the order of the logits.
        temperature: by which the logits are divided.

    Call:
        logits: (B, classes); returns float32 (B, classes), rows sum to 1.
    """

    def __init__(self, classes: Sequence[str], temperature: float = 1.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.classes, self.temperature = tuple(classes), float(temperature)

    def call(self, logits):
        return ops.softmax(ops.cast(logits, "float32") / self.temperature, axis=-1)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "classes": list(self.classes), "temperature": self.temperature}


def model_info(model: keras.Model) -> ModelInfo:
    """Read what a model's inputs and outputs mean from its output layers.

    Args:
        model: an inference graph: one input (None, S, S, 3), a dictionary of outputs. Its own layers are looked
            at first, then those of the models nested in it.

    Raises:
        ValueError: when the model has neither output layer, several of one kind, layers that disagree about
            `resize`, or no fixed square input.
    """
    classes = _only(model, ClassProbabilities)
    masks = _only(model, MaskProbabilities)
    symmetry = _only(model, SymmetryProbabilities)
    if classes is None and masks is None:
        raise ValueError(
            f"the model {model.name!r} has neither a ClassProbabilities nor a MaskProbabilities layer: "
            "it is not an inference graph of tfseg"
        )
    if not isinstance(model.output, dict):
        raise ValueError(f"the model {model.name!r} must have a dictionary of outputs, out of {list(OUTPUTS)}")
    outputs = tuple(name for name in OUTPUTS if name in model.output)
    for name, layer in (("probabilities", classes), ("mask", masks)):
        if name in outputs and layer is None:
            raise ValueError(f"the output {name!r} of the model {model.name!r} does not come from its output layer")
    if classes is not None and masks is not None and classes.resize != masks.resize:
        raise ValueError(
            f"the output layers of {model.name!r} disagree about `resize`: {classes.resize!r} for classes, "
            f"{masks.resize!r} for masks"
        )
    decided = classes is not None and "probabilities" in outputs
    return ModelInfo(
        classes=classes.classes if decided else (),
        image_size=_square_side(model),
        resize=(classes or masks).resize,
        mask_classes=masks.mask_classes if masks is not None and "mask" in outputs else None,
        abstain_below=classes.abstain_below if decided else 0.0,
        outputs=outputs,
        positive=classes.positive if decided else (),
        threshold=classes.threshold if decided else None,
        temperature=classes.temperature if decided else 1.0,
        symmetry=symmetry.classes if symmetry is not None else (),
    )


def _only(model: keras.Model, kind: type) -> keras.layers.Layer | None:
    found = [layer for layer in model.layers if isinstance(layer, kind)]
    found = found or list({id(layer): layer for layer in _nested(model) if isinstance(layer, kind)}.values())
    if len(found) > 1:
        names = [layer.name for layer in found]
        raise ValueError(f"the model {model.name!r} must have one {kind.__name__} layer, it has {len(found)}: {names}")
    return found[0] if found else None


def _nested(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _nested(layer)


def _square_side(model: keras.Model) -> int:
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if isinstance(model.input, dict) and len(model.input) > 1:
        raise ValueError(
            f"the model {model.name!r} takes a mask or a map with every image: it is a control, made to be compared"
        )
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3 or shapes[0][1] != shapes[0][2]:
        raise ValueError(f"the model {model.name!r} must have one input (None, S, S, 3), it has {shapes}")
    if shapes[0][1] is None:
        raise ValueError(f"the input of the model {model.name!r} has no fixed size: {shapes[0]}")
    return int(shapes[0][1])
