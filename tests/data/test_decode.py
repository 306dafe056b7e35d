import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfseg.data.decode import (
    decode_image,
    padded_box,
    resize_image,
    resize_mask,
    restore_map,
    to_model_input,
)

SIZE = 24


def encoded(pixels, kind="PNG", mode=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(height=37, width=53, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
def test_png_modes_become_three_channels(mode):
    pixels = photograph()
    expected = np.asarray(Image.open(io.BytesIO(encoded(pixels, mode=mode))).convert("RGB"))
    np.testing.assert_array_equal(decode_image(tf.constant(encoded(pixels, mode=mode))), expected)


def test_jpeg_equals_the_accurate_integer_transform_of_another_decoder():
    contents = encoded(photograph(), "JPEG", quality=85)
    # Pillow's libjpeg uses the same transform: not a single value may differ by more than the chroma rounding.
    difference = np.abs(decode_image(contents).numpy().astype(int) - np.asarray(Image.open(io.BytesIO(contents))))
    assert difference.max() <= 1


def test_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(photograph(), "JPEG", exif=exif)).shape == (37, 53, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_file_is_an_error(kind):
    contents = encoded(photograph(), kind)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(contents[: len(contents) // 2])


def test_an_animation_is_an_error_and_no_stack_of_frames():
    frames = [Image.fromarray(photograph(seed=seed)) for seed in (0, 1)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(buffer.getvalue())


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_same_bits_eagerly_in_tf_data_and_in_a_saved_model(tmp_path, resize, kind):
    files = [encoded(photograph(*shape), kind) for shape in ((37, 53), (80, 31), (7, 9))]

    def whole(contents):
        return to_model_input(resize_image(decode_image(contents), SIZE, resize))

    eager = np.stack([whole(contents).numpy() for contents in files])
    in_tf_data = np.stack([*tf.data.Dataset.from_tensor_slices(files).map(whole).as_numpy_iterator()])
    module = tf.Module()
    module.batch = tf.function(
        lambda contents: tf.map_fn(whole, contents, fn_output_signature=tf.TensorSpec((SIZE, SIZE, 3))),
        [tf.TensorSpec((None,), tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "decoder"))
    served = tf.saved_model.load(str(tmp_path / "decoder")).batch(tf.constant(files)).numpy()
    np.testing.assert_array_equal(eager, in_tf_data)
    np.testing.assert_array_equal(eager, served)
    assert eager.std() > 0.1


@pytest.mark.parametrize("shape", [(80, 120), (25, 19), (9, 50), (24, 24)])
def test_resize_agrees_with_pillow(shape):
    pixels = photograph(*shape)
    expected = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize_image(pixels, SIZE).numpy() - expected).max() <= 1


def test_resize_by_hand():
    # Halving with an antialiased triangle of radius 2: weights 1/8, 3/8, 3/8, 1/8; at the border renormalised to
    # 3/7, 3/7, 1/7 (the pixel outside falls away).
    row = np.array([0, 70, 140, 210], np.uint8)
    image = np.repeat(np.tile(row, (4, 1))[..., None], 3, -1)
    first = round((3 * 0 + 3 * 70 + 140) / 7)
    last = round((70 + 3 * 140 + 3 * 210) / 7)
    assert resize_image(image, 2).numpy()[0, :, 0].tolist() == [first, last]


def test_resizing_to_the_same_size_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    for resize in ("stretch", "pad"):
        np.testing.assert_array_equal(resize_image(pixels, SIZE, resize), pixels)


def test_a_batch_is_resized_like_its_images_and_floats_like_bytes():
    batch = np.stack([photograph(seed=seed) for seed in range(3)])
    for resize in ("stretch", "pad"):
        singly = np.stack([resize_image(image, SIZE, resize).numpy() for image in batch])
        np.testing.assert_array_equal(resize_image(batch, SIZE, resize), singly)
        np.testing.assert_array_equal(resize_image(batch.astype(np.float32), SIZE, resize), singly)
    assert resize_image(np.full((4, 4, 3), 999.0), 2).numpy().max() == 255


def test_pad_keeps_the_aspect_centred_on_black():
    padded = resize_image(np.full((10, 40, 3), 200, np.uint8), 20, "pad").numpy()
    assert padded.shape == (20, 20, 3)
    assert (padded[7:12] == 200).all() and (padded[:7] == 0).all() and (padded[12:] == 0).all()
    mask = resize_mask(np.ones((10, 40), np.uint8), 20, "pad").numpy()
    assert (mask[7:12] == 1).all() and (mask[:7] == 255).all() and (mask[12:] == 255).all()


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 40, (7, 0, 5, 20)), (40, 10, (0, 7, 20, 5)), (30, 30, (0, 0, 20, 20)), (1, 1000, (9, 0, 1, 20))],
)
def test_padded_box_by_hand_and_in_a_graph(height, width, box):
    assert padded_box(height, width, 20) == box
    in_graph = tf.function(lambda h, w: padded_box(h, w, 20))(tf.constant(height), tf.constant(width))
    assert tuple(map(int, in_graph)) == box


@pytest.mark.parametrize("shape", [(80, 120), (25, 19), (9, 50)])
def test_mask_agrees_with_pillow_and_makes_no_new_values(shape):
    mask = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), shape)
    resized = resize_mask(mask, SIZE).numpy()
    np.testing.assert_array_equal(resized, Image.fromarray(mask).resize((SIZE, SIZE), Image.Resampling.NEAREST))
    assert resize_mask(mask, SIZE, "pad").shape == (SIZE, SIZE)


def test_model_input_spans_zero_to_one():
    assert to_model_input(tf.constant([0, 51, 255], tf.uint8)).numpy() == pytest.approx([0.0, 0.2, 1.0], abs=1e-7)
    assert to_model_input(tf.constant(255, tf.uint8)).numpy() == 1.0


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("shape", [(60, 90), (96, 33), (12, 20)])
def test_a_map_comes_back_onto_the_original(resize, shape):
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 255
    small = resize_image(np.repeat(mask[..., None], 3, -1), 48, resize).numpy()[..., :1] / 255
    back = restore_map(small, *shape, resize)
    assert back.shape == (*shape, 1) and back.dtype == np.float32
    found, true = back[..., 0] >= 0.5, mask > 0
    assert (found & true).sum() / (found | true).sum() > 0.75


@pytest.mark.parametrize("function", [resize_image, resize_mask])
def test_an_unknown_mode_is_named(function):
    with pytest.raises(ValueError, match="received 'crop'"):
        function(np.zeros((4, 4, 3) if function is resize_image else (4, 4), np.uint8), 2, "crop")
