"""What can be configured: frozen dataclasses, from which the command line is made. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from tfseg.errors import ConfigError

Approach = Literal["plain", "hard_mask", "soft_mask", "lesion_area", "centiou"]


@dataclass(frozen=True)
class ComparisonConfig:
    """One segmenter and any number of classifiers, trained and tested on the same parts of the same data."""

    # What is learned from.
    data: str
    """A folder with labels.csv, images/ and masks/, or NAME:PATH."""
    target: str = "label"
    """The column to learn."""
    image_size: int = 160
    """Side of the models' square input, in pixels."""
    resize: Literal["stretch", "pad"] = "stretch"
    """How an image becomes that square: its aspect given up, or kept on black."""
    folds: int = 1
    """1 for one train/validation/test split, K for K-fold cross-validation."""
    split_seed: int = 0
    """Draws the split; not the training's seed, so that several seeds share one split."""
    split_file: str | None = None
    """The parts, as another run's splits.json has them: one split can bind several trainings."""
    test_per_class: int = 0
    """Test cases of each class, in place of a share of all; 0: 15 % of all."""
    val_fraction: float = 0.15
    """Share of what is not tested that chooses epochs and rows, with folds or test_per_class."""
    subgroups: tuple[str, ...] = ()
    """Columns by which the test scores are broken down."""
    external: tuple[str, ...] = ()
    """Further datasets to test every row on in the end."""
    class_map: str | None = None
    """JSON file {"their class": "our class" or null} for the external datasets; null leaves a class out."""
    allow: tuple[str, ...] = ()
    """Kinds of data errors to go on with, as `tfseg audit` names them."""

    # The segmenter.
    segmenter: Literal["unet"] = "unet"
    """Architecture of the segmenter."""
    segmenter_file: str | None = None
    """A trained segmenter (.keras) to use instead of training one."""
    segmenter_encoder: Literal["auto", "none", "small_cnn", "mobilenet_v2"] = "auto"
    """Contracting path; auto: mobilenet_v2 where weights are given, else the plain one."""
    segmenter_width: int = 16
    """Filters of the segmenter's first level."""
    segmenter_depth: int = 4
    """Halvings of the plain contracting path."""
    segmenter_epochs: int = 30
    segmenter_batch_size: int = 8
    segmenter_learning_rate: float = 1e-3
    segmenter_patience: int = 30
    """Epochs without a better validation IoU before training stops."""

    # The classifiers.
    approaches: Annotated[tuple[Approach, ...], tyro.conf.arg(name="approach")] = (
        "plain",
        "hard_mask",
        "soft_mask",
        "centiou",
    )
    """Training approaches to compare."""
    backbone: Literal["auto", "small_cnn", "mobilenet_v2"] = "auto"
    """Network of the classifiers; auto: mobilenet_v2 where weights are given, else small_cnn."""
    weights: str | None = None
    """`imagenet`, or the path of a weights file, for the backbone and the segmenter's encoder."""
    freeze_first: int = 90
    """How many of the backbone's first layers stay as the pretrained weights have them."""
    head_units: int = 64
    """Width of the head's hidden layer; 0 for a linear head."""
    dropout: float = 0.3
    """Dropout rate before the head's dense layers."""
    class_weights: bool = True
    """Weigh the cross entropy of each class by N / (N_i · C)."""
    cross_entropy_share: float = 0.5
    """CEntIoU's λ: the share of cross entropy; the rest is the overlap of saliency map and mask."""
    saliency_gradient: Literal["full", "none"] = "full"
    """Whether CEntIoU trains through the map, or only adds it to the loss."""
    epochs: int = 25
    batch_size: int = 16
    learning_rate: float = 5e-4
    patience: int = 25
    """Epochs without a lower validation loss before training stops."""
    learning_rate_schedule: Literal["constant", "cosine"] = "cosine"
    """Constant, or falling to zero over the epochs along a half cosine; for segmenter and classifiers."""

    # Augmentation of the training part.
    augmentation: Literal["none", "free", "oral", "cervical", "ebhi", "se_lcn"] = "free"
    """How training images are changed: a paper's recipe, `free` (flips, any rotation), or nothing."""
    flips: bool | None = None
    """Mirror left–right and up–down. None, here and below: as the recipe says."""
    rotation: float | None = None
    """Largest rotation, degrees."""
    zoom: float | None = None
    """Largest relative change of scale."""
    shift: float | None = None
    """Largest shift, as a share of the side."""
    shear: float | None = None
    """Largest slant, degrees."""
    brightness: float | None = None
    """Largest relative change of brightness."""
    contrast: float | None = None
    """Largest relative change of contrast."""
    saturation: float | None = None
    """Largest relative change of saturation."""
    background_swap: float = 0.0
    """Share of a classifier's images that get another image's background, around the dilated true mask."""

    # What an epoch is made of.
    balance: Literal["none", "majority", "towards"] = "none"
    """Repeat training cases up to the largest class; or towards 2,000 of each class, at most 4 times each, with larger
    classes sampled down."""
    epoch_images: int = 160
    """Most training images of one epoch; the next epoch goes on with the others. 0: all."""

    # The machine.
    cache: Literal["memory", "disk"] = "memory"
    """Where decoded images are kept: disk keeps them for the next run, and data above 1 GiB out of memory."""
    cache_dir: str = "runs/cache"
    """Folder of the disk cache."""
    seed: int = 0
    """Initial weights, order and augmentation."""
    distribution: Literal["one", "mirrored"] = "one"
    """One device, or all devices of this machine. Batch sizes are global."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    deterministic: bool = False
    """Same weights from the same seed, bit by bit; slower."""

    def __post_init__(self):
        positive = ("image_size", "folds", "segmenter_epochs", "segmenter_batch_size", "epochs", "batch_size")
        for name in (*positive, "segmenter_width", "segmenter_depth", "segmenter_patience", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, received {getattr(self, name)}")
        for name in ("segmenter_learning_rate", "learning_rate"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"`{name}` must be above 0, received {getattr(self, name)}")
        for name in ("epoch_images", "freeze_first", "head_units", "seed", "split_seed", "test_per_class"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must be at least 0, received {getattr(self, name)}")
        ranges = {"dropout": 0.99, "zoom": 0.99, "shift": 0.99, "rotation": 180.0, "shear": 60.0}
        shares = ("cross_entropy_share", "background_swap", "brightness", "contrast", "saturation")
        for name, upper in {**ranges, **dict.fromkeys(shares, 1.0)}.items():
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= upper:
                raise ConfigError(f"`{name}` must lie in [0, {upper:g}], received {value}")
        if not 0.0 < self.val_fraction < 1.0:
            raise ConfigError(f"`val_fraction` must lie between 0 and 1, received {self.val_fraction}")
        if sum((self.folds > 1, bool(self.split_file), bool(self.test_per_class))) > 1:
            raise ConfigError("only one of `folds`, `test_per_class` and `split_file` can divide the cases")
        if self.class_map and not self.external:
            raise ConfigError("`class_map` is for `external` datasets, and there are none")
        if not self.approaches or len(set(self.approaches)) != len(self.approaches):
            raise ConfigError(f"`approaches` must name at least one, each once, received {list(self.approaches)}")
        if self.weights is not None and self.backbone == "small_cnn":
            raise ConfigError("small_cnn has no pretrained weights: leave `--weights` out or choose mobilenet_v2")

    def resolved(self) -> ComparisonConfig:
        """The same with every ``auto`` decided."""
        pretrained = "mobilenet_v2" if self.weights is not None else None
        encoder = (pretrained or "none") if self.segmenter_encoder == "auto" else self.segmenter_encoder
        backbone = (pretrained or "small_cnn") if self.backbone == "auto" else self.backbone
        return replace(self, segmenter_encoder=encoder, backbone=backbone)


def to_plain(config: ComparisonConfig) -> dict[str, Any]:
    """A configuration as JSON values."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def from_plain(values: Mapping[str, Any]) -> ComparisonConfig:
    """Read what `to_plain` writes.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a value of another type, or no ``data``.
    """
    import difflib
    import types

    known = {field.name for field in fields(ComparisonConfig)}
    hints = get_type_hints(ComparisonConfig)
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(f"unknown configuration key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        hint = hints[key]
        choices = getattr(hint, "__args__", ())
        if getattr(hint, "__origin__", None) is Literal:
            fits = value in choices
        elif getattr(hint, "__origin__", None) is tuple:
            allowed = getattr(choices[0], "__args__", None)
            fits = isinstance(value, list | tuple) and all(
                item in allowed if allowed else isinstance(item, str) for item in value
            )
        elif isinstance(hint, types.UnionType):
            fits = any(_is_a(value, choice) for choice in choices)
        else:
            fits = _is_a(value, hint)
        if not fits:
            raise ConfigError(f"`{key}` must be {hint}, received {value!r}")
    if "data" not in values:
        raise ConfigError("the configuration key 'data' is missing")
    return ComparisonConfig(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )


def _is_a(value: Any, kind: type) -> bool:
    """Whether a JSON value is of this type; a whole number is a float too, a truth value is no number."""
    return type(value) is kind or (kind is float and type(value) is int)


DEMO = ComparisonConfig(
    data="",
    image_size=64,
    segmenter_width=8,
    segmenter_depth=3,
    segmenter_epochs=10,
    segmenter_batch_size=16,
    epochs=24,
    batch_size=32,
    learning_rate=1e-3,
    dropout=0.2,
    epoch_images=0,
)

QUICKSTART_PRESETS = {
    # Flips and quarter turns leave every pixel as it was photographed; on validation they were better than free
    # rotation and scale for the fine texture that pretrained features read.
    "quick": ComparisonConfig(data="", augmentation="se_lcn", balance="majority"),
    "paper": ComparisonConfig(
        data="",
        image_size=224,
        segmenter_width=64,
        segmenter_epochs=200,
        segmenter_batch_size=16,
        segmenter_patience=20,
        segmenter_learning_rate=1e-4,
        freeze_first=0,
        epoch_images=0,
        augmentation="oral",
        epochs=700,
        batch_size=32,
        patience=20,
        learning_rate=2.5e-5,
        learning_rate_schedule="constant",
        class_weights=False,
        dropout=0.0,
        cross_entropy_share=0.6,
    ),
}
