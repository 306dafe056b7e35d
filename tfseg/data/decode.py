"""The one decoder: training, prediction and the exported graph turn bytes into the same pixels.

Everything is TensorFlow operations, so that a function runs eagerly, in `tf.data` and inside a SavedModel with the
same bits. No EXIF rotation is applied here: files that need it are transcoded when the data is read in.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

RESIZE_MODES = ("stretch", "pad")
IGNORE = 255


def check_resize_mode(resize: str) -> str:
    """The mode itself.

    Raises:
        ValueError: when it is neither ``"stretch"`` nor ``"pad"``.
    """
    if resize not in RESIZE_MODES:
        raise ValueError(f"`resize` must be one of {list(RESIZE_MODES)}, received {resize!r}")
    return resize


def padded_box(height, width, size: int):
    """Where an image lies in the square of the ``"pad"`` mode: scaled to fit, centred.

    Args:
        height, width: of the image in pixels; integers or scalar int32 tensors.
        size: side of the square.

    Returns:
        ``(top, left, height, width)`` of the scaled image in the square, in the type that came in. Integers only,
        so that a graph and Python cannot round differently.
    """
    tensors = tf.is_tensor(height)
    at_least_one = (lambda side: tf.maximum(side, 1)) if tensors else (lambda side: max(side, 1))
    longest = tf.maximum(height, width) if tensors else max(height, width)
    inner_height = at_least_one((height * size + longest // 2) // longest)
    inner_width = at_least_one((width * size + longest // 2) // longest)
    return (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width


def decode_image(contents: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG or PNG file.

    Args:
        contents: the file's bytes, scalar string. Grey becomes three equal channels, alpha is dropped, 16 bit
            becomes 8, EXIF rotation is not applied.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        tf.errors.InvalidArgumentError: when the bytes are no whole JPEG or PNG.
    """
    # This operation reads PNG as well, and is the only one that lets the JPEG transform be chosen: the default one
    # differs between builds, the accurate integer one doesn't.
    image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    # The operation also reads animations, as four-dimensional stacks of frames.
    return tf.ensure_shape(image, (None, None, 3))


def _to_uint8(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(image, tf.float32)), 0.0, 255.0), tf.uint8)


def resize_image(image: tf.Tensor, size: int, resize: str = "stretch") -> tf.Tensor:
    """Resize to the model's square, antialiased bilinear (half-pixel centres), rounded to whole values.

    Args:
        image: (height, width, 3) or a batch of one size (B, height, width, 3), uint8 or float in [0, 255].
        size: side of the square in pixels.
        resize: ``"stretch"`` gives up the aspect ratio; ``"pad"`` keeps it, centred on black.

    Returns:
        uint8 (size, size, 3) or (B, size, size, 3).

    Raises:
        ValueError: on an unknown `resize`.
    """
    check_resize_mode(resize)
    image = tf.convert_to_tensor(image)
    if resize == "stretch":
        resized = _to_uint8(tf.image.resize(image, (size, size), antialias=True))
    else:
        shape = tf.shape(image)
        top, left, height, width = padded_box(shape[-3], shape[-2], size)
        inner = _to_uint8(tf.image.resize(image, (height, width), antialias=True))
        resized = tf.image.pad_to_bounding_box(inner, top, left, size, size)
    return tf.ensure_shape(resized, [*image.shape[:-3], size, size, image.shape[-1]])


def resize_mask(mask: tf.Tensor, size: int, resize: str = "stretch") -> tf.Tensor:
    """Resize a mask of class values to the model's square by nearest neighbour (half-pixel centres).

    Args:
        mask: uint8 (height, width), class indices with 255 where nothing is known. A file whose lesion is written
            as 255 must be mapped to class indices before.
        size: side of the square in pixels.
        resize: ``"stretch"``, or ``"pad"``, which marks the pixels around the image with 255: they count nowhere.

    Returns:
        uint8 (size, size).

    Raises:
        ValueError: on an unknown `resize`.
    """
    check_resize_mode(resize)
    mask = tf.expand_dims(tf.convert_to_tensor(mask, tf.uint8), -1)
    nearest = tf.image.ResizeMethod.NEAREST_NEIGHBOR
    if resize == "stretch":
        resized = tf.image.resize(mask, (size, size), method=nearest)
    else:
        shape = tf.shape(mask)
        top, left, height, width = padded_box(shape[0], shape[1], size)
        inner = tf.image.resize(mask, (height, width), method=nearest)
        after = [size - top - height, size - left - width]
        resized = tf.pad(inner, [[top, after[0]], [left, after[1]], [0, 0]], constant_values=IGNORE)
    return tf.ensure_shape(tf.squeeze(resized, -1), (size, size))


def restore_map(values: np.ndarray | tf.Tensor, height: int, width: int, resize: str = "stretch") -> np.ndarray:
    """Bring a map from the model's square back onto the original image: the inverse of `resize_image`'s geometry.

    Args:
        values: (S, S, C) float, such as a mask's probabilities or a saliency map.
        height, width: the original image's, in pixels.
        resize: the mode that the image was resized with; the padding of ``"pad"`` is cut away.

    Returns:
        float32 (height, width, C), bilinear.

    Raises:
        ValueError: on an unknown `resize`.
    """
    if check_resize_mode(resize) == "pad":
        top, left, inner_height, inner_width = padded_box(int(height), int(width), values.shape[0])
        values = values[top : top + inner_height, left : left + inner_width]
    return tf.image.resize(tf.cast(values, tf.float32), (height, width), antialias=True).numpy()


def to_model_input(image: tf.Tensor) -> tf.Tensor:
    """Turn uint8 pixels into the model's float32 input in [0, 1], any shape."""
    # A product and not a quotient: graph optimisers turn a division by a constant into this product, and then the
    # last bit of eager and graph would differ.
    return tf.cast(image, tf.float32) * tf.constant(1.0 / 255.0, tf.float32)
