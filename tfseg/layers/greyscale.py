"""Colour out of an image, inside the model."""

from __future__ import annotations

import keras
from keras import ops

# ITU-R BT.601, as image libraries use it.
WEIGHTS = (0.299, 0.587, 0.114)


@keras.saving.register_keras_serializable(package="tfseg")
class Greyscale(keras.layers.Layer):
    """Luma of an RGB image, (B, H, W, 3) → (B, H, W, 1): what a network for grey images sees of a colour one.

    Being a layer, it is part of what is trained, saved and served, so nobody has to convert images. An image of one
    channel stays as it is.
    """

    def call(self, image):
        if image.shape[-1] == 1:
            return image
        weights = ops.reshape(ops.convert_to_tensor(WEIGHTS, image.dtype), (1, 1, 1, 3))
        return ops.sum(image * weights, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 1)
