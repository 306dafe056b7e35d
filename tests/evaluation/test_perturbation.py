"""Insertion and deletion by hand."""

import numpy as np
import pytest

from tfseg.evaluation.perturbation import blurred, deletion, insertion

# Two images of four pixels, one channel; the score of class 1 is the weighted sum of the pixels.
IMAGES = np.array([[[1, 1], [1, 1]], [[2, 0], [1, 1]]], float)[..., None]
WEIGHTS = np.array([[0.4, 0.3], [0.2, 0.1]])[..., None]
SALIENCY = np.array([[[0.9, 0.6], [0.3, 0.1]], [[0.0, 0.2], [0.5, 0.7]]])


def predict(images):
    score = (images * WEIGHTS).sum((1, 2, 3))
    return np.stack([1 - score, score], -1)


def test_deletion_by_hand():
    curves = deletion(predict, IMAGES, SALIENCY, np.array([1, 1]), steps=4)
    np.testing.assert_allclose(curves.fractions, [0, 0.25, 0.5, 0.75, 1])
    # The first image loses 0.4, 0.3, 0.2, 0.1; the second one 0.1, 0.2, 0, 0.8.
    np.testing.assert_allclose(curves.scores, [[1, 0.6, 0.3, 0.1, 0], [1.1, 1.0, 0.8, 0.8, 0]], atol=1e-12)
    # Trapezia: (1/2 + 0.6 + 0.3 + 0.1 + 0) / 4 and (0.55 + 1 + 0.8 + 0.8 + 0) / 4.
    np.testing.assert_allclose(curves.auc, [0.375, 0.7875])


def test_the_other_class_and_another_fill():
    curves = deletion(predict, IMAGES, SALIENCY, np.array([0, 1]), steps=2, fill=3.0)
    # All pixels of weight 0.7, then of 1, become 3: 1 − (3 · 0.7 + 0.3); 2 · 0.4 + 3 · 0.3.
    np.testing.assert_allclose(curves.scores, [[0, -1.4, -2], [1.1, 1.7, 3]], atol=1e-12)


def test_insertion_by_hand():
    start = np.zeros_like(IMAGES)
    curves = insertion(predict, IMAGES, SALIENCY, np.array([1, 1]), steps=4, start=start)
    np.testing.assert_allclose(curves.scores, [[0, 0.4, 0.7, 0.9, 1], [0, 0.1, 0.3, 0.3, 1.1]], atol=1e-12)
    np.testing.assert_allclose(curves.auc, [0.625, 0.3125])


def test_insertion_starts_from_the_blurred_image():
    images = np.random.default_rng(0).uniform(size=(2, 20, 20, 3)).astype(np.float32)
    curves = insertion(lambda batch: batch.mean((1, 2)), images, images[..., 0], np.array([1, 2]), steps=3)
    soft = blurred(images)
    np.testing.assert_allclose(curves.scores[:, 0], soft.mean((1, 2))[[0, 1], [1, 2]], rtol=1e-5)
    np.testing.assert_allclose(curves.scores[:, -1], images.mean((1, 2))[[0, 1], [1, 2]], rtol=1e-5)
    assert soft.std() < 0.5 * images.std() and soft.dtype == images.dtype


def test_steps_that_do_not_divide_the_pixels():
    """Four pixels in three steps: one, two (by rounding 2.67 to 3: three), all."""
    curves = deletion(predict, IMAGES[:1], SALIENCY[:1], np.array([1]), steps=3)
    np.testing.assert_allclose(curves.fractions, [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(curves.scores, [[1, 0.6, 0.1, 0]], atol=1e-12)
    np.testing.assert_allclose(curves.auc, [(0.5 * 1.6 + 0.7 + 0.5 * 0.1) / 4])


def test_batches_do_not_matter_and_are_kept():
    sizes = []

    def watched(images):
        sizes.append(len(images))
        return predict(images)

    small = deletion(watched, IMAGES, SALIENCY, np.array([1, 0]), steps=4, batch_size=3)
    assert sizes == [3, 3, 3, 1]
    np.testing.assert_array_equal(small.scores, deletion(predict, IMAGES, SALIENCY, np.array([1, 0]), steps=4).scores)


def test_equal_pixels_are_exchanged_in_random_order():
    """Else what stands first in a flat map would count as salient."""
    image, flat = np.ones((1, 10, 10, 1)), np.zeros((1, 10, 10))

    def upper_half(images):
        return images[:, :5].mean((1, 2))

    areas = [deletion(upper_half, image, flat, np.array([0]), steps=100, seed=seed).auc[0] for seed in range(20)]
    assert abs(np.mean(areas) - 0.5) < 0.05 and len(set(areas)) > 1
    assert areas[3] == deletion(upper_half, image, flat, np.array([0]), steps=100, seed=3).auc[0]


def test_a_map_of_what_matters_beats_its_negative():
    images = np.random.default_rng(1).uniform(0.2, 1, size=(3, 8, 8, 1))
    weights = np.random.default_rng(2).uniform(size=(8, 8, 1))
    score = lambda batch: (batch * weights).mean((1, 2))  # noqa: E731
    good, classes = (images * weights)[..., 0], np.zeros(3, int)
    for function, better in ((deletion, np.less), (insertion, np.greater)):
        options = {"start": 0.0} if function is insertion else {}
        areas = [function(score, images, way * good, classes, **options).auc for way in (1, -1)]
        assert better(areas[0], areas[1] * (1.0 if better is np.greater else 0.9)).all()


def test_mistakes_are_named():
    for steps in (0, 5):
        with pytest.raises(ValueError, match=r"`steps` must lie in \[1, 4\]"):
            deletion(predict, IMAGES, SALIENCY, np.array([1, 1]), steps=steps)
    with pytest.raises(ValueError, match="`saliency` and `classes`"):
        deletion(predict, IMAGES, SALIENCY[:1], np.array([1, 1]), steps=2)
    with pytest.raises(ValueError, match="`saliency` and `classes`"):
        insertion(predict, IMAGES, SALIENCY, np.array([1]), steps=2)
