"""The linear probe: logistic regression on the pooled features of a frozen backbone, as a head of Keras."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
import tensorflow as tf
from keras import ops

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays, make_batches
from tfseg.layers.masking import mask_layer
from tfseg.models.backbones import build_backbone
from tfseg.models.classifier import build_classifier
from tfseg.progress import progress_bar
from tfseg.training.setup import Trained, augmentation_of, prepare

# Inverse strengths of the L2 penalty on standardised features.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Axes along which a batch of images is mirrored; the first is the image as it is.
FLIPS = ((), (2,), (1,), (1, 2))


def train_probe(
    config: ComparisonConfig,
    approach: str,
    arrays: CaseArrays,
    training: np.ndarray,
    validation: np.ndarray,
    classes: int,
    maps: Mapping[str, np.ndarray] | None = None,
    memo: dict | None = None,
) -> Trained:
    """Fit a linear head on frozen features.

    The strength of the penalty is chosen by the class-balanced log loss on the validation part, after which the head
    is fitted to training and validation part together. Where the augmentation has flips, it is fitted to all four
    flips of every image; of the augmentation, nothing else is used.

    Args:
        config: see `ComparisonConfig`, resolved; backbone, weights, image size and class weights are used.
        approach: a name out of `tfseg.approaches.APPROACHES` other than ``centiou``.
        arrays: decoded cases.
        training, validation: positions of labelled cases, int.
        classes: number of classes, each with a case in `training`.
        maps: ``lesion``, the frozen segmenter's maps, uint8 (N, S, S), for the masking approaches.
        memo: keeps the features of unmasked images for the next training of the run.
    """
    from scipy.special import softmax
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    started = time.perf_counter()
    prepare(config)
    shape = (config.image_size, config.image_size, 3)
    features = build_backbone(config.backbone, shape, config.weights_of(config.backbone))
    flips = FLIPS if augmentation_of(config).flips else FLIPS[:1]
    if APPROACHES[approach].masked:
        # Every fold's segmenter shows other parts of the images.
        views = _pooled(features, arrays, flips, mask_layer(approach), maps["lesion"])
    else:
        memo = {} if memo is None else memo
        key = ("pooled", config.backbone, config.weights_of(config.backbone), flips)
        if key not in memo:
            memo[key] = _pooled(features, arrays, flips)
        views = memo[key]
    seen, labels = np.concatenate([training, validation]), arrays.labels
    weight = "balanced" if config.class_weights else None

    def fitted(positions, strength):
        seen_views = np.concatenate([view[positions] for view in views])
        mean, spread = seen_views.mean(0), seen_views.std(0) + 1e-6
        model = LogisticRegression(C=strength, class_weight=weight, max_iter=2000)
        model.fit((seen_views - mean) / spread, np.tile(labels[positions], len(views)))
        kernel, bias = model.coef_.T, model.intercept_
        if classes == 2:
            # scikit-learn keeps the second class's log odds; shared out, both classes have a map of their own.
            kernel, bias = np.concatenate([-kernel, kernel], 1) / 2, np.concatenate([-bias, bias]) / 2
        return (kernel / spread[:, None]).astype(np.float32), (bias - (mean / spread) @ kernel).astype(np.float32)

    def balanced_log_loss(probabilities):
        of_truth = np.log(np.maximum(probabilities[np.arange(len(validation)), labels[validation]], 1e-7))
        return -np.mean([of_truth[labels[validation] == name].mean() for name in np.unique(labels[validation])])

    tried = []
    for strength in STRENGTHS:
        kernel, bias = fitted(training, strength)
        probabilities = softmax(views[0][validation] @ kernel + bias, axis=1)
        tried.append((balanced_log_loss(probabilities), strength, probabilities))
    loss, strength, probabilities = min(tried, key=lambda one: one[0])
    classifier = build_classifier(features, classes, units=None)
    classifier.head.get_layer("logits").set_weights(fitted(seen, strength))
    record = {
        "epoch": 1,
        "seconds": time.perf_counter() - started,
        "val_loss": float(loss),
        "val_accuracy": float((probabilities.argmax(1) == labels[validation]).mean()),
        "val_balanced_accuracy": float(balanced_accuracy_score(labels[validation], probabilities.argmax(1))),
        "inverse_penalty": strength,
    }
    return Trained(classifier, pd.DataFrame([record]), validation=probabilities.astype(np.float32))


def _pooled(features, arrays, flips, mask=None, maps=None, batch_size=32) -> np.ndarray:
    """Mean feature of every labelled case in every flip, float32 (flips, N, K); 0 of the others."""
    pool = tf.function(lambda image: ops.mean(features(image, training=False), axis=(1, 2)), reduce_retracing=True)
    labelled, found = np.flatnonzero(arrays.labels >= 0), []
    with progress_bar(f"features of {len(labelled)} images", len(labelled)) as advance:
        for batch in make_batches(arrays, labelled, batch_size, maps=None if mask is None else {"lesion": maps}):
            image = batch["image"] if mask is None else mask(batch["image"], batch["lesion"])
            found.append(np.stack([pool(ops.flip(image, axes) if axes else image).numpy() for axes in flips]))
            advance(len(image))
    pooled = np.zeros((len(flips), len(arrays), features.output_shape[-1]), np.float32)
    pooled[:, labelled] = np.concatenate(found, axis=1)
    return pooled
