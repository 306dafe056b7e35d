"""Pictures of validation images for TensorBoard, one set per epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfseg.data.batches import lesion_of
from tfseg.data.cases import MaskClasses
from tfseg.data.decode import to_model_input

SHOWN = 4
HIGHLIGHT = (1.0, 0.15, 0.1)


class EpochPictures(keras.callbacks.Callback):
    """Writes pictures at the end of every epoch.

    Args:
        folder: of the logs.
        draw: gives them, (n, H, W, 3) in [0, 1].
    """

    def __init__(self, folder: Path, draw: Callable[[], np.ndarray]):
        super().__init__()
        self._draw = draw
        self._writer = tf.summary.create_file_writer(str(Path(folder) / "pictures"))

    def on_epoch_end(self, epoch, logs=None):
        with self._writer.as_default():
            tf.summary.image("validation", self._draw(), step=epoch, max_outputs=SHOWN)
        self._writer.flush()


def blended(images, maps) -> np.ndarray:
    """Images (n, H, W, 3) with maps (n, H, W, 1) over them, all in [0, 1]; the higher the map, the redder."""
    images, maps = np.asarray(images, np.float32), np.asarray(maps, np.float32)
    return images + 0.6 * maps * (np.array(HIGHLIGHT, np.float32) - images)


def lesion_pictures(graph: keras.Model, images: np.ndarray, mask_classes: MaskClasses) -> np.ndarray:
    """A segmentation graph's lesion probability on uint8 images (n, S, S, 3)."""
    inputs = to_model_input(images)
    return blended(inputs, lesion_of(graph(inputs, training=False)["mask"], mask_classes))
