"""Hair removal inside a model: what it takes away, what it leaves, and the same numbers wherever it runs."""

from __future__ import annotations

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_layer
from PIL import Image

from tfseg.benchmarks.hair import LAYER, NOTHING, REFERENCE, quality
from tfseg.data.hair import draw_hair, remove_hair
from tfseg.data.phantom import PhantomConfig, draw_phantoms
from tfseg.layers.hair import HairRemoval, fill, line_filters, side_filters


def clean_phantoms(count=6, side=224):
    config = PhantomConfig(images=count, size=side, hairs=0.0, seed=5)
    return np.stack([phantom.image for phantom in draw_phantoms(config)])


def with_hairs(clean, seed=0):
    rng = np.random.default_rng(seed)
    images, masks = zip(*(draw_hair(image, rng) for image in clean), strict=True)
    return np.stack(images), np.stack(masks)


def unit(images):
    return tf.constant(images, tf.float32) / 255.0


@pytest.mark.parametrize("shape", [(64, 64), (57, 75), (224, 224), (301, 225)])
def test_the_layer(tmp_path, shape):
    image = cv2.resize(clean_phantoms(1)[0], shape[::-1], interpolation=cv2.INTER_AREA)
    images = np.stack([draw_hair(image, np.random.default_rng(seed))[0] for seed in (1, 2)])
    layer = check_layer(HairRemoval, [unit(images)], tmp_path)
    result = layer(unit(images))
    assert result.dtype == tf.float32 and np.abs(result - unit(images)).max() > 0.2
    assert check_saved_model(layer, unit(images), tmp_path) < 1e-5


def check_saved_model(layer, image, tmp_path):
    """The largest difference to the SavedModel, called with another batch size than it was traced with."""
    model = keras.Sequential([keras.Input(image.shape[1:]), layer])
    model.export(str(tmp_path / "saved"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved")).serve(image)
    return np.abs(served - layer(image)).max()


def test_arguments_travel(tmp_path):
    def make():
        return HairRemoval(threshold=0.03, contrast=0.05, widest=7.0, length=20.0, name="shaved")

    layer = check_layer(make, [unit(with_hairs(clean_phantoms(2, 64))[0])], tmp_path)
    config = layer.get_config()
    assert [config[name] for name in ("threshold", "contrast", "widest", "length", "name")] == [
        0.03,
        0.05,
        7.0,
        20.0,
        "shaved",
    ]


def test_each_image_of_a_batch_stands_alone():
    images = unit(with_hairs(clean_phantoms(3, 96))[0])
    layer = HairRemoval()
    for position in range(3):
        one = slice(position, position + 1)
        np.testing.assert_allclose(layer(images[one]), layer(images)[one], atol=1e-5)


def test_a_line_by_hand():
    """One dark line on even skin: all of it is found, filled with the skin's colour, and nothing else changes."""
    skin = np.tile(np.float32([0.8, 0.6, 0.5]), (1, 112, 112, 1))
    image = skin.copy()
    image[:, 60, 10:100] = 0.2
    layer = HairRemoval()
    mask = layer.hair_mask(image)[0, :, :, 0].numpy()
    np.testing.assert_array_equal(mask[60, 12:98], 1.0)
    rows = np.flatnonzero(mask.any(1))
    assert rows.min() >= 59 and rows.max() <= 61
    np.testing.assert_allclose(layer(image), skin, atol=1e-5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda canvas: cv2.circle(canvas, (112, 112), 2, 0.2, -1),
        lambda canvas: cv2.circle(canvas, (112, 112), 4, 0.2, -1),
        lambda canvas: cv2.circle(canvas, (112, 112), 40, 0.2, -1),
        lambda canvas: cv2.circle(canvas, (112, 112), 120, 0.2, 60),
        lambda canvas: cv2.rectangle(canvas, (0, 0), (3, 223), 0.2, -1),
        lambda canvas: cv2.line(canvas, (100, 112), (106, 114), 0.2, 2),
        lambda canvas: [cv2.circle(canvas, (x, 112), 4, 0.2, -1) for x in (100, 112)],
        lambda canvas: [cv2.circle(canvas, (x, 112), 4, 0.2, -1) for x in range(64, 172, 18)],
        lambda canvas: cv2.line(canvas, (20, 112), (200, 120), 1.0, 2),
    ],
    ids=[
        "dot",
        "globule",
        "lesion",
        "dark corners",
        "dark edge",
        "short streak",
        "two globules",
        "a row of globules",
        "bright hair",
    ],
)
def test_what_is_no_hair_stays(draw):
    canvas = np.full((224, 224), 0.7, np.float32)
    draw(canvas)
    image = np.repeat(canvas[None, :, :, None], 3, -1)
    np.testing.assert_array_equal(HairRemoval()(image), image)


def test_a_jagged_border_stays():
    """Narrow bays of skin and spurs of pigment along a border are dark and lie in a line, but on one side only."""
    rows, columns = np.mgrid[:224, :224] - 112.0
    angle = np.arctan2(rows, columns)
    canvas = np.where(np.hypot(rows, columns) < 50.0 + 5.0 * np.sin(12.0 * angle), 0.3, 0.7).astype(np.float32)
    image = np.repeat(canvas[None, :, :, None], 3, -1)
    np.testing.assert_array_equal(HairRemoval()(image), image)


def test_a_net_stays_and_a_hair_across_it_goes():
    rows, columns = np.mgrid[:224, :224]
    net = 0.6 - 0.12 * ((rows % 9 < 3) | (columns % 9 < 3)).astype(np.float32)
    image = np.repeat(net[None, :, :, None], 3, -1)
    assert HairRemoval().hair_mask(image)[0, 20:-20, 20:-20].numpy().mean() < 0.01
    hairy = image.copy()
    hair = cv2.line(np.zeros((224, 224), np.uint8), (5, 30), (218, 190), 1, 3) > 0
    hairy[0, hair] = 0.05
    mask = HairRemoval().hair_mask(hairy)[0, :, :, 0].numpy()
    assert mask[hair].mean() > 0.9


def test_the_mask_scales_with_the_image():
    """The same picture at three times the side has the same mask, but for what shrinking blurs."""
    small = clean_phantoms(1)[0]
    large = cv2.resize(small, (672, 672), interpolation=cv2.INTER_CUBIC)
    large, truth = draw_hair(large, np.random.default_rng(3))
    small = cv2.resize(large, (224, 224), interpolation=cv2.INTER_AREA)
    layer = HairRemoval()
    fine = cv2.resize(layer.hair_mask(unit(large[None]))[0, :, :, 0].numpy(), (224, 224), interpolation=cv2.INTER_AREA)
    coarse = layer.hair_mask(unit(small[None]))[0, :, :, 0].numpy()
    found, other = fine > 0.5, coarse > 0.5
    assert 2.0 * (found & other).sum() / (found.sum() + other.sum()) > 0.85


class TestFill:
    def test_untouched_and_constant(self):
        generator = np.random.default_rng(0)
        image = generator.random((2, 37, 50, 3)).astype(np.float32)
        hair = (generator.random((2, 37, 50, 1)) > 0.6).astype(np.float32)
        filled = fill(tf.constant(image), tf.constant(hair)).numpy()
        seen = np.broadcast_to(hair == 0, image.shape)
        np.testing.assert_array_equal(filled[seen], image[seen])
        even = np.full_like(image, 0.3) + 0.6 * hair
        np.testing.assert_allclose(fill(tf.constant(even), tf.constant(hair)), 0.3, atol=1e-5)

    def test_a_gap_in_a_slope_is_closed_as_a_slope(self):
        """Against SciPy's solution of the same gap: what lies between is the harmonic continuation of its edges."""
        from scipy.interpolate import griddata

        rows, columns = np.mgrid[:96, :96].astype(np.float32)
        slope = np.repeat((0.2 + 0.006 * columns)[None, :, :, None], 3, -1)
        hair = (np.abs(rows - columns) < 3).astype(np.float32)
        filled = fill(tf.constant(slope * (1.0 - hair)[None, :, :, None]), tf.constant(hair[None, :, :, None]))
        inner = np.s_[10:-10, 10:-10]
        points = np.argwhere(hair == 0)
        linear = griddata(points, slope[0, :, :, 0][hair == 0], (rows, columns))
        assert np.abs(filled[0, :, :, 0].numpy()[inner] - linear[inner]).max() < 0.01

    def test_hair_wherever_one_looks(self):
        """A block that no level but the last sees gets the image's mean; all hair gives no division by zero."""
        image = np.full((1, 128, 128, 3), 0.4, np.float32)
        hair = np.ones((1, 128, 128, 1), np.float32)
        hair[:, :4, :4] = 0.0
        np.testing.assert_allclose(fill(tf.constant(image), tf.constant(hair)), 0.4, atol=1e-5)
        assert np.isfinite(fill(tf.constant(image), tf.ones_like(hair))).all()


def test_line_filters_are_means_less_their_surroundings():
    filters = line_filters(9, 1.5)[:, :, 0]
    assert filters.shape == (9, 9, 16) and filters.dtype == np.float32
    np.testing.assert_allclose(filters.sum((0, 1)), 1.0 - 1.5, atol=1e-6)
    # The line along the rows and the one along the columns.
    np.testing.assert_allclose(filters[..., 0], filters[..., 4].T, atol=1e-7)
    disk = (np.hypot(*np.mgrid[-4:5, -4:5]) <= 4.5).sum()
    np.testing.assert_allclose(filters[4, :, 0].sum(), 0.8 - 1.5 * 9 / disk, atol=1e-6)


def test_side_filters_see_a_border_on_one_side_and_a_hair_on_both():
    filters = side_filters()[:, :, 0]
    assert filters.shape == (11, 11, 16)
    np.testing.assert_allclose(filters.sum((0, 1)), 0.0, atol=1e-6)
    angles = (np.arange(8) + 0.25) * np.pi / 8
    rows, columns = np.mgrid[-5:6, -5:6]
    for position, angle in enumerate(angles):
        across = np.cos(angle) * rows - np.sin(angle) * columns
        hair, border = np.abs(across) > 2.0, across > 2.0
        both = [(filters[..., position + half] * hair).sum() for half in (0, 8)]
        one = [(filters[..., position + half] * border).sum() for half in (0, 8)]
        assert min(both) > 0.9 and abs(one[0]) < 0.1 and one[1] > 0.9


def test_side_filters_lie_between_their_lines():
    """Each group of three, the two lines and the sides, answers to the same direction."""
    lines, sides = line_filters(17)[:, :, 0], side_filters()[:, :, 0]
    for position in range(8):
        angle = (position + 0.25) * np.pi / 8
        rows, columns = np.mgrid[-8:9, -8:9]
        hair = (np.abs(np.cos(angle) * rows - np.sin(angle) * columns) < 1.0).astype(np.float32)
        answers = (lines * hair[..., None]).sum((0, 1))
        assert set(np.argsort(answers)[-2:]) == {position, position + 8}
        contrast = np.minimum(*np.split(-(sides * hair[3:-3, 3:-3, None]).sum((0, 1)), 2))
        assert contrast[position] > 0.9 and contrast[position - 4] < 0.5


def test_the_mask_is_a_constant_to_gradients():
    image = tf.Variable(unit(with_hairs(clean_phantoms(1, 96))[0]))
    layer = HairRemoval()
    hair = layer.hair_mask(image)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(image))
    gradient = tape.gradient(total, image)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(fill(image, hair))
    np.testing.assert_allclose(gradient, tape.gradient(total, image), atol=1e-5)
    np.testing.assert_allclose(gradient.numpy()[hair[..., 0] == 1.0], 0.0, atol=1e-6)


@pytest.mark.parametrize("name", ["threshold", "contrast", "widest", "length"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        HairRemoval(**{name: value})


@pytest.mark.parametrize("shape", [(64, 64, 1), (None, 64, 3), (64, 3)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="`image` must have shape"):
        HairRemoval()(keras.Input(shape))


def check_against_reference(clean, inside, outside, hairless):
    """Better than no removal and than the reference inside the drawn hairs and outside, and hardly there without."""
    found = quality(clean, *with_hairs(clean))
    for name, decibels in found.items():
        print(name, {where: round(value, 1) for where, value in decibels.items()})
    ours, theirs = found[LAYER], found[REFERENCE]
    assert ours["inside"] > theirs["inside"] > found[NOTHING]["inside"] + 15.0
    assert ours["outside"] > theirs["outside"]
    assert ours["inside"] > inside and ours["outside"] > outside and ours["hairless"] > hairless


def test_drawn_hairs_on_synthetic_lesions():
    check_against_reference(clean_phantoms(16), inside=28.5, outside=41.0, hairless=40.0)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("dataset", "step", "inside", "outside"), [("ph2", 3, 29.0, 43.0), ("ham10000", 40, 30.0, 50.0)]
)
def test_drawn_hairs_on_photographs(data_folder, dataset, step, inside, outside):
    """On the half of the photographs in which both ways together find least: many have hairs of their own."""
    if not (data_folder / dataset / "images").is_dir():
        pytest.skip(f"TFSEG_DATA holds no {dataset}")
    files = sorted((data_folder / dataset / "images").glob("*.jpg"))[::step]
    images = [np.asarray(Image.open(file).convert("RGB").resize((224, 224), Image.Resampling.BOX)) for file in files]
    layer = HairRemoval()
    share = [remove_hair(image)[1].mean() + layer.hair_mask(unit(image[None])).numpy().mean() for image in images]
    check_against_reference(np.stack(images)[np.argsort(share)[: len(images) // 2]], inside, outside, hairless=60.0)
