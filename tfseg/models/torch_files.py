"""Tensors out of PyTorch's files without PyTorch, and without running what a pickle asks for.

Both layouts of ``torch.save`` are read: the zip archive of PyTorch 1.6 and later, and the stream of pickles before it,
in which many published weights still come.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfseg.errors import WeightsError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<?",
}


@dataclass
class _Storage:
    """A flat array that a tensor looks into; in the older layout its bytes come after the pickle."""

    dtype: str
    key: str
    count: int
    values: np.ndarray | None = None


@dataclass(frozen=True)
class _Tensor:
    """How a tensor looks into its storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        values = self.storage.values
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if len(self.shape) != len(self.strides) or min((*self.shape, *self.strides, self.offset), default=0) < 0:
            raise ValueError("a tensor has a negative or missing size")
        if 0 in self.shape:
            return np.empty(self.shape, self.storage.dtype)
        if values is None or last >= len(values):
            raise ValueError("a tensor reaches beyond its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, by name.

    A dictionary that holds it as ``state_dict`` (a checkpoint) is opened, and the prefix ``module.`` of parallel
    training taken off.

    Raises:
        WeightsError: the file is damaged, holds something else than tensors, or anything that is code.
    """
    try:
        content = _read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path)
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, expected a dictionary of tensors")
        tensors = {name: value for name, value in content.items() if isinstance(value, _Tensor)}
        if not tensors:
            raise ValueError("it holds no tensors")
        return {str(name).removeprefix("module."): value.array() for name, value in tensors.items()}
    except WeightsError:
        raise
    except Exception as error:
        # What a damaged pickle raises has no end of kinds.
        raise WeightsError(f"{path} is not a readable state dictionary of PyTorch: {error}") from error


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(names) != 1:
            raise ValueError("the archive has no data.pkl")
        folder = names[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its numbers are big-endian")
        unpickler = _TensorsOnly(io.BytesIO(archive.read(names[0])), path)
        content = unpickler.load()
        for storage in unpickler.storages.values():
            storage.values = np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype)
        return content


def _read_stream(path):
    """Magic number, version, machine, content, keys: five pickles; then for each key its count and its bytes."""
    with path.open("rb") as file:
        if _TensorsOnly(file, path).load() != LEGACY_MAGIC:
            raise ValueError("it does not begin as such a file does")
        for _ in range(2):
            _TensorsOnly(file, path).load()
        unpickler = _TensorsOnly(file, path)
        content = unpickler.load()
        for key in _TensorsOnly(file, path).load():
            storage = unpickler.storages[key]
            count = int.from_bytes(file.read(8), "little")
            raw = file.read(count * np.dtype(storage.dtype).itemsize)
            storage.values = np.frombuffer(raw, storage.dtype)
            if len(storage.values) != count:
                raise ValueError("it ends too early")
        return content


class _TensorsOnly(pickle.Unpickler):
    """Builds dictionaries and descriptions of tensors; every other class or function is refused by name."""

    def __init__(self, file, path):
        super().__init__(file)
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return name
        raise WeightsError(f"{self.path} asks for {module}.{name}; only tensors are read, save the state_dict() alone")

    def persistent_load(self, pid):
        kind, name, key, _, count = pid[:5]
        if kind != "storage" or name not in STORAGES:
            raise ValueError(f"unknown storage {kind} {name}")
        return self.storages.setdefault(key, _Storage(STORAGES[name], key, count))


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))
