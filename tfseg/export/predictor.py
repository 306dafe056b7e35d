"""One way to predict with a ``.keras`` file, a SavedModel folder or a ``.tflite`` file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfseg.data.decode import decode_image, resize_image, to_model_input
from tfseg.data.ingest import image_bytes
from tfseg.errors import Problem, UserError
from tfseg.evaluation.postprocess import flip_average
from tfseg.export.mobile import read_litert_info
from tfseg.export.serving import CARD_FILE, read_model_card
from tfseg.layers.outputs import ModelInfo, model_info
from tfseg.names import Flips
from tfseg.quiet import silent_stderr


class Predictor:
    """A model of any format; `load_predictor` gives one.

    Attributes:
        info: what inputs and outputs mean.
        problems: the files that the last `predict_files` could not read.
    """

    def __init__(self, info: ModelInfo):
        self.info = info
        self.problems: list[Problem] = []

    def predict(self, images: np.ndarray, flips: Flips = "none") -> dict[str, np.ndarray]:
        """Predict a batch.

        Args:
            images: uint8 (B, S, S, 3) at the model's size, as `tfseg.data.decode.resize_image` gives them.
            flips: mirror images over which ``mask`` is averaged, see `flip_average`; the other outputs are those of the
                images as they are.

        Returns:
            float32 arrays: those of ``probabilities`` (B, classes), ``mask`` (B, S, S, C), ``saliency``
            (B, S, S, 1), ``unfamiliarity`` (B,) that the model has.

        Raises:
            ValueError: on images of another type or shape.
            UserError: flips, and a model without a mask.
        """
        self.check_masks(flips)
        images = np.asarray(images)
        size = self.info.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"`images` must be uint8 (batch, {size}, {size}, 3), received {images.dtype} {images.shape}"
            )
        passes = []

        def mask_of(mirrored: np.ndarray) -> np.ndarray:
            passes.append(self._named(mirrored))
            return passes[-1]["mask"]

        if flips == "none":
            return self._named(images)
        mask = flip_average(mask_of, images, flips)
        return {**passes[0], "mask": mask}

    def check_masks(self, flips: Flips = "none", postprocessing: Sequence[str] = ()) -> None:
        """Refuse what is done to masks of a model that has none.

        Raises:
            UserError: flips or post-processing, and a model without a mask.
        """
        if "mask" not in self.info.outputs and (flips != "none" or postprocessing):
            raise UserError(
                f"flips and post-processing are for masks, and the model gives {', '.join(self.info.outputs)}"
            )

    def deciding(self, *names: str) -> Predictor:
        """A predictor of these outputs alone, by default ``probabilities``, where the format lets the rest be left out;
        else this one."""
        return self

    def _named(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self._outputs(images)
        return {name: np.asarray(outputs[name]) for name in self.info.outputs if name in outputs}

    def _outputs(self, images: np.ndarray) -> dict:
        raise NotImplementedError

    def predict_files(
        self,
        paths: Iterable[str | Path],
        batch_size: int = 16,
        progress: Callable[[int], object] | None = None,
        on_error: str = "raise",
        flips: Flips = "none",
    ) -> Iterator[tuple[Path, dict[str, np.ndarray], np.ndarray]]:
        """Predict image files of any format and size, EXIF rotation applied.

        Args:
            paths: the files.
            batch_size: images per call of the model.
            progress: called with the number of files done since the last call.
            on_error: ``"raise"``, or ``"collect"`` to go on without the unreadable files and keep them in
                `problems`.
            flips: see `predict`.

        Yields:
            ``(path, outputs, original)`` in the order of `paths`: the outputs of this one image, without a batch
            dimension, and the decoded image uint8 (h, w, 3) at its own size.

        Raises:
            ValueError: on an unreadable file, naming it, and on arguments out of range.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, received {batch_size}")
        if on_error not in ("raise", "collect"):
            raise ValueError(f"`on_error` must be 'raise' or 'collect', received {on_error!r}")
        self.problems = []
        return self._predicted(list(map(Path, paths)), batch_size, progress or (lambda done: None), on_error, flips)

    def _predicted(self, paths, batch_size, progress, on_error, flips):
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            originals = {}
            for position, path in enumerate(chunk):
                try:
                    originals[position] = _read(path)
                except ValueError as error:
                    if on_error == "raise":
                        raise
                    kind, message = getattr(error, "kind", "unreadable"), getattr(error, "message", str(error))
                    self.problems.append(Problem(kind, str(path), message))
            if originals:
                resized = [resize_image(image, self.info.image_size, self.info.resize) for image in originals.values()]
                outputs = self.predict(np.stack(resized), flips)
                for row, (position, original) in enumerate(originals.items()):
                    yield chunk[position], {name: value[row] for name, value in outputs.items()}, original
            progress(len(chunk))


class KerasPredictor(Predictor):
    """Predicts with a Keras inference graph in memory.

    Attributes:
        graph: the inference graph.
    """

    def __init__(self, model):
        super().__init__(model_info(model))
        self.graph = model
        size = self.info.image_size
        spec = tf.TensorSpec((None, size, size, 3), tf.uint8)
        self._outputs = tf.function(lambda images: model(to_model_input(images), training=False), [spec])

    def deciding(self, *names: str) -> KerasPredictor:
        from tfseg.models.classifier import decision_graph

        # What tells the classes apart is what a graph is known by.
        return KerasPredictor(decision_graph(self.graph, *dict.fromkeys(("probabilities", *names))))


class SavedModelPredictor(Predictor):
    """Predicts through the signatures of a SavedModel, as a server does."""

    def __init__(self, folder: Path):
        try:
            super().__init__(ModelInfo.from_json(read_model_card(folder)))
            self._loaded = tf.saved_model.load(str(folder))
            self._images = self._loaded.signatures["serve_images"]
            self._bytes = self._loaded.signatures["serving_default"]
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"{folder} is not a SavedModel of `tfseg export` (signatures serving_default and serve_images, "
                f"{CARD_FILE}): {error}"
            ) from error

    def _outputs(self, images):
        return self._images(images=tf.constant(images))

    def predict_bytes(self, files: list[bytes]) -> dict[str, np.ndarray]:
        """Predict JPEG or PNG files of any sizes through ``serving_default``; outputs as those of `predict`."""
        outputs = self._bytes(image_bytes=tf.constant(files))
        return {name: np.asarray(outputs[name]) for name in self.info.outputs if name in outputs}


class LiteRTPredictor(Predictor):
    """Predicts with LiteRT's interpreter, resized to the batch."""

    def __init__(self, path: Path):
        from ai_edge_litert.interpreter import Interpreter

        super().__init__(read_litert_info(path))
        try:
            with silent_stderr():
                self._runner = Interpreter(model_path=str(path), num_threads=os.cpu_count()).get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path} is not a LiteRT model that can be run here: {error}") from error
        (self._input,) = self._runner.get_input_details()

    def _outputs(self, images):
        # The interpreter tells of its delegate at the first call.
        with silent_stderr():
            return self._runner(**{self._input: to_model_input(images).numpy()})


def load_predictor(path: str | Path) -> Predictor:
    """Load a model, whatever its format.

    Args:
        path: a ``.keras`` file, a ``.tflite`` file, a SavedModel folder, or the folder above numbered versions of
            one, of which the highest is taken.

    Raises:
        UserError: when there is nothing at `path` or it is none of these.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no model at {path}")
    if path.is_dir():
        return SavedModelPredictor(_newest_version(path))
    if path.suffix == ".tflite":
        return LiteRTPredictor(path)
    if path.suffix == ".keras":
        return KerasPredictor(load_model(path))
    raise UserError(f"{path} must be a .keras file, a SavedModel folder or a .tflite file")


def _newest_version(folder: Path) -> Path:
    if (folder / "saved_model.pb").exists():
        return folder
    versions = [entry for entry in folder.iterdir() if entry.name.isdecimal() and (entry / "saved_model.pb").exists()]
    if not versions:
        raise UserError(
            f"{folder} is a folder without a saved_model.pb and without numbered versions of one: give a .keras "
            "file, a SavedModel folder or a .tflite file"
        )
    return max(versions, key=lambda entry: int(entry.name))


def load_model(path: str | Path):
    """Load a ``.keras`` inference graph, with every layer of tfseg known to Keras.

    Raises:
        UserError: when the file is missing or can't be loaded as a model of tfseg.
    """
    import importlib
    import pkgutil

    import keras

    import tfseg.layers
    import tfseg.losses
    import tfseg.metrics
    import tfseg.models

    # What was saved is found by the name under which its module registered it when it was imported; a segmenter inside
    # a graph was saved with its loss and metrics.
    for package in (tfseg.layers, tfseg.losses, tfseg.metrics, tfseg.models):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    try:
        model = keras.saving.load_model(path, compile=False)
        model_info(model)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise UserError(f"{path} can't be loaded as a model of tfseg: {error}") from error
    return model


def _read(path: Path) -> np.ndarray:
    try:
        return decode_image(tf.constant(image_bytes(path))).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{path}: the file is cut short or damaged and can't be decoded") from error
