"""Pictures that are made from a publisher's files once and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tfseg.data.ingest import ImageError, read_image
from tfseg.data.sources.source import shown
from tfseg.errors import Problem
from tfseg.run import written_whole


def cache_root() -> Path:
    """Where derived files are kept: ``$TFSEG_CACHE``, else ``$XDG_CACHE_HOME/tfseg``, else ``~/.cache/tfseg``."""
    if os.environ.get("TFSEG_CACHE"):
        return Path(os.environ["TFSEG_CACHE"]).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "tfseg"


def stored_mask(name_parts: Sequence[str], make: Callable[[], np.ndarray]) -> Path:
    """A mask that is made from something else (polygons, a palette), as a PNG file that is written once.

    Args:
        name_parts: the source, the case, and whatever else the mask is made of (a digest of the annotation file, the
            polygon, the image's size): the file's name follows from all of them.
        make: makes the mask, uint8 class indices (H, W); called when the file isn't there yet.
    """
    return stored_png("masks", name_parts, make)


def converted_mask(
    name: str, case: str, file: Path, convert: Callable[[np.ndarray], np.ndarray], root: Path, problems: list[Problem]
) -> Path | None:
    """A mask file in its publisher's own colours, turned into class indices once.

    Args:
        name: of the source.
        case: its id.
        file: the publisher's mask; a change of its bytes makes another file.
        convert: turns its pixels, uint8 (H, W, 3), into class indices, uint8 (H, W); a ValueError tells what is wrong.
        root: problems name files relative to it.
        problems: takes a file that can't be read or converted; then there is no mask.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    try:
        return stored_mask((name, case, digest), lambda: convert(read_image(file)))
    except ImageError as error:
        problems.append(Problem(error.kind, shown(file, root), error.message))
    except ValueError as error:
        problems.append(Problem("mask_values", shown(file, root), str(error)))
    return None


def stored_png(kind: str, name_parts: Sequence[str], make: Callable[[], np.ndarray]) -> Path:
    """What `stored_mask` does, for any uint8 picture (H, W) or (H, W, 3), in the folder `kind` of the cache."""
    digest = hashlib.sha256("\0".join(name_parts).encode()).hexdigest()[:20]
    source, case = (re.sub(r"[^\w.-]+", "_", part) for part in name_parts[:2])
    path = cache_root() / kind / source / f"{case[:80]}-{digest}.png"
    if not path.exists():
        from PIL import Image

        with written_whole(path) as temporary:
            Image.fromarray(make()).save(temporary)
    return path
