"""Localisation, reliance, insertion and deletion of the cases that have what each of them needs."""

import numpy as np
import pytest

from tfseg.evaluation.explanations import explanation_scores, prediction_count
from tfseg.evaluation.perturbation import blurred
from tfseg.evaluation.reliance import draw_donors
from tfseg.evaluation.statistics import summarise
from tfseg.evaluation.tables import shown_tables, table_cells

# A mask of this width grows by one pixel to the right and down each time it is dilated.
SIDE = 24
COUNT = 5
LOCALISATION = {"cam_iou", "cam_iou_undilated", "cam_overlap", "cam_pointing"}
RELIANCE = {f"{where}_{what}" for where in ("background", "lesion") for what in ("flip_rate", "total_variation")}
CURVES = {"insertion_auc", "deletion_auc"}


@pytest.fixture
def cases():
    """Five cases, each of one grey value; the second one's mask isn't known, the fourth one's is empty."""
    lesions = np.zeros((COUNT, SIDE, SIDE), bool)
    lesions[:, 4:8, 4:8] = True
    lesions[3] = False
    known = np.array([True, False, True, True, True])
    greys = np.array([10, 60, 110, 160, 210])
    images = np.broadcast_to(greys[:, None, None, None], (COUNT, SIDE, SIDE, 3)).astype(np.uint8)
    return images, lesions, known


def reader(row, column, calls=None):
    """The grey value of one pixel, from 0 to 1, speaks for the case's own class: the parity of its position."""

    def predict(images, positions):
        if calls is not None:
            calls.append((images, positions))
        value = images[:, row, column, 0] / 255
        own = np.eye(2)[positions % 2]
        return own * value[:, None] + (1 - own) * (1 - value[:, None])

    return predict


def outputs_of(predict, images, saliency=None):
    outputs = {"probabilities": predict(images, np.arange(len(images)))}
    return outputs if saliency is None else outputs | {"saliency": saliency}


def test_localisation_is_of_cases_with_a_lesion(cases):
    images, lesions, known = cases
    saliency = np.zeros((COUNT, SIDE, SIDE, 1))
    saliency[:, 4:10, 4:10] = 1.0
    saliency[2, 4:10, 4:10] = 0.0
    saliency[4, 0, 0] = 1.0
    scores = explanation_scores(reader(0, 0), images, lesions, known, outputs_of(reader(0, 0), images, saliency))
    assert set(scores) == LOCALISATION | RELIANCE
    # Dilated twice, the lesion is the six by six pixels of the map.
    np.testing.assert_allclose(scores["cam_iou"], [1, np.nan, 0, np.nan, 36 / 37])
    np.testing.assert_allclose(scores["cam_overlap"], [1, np.nan, 0, np.nan, 36 / 37])
    np.testing.assert_allclose(scores["cam_pointing"], [1, np.nan, 0, np.nan, 36 / 37])


@pytest.mark.parametrize(
    ("row", "column", "part"),
    [(0, 0, "background"), (4, 4, "lesion"), (8, 8, "lesion"), (9, 9, "background")],
    ids=["far", "inside", "dilated once", "dilated twice"],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_reliance_on_the_part_that_is_read(cases, row, column, part, seed):
    images, lesions, known = cases
    calls = []
    predict = reader(row, column, calls)
    scores = explanation_scores(predict, images, lesions, known, outputs_of(reader(row, column), images), seed=seed)
    assert set(scores) == RELIANCE, "there is no map"
    present = np.array([0, 2, 4])
    assert len(calls) == 2
    for _, positions in calls:
        np.testing.assert_array_equal(positions, present)
    greys = np.array([10, 110, 210])
    moved = greys[draw_donors(3, seed)]
    expected = {"flip_rate": (moved > 127) != (greys > 127), "total_variation": np.abs(moved - greys) / 255}
    for name, values in expected.items():
        for where in ("background", "lesion"):
            found = scores[f"{where}_{name}"]
            np.testing.assert_allclose(found[present], values if where == part else 0.0, atol=1e-12)
            assert np.isnan(found[[1, 3]]).all()
    # First other backgrounds, then other lesions.
    assert (calls[0][0][:, 4, 4, 0] == greys).all() and (calls[0][0][:, 0, 0, 0] == moved).all()
    assert (calls[1][0][:, 4, 4, 0] == moved).all() and (calls[1][0][:, 0, 0, 0] == greys).all()


def test_who_is_predicted_with_a_map_of_the_own_case(cases):
    """A further input that goes with the image is looked up by `positions`."""
    images, lesions, known = cases
    further = np.linspace(0.1, 0.9, COUNT)

    def predict(changed, positions):
        return np.stack([further[positions], 1 - further[positions]], -1)

    saliency = np.random.default_rng(0).uniform(size=(COUNT, SIDE, SIDE, 1))
    scores = explanation_scores(predict, images, lesions, known, outputs_of(predict, images, saliency), steps=3)
    for name in RELIANCE:
        np.testing.assert_array_equal(scores[name][[0, 2, 4]], 0.0)
    for name in CURVES:
        np.testing.assert_allclose(scores[name], np.maximum(further, 1 - further))


def weighted(images, positions):
    """The mean of the left half speaks for class 0, that of the right half for class 1."""
    return np.stack([images[:, :, : SIDE // 2].mean((1, 2, 3)), images[:, :, SIDE // 2 :].mean((1, 2, 3))], -1) / 255


def test_insertion_and_deletion_of_the_predicted_class():
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    images[0, :, :12] //= 4
    images[1, :, 12:] //= 4
    saliency = generator.permuted(np.arange(3 * SIDE**2) / (3 * SIDE**2)).reshape(3, SIDE, SIDE, 1)
    outputs = outputs_of(weighted, images, saliency)
    classes = outputs["probabilities"].argmax(1)
    assert classes[0] == 1 and classes[1] == 0
    nothing = np.zeros(3, bool)
    scores = explanation_scores(weighted, images, np.zeros((3, SIDE, SIDE), bool), nothing, outputs, steps=4)
    assert set(scores) == CURVES
    for name, starts, ends in (("insertion_auc", blurred(images), images), ("deletion_auc", 0 * images, images)):
        expected = []
        for case in range(3):
            curve = []
            for share in (0.0, 0.25, 0.5, 0.75, 1.0):
                salient = saliency[case] > np.quantile(saliency[case], 1 - share, method="inverted_cdf")
                salient = np.ones_like(salient) if share == 1 else salient
                kept = salient if name == "insertion_auc" else ~salient
                curve.append(weighted(np.where(kept, ends[case], starts[case])[None], None)[0, classes[case]])
            expected.append(np.trapezoid(curve, dx=0.25))
        np.testing.assert_allclose(scores[name], expected, atol=1e-9)


def test_equal_pixels_go_in_another_order_in_every_case():
    """Else one unlucky order would count as often as there are flat maps."""
    images = np.random.default_rng(3).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8).repeat(2, 0)
    outputs = outputs_of(weighted, images, np.zeros((2, SIDE, SIDE, 1)))

    def deletion_of(seed):
        empty = np.zeros((2, SIDE, SIDE), bool), np.zeros(2, bool)
        return explanation_scores(weighted, images, *empty, outputs, seed=seed, steps=9)["deletion_auc"]

    first, again, other = deletion_of(0), deletion_of(0), deletion_of(5)
    np.testing.assert_array_equal(first, again)
    assert first[0] != first[1] and first[0] != other[0]


def test_what_can_not_be_scored_is_left_out(cases):
    images, lesions, known = cases
    saliency = np.ones((COUNT, SIDE, SIDE, 1))
    outputs = outputs_of(reader(0, 0), images, saliency)
    calls = []
    alone = np.arange(COUNT) == 2
    scores = explanation_scores(reader(0, 0, calls), images, lesions, alone, outputs)
    assert set(scores) == LOCALISATION, "one lesion has no other to be swapped with"
    np.testing.assert_array_equal(np.isnan(scores["cam_iou"]), ~alone)
    assert explanation_scores(reader(0, 0, calls), images, lesions, np.zeros(COUNT, bool), outputs) == {}
    assert explanation_scores(reader(0, 0, calls), images, 0 * lesions > 0, known, outputs) == {}
    del outputs["saliency"]
    assert set(explanation_scores(reader(0, 0), images, lesions, known, outputs, steps=2)) == RELIANCE
    assert calls == []


@pytest.mark.parametrize(
    ("known", "steps", "expected"),
    [((0, 2), 0, 4), ((0, 2, 3, 4), 0, 6), ((2, 3), 0, 0), ((), 3, 40), ((0, 2), 3, 44), ((0, 2), 70, 4 + 710)],
)
def test_the_images_are_counted_as_they_are_predicted(cases, known, steps, expected):
    """The fourth case has no lesion; every curve has a point more than steps."""
    images, lesions, _ = cases
    known = np.isin(np.arange(COUNT), known)
    saliency = np.random.default_rng(1).uniform(size=(COUNT, SIDE, SIDE, 1))
    calls = []
    explanation_scores(
        reader(0, 0, calls), images, lesions, known, outputs_of(reader(0, 0), images, saliency), steps=steps
    )
    assert sum(len(images) for images, _ in calls) == expected == prediction_count(lesions, known, steps)
    for changed, positions in calls:
        assert changed.shape == (len(positions), SIDE, SIDE, 3) and changed.dtype == np.uint8
    if not known.any():
        for _, positions in calls:
            assert len(set(positions)) == 1 and len(positions) <= 64
        assert {int(positions[0]) for _, positions in calls} == set(range(COUNT))


def test_tables_show_them_where_a_row_has_them():
    further = ["insertion_auc", "deletion_auc", "sanity_spearman", "sanity_ssim"]
    names = ["epochs", *reversed(further), "lesion_total_variation", "lesion_flip_rate", "accuracy"]
    metrics = {"rows": [{"name": "plain", "metrics": {name: summarise([0.5]) for name in names}}]}
    ((part, columns),) = shown_tables(metrics)
    assert columns == ["accuracy", "lesion_flip_rate", *further]
    assert table_cells(part, columns)[0] == ["name", *columns]
    assert table_cells(metrics)[0][1:] == ["accuracy", *names[-2:-4:-1], *further, "epochs"]
    without = {"rows": [{"name": "plain", "metrics": {"accuracy": summarise([0.5])}}]}
    assert shown_tables(without)[0][1] == ["accuracy"]
