"""Breaking scores down by attributes."""

import numpy as np
import pandas as pd
import pytest

from tfseg.errors import ConfigError
from tfseg.evaluation.scores import TestScores as Scores
from tfseg.evaluation.subgroups import subgroup_of, subgroup_scores


def scores_of(true, predicted, per_case=None):
    probabilities = np.full((len(true), 2), 0.1)
    probabilities[np.arange(len(true)), predicted] = 0.9
    return Scores(np.arange(len(true)).astype(str), np.array(true), probabilities, per_case or {})


def test_text_is_taken_as_it_is_and_empty_cells_are_not_known():
    column = pd.Series(["female", None, "male"], dtype=object, name="sex")
    assert subgroup_of(column).tolist() == ["female", "not known", "male"]


def test_numbers_are_cut_at_their_quartiles():
    column = pd.Series([str(number) for number in range(1, 21)] + [None], dtype=object, name="age")
    # The quartiles of 1…20 are 5.75, 10.5 and 15.25.
    groups = subgroup_of(column)
    assert groups[[0, 4]].tolist() == ["1 to 5.75"] * 2
    assert groups[[5, 9]].tolist() == ["5.75 to 10.5"] * 2
    assert groups[[15, 19]].tolist() == ["15.25 to 20"] * 2
    assert groups[20] == "not known"


def test_many_texts_are_refused():
    with pytest.raises(ConfigError, match="'site' has 13 values"):
        subgroup_of(pd.Series([f"place {number}" for number in range(13)], dtype=object, name="site"))


def test_each_subgroup_is_scored_by_itself():
    attributes = pd.DataFrame({"sex": ["f"] * 12 + ["m"] * 12 + ["x"] * 3})
    true = [0, 1] * 12 + [0, 1, 0]
    predicted = true[:12] + [0] * 12 + [1, 1, 1]
    result = subgroup_scores(attributes, scores_of(true, predicted), ("a", "b"), ["sex"])["sex"]
    assert {name: part["cases"] for name, part in result.items()} == {"f": 12, "m": 12, "x": 3}
    assert result["f"]["metrics"]["accuracy"]["mean"] == 1.0
    assert result["m"]["metrics"]["accuracy"]["mean"] == 0.5
    low, high = result["m"]["metrics"]["accuracy"]["ci95"]
    assert 0.1 < low < 0.5 < high < 0.9
    assert result["x"]["metrics"] == {}, "three cases say nothing"


def test_masks_are_broken_down_too():
    attributes = pd.DataFrame({"label": ["a"] * 10 + ["b"] * 10})
    scores = Scores(np.arange(20).astype(str), per_case={"dice": np.repeat([0.9, 0.7], 10), "cam_iou": np.ones(20)})
    result = subgroup_scores(attributes, scores, (), ["label"])["label"]
    assert result["b"]["metrics"]["dice"]["mean"] == pytest.approx(0.7)
    assert set(result["b"]["metrics"]) == {"dice"}


def test_a_missing_column_is_named():
    with pytest.raises(ConfigError, match="no column age; there are sex"):
        subgroup_scores(pd.DataFrame({"sex": ["f"]}), scores_of([0], [0]), ("a", "b"), ["age"])
