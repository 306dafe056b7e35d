"""Swapped regions: which part of the image a decision reads."""

import numpy as np
import pytest

from tfseg.evaluation.reliance import draw_donors, reliance, replace_region

COUNT, SIDE = 6, 8


@pytest.fixture
def scenes():
    """Images with two classes in turn: background and lesion each carry the class as a grey value of its own."""
    regions = np.zeros((COUNT, SIDE, SIDE), bool)
    regions[:, 3:6, 3:6] = True
    classes = np.arange(COUNT) % 2
    images = np.where(regions[..., None], 200 * classes[:, None, None, None], 90 * classes[:, None, None, None] + 10)
    return np.broadcast_to(images, (COUNT, SIDE, SIDE, 3)).astype(np.uint8), regions, classes


def reader(row, column, threshold):
    """A prediction that reads one pixel only."""

    def predict(images):
        bright = images[:, row, column, 0] > threshold
        return np.where(bright[:, None], [[0.1, 0.9]], [[0.8, 0.2]])

    return predict


def flips_expected(classes, seed):
    return (classes[draw_donors(COUNT, seed)] != classes).astype(float)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_who_reads_the_background_flips_with_it(scenes, seed):
    images, regions, classes = scenes
    predict = reader(0, 0, 50)
    scores = reliance(predict, images, regions, predict(images), seed)
    flips = flips_expected(classes, seed)
    np.testing.assert_array_equal(scores["background_flip_rate"], flips)
    # From (0.8, 0.2) to (0.1, 0.9): half of 0.7 + 0.7.
    np.testing.assert_allclose(scores["background_total_variation"], 0.7 * flips)
    np.testing.assert_array_equal(scores["lesion_flip_rate"], 0.0)
    np.testing.assert_array_equal(scores["lesion_total_variation"], 0.0)
    assert flips.any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_who_reads_the_lesion_flips_with_it(scenes, seed):
    images, regions, classes = scenes
    predict = reader(4, 4, 100)
    scores = reliance(predict, images, regions, predict(images), seed)
    np.testing.assert_array_equal(scores["lesion_flip_rate"], flips_expected(classes, seed))
    np.testing.assert_array_equal(scores["background_flip_rate"], 0.0)


def test_with_a_donor_of_the_other_class_every_decision_flips(scenes):
    images, regions, classes = scenes
    pair = [0, 1]
    for (row, column, threshold), name in (((0, 0, 50), "background"), ((4, 4, 100), "lesion")):
        predict = reader(row, column, threshold)
        scores = reliance(predict, images[pair], regions[pair], predict(images[pair]))
        np.testing.assert_array_equal(scores[f"{name}_flip_rate"], 1.0)


def test_the_donors_lesion_never_enters_a_background():
    """Else a decision that reads the lesion would seem to rest on the background."""
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    regions = np.zeros((2, SIDE, SIDE), bool)
    regions[0, :2, :2] = regions[1, -2:, -2:] = True
    images[regions] = 255
    seen = []

    def predict(changed):
        seen.append(changed)
        return np.full((len(changed), 2), 0.5)

    reliance(predict, images, regions, np.full((2, 2), 0.5))
    np.testing.assert_array_equal(seen[0], images)


def test_replace_region_by_hand():
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    regions = np.array([[[True, False], [False, False]], [[False, False], [True, True]]])
    kept = images.copy()
    replaced = replace_region(images, regions, np.array([1, 0]))
    expected = images.copy()
    expected[0, 0, 0] = [12, 13, 14]
    expected[1, 1] = [[6, 7, 8], [9, 10, 11]]
    np.testing.assert_array_equal(replaced, expected)
    np.testing.assert_array_equal(images, kept)
    assert replaced.dtype == np.uint8


@pytest.mark.parametrize("count", [2, 3, 50])
def test_donors_are_others_each_asked_once(count):
    for seed in range(10):
        donors = draw_donors(count, seed)
        assert (donors != np.arange(count)).all()
        assert sorted(donors) == list(range(count))
    np.testing.assert_array_equal(draw_donors(count, 3), draw_donors(count, 3))
    with pytest.raises(ValueError, match="two images"):
        draw_donors(1, 0)
