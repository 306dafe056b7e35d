"""Small folders in publishers' layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfseg.data.cases import Cases
from tfseg.data.sources import load_cases
from tfseg.errors import DataError


class Layout:
    """Writes files below a folder."""

    def __init__(self, root: Path):
        self.root = root

    def text(self, path: str, *lines: str, encoding: str = "utf-8") -> Path:
        """A text file with these lines."""
        file = self._path(path)
        file.write_bytes(("\n".join(lines) + "\n").encode(encoding))
        return file

    def image(self, path: str, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
        """A picture of noise, different for each seed; the suffix says the format, `size` is width and height."""
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        return self._save(Image.fromarray(noise), path)

    def mask(self, path: str, seed: int = 0, size: tuple[int, int] = (24, 20), value: int = 255) -> Path:
        """A mask with a rectangle, of another width for each seed."""
        mask = np.zeros((size[1], size[0]), np.uint8)
        mask[5:15, 4 : 8 + seed % 12] = value
        return self._save(Image.fromarray(mask), path)

    def values(self, path: str, values: np.ndarray) -> Path:
        """An image file of these pixels, uint8 (H, W) or (H, W, 3)."""
        return self._save(Image.fromarray(values), path)

    def _path(self, path: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _save(self, picture: Image.Image, path: str) -> Path:
        file = self._path(path)
        kind = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}.get(file.suffix[1:].lower(), file.suffix[1:].upper())
        with file.open("wb") as stream:
            picture.save(stream, kind)
        return file


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A folder to fill."""
    root = tmp_path / "published"
    root.mkdir()
    return Layout(root)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Derived masks stay in the test's folder."""
    monkeypatch.setenv("TFSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read(layout: Layout):
    """``read(name, target="label")``: the cases of the layout's folder."""

    def read_source(name: str, target: str = "label") -> Cases:
        return load_cases(f"{name}:{layout.root}", target)

    return read_source


@pytest.fixture
def problems(read):
    """``problems(name, target="label")``: kind and text of everything that is wrong."""

    def problems_of(name: str, target: str = "label") -> list[tuple[str, str]]:
        with pytest.raises(DataError) as caught:
            read(name, target)
        return [(problem.kind, str(problem)) for problem in caught.value.problems]

    return problems_of


@pytest.fixture
def notes(read):
    """``notes(name, target="label")``: the warnings' texts by kind, those about published numbers left out."""

    def notes_of(name: str, target: str = "label") -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for note in read(name, target).notes:
            if note.kind != "published_counts":
                found.setdefault(note.kind, []).append(str(note))
        return found

    return notes_of
