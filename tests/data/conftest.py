"""Builders of small data folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.data.cases import Cases


def lesion_image(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture of smooth noise, different for each seed; `size` is width and height."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def lesion_mask(size: tuple[int, int] = (48, 40), value: int = 255, moved: int | None = None) -> Image.Image:
    """A mask with a rectangle in its middle; `moved` puts one of its pixels elsewhere, to tell masks apart."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[size[1] // 4 : -size[1] // 4, size[0] // 4 : -size[0] // 4] = value
    if moved is not None:
        mask[size[1] // 2, size[0] // 2], mask[divmod(moved, size[0])] = 0, value
    return Image.fromarray(mask)


def write_table(folder: Path, rows: Sequence[dict]) -> None:
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """``make_folder(rows=…, description=…)``: a folder in the plain layout; by default two classes of two cases.

    Images and masks that the rows name are written as `lesion_image` and `lesion_mask`.
    """

    def make(rows: Sequence[dict] | None = None, description: dict | None = None) -> Path:
        folder = tmp_path / "data"
        folder.mkdir()
        if rows is None:
            rows = [
                {"image": f"images/{name}.png", "mask": f"masks/{name}.png", "label": label}
                for name, label in (("a", "naevus"), ("b", "naevus"), ("c", "melanoma"), ("d", "melanoma"))
            ]
        for seed, row in enumerate(rows):
            for column, picture in (("image", lesion_image(seed)), ("mask", lesion_mask(moved=seed))):
                if row.get(column):
                    path = folder / row[column]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)
        write_table(folder, rows)
        if description is not None:
            (folder / "dataset.json").write_text(json.dumps(description))
        return folder

    return make


@pytest.fixture
def make_cases() -> Callable[..., Cases]:
    """``make_cases(labels, groups=None, **columns)``: cases without files."""

    def make(labels: Sequence[str | None], groups: Sequence[str] | None = None, **columns: Sequence) -> Cases:
        ids = [f"case{number:04d}" for number in range(len(labels))]
        content = {"id": ids, "image": [f"/none/{name}.png" for name in ids], "mask": [None] * len(ids)}
        content |= {"label": list(labels), "group": ids if groups is None else list(groups), **columns}
        return Cases(pd.DataFrame(content, dtype=object), Path("/none"), name="made")

    return make


@pytest.fixture
def pictures() -> tuple[Callable[..., Image.Image], Callable[..., Image.Image]]:
    """`lesion_image` and `lesion_mask`, because test files can't import this one."""
    return lesion_image, lesion_mask
