"""Export a trained model for TF-Serving and for phones, checked against Keras on real cases."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfseg.data.decode import decode_image, resize_image
from tfseg.data.ingest import image_bytes
from tfseg.data.sources import load_cases
from tfseg.data.splits import read_split
from tfseg.errors import ConfigError, RunError
from tfseg.export.mobile import export_litert
from tfseg.export.parity import check_parity
from tfseg.export.predictor import load_model
from tfseg.export.serving import export_saved_model
from tfseg.jobs.cells import row_model
from tfseg.layers.outputs import model_info
from tfseg.run import Run, read_json, write_json, written_whole

FORMATS = ("saved_model", "float32")
PARITY_CASES = 50


def trained_model(run: Run, row: str | None = None) -> tuple[str, Path]:
    """The row to use and its model file.

    Args:
        run: a finished run.
        row: a row's name; None for the best on validation.

    Raises:
        RunError: when the folder is no finished run, or it has no such row.
    """
    metrics = read_json(run.path("metrics.json"))
    row = row or metrics["best_row"]
    path = row_model(run, row)
    if not path.is_file():
        known = [entry["name"] for entry in metrics["rows"]]
        raise RunError(f"{run.folder} has no model for the row {row!r}; rows: {', '.join(known)}")
    return row, path


def export_run(
    folder: str | Path,
    name: str,
    row: str | None = None,
    formats: Sequence[str] = FORMATS,
    out: str | Path = "saved_models",
    data: str | None = None,
) -> dict:
    """Write ``out/NAME/VERSION/`` and ``out/NAME/NAME.float32.tflite`` with a parity report.

    Args:
        folder: a finished run.
        name: what the server calls the model.
        row: which row; None for the best on validation.
        formats: out of `FORMATS`.
        out: where models are kept.
        data: where the run's data lies now; by default where it was.

    Returns:
        The parity report, with ``row`` and ``files``.

    Raises:
        RunError: the folder is no finished run, or has no such row.
        ConfigError: an unknown format, or a name that can't be a folder's.
        ExportError: an export disagrees with Keras; nothing of it is left, and an earlier export stays as it was.
    """
    unknown = [entry for entry in formats if entry not in FORMATS]
    if unknown or not formats:
        raise ConfigError(f"`formats` must be out of {', '.join(FORMATS)}, received {list(formats)}")
    if not name or Path(name).name != name or name.startswith("."):
        raise ConfigError(f"`name` must be a plain folder name, received {name!r}")
    run = Run(folder)
    row, path = trained_model(run, row)
    model = load_model(path)
    images = parity_images(run, model, data)
    base = Path(out) / name
    numbers = [int(entry.name) for entry in base.glob("[0-9]*") if entry.is_dir() and entry.name.isdecimal()]
    version = base / str(max(numbers, default=0) + 1)
    mobile = base / f"{name}.float32.tflite"
    kept = {entry: path for entry, path in (("saved_model", version), ("float32", mobile)) if entry in formats}
    scores = {entry["name"]: entry["metrics"] for entry in read_json(run.path("metrics.json"))["rows"]}[row]
    metrics = {key: value["mean"] for key, value in scores.items()}
    # A server that watches the folder must not see a version before it is checked.
    with contextlib.ExitStack() as stack:
        pending = {entry: stack.enter_context(written_whole(path)) for entry, path in kept.items()}
        if "saved_model" in kept:
            export_saved_model(model, pending["saved_model"], metrics, name)
        if "float32" in kept:
            export_litert(model, pending["float32"])
        report = check_parity(model, images, pending.get("saved_model"), pending.get("float32"))
    report |= {"row": row, "run": str(run.folder), "files": {entry: str(path) for entry, path in kept.items()}}
    write_json(base / f"parity.{version.name}.json", report)
    return report


def parity_images(run: Run, model: keras.Model, data: str | None = None) -> np.ndarray:
    """Up to 50 images of the run's test part, then of its validation part, at the model's size, uint8 (n, S, S, 3)."""
    import os

    config = run.config
    cases = load_cases(data or os.path.expandvars(config["data"]), config["target"])
    split = read_split(run.path("splits.json"), cases)[0]
    shuffle = np.random.default_rng(0).permutation
    chosen = np.concatenate([shuffle(split.test), shuffle(split.val)])[:PARITY_CASES]
    info = model_info(model)
    return np.stack(
        [
            resize_image(decode_image(image_bytes(path)), info.image_size, info.resize).numpy()
            for path in cases.table["image"].iloc[chosen]
        ]
    )
