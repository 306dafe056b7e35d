"""One warp for images and maps: what the draws stand for, and that everything moves alike."""

import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.augment import (
    COLUMNS,
    DRAWS,
    FILLS,
    RECIPES,
    Augmentation,
    dilate,
    swap_backgrounds,
    transforms,
    warp,
)
from tfseg.data.decode import to_model_input
from tfseg.metrics.localisation import dilate as reference_dilate
from tfseg.metrics.localisation import dilation_side

STILL = Augmentation()
ALMOST = np.nextafter(np.float32(1.0), np.float32(0.0))


def draw(**changed):
    """The draws of one case that change nothing, but for those given."""
    middle = {name: 0.5 for name in COLUMNS} | {"columns": 0.9, "rows": 0.9, "turn": 0.0}
    return tf.constant([list((middle | changed).values())], tf.float32)


def many_draws(count, seed=(3, 4)):
    return tf.random.stateless_uniform((count, DRAWS), seed=seed)


def picture(height=5, width=5, channels=3, seed=0, count=1):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels)).astype(np.uint8)


def moved(augmentation, draws, image):
    """The image in values up to 255, moved, and its first channel moved as classes by nearest neighbour."""
    moved_image, classes, _ = warp(augmentation, draws, image, image[..., 0])
    return moved_image.numpy()[0] * 255.0, classes.numpy()[0]


def by_tensorflow(augmentation, draws, values, interpolation):
    """The same by TensorFlow's own operation, on values up to 255."""
    height, width = values.shape[1:3]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(values, tf.float32), transforms=transforms(augmentation, draws, height, width),
        output_shape=[height, width], fill_value=0.0, interpolation=interpolation,
        fill_mode=augmentation.fill.upper(),
    ).numpy()  # fmt: skip


@pytest.mark.parametrize("size", [(7, 5), (8, 8), (32, 48)])
def test_nothing_asked_is_the_identity_bit_by_bit(size):
    draws = many_draws(4)
    np.testing.assert_array_equal(transforms(STILL, draws, *size), [[1, 0, 0, 0, 1, 0, 0, 0]] * 4)
    image, classes = picture(*size, count=4), picture(*size, seed=1, count=4)[..., 0]
    # A flip that isn't drawn takes the way through the warp.
    unmoved = tf.concat([draws[:, :4], tf.ones((4, 2)), draws[:, 6:]], 1)
    for augmentation, numbers in ((STILL, draws), (Augmentation(flips=True), unmoved)):
        same_image, same_classes, maps = warp(augmentation, numbers, image, classes, [classes, image])
        np.testing.assert_array_equal(same_image, to_model_input(image))
        np.testing.assert_array_equal(same_classes, classes)
        np.testing.assert_array_equal(maps[0], to_model_input(classes[..., None]))
        np.testing.assert_array_equal(maps[1], to_model_input(image))
    assert warp(STILL, draws, image, classes)[2] == []
    assert not STILL.changes and not STILL.moves


@pytest.mark.parametrize("size", [(5, 5), (6, 6), (5, 8)])
def test_flips_mirror_the_pixel_grid(size):
    image = picture(*size)
    for changed, axis in (({"columns": 0.2}, 1), ({"rows": 0.2}, 0), ({"columns": 0.2, "rows": 0.2}, (0, 1))):
        values, classes = moved(Augmentation(flips=True), draw(**changed), image)
        np.testing.assert_array_equal(np.round(values, 3), np.flip(image[0], axis))
        np.testing.assert_array_equal(classes, np.flip(image[0, ..., 0], axis))


@pytest.mark.parametrize("side", [5, 6])
def test_right_angles_are_exact(side):
    image = picture(side, side)
    for quarter in range(4):
        values, classes = moved(Augmentation(right_angles=True), draw(turn=quarter / 4 + 0.1), image)
        # Output → input turns one way, so the content turns the other way.
        np.testing.assert_array_equal(np.round(values, 3), np.rot90(image[0], quarter))
        np.testing.assert_array_equal(classes, np.rot90(image[0, ..., 0], quarter))


@pytest.mark.parametrize("side", [5, 6])
def test_a_rotation_by_a_quarter(side):
    """An angle of 90° of at most 180° is the draw 0.75; output → input turns by it, so the content turns back."""
    image = picture(side, side)
    turned, classes = moved(Augmentation(rotation=180.0), draw(angle=0.75), image)
    # Output (row, column) = (i, j) about the centre reads input column −i and row j.
    wanted = np.array([[image[0, j, side - 1 - i] for j in range(side)] for i in range(side)])
    np.testing.assert_allclose(turned, wanted, atol=1.0)
    np.testing.assert_array_equal(classes, wanted[..., 0])
    half, _ = moved(Augmentation(rotation=180.0), draw(angle=0.0), image)
    np.testing.assert_allclose(half, image[0, ::-1, ::-1], atol=1.0)


def test_shift_and_zoom_by_hand():
    image = picture(8, 8)
    # Draw 1 of a shift by at most a quarter of 8 pixels: output column j reads input column j + 2 (draws are below
    # 1, so the number next to it is taken).
    quarter = Augmentation(shift=0.25, fill="constant")
    shifted, _ = moved(quarter, draw(right=ALMOST), image)
    np.testing.assert_allclose(shifted[:, :6], image[0, :, 2:], atol=1e-3)
    np.testing.assert_allclose(shifted[:, 6:], 0.0, atol=1e-3)
    down, _ = moved(quarter, draw(down=0.0), image)
    np.testing.assert_allclose(down[2:], image[0, :6], atol=1e-3)
    # Scale 0.5 about the centre 3.5: output column j reads 3.5 + 2 · (j − 3.5) = 2j − 3.5.
    matrix = transforms(Augmentation(zoom=0.5), draw(scale=0.0), 8, 8)[0]
    np.testing.assert_allclose(matrix, [2, 0, -3.5, 0, 2, -3.5, 0, 0], atol=1e-5)


def test_half_a_pixel_by_hand():
    """Columns 10, 20, 40 read half a pixel further right: 15, 30, and beyond the border 40 and half of black."""
    image = np.zeros((1, 3, 3, 3), np.uint8) + np.array([10, 20, 40], np.uint8)[None, None, :, None]
    for fill, last in (("nearest", 40), ("reflect", 40), ("constant", 20)):
        shifted, classes = moved(Augmentation(shift=1 / 6, fill=fill), draw(right=ALMOST), image)
        np.testing.assert_allclose(shifted[1, :, 0], [15, 30, last], atol=1e-3)
        assert set(classes[1]) <= {10, 20, 40, 0}, "classes are never mixed"


def test_shear_by_hand():
    # 45° about the centre 2: output (row i, column j) reads input column j + (i − 2), the row stays.
    matrix = transforms(Augmentation(shear=45.0), draw(shear=1.0), 5, 5)[0]
    np.testing.assert_allclose(matrix, [1, 1, -2, 0, 1, 0, 0, 0], atol=1e-5)
    image = picture(5, 5)
    slanted, _ = moved(Augmentation(shear=45.0, fill="constant"), draw(shear=ALMOST), image)
    np.testing.assert_allclose(slanted[1, 1:], image[0, 1, :4], atol=1.0)
    np.testing.assert_allclose(slanted[3, :4], image[0, 3, 1:], atol=1.0)


def test_a_rotated_oblong_image_keeps_its_angles():
    """Rotation is in pixels: the matrix is a rotation whatever the sides."""
    matrix = transforms(Augmentation(rotation=90.0), draw(angle=0.8), 20, 60)[0].numpy()
    linear = np.array([matrix[0:2], matrix[3:5]])
    np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-5)
    assert linear[1, 0] == pytest.approx(np.sin(np.radians(54.0)), abs=1e-5)
    np.testing.assert_allclose(linear @ [29.5, 9.5] + matrix[[2, 5]], [29.5, 9.5], atol=1e-4)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("size", [(33, 33), (24, 40)])
def test_it_agrees_with_tensorflows_own_operation(fill, size):
    augmentation = Augmentation(True, True, 180.0, 0.3, 0.4, 20.0, fill=fill)
    draws, image = many_draws(16), picture(*size, count=16)
    classes, probability = picture(*size, seed=1, count=16)[..., 0], picture(*size, seed=2, count=16)[..., 0]
    three = picture(*size, seed=3, count=16)
    moved, ours, maps = warp(augmentation, draws, image, classes, [probability, three])
    smooth = by_tensorflow(augmentation, draws, np.concatenate([image, probability[..., None], three], -1), "BILINEAR")
    near = by_tensorflow(augmentation, draws, classes[..., None], "NEAREST")[..., 0]
    compared = np.ones(near.shape, bool)
    if fill == "wrap":
        # Between the last pixel and the first one of the next copy, TensorFlow reads the first one throughout; and
        # its copies further away are out of place.
        rows, columns = np.meshgrid(*(np.arange(side) for side in size), indexing="ij")
        a, b, c, d, e, f = transforms(augmentation, draws, *size).numpy().astype(float).T[:6, :, None, None]
        for place, side in ((a * columns + b * rows + c, size[1]), (d * columns + e * rows + f, size[0])):
            compared &= ((place % side) < side - 1) & (1 - side < place) & (place < 2 * side - 2)
    assert compared.mean() > 0.8
    # Rounded to whole values: half of one at most.
    apart = np.abs(np.concatenate([moved, *maps], -1) * 255.0 - smooth).max(-1)
    assert apart[compared].max() < 0.51
    assert (ours.numpy() != near)[compared].mean() < 1e-3


def test_image_and_maps_move_in_step():
    """Coordinates painted into the image tell where each output pixel came from; the maps must say the same."""
    side, count = 33, 8
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    lesion = ((rows - 10) ** 2 + (columns - 18) ** 2 < 60).astype(np.float32)
    coordinates = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    image, maps = np.repeat(coordinates[None], count, 0), np.repeat(lesion[None].astype(np.uint8), count, 0)
    augmentation = Augmentation(True, True, 180.0, 0.3, 0.2, 15.0, 0.0, 0.0, 0.0, 0.0, "nearest")
    image, classes, (probability,) = warp(augmentation, many_draws(count), image, maps, [maps * 255])
    image, classes, probability = image.numpy(), classes.numpy(), probability.numpy()
    assert set(np.unique(classes)) == {0, 1}
    came_from = np.clip(np.round(image[..., :2] * 255).astype(int), 0, side - 1)
    expected = lesion[came_from[..., 0], came_from[..., 1]]
    # Rounding may put a pixel on the other side of the outline, never more than that.
    agreement = (expected == classes).mean((1, 2))
    assert agreement.min() > 0.97
    assert ((probability[..., 0] > 0.5) == (classes > 0.5)).mean() > 0.98
    places = [tuple(np.argwhere(case).mean(0).round(1)) for case in classes]
    assert len(set(places)) == count, "the cases of a batch draw their own transforms"


def test_what_lies_beyond_the_border():
    image = np.arange(1, 7, dtype=np.uint8).reshape(1, 1, 6, 1).repeat(6, 1).repeat(3, 3)
    wanted = {"reflect": [3, 4, 5, 6, 6, 5], "nearest": [3, 4, 5, 6, 6, 6], "wrap": [3, 4, 5, 6, 1, 2]}
    for fill, row in {**wanted, "constant": [3, 4, 5, 6, 0, 0]}.items():
        shifted, classes = moved(Augmentation(shift=1 / 3, fill=fill), draw(right=ALMOST), image)
        np.testing.assert_allclose(shifted[2, :, 0], row, atol=1e-3)
        np.testing.assert_array_equal(classes[2], row)


def test_colours_by_hand():
    """One pixel (0.2, 0.4, 0.6) and one (0.4, 0.4, 0.4); grey 0.299 R + 0.587 G + 0.114 B is 0.3630 and 0.4."""
    image = np.array([[[[51, 102, 153], [102, 102, 102]]]], np.uint8)

    def coloured(name, value):
        return warp(Augmentation(**{name: 0.5}), draw(**{name: value}), image, image[..., 0])[0].numpy()[0, 0]

    # The draw 1 stands for 1.5 times, the draw 0 for half.
    np.testing.assert_allclose(coloured("brightness", 1.0), [[0.3, 0.6, 0.9], [0.6] * 3], atol=1e-5)
    np.testing.assert_allclose(coloured("brightness", 0.0), [[0.1, 0.2, 0.3], [0.2] * 3], atol=1e-5)
    mean = (0.3630 + 0.4) / 2
    expected = [[mean + 0.5 * (v - mean) for v in (0.2, 0.4, 0.6)], [mean + 0.5 * (0.4 - mean)] * 3]
    np.testing.assert_allclose(coloured("contrast", 0.0), expected, atol=1e-4)
    expected = [[0.363 + 1.5 * (v - 0.363) for v in (0.2, 0.4, 0.6)], [0.4] * 3]
    np.testing.assert_allclose(coloured("saturation", 1.0), expected, atol=1e-4)
    for name in ("brightness", "contrast", "saturation"):
        np.testing.assert_allclose(coloured(name, 0.5) * 255.0, image[0, 0], atol=1e-3)


def test_colours_are_clipped_and_leave_masks_alone():
    image, classes = picture(6, 6, count=8), picture(6, 6, seed=1, count=8)[..., 0]
    everything = Augmentation(brightness=1.0, contrast=1.0, saturation=1.0)
    coloured, same, (probability,) = warp(everything, many_draws(8), image, classes, [classes])
    assert (coloured.numpy().min(), coloured.numpy().max()) == (0.0, 1.0)
    np.testing.assert_array_equal(same, classes)
    np.testing.assert_array_equal(probability[..., 0], to_model_input(classes))


@pytest.mark.parametrize("width", [8, 20, 21, 60, 100, 224])
def test_dilation_is_the_one_that_localisation_is_measured_with(width):
    masks = np.random.default_rng(0).uniform(size=(2, 40, width)) > 0.995
    masks[0, [0, -1], [0, -1]] = True
    grown = dilate(masks.astype(np.uint8), dilation_side(width)).numpy()
    np.testing.assert_array_equal(grown > 0, reference_dilate(masks))


class TestBackgroundSwap:
    """Three images of one value each, 10, 20 and 30, 40 pixels wide: the lesion grows by a square of 2."""

    def scene(self):
        image = np.zeros((3, 40, 40, 3), np.uint8) + np.array([10, 20, 30], np.uint8)[:, None, None, None]
        lesion = np.zeros((3, 40, 40), bool)
        lesion[0, 10:20, 10:20] = lesion[2, 5:8, 5:8] = True
        return image, lesion

    def test_by_hand(self):
        image, lesion = self.scene()
        # Donor draws 0, 0.9 and 0.6 of two others: the next one, the one after it, the one after it.
        draws = tf.concat([draw(swap=0.0, donor=0.0), draw(swap=0.0, donor=0.9), draw(swap=0.0, donor=0.6)], 0)
        maps = image[..., 0] + 1
        swapped, maps = swap_backgrounds(Augmentation(background_swap=1.0), draws, lesion, image, maps)
        # Of even side, the square reaches one pixel further right and down, and not left and up.
        expected = np.full((40, 40), 20)
        expected[10:21, 10:21] = 10
        np.testing.assert_array_equal(swapped[0, ..., 0], expected)
        np.testing.assert_array_equal(swapped[0, ..., 2], expected)
        np.testing.assert_array_equal(maps[0], expected + 1)
        np.testing.assert_array_equal(swapped[1], image[1], "an image without a lesion stays as it is")
        expected = np.full((40, 40), 20)
        expected[5:9, 5:9] = 30
        np.testing.assert_array_equal(swapped[2, ..., 1], expected)

    def test_the_share(self):
        image, lesion = picture(20, 20, count=400), np.zeros((400, 20, 20), bool)
        lesion[:, 8:12, 8:12] = True
        (swapped,) = swap_backgrounds(Augmentation(background_swap=0.3), many_draws(400), lesion, image)
        changed = (swapped.numpy() != image).any((1, 2, 3))
        assert changed.mean() == pytest.approx(0.3, abs=0.07)
        np.testing.assert_array_equal(swapped.numpy()[lesion], image[lesion])

    def test_nobody_is_their_own_donor(self):
        image = np.zeros((5, 4, 4, 3), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None]
        lesion = np.zeros((5, 4, 4), bool)
        lesion[:, 0, 0] = True
        donors = set()
        for seed in range(20):
            (swapped,) = swap_backgrounds(Augmentation(background_swap=1.0), many_draws(5, (seed, 1)), lesion, image)
            donors |= {(case, int(value)) for case, value in enumerate(swapped.numpy()[:, 3, 3, 0])}
        assert donors == {(case, donor) for case in range(5) for donor in range(5) if case != donor}

    def test_an_image_alone_keeps_its_background(self):
        image, lesion = (values[:1] for values in self.scene())
        (swapped,) = swap_backgrounds(Augmentation(background_swap=1.0), draw(swap=0.0, donor=0.99), lesion, image)
        np.testing.assert_array_equal(swapped, image)


def test_the_recipes():
    assert list(RECIPES) == ["none", "free", "oral", "cervical", "ebhi", "se_lcn"]
    assert not RECIPES["none"].changes and all(recipe.changes for name, recipe in RECIPES.items() if name != "none")
    image = picture(6, 6, count=64)
    turned, _, _ = warp(RECIPES["se_lcn"], many_draws(64), image, image[..., 0])
    turned = np.round(turned.numpy() * 255.0)
    versions = [
        {(flip, turn) for flip in (1, -1) for turn in range(4) if (np.rot90(old[:, ::flip], turn) == new).all()}
        for old, new in zip(image, turned, strict=True)
    ]
    assert all(len(found) == 1 for found in versions) and len(set.union(*versions)) == 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"zoom": 1.0},
        {"shift": -0.1},
        {"rotation": 181.0},
        {"shear": 61.0},
        {"contrast": 1.1},
        {"background_swap": -0.1},
        {"fill": "mirror"},
    ],
)
def test_arguments_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)


@pytest.mark.parametrize("fill", FILLS)
def test_a_smaller_map_moves_with_its_image(fill):
    """A disc, drawn at 60 and at 20 pixels: its middle goes to the same place of both."""
    rows, columns = np.meshgrid(np.arange(60), np.arange(60), indexing="ij")
    disc = (255 * ((rows - 24) ** 2 + (columns - 33) ** 2 < 64)).astype(np.uint8)
    large = np.repeat(disc[None], 12, 0)
    small = np.repeat(large.reshape(12, 20, 3, 20, 3).mean((2, 4)).astype(np.uint8)[..., None], 3, -1)
    augmentation = Augmentation(True, True, 180.0, 0.1, 0.05, 10.0, fill=fill)
    image = np.repeat(large[..., None], 3, -1)
    _, _, (probability, classes) = warp(augmentation, many_draws(12), image, large, [large, small])
    found = []
    for values in (probability.numpy()[..., 0], classes.numpy()[..., 1]):
        places = (np.arange(values.shape[1]) + 0.5) / values.shape[1]
        whole = values.sum((1, 2))
        found.append([(values * places[:, None]).sum((1, 2)) / whole, (values * places).sum((1, 2)) / whole])
    np.testing.assert_allclose(*found, atol=0.01)
    assert np.ptp(found[0][0]) > 0.05


def test_backgrounds_of_smaller_maps_are_swapped_where_the_images_are():
    lesion = np.zeros((2, 40, 40), bool)
    lesion[:, 12:24, 16:28] = True
    large = np.stack([np.full((40, 40), 10, np.uint8), np.full((40, 40), 200, np.uint8)])
    small = np.repeat(large[:, ::2, ::2, None], 3, -1)
    draws = many_draws(2)
    everywhere = Augmentation(background_swap=1.0)
    swapped_large, swapped_small = (
        values.numpy() for values in swap_backgrounds(everywhere, draws, lesion, large, small)
    )
    np.testing.assert_array_equal(swapped_small[..., 0], swapped_large[:, 1::2, 1::2])
    assert swapped_small[0, 0, 0, 0] == 200 and swapped_small[0, 8, 10, 0] == 10
