"""Synthetic skin lesions with exact masks, for demonstrations, tests and experiments under full control.

The classes differ inside the lesion alone: from the first class to the last the border becomes more jagged,
the colours more numerous and the shape less symmetric; dark dots are most frequent midway. Everything else
(size, place, mean colour, skin, light, artefacts) follows one distribution in all classes: a classifier that
looks at the background is at chance, unless `planted_cue` puts the class there on purpose.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from json import dumps
from math import inf
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from tfseg.data import phantom_texture as texture

# A lesion is "symmetric" when it and its mirror images about both principal axes overlap (IoU) by this much
SYMMETRY_THRESHOLD = 0.86

_ANGLES = np.linspace(0.0, 2.0 * np.pi, 256, endpoint=False)
_HARMONICS = np.arange(1, 29)
_COSINES = np.cos(np.multiply.outer(_HARMONICS, _ANGLES))
_SINES = np.sin(np.multiply.outer(_HARMONICS, _ANGLES))
# Up to this harmonic a deviation shapes the whole outline, beyond it roughens the border
_LAST_SHAPE_HARMONIC = 5
# Independent streams: switching hairs on, say, leaves the lesion and the skin as they were
_LESION, _SKIN, _ARTEFACTS, _HAIRS, _CUE, _PLAN, _TONE = range(7)


@dataclass(frozen=True)
class PhantomConfig:
    """What to draw.

    Args:
        images: Number of images, at least 1.
        size: Side of the square images in pixels, at least 32.
        classes: A tuple of two or more distinct names, from the most regular lesions to the most irregular.
        hairs: Share of images with hairs, in [0, 1].
        vignettes: Share of images with dark corners, in [0, 1].
        specular: Share of images with specular spots, in [0, 1].
        difficulty: From 0 (classes hardly overlap, lesions stand out) to 1 (strong overlap, faint lesions).
        planted_cue: Share of images with a coloured patch on the background, in [0, 1]; None for no patches.
        cue: Whether the patch's colour follows the "class" or is "random".
        images_per_group: Mean number of images per patient, at least 1. Patients mix classes.
        seed: Not negative. The same configuration draws the same images.

    Raises:
        ValueError: If an argument is out of its range.
    """

    images: int = 600
    size: int = 128
    classes: tuple[str, ...] = ("benign", "atypical", "malignant")
    hairs: float = 0.3
    vignettes: float = 0.2
    specular: float = 0.3
    difficulty: float = 0.5
    planted_cue: float | None = None
    cue: Literal["class", "random"] = "class"
    images_per_group: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("size", 32), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"Argument `{name}` must be an integer, at least {least}. Received: {value!r}")
        for name in ("hairs", "vignettes", "specular", "difficulty", "planted_cue"):
            value = getattr(self, name)
            if name == "planted_cue" and value is None:
                continue
            if not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
                raise ValueError(f"Argument `{name}` must be a number in [0, 1]. Received: {value!r}")
        names = self.classes
        if not isinstance(names, tuple) or len(names) < 2 or len(set(names)) < len(names) or not all(names):
            raise ValueError(f"Argument `classes` must be a tuple of distinct names, 2 or more. Received: {names!r}")
        if self.cue not in ("class", "random"):
            raise ValueError(f'Argument `cue` must be "class" or "random". Received: {self.cue!r}')
        mean = self.images_per_group
        if not isinstance(mean, int | float) or not 1.0 <= mean < inf:
            raise ValueError(f"Argument `images_per_group` must be a number, at least 1. Received: {mean!r}")


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic case.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W) in {0, 1}: the shape that was drawn; the pigment fades out across its border.
        label: One of the configuration's classes.
        symmetry: "symmetric" or "asymmetric", measured on the drawn outline.
        group: The patient. A patient's images share the skin tone.
        clean: uint8 (H, W, 3): `image` before hairs were drawn on it.
    """

    image: np.ndarray
    mask: np.ndarray
    label: str
    symmetry: str
    group: str
    clean: np.ndarray


def draw_phantom(config: PhantomConfig, index: int) -> Phantom:
    """Draw image `index` of `config.images`; neither order nor other calls change it.

    Raises:
        ValueError: If `index` is not in 0 … `config.images` - 1.
    """
    if not 0 <= index < config.images:
        raise ValueError(f"Argument `index` must be in [0, {config.images - 1}]. Received: {index!r}")
    labels, groups = _plan(config.seed, config.images, len(config.classes), config.images_per_group)
    label, group = int(labels[index]), int(groups[index])

    lesion = _stream(config, index, _LESION)
    severity = label / (len(config.classes) - 1)
    spread = 0.04 + 0.22 * config.difficulty
    jaggedness, variety, asymmetry = np.clip(severity + spread * lesion.standard_normal(3), 0.0, 1.3)
    faintest = 0.6 - 0.35 * config.difficulty
    depth = lesion.uniform(faintest, faintest + 0.8)
    area = lesion.uniform(0.265, 0.645) ** 2
    radii = _outline(lesion, jaggedness, asymmetry)
    mask = _rasterise(_place(lesion, radii, area), config.size)

    artefacts = _stream(config, index, _ARTEFACTS)
    has_hairs, has_vignette, has_glints = artefacts.uniform(size=3) < (
        config.hairs,
        config.vignettes,
        config.specular,
    )
    tone = texture.skin_tone(np.random.default_rng([config.seed, _TONE, group]))
    skin = texture.paint_skin(_stream(config, index, _SKIN), config.size, tone, contrast=0.7)
    image = texture.paint_lesion(lesion, skin, mask, depth, variety)
    if has_vignette:
        image = texture.add_vignette(artefacts, image)
    if has_glints:
        image = texture.add_glints(artefacts, image)
    cue = _stream(config, index, _CUE)
    if config.planted_cue is not None and cue.uniform() < config.planted_cue:
        colour = label if config.cue == "class" else int(cue.integers(len(config.classes)))
        image = texture.add_patch(cue, image, mask, colour, len(config.classes))
    image += artefacts.uniform(0.004, 0.014) * artefacts.standard_normal(image.shape, np.float32)
    clean = np.clip(image * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
    return Phantom(
        image=texture.add_hairs(_stream(config, index, _HAIRS), clean) if has_hairs else clean,
        mask=mask,
        label=config.classes[label],
        symmetry="symmetric" if _mirror_overlap(radii) >= SYMMETRY_THRESHOLD else "asymmetric",
        group=f"patient_{group:05d}",
        clean=clean,
    )


def draw_phantoms(config: PhantomConfig) -> Iterator[Phantom]:
    """All images of a configuration, in order, drawn as they are asked for."""
    return (draw_phantom(config, index) for index in range(config.images))


def write_phantoms(
    config: PhantomConfig, folder: str | os.PathLike, progress: Callable[[int, int], object] | None = None
) -> Path:
    """Write a dataset in the plain layout: `images/`, `masks/` (0 and 255), `labels.csv` and `dataset.json`.

    Args:
        config: What to draw.
        folder: Where to; it appears once everything is written. Its parents are made.
        progress: Called as `progress(done, total)` after every image.

    Returns:
        The folder.

    Raises:
        FileExistsError: If `folder` is a file or holds anything.
    """
    import pandas as pd

    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"Argument `folder` must be new or an empty folder. Received: {folder}")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        for part in ("images", "masks"):
            (partial / part).mkdir(parents=True)
        rows = []
        for index, phantom in enumerate(draw_phantoms(config)):
            row = {"image": f"images/phantom_{index:05d}.png", "mask": f"masks/phantom_{index:05d}.png"}
            _write_png(partial / row["image"], cv2.cvtColor(phantom.image, cv2.COLOR_RGB2BGR))
            _write_png(partial / row["mask"], phantom.mask * np.uint8(255))
            rows.append(row | {"label": phantom.label, "group": phantom.group, "symmetry": phantom.symmetry})
            if progress is not None:
                progress(index + 1, config.images)
        pd.DataFrame(rows).to_csv(partial / "labels.csv", index=False)
        (partial / "dataset.json").write_text(
            dumps({"mask_classes": ["background", "lesion"], "lesion": ["lesion"]}) + "\n"
        )
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_png(path: Path, image: np.ndarray) -> None:
    # Not cv2.imwrite, which returns False where this raises, and cannot write to every path on Windows
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def _stream(config: PhantomConfig, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, purpose, index])


@lru_cache(maxsize=16)
def _plan(seed: int, images: int, classes: int, images_per_group: float) -> tuple[np.ndarray, np.ndarray]:
    """Class and patient (images,) of every image, independent; classes even, no patient without an image."""
    rng = np.random.default_rng([seed, _PLAN])
    labels = rng.permutation(np.arange(images) % classes)
    patients = max(1, round(images / images_per_group))
    extra = rng.integers(patients, size=images - patients)
    return labels, rng.permutation(np.concatenate([np.arange(patients), extra]))


def _outline(rng: np.random.Generator, jaggedness: float, asymmetry: float) -> np.ndarray:
    """Distances (256,) of the outline from its centroid at even angles, of no particular size."""
    elongation = rng.uniform(0.0, 0.22) * np.cos(2.0 * (_ANGLES - rng.uniform(0.0, np.pi)))
    shape = (0.04 + 0.11 * asymmetry) * rng.uniform(0.2, 1.8) / _HARMONICS
    border = (0.008 + 0.09 * jaggedness) / _HARMONICS**0.8
    amplitudes = np.where(_HARMONICS <= _LAST_SHAPE_HARMONIC, shape, border)
    even, odd = amplitudes * rng.standard_normal((2, len(_HARMONICS)))
    radii = 1.0 + elongation + even @ _COSINES + odd @ _SINES
    points = np.maximum(radii, 0.25) * np.exp(1j * _ANGLES)
    # Area-weighted centroid of the triangles that the origin forms with each edge
    following = np.roll(points, -1)
    triangles = (points.conj() * following).imag
    points -= ((points + following) * triangles).sum() / (3.0 * triangles.sum())
    return np.interp(_ANGLES, np.angle(points) % (2.0 * np.pi), np.abs(points), period=2.0 * np.pi)


def _mirror_overlap(radii: np.ndarray) -> float:
    """Smaller of the two IoUs of an outline with its mirror images about its principal axes."""
    axis = 0.5 * np.angle((radii**4 * np.exp(2j * _ANGLES)).sum())
    overlaps = []
    for mirror in (axis, axis + 0.5 * np.pi):
        mirrored = np.interp(2.0 * mirror - _ANGLES, _ANGLES, radii, period=2.0 * np.pi)
        overlaps.append((np.minimum(radii, mirrored) ** 2).sum() / (np.maximum(radii, mirrored) ** 2).sum())
    return min(overlaps)


def _place(rng: np.random.Generator, radii: np.ndarray, area: float) -> np.ndarray:
    """The outline's points (256, 2) as x, y in [0, 1], scaled to `area` of the image; few cross its edge.

    How far the centroid may stray depends on the area alone: by the outline, the place would tell the class.
    """
    points = np.stack([radii * np.cos(_ANGLES), radii * np.sin(_ANGLES)], axis=1).astype(np.float32)
    points *= np.sqrt(area / cv2.contourArea(points))
    room = max(0.03, 0.47 - 1.3 * np.sqrt(area / np.pi)) + (0.12 if rng.uniform() < 0.06 else 0.0)
    return points + 0.5 + rng.uniform(-room, room, 2).astype(np.float32)


def _rasterise(points: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    # Four fractional bits; pixel centres lie half a pixel inside
    cv2.fillPoly(mask, [np.round((points * size - 0.5) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return mask
