"""Classifier scores against values by hand and against scikit-learn; the predictions table there and back."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from tfseg.errors import DataError
from tfseg.evaluation.classification import (
    classification_metrics,
    confusion_matrix,
    per_class_metrics,
    prediction_classes,
    predictions_table,
    read_predictions,
)

KEYS = [
    "accuracy",
    "balanced_accuracy",
    "kappa",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "specificity_macro",
    "auc",
    "average_precision",
    "ece",
    "brier",
]

# Predicted: 0, 0, 1, 1 with the classes a a b a: three of four right.
TRUE = np.array([0, 0, 1, 0])
PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])


def random_case(count=200, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, classes, count), generator.dirichlet(np.ones(classes), count)


def test_values_worked_out_by_hand():
    scores = classification_metrics(TRUE, PROBABILITIES, ["a", "b"])
    assert list(scores) == KEYS
    assert scores["accuracy"] == pytest.approx(0.75)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    # Agreement 0.75, by chance 0.75 * 0.5 + 0.25 * 0.5.
    assert scores["kappa"] == pytest.approx(0.5)
    # The one positive, 0.8, lies above all three negatives.
    assert scores["auc"] == scores["average_precision"] == 1.0
    # Every case is alone in its bin: gaps 0.1, 0.4, 0.2, 0.7.
    assert scores["ece"] == pytest.approx(1.4 / 4)
    assert scores["brier"] == pytest.approx((2 * 0.01 + 2 * 0.16 + 2 * 0.04 + 2 * 0.49) / 4)
    assert scores["precision_macro"] == pytest.approx((1 + 0.5) / 2)
    assert scores["f1_weighted"] == pytest.approx((3 * 0.8 + 2 / 3) / 4)
    assert scores["recall_weighted"] == scores["accuracy"]
    assert scores["specificity_macro"] == pytest.approx((1 + 2 / 3) / 2)


def test_cases_in_one_bin_are_pooled_before_the_gap_is_taken():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05]])
    # Confidence 0.95, one of two right: |0.5 - 0.95|, not (0.05 + 0.95) / 2.
    assert classification_metrics([0, 1], probabilities, ["a", "b"])["ece"] == pytest.approx(0.45)


def test_agrees_with_scikit_learn():
    true, probabilities = random_case()
    predicted = probabilities.argmax(axis=1)
    scores = classification_metrics(true, probabilities, list("abcd"))
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(true, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(true, predicted))
    assert scores["kappa"] == pytest.approx(metrics.cohen_kappa_score(true, predicted))
    assert scores["auc"] == pytest.approx(metrics.roc_auc_score(true, probabilities, multi_class="ovr"))
    assert scores["average_precision"] == pytest.approx(metrics.average_precision_score(np.eye(4)[true], probabilities))
    assert scores["specificity_macro"] == pytest.approx(
        np.mean([metrics.recall_score(true == index, predicted == index, pos_label=False) for index in range(4)])
    )
    assert scores["brier"] == pytest.approx(metrics.brier_score_loss(true, probabilities, scale_by_half=False))
    for average in ("macro", "weighted"):
        assert scores[f"precision_{average}"] == pytest.approx(
            metrics.precision_score(true, predicted, average=average)
        )
        assert scores[f"f1_{average}"] == pytest.approx(metrics.f1_score(true, predicted, average=average))


def test_auc_counts_ties_half():
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])
    scores = classification_metrics([1, 0, 0], probabilities, ["a", "b"])
    # Two pairs of one positive with a negative: a tie and a win.
    assert scores["auc"] == pytest.approx(0.75)
    # No threshold takes the positive without the negative of the same probability.
    assert scores["average_precision"] == pytest.approx(0.5)


def test_absent_classes():
    true, probabilities = random_case(classes=3)
    true = np.where(true == 2, 0, true)
    scores = classification_metrics(true, probabilities, ["a", "b", "absent"])
    predicted = probabilities.argmax(axis=1)
    recalls = [(predicted[true == index] == index).mean() for index in (0, 1)]
    assert scores["recall_macro"] == pytest.approx(sum(recalls) / 3)
    assert scores["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    areas = [metrics.roc_auc_score(true == index, probabilities[:, index]) for index in (0, 1)]
    assert scores["auc"] == pytest.approx(np.mean(areas))
    assert per_class_metrics(true, probabilities, ["a", "b", "absent"])["absent"]["support"] == 0


def test_one_class_only_leaves_auc_and_kappa_undefined():
    scores = classification_metrics([0, 0], [[0.9, 0.1], [0.8, 0.2]], ["a", "b"])
    assert all(np.isnan(scores[name]) for name in ("auc", "average_precision", "kappa"))
    assert scores["accuracy"] == 1


def test_per_class_and_confusion():
    table = per_class_metrics(TRUE, PROBABILITIES, ["a", "b"])
    assert table["a"] == pytest.approx(
        {
            "precision": 1,
            "recall": 2 / 3,
            "f1": 0.8,
            "specificity": 1,
            "auc": 1,
            "average_precision": 1,
            "support": 3,
        }
    )
    assert table["b"]["specificity"] == pytest.approx(2 / 3)
    matrix = confusion_matrix(TRUE, PROBABILITIES.argmax(axis=1), ["a", "b"])
    assert matrix.tolist() == [[2, 1], [0, 1]] and matrix.dtype == np.int64


@pytest.mark.parametrize(
    ("true", "probabilities", "message"),
    [
        ([0, 1], [[2.0, -1.0], [0.1, 3.0]], "row 0"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "class indices in 0…1"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "without a label"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "`true` must be"),
        ([0, 1], [[0.5, np.nan], [0.5, 0.5]], "row 0"),
        ([0, 1], [[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]], "one column"),
    ],
)
def test_misuse_is_refused(true, probabilities, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(true, probabilities, ["a", "b"])


def test_predictions_table_there_and_back(tmp_path):
    table = predictions_table(
        ["007", "x"],
        ["images/007.png", "images/x.png"],
        ["None", None],
        [[0.7, 0.3], [0.45, 0.55]],
        ["NA", "None"],
        0.6,
    )
    assert list(table) == [
        "id",
        "image",
        "true",
        "predicted",
        "confidence",
        "abstained",
        "prob_NA",
        "prob_None",
    ]
    assert table["predicted"].tolist() == ["NA", "None"] and table["abstained"].tolist() == [False, True]
    table.to_csv(tmp_path / "predictions.csv", index=False)
    back = read_predictions(tmp_path / "predictions.csv")
    assert prediction_classes(back) == ["NA", "None"]
    assert back["id"].tolist() == ["007", "x"] and back["true"].isna().tolist() == [False, True]
    pd.testing.assert_frame_equal(back, table, check_dtype=False)


def test_per_class_areas_agree_with_scikit_learn():
    true, probabilities = random_case()
    table = per_class_metrics(true, probabilities, list("abcd"))
    for index, name in enumerate("abcd"):
        one_against_rest = (true == index, probabilities[:, index])
        assert table[name]["auc"] == pytest.approx(metrics.roc_auc_score(*one_against_rest))
        assert table[name]["average_precision"] == pytest.approx(metrics.average_precision_score(*one_against_rest))
    absent = per_class_metrics([0, 0], [[0.9, 0.1], [0.8, 0.2]], ["a", "b"])
    assert np.isnan(absent["a"]["auc"]) and np.isnan(absent["b"]["average_precision"])


def test_groups_stand_in_the_table_and_are_read_back(tmp_path):
    table = predictions_table(["x", "y"], ["x.png", "y.png"], ["a", "b"], np.eye(2), ["a", "b"], groups=[7, "p"])
    assert list(table)[:4] == ["id", "image", "group", "true"] and table["group"].tolist() == ["7", "p"]
    table.to_csv(tmp_path / "predictions.csv", index=False)
    assert read_predictions(tmp_path / "predictions.csv")["group"].tolist() == ["7", "p"]
    with pytest.raises(ValueError, match="`groups`"):
        predictions_table(["x"], ["x.png"], ["a"], [[1, 0]], ["a", "b"], groups=["p", "q"])


@pytest.mark.parametrize(("second", "problems"), [("1,0", []), ("0,1", []), ("0,0", ["duplicate_id"])])
def test_a_case_may_stand_once_in_each_repeat_and_fold(tmp_path, second, problems):
    path = tmp_path / "predictions.csv"
    path.write_text(
        "id,image,true,predicted,confidence,abstained,prob_a,prob_b,repeat,fold\n"
        f"1,i,a,a,0.7,False,0.7,0.3,0,0\n1,i,a,a,0.7,False,0.7,0.3,{second}\n"
    )
    if not problems:
        assert len(read_predictions(path)) == 2
        return
    with pytest.raises(DataError, match="id and repeat and fold") as caught:
        read_predictions(path)
    assert [problem.kind for problem in caught.value.problems] == problems


def test_every_problem_of_a_table_is_named(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(
        "id,image,true,predicted,confidence,abstained,prob_a,prob_b\n"
        "1,i,a,a,0.7,False,0.7,0.3\n1,i,zebra,a,0.7,no,0.7,0.3\n2,i,a,a,0.7,False,0.7,0.9\n3,i,a,q,x,True,0.7,0.3\n"
    )
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    found = sorted((problem.file, problem.kind) for problem in caught.value.problems)
    assert found == [
        ("predictions.csv, line 3", "abstained"),
        ("predictions.csv, line 3", "duplicate_id"),
        ("predictions.csv, line 3", "label"),
        ("predictions.csv, line 4", "number"),
        ("predictions.csv, line 5", "label"),
        ("predictions.csv, line 5", "number"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "not a CSV"),
        (b"id,image,true,predicted,confidence,abstained,prob_a,prob_b\n", "no rows"),
        (b"id,true,prob_a,prob_b\n1,a,0.5,0.5\n", "image, predicted, confidence, abstained"),
        (b"id,image,true,predicted,confidence,abstained\n1,i,a,a,1,False\n", "prob_<class>"),
        (b"\xff\xfe\x00\x81", "not a CSV"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, content, message):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_predictions(path)
