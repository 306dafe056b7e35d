"""What is settled before anything is trained: parts, audit, records, and whether the settings can work at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.config import PATH_FIELDS, ComparisonConfig
from tfseg.config_checks import check_positive
from tfseg.data.audit import Audit, audit_cases
from tfseg.data.audit_page import write_audit
from tfseg.data.batches import CaseArrays, load_arrays
from tfseg.data.cases import Cases
from tfseg.data.checks import UNREADABLE, check
from tfseg.data.decode import to_model_input
from tfseg.data.sources import load_cases
from tfseg.data.splits import Split, check_classes, read_split, split_cases, write_split
from tfseg.errors import ConfigError, DataError, RunError
from tfseg.evaluation.subgroups import subgroup_of
from tfseg.jobs.rows import ClassifierRow
from tfseg.jobs.scored_cases import external_name, mapped_cases
from tfseg.jobs.symmetry import symmetry_cases, symmetry_rows
from tfseg.layers.branches import CHANNELS
from tfseg.layers.hair import HairRemoval
from tfseg.models.backbones import build_backbone, freeze_first, frozen_count
from tfseg.models.classifier import build_classifier, explained
from tfseg.plain import to_plain
from tfseg.progress import progress_bar
from tfseg.run import Run, environment, read_json, recorded_path, write_json
from tfseg.training.segmenter import configured_loss, configured_segmenter


def recorded_config(config: ComparisonConfig) -> dict:
    """The configuration as records keep it: paths relative to ``$TFSEG_DATA`` where they lie inside it."""
    paths = {name: recorded_path(getattr(config, name)) for name in PATH_FIELDS if getattr(config, name)}
    external = tuple(recorded_path(data) for data in config.external)
    return to_plain(replace(config, **paths, external=external))


def prepared(
    run: Run, config: ComparisonConfig, rows: Sequence[ClassifierRow], cases: Cases
) -> tuple[list[Split], Audit]:
    """The parts and the audit of a comparison that can be trained.

    Args:
        run: an interrupted run keeps its parts.
        config, rows, cases: of the comparison.

    Raises:
        UserError: names the setting, the file or the cases that must be mended first.
    """
    _check_settings(config, cases, rows)
    for row in (*symmetry_rows(config, rows), *rows):
        check_row(row, config, cases)
    stored = run.path("splits.json")
    try:
        splits = read_split(stored, cases) if stored.exists() else _split(cases, config)
    except DataError:
        # What is wrong with the cases themselves says more than that they can't be divided.
        check(cases, config.allow)
        raise
    if config.split_file:
        check_classes(splits, cases, config.split_file)
    if symmetry_rows(config, rows):
        symmetry_cases(config, cases, splits)
    with progress_bar(f"auditing {len(cases)} cases", len(cases)) as advance:
        audit = audit_cases(cases, splits, config.allow, advance, classification=True)
    if not audit.ok:
        raise DataError(audit.errors, cases.name)
    return splits, audit


def configured_arrays(config: ComparisonConfig, cases: Cases) -> CaseArrays:
    """The cases decoded at the configuration's size, through its cache."""
    cache = config.cache_dir if config.cache == "disk" else None
    arrays = load_arrays(cases, config.image_size, config.resize, cache_dir=cache)
    return _without_hair(arrays) if config.hair_removal else arrays


def _without_hair(arrays: CaseArrays, batch_size: int = 32) -> CaseArrays:
    """The cases as networks behind the layer see them, which removes hairs inside the trained models."""
    remove, images = HairRemoval(dtype="float32"), np.empty(arrays.images.shape, np.uint8)
    with progress_bar(f"removing hairs of {len(arrays)} images", len(arrays)) as advance:
        for start in range(0, len(arrays), batch_size):
            seen = to_model_input(arrays.images[start : start + batch_size])
            images[start : start + batch_size] = np.round(255.0 * np.asarray(remove(seen)))
            advance(len(seen))
    return replace(arrays, images=images, without_hair=True)


def record_environment(run: Run, config: ComparisonConfig, cases: Cases) -> None:
    """Write ``environment.json``; when a run is gone on with elsewhere, that is added under ``resumed``.

    Raises:
        RunError: the data has changed since the run was begun.
    """
    path, now = run.path("environment.json"), environment(config.seed, cases.fingerprint())
    if not path.exists():
        write_json(path, now)
        return
    first = read_json(path)
    if first["data_fingerprint"] != now["data_fingerprint"]:
        raise RunError(f"{cases.name} has changed since {run.folder} was begun; give another `--out`")
    seen = [first, *first.get("resumed", [])]
    if all(any(before.get(key) != now[key] for key in now) for before in seen):
        write_json(path, {**first, "resumed": [*first.get("resumed", []), now]})


def write_records(
    run: Run,
    config: ComparisonConfig,
    cases: Cases,
    splits: list[Split],
    audit: Audit,
    say: Callable[[str], None],
    warnings: Sequence[str] | None = None,
) -> None:
    """Write what is settled before the training: environment, counts, audit and parts; and tell the warnings.

    Args:
        run, config, cases, splits, audit: of the run.
        say: takes the warnings.
        warnings: in place of the audit's.

    Raises:
        RunError: the data has changed since the run was begun.
    """
    warnings = [str(warning) for warning in audit.warnings] if warnings is None else list(warnings)
    for warning in warnings:
        say(f"warning: {warning}")
    record_environment(run, config, cases)
    write_json(run.path("data.json"), {**_counts(cases, splits), "warnings": warnings})
    write_audit(audit, cases, run.folder)
    write_split(splits, cases, run.path("splits.json"))


def _counts(cases: Cases, splits: list[Split]) -> dict:
    """Counts for the report: class × part of the first split, masks."""
    parts = splits[0].parts
    labels = cases.table["label"].to_numpy(object)
    return {
        "name": cases.name,
        "target": cases.target,
        "cases": len(cases),
        "masks": int(cases.has_mask.sum()),
        "groups": len(set(cases.groups)),
        "folds": len(splits),
        "classes": {
            name: {part: int((labels[where] == name).sum()) for part, where in parts.items()} for name in cases.classes
        },
    }


def _split(cases: Cases, config: ComparisonConfig) -> list[Split]:
    if config.split_file:
        return read_split(config.split_file, cases)
    return split_cases(
        cases,
        seed=config.split_seed,
        folds=config.cross_validation if config.cross_validation > 1 else None,
        val_fraction=config.val_fraction,
        test_per_class=config.test_per_class or None,
        test_fraction=config.test_fraction,
    )


def _check_settings(config: ComparisonConfig, cases: Cases, rows: Sequence[ClassifierRow]) -> None:
    """Stop at what would only be found out after hours of training."""
    hopeless = [kind for kind in config.allow if kind in UNREADABLE]
    if hopeless:
        raise ConfigError(f"`allow` can't let {', '.join(hopeless)} through: such files can't be trained on")
    masking = [name for name in config.approaches if APPROACHES[name].needs_segmenter]
    masking += [row.approach for row in symmetry_rows(config, rows) if APPROACHES[row.approach].masked]
    if masking and config.segmenter == "none":
        raise ConfigError(f"{', '.join(masking)}: these approaches need a segmenter, and `segmenter` is none")
    fusions = [name for name in config.approaches if APPROACHES[name].fusion]
    if fusions and cases.mask_classes.channels > CHANNELS:
        raise ConfigError(
            f"{', '.join(fusions)}: a class map holds at most {CHANNELS} mask classes, {cases.name} has "
            f"{cases.mask_classes.channels}"
        )
    learning = [name for name in config.approaches if APPROACHES[name].needs_true_masks]
    needs_masks = [name for name in config.approaches if name in (*masking, *learning)]
    if needs_masks and not cases.has_mask.any() and config.segmenter_file is None:
        raise ConfigError(
            f"{', '.join(needs_masks)}: {cases.name} has no masks; give `--segmenter-file` of a trained segmenter, "
            "or only the approach `plain`"
        )
    if learning and not cases.has_mask.any():
        raise ConfigError(f"{', '.join(learning)}: these need the true masks, and {cases.name} has none")
    missing = [name for name in config.subgroups if name not in cases.table]
    if missing:
        known = ", ".join(cases.table.columns)
        raise ConfigError(f"`subgroups`: {cases.name} has no column {', '.join(missing)}; there are {known}")
    for name in config.subgroups:
        subgroup_of(cases.table[name])
    _check_external(config, cases)
    if config.segmenter != "none" and config.segmenter_file is None and cases.has_mask.any():
        configured_loss(config)
        configured_segmenter(config, cases.mask_classes.channels, pretrained=False)


def check_row(row: ClassifierRow, base: ComparisonConfig, cases: Cases) -> None:
    """Stop at what would only be found out when the row's turn comes.

    Args:
        row: of a comparison.
        base: the comparison's configuration, resolved.
        cases: its data.

    Raises:
        ConfigError, WeightsError: names the row's setting.
    """
    config = row.config(base)
    if config.weights not in (None, "imagenet") and not Path(config.weights).is_file():
        raise ConfigError(f"weights file {config.weights} does not exist; choices: `imagenet`, a path, or none")
    if config.background_swap and not cases.has_mask.any():
        raise ConfigError(f"`background_swap` needs masks, and {cases.name} has none")
    if not row.symmetry:
        check_positive(config.positive, cases.classes)
    if APPROACHES[row.approach].symmetry == "own" and config.joint_segmentation and not config.joint_symmetry:
        raise ConfigError(
            "`joint_segmentation`: SE-LCN's segmenter learns with its symmetry network: `joint_symmetry` too"
        )
    if APPROACHES[row.approach].symmetry and config.saliency_layer is not None:
        raise ConfigError("`saliency_layer`: SE-LCN explains the maps behind its E-Layer")
    networks = {config.backbone: config.image_size}
    if APPROACHES[row.approach].fusion:
        networks[config.mask_backbone] = config.class_map_size
        if config.joint_segmentation and config.mask_input != "softmax":
            raise ConfigError(
                "`joint_segmentation`: no gradient comes back through classes; `mask_input` must be softmax"
            )
        if config.saliency_layer is not None:
            raise ConfigError("`saliency_layer`: a fusion's maps are those of the last layer of each branch")
        if config.head != "dense":
            raise ConfigError(f"`head`: a fusion has dense layers, received {config.head!r}")
    for name, size in networks.items():
        weights = config.weights_of(name)
        features = build_backbone(name, (size, size, 3), weights)
        freeze_first(features, frozen_count(features, config.freeze_first) if weights else 0)
    if config.saliency_layer is not None:
        explained(build_classifier(features, 2), config.saliency, config.saliency_layer)


def load_variants(variants: Mapping[str, str | Path], config: ComparisonConfig, cases: Cases) -> dict[str, np.ndarray]:
    """Other images of the same cases, uint8 (N, S, S, 3) each, in the cases' order.

    Args:
        variants: name → dataset.
        config: of the comparison.
        cases: of the comparison.

    Raises:
        ConfigError: a dataset whose cases or labels are others.
        DataError: files that can't be read.
    """
    found = {}
    for name, data in variants.items():
        other = load_cases(data, config.target)
        place = {case: number for number, case in enumerate(other.table["id"])}
        missing = [case for case in cases.table["id"] if case not in place]
        if missing:
            raise ConfigError(f"variant {name}: {data} lacks {len(missing)} cases of {cases.name}: {missing[0]}, …")
        same = other.subset([place[case] for case in cases.table["id"]])
        if same.table["label"].tolist() != cases.table["label"].tolist():
            raise ConfigError(f"variant {name}: {data} has other labels than {cases.name}")
        found[name] = configured_arrays(config, same).images
    return found


def _check_external(config: ComparisonConfig, cases: Cases) -> None:
    names = [external_name(data) for data in config.external]
    if len(set(names)) != len(names):
        raise ConfigError(f"`external` datasets must have different names, received {', '.join(names)}")
    for data in config.external:
        other = load_cases(data, config.target)
        if config.class_map:
            other = mapped_cases(other, config.class_map)
        unknown = sorted(set(other.classes) - set(cases.classes))
        if unknown:
            raise ConfigError(
                f"`external` {data} has classes that {cases.name} doesn't have: {', '.join(unknown)}; "
                "say with `--class-map` what they are"
            )
        check(other, config.allow, classification=False)
        if not (other.has_mask.any() or np.any(other.labels >= 0)):
            raise ConfigError(f"`external` {data} has neither labels nor masks to score")
