"""Class activation maps from many forward passes in place of a gradient: for evaluation, not for a model's graph."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfseg.layers.saliency import normalise_map


def score_cam(
    features: keras.Model,
    head: keras.Model,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    max_channels: int | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """`ReLU(Σ_k α_k A_k)`, `α` the softmax over the channels of the score of the image seen through each channel.

    Each channel is resized to the image, brought to [0, 1] by its own minimum and maximum and multiplied with the
    image; the score is the logit of the class that the network gives to that. A constant channel hides nothing and
    shows nothing: it is left out.

    Source: Wang et al. 2020, Algorithm 1; the score of the black image is the same for all channels, and the softmax
    takes it out.

    Args:
        features: image (B, H, W, 3) in [0, 1] → feature maps (B, h, w, K).
        head: feature maps → logits (B, classes).
        images: as the backbone sees them, float (N, H, W, 3) in [0, 1].
        labels: the class to explain in each image, int (N,); None: the predicted one.
        max_channels: only so many channels of an image, those with the largest mean activation by amount.
        batch_size: forward passes at a time.

    Returns:
        float32 (N, H, W) in [0, 1], each divided by its maximum before it is resized.

    Raises:
        ValueError: an argument out of range.
    """
    size = images.shape[1:3]

    @tf.function
    def scores(image, maps, channels, label):
        seen = ops.image.resize(ops.transpose(tf.gather(maps, channels, axis=-1), (2, 0, 1))[..., None], size)
        lowest, highest = (reduce(seen, axis=(1, 2, 3), keepdims=True) for reduce in (ops.min, ops.max))
        masks = (seen - lowest) / ops.where(highest > lowest, highest - lowest, 1.0)
        return head(features(image * masks, training=False), training=False)[:, label]

    def weights(image, maps, label, channels):
        found = _in_batches(lambda chosen: scores(image, maps, chosen, label), channels, batch_size)
        shown = np.ptp(maps.numpy().reshape(-1, maps.shape[-1])[:, channels], axis=0) > 0
        if not shown.any():
            return np.zeros_like(found)
        raised = np.exp(found - found[shown].max()) * shown
        return raised / raised.sum()

    return _mapped(features, head, images, labels, max_channels, batch_size, weights)


def ablation_cam(
    features: keras.Model,
    head: keras.Model,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    max_channels: int | None = None,
    batch_size: int = 128,
) -> np.ndarray:
    """`ReLU(Σ_k (y − y_k) A_k)`, `y_k` the class's logit when channel k of the feature maps is zero.

    Runs the backbone once and the head once for every channel.

    Source: Desai & Ramaswamy 2020, whose weights are divided by `y`; that is one factor for the whole map, which the
    division by the maximum takes out, and where `y` is negative it would turn the map around.

    Args, Returns, Raises: as `score_cam`.
    """

    @tf.function
    def scores(maps, channels, label):
        kept = 1.0 - tf.one_hot(channels, maps.shape[-1], dtype=maps.dtype)
        return head(maps * kept[:, None, None], training=False)[:, label]

    def weights(image, maps, label, channels):
        whole = head(maps[None], training=False)[0, label]
        return float(whole) - _in_batches(lambda chosen: scores(maps, chosen, label), channels, batch_size)

    return _mapped(features, head, images, labels, max_channels, batch_size, weights)


GRADIENT_FREE: dict[str, Callable] = {"score_cam": score_cam, "ablation_cam": ablation_cam}


def _mapped(features, head, images, labels, max_channels, batch_size, weights):
    """The maps of all images; `weights` gives those of some channels of one image."""
    images = np.asarray(images, np.float32)
    if max_channels is not None and max_channels < 1 or batch_size < 1:
        raise ValueError(f"`max_channels` and `batch_size` must be ≥ 1, received {max_channels} and {batch_size}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"`labels` must be one for each of the {len(images)} images, received {len(labels)}")
    found = []
    for number, image in enumerate(images):
        maps = features(image[None], training=False)
        label = int(tf.argmax(head(maps, training=False)[0]) if labels is None else labels[number])
        size = ops.abs(maps[0]).numpy().mean((0, 1))
        channels = np.sort(np.argsort(-size, kind="stable")[:max_channels]).astype(np.int32)
        weight = weights(tf.constant(image), maps[0], tf.constant(label), channels).astype(np.float32)
        saliency = normalise_map(ops.sum(tf.gather(maps, channels, axis=-1) * weight, axis=-1, keepdims=True))
        found.append(ops.image.resize(saliency, images.shape[1:3])[0, ..., 0].numpy())
    return np.stack(found) if found else np.zeros(images.shape[:3], np.float32)


def _in_batches(function, channels, batch_size):
    """Of equal size, so that one trace serves them all."""
    missing = -len(channels) % min(batch_size, len(channels))
    padded = np.concatenate([channels, channels[:1].repeat(missing)])
    chunks = np.split(padded, len(padded) // min(batch_size, len(channels)))
    return np.concatenate([function(tf.constant(chunk)).numpy() for chunk in chunks])[: len(channels)]
