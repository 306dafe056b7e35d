"""What a search tries: fields of the configuration with their spaces, from words of the command line. No TensorFlow."""

from __future__ import annotations

import difflib
import itertools
import math
import types
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tfseg.approaches import APPROACHES
from tfseg.config import CENTIOU_FIELDS, CLASSIFIER_FIELDS, DECISION_FIELDS, PREDICTION_FIELDS, ComparisonConfig
from tfseg.errors import ConfigError
from tfseg.spaces import Choices, Range, Space, spaces

Tuner = Literal["random", "bayesian", "hyperband"]
Objective = Literal["val_loss", "val_accuracy", "val_balanced_accuracy", "val_iou"]
Part = Literal["classifier", "segmenter"]

TRIALS = 15
OBJECTIVES = {
    "classifier": ("val_balanced_accuracy", "val_accuracy", "val_loss"),
    "segmenter": ("val_iou", "val_loss"),
}
# What is measured must be the same for all trials.
OF_DATA = (
    *("data", "target", "cross_validation", "repeats", "split_seed", "split_file", "test_per_class", "val_fraction"),
    *("test_fraction", "subgroups", "external", "class_map", "allow", "approaches"),
)
OF_MACHINE = ("cache", "cache_dir", "distribution", "deterministic")
# These change what `val_loss` is a sum of, so that two trials' losses can't be compared.
OF_LOSS = ("cross_entropy_share", "class_weights", "training")
COMBINATIONS_CHECKED = 5_000


@dataclass(frozen=True)
class SearchPlan:
    """What is searched and how; see `plan_search`.

    Args:
        spaces: field → `Range` without a step, or `Choices`.
        tuner: KerasTuner's algorithm.
        trials: at most so many; None for as many as Hyperband's brackets have.
        objective: a column of the training's history.
        part: what is trained.
    """

    spaces: dict[str, Space]
    tuner: Tuner
    trials: int | None
    objective: Objective
    part: Part

    @property
    def direction(self) -> Literal["min", "max"]:
        return "min" if self.objective == "val_loss" else "max"

    @property
    def epochs_field(self) -> str:
        """The field that says how long is trained."""
        return "segmenter_epochs" if self.part == "segmenter" else "epochs"

    def record(self) -> dict[str, Any]:
        """The plan as ``config.json`` keeps it."""
        shown = {name: space_text(space) for name, space in self.spaces.items()}
        return {
            "part": self.part,
            "tuner": self.tuner,
            "trials": self.trials,
            "objective": self.objective,
            "fields": shown,
        }


def plan_search(
    config: ComparisonConfig,
    words: Sequence[str],
    *,
    tuner: Tuner = "random",
    trials: int | None = None,
    objective: Objective | None = None,
    part: Part = "classifier",
) -> SearchPlan:
    """Read what shall be searched, and refuse what can't be, before anything is read or trained.

    Args:
        config: the settings of all trials, for the fields that are not searched.
        words: of each field its name, or ``name=LOW..HIGH``, ``name=LOW..HIGH:log``, ``name=LOW..HIGH:STEP`` or
            ``name=A,B,C``; without values the space declared beside the field is taken.
        tuner, trials, objective, part: see `SearchPlan`; by default 15 trials, balanced accuracy for a classifier and
            IoU for a segmenter.

    Raises:
        ConfigError: an unknown field (with the nearest known one), a field without a space, a value of the wrong type
            or that the configuration refuses, a field without effect on what is trained, a control, or an objective
            that doesn't compare its trials.
    """
    if part == "classifier" and len(config.approaches) != 1:
        raise ConfigError(
            f"a search is for one approach, received {', '.join(config.approaches)}; name one with `--approach`, or "
            "search the segmenter with `--part segmenter`"
        )
    if part == "classifier" and APPROACHES[config.approaches[0]].control:
        raise ConfigError(f"{config.approaches[0]} is a control: it takes the settings of what it is compared with")
    if part == "segmenter" and (config.segmenter == "none" or config.segmenter_file):
        raise ConfigError("`--part segmenter` trains a segmenter: leave `segmenter_file` and `--segmenter none` out")
    if trials is not None and trials < 2:
        raise ConfigError(f"`trials` must be at least 2, received {trials}")
    if not words:
        raise ConfigError(f"`fields` must name what to search; declared beside a field are: {', '.join(_declared())}")
    found: dict[str, Space] = {}
    for word in words:
        name, space = read_field(word)
        if name in found:
            raise ConfigError(f"`fields` names {name} twice")
        _check_effect(name, config, part)
        found[name] = space
    objective = objective or OBJECTIVES[part][0]
    trials = TRIALS if trials is None and tuner != "hyperband" else trials
    plan = SearchPlan(found, tuner, trials, objective, part)
    _check_objective(plan)
    _check_values(plan, config)
    return plan


def read_field(word: str) -> tuple[str, Space]:
    """The field and the space that a word of `--fields` names.

    Raises:
        ConfigError: see `plan_search`.
    """
    name, given, text = word.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    known = [entry.name for entry in fields(ComparisonConfig)]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigError(f"`fields`: there is no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    hint = get_type_hints(ComparisonConfig)[name]
    if given:
        return name, _read_space(name, text.strip(), hint)
    declared = _declared()
    if name not in declared:
        example = "10..50:10" if _number(hint) is int else "0.1..0.5" if _number(hint) is float else "A,B"
        raise ConfigError(f"`fields`: no space is declared beside {name}; give one, such as {name}={example}")
    return name, _settled(name, declared[name], hint)


def space_text(space: Space) -> str:
    """A space as `read_field` reads it."""
    if isinstance(space, Choices):
        return ",".join(_word(value) for value in space.values)
    return f"{space.low:g}..{space.high:g}" + (":log" if space.log else f":{space.step:g}" if space.step else "")


def combinations(found: dict[str, Space]) -> int | None:
    """How many settings there are in all, or None where a field takes any value between two."""
    if any(isinstance(space, Range) for space in found.values()):
        return None
    return math.prod(len(space.values) for space in found.values())


def _declared() -> dict[str, Space]:
    """The spaces beside the fields, without those of what is never searched."""
    never = OF_DATA + OF_MACHINE + PREDICTION_FIELDS
    return {name: space for name, space in spaces(ComparisonConfig).items() if name not in never}


def _read_space(name: str, text: str, hint: Any) -> Space:
    number = _number(hint)
    if number and ".." in text:
        ends, _, rest = text.partition(":")
        low, _, high = ends.partition("..")
        step = None if rest in ("", "log") else _value(name, rest, number)
        space = Range(_value(name, low, number), _value(name, high, number), step, log=rest == "log")
    else:
        values = [_value(name, part.strip(), hint) for part in text.split(",")]
        if len({_word(value) for value in values}) < max(2, len(values)):
            raise ConfigError(
                f"`fields`: {name} needs at least two different values, or LOW..HIGH, received {text!r}; a single one "
                f"is set with `--{name.replace('_', '-')}`"
            )
        space = Choices(*values)
    return _settled(name, space, hint)


def _settled(name: str, space: Space, hint: Any) -> Space:
    """A space without a step: a stepped range is the list of its values."""
    if isinstance(space, Choices):
        # What `auto` and `none` stand for is among the others, or nothing to train.
        kept = [value for value in space.values if value != "auto" and (name, value) != ("segmenter", "none")]
        if len(kept) < 2:
            raise ConfigError(f"`fields`: {name} has no two values to choose from; give them, as {name}=A,B")
        return Choices(*kept)
    whole = _number(hint) is int
    if whole and (not space.step or any(part != int(part) for part in (space.low, space.high, space.step))):
        raise ConfigError(
            f"`fields`: {name} is a whole number: give a whole step, such as {name}={space.low:g}..{space.high:g}:1, "
            f"or values, received {space_text(space)}"
        )
    if not space.step:
        return space
    # In floating point 0.6 / 0.1 is a little below 6.
    count = int((space.high - space.low) / space.step + 1e-6) + 1
    values = [round(space.low + index * space.step, 12) for index in range(count)]
    if count < 2:
        raise ConfigError(f"`fields`: {name}={space_text(space)} holds one value only: the step is too large")
    return Choices(*(int(value) if whole else value for value in values))


def _number(hint: Any) -> type | None:
    """``int`` or ``float`` where a field holds such a number, perhaps or None."""
    kinds = [kind for kind in get_args(hint) if kind is not types.NoneType] if _optional(hint) else [hint]
    return kinds[0] if kinds[0] in (int, float) else None


def _optional(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and types.NoneType in get_args(hint)


def _value(name: str, word: str, hint: Any) -> Any:
    """A word as a value of a field's type."""
    if _optional(hint):
        if word.lower() == "none":
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not types.NoneType)
    if get_origin(hint) is Literal:
        if word not in get_args(hint):
            near = ", ".join(map(str, get_args(hint)))
            raise ConfigError(f"`fields`: {name} takes {near}; received {word!r}")
        return word
    if hint is bool and word.lower() in ("true", "false"):
        return word.lower() == "true"
    if hint is str and word:
        return word
    if hint in (int, float):
        try:
            value = hint(word)
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            return value
    kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "a text")
    raise ConfigError(f"`fields`: {name} takes {kind}, received {word!r}")


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _check_effect(name: str, config: ComparisonConfig, part: Part) -> None:
    """Refuse a field that would make the trials differ in something else than what is trained, or in nothing."""
    approach = APPROACHES[config.approaches[0]]
    masked = part == "classifier" and (approach.needs_segmenter or approach.symmetry is not None)
    reason = None
    if name in OF_DATA:
        reason = "all trials are measured on the same cases"
    elif name in OF_MACHINE:
        reason = "it is no setting of the training"
    elif name in PREDICTION_FIELDS + DECISION_FIELDS:
        reason = "a trial is judged by its training, which doesn't look at it"
    elif part == "classifier" and name.startswith("symmetry"):
        reason = "all trials look at one symmetry network's maps"
    elif part == "classifier" and name.startswith("segmenter"):
        reason = "it is the segmenter's: `--part segmenter` searches that"
    elif part == "segmenter" and (name in CLASSIFIER_FIELDS or name == "segmenter_file"):
        reason = "it has no effect on the segmenter"
    elif name in CENTIOU_FIELDS and config.approaches != ("centiou",):
        reason = f"it has no effect on {config.approaches[0]}"
    elif masked and name in ("image_size", "resize", "hair_removal"):
        reason = f"{config.approaches[0]} takes the same maps in all trials, which are of one size and these images"
    if reason:
        raise ConfigError(f"`fields`: {name} can't be searched: {reason}")


def _check_objective(plan: SearchPlan) -> None:
    if plan.objective not in OBJECTIVES[plan.part]:
        raise ConfigError(
            f"`objective` of a {plan.part} is one of {', '.join(OBJECTIVES[plan.part])}; received {plan.objective}"
        )
    moving = [name for name in OF_LOSS if name in plan.spaces]
    if plan.objective == "val_loss" and moving:
        raise ConfigError(
            f"`objective` val_loss can't compare trials that differ in {', '.join(moving)}, which the loss is made "
            "of; take val_balanced_accuracy"
        )
    if plan.tuner == "hyperband" and plan.epochs_field in plan.spaces:
        raise ConfigError(
            f"`fields`: hyperband sets {plan.epochs_field} itself, up to `--{plan.epochs_field.replace('_', '-')}`"
        )


def _check_values(plan: SearchPlan, config: ComparisonConfig) -> None:
    """Every value, and where there are not too many of them every combination, must be a configuration."""
    of_field = {
        name: space.values if isinstance(space, Choices) else (space.low, space.high)
        for name, space in plan.spaces.items()
    }
    together = math.prod(len(values) for values in of_field.values()) <= COMBINATIONS_CHECKED
    tried = (
        (dict(zip(of_field, values, strict=True)) for values in itertools.product(*of_field.values()))
        if together
        else ({name: value} for name, values in of_field.items() for value in values)
    )
    for values in tried:
        try:
            replace(config, **values)
        except ConfigError as error:
            shown = ", ".join(f"{name}={_word(value)}" for name, value in values.items())
            raise ConfigError(f"`fields` would try {shown}: {error}") from error
