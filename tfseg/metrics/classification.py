"""Keras metrics of classes that Keras lacks."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="tfseg")
class BalancedAccuracy(keras.metrics.Metric):
    """Mean recall of the classes that occur, by the arg-max class.

    Takes labels int (B,) and scores (B, classes), logits or probabilities. Sample weights are not looked at: every
    class weighs the same whatever its cases weigh in the loss.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes, name="balanced_accuracy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.counts = self.add_variable((classes, classes), initializer="zeros", dtype="int64", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        predicted = tf.argmax(y_pred, axis=-1)
        true = tf.reshape(tf.cast(y_true, "int64"), tf.shape(predicted))
        self.counts.assign_add(tf.math.confusion_matrix(true, predicted, self.classes, dtype="int64"))

    def result(self):
        cases = ops.sum(self.counts, axis=1)
        right = ops.cast(ops.diagonal(self.counts), "float32") / ops.cast(ops.maximum(cases, 1), "float32")
        return ops.sum(right) / ops.maximum(ops.sum(ops.cast(cases > 0, "float32")), 1.0)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}
