"""How a study divides its cases, what scores without looking, and means over labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import MaskClasses
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError
from tfseg.jobs.study.rows import StudyDesign, StudyRow, study_splits
from tfseg.jobs.study.scores import MaskScores, baseline_mask, baseline_scores, model_size_scores, polarity

CONFIG = ComparisonConfig(data="d")


@pytest.fixture
def cases(tmp_path):
    """20 patients with 3 images of each of two classes; a mask of 4×6 has 6, 12 or 24 lesion pixels."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    lines = ["image,mask,label,group"]
    for number in range(60):
        mask = np.zeros((4, 6), np.uint8)
        mask.flat[: (6, 12, 24)[number % 3]] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number:02}.png")
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(tmp_path / "images" / f"{number:02}.png")
        lines.append(f"images/{number:02}.png,masks/{number:02}.png,{'ab'[number // 30]},patient_{number // 3}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return load_cases(tmp_path)


def test_all_foreground_is_wrong_in_the_background_only(cases):
    table = baseline_scores(cases.subset([0, 1, 2]), "foreground", surfaces=True)
    assert table["iou"].tolist() == pytest.approx([6 / 24, 12 / 24, 1.0])
    assert table["dice"].tolist() == pytest.approx([2 * 6 / 30, 2 * 12 / 36, 1.0])
    assert table["pixel_error"].tolist() == pytest.approx([18 / 24, 12 / 24, 0.0])
    assert (table["iou"] + table["pixel_error"]).tolist() == pytest.approx([1.0] * 3)
    assert table["hausdorff95"].iloc[2] == 0.0


def test_a_random_mask_is_right_half_of_the_time_and_the_same_for_its_seed(cases):
    table = baseline_scores(cases, "random", seed=4)
    assert table["pixel_error"].mean() == pytest.approx(0.5, abs=0.05)
    assert table.equals(baseline_scores(cases, "random", seed=4))
    assert not table.equals(baseline_scores(cases, "random", seed=5))
    assert baseline_mask("foreground", (2, 3), np.random.default_rng(0)).all()


@pytest.mark.parametrize("split_by", ["random", "group"])
def test_runs_draw_their_own_splits(cases, split_by):
    splits = study_splits(cases, CONFIG, StudyDesign(split_by, 3))
    assert [split.name for split in splits] == ["run_0", "run_1", "run_2"]
    tested = [frozenset(split.test) for split in splits]
    assert len(set(tested)) == 3
    shared = []
    for split in splits:
        assert sorted(np.concatenate(list(split.parts.values()))) == list(range(60))
        groups = {part: set(cases.groups[positions]) for part, positions in split.parts.items()}
        shared.append(bool(groups["test"] & (groups["train"] | groups["val"])))
        assert all({0, 1} == set(cases.labels[positions]) for positions in split.parts.values())
    assert shared == [split_by == "random"] * 3, "only the image-wise split parts a patient's images"
    if split_by == "random":
        assert [len(positions) for positions in splits[0].parts.values()] == [40, 8, 12]
    again = study_splits(cases, CONFIG, StudyDesign(split_by, 1))
    np.testing.assert_array_equal(again[0].test, splits[0].test)


def test_folds_are_the_configurations_cross_validation(cases):
    splits = study_splits(cases, ComparisonConfig(data="d", cross_validation=4), StudyDesign("folds"))
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(60))
    with pytest.raises(ConfigError, match="without `cross_validation`"):
        study_splits(cases, ComparisonConfig(data="d", cross_validation=4), StudyDesign("random"))


def arrays_of(masks: np.ndarray) -> CaseArrays:
    count = len(masks)
    images = np.zeros((*masks.shape, 3), np.uint8)
    ids = np.array([str(number) for number in range(count)])
    return CaseArrays(images, masks, np.ones(count, bool), np.zeros(count, np.int32), ids, MaskClasses())


def test_scores_at_the_networks_size_leave_ignored_pixels_out():
    masks = np.array([[[1, 1], [0, 255]], [[0, 0], [0, 0]]], np.uint8)
    predicted = np.array([[[True, False], [True, True]], [[False, False], [False, True]]])
    scores = model_size_scores(arrays_of(masks), np.array([0, 1]), predicted)
    assert scores["iou_model_size"] == pytest.approx([1 / 3, 0.0])
    assert scores["dice_model_size"] == pytest.approx([2 / 4, 0.0])
    assert scores["pixel_error_model_size"] == pytest.approx([2 / 3, 1 / 4])


def test_polarity_is_the_mean_inside_and_outside():
    masks = np.array([[[1, 1], [0, 255]]], np.uint8)
    sides = polarity(arrays_of(masks), np.array([0]), np.array([[[0.9, 0.5], [0.2, 1.0]]]))
    assert sides == pytest.approx({"probability_inside": 0.7, "probability_outside": 0.2})


def test_means_over_labels_have_equal_weight():
    values = {"iou": np.array([1.0, 0.8, 0.6, 0.2, 0.0, np.nan])}
    labels = np.array([0, 0, 0, 2, -1, 2])
    scores = MaskScores(np.arange(6), per_case=values, labels=labels, over_labels=True)
    assert scores.metrics(()) == pytest.approx({"iou": (0.8 + 0.2) / 2})
    assert scores.metrics((), np.array([0, 0, 1])) == pytest.approx({"iou": 2.8 / 3})
    plain = MaskScores(np.arange(6), per_case=values, labels=labels)
    assert plain.metrics(()) == pytest.approx({"iou": 2.6 / 5})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudyRow("a/b"), "plain file name"),
        (lambda: StudyRow("a", {"no_such": 1}), "no setting 'no_such'"),
        (lambda: StudyRow("a", baseline="black"), "`baseline` must be one of"),
        (lambda: StudyDesign("patient"), "`split_by` must be"),
        (lambda: StudyDesign(runs=0), "`runs` must be at least 1"),
    ],
)
def test_what_a_row_or_a_design_can_not_be(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_row_adds_its_options_to_the_studys():
    base = ComparisonConfig(data="d", segmenter_options=("greyscale=true",))
    own = StudyRow("a", {"image_size": 128}, ("dropout=0.2",)).config(base)
    assert (own.image_size, own.segmenter_options) == (128, ("greyscale=true", "dropout=0.2"))
    assert own.segmenter_encoder == "none", "resolved"
