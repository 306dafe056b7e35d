"""One warp for images and maps: what the draws stand for, and that everything moves alike."""

import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.augment import DRAWS, Augmentation, transforms, warp

STILL = Augmentation(flips=False, rotation=0.0, zoom=0.0, shift=0.0)
# Columns of a draw: angle, scale, shift right, shift down, mirror columns, mirror rows.
MIDDLE = [0.5, 0.5, 0.5, 0.5, 0.9, 0.9]


def draw(**changed):
    names = ("angle", "scale", "right", "down", "columns", "rows")
    return tf.constant([[changed.get(name, value) for name, value in zip(names, MIDDLE, strict=True)]], tf.float32)


def picture(height=5, width=5, channels=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(1, height, width, channels)).astype(np.float32)


def moved(augmentation, draws, image):
    """The image, moved, and the same values moved as classes by nearest neighbour."""
    return [values.numpy()[0] for values in warp(augmentation, draws, image, image[..., :1])[:2]]


def test_nothing_asked_is_the_identity():
    draws = tf.random.stateless_uniform((4, DRAWS), seed=(0, 1))
    np.testing.assert_allclose(transforms(STILL, draws, 7, 5), [[1, 0, 0, 0, 1, 0, 0, 0]] * 4, atol=1e-6)
    image, classes = np.repeat(picture(7, 5), 4, 0), np.repeat(picture(7, 5, 1, seed=1), 4, 0)
    same_image, same_classes, nothing = warp(STILL, draws, image, classes)
    np.testing.assert_allclose(same_image, image, atol=1e-6)
    np.testing.assert_array_equal(same_classes, classes)
    assert nothing is None


@pytest.mark.parametrize("size", [(5, 5), (6, 6), (5, 8)])
def test_flips_mirror_the_pixel_grid(size):
    image = picture(*size)
    only_flips = Augmentation(flips=True, rotation=0.0, zoom=0.0, shift=0.0)
    for changed, axis in (({"columns": 0.2}, 1), ({"rows": 0.2}, 0), ({"columns": 0.2, "rows": 0.2}, (0, 1))):
        for values, wanted in zip(moved(only_flips, draw(**changed), image), (image, image[..., :1]), strict=True):
            np.testing.assert_allclose(values, np.flip(wanted[0], axis), atol=1e-5)
    np.testing.assert_allclose(moved(STILL, draw(columns=0.2, rows=0.2), image)[0], image[0], atol=1e-6)


@pytest.mark.parametrize("side", [5, 6])
def test_a_quarter_turn(side):
    """An angle of 90° of at most 180° is the draw 0.75; output → input turns by it, so the content turns back."""
    image = picture(side, side)
    turned, classes = moved(Augmentation(False, 180.0, 0.0, 0.0), draw(angle=0.75), image)
    # Output (row, column) = (i, j) about the centre reads input column −i and row j.
    wanted = np.array([[image[0, j, side - 1 - i] for j in range(side)] for i in range(side)])
    np.testing.assert_allclose(turned, wanted, atol=1e-4)
    np.testing.assert_allclose(classes, wanted[..., :1], atol=1e-4)
    half, _ = moved(Augmentation(False, 180.0, 0.0, 0.0), draw(angle=0.0), image)
    np.testing.assert_allclose(half, image[0, ::-1, ::-1], atol=1e-4)


def test_shift_and_zoom_by_hand():
    image = picture(8, 8)
    # Draw 1 of a shift by at most a quarter of 8 pixels: output column j reads input column j + 2 (in [0, 1), so just
    # below 1 is taken for 1).
    almost = np.nextafter(np.float32(1.0), np.float32(0.0))
    shifted, _ = moved(Augmentation(False, 0.0, 0.0, 0.25, "constant"), draw(right=almost), image)
    np.testing.assert_allclose(shifted[:, :6], image[0, :, 2:], atol=1e-4)
    np.testing.assert_allclose(shifted[:, 6:], 0.0, atol=1e-4)
    down, _ = moved(Augmentation(False, 0.0, 0.0, 0.25, "constant"), draw(down=0.0), image)
    np.testing.assert_allclose(down[2:], image[0, :6], atol=1e-4)
    # Scale 0.5 about the centre 3.5: output column j reads 3.5 + 2 · (j − 3.5) = 2j − 3.5.
    matrix = transforms(Augmentation(False, 0.0, 0.5, 0.0), draw(scale=0.0), 8, 8)[0]
    np.testing.assert_allclose(matrix, [2, 0, -3.5, 0, 2, -3.5, 0, 0], atol=1e-5)


def test_a_rotated_oblong_image_keeps_its_angles():
    """Rotation is in pixels: the matrix is a rotation whatever the sides."""
    matrix = transforms(Augmentation(False, 90.0, 0.0, 0.0), draw(angle=0.8), 20, 60)[0].numpy()
    linear = np.array([matrix[0:2], matrix[3:5]])
    np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-5)
    assert linear[1, 0] == pytest.approx(np.sin(np.radians(54.0)), abs=1e-5)
    np.testing.assert_allclose(linear @ [29.5, 9.5] + matrix[[2, 5]], [29.5, 9.5], atol=1e-4)


def test_image_and_maps_move_in_step():
    """Coordinates painted into the image tell where each output pixel came from; the maps must say the same."""
    side, count = 33, 8
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    lesion = ((rows - 10) ** 2 + (columns - 18) ** 2 < 60).astype(np.float32)
    coordinates = np.stack([rows, columns, np.zeros_like(rows)], -1) / np.float32(side)
    image = np.repeat(coordinates[None].astype(np.float32), count, 0)
    maps = np.repeat(lesion[None, ..., None], count, 0)
    draws = tf.random.stateless_uniform((count, DRAWS), seed=(3, 4))
    fill = Augmentation(True, 180.0, 0.3, 0.2, "nearest")
    image, classes, probability = (values.numpy() for values in warp(fill, draws, image, maps, maps))
    assert set(np.unique(classes)) == {0.0, 1.0}
    came_from = np.clip(np.round(image[..., :2] * side).astype(int), 0, side - 1)
    expected = lesion[came_from[..., 0], came_from[..., 1]]
    # Rounding may put a pixel on the other side of the outline, never more than that.
    agreement = (expected == classes[..., 0]).mean((1, 2))
    assert agreement.min() > 0.97
    assert ((probability[..., 0] > 0.5) == (classes[..., 0] > 0.5)).mean() > 0.98
    places = [tuple(np.argwhere(case[..., 0]).mean(0).round(1)) for case in classes]
    assert len(set(places)) == count, "the cases of a batch draw their own transforms"


def test_what_lies_beyond_the_border():
    image = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 6, 1).repeat(6, 1).repeat(3, 3)
    almost = np.nextafter(np.float32(1.0), np.float32(0.0))
    wanted = {"reflect": [3, 4, 5, 6, 6, 5], "nearest": [3, 4, 5, 6, 6, 6], "wrap": [3, 4, 5, 6, 1, 2]}
    for fill, row in {**wanted, "constant": [3, 4, 5, 6, 0, 0]}.items():
        shifted, classes = moved(Augmentation(False, 0.0, 0.0, 1 / 3, fill), draw(right=almost), image)
        np.testing.assert_allclose(shifted[2, :, 0], row, atol=1e-3)
        np.testing.assert_array_equal(classes[2, :, 0], row)


@pytest.mark.parametrize("wrong", [{"zoom": 1.0}, {"shift": -0.1}, {"rotation": 181.0}, {"fill": "mirror"}])
def test_arguments_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)
