"""Decoded once and kept: what may be trusted, and what is decoded again."""

import os

import numpy as np
import pytest

from tfseg.data import batches
from tfseg.data.batches import load_arrays
from tfseg.data.cache import cache_folder
from tfseg.data.sources import load_cases
from tfseg.errors import DataError


@pytest.fixture
def decoded(monkeypatch):
    """Names of the images that are decoded, in no order."""
    names, read = [], batches.image_bytes

    def recorded(path):
        names.append(os.path.basename(path)[0])
        return read(path)

    monkeypatch.setattr(batches, "image_bytes", recorded)
    return names


@pytest.fixture
def read(make_folder, tmp_path, decoded):
    """``read(**options)``: the cases through the cache, and which images were decoded for it."""
    folder = make_folder()

    def call(size=16, resize="stretch", **options):
        decoded.clear()
        arrays = load_arrays(load_cases(folder), size, resize, tmp_path / "cache", **options)
        return arrays, "".join(sorted(decoded))

    call.folder, call.cache = folder, tmp_path / "cache"
    return call


def same(arrays, expected):
    np.testing.assert_array_equal(arrays.images, expected.images)
    np.testing.assert_array_equal(arrays.masks, expected.masks)


def test_the_second_time_nothing_is_decoded(read):
    expected = load_arrays(load_cases(read.folder), 16)
    first, names = read()
    assert names == "abcd"
    second, names = read()
    assert names == ""
    for arrays in (first, second):
        same(arrays, expected)
        assert not isinstance(arrays.images, np.memmap), "small data is held in memory"


def test_large_data_stays_on_the_disk(read):
    arrays, _ = read(memory_bytes=4 * 16 * 16 * 4 - 1)
    assert isinstance(arrays.images, np.memmap) and isinstance(arrays.masks, np.memmap)
    assert not arrays.images.flags.writeable
    same(arrays, load_arrays(load_cases(read.folder), 16))
    assert not isinstance(read(memory_bytes=4 * 16 * 16 * 4)[0].images, np.memmap)


def test_size_and_mode_have_caches_of_their_own(read):
    read()
    for options in ({"size": 12}, {"resize": "pad"}):
        arrays, names = read(**options)
        assert names == "abcd"
        same(arrays, load_arrays(load_cases(read.folder), options.get("size", 16), options.get("resize", "stretch")))
    assert read()[1] == ""


def test_what_was_decoded_before_an_interruption_is_not_decoded_again(read, monkeypatch):
    resize = batches.resize_mask
    calls = []

    def interrupted(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return resize(*arguments)

    monkeypatch.setattr(batches.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(batches, "resize_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read()
    monkeypatch.setattr(batches, "resize_mask", resize)
    arrays, names = read()
    assert names == "cd"
    same(arrays, load_arrays(load_cases(read.folder), 16))


def test_a_damaged_row_is_decoded_again(read):
    read()
    folder = cache_folder(load_cases(read.folder), 16, "stretch", read.cache)
    for name in ("images.npy", "masks.npy"):
        stored = np.load(folder / name, mmap_mode="r+")
        stored[2, 3, 4] ^= 1
        stored.flush()
        arrays, names = read()
        assert names == "c"
        same(arrays, load_arrays(load_cases(read.folder), 16))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "shape", "missing"])
def test_a_damaged_file_is_made_anew(read, damage):
    read()
    path = cache_folder(load_cases(read.folder), 16, "stretch", read.cache) / "images.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "shape":
        np.save(path, np.zeros((4, 8, 8, 3), np.uint8))
    elif damage == "missing":
        path.unlink()
    else:
        path.write_text("" if damage == "empty" else "no array")
    arrays, names = read()
    assert names == "abcd"
    same(arrays, load_arrays(load_cases(read.folder), 16))
    assert not [entry for entry in path.parent.iterdir() if "tmp" in entry.name]


def test_an_image_of_the_same_name_and_size_is_noticed(read):
    read()
    path = read.folder / "images" / "b.png"
    fingerprint = load_cases(read.folder).fingerprint()
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    assert load_cases(read.folder).fingerprint() == fingerprint
    assert read()[1] == "b"


def test_an_unreadable_file_leaves_the_others_decoded(read):
    good = (read.folder / "images" / "c.png").read_bytes()
    (read.folder / "images" / "c.png").write_bytes(good[:-30] + b"x" * 30)
    with pytest.raises(DataError, match="c.png"):
        read()
    with pytest.raises(DataError, match="c.png"):
        read()
    (read.folder / "images" / "c.png").write_bytes(good)
    arrays, names = read()
    assert names == "c"
    same(arrays, load_arrays(load_cases(read.folder), 16))
