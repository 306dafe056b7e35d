"""Predict folders of images and write down what came out: a table, masks and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tfseg.data.decode import restore_map
from tfseg.errors import DataError, Problem, UserError
from tfseg.evaluation.classification import FIXED_COLUMNS, predictions_table
from tfseg.evaluation.postprocess import class_mask
from tfseg.export.overlays import draw_overlay, write_png
from tfseg.export.predictor import load_predictor
from tfseg.layers.outputs import ModelInfo
from tfseg.names import Flips
from tfseg.progress import progress_bar
from tfseg.run import Run, recorded_path, written_whole

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")


def find_images(images: Iterable[str | Path]) -> dict[str, Path]:
    """Give every image file a name of its own.

    Args:
        images: files of any suffix, and folders, whose image files are taken with those of the folders below
            (of a data folder with ``images/`` only those in it; hidden files never). A file named twice counts
            once.

    Returns:
        id to path: the file's name without its suffix, or where two of those are equal, its path below the
        folder without or else with its suffix, as `tfseg.data.sources` names cases.

    Raises:
        UserError: when a path does not exist, or when there is no image at all.
    """
    files: dict[Path, tuple[Path, Path]] = {}
    for path in map(Path, images):
        if not path.exists():
            raise UserError(f"there is no image or folder at {path}")
        if path.is_file():
            files.setdefault(path.resolve(), (path, Path(path.name)))
            continue
        folder = path / "images" if (path / "images").is_dir() else path
        for entry in sorted(folder.rglob("*")):
            inside = entry.relative_to(folder)
            hidden = any(part.startswith(".") for part in inside.parts)
            if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file() and not hidden:
                files.setdefault(entry.resolve(), (entry, inside))
    if not files:
        looked = " ".join(IMAGE_SUFFIXES)
        raise UserError(f"there is no image in {', '.join(map(str, images))} (looked for {looked})")
    ways = (
        [inside.stem for _, inside in files.values()],
        [inside.with_suffix("").as_posix() for _, inside in files.values()],
        [inside.as_posix() for _, inside in files.values()],
        [resolved.relative_to(resolved.anchor).as_posix() for resolved in files],
    )
    names = next(names for names in ways if len(set(names)) == len(names))
    return dict(zip(names, (path for path, _ in files.values()), strict=True))


def predict_folder(
    model_path: str | Path,
    images: Iterable[str | Path],
    out: str | Path,
    batch_size: int = 16,
    overlays: bool = True,
    flips: Flips = "none",
    postprocessing: Sequence[str] = (),
) -> dict:
    """Predict files and folders of images and write down what came out.

    Writes ``predictions.csv`` (``true`` is empty; for a segmenter alone only ``id`` and ``image`` are filled),
    ``masks/<id>.png`` at the original size (0 and 255, or class values) where the model has a mask,
    ``overlays/<id>.png`` (contour, and the saliency map on a second panel), and ``problems.csv`` where files could
    not be read.

    Args:
        model_path: see `tfseg.export.predictor.load_predictor`.
        images: see `find_images`.
        out: a new or empty folder, or that of the same prediction before, which is written again.
        batch_size: images per call of the model.
        overlays: whether to draw.
        flips: mirror images over which masks are averaged, see `tfseg.evaluation.postprocess.flip_average`.
        postprocessing: what is done to masks then, see `tfseg.evaluation.postprocess.class_mask`.

    Returns:
        ``images`` (number predicted), ``abstained``, ``unfamiliar``, ``predicted`` (class to number), ``problems``
        (list of `Problem`: the files that could not be read), ``out``.

    Raises:
        UserError: when the model or an image path is missing, `out` belongs to something else, or flips or
            post-processing are asked of a model without a mask; a `DataError` when no file at all could be read.
    """
    images = [images] if isinstance(images, str | Path) else list(images)
    files = find_images(images)
    predictor = load_predictor(model_path)
    info = predictor.info
    predictor.check_masks(flips, postprocessing)
    given = [recorded_path(path) for path in images]
    record = {"experiment": "predict", "model": recorded_path(model_path), "images": given}
    run = Run.open(out, record | mask_settings(flips, postprocessing))
    names = {path: name for name, path in files.items()}
    done: list[Path] = []
    found: dict[str, list[np.ndarray]] = {}
    with progress_bar(f"predicting {len(files)} images", len(files)) as advance:
        predicted = predictor.predict_files(files.values(), batch_size, advance, "collect", flips)
        for path, outputs, original in predicted:
            done.append(path)
            for name in ("probabilities", "unfamiliarity"):
                if name in outputs:
                    found.setdefault(name, []).append(outputs[name])
            _write_pictures(run, info, names[path], outputs, original, overlays, postprocessing)
    _write_problems(run, predictor.problems)
    if not done:
        raise DataError(predictor.problems, where=f"the {len(files)} images")
    table = _table([names[path] for path in done], done, found, info)
    with written_whole(run.path("predictions.csv")) as temporary:
        table.to_csv(temporary, index=False)
    return {
        "images": len(done),
        "abstained": int(table["abstained"].fillna(False).sum()),
        "unfamiliar": int(table["unfamiliar"].sum()) if "unfamiliar" in table else 0,
        "predicted": {name: int((table["predicted"] == name).sum()) for name in info.classes},
        "problems": predictor.problems,
        "out": run.folder,
    }


def mask_settings(flips: Flips, postprocessing: Sequence[str]) -> dict:
    """What records keep of how masks were made; nothing where they are the model's own."""
    settings = {"flips": flips, "postprocessing": list(postprocessing)}
    return settings if flips != "none" or postprocessing else {}


def _table(ids: list[str], paths: list[Path], found: dict[str, list[np.ndarray]], info: ModelInfo):
    import pandas as pd

    shown = [recorded_path(path) for path in paths]
    if info.classes:
        return predictions_table(
            ids,
            shown,
            [None] * len(ids),
            np.stack(found["probabilities"]),
            info.classes,
            info.abstain_below,
            positive=info.positive,
            threshold=info.threshold,
            unfamiliarity=np.stack(found["unfamiliarity"]) if "unfamiliarity" in found else None,
        )
    return pd.DataFrame({"id": ids, "image": shown}).reindex(columns=FIXED_COLUMNS)


def _write_problems(run: Run, problems: list[Problem]) -> None:
    import pandas as pd

    path = run.path("problems.csv")
    path.unlink(missing_ok=True)
    if problems:
        rows = [{"kind": problem.kind, "file": problem.file, "message": problem.message} for problem in problems]
        with written_whole(path) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)


def _write_pictures(
    run: Run,
    info: ModelInfo,
    name: str,
    outputs: dict,
    original: np.ndarray,
    overlays: bool,
    postprocessing: Sequence[str],
) -> None:
    maps = {
        key: restore_map(outputs[key], *original.shape[:2], info.resize)
        for key in ("mask", "saliency")
        if key in outputs
    }
    lesion = None
    if "mask" in maps:
        known = info.mask_classes
        classes = class_mask(maps["mask"], known, postprocessing)
        write_png(run.path("masks", f"{name}.png"), classes * np.uint8(255 if known.channels == 1 else 1))
        lesion = np.isin(classes, [known.names.index(entry) for entry in known.lesion])
    if overlays:
        saliency = maps["saliency"][..., 0] if "saliency" in maps else None
        picture = draw_overlay(original, lesion, saliency, _caption(info, outputs))
        write_png(run.path("overlays", f"{name}.png"), picture)


def _caption(info: ModelInfo, outputs: dict) -> str:
    if "probabilities" not in outputs:
        return ""
    best = int(outputs["probabilities"].argmax())
    confidence = float(outputs["probabilities"][best])
    remarks = ["not sure"] if confidence < info.abstain_below else []
    remarks += ["unfamiliar"] if outputs.get("unfamiliarity", 0) > 1 else []
    return f"{info.classes[best]} {confidence:.2f}" + (f"  ({', '.join(remarks)})" if remarks else "")
