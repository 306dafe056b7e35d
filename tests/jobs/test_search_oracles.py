"""KerasTuner's oracles behind our questions: what they propose, and that they propose it again."""

from __future__ import annotations

import math

import keras_tuner
import numpy as np
import pytest

from tfseg.config import ComparisonConfig
from tfseg.errors import RunError
from tfseg.jobs.search.oracles import Proposals
from tfseg.jobs.search.space import plan_search

CENTIOU = ComparisonConfig(data="d", approaches=("centiou",))
RATE = "learning_rate=1e-5..1e-1:log"


def quadratic(values) -> float:
    """Best, 0, at a learning rate of 1e-3."""
    return -((math.log10(values["learning_rate"]) + 3.0) ** 2)


def drive(words, tuner="random", trials=None, epochs=9, seed=0, score=lambda values: 0.0, known=()):
    """The trials of a whole search, and their scores."""
    proposals = Proposals(plan_search(CENTIOU, words, tuner=tuner, trials=trials), epochs, seed)
    found = []
    for number in range(proposals.count):
        proposal = proposals.ask(known[number] if number < len(known) else None)
        value = score(proposal.values)
        proposals.tell(value)
        found.append((proposal, value))
    return found


def test_values_lie_in_their_spaces_and_are_of_their_types():
    found = drive([RATE, "cross_entropy_share", "class_weights", "flips=none,true,false", "batch_size"], trials=40)
    for name, allowed in [
        ("cross_entropy_share", [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]),
        ("class_weights", [True, False]),
        ("flips", [None, True, False]),
        ("batch_size", [8, 16, 32]),
    ]:
        seen = [proposal.values[name] for proposal, _ in found]
        assert {repr(value) for value in seen} <= {repr(value) for value in allowed}
        assert len({repr(value) for value in seen}) >= min(len(allowed), 8)
    rates = np.log10([proposal.values["learning_rate"] for proposal, _ in found])
    assert -5.0 <= rates.min() < -4.5 and -1.5 < rates.max() <= -1.0
    assert 10 <= (rates < -3.0).sum() <= 30, "every order of magnitude is as likely"


def test_seeds_differ_and_repeat():
    first, again, other = (drive([RATE], trials=5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert not {str(proposal) for proposal, _ in first} & {str(proposal) for proposal, _ in other}


@pytest.mark.parametrize("tuner", ["random", "bayesian"])
def test_a_small_space_is_tried_whole_and_once(tuner):
    found = drive(["class_weights", "batch_size"], tuner, trials=15, score=lambda values: values["batch_size"])
    assert len({str(proposal.values) for proposal, _ in found}) == len(found) == 6


def test_bayesian_goes_to_the_optimum():
    found = [drive([RATE], "bayesian", trials=10, seed=seed, score=quadratic) for seed in (0, 1)]
    random = [value for seed in (0, 1) for _, value in drive([RATE], trials=10, seed=seed, score=quadratic)]
    # The first third is random.
    later = [value for trials in found for _, value in trials[3:]]
    assert np.median(later) > -0.2 > np.mean(random)
    assert max(later) > -0.01


def test_the_scores_direction_arrives():
    plan = plan_search(CENTIOU, [RATE], tuner="bayesian", trials=8, objective="val_loss")
    proposals, values = Proposals(plan, 9, 0), []
    for _ in range(8):
        values.append(proposals.ask().values)
        proposals.tell(-quadratic(values[-1]))
    assert min(abs(math.log10(entry["learning_rate"]) + 3.0) for entry in values[2:]) < 0.2


def test_bayesian_is_told_again_without_searching_again(monkeypatch):
    whole = drive([RATE], "bayesian", trials=7, score=quadratic)
    searched, original = [], keras_tuner.oracles.BayesianOptimizationOracle.populate_space

    def counting(oracle, trial_id):
        searched.append(trial_id)
        return original(oracle, trial_id)

    monkeypatch.setattr(keras_tuner.oracles.BayesianOptimizationOracle, "populate_space", counting)
    again = drive([RATE], "bayesian", trials=7, score=quadratic, known=[proposal.values for proposal, _ in whole[:5]])
    assert again == whole
    assert searched == ["5", "6"]


def test_other_values_than_those_begun_with_are_refused():
    with pytest.raises(RunError, match="go on with the version that began"):
        drive([RATE], trials=3, known=[{"learning_rate": 0.123}])


def test_hyperband_halves_in_brackets():
    """By hand, with 9 epochs and factor 3: each bracket ends with ⌈3 / 3⌉, ⌈3 / 2⌉ and 3 trials of 9 epochs."""
    found = drive([RATE], "hyperband", epochs=9, score=quadratic)
    epochs = [proposal.epochs for proposal, _ in found]
    assert epochs == [1] * 9 + [3] * 3 + [9] + [3] * 5 + [9] * 2 + [9] * 3
    best = sorted(found[:9], key=lambda pair: -pair[1])[:3]
    assert [proposal.values for proposal, _ in best] == [proposal.values for proposal, _ in found[9:12]]
    assert found[12][0].values == best[0][0].values, "the best of a bracket gets all epochs"
    assert len(drive([RATE], "hyperband", epochs=9, trials=4)) == 4
