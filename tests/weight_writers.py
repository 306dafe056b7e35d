"""Weights files as PyTorch, Caffe and safetensors write them, without any of these installed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np


class _Storage:
    """Pickles as a persistent id, as PyTorch's storages do."""

    def __init__(self, values, key):
        self.values, self.key = np.ascontiguousarray(values).reshape(-1), key


def torch_pickle(state, legacy=False):
    """The bytes of a state dictionary's pickle, and its storages.

    The pickle names PyTorch's functions; modules of these names stand in while it is written.
    """
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    storages = {}
    for name in ("FloatStorage", "LongStorage"):
        kind = type(name, (), {"__module__": "torch"})
        setattr(torch, name, kind)

    def _rebuild_tensor_v2(*args):
        raise AssertionError("only named, never called")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils

    class Tensor:
        def __init__(self, values):
            self.values = np.asarray(values)

        def __reduce__(self):
            key = str(len(storages))
            storages[key] = _Storage(self.values, key)
            steps = np.cumprod((1, *self.values.shape[:0:-1]))[::-1] if self.values.ndim else ()
            strides = tuple(int(step) for step in steps)
            return _rebuild_tensor_v2, (storages[key], 0, self.values.shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, _Storage):
                kind = torch.LongStorage if thing.values.dtype == np.int64 else torch.FloatStorage
                return ("storage", kind, thing.key, "cpu", len(thing.values), *((None,) if legacy else ()))
            return None

    file = io.BytesIO()
    replaced = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        content = OrderedDict((name, Tensor(values)) for name, values in state.items())
        Pickler(file, protocol=2).dump(content)
    finally:
        for name, module in replaced.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    return file.getvalue(), storages


def write_torch_zip(path, state):
    content, storages = torch_pickle(state)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for key, storage in storages.items():
            archive.writestr(f"archive/data/{key}", storage.values.tobytes())
        archive.writestr("archive/version", "3\n")


def write_torch_stream(path, state):
    content, storages = torch_pickle(state, legacy=True)
    with path.open("wb") as file:
        sizes = {"short": 2, "int": 4, "long": 4}
        for header in (
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes},
        ):
            pickle.dump(header, file, protocol=2)
        file.write(content)
        pickle.dump(list(storages), file, protocol=2)
        for storage in storages.values():
            file.write(struct.pack("<q", len(storage.values)) + storage.values.tobytes())


def write_safetensors(path, state):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, values in state.items():
        raw = np.ascontiguousarray(values).tobytes()
        kind = {"float32": "F32", "int64": "I64"}[values.dtype.name]
        header[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def varint(value):
    encoded = b""
    while value > 127:
        encoded, value = encoded + bytes([value & 127 | 128]), value >> 7
    return encoded + bytes([value])


def field(number, content):
    """A field of a protocol buffer: text, bytes or a whole number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def write_caffemodel(path, arrays, old=False):
    """Layers with two blobs each, and layers without any between them."""

    def blob(values):
        data = field(5, values.astype("<f4").tobytes())
        if old:
            shape = (1,) * (4 - values.ndim) + values.shape
            return b"".join(field(number, size) for number, size in enumerate(shape, 1)) + data
        return field(7, field(1, b"".join(varint(size) for size in values.shape))) + data

    content = field(1, "SqueezeNet")
    for name in dict.fromkeys(key.rpartition("/")[0] for key in arrays):
        blobs = [blob(arrays[f"{name}/kernel"].transpose(3, 2, 0, 1)), blob(arrays[f"{name}/bias"])]
        if old:
            layers = [field(4, name) + field(5, 4), *(field(6, part) for part in blobs)]
            content += field(2, b"".join(layers)) + field(2, field(4, f"relu_{name}") + field(5, 18))
        else:
            layers = [field(1, name) + field(2, "Convolution"), *(field(7, part) for part in blobs)]
            content += field(100, b"".join(layers)) + field(100, field(1, f"relu_{name}") + field(2, "ReLU"))
    path.write_bytes(content)
