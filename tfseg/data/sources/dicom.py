"""DICOM: single-frame photographs and dermoscopy, without anything that names the patient."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.sources.dicom_pixels import picture
from tfseg.data.sources.folders import entries
from tfseg.data.sources.source import Line, Row, Source, build_cases, read_table, shown
from tfseg.data.sources.stored import converted_mask, stored_png
from tfseg.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pydicom import Dataset

TABLE = "labels.csv"
SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
# Attributes of the file that become columns, beside age and sex.
ATTRIBUTES = {"body_part": "BodyPartExamined", "modality": "Modality", "maker": "Manufacturer"}
# Columns of the table that are used in another way, or may name the patient: letters only.
LEFT_OUT = ("file", "label", "mask", "group", "id", "name", "patient", "patientid", "patientname", "mrn", "birthdate")
LEFT_OUT += ("patientbirthdate", "dateofbirth", "dob", "accessionnumber", "studyid", "path", "filename")


@dataclass(frozen=True)
class _Entry:
    """A file with what is said about it.

    Args:
        file: the DICOM file.
        label: class name, or None.
        where: what errors call it.
        line: of the table, or None.
    """

    file: Path
    label: str | None
    where: str
    line: Line | None = None


def read_dicom(path: Path, target: str = "label") -> Cases:
    """Read a folder of DICOM files.

    Each picture is decoded once, by `tfseg.data.sources.dicom_pixels.picture`, and kept as a PNG without metadata in
    the cache. Nothing that names the patient leaves the files: an id is made of the digest of the whole file; a
    group is the PatientID (or the table's ``group``) under a keyed digest (HMAC-SHA256), whose key is the digest of
    all files together, so that only who has the data could find out which patient is which. Names of files, which
    may hold the patient's, occur in errors alone. An age over 89 becomes 90.

    Args:
        path: the folder; see `SOURCE` for the layout.
        target: ``label`` or another column of the table or of `ATTRIBUTES`, such as ``sex``.

    Raises:
        ConfigError: pydicom isn't installed.
        DataError: with every file that is missing, can't be decoded or is there twice.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ConfigError("`dicom:` needs pydicom: pip install 'tfseg[dicom]'") from error
    with _silence():
        return _read(path, target)


def _read(path: Path, target: str) -> Cases:
    problems: list[Problem] = []
    listed = _of_table(path, problems) if (path / TABLE).is_file() else _of_folders(path, problems)
    contents = [(entry, hashlib.sha256(entry.file.read_bytes()).hexdigest()) for entry in listed]
    key = hashlib.sha256("".join(sorted(digest for _, digest in contents)).encode()).digest()
    rows, first, burned = [], {}, []
    for entry, digest in contents:
        other = first.setdefault(digest, entry)
        if other is not entry:
            problems.append(Problem("stored_twice", entry.where, f"is {other.where} again, byte for byte"))
            continue
        dataset = _opened(entry, problems)
        if dataset is None:
            continue
        row = _row(entry, dataset, digest, key, path, problems)
        rows += [row] if row else []
        burned += [row.id] if row and dataset.get("BurnedInAnnotation") == "YES" else []
    if burned:
        more = f" and {len(burned) - 1} more" if len(burned) > 1 else ""
        message = "the file says that writing is burned into the picture, which may name the patient"
        problems.append(Problem("burned_in", burned[0] + more, message, "warning"))
    return build_cases(rows, path, target, problems, name="dicom")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No warnings of pydicom's, by either of its two ways: they quote values, names among them."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _of_table(path: Path, problems: list[Problem]) -> list[_Entry]:
    lines = read_table(path / TABLE, ("file", "label"), path, problems)
    found, files, masks = [], {}, {}
    for line in lines:
        file = _inside(path, line["file"], line, problems)
        for name, value, seen in (("file", line["file"], files), ("mask", line.get("mask"), masks)):
            if value and seen.setdefault(value, line) is not line:
                message = f"{name} {value!r} stands in {seen[value].where} already"
                problems.append(Problem("duplicate_id" if name == "file" else "mask_shared", line.where, message))
                file = None
        if file:
            found.append(_Entry(file, line["label"] or None, line.where, line))
    named = {path / os.path.normpath(line["file"]) for line in lines}
    left = sum(file not in named for file in _files(path))
    if left:
        message = f"names all but {left} of the DICOM files: those are left out"
        problems.append(Problem("unlisted_images", TABLE, message, "warning"))
    return found


def _of_folders(path: Path, problems: list[Problem]) -> list[_Entry]:
    folders = [folder for folder in entries(path) if folder.is_dir()]
    if not folders:
        problems.append(Problem("no_table", TABLE, "is missing, and there are no class folders"))
    found = []
    for folder in folders:
        files = _files(folder)
        if not files:
            problems.append(Problem("empty_folder", folder.name, "the class folder has no DICOM files"))
        found += [_Entry(file, folder.name, shown(file, path)) for file in files]
    return found


def _files(folder: Path) -> list[Path]:
    """The DICOM files below a folder: those with a usual suffix, and those without any that begin as DICOM does."""
    there = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith("."))
    return [
        file
        for file in there
        if file.suffix.lower() in SUFFIXES or (not file.suffix and file.name.upper() != "DICOMDIR" and _begins(file))
    ]


def _begins(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _inside(path: Path, name: str, line: Line, problems: list[Problem]) -> Path | None:
    inside = name and not Path(name).is_absolute() and os.path.normpath(name).split(os.sep)[0] != ".."
    if not inside:
        problems.append(Problem("path", line.where, f"file {name!r} must be a path that stays inside the folder"))
    elif not (path / name).is_file():
        problems.append(Problem("missing_file", name, f"the file named in {line.where} is missing"))
    else:
        return path / name
    return None


def _opened(entry: _Entry, problems: list[Problem]) -> Dataset | None:
    import pydicom

    try:
        return pydicom.dcmread(entry.file)
    except Exception as error:
        problems.append(Problem("unreadable", entry.where, f"is no DICOM file ({type(error).__name__})"))
        return None


def _row(entry: _Entry, dataset: Dataset, digest: str, key: bytes, path: Path, problems: list[Problem]) -> Row | None:
    case = f"dicom_{digest[:12]}"
    try:
        image = stored_png("images", ("dicom", case, digest), lambda: picture(dataset))
    except ValueError as error:
        problems.append(Problem("unreadable", entry.where, str(error)))
        return None
    line, mask, columns = entry.line, None, _attributes(dataset)
    if line is not None:
        columns |= {name: value for name, value in line.cells.items() if _letters(name) not in LEFT_OUT}
        if line.get("mask") and (file := _inside(path, line["mask"], line, problems)):
            mask = converted_mask("dicom", case, file, _binary, path, problems)
    patient = (line.get("group") if line else "") or str(dataset.get("PatientID") or "")
    group = hmac.new(key, patient.encode(), "sha256").hexdigest()[:12] if patient else None
    return Row(case, image, entry.label, mask, group and f"patient_{group}", entry.where, columns)


def _attributes(dataset: Dataset) -> dict[str, str | None]:
    """What may be told of the file: age, sex and `ATTRIBUTES`."""
    years = re.fullmatch(r"(\d{3})Y", str(dataset.get("PatientAge") or ""))
    sex = str(dataset.get("PatientSex") or "")
    told = {column: str(dataset.get(name) or "") or None for column, name in ATTRIBUTES.items()}
    age = str(min(int(years[1]), 90)) if years else None
    return {"age": age, "sex": sex if sex in ("F", "M", "O") else None, **told}


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _binary(pixels: np.ndarray) -> np.ndarray:
    values = set(np.unique(pixels).tolist())
    if not (values <= {0, 1} or values <= {0, 255}) or (pixels != pixels[..., :1]).any():
        raise ValueError(f"mask values {sorted(values)[:10]}, expected 0 and 1, or 0 and 255")
    return (pixels[..., 0] > 0).astype(np.uint8)


SOURCE = Source(
    "dicom",
    "DICOM files, single-frame photographs and dermoscopy; needs pip install 'tfseg[dicom]'",
    """PATH/
  labels.csv        columns file,label and, where you have them, mask,group,split and attributes
  a/b.dcm …         in any folders
or PATH/
  CLASS/            the folder's name is the class
    a/b.dcm …       in any folders""",
    read_dicom,
)
