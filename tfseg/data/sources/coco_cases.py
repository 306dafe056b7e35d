"""Cases out of COCO files: what `coco` and `poci` share."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.ingest import ImageError, open_image, orientation
from tfseg.data.sources.outlines import exceeds, outline_pixels, read_outline
from tfseg.data.sources.source import IMAGES, Row, build_cases, find, shown, unlisted
from tfseg.data.sources.stored import stored_mask
from tfseg.errors import Problem

# Names of Pillow's transpositions that turn stored pixels upright, by EXIF orientation.
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


@dataclass(frozen=True)
class Annotations:
    """A file of annotations.

    Args:
        file: the JSON file.
        split: what the column ``split`` says for its images, or None.
        folders: where its images may lie, relative to the dataset.
    """

    file: Path
    split: str | None
    folders: Sequence[str]


def read_annotations(
    path: Path, target: str, name: str, files: Sequence[Annotations], problems: list[Problem]
) -> Cases:
    """The cases of COCO files.

    The mask is the union of all the image's annotations, crowds too. The label is their category; where they differ
    it is the one that covers most pixels, and a warning tells. An image without annotations has neither mask nor
    label, one with an annotation without outline has no mask. Outlines are drawn on the pixels as the image's file
    stores them and turned upright with it, unless the size in the annotations says that they are upright already.

    Args:
        path: the folder.
        target: ``label`` or ``split``.
        name: of the source.
        files: what to read.
        problems: found until here.

    Raises:
        DataError: with every problem found in the files, and every image that is missing.
    """
    reader = _Reader(path, name, problems)
    rows = [row for annotations in files for row in reader.rows(annotations)]
    for (kind, message), wheres in reader.told.items():
        more = f" and {len(wheres) - 1} more" if len(wheres) > 1 else ""
        problems.append(Problem(kind, wheres[0] + more, message, "warning"))
    used = {row.image for row in rows if row.image}
    beside = [file for folder in {image.parent for image in used} for file in folder.iterdir()]
    images = {str(file): file for file in beside if file.suffix.lower() in IMAGES and not file.name.startswith(".")}
    problems += unlisted(images, used, path, "the annotations")
    return build_cases(rows, path, target, problems, name=name)


class _Reader:
    def __init__(self, root: Path, name: str, problems: list[Problem]):
        self.root, self.name, self.problems = root, name, problems
        self.told: dict[tuple[str, str], list[str]] = defaultdict(list)

    def rows(self, annotations: Annotations) -> list[Row]:
        """The cases of one file, one per image."""
        file = shown(annotations.file, self.root)
        content = self._content(annotations.file, file)
        if content is None:
            return []
        images = {item["id"]: item for item in content["images"]}
        for number, count in Counter(item["id"] for item in content["images"]).items():
            if count > 1:
                self._wrong("duplicate_id", f"{file}, image {number}", f"{count} images have this id")
        categories = {item["id"]: str(item["name"]) for item in content["categories"]}
        by_image = defaultdict(list)
        for position, item in enumerate(content["annotations"]):
            where = f"{file}, annotation {item.get('id', position)}"
            if item["image_id"] not in images:
                self._wrong("annotation", where, f"there is no image {item['image_id']}")
            elif item["category_id"] not in categories:
                self._wrong("annotation", where, f"there is no category {item['category_id']}")
            else:
                found = (where, categories[item["category_id"]], item.get("segmentation"))
                by_image[item["image_id"]].append(found)
        names = {key: str(PurePosixPath(str(item["file_name"]).replace("\\", "/"))) for key, item in images.items()}
        ids = _ids(names)
        return [
            self._row(item, names[key], ids[key], f"{file}, image {key}", by_image[key], annotations)
            for key, item in images.items()
        ]

    def _content(self, file: Path, name: str) -> dict[str, list[dict]] | None:
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            self._wrong("table", name, f"is not valid JSON: {error}")
            return None
        if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in NEEDED):
            self._wrong("table", name, f"is no COCO file, which has the lists {', '.join(NEEDED)}")
            return None
        lists = {}
        for key, needed in NEEDED.items():
            lists[key] = [item for item in content[key] if isinstance(item, dict) and all(k in item for k in needed)]
            if len(lists[key]) < len(content[key]):
                count = f"{len(content[key]) - len(lists[key])} of {len(content[key])} {key}"
                self._wrong("table", name, f"{count} lack {' or '.join(needed)}")
        return lists

    def _row(self, item: dict, file: str, case: str, where: str, found: list, annotations: Annotations) -> Row:
        split = {"split": annotations.split} if annotations.split else {}
        image = None
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            self._wrong("path", where, f"file_name {file!r} must stay inside the folder")
        else:
            image = find(self.root, *(f"{folder}/{file}" for folder in annotations.folders))
        size, turn = self._size(item, image, where) if image else (None, 1)
        if size is None:
            return Row(case, image, None, where=f"{where} ({file})", attributes=split)
        outlines = [(label, self._outline(segmentation, size, place)) for place, label, segmentation in found]
        label, mask = self._label(outlines, size, where), None
        if outlines and all(outline is not None for _, outline in outlines):
            drawn = [outline for _, outline in outlines]
            digest = hashlib.sha256(json.dumps([[entry[2] for entry in found], size, turn]).encode()).hexdigest()
            mask = stored_mask((self.name, case, digest), lambda: _drawn(drawn, size, turn))
        return Row(case, image, label, mask, where=where, attributes=split)

    def _size(self, item: dict, image: Path, where: str) -> tuple[tuple[int, int] | None, int]:
        """Height and width that the outlines are for, and the EXIF orientation to turn them by."""
        try:
            with open_image(image) as opened:
                stored, turn = (opened.height, opened.width), orientation(opened)
        except ImageError as error:
            self._wrong(error.kind, shown(image, self.root), error.message)
            return None, 1
        said = (item.get("height") or stored[0], item.get("width") or stored[1])
        upright = stored[::-1] if turn > 4 else stored
        if said == stored:
            return stored, turn
        if said == upright:
            return upright, 1
        message = f"is {said[1]}×{said[0]} pixels here, its file {shown(image, self.root)} {stored[1]}×{stored[0]}"
        self._wrong("image_size", where, message)
        return None, 1

    def _outline(self, segmentation, size: tuple[int, int], where: str):
        try:
            outline = read_outline(segmentation, *size)
        except ValueError as error:
            self._wrong("outline", where, str(error))
            return None
        if outline is None:
            self.told["no_outline", "an annotation without outline: its image has no mask"].append(where)
        elif exceeds(outline, *size):
            self.told["outline_outside", "a polygon leaves the image: cut off at its border"].append(where)
        return outline

    def _label(self, outlines: list, size: tuple[int, int], where: str) -> str | None:
        labels = sorted({label for label, _ in outlines})
        if len(labels) < 2:
            return labels[0] if labels else None
        covered = {
            label: sum(
                int(outline_pixels(outline, *size).sum()) for name, outline in outlines if outline and name == label
            )
            for label in labels
        }
        self.told["mixed_labels", "annotations of several classes: the one that covers most is the label"].append(where)
        return max(labels, key=covered.get)

    def _wrong(self, kind: str, where: str, message: str) -> None:
        self.problems.append(Problem(kind, where, message))


def _ids(names: Mapping) -> dict:
    """File names without their suffixes, where they stay different without."""
    stems = {key: str(PurePosixPath(name).with_suffix("")) for key, name in names.items()}
    chosen = stems if len(set(stems.values())) == len(set(names.values())) else names
    return {key: name.replace("/", "__") for key, name in chosen.items()}


def _drawn(outlines: Sequence, size: tuple[int, int], turn: int) -> np.ndarray:
    """The union of outlines as a mask of 0 and 1, turned upright."""
    from PIL import Image

    mask = Image.fromarray(np.logical_or.reduce([outline_pixels(one, *size) for one in outlines]).astype(np.uint8))
    return np.asarray(mask.transpose(Image.Transpose[TURNS[turn]]) if turn > 1 else mask)
