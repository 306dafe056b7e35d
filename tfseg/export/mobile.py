"""LiteRT files for phones: builtin operations only, and in the file itself what its outputs mean."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import keras

from tfseg.errors import ExportError, UserError
from tfseg.layers.outputs import ModelInfo, model_info
from tfseg.run import written_whole

INFO_FILE = "tfseg.json"
LABELS_FILE = "labels.txt"


def export_litert(model: keras.Model, path: str | Path, precision: str = "float32") -> ModelInfo:
    """Write a ``.tflite`` file, whole or not at all.

    Its one signature takes ``image`` float32 (B, S, S, 3) in [0, 1], any B, and gives the model's outputs by their
    names. Decoding and resizing are the application's: ``tfseg.json`` in the file says how.

    Args:
        model: an inference graph, see `tfseg.layers.outputs.model_info`.
        path: ends in ``.tflite``.
        precision: what the weights are stored as; a key of `CONVERTER_SETTINGS`.

    Raises:
        ValueError: when the model is not an inference graph, on another suffix or an unknown `precision`.
        ExportError: when the model needs an operation that is not built into LiteRT, naming it.
    """
    path = Path(path)
    info = model_info(model)
    if path.suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite, received {path}")
    if precision not in CONVERTER_SETTINGS:
        raise ValueError(f"`precision` must be one of {list(CONVERTER_SETTINGS)}, received {precision!r}")
    with written_whole(path) as temporary:
        model.export(str(temporary), format="litert", verbose=False, **CONVERTER_SETTINGS[precision]())
        foreign = foreign_operations(temporary.read_bytes())
        if foreign:
            raise ExportError(
                f"{path.name} would need operations that are not built into LiteRT and a phone cannot run: "
                f"{', '.join(foreign)}"
            )
        append_info(temporary, info, precision)
    return info


# Settings are made when they are used: importing TensorFlow's converter takes a while.
CONVERTER_SETTINGS = {"float32": dict}


def foreign_operations(content: bytes) -> list[str]:
    """Names of the operations of a LiteRT model that are not builtin (``Flex…`` and other custom ones), sorted.

    Args:
        content: the ``.tflite`` file.
    """
    from ai_edge_litert import schema_py_generated as schema

    codes = schema.ModelT.InitFromPackedBuf(content, 0).operatorCodes
    names = {code.customCode for code in codes if code.customCode or code.builtinCode == schema.BuiltinOperator.CUSTOM}
    return sorted(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def append_info(path: str | Path, info: ModelInfo, precision: str = "float32") -> None:
    """Append the class names and the model's info as a zip behind the model, as LiteRT metadata keeps its files.

    An interpreter does not see it, any zip program opens it.
    """
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LABELS_FILE, "".join(f"{name}\n" for name in info.classes))
        archive.writestr(INFO_FILE, json.dumps({**info.to_json(), "precision": precision}, indent=1))


def read_litert_info(path: str | Path) -> ModelInfo:
    """Read the model's info out of a ``.tflite`` file that `export_litert` wrote.

    Raises:
        UserError: when the file has none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(Path(path).read_bytes())) as archive:
            return ModelInfo.from_json(json.loads(archive.read(INFO_FILE)))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(
            f"{path} does not say what its classes are: it was not written by `tfseg export`, or only in part"
        ) from error
