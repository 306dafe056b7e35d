"""KerasTuner's oracles, asked for one trial after the other, so that a search can be told again from its records."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras_tuner
import numpy as np
from threadpoolctl import threadpool_limits

from tfseg.errors import RunError
from tfseg.jobs.search.space import SearchPlan, combinations
from tfseg.spaces import Range, Space

# Seeds of two trials, and of two searches, are so far apart that neither draws the other's numbers.
TRIAL_SEEDS, SEARCH_SEEDS = 1_000, 1_000_003
# Draws before a space counts as exhausted: KerasTuner's 20 would often leave some of a small one's settings out.
COLLISIONS = 10_000
FACTOR = 3


@dataclass(frozen=True)
class Proposal:
    """What a trial shall be trained with.

    Args:
        values: of the searched fields.
        epochs: at most, where Hyperband says so; else None.
    """

    values: dict[str, Any]
    epochs: int | None = None


class Proposals:
    """A search as a sequence of questions and answers.

    KerasTuner keeps a search's state in files of its own, which it overwrites in place and which leave the Bayesian
    oracle's random state out. Here nothing is kept: an oracle that gets the same answers once more asks for the same
    trials, because each is drawn by its number alone.

    Args:
        plan: what is searched.
        epochs: at most; Hyperband's brackets follow from it.
        seed: of the search.
    """

    def __init__(self, plan: SearchPlan, epochs: int, seed: int = 0):
        self._plan = plan
        self.count = _count(plan, epochs, seed)
        self._oracle = _oracle(plan, self.count, epochs, seed)
        self._trial = None

    def ask(self, known: Mapping[str, Any] | None = None) -> Proposal:
        """The next trial.

        Args:
            known: its values, where the trial was begun before; the Bayesian oracle's search for the best next trial
                is not repeated then.

        Raises:
            RunError: the trial was begun with other values, by another version of KerasTuner.
        """
        self._oracle.given = None if known is None else _encoded(known, self._plan.spaces)
        self._trial = self._oracle.create_trial("search")
        if self._trial.status != "RUNNING":
            raise RunError(f"KerasTuner has no trial left after {len(self._oracle.trials)} of {self.count}")
        proposed = self._trial.hyperparameters.values
        values = _decoded(proposed, self._plan.spaces)
        if known is not None and dict(known) != values:
            raise RunError(
                f"trial {len(self._oracle.trials)} was begun with {dict(known)}, and KerasTuner "
                f"{keras_tuner.__version__} proposes {values}: go on with the version that began, or give a new `--out`"
            )
        return Proposal(values, proposed.get("tuner/epochs"))

    def tell(self, score: float) -> None:
        """The objective's value of the trial that was asked for last; a finite number."""
        self._oracle.update_trial(self._trial.trial_id, {self._plan.objective: float(score)})
        self._trial.status = "COMPLETED"
        self._oracle.end_trial(self._trial)


class _ByNumber:
    """Draws a trial by its number, whatever was drawn before; writes no files."""

    given: dict[str, Any] | None = None

    def populate_space(self, trial_id):
        self._seed_state = self.seed + TRIAL_SEEDS * int(trial_id)
        self._random_state = np.random.RandomState(self._seed_state % 2**32)
        answer = super().populate_space(trial_id)
        for entry in self.hyperparameters.space if answer.get("values") else ():
            if isinstance(entry, keras_tuner.engine.hyperparameters.Float):
                # Four digits are enough, and can be given on a command line.
                value = float(f"{answer['values'][entry.name]:.4g}")
                answer["values"][entry.name] = min(max(value, entry.min_value), entry.max_value)
        return answer

    def save(self):
        pass

    def _save_trial(self, trial):
        pass


class _Random(_ByNumber, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Hyperband(_ByNumber, keras_tuner.oracles.HyperbandOracle):
    pass


class _Bayesian(_ByNumber, keras_tuner.oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id):
        if self.given is not None:
            return {"status": "RUNNING", "values": dict(self.given)}
        # With few trials the kernel's length is often at its bound, of which scikit-learn warns each time; and its
        # matrices are so small that several threads take four times as long as one.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            answer = super().populate_space(trial_id)
        if answer["status"] == "RUNNING" and self._duplicate(answer["values"]):
            # Another training of the same settings would tell nothing.
            return self._random_populate_space()
        return answer


def _oracle(plan: SearchPlan, trials: int | None, epochs: int, seed: int) -> keras_tuner.Oracle:
    space = keras_tuner.HyperParameters()
    for name, entry in plan.spaces.items():
        if isinstance(entry, Range):
            space.Float(name, entry.low, entry.high, sampling="log" if entry.log else "linear")
        else:
            # As text, because KerasTuner takes True for 1 and has no None.
            space.Choice(name, [json.dumps(value) for value in entry.values])
    common = {
        "objective": keras_tuner.Objective(plan.objective, plan.direction),
        "hyperparameters": space,
        # KerasTuner takes 0 for no seed.
        "seed": (1 + SEARCH_SEEDS * seed) % 2**31,
    }
    if plan.tuner == "hyperband":
        oracle = _Hyperband(max_epochs=epochs, factor=FACTOR, **common)
    elif plan.tuner == "bayesian":
        # KerasTuner begins with three random trials per field, which for five fields is all of 15.
        first = max(2, min(3 * len(plan.spaces), trials // 3))
        oracle = _Bayesian(max_trials=trials, num_initial_points=first, **common)
    else:
        oracle = _Random(max_trials=trials, **common)
    oracle.verbose = 0
    oracle._max_collisions = COLLISIONS
    return oracle


def _count(plan: SearchPlan, epochs: int, seed: int) -> int:
    """How many trials a search has."""
    if plan.tuner != "hyperband":
        return min(plan.trials, combinations(plan.spaces) or plan.trials)
    # Which trials go on depends on their scores; how many there are doesn't.
    oracle, count = _oracle(plan, None, epochs, seed), 0
    while count != plan.trials and (trial := oracle.create_trial("count")).status == "RUNNING":
        oracle.update_trial(trial.trial_id, {plan.objective: 0.0})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
        count += 1
    return count


def _encoded(values: Mapping[str, Any], spaces: Mapping[str, Space]) -> dict[str, Any]:
    return {name: value if isinstance(spaces[name], Range) else json.dumps(value) for name, value in values.items()}


def _decoded(values: Mapping[str, Any], spaces: Mapping[str, Space]) -> dict[str, Any]:
    return {
        name: float(values[name]) if isinstance(space, Range) else json.loads(values[name])
        for name, space in spaces.items()
    }
