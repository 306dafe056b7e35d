"""Convolutions out of the files in which others publish them: Caffe, PyTorch, safetensors, NumPy."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfseg.errors import WeightsError
from tfseg.models.torch_files import read_torch
from tfseg.models.weights import read_npz

SUFFIXES = (".caffemodel", ".npz", ".pth", ".pt", ".safetensors")
SAFETENSORS_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "<u1"}


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a weights file by name, in the file's order and layout.

    Names and layouts are the file's: ``features.0.weight`` OIHW of PyTorch; ``conv1/kernel`` and ``conv1/bias`` of
    NumPy, HWIO, and of Caffe, brought to HWIO.

    Raises:
        WeightsError: no such file, an unknown suffix, or a damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    readers = {
        ".caffemodel": read_caffemodel,
        ".npz": read_npz,
        ".pth": read_torch,
        ".pt": read_torch,
        ".safetensors": read_safetensors,
    }
    if path.suffix not in readers:
        raise WeightsError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    return readers[path.suffix](path)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a ``.safetensors`` file: length of the header, header in JSON, bytes.

    Raises:
        WeightsError: damaged, or a type that NumPy has not.
    """
    content = path.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        tensors = {}
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = (8 + length + offset for offset in entry["data_offsets"])
                values = np.frombuffer(content[start:end], SAFETENSORS_TYPES[entry["dtype"]])
                tensors[name] = values.reshape(entry["shape"])
        return tensors
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a readable .safetensors file: {error}") from error


def read_caffemodel(path: Path) -> dict[str, np.ndarray]:
    """The convolutions of a ``.caffemodel`` as ``NAME/kernel`` (HWIO) and ``NAME/bias``.

    The file is a NetParameter of caffe.proto: layers in field 100 (name 1, blobs 7), in older files in field 2 (name 4,
    blobs 6). A blob has its shape in field 7 (dimensions 1), in older files in 1 to 4, and its numbers in field 5.

    Raises:
        WeightsError: damaged, or without convolutions.
    """
    arrays = {}
    try:
        for number, layer in _fields(path.read_bytes()):
            if number not in (100, 2):
                continue
            name_field, blob_field = (1, 7) if number == 100 else (4, 6)
            parts = list(_fields(layer))
            name = next((bytes(value).decode() for field, value in parts if field == name_field), "")
            blobs = [_blob(value) for field, value in parts if field == blob_field]
            if blobs and blobs[0].ndim == 4:
                arrays[f"{name}/kernel"] = blobs[0].transpose(2, 3, 1, 0)
                if len(blobs) > 1:
                    arrays[f"{name}/bias"] = blobs[1].reshape(-1)
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise WeightsError(f"{path} is not a readable .caffemodel: {error}") from error
    if not arrays:
        raise WeightsError(f"{path} holds no convolution")
    return arrays


def _blob(content) -> np.ndarray:
    legacy, shape, numbers = {}, [], []
    for field, value in _fields(content):
        if field == 7:
            for inner, dimensions in _fields(value):
                if inner == 1:
                    shape += [dimensions] if isinstance(dimensions, int) else list(_varints(dimensions))
        elif field == 5:
            numbers.append(np.frombuffer(value, "<f4"))
        elif field in (1, 2, 3, 4):
            legacy[field] = value
    values = np.concatenate(numbers) if numbers else np.empty(0, np.float32)
    return values.reshape(shape or [legacy.get(field, 1) for field in (1, 2, 3, 4)])


def _fields(content) -> Iterator[tuple[int, int | memoryview]]:
    """Fields of a protocol buffer message: number, and an integer or the bytes."""
    content, position = memoryview(content), 0
    while position < len(content):
        key, position = _varint(content, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(content, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(content, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + length > len(content):
            raise ValueError("it ends too early")
        yield number, content[position : position + length]
        position += length


def _varints(content) -> Iterator[int]:
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        yield value


def _varint(content, position) -> tuple[int, int]:
    """Seven bits a byte, lowest first, as long as the highest bit is set."""
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
