"""What can be configured: frozen dataclasses, from which the command line is made. No TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tfseg.config_checks import check_config
from tfseg.errors import ConfigError
from tfseg.names import Approach, BackboneName, Flips, Postprocessing, SymmetryApproach
from tfseg.spaces import Choices, Range

# What names a file or a folder.
PATH_FIELDS = (
    *("data", "weights", "weights_dir", "symmetry_weights", "segmenter_file", "symmetry_file", "split_file"),
    *("class_map", "cache_dir"),
)
# What a trained segmenter's masks are made with; nothing of it is looked at in a training.
PREDICTION_FIELDS = ("segmenter_flips", "segmenter_postprocessing")
# What is chosen on the validation part when a classifier is trained.
DECISION_FIELDS = ("calibration", "sensitivity", "positive", "abstain_share", "familiar_share")
# What only a fusion looks at, what only CEntIoU does, and what only classifiers do.
FUSION_FIELDS = ("mask_backbone", "mask_size", "mask_input", "joint_segmentation")
SE_LCN_FIELDS = ("symmetry_approach", "joint_symmetry")
CENTIOU_FIELDS = ("cross_entropy_share", "saliency_gradient", "saliency_target")
CLASSIFIER_FIELDS = (
    *("backbone", "freeze_first", "unfreeze_per_epoch", "batch_norm", "head", "head_units", "dropout"),
    *("class_weights", *FUSION_FIELDS, *SE_LCN_FIELDS, *CENTIOU_FIELDS, "saliency", "saliency_layer", "pixel_steps"),
    *(
        "training",
        "head_epochs",
        "epochs",
        "batch_size",
        "learning_rate",
        "patience",
        "monitor",
        "background_swap",
        *DECISION_FIELDS,
    ),
)


@dataclass(frozen=True)
class ComparisonConfig:
    """One segmenter and any number of classifiers, trained and tested on the same parts of the same data."""

    # What is learned from.
    data: str
    """A folder with labels.csv, images/ and masks/, or NAME:PATH."""
    target: str = "label"
    """The column to learn; COLUMN:OLD=NEW,… renames classes, those of the same new name become one, OLD= leaves
    one out."""
    image_size: int = 160
    """Side of the models' square input, in pixels."""
    resize: Literal["stretch", "pad"] = "stretch"
    """How an image becomes that square: its aspect given up, or kept on black."""
    cross_validation: int = 1
    """1 for one train/validation/test split, K for K-fold cross-validation."""
    repeats: int = 1
    """Trainings of each classifier on each fold, from different seeds; they share the fold's segmenter."""
    split_seed: int = 0
    """Draws the split; not the training's seed, so that several seeds share one split."""
    split_file: str | None = None
    """The parts, as another run's splits.json has them: one split can bind several trainings."""
    test_per_class: int = 0
    """Test cases of each class, in place of a share of all; 0: 15 % of all."""
    val_fraction: float = 0.15
    """Share of what is not tested that chooses epochs and rows, with cross_validation or test_per_class."""
    test_fraction: float = 0.0
    """Share of all cases that is the test part of every fold, with cross_validation: the folds are then of the others,
    and each of them is the validation part once. 0: each fold is the test part once."""
    subgroups: tuple[str, ...] = ()
    """Columns by which the test scores are broken down."""
    external: tuple[str, ...] = ()
    """Further datasets to test every row on in the end."""
    class_map: str | None = None
    """JSON file {"their class": "our class" or null} for the external datasets; null leaves a class out."""
    allow: tuple[str, ...] = ()
    """Kinds of data errors to go on with, as `tfseg audit` names them."""
    hair_removal: bool = False
    """Whether dark hairs are taken out of every image, in training as inside the trained models."""

    # The segmenter.
    segmenter: Literal[
        "none",
        "unet",
        "attention_unet",
        "trans_unet",
        "double_unet",
        "swin_unet",
        "fcn_8s",
        "fcn_16s",
        "fcn_32s",
        "deeplab_v3_plus",
        "fpn",
    ] = "unet"
    """Architecture of the segmenter; none: only approaches that need no mask."""
    segmenter_options: tuple[str, ...] = ()
    """Further options of the architecture as NAME=VALUE, such as skip_connections=false or dropout=0.2."""
    segmenter_loss: Literal[
        "dice",
        "dice_cross_entropy",
        "dice_focal",
        "dice_rank",
        "bce",
        "bce_with_logits",
        "smooth_l1",
        "focal",
        "jaccard",
        "tversky",
    ] = "dice_cross_entropy"
    segmenter_loss_options: tuple[str, ...] = ()
    """Options of the loss as NAME=VALUE, such as gamma=3."""
    segmenter_slope: float | None = None
    """Stop when the training loss, as a share of its largest, falls by less than this per epoch (EBHI report: 1e-3)."""
    segmenter_file: str | None = None
    """A trained segmenter (.keras) to use instead of training one."""
    segmenter_encoder: Literal["auto", "none", BackboneName] = "auto"
    """Contracting path; auto: mobilenet_v2 where weights are given, else the plain one."""
    segmenter_width: Annotated[int, Choices(8, 16, 32)] = 16
    """Filters of the segmenter's first level."""
    segmenter_depth: int = 4
    """Halvings of the plain contracting path."""
    segmenter_scale: int = 1
    """How many times smaller the image is that the segmenter sees; its mask is brought back to the image's size."""
    segmenter_masks: int = 0
    """How many true masks of each class the segmenter learns from, validation included; 0: all there are."""
    segmenter_epochs: int = 30
    segmenter_batch_size: Annotated[int, Choices(4, 8, 16, 32)] = 8
    segmenter_learning_rate: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-3
    segmenter_patience: int = 30
    """Epochs without a better validation IoU before training stops."""
    segmenter_flips: Flips = "none"
    """Mirror images (left–right, up–down; both: these and both at once) whose maps are averaged with the image's own
    where the segmenter's masks are scored or written. The masks that classifiers see are of the image alone, in
    training as in the exported graph."""
    segmenter_postprocessing: tuple[Postprocessing, ...] = ()
    """What is done to the masks that are scored or written, in this order: keep the lesion's largest part, fill its
    holes. The masks that classifiers see stay as they are."""

    # The classifiers.
    approaches: Annotated[tuple[Approach, ...], tyro.conf.arg(name="approach")] = (
        "plain",
        "hard_mask",
        "soft_mask",
        "centiou",
    )
    """Training approaches to compare. The last eight are controls: what is outside of the predicted mask alone, the
    lesion's box filled with the image's mean colour, the predicted mask moved to a random place, and the true mask;
    fusion_gap with the true masks, and with an empty class map; se_lcn with another image's map, and an empty one."""
    backbone: Literal["auto", BackboneName] = "auto"
    """Network of the classifiers; auto: mobilenet_v2 where weights are given, else small_cnn."""
    weights: str | None = None
    """`imagenet`, or the path of a weights file, for the backbone and the segmenter's encoder."""
    weights_dir: str | None = None
    """Folder with a file of weights for each network, NAME….npz or NAME….weights.h5, in place of `weights`."""
    freeze_first: Annotated[int | None, Range(0, 100, step=10)] = None
    """How many of the backbone's first layers stay as the pretrained weights have them. None: 87 % of those that have
    weights (90 of MobileNetV2's 104)."""
    unfreeze_per_epoch: Annotated[int, Choices(0, 1, 2, 5, 10)] = 0
    """How many of those layers are trained from every further epoch on, the last of them first; 0: none."""
    batch_norm: Literal["frozen", "reestimated"] = "frozen"
    """Batch norm of a pretrained backbone: as the weights have it, or trained, from the training images' statistics."""
    head: Literal["dense", "convolution", "flatten"] = "dense"
    """Dense layers on pooled features; SqueezeNet's: dropout, 1×1 convolution to the classes, ReLU, pooling; or dense
    layers on all features."""
    head_units: Annotated[int, Choices(0, 32, 64, 128, 256)] = 64
    """Width of the dense head's hidden layer; 0 for a linear head."""
    dropout: Annotated[float, Range(0.0, 0.6, step=0.1)] = 0.3
    """Dropout rate before the head's layers."""
    mask_backbone: Literal["auto", BackboneName] = "auto"
    """Fusion: network of the branch that sees the class map; auto: as the image's."""
    mask_size: int | None = None
    """Fusion: side of the class map as that branch sees it, in pixels; None: as the image's."""
    mask_input: Literal["softmax", "argmax"] = "softmax"
    """Fusion: the class map as probabilities, or as the likeliest class of each pixel."""
    joint_segmentation: Annotated[float, Range(0.1, 2.0, log=True)] = 0.0
    """Fusion and SE-LCN: the weight, beside the cross entropy's 1, of the segmenter's own loss in a training of both
    together; 0: the segmenter stays as it is."""
    symmetry_target: str = "symmetry"
    """SE-LCN: the column that the symmetry network learns, as in `target`; cases without a value are left out."""
    symmetry_file: str | None = None
    """SE-LCN: a trained symmetry network (.keras) to use instead of training one."""
    symmetry_approach: SymmetryApproach = "plain"
    """SE-LCN: what the symmetry network sees of its image."""
    symmetry_backbone: Literal["auto", BackboneName] = "auto"
    """SE-LCN: network of the symmetry classifier; auto: as the lesion classifier's."""
    symmetry_weights: str | None = None
    """SE-LCN: a weights file for it, where `weights` is for another network."""
    symmetry_layer: str | None = None
    """SE-LCN: its layer whose output is explained; None: its last maps."""
    symmetry_epochs: int = 25
    symmetry_learning_rate: Annotated[float, Range(1e-5, 1e-2, log=True)] = 5e-4
    joint_symmetry: Annotated[float, Range(0.1, 2.0, log=True)] = 0.0
    """SE-LCN: the weight, beside the cross entropy's 1, of the symmetry network's own cross entropy in an end-to-end
    training of the cascade, in which the map's gradient reaches it; 0: it stays as it is."""
    class_weights: Annotated[bool, Choices(True, False)] = True
    """Weigh the cross entropy of each class by N / (N_i · C)."""
    cross_entropy_share: Annotated[float, Range(0.4, 0.9, step=0.05)] = 0.5
    """CEntIoU's λ: the share of cross entropy; the rest is the overlap of saliency map and mask."""
    saliency_gradient: Literal["full", "none"] = "full"
    """Whether CEntIoU trains through the map, or only adds it to the loss."""
    saliency_target: Literal["true", "predicted"] = "true"
    """The class whose map CEntIoU compares with the mask; a trained model explains the class it predicts."""
    saliency: Literal["grad_cam", "grad_cam_plus_plus", "grad_cam_plus_plus_normalised", "hires_cam", "layer_cam"] = (
        "grad_cam"
    )
    """How saliency maps are made, in CEntIoU as in the trained model."""
    saliency_layer: str | None = None
    """The backbone's layer whose output is explained; None: its last maps."""
    pixel_steps: int = 0
    """Steps of the insertion and deletion curves of the maps on the test images; 0: none, as each step is a further
    prediction."""
    training: Literal["gradient", "probe"] = "gradient"
    """probe: no gradient; a linear head by logistic regression on the frozen backbone's pooled features."""
    head_epochs: Annotated[int, Choices(0, 10, 30)] = 0
    """Epochs of all layers behind the backbone alone, on features that are computed once, before everything is trained
    together; 0: none."""
    epochs: int = 25
    batch_size: Annotated[int, Choices(8, 16, 32)] = 16
    learning_rate: Annotated[float, Range(1e-7, 1e-2, log=True)] = 5e-4
    patience: int = 25
    """Epochs without a better `monitor` before training stops."""
    monitor: Literal["val_loss", "val_accuracy", "val_balanced_accuracy"] = "val_loss"
    """What chooses the epoch of a classifier."""
    calibration: bool = True
    """Divide the logits by the temperature at which the validation labels are likeliest."""
    sensitivity: float | None = None
    """Share of positive cases to be found: chooses, on validation, the probability from which a case is positive."""
    positive: tuple[str, ...] = ()
    """The classes that count as positive, with `sensitivity`."""
    abstain_share: float = 0.0
    """Share of validation cases that may be "not sure"; 0: a model is never not sure."""
    familiar_share: float = 0.95
    """Share of validation cases that count as like those of the training; 0: a model doesn't tell how unfamiliar an
    image is."""

    # The optimiser, of segmenter and classifiers alike.
    learning_rate_schedule: Literal["constant", "cosine", "step", "plateau"] = "cosine"
    """Constant; falling to zero along a half cosine; a tenth from half of the epochs on; or half of it whenever
    `monitor` has not improved for a third of the patience."""
    warmup_epochs: int = 0
    """Epochs over which the learning rate rises from zero."""
    momentum: Annotated[float, Range(0.8, 0.99)] = 0.9
    """Adam's β₁."""
    weight_decay: Annotated[float, Range(1e-5, 1e-3, log=True)] = 0.0
    """Decoupled weight decay per step, as in AdamW."""

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
    background_swap: Annotated[float, Range(0.0, 1.0, step=0.25)] = 0.0
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
    distribution: Literal["one", "mirrored", "multiworker"] = "one"
    """One device, all devices of this machine, or all those of the workers in TF_CONFIG, which run the same command
    with the same --out on a shared disk. Batch sizes are global."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    deterministic: bool = False
    """Same weights from the same seed, bit by bit; slower."""

    def __post_init__(self):
        check_config(self)

    def resolved(self) -> ComparisonConfig:
        """The same with every ``auto`` decided."""
        pretrained = self.weights is not None or self.weights_dir is not None
        backbone, encoder = self.backbone, self.segmenter_encoder
        if backbone == "auto":
            backbone = "mobilenet_v2" if pretrained else "small_cnn"
        if encoder == "auto":
            one_file = self.weights not in (None, "imagenet")
            encoder = "mobilenet_v2" if pretrained and not (one_file and backbone != "mobilenet_v2") else "none"
        mask_backbone = backbone if self.mask_backbone == "auto" else self.mask_backbone
        symmetry_backbone = backbone if self.symmetry_backbone == "auto" else self.symmetry_backbone
        return replace(
            self,
            segmenter_encoder=encoder,
            backbone=backbone,
            mask_backbone=mask_backbone,
            symmetry_backbone=symmetry_backbone,
        )

    @property
    def class_map_size(self) -> int:
        """Side of the class map that a fusion's second branch sees, in pixels."""
        return self.mask_size or self.image_size

    def weights_of(self, network: str) -> str | None:
        """Where the pretrained weights of a network are: ``imagenet``, a file, or None for random ones.

        Raises:
            ConfigError: ``weights_dir`` has no file for it, or several.
        """
        if network == "small_cnn" or self.weights_dir is None:
            return None if network == "small_cnn" else self.weights
        folder, start = Path(self.weights_dir), _letters(network)
        files = [path for path in sorted(folder.glob("*")) if path.name.endswith((".npz", ".weights.h5"))]
        found = [path for path in files if _letters(path.name).startswith(start)]
        if len(found) != 1:
            raise ConfigError(
                f"`weights_dir`: expected one file {network}….npz or {network}….weights.h5 in {folder}, "
                f"found {', '.join(path.name for path in found) or 'none'}"
            )
        return str(found[0])


def _letters(name: str) -> str:
    """A name without what is written differently: ``squeezenet1_1`` and ``squeezenet_1_1`` are the same."""
    return "".join(character for character in name.lower() if character.isalnum())
