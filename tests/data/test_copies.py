from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tfseg.data import copies as copying
from tfseg.data.copies import Copy, difference_hash, find_copies, greyscale, similar_pairs, thumbnail


def thumbnails(images):
    return np.stack([greyscale(thumbnail(np.asarray(image))) for image in images])


def test_difference_hash_by_hand():
    # Columns grow brighter to the right: every cell is darker than its right neighbour, all bits set.
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    assert difference_hash(np.stack([ramp, ramp[:, ::-1], np.zeros_like(ramp)])).tolist() == [2**64 - 1, 0, 0]


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.resize((60, 48)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: image.crop((1, 1, 119, 95)),
        lambda image: image.convert("L").convert("RGB"),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    ],
)
def test_edited_copies_are_found_and_others_not(pictures, edit):
    images = [pictures[0](seed, (120, 96)) for seed in range(30)]
    assert similar_pairs(thumbnails(images)) == []
    assert similar_pairs(thumbnails([*images, edit(images[7])])) == [(7, 30)]


def test_same_vignette_and_other_lesion_are_not_alike():
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    vignette = 200 - 150 * np.minimum((x**2 + y**2) ** 3, 1.3)
    wide, round_ = (np.exp(-((x / side) ** 2) - (y / 0.15) ** 2) for side in (0.7, 0.15))
    images = np.stack([vignette - 50 * wide, vignette - 50 * round_]).clip(0, 255).astype(np.uint8)
    first, second = difference_hash(images)
    assert np.bitwise_count(first ^ second) <= 8
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.97
    assert similar_pairs(images) == []


def test_flat_images_are_not_alike():
    assert similar_pairs(np.stack([np.full((32, 32), value, np.uint8) for value in (0, 100, 255)])) == []
    assert similar_pairs(np.zeros((1, 32, 32), np.uint8)) == []


def test_many_images_cross_the_blocks(pictures):
    images = np.random.default_rng(0).integers(0, 256, (1200, 32, 32), np.uint8)
    images[1150] = images[3]
    images[700] = images[699]
    assert similar_pairs(images) == [(3, 1150), (699, 700)]


def test_a_picture_that_is_there_often_is_paired_with_its_first(make_cases):
    cases = make_cases("aaaaa", groups="ppqrs")
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    digests = {0: b"x", 1: b"x", 2: b"x", 3: b"y", 4: b"z"}
    found = find_copies(cases, digests, {0: noise[0], 1: noise[0], 2: noise[0], 3: noise[1], 4: noise[0]})
    assert found == [Copy(0, 1, True, True), Copy(0, 2, True, False), Copy(0, 4, False, False)]


def test_hundreds_of_equal_files_make_no_flood(make_cases):
    count = 400
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    digests, thumbnails = dict.fromkeys(range(count), b"x"), dict.fromkeys(range(count), picture)
    found = find_copies(make_cases("a" * count), digests, thumbnails)
    assert [(copy.first, copy.second) for copy in found] == [(0, number) for number in range(1, count)]


def test_pictures_join_chains_of_copies():
    chain = [Copy(2, 5, True, False), Copy(3, 4, True, False), Copy(4, 5, False, False), Copy(7, 9, True, False)]
    assert copying.pictures(chain) == {2: 2, 3: 2, 4: 2, 5: 2, 7: 7, 9: 7}


def test_pictures_that_another_dataset_has_too(tmp_path):
    from tfseg.data.copies import shared_with
    from tfseg.data.phantom import PhantomConfig, write_phantoms
    from tfseg.data.sources import load_cases

    ours = load_cases(write_phantoms(PhantomConfig(images=12, size=64, seed=1), tmp_path / "ours"))
    folder = write_phantoms(PhantomConfig(images=12, size=64, seed=2), tmp_path / "theirs")
    theirs = load_cases(folder)
    assert shared_with(ours, theirs).tolist() == []
    # One with equal bytes, one turned by a right angle and saved as JPEG.
    Path(theirs.table["image"][3]).write_bytes(Path(ours.table["image"][5]).read_bytes())
    turned = Image.open(ours.table["image"][8]).rotate(90)
    turned.save(theirs.table["image"][7], format="JPEG", quality=90)
    seen = []
    assert shared_with(ours, theirs, lambda: seen.append(1)).tolist() == [5, 8]
    assert len(seen) == 24
