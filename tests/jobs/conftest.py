"""One tiny comparison, trained once, and the data that it and its variants learn from."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfseg.config import ComparisonConfig
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.evaluation import scores
from tfseg.jobs.comparison import run_comparison
from tfseg.jobs.rows import ClassifierRow
from tfseg.run import Run

SIZE = 32
TINY = ComparisonConfig(
    data="",
    image_size=SIZE,
    segmenter_width=4,
    segmenter_depth=2,
    segmenter_epochs=8,
    segmenter_learning_rate=1e-2,
    epochs=4,
    batch_size=8,
    learning_rate=3e-3,
    head_units=8,
    approaches=("plain", "soft_mask"),
    patience=99,
    segmenter_patience=99,
)


@pytest.fixture(scope="session", autouse=True)
def few_draws():
    """Intervals need no thousand draws here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "BOOTSTRAP_DRAWS", 30)
        yield


@pytest.fixture(scope="session")
def rows_of() -> Callable[[Path], list[dict]]:
    """Read a table as a list of dictionaries."""

    def read(path: Path) -> list[dict]:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture(scope="session")
def write_rows() -> Callable[[Path, list[dict]], None]:
    def write(path: Path, rows: list[dict]) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return write


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """36 cases of two classes; the mask of the last one is empty. Not to be changed: see `copied`."""
    config = PhantomConfig(images=36, size=SIZE, classes=("benign", "malignant"), images_per_group=1.5, seed=3)
    folder = write_phantoms(config, tmp_path_factory.mktemp("jobs") / "phantoms")
    Image.new("L", (SIZE, SIZE)).save(folder / "masks" / "phantom_00035.png")
    return folder


@pytest.fixture
def copied(phantoms, tmp_path) -> Path:
    """The data, to be changed."""
    return Path(shutil.copytree(phantoms, tmp_path / "data"))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ComparisonConfig]:
    """``tiny(data, **changes)``: settings that train in seconds."""
    return lambda data, **changes: replace(TINY, data=str(data), **changes)


@pytest.fixture(scope="session")
def deterministic():
    """Undoes what `deterministic=True` sets for the whole process."""
    from tensorflow.python.framework import config

    return config.disable_op_determinism


@pytest.fixture(scope="session")
def finished(phantoms, tiny, deterministic, tmp_path_factory) -> tuple[Run, ComparisonConfig, list[str]]:
    """The shared run, its settings and what it said. Not to be changed."""
    config, lines, papers = tiny(phantoms, deterministic=True), [], {"plain": {"accuracy": 0.875}}
    try:
        run = run_comparison(
            config,
            tmp_path_factory.mktemp("runs") / "shared",
            experiment="train",
            preset="custom",
            command="tfseg train phantoms",
            rows=[ClassifierRow(name, name, paper=papers.get(name)) for name in config.approaches],
            say=lines.append,
        )
    finally:
        deterministic()
    return run, config, lines


@pytest.fixture(scope="session")
def model_images(phantoms):
    """``model_images(ids)``: images of cases at the model's size, uint8 (n, S, S, 3)."""
    from tfseg.data.decode import decode_image, resize_image

    def load(ids) -> np.ndarray:
        files = [(phantoms / "images" / f"{name}.png").read_bytes() for name in ids]
        return np.stack([resize_image(decode_image(file), SIZE).numpy() for file in files])

    return load


@pytest.fixture(scope="session")
def exported(finished, tmp_path_factory) -> tuple[dict, Path]:
    """The shared run's soft_mask row, exported once: the report and the folder of models."""
    from tfseg.jobs.export import export_run

    folder = tmp_path_factory.mktemp("exported")
    return export_run(finished[0].folder, "skin", "soft_mask", out=folder), folder
