"""Decoded cases on disk: decoded once, checked whenever they are opened, mapped into memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tfseg.data.cases import Cases
from tfseg.run import written_whole

FORMAT = 1
ENTRY = np.dtype([("stamp", np.uint64), ("sum", np.uint64)])


def cache_folder(cases: Cases, size: int, resize: str, base: str | Path) -> Path:
    """Where these cases at this size are kept: named by what they were made from."""
    return Path(base) / f"{cases.fingerprint()}-{size}-{resize}-v{FORMAT}"


def cached_arrays(
    cases: Cases,
    size: int,
    resize: str,
    base: str | Path,
    decode: Callable[[np.ndarray, np.ndarray, np.ndarray, Callable[[int], None]], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of all cases as read-only memory maps.

    Nothing in the folder is trusted: a row counts only if its checksum and the sizes and times of its files are the
    recorded ones. Rows that don't are decoded again, and so are the ones that an interrupted decoding left out;
    files of another shape are made anew.

    Args:
        cases, size, resize: what is decoded; see `load_arrays`.
        base: folder of all caches.
        decode: ``decode(positions, images, masks, done)`` fills rows and calls ``done(position)`` after each, from
            any thread.

    Returns:
        A pair: uint8 (N, S, S, 3) and uint8 (N, S, S).

    Raises:
        RunError: the folder can't be written or the disk is full.
        DataError: from `decode`; the rows that could be read are kept.
    """
    folder = cache_folder(cases, size, resize, base)
    count = len(cases)
    stamps = _stamps(cases)
    images = _open(folder / "images.npy", (count, size, size, 3), np.dtype(np.uint8))
    masks = _open(folder / "masks.npy", (count, size, size), np.dtype(np.uint8))
    entries = _open(folder / "entries.npy", (count,), ENTRY)

    def right(row: int) -> bool:
        # The stamp first: a row that was never written need not be read.
        return entries["stamp"][row] == stamps[row] and entries["sum"][row] == _checksum(images[row], masks[row])

    def done(row: int) -> None:
        entries[row] = stamps[row], _checksum(images[row], masks[row])

    missing = np.array([row for row in range(count) if not right(row)], np.int64)
    if len(missing):
        try:
            decode(missing, images, masks, done)
        finally:
            for values in (images, masks, entries):
                values.flush()
    return tuple(np.load(folder / name, mmap_mode="r") for name in ("images.npy", "masks.npy"))


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """A writable memory map; the file is made, full of zeros, where there is none of that shape."""
    try:
        # Read-only at first: a writable map would fill a file that was cut short with a hole.
        np.load(path, mmap_mode="r")
        found = np.load(path, mmap_mode="r+")
    except (OSError, ValueError, EOFError):
        found = None
    if isinstance(found, np.memmap) and (found.shape, found.dtype) == (shape, dtype):
        return found
    row = b"\0" * (int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        # Written and not left as holes: a hole that can't be filled ends the process by a signal, without an error.
        for _ in range(shape[0]):
            file.write(row)
    return np.load(path, mmap_mode="r+")


def _stamps(cases: Cases) -> np.ndarray:
    """A digest of the sizes and modification times of each case's files, never 0, uint64 (N,)."""
    stamps = np.empty(len(cases), np.uint64)
    for row, paths in enumerate(cases.table[["image", "mask"]].itertuples(index=False)):
        words = [f"{path}|{_described(path)}" for path in paths if isinstance(path, str)]
        text = "\n".join(words).encode()
        stamps[row] = (zlib.crc32(text) << 32 | zlib.adler32(text)) or 1
    return stamps


def _described(path: str) -> str:
    try:
        state = Path(path).stat()
    except OSError:
        return "missing"
    return f"{state.st_size}|{state.st_mtime_ns}"


def _checksum(image: np.ndarray, mask: np.ndarray) -> int:
    return zlib.crc32(mask, zlib.crc32(image))
