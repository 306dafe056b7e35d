"""Fitting: the record, stopping, the best epoch's weights, and trainings that fail."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.batches import make_batches
from tfseg.data.cases import MaskClasses
from tfseg.errors import UserError
from tfseg.training.fit import fit, for_centiou, for_classification, for_segmentation, make_optimizer


def slope(learning_rate=0.25):
    """`y = w x` with w = 0 at first. On x = y = 1, gradient descent halves the distance to 1: w = 0.5, 0.75, 0.875 …"""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(learning_rate), "mse", jit_compile=False)
    return model


def pairs(y, count=None):
    """Batches of one pair (1, y): `count` of them, or no end."""
    one = tf.data.Dataset.from_tensors((np.ones((1, 1), np.float32), np.full((1, 1), y, np.float32)))
    return one.repeat(count)


def fit_on(model, training, validation, **options):
    """The record of a training on batches that begin anew whatever the number."""
    return fit(model, lambda first: training, validation, **options)[0]


def weight(model):
    return float(np.asarray(model.layers[0].kernel)[0, 0])


def test_the_record():
    model = slope()
    table = fit_on(model, pairs(1.0), pairs(1.0, 1), epochs=3, steps=2, patience=5)
    assert list(table.columns) == ["epoch", "seconds", "peak_memory_mb", "loss", "val_loss"]
    assert list(table["epoch"]) == [1, 2, 3]
    assert (table["seconds"] > 0).all()
    # Two steps an epoch: w = 0.75, 0.9375 and 0.984375 at its end.
    np.testing.assert_allclose(table["val_loss"], [0.0625, 0.00390625, 0.000244140625], rtol=1e-4)
    # Losses before each of the two steps: (1 + 0.25) / 2 and so on.
    np.testing.assert_allclose(table["loss"], [0.625, 0.0390625, 0.00244140625], rtol=1e-4)
    assert weight(model) == pytest.approx(0.984375)


@pytest.mark.parametrize(("target", "best", "epochs"), [(0.5, 0.5, 3), (0.8, 0.75, 4)])
def test_the_best_epochs_weights_come_back_after_patience(target, best, epochs):
    """Validation wants another weight than training, so it is best at epoch 1 or 2 and then gets worse."""
    model = slope()
    table = fit_on(model, pairs(1.0), pairs(target, 1), epochs=20, steps=1, patience=2)
    assert len(table) == epochs
    assert weight(model) == pytest.approx(best)
    assert table["val_loss"].min() == pytest.approx((best - target) ** 2, abs=1e-7)


def test_the_best_epochs_weights_come_back_without_patience_running_out():
    model = slope()
    assert len(fit_on(model, pairs(1.0), pairs(0.5, 1), epochs=3, steps=1, patience=10)) == 3
    assert weight(model) == pytest.approx(0.5)


def test_more_can_be_better():
    model = slope()
    model.compile(keras.optimizers.SGD(0.25), "mse", metrics=[keras.metrics.MeanAbsoluteError(name="error")])
    fit_on(model, pairs(1.0), pairs(0.0, 1), epochs=4, steps=1, patience=3, monitor="val_error", mode="max")
    assert weight(model) == pytest.approx(1 - 0.5**4)


def test_a_training_that_never_was_a_number_is_the_users_to_mend():
    with pytest.raises(UserError, match="wild: the loss is no number in epoch 1, batch .; .*learning rate"):
        fit_on(slope(1e38), pairs(1.0), pairs(1.0, 1), epochs=3, steps=3, patience=5, description="wild")


@keras.saving.register_keras_serializable(package="tests")
class Broken(keras.metrics.Mean):
    """Like an overlap of masks without a lesion: it finds the empty output of a broken network perfect."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(tf.cast(tf.math.is_nan(y_pred), tf.float32))


def breaking_down(epochs_before, steps=2):
    """Good pairs for some epochs, then one that is no number."""
    return pairs(1.0, epochs_before * steps).concatenate(pairs(float("nan")))


@pytest.mark.parametrize("epochs_before", [0, 2])
def test_a_metric_cannot_make_a_broken_network_the_best(epochs_before):
    model = slope()
    model.compile(keras.optimizers.SGD(0.25), "mse", metrics=[Broken(name="score")])
    options = {"epochs": 5, "steps": 2, "patience": 5, "monitor": "val_score", "mode": "max"}
    if epochs_before == 0:
        with pytest.raises(UserError, match="no number in epoch 1, batch 1"):
            fit_on(model, breaking_down(0), pairs(1.0, 1), **options)
    else:
        table = fit_on(model, breaking_down(epochs_before), pairs(1.0, 1), **options)
        assert len(table) == epochs_before + 1, "there is nothing to go on with"
        # The first epoch is the best of two with the same score.
        assert weight(model) == pytest.approx(0.75)


class Recorder(keras.Model):
    """Writes down what it is trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def train_step(self, batch):
        self.seen += [int(name) for name in batch["id"].numpy()]
        return {"loss": 0.0}

    def test_step(self, batch):
        return {"loss": 1.0}


def test_epochs_go_on_through_the_endless_batches(tiny_arrays):
    """Every epoch takes the next pass over the cases, not the first one again."""
    arrays = tiny_arrays(6)
    model = Recorder()
    model.compile(run_eagerly=True)
    training = make_batches(arrays, np.arange(6), 2, training=True, seed=1)
    fit_on(model, training, make_batches(arrays, np.arange(6), 2), epochs=3, steps=3, patience=9)
    epochs = [model.seen[start : start + 6] for start in (0, 6, 12)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4, 5]] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_adapters(tiny_arrays):
    arrays = tiny_arrays(6)
    lesion = np.full(arrays.masks.shape, 255, np.uint8)
    batch = next(iter(make_batches(arrays, np.arange(6), 6, maps={"lesion": lesion})))
    image, mask, pixel_weights = for_segmentation(batch)
    assert image is batch["image"] and mask is batch["mask"] and pixel_weights is batch["valid"]

    table = np.array([0.5, 2.0], np.float32)
    inputs, label, weights = for_classification(table, ("lesion",))(batch)
    assert set(inputs) == {"image", "lesion"}
    np.testing.assert_array_equal(label, [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(weights, [0.5, 2.0] * 3)
    inputs, _, weights = for_classification(None)(batch)
    assert set(inputs) == {"image"}
    np.testing.assert_array_equal(weights, 1.0)

    image, targets, weights = for_centiou(table, MaskClasses())(batch)
    assert image is batch["image"] and set(targets) == {"label", "lesion", "valid"}
    np.testing.assert_array_equal(targets["lesion"], batch["mask"])
    np.testing.assert_array_equal(weights, [0.5, 2.0] * 3)


def test_the_learning_rate():
    assert float(make_optimizer(0.1, "constant", 10).learning_rate) == pytest.approx(0.1)
    falling = make_optimizer(0.1, "cosine", 10)._learning_rate
    # Half a cosine: cos²(π/2 · step / steps).
    np.testing.assert_allclose([float(falling(step)) for step in (0, 5, 10, 12)], [0.1, 0.05, 0.0, 0.0], atol=1e-7)
