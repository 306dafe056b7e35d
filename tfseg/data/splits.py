"""Training, validation and test parts: stratified by label, never through a group, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfseg.data.cases import Cases
from tfseg.errors import ConfigError, DataError, Problem
from tfseg.run import read_json, write_json

PARTS = ("train", "val", "test")
OFFICIAL = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test"}
_HOLDOUT_TRIES = 50
_FOLD_TRIES = 10


@dataclass(frozen=True)
class Split:
    """Which cases are trained on, validated on and tested on.

    Args:
        train, val, test: ascending positions in the table of cases, int64.
        name: ``split``, or ``fold_1`` and so on.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    name: str = "split"

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The positions by the part's name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def split_cases(
    cases: Cases,
    fractions: Sequence[float] = (0.70, 0.15, 0.15),
    seed: int = 0,
    folds: int | None = None,
    val_fraction: float = 0.15,
    test_per_class: int | None = None,
    test_fraction: float = 0.0,
) -> list[Split]:
    """Divide the cases into training, validation and test parts.

    Without `folds`, a column ``split`` decides where there is one (``train`` or ``training``, ``val`` or
    ``validation``, ``test``; without validation cases, they are taken out of the training part). Otherwise the
    parts have the given fractions of each class, as nearly as whole groups allow. With `folds`, each case is in
    the test part of one fold, a ``split`` column is not looked at, and the validation part is taken out of the
    rest; with a `test_fraction` too, that share is the test part of all folds, and each other case is in the
    validation part of one (the SE-LCN thesis's split). With `test_per_class`, the test part has that many cases of each
    class (the cervical paper's split) and no case without a label. Otherwise cases without a label are divided like a
    class of their own. The order of the rows makes no difference.

    Args:
        cases: what to divide.
        fractions: of training, validation and test; they sum to 1.
        seed: of the split, not of the training.
        folds: number of folds, at least 2, or None.
        val_fraction: the validation part's share of what is not tested, with `folds`, `test_per_class` or an
            official test part.
        test_per_class: test cases of each class, or None; not with `folds`.
        test_fraction: share that is the same test part in all `folds`; 0: each fold is the test part once.

    Returns:
        One split, or one per fold.

    Raises:
        ConfigError: when an argument is out of range.
        DataError: when the ``split`` column is unusable, a class has too few cases or groups for the parts or
            folds asked for, or is missing from a part.
    """
    _check_arguments(fractions, folds, val_fraction, test_per_class, test_fraction)
    order = np.argsort(cases.table["id"].to_numpy(str), kind="stable")
    _, groups = np.unique(cases.groups[order], return_inverse=True)
    strata, names = cases.labels[order] + 1, ["", *cases.classes]
    rng = np.random.default_rng(seed)
    official = official_parts(cases) if folds is None and test_per_class is None else None

    if folds is not None and test_fraction:
        test = _holdout(strata, groups, test_fraction, rng, keep=folds)
        parts, rest = [], np.flatnonzero(~test)
        for held_out in _folds(strata[rest], groups[rest], names, folds, rng, cases):
            part = np.where(test, "test", "train").astype("<U5")
            part[rest[held_out]] = "val"
            parts.append(part)
    elif folds is not None:
        parts = [
            _with_validation(test, strata, groups, val_fraction, rng)
            for test in _folds(strata, groups, names, folds, rng, cases)
        ]
    elif test_per_class is not None:
        _check_enough(strata, names, test_per_class + 2, f"{test_per_class} for the test part", cases)
        wanted = np.where(np.unique(strata) > 0, test_per_class, 0)
        test = _holdout(strata, groups, wanted, rng, keep=2)
        parts = [_with_validation(test, strata, groups, val_fraction, rng)]
    elif official is not None:
        part = official[order]
        if not (part == "val").any():
            rest = part == "train"
            part[rest] = np.where(_holdout(strata[rest], groups[rest], val_fraction, rng, keep=1), "val", "train")
        parts = [part]
    else:
        test = _holdout(strata, groups, fractions[2], rng, keep=2)
        parts = [_with_validation(test, strata, groups, fractions[1] / (fractions[0] + fractions[1]), rng)]

    splits = []
    for number, part in enumerate(parts, 1):
        name = "split" if folds is None else f"fold_{number}"
        splits.append(Split(*(np.sort(order[part == wanted]).astype(np.int64) for wanted in PARTS), name))
    check_classes(splits, cases, "the `split` column" if official is not None else "the split")
    return splits


def _check_arguments(
    fractions: Sequence[float],
    folds: int | None,
    val_fraction: float,
    test_per_class: int | None,
    test_fraction: float,
) -> None:
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        received = tuple(fractions)
        raise ConfigError(f"`fractions` must be three positive numbers that sum to 1, received {received}")
    if folds is not None and (not isinstance(folds, int) or folds < 2):
        raise ConfigError(f"`folds` must be a whole number of at least 2, or None, received {folds!r}")
    if test_per_class is not None and (test_per_class < 1 or folds is not None):
        raise ConfigError(f"`test_per_class` must be at least 1 and goes without `folds`, received {test_per_class}")
    if not 0 <= test_fraction < 1 or (test_fraction and folds is None):
        raise ConfigError(f"`test_fraction` must lie in [0, 1) and goes with `folds`, received {test_fraction}")
    if not 0 < val_fraction < 1:
        raise ConfigError(f"`val_fraction` must lie between 0 and 1, received {val_fraction}")


def official_parts(cases: Cases) -> np.ndarray | None:
    """The ``split`` column as ``train``, ``val``, ``test``, str (N,), or None where there is none.

    Raises:
        DataError: when a value is unknown or a cell is empty while others are not.
    """
    if "split" not in cases.table or cases.table["split"].isna().all():
        return None
    values = cases.table["split"]
    unknown = sorted({value for value in values.dropna() if value.lower() not in OFFICIAL})
    problems = []
    if unknown:
        message = f"unknown values {', '.join(map(repr, unknown))}; known: {', '.join(OFFICIAL)}"
        problems.append(Problem("split", "column 'split'", message))
    if values.isna().any():
        first = cases.table["id"][values.isna()].iloc[0]
        message = f"{values.isna().sum()} of {len(cases)} cases have no value, the first is {first!r}"
        problems.append(Problem("split", "column 'split'", message))
    if problems:
        raise DataError(problems, cases.name)
    return np.array([OFFICIAL[value.lower()] for value in values])


def _check_enough(strata: np.ndarray, names: Sequence[str], least: int, purpose: str, cases: Cases) -> None:
    """Every class has `least` cases, so that something is left for training and validation."""
    problems = [
        Problem("too_few", f"class {names[stratum]!r}", f"has {count} cases; {purpose} and 2 more are needed")
        for stratum, count in zip(*np.unique(strata[strata > 0], return_counts=True), strict=True)
        if count < least
    ]
    if problems:
        raise DataError(problems, cases.name)


def _holdout(
    strata: np.ndarray, groups: np.ndarray, share: float | np.ndarray, rng: np.random.Generator, keep: int
) -> np.ndarray:
    """Choose whole groups that hold this share of every stratum as nearly as can be.

    scikit-learn splits by group only into equal folds, so this is a greedy search from several shuffles: a
    group is taken when that brings the strata's counts nearer to what is wanted. The order is not by size, or
    the largest patients would always be tested.

    Args:
        strata, groups: numbers, (N,).
        share: of each stratum, in (0, 1), or the number of cases of each stratum, in their order.
        rng: shuffles the groups.
        keep: groups of each stratum that must be left over.

    Returns:
        Whether a case is chosen, bool (N,).
    """
    _, groups = np.unique(groups, return_inverse=True)
    _, strata = np.unique(strata, return_inverse=True)
    counts = np.zeros((groups.max(initial=-1) + 1, strata.max(initial=-1) + 1))
    np.add.at(counts, (groups, strata), 1)
    total, spread = counts.sum(0), (counts > 0).sum(0)
    if np.ndim(share):
        wanted = np.asarray(share, float)
    else:
        wanted = np.maximum(np.round(share * total), (spread > keep).astype(float))
    weight = 1 / np.maximum(wanted, 1)

    best, best_error = np.zeros(len(counts), bool), np.inf
    for _ in range(_HOLDOUT_TRIES):
        chosen, have, left = np.zeros(len(counts), bool), np.zeros_like(total), spread.copy()
        for group in rng.permutation(len(counts)):
            row = counts[group]
            gain = (weight * (np.abs(have - wanted) - np.abs(have + row - wanted))).sum()
            if gain > 0 and (left[row > 0] > keep).all():
                chosen[group] = True
                have += row
                left -= row > 0
        # A class that is absent although it could be there weighs more than any inexact count.
        error = (weight * np.abs(have - wanted)).sum() + 1000 * ((have == 0) & (wanted > 0)).sum()
        if error < best_error:
            best, best_error = chosen, error
        if error == 0:
            break
    return best[groups]


def _with_validation(
    test: np.ndarray, strata: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    part = np.where(test, "test", "train").astype("<U5")
    rest = ~test
    part[rest] = np.where(_holdout(strata[rest], groups[rest], fraction, rng, keep=1), "val", "train")
    return part


def _folds(
    strata: np.ndarray, groups: np.ndarray, names: Sequence[str], folds: int, rng: np.random.Generator, cases: Cases
) -> list[np.ndarray]:
    """Test masks of a stratified K-fold, by group where any group has more than one case."""
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    problems = []
    for stratum in np.unique(strata[strata > 0]):
        here = strata == stratum
        in_groups = len(np.unique(groups[here]))
        if in_groups < folds:
            message = f"has {here.sum()} cases in {in_groups} groups, and {folds} folds were asked for"
            problems.append(Problem("too_few", f"class {names[stratum]!r}", message))
    if problems:
        raise DataError(problems, cases.name)
    if len(strata) < folds or len(np.unique(groups)) < folds:
        message = f"{len(strata)} cases in {len(np.unique(groups))} groups can't make {folds} folds"
        raise DataError([Problem("too_few", cases.name, message)], cases.name)

    grouped = len(np.unique(groups)) < len(groups)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    wanted = np.bincount(strata, minlength=len(names)) / folds
    best, best_error = [], np.inf
    for _ in range(_FOLD_TRIES if grouped else 1):
        splitter = kind(folds, shuffle=True, random_state=int(rng.integers(2**31)))
        with warnings.catch_warnings():
            # The cases without a label are a stratum too, and there may be fewer of them than folds.
            warnings.simplefilter("ignore", UserWarning)
            chosen = [test for _, test in splitter.split(strata, strata, groups)]
        counts = np.stack([np.bincount(strata[test], minlength=len(names)) for test in chosen])
        error = (np.abs(counts - wanted) / np.maximum(wanted, 1)).max() + 1000 * (counts[:, wanted > 0] == 0).sum()
        if error < best_error:
            best, best_error = chosen, error
    return [np.isin(np.arange(len(strata)), test) for test in best]


def check_classes(splits: Sequence[Split], cases: Cases, by: str) -> None:
    """Every part of every split has cases of every class.

    Raises:
        DataError: with every class that a part lacks.
    """
    labels, groups = cases.labels, cases.groups
    problems = []
    for split in splits:
        for part, positions in split.parts.items():
            if not len(positions):
                problems.append(Problem("empty_part", f"part {part!r}", f"{by} leaves no case for it"))
                continue
            for number in sorted(set(labels[labels >= 0]) - set(labels[positions])):
                here = labels == number
                message = (
                    f"is missing from the part {part!r} of {split.name}; it has {here.sum()} cases in "
                    f"{len(np.unique(groups[here]))} groups"
                )
                problems.append(Problem("class_missing", f"class {cases.classes[number]!r}", message))
    if problems:
        raise DataError(problems, cases.name)


def write_split(splits: Sequence[Split], cases: Cases, path: str | Path) -> None:
    """Write splits as JSON: a list of objects with ``name`` and the ids of ``train``, ``val`` and ``test``."""
    ids = cases.table["id"].to_numpy(str)
    value = [
        {"name": split.name, **{part: ids[positions].tolist() for part, positions in split.parts.items()}}
        for split in splits
    ]
    write_json(path, value)


def read_split(path: str | Path, cases: Cases) -> list[Split]:
    """Read what `write_split` wrote, for the same cases in any order.

    Raises:
        RunError: when the file is missing or isn't JSON.
        DataError: when it isn't of that form, names ids that the cases don't have, names an id twice, or leaves
            cases out.
    """
    value = read_json(path)
    ids = cases.table["id"].to_numpy(str)
    positions = {name: number for number, name in enumerate(ids)}
    entries = value if isinstance(value, list) and value else [None]
    if not all(isinstance(entry, dict) and set(entry) == {"name", *PARTS} for entry in entries):
        message = "expected a list of objects with the keys name, train, val, test"
        raise DataError([Problem("split", str(path), message)], str(path))
    splits, problems = [], []
    for entry in entries:
        named = [name for part in PARTS for name in entry[part]]
        for what, wrong in (
            ("names ids that the data doesn't have", sorted(set(named) - set(positions))),
            ("names ids more than once", sorted(name for name, count in Counter(named).items() if count > 1)),
            ("leaves out", sorted(set(positions) - set(named))),
        ):
            if wrong:
                shown = ", ".join(wrong[:5]) + (" …" if len(wrong) > 5 else "")
                problems.append(Problem("split", str(entry["name"]), f"{what}: {shown} ({len(wrong)})"))
        if not problems:
            parts = (np.sort(np.array([positions[name] for name in entry[part]], np.int64)) for part in PARTS)
            splits.append(Split(*parts, str(entry["name"])))
    if problems:
        raise DataError(problems, str(path))
    return splits
