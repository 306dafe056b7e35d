"""The Keras model that trains a classifier on CEntIoU; what it trains is served without it."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from tfseg.layers.saliency import METHODS, TARGETS
from tfseg.losses.centiou import centiou_loss, soft_iou
from tfseg.models.classifier import Classifier, explained


class CEntIoUModel(keras.Model):
    """Cross entropy minus the overlap of the class's saliency map with the lesion, in one forward pass.

    Works with `fit` on ``(image, {"label", "lesion", "valid"}, sample_weight)``: label int (B,), lesion and valid
    float (B, H, W, 1), weights (B,) for the cross entropy. Losses add up over replicas to the one-device loss.

    Args:
        classifier: the parts to train.
        cross_entropy_share: λ in [0, 1]; the rest weighs the overlap.
        saliency: a name out of `tfseg.layers.saliency.METHODS`.
        saliency_target: the class whose map is compared: ``"true"`` or ``"predicted"``.
        saliency_gradient: ``"full"`` trains through the map; ``"none"`` thresholds it at 0.5 and keeps it
            constant, as the published code does, so that it moves the loss but no weight.
        accuracies: metrics of (label, logits); None for the accuracy alone.
        saliency_layer: the backbone's layer whose output the map is made of; None for its last maps.

    Raises:
        ValueError: for an option that isn't one of these.
        ConfigError: a layer that can't be explained.
    """

    def __init__(
        self,
        classifier: Classifier,
        cross_entropy_share=0.5,
        saliency="grad_cam",
        saliency_target="true",
        saliency_gradient="full",
        accuracies=None,
        saliency_layer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        options = {
            "saliency_target": (saliency_target, TARGETS),
            "saliency_gradient": (saliency_gradient, ("full", "none")),
            "saliency": (saliency, tuple(METHODS)),
        }
        for name, (value, choices) in options.items():
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {choices}. Received: {value!r}")
        if not 0.0 <= cross_entropy_share <= 1.0:
            raise ValueError(f"`cross_entropy_share` must lie in [0, 1]. Received: {cross_entropy_share}")
        self.features, self.explain = explained(classifier, saliency, saliency_layer, saliency_target)
        self.cross_entropy_share = cross_entropy_share
        self.saliency_gradient = saliency_gradient
        self.cross_entropy_mean = keras.metrics.Mean(name="cross_entropy")
        self.iou_mean = keras.metrics.Mean(name="saliency_iou")
        self.accuracies = list(accuracies or [keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
        self.loss_mean = keras.metrics.Mean(name="loss")
        # The training step doesn't go through `call`, so nothing else would build the model, and an unbuilt one
        # can't save its weights.
        self.build(self.features.input_shape)

    def build(self, input_shape):
        self.explain.build(self.features.output_shape)
        self.built = True

    def call(self, image, training=False):
        return self.explain.head(self.features(image, training=training), training=training)

    @property
    def metrics(self):
        return [self.loss_mean, self.cross_entropy_mean, self.iou_mean, *self.accuracies]

    def objective(self, image, targets, sample_weight=None, training=False):
        """This replica's part of the global batch's loss, and what it is made of.

        Returns:
            A pair: the scalar loss, and a dictionary of ``logits`` (B, classes), ``cross_entropy`` (B,), ``iou``
            (B,) and ``has_lesion`` (B,), and ``images``, how many the global batch has.
        """
        labels = targets["label"]
        explained = self.explain(self.features(image, training=training), labels, training=training)
        saliency = explained["saliency"]
        if self.saliency_gradient == "none":
            saliency = ops.stop_gradient(ops.cast(saliency >= 0.5, "float32"))
        iou, has_lesion = soft_iou(saliency, targets["lesion"], targets["valid"])
        cross_entropy = ops.sparse_categorical_crossentropy(labels, explained["logits"], from_logits=True)
        weighted = cross_entropy if sample_weight is None else cross_entropy * ops.cast(sample_weight, "float32")
        counts = tf.stack([tf.cast(tf.shape(labels)[0], tf.float32), ops.sum(has_lesion)])
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            counts = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, counts)
        loss = centiou_loss(weighted, iou, has_lesion, self.cross_entropy_share, counts[0], counts[1])
        parts = {"cross_entropy": cross_entropy, "iou": iou, "has_lesion": has_lesion, "logits": explained["logits"]}
        parts["images"] = counts[0]
        return loss, parts

    def train_step(self, data):
        image, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss, parts = self.objective(image, targets, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        return self._report(loss, parts, targets["label"])

    def test_step(self, data):
        image, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return self._report(*self.objective(image, targets, sample_weight), targets["label"])

    def _report(self, loss, parts, labels):
        # Replicas' parts add up to the batch's loss, which weighs as much as the batch has images.
        images = ops.cast(ops.shape(labels)[0], "float32")
        self.loss_mean.update_state(loss * parts["images"] / ops.maximum(images, 1.0), sample_weight=images)
        self.cross_entropy_mean.update_state(parts["cross_entropy"])
        self.iou_mean.update_state(parts["iou"], sample_weight=parts["has_lesion"])
        for metric in self.accuracies:
            metric.update_state(labels, parts["logits"])
        return self.get_metrics_result()
