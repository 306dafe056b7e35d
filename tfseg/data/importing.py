"""Cases of any source, written as a folder in the plain layout."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tfseg.data.cases import COLUMNS, Cases
from tfseg.data.checks import shown_path
from tfseg.data.ingest import IGNORED, ImageError, open_image, orientation, read_image, read_mask, transcoding_reason
from tfseg.data.sources.folder import DESCRIPTION, TABLE
from tfseg.errors import DataError, Problem, RunError
from tfseg.run import read_json, write_json, written_whole

RECORD = "import.json"


def import_cases(cases: Cases, out: str | Path, progress: Callable[[], Any] | None = None) -> dict[str, int]:
    """Write ``images/``, ``masks/``, ``dataset.json`` and, at the end, ``labels.csv``.

    Images that every part of tfseg can use as they are (8-bit RGB or grey JPEG and PNG, upright) are copied byte for
    byte, the others are transcoded to PNG. Masks are written as PNG: 0 and 255 for two classes without an ignore
    value, else class indices with 255 for ignored pixels.

    What a broken-off import of the same cases has written stays; a finished one writes nothing.

    Args:
        cases: what to write.
        out: the folder; new, empty, or of an import of the same cases.
        progress: called, without arguments, after each case.

    Returns:
        How many ``images`` and ``masks`` there are, how many images were ``transcoded``, and how many cases were
        ``there`` already.

    Raises:
        DataError: with every file that can't be read; there is no ``labels.csv`` then.
        RunError: for a folder that holds something else.
    """
    out = Path(out)
    _claim(cases, out)
    names = _file_names(cases.table["id"])
    rows = list(zip(names, cases.table["image"], cases.table["mask"], strict=True))
    problems: list[Problem] = []
    written = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda row: _write_case(cases, out, *row), rows):
            problems += found.pop("problems")
            written.append(found)
            if progress:
                progress()
    if problems:
        raise DataError(problems, cases.name)
    description = cases.mask_classes.to_json()
    write_json(out / DESCRIPTION, description | {"ignore": None if description["ignore"] is None else IGNORED})
    _write_table(cases, out, written)
    return {
        "images": len(written),
        "masks": sum(found["mask"] is not None for found in written),
        "transcoded": sum(found["transcoded"] for found in written),
        "there": sum(found["there"] for found in written),
    }


def _claim(cases: Cases, out: Path) -> None:
    """Refuse a folder of something else; one that isn't finished may go on although files were mended meanwhile."""
    record = {"data": cases.name, "target": cases.target, "fingerprint": cases.fingerprint()}
    if (out / RECORD).is_file():
        before = read_json(out / RECORD)
        changed = [key for key in record if before.get(key) != record[key]]
        if changed and (changed != ["fingerprint"] or (out / TABLE).exists()):
            raise RunError(f"{out} holds an import of {before.get('data')} as it was then; give another `--out`")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty, and no import wrote it; give another `--out`")
    write_json(out / RECORD, record)


def _up_to_date(written: Path, source: str) -> bool:
    return written.exists() and written.stat().st_mtime_ns >= os.stat(source).st_mtime_ns


def _file_names(ids: Sequence[str]) -> list[str]:
    """File names for ids, different in small letters too."""
    names, seen = [], set()
    for case in ids:
        base = re.sub(r"[^\w.-]+", "_", case).strip(".") or "case"
        name, number = base, 1
        while name.lower() in seen:
            number += 1
            name = f"{base}_{number}"
        seen.add(name.lower())
        names.append(name)
    return names


def _write_case(cases: Cases, out: Path, name: str, image: str, mask: str | None) -> dict:
    """The paths of a case's files below `out`, and what is wrong with those that were to be read."""
    done = {"image": None, "mask": None, "transcoded": False, "there": True, "problems": []}
    try:
        with open_image(image) as opened:
            done["transcoded"] = transcoding_reason(opened) is not None or orientation(opened) != 1
        suffix = ".png" if done["transcoded"] else Path(image).suffix.lower()
        done["image"] = f"images/{name}{suffix}"
        if not _up_to_date(out / done["image"], image):
            done["there"] = False
            _write_image(image, out / done["image"], done["transcoded"])
    except ImageError as error:
        done["problems"].append(Problem(error.kind, shown_path(cases, image), error.message))
    if isinstance(mask, str):
        try:
            done["mask"] = f"masks/{name}.png"
            if not _up_to_date(out / done["mask"], mask):
                done["there"] = False
                _write_mask(read_mask(mask, cases.mask_classes), out / done["mask"], cases)
        except ImageError as error:
            done["problems"].append(Problem(error.kind, shown_path(cases, mask), error.message))
    return done


def _write_image(image: str, path: Path, transcoded: bool) -> None:
    from PIL import Image

    pixels = read_image(image)
    with written_whole(path) as temporary:
        if transcoded:
            Image.fromarray(pixels).save(temporary)
        else:
            temporary.write_bytes(Path(image).read_bytes())


def _write_mask(indices: np.ndarray, path: Path, cases: Cases) -> None:
    from PIL import Image

    binary = len(cases.mask_classes.names) == 2 and cases.mask_classes.ignore is None
    with written_whole(path) as temporary:
        Image.fromarray(indices * 255 if binary else indices).save(temporary)


def _write_table(cases: Cases, out: Path, written: Sequence[dict]) -> None:
    table = cases.table
    attributes = [name for name in table if name not in COLUMNS]
    with written_whole(out / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "label", "id", "group", *attributes])
        for found, row in zip(written, table.to_dict("records"), strict=True):
            cells = [row[name] for name in ("label", "id", "group", *attributes)]
            writer.writerow([found["image"], found["mask"] or "", *("" if cell is None else cell for cell in cells)])
