"""The maps by which classifiers mask."""

import keras
import numpy as np

from tfseg.data.batches import CaseArrays
from tfseg.data.cases import MaskClasses
from tfseg.jobs.masks import moved_maps, predict_pixels, true_maps


def test_a_moved_map_keeps_its_values_and_goes_somewhere_by_chance():
    maps = np.zeros((40, 8, 8), np.uint8)
    maps[:, 0, 0], maps[:, 0, 1], maps[3] = 200, 100, 0
    moved = moved_maps(maps, seed=1)
    np.testing.assert_array_equal(np.sort(moved.reshape(40, -1)), np.sort(maps.reshape(40, -1)))
    places = [tuple(np.argwhere(values == 200)[0]) for number, values in enumerate(moved) if number != 3]
    for (row, column), values in zip(places, np.delete(moved, 3, 0), strict=True):
        assert values[row, (column + 1) % 8] == 100, "it is moved whole, around the edge"
    assert len(set(places)) > 20 and len({row for row, _ in places}) == 8 and len({column for _, column in places}) == 8
    np.testing.assert_array_equal(moved_maps(maps, seed=1), moved)
    assert not np.array_equal(moved_maps(maps, seed=2), moved)
    np.testing.assert_array_equal(moved_maps(maps[:5], seed=1), moved[:5])


def test_true_maps_are_the_lesions_and_empty_where_there_is_no_mask():
    masks, ids = np.zeros((3, 16, 16), np.uint8), np.array(["a", "b", "c"])
    masks[0, 2:5, 3:6], masks[1] = 1, 255
    images, labels = np.zeros((3, 16, 16, 3), np.uint8), np.zeros(3, np.int32)
    maps = true_maps(CaseArrays(images, masks, np.array([True, False, True]), labels, ids, MaskClasses()))
    assert maps.dtype == np.uint8 and maps[0, 2:5, 3:6].min() == 255
    assert maps.sum() == 255 * 9


def test_a_graph_that_is_given_its_masks_gets_each_with_its_image():
    image, lesion = keras.Input((4, 4, 3), name="image"), keras.Input((4, 4, 1), name="lesion")
    seen = keras.ops.sum(image * lesion, axis=(1, 2, 3))
    graph = keras.Model({"image": image, "lesion": lesion}, {"seen": seen})
    images = np.full((5, 4, 4, 3), 255, np.uint8)
    maps = np.zeros((5, 4, 4), np.uint8)
    for number in range(5):
        maps[number].flat[:number] = 255
    np.testing.assert_allclose(
        predict_pixels(graph, images, {"lesion": maps}, batch_size=2)["seen"], 3.0 * np.arange(5), atol=1e-5
    )
