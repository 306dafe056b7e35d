import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tfseg.data.cases import MaskClasses
from tfseg.data.ingest import ImageError, image_bytes, read_image, read_mask

RAMP = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3
CELLS = MaskClasses(("background", "cytoplasm", "nucleus"), ("nucleus",), 255)


def save(path, array, mode=None, exif_orientation=None, **options):
    image = Image.fromarray(array)
    if mode:
        image = image.convert(mode)
    if exif_orientation:
        exif = Image.Exif()
        exif[0x0112] = exif_orientation
        options["exif"] = exif
    image.save(path, **options)
    return path


def decoded(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG" and image.mode == "RGB" and image.getexif().get(0x0112) is None
    return np.asarray(image)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", None), ("a.png", "L"), ("a.jpg", None), ("a.jpg", "L"), ("jpeg_named.png", None)]
)
def test_what_tensorflow_reads_is_untouched(tmp_path, name, mode):
    path = save(tmp_path / name, RAMP, mode, format="JPEG" if "jp" in name else "PNG")
    assert image_bytes(path) == path.read_bytes()


def test_upright_exif_is_untouched(tmp_path):
    path = save(tmp_path / "a.jpg", RAMP, exif_orientation=1)
    assert image_bytes(path) == path.read_bytes()


@pytest.mark.parametrize("name", ["a.tif", "a.bmp", "a.webp"])
def test_other_formats_become_png(tmp_path, name):
    options = {"lossless": True} if name == "a.webp" else {}
    path = save(tmp_path / name, RAMP, **options)
    np.testing.assert_array_equal(decoded(image_bytes(path)), RAMP)


def test_first_frame_of_gif(tmp_path):
    first, second = (Image.new("RGB", (4, 6), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decoded(image_bytes(tmp_path / "a.gif")), np.full((6, 4, 3), (255, 0, 0)))


def test_exif_rotation_is_applied(tmp_path):
    # Orientation 6: the stored rows are the right-to-left columns, so upright is a quarter turn clockwise.
    path = save(tmp_path / "a.png", RAMP, exif_orientation=6)
    np.testing.assert_array_equal(decoded(image_bytes(path)), np.rot90(RAMP, -1))
    assert read_image(path).shape == (4, 6, 3)


def test_palette_with_transparency_keeps_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 210, 220])
    image.save(tmp_path / "a.png", transparency=0)
    expected = np.array([[[10, 20, 30], [200, 210, 220]], [[200, 210, 220], [10, 20, 30]]])
    np.testing.assert_array_equal(decoded(image_bytes(tmp_path / "a.png")), expected)


def test_alpha_is_dropped(tmp_path):
    with_alpha = np.dstack([RAMP, np.full(RAMP.shape[:2], 7, np.uint8)])
    path = save(tmp_path / "a.png", with_alpha)
    np.testing.assert_array_equal(decoded(image_bytes(path)), RAMP)


def test_cmyk_jpeg(tmp_path):
    path = save(tmp_path / "a.jpg", np.full((8, 8, 3), (200, 100, 50), np.uint8), "CMYK", quality=100)
    np.testing.assert_allclose(decoded(image_bytes(path)).mean((0, 1)), (200, 100, 50), atol=3)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_keeps_the_high_byte(tmp_path, name):
    values = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / name), values)
    expected = np.array([[0, 0, 1], [128, 254, 255]])
    np.testing.assert_array_equal(decoded(image_bytes(tmp_path / name)), np.repeat(expected[..., None], 3, 2))


def test_16_bit_colour_is_not_passed_on(tmp_path):
    values = (RAMP[..., ::-1].astype(np.uint16) << 8) + 9
    cv2.imwrite(str(tmp_path / "a.png"), values)
    np.testing.assert_array_equal(decoded(image_bytes(tmp_path / "a.png")), RAMP)


def test_float_image_is_refused(tmp_path):
    path = save(tmp_path / "a.tif", np.full((4, 4), 0.5, np.float32))
    with pytest.raises(ImageError, match=r"a\.tif.*no declared range"):
        image_bytes(path)


@pytest.mark.parametrize(("content", "kind"), [(None, "missing_file"), (b"", "truncated"), (b"<html>", "unreadable")])
def test_unusable_files(tmp_path, content, kind):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    for read in (image_bytes, read_image, lambda path: read_mask(path, CELLS)):
        with pytest.raises(ValueError, match=r"a\.jpg") as caught:
            read(path)
        assert caught.value.kind == kind


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_truncated(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.kind in ("truncated", "unreadable" if name == "a.tif" else "truncated")


def test_png_without_its_end(tmp_path):
    path = save(tmp_path / "a.png", RAMP)
    path.write_bytes(path.read_bytes()[:-1])
    for read in (image_bytes, read_image):
        with pytest.raises(ImageError) as caught:
            read(path)
        assert caught.value.kind == "truncated"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", RAMP)
    for limit in (10, 23):  # twice the limit and more makes Pillow raise, less makes it warn
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError) as caught:
            image_bytes(path)
        assert caught.value.kind == "decompression_bomb"


@pytest.mark.parametrize("value", [1, 255])
def test_two_class_conventions(tmp_path, value):
    indices = np.array([[0, 1], [1, 1], [0, 0]], np.uint8)
    path = save(tmp_path / "m.png", indices * value)
    mask = read_mask(path, MaskClasses())
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, indices)


def test_one_bit_palette_and_rgb_masks(tmp_path):
    indices = np.array([[0, 1], [1, 0]], np.uint8)
    save(tmp_path / "bit.png", indices * 255, "1")
    palette = Image.fromarray(indices, "P")
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.save(tmp_path / "palette.png")
    save(tmp_path / "rgb.png", np.repeat(indices[..., None] * 255, 3, 2))
    save(tmp_path / "rgba.png", np.dstack([indices * 255] * 3 + [np.full((2, 2), 255, np.uint8)]))
    for name in ("bit", "palette", "rgb", "rgba"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png", MaskClasses()), indices, err_msg=name)


def test_full_mask_of_255_is_lesion(tmp_path):
    path = save(tmp_path / "m.png", np.full((3, 3), 255, np.uint8))
    assert (read_mask(path, MaskClasses()) == 1).all()


def test_ignored_value_comes_first(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 1, 255]], np.uint8))
    np.testing.assert_array_equal(read_mask(path, MaskClasses(ignore=255)), [[0, 1, 255]])
    path = save(tmp_path / "m.png", np.array([[0, 255, 128]], np.uint8))
    np.testing.assert_array_equal(read_mask(path, MaskClasses(ignore=128)), [[0, 1, 255]])
    path = save(tmp_path / "m.png", np.array([[0, 1, 2, 255]], np.uint8))
    np.testing.assert_array_equal(read_mask(path, CELLS), [[0, 1, 2, 255]])


@pytest.mark.parametrize(
    ("values", "classes", "text"),
    [
        ([0, 1, 255], MaskClasses(), "mask values 0, 1, 255; declared are 0 background, 1 lesion (or 0 and 255)"),
        ([0, 7, 255], CELLS, "mask values 0, 7; declared are 0 background, 1 cytoplasm, 2 nucleus, 255 ignored"),
        ([0, 255], MaskClasses(("a", "b", "c"), ("c",)), "mask values 0, 255; declared are 0 a, 1 b, 2 c"),
        (list(range(0, 250, 10)), MaskClasses(), "… (25 values)"),
    ],
)
def test_undeclared_values(tmp_path, values, classes, text):
    path = save(tmp_path / "m.png", np.array([values], np.uint8))
    with pytest.raises(ImageError) as caught:
        read_mask(path, classes)
    assert caught.value.kind == "mask_values" and text in str(caught.value) and "m.png" in str(caught.value)


def test_colour_mask_and_varying_alpha_are_refused(tmp_path):
    with pytest.raises(ImageError, match="in colour"):
        read_mask(save(tmp_path / "m.png", RAMP), MaskClasses())
    alpha = np.zeros((2, 2, 4), np.uint8)
    alpha[0, 0, 3] = 255
    with pytest.raises(ImageError, match="transparency varies"):
        read_mask(save(tmp_path / "m.png", alpha), MaskClasses())


def test_mask_is_turned_like_its_image(tmp_path):
    indices = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    path = save(tmp_path / "m.png", indices, exif_orientation=6)
    np.testing.assert_array_equal(read_mask(path, MaskClasses()), np.rot90(indices, -1))
