"""Segmentation losses by name, all on mask logits (B, H, W, C) with pixel weights (B, H, W, 1)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from tfseg.errors import ConfigError
from tfseg.losses.dice import DiceCrossEntropy, DiceLoss, MaskLoss
from tfseg.losses.overlap import JaccardLoss, TverskyLoss
from tfseg.losses.pixelwise import CrossEntropy, DiceFocal, FocalLoss, SmoothL1Loss
from tfseg.losses.rank import DiceRank, RankLoss

LOSSES: dict[str, Callable[..., MaskLoss]] = {
    "dice": DiceLoss,
    "dice_cross_entropy": DiceCrossEntropy,
    "dice_focal": DiceFocal,
    "dice_rank": DiceRank,
    "bce": partial(CrossEntropy, from_logits=False, name="bce"),
    "bce_with_logits": partial(CrossEntropy, from_logits=True, name="bce_with_logits"),
    "smooth_l1": SmoothL1Loss,
    "focal": FocalLoss,
    "jaccard": JaccardLoss,
    "tversky": TverskyLoss,
    "rank": RankLoss,
}


def build_loss(name: str, **options) -> MaskLoss:
    """Build a segmentation loss by name.

    Args:
        name: a name out of `LOSSES`.
        options: arguments of its class.

    Raises:
        ConfigError: unknown name, an option that this loss doesn't have, or one out of range.
    """
    if name not in LOSSES:
        raise ConfigError(f"there is no segmentation loss named {name!r}; known: {', '.join(LOSSES)}")
    kind = LOSSES[name]
    known = loss_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"the loss {name} has no option {unknown[0]!r}; known: {', '.join(known) or 'none'}")
    try:
        return kind(**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the loss {name}: {error}") from error


def loss_options(name: str) -> tuple[str, ...]:
    """The options that a loss has, by name."""
    kind = LOSSES[name]
    fixed = kind.keywords if isinstance(kind, partial) else {}
    parameters = inspect.signature(kind).parameters.values()
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD or parameter.kind is parameter.KEYWORD_ONLY
        if parameter.name not in (*fixed, "name")
    )
