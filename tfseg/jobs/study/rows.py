"""What a study of segmenters compares, and how its cases are divided. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from tfseg.config import PREDICTION_FIELDS, ComparisonConfig
from tfseg.data.cases import Cases
from tfseg.data.splits import Split, read_split, split_cases
from tfseg.errors import ConfigError
from tfseg.jobs.rows import check_name

BASELINES = ("foreground", "random")
# Test and validation share of all cases where every run draws a new split; the EBHI report leaves the ratio open.
TEST_SHARE, VALIDATION_SHARE = 0.20, 0.12
# What an image-wise split of data with several images per patient can't but have.
ACROSS_PARTS = ("group_across_parts", "duplicate_across_parts")
OPTIMISTIC = "because this study splits image by image: its scores are optimistic"
NOT_LEARNED = "let through because this study learns and averages masks, not labels; the masks may differ too"


@dataclass(frozen=True)
class StudyRow:
    """One segmenter of a study, or one that needs no training.

    Args:
        name: of the row, and of its files.
        changes: fields of `ComparisonConfig` in which the row differs from the study's configuration.
        options: words for `segmenter_options`, in addition to those of the configuration.
        baseline: ``"foreground"`` calls every pixel lesion, ``"random"`` each with probability one half; None trains.
        model_of: name of an earlier row whose models are taken instead of training; the rows differ in
            `PREDICTION_FIELDS` alone. See `check_models`.
        paper: metric → published value.
        paper_classes: class → metric → published value.
        paper_epochs: (loss, IoU) of each epoch as published.

    Raises:
        ConfigError: a name that can't be a file's, an unknown baseline, a field that there isn't, or a row with the
            model of another that is a baseline or has epochs.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    baseline: Literal["foreground", "random"] | None = None
    model_of: str | None = None
    paper: Mapping[str, float] | None = None
    paper_classes: Mapping[str, Mapping[str, float]] | None = None
    paper_epochs: tuple[tuple[float, float], ...] = ()

    def __post_init__(self):
        check_name(self.name)
        if self.baseline is not None and self.baseline not in BASELINES:
            raise ConfigError(f"`baseline` must be one of {list(BASELINES)} or None, received {self.baseline!r}")
        unknown = sorted(set(self.changes) - {entry.name for entry in fields(ComparisonConfig)})
        if unknown:
            raise ConfigError(f"row {self.name}: there is no setting {unknown[0]!r} to change")
        if self.model_of is not None and (self.baseline or self.paper_epochs):
            raise ConfigError(
                f"row {self.name}: with `model_of` there is neither a `baseline` nor epochs of a training"
            )

    def config(self, base: ComparisonConfig) -> ComparisonConfig:
        """The row's own configuration, resolved."""
        changed = replace(base, **self.changes)
        return replace(changed, segmenter_options=(*changed.segmenter_options, *self.options)).resolved()

    def record(self) -> dict[str, Any]:
        """What ``config.json`` keeps of the row."""
        record = {"changes": dict(self.changes), "options": list(self.options), "baseline": self.baseline}
        return record | ({"model_of": self.model_of} if self.model_of else {})


def check_models(rows: Sequence[StudyRow], base: ComparisonConfig) -> None:
    """Refuse a row that can't have the model of the row which its `model_of` names.

    Args:
        rows: of a study, in their order.
        base: the study's configuration.

    Raises:
        ConfigError: no earlier row has that name, it trains no model of its own, or the two would be trained
            differently.
    """
    for number, row in enumerate(rows):
        if row.model_of is None:
            continue
        trained = {other.name: other for other in rows[:number] if not (other.baseline or other.model_of)}
        if row.model_of not in trained:
            raise ConfigError(
                f"row {row.name}: `model_of` must name an earlier row that is trained, out of {list(trained)}, "
                f"received {row.model_of!r}"
            )
        own, theirs = row.config(base), trained[row.model_of].config(base)
        names = [entry.name for entry in fields(ComparisonConfig) if entry.name not in PREDICTION_FIELDS]
        different = [name for name in names if getattr(own, name) != getattr(theirs, name)]
        if different:
            raise ConfigError(
                f"row {row.name}: the model of {row.model_of} needs the same {', '.join(different)} as there; only "
                f"{' and '.join(PREDICTION_FIELDS)} may differ"
            )


@dataclass(frozen=True)
class StudyDesign:
    """How a study divides its cases and counts.

    Args:
        split_by: ``"random"`` draws a split per run image by image, whatever patient an image is of; ``"group"``
            draws it by whole groups; ``"folds"`` takes the configuration's cross-validation.
        runs: number of splits, with ``"random"`` and ``"group"``.
        over_labels: means are taken within each label first, then over the labels with equal weight (EBHI report,
            Table 1); else over all images.
        model_size: score also at the network's own size (``…_model_size``), as the EBHI report does.
        surfaces: also ``hausdorff95`` and ``surface_distance``.

    Raises:
        ConfigError: an unknown way to split, or no run.
    """

    split_by: Literal["random", "group", "folds"] = "folds"
    runs: int = 1
    over_labels: bool = False
    model_size: bool = False
    surfaces: bool = False

    def __post_init__(self):
        if self.split_by not in ("random", "group", "folds"):
            raise ConfigError(f"`split_by` must be random, group or folds, received {self.split_by!r}")
        if self.runs < 1:
            raise ConfigError(f"`runs` must be at least 1, received {self.runs}")

    @property
    def allowed(self) -> dict[str, str]:
        """The audit's errors that are none in such a study, and why."""
        across = dict.fromkeys(ACROSS_PARTS, OPTIMISTIC) if self.split_by == "random" else {}
        return across if self.over_labels else {**across, "duplicate_across_labels": NOT_LEARNED}


def study_splits(cases: Cases, config: ComparisonConfig, design: StudyDesign) -> list[Split]:
    """The parts of every run or fold; a given ``split_file`` binds any design.

    With ``"random"`` and ``"group"`` run r has 68 % training, 12 % validation and 20 % test of each class, drawn with
    the seed ``split_seed + r``; an official ``split`` column is not looked at.

    Args:
        cases: what to divide.
        config: resolved.
        design: of the study.

    Raises:
        ConfigError: cross-validation together with runs.
        DataError: classes or groups too small for the parts.
    """
    if config.split_file:
        return read_split(config.split_file, cases)
    if design.split_by == "folds":
        folds = config.cross_validation if config.cross_validation > 1 else None
        options = {"val_fraction": config.val_fraction, "test_per_class": config.test_per_class or None}
        return split_cases(cases, seed=config.split_seed, folds=folds, **options)
    if config.cross_validation > 1 or config.test_per_class:
        raise ConfigError("runs that draw their own splits go without `cross_validation` and `test_per_class`")
    table = cases.table.drop(columns="split", errors="ignore")
    if design.split_by == "random":
        table = table.assign(group=table["id"])
    drawn = replace(cases, table=table)
    shares = (1 - VALIDATION_SHARE - TEST_SHARE, VALIDATION_SHARE, TEST_SHARE)
    splits = []
    for run in range(design.runs):
        (split,) = split_cases(drawn, shares, seed=config.split_seed + run)
        splits.append(replace(split, name=f"run_{run}"))
    return splits
