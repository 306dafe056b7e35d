"""Settings that can't be, alone or together. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from tfseg.errors import ConfigError
from tfseg.names import NO_IMAGENET, Flips, Postprocessing
from tfseg.words import named_values


def check_config(config) -> None:
    """Refuse a configuration that no data could be trained with.

    Args:
        config: a `tfseg.config.ComparisonConfig`, which calls this.

    Raises:
        ConfigError: names the setting, what it may be and what it is.
    """
    _check_numbers(config)
    _check_together(config)
    _check_weights(config)
    check_decisions(config.sensitivity, config.positive, config.abstain_share, config.familiar_share)


def _check_numbers(config):
    positive = ("image_size", "cross_validation", "repeats", "epochs", "batch_size", "patience", "mask_size")
    positive += ("symmetry_epochs",)
    of_segmenter = ("epochs", "batch_size", "width", "depth", "patience", "scale")
    for name in (*positive, *(f"segmenter_{name}" for name in of_segmenter)):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"`{name}` must be at least 1, received {value}")
    for name in ("segmenter_learning_rate", "symmetry_learning_rate", "learning_rate"):
        if not getattr(config, name) > 0.0:
            raise ConfigError(f"`{name}` must be above 0, received {getattr(config, name)}")
    counts = ("epoch_images", "freeze_first", "unfreeze_per_epoch", "head_units", "seed", "split_seed")
    counts += ("test_per_class", "segmenter_masks", "warmup_epochs", "pixel_steps", "head_epochs")
    for name in (*counts, "weight_decay", "joint_segmentation", "joint_symmetry"):
        if (getattr(config, name) or 0) < 0:
            raise ConfigError(f"`{name}` must be at least 0, received {getattr(config, name)}")
    ranges = {"dropout": 0.99, "momentum": 0.9999, "zoom": 0.99, "shift": 0.99, "rotation": 180.0, "shear": 60.0}
    shares = ("cross_entropy_share", "background_swap", "brightness", "contrast", "saturation")
    for name, upper in {**ranges, **dict.fromkeys(shares, 1.0)}.items():
        value = getattr(config, name)
        if value is not None and not 0.0 <= value <= upper:
            raise ConfigError(f"`{name}` must lie in [0, {upper:g}], received {value}")
    if not 0.0 < config.val_fraction < 1.0:
        raise ConfigError(f"`val_fraction` must lie between 0 and 1, received {config.val_fraction}")
    if not 0.0 <= config.test_fraction < 1.0:
        raise ConfigError(f"`test_fraction` must lie in [0, 1), received {config.test_fraction}")
    if config.segmenter_slope is not None and not 0.0 <= config.segmenter_slope < 1.0:
        raise ConfigError(f"`segmenter_slope` must lie in [0, 1), received {config.segmenter_slope}")


def _check_together(config):
    if config.image_size % config.segmenter_scale:
        raise ConfigError(
            f"`segmenter_scale` must divide `image_size`, received {config.segmenter_scale} and {config.image_size}"
        )
    if sum((config.cross_validation > 1, bool(config.split_file), bool(config.test_per_class))) > 1:
        raise ConfigError("only one of `cross_validation`, `test_per_class` and `split_file` can divide the cases")
    if config.test_fraction and config.cross_validation == 1:
        raise ConfigError("`test_fraction` is for `cross_validation`: a single split has a test part of its own")
    if not config.approaches or len(set(config.approaches)) != len(config.approaches):
        raise ConfigError(f"`approaches` must name at least one, each once, received {list(config.approaches)}")
    by_gradient = [name for name in config.approaches if name == "centiou" or name.startswith(("fusion", "se_lcn"))]
    if config.training == "probe" and by_gradient:
        raise ConfigError(f"{', '.join(by_gradient)} trains by gradient: it can't be an approach of `--training probe`")
    if config.training == "probe" and config.head != "dense":
        raise ConfigError("a probe has a linear head on pooled features: `head` must be dense")
    if config.head_epochs and config.distribution == "multiworker":
        raise ConfigError("`head_epochs` trains on one machine: `distribution` can't be multiworker")
    if config.joint_symmetry and config.distribution == "multiworker":
        raise ConfigError("`joint_symmetry` trains on one machine: `distribution` can't be multiworker")
    if config.class_map and not config.external:
        raise ConfigError("`class_map` is for `external` datasets, and there are none")
    for name in ("segmenter_options", "segmenter_loss_options"):
        named_values(getattr(config, name), name)
    if config.segmenter_flips not in get_args(Flips):
        known = ", ".join(get_args(Flips))
        raise ConfigError(f"`segmenter_flips` must be one of {known}, received {config.segmenter_flips!r}")
    if not set(config.segmenter_postprocessing) <= set(get_args(Postprocessing)):
        known, given = ", ".join(get_args(Postprocessing)), list(config.segmenter_postprocessing)
        raise ConfigError(f"`segmenter_postprocessing` must hold names out of {known}, received {given}")


def _check_weights(config):
    if config.weights is not None and config.backbone == "small_cnn":
        raise ConfigError("small_cnn has no pretrained weights: leave `--weights` out or choose mobilenet_v2")
    if config.weights is not None and config.weights_dir is not None:
        raise ConfigError("give `weights` or `weights_dir`, not both")
    fitting = {"auto", "none", "small_cnn", "mobilenet_v2" if config.backbone == "auto" else config.backbone}
    if config.weights not in (None, "imagenet"):
        for what, network in (
            ("the segmenter's encoder", config.segmenter_encoder),
            ("the mask's branch", config.mask_backbone),
            ("the symmetry network", config.symmetry_backbone),
        ):
            if what == "the symmetry network" and config.symmetry_weights:
                continue
            if network not in fitting:
                raise ConfigError(
                    f"one file of weights can't be for the backbone {config.backbone} and {what} {network}: give a "
                    "folder with a file for each as `--weights-dir`"
                    + (", or `--symmetry-weights`" if what == "the symmetry network" else "")
                )
    if config.weights == "imagenet" and config.backbone in NO_IMAGENET:
        raise ConfigError(f"Keras has no ImageNet weights for {config.backbone}: give `--weights PATH` of a file")


def check_decisions(
    sensitivity: float | None, positive: Sequence[str], abstain_share: float, familiar_share: float
) -> None:
    """Refuse what a classifier can't decide by; see the fields of `ComparisonConfig`.

    Raises:
        ConfigError: a share out of range, or positive classes without a sensitivity, or the other way round.
    """
    if sensitivity is not None and not 0.0 < sensitivity <= 1.0:
        raise ConfigError(f"`sensitivity` must lie in (0, 1], received {sensitivity}")
    if (sensitivity is None) != (not positive) or isinstance(positive, str):
        raise ConfigError(
            f"`positive` must name the classes of a `sensitivity`, and only then, received {positive!r} and "
            f"{sensitivity}"
        )
    if not 0.0 <= abstain_share < 1.0:
        raise ConfigError(f"`abstain_share` must lie in [0, 1), received {abstain_share}")
    if not 0.0 <= familiar_share <= 1.0:
        raise ConfigError(f"`familiar_share` must lie in [0, 1], received {familiar_share}")


def check_positive(positive: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse positive classes that aren't some of these, or are all of them.

    Raises:
        ConfigError: names the classes.
    """
    if positive and not set(positive) < set(classes):
        raise ConfigError(
            f"`positive` must be some of the classes {', '.join(classes)} and not all, received {', '.join(positive)}"
        )
