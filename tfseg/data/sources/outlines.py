"""Outlines of COCO annotations, polygons and run lengths, as pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Outline = Sequence[np.ndarray] | Mapping


def read_outline(segmentation: Sequence | Mapping | None, height: int, width: int) -> Outline | None:
    """An annotation's ``segmentation``: its polygons, float64 (N, 2) each, or its run lengths; None where it is empty.

    Args:
        segmentation: ``[[x1, y1, x2, y2, …], …]`` or ``{"size": …, "counts": …}``.
        height, width: of the image.

    Raises:
        ValueError: a polygon that is none (`polygon_points`) or lies wholly outside the image, or run lengths that
            don't fit it (`run_pixels`).
    """
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        run_pixels(segmentation, height, width)
        return segmentation
    polygons = [polygon_points(polygon) for polygon in segmentation]
    for points in polygons:
        if (points.max(axis=0) <= 0).any() or (points.min(axis=0) >= (width, height)).any():
            raise ValueError(f"a polygon lies outside the image of {width}×{height} pixels")
    return polygons


def exceeds(outline: Outline, height: int, width: int) -> bool:
    """Whether a part of a polygon lies outside the image."""
    if isinstance(outline, Mapping):
        return False
    return any((points < 0).any() or (points > (width, height)).any() for points in outline)


def outline_pixels(outline: Outline, height: int, width: int) -> np.ndarray:
    """What an outline covers, bool (height, width): the union of its polygons, or its runs."""
    if isinstance(outline, Mapping):
        return run_pixels(outline, height, width)
    return np.logical_or.reduce([polygon_pixels(points, height, width) for points in outline])


def polygon_points(polygon: object) -> np.ndarray:
    """The corners of a COCO polygon ``[x1, y1, x2, y2, …]``, float64 (N, 2).

    Raises:
        ValueError: fewer than three points, an odd number of coordinates, or one that is no finite number.
    """
    if not isinstance(polygon, Sequence) or isinstance(polygon, str):
        raise ValueError(f"a polygon must be a list of coordinates, received {polygon!r:.40}")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in polygon):
        raise ValueError("a polygon has a coordinate that is no finite number")
    if len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} coordinates, expected an x and a y for each point")
    if len(polygon) < 6:
        raise ValueError(f"a polygon has {len(polygon) // 2} points, expected at least 3")
    return np.array(polygon, np.float64).reshape(-1, 2)


def polygon_pixels(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose centres lie inside a polygon, bool (height, width).

    Where the outline crosses itself, inside is where a ray meets it an odd number of times. What lies outside the
    image is cut off.

    Args:
        points: (N, 2) of x and y in pixels; (0, 0) is the image's corner, (0.5, 0.5) the centre of its first pixel.
        height, width: of the image.
    """
    (x, y), (next_x, next_y) = points.T[:, :, None], np.roll(points, -1, axis=0).T[:, :, None]
    centres = np.arange(height) + 0.5
    edges, rows = np.nonzero((y <= centres) != (next_y <= centres))
    slope = (next_x - x)[edges, 0] / (next_y - y)[edges, 0]
    crossings = x[edges, 0] + (centres[rows] - y[edges, 0]) * slope
    # Each crossing turns inside and outside round from the first pixel whose centre lies to its right.
    first = np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)
    turns = np.zeros((height, width + 1), np.uint8)
    np.add.at(turns, (rows, first), 1)
    return np.cumsum(turns, axis=1, dtype=np.uint8)[:, :width] % 2 == 1


def run_pixels(runs: Mapping, height: int, width: int) -> np.ndarray:
    """The pixels of COCO run lengths, bool (height, width).

    Args:
        runs: ``size`` (height, width) and ``counts``: lengths of the runs down the columns, background first; a list,
            or text (`expanded_counts`).
        height, width: of the image.

    Raises:
        ValueError: another size, or runs that don't fill it.
    """
    size, counts = runs.get("size"), runs.get("counts")
    if size != [height, width]:
        raise ValueError(f"run lengths are for {size} (height, width), the image has {[height, width]}")
    counts = expanded_counts(counts) if isinstance(counts, str) else counts
    whole = isinstance(counts, list) and all(isinstance(count, int) and count >= 0 for count in counts)
    if not whole or sum(counts) != height * width:
        raise ValueError(f"run lengths must be whole numbers that add up to {height * width}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape((height, width), order="F")


def expanded_counts(text: str) -> list[int]:
    """Run lengths out of COCO's compressed text.

    A number is written in groups of five bits, lowest first, each as a character from ``0`` on; the sixth bit says
    that another group follows, and the highest bit of the last group is the sign. From the fourth number on, the
    difference to the number two before is written.

    Raises:
        ValueError: a character that doesn't belong there, or an end within a number.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the run lengths have the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the run lengths end within a number")
    return counts
