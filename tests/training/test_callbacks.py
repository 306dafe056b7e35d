"""What watches a training, each part by itself: what it decides, what it says, and what it keeps for later."""

from __future__ import annotations

import contextlib
import json

import keras
import numpy as np
import pytest

from tfseg.training import callbacks
from tfseg.training.callbacks import BestEpoch, NoNumber, Plateau, Record, Thaw


def network():
    """Three layers that may be frozen, and a last one; compiled to a graph."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, name=name) for name in ("first", "second", "third")]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1, name="last")])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "mse", jit_compile=False)
    return model


def attached(part, model=None):
    part.set_model(model or network())
    part.on_train_begin()
    part.model.stop_training = False
    return part


@pytest.mark.parametrize(
    ("per_epoch", "expected"),
    [
        (1, [{"last"}, {"last", "third"}, {"last", "third", "second"}, {"last", "third", "second", "first"}]),
        (2, [{"last"}, {"last", "third", "second"}, {"last", "third", "second", "first"}]),
    ],
)
def test_the_last_layers_thaw_first(per_epoch, expected):
    model = network()
    frozen = [model.get_layer(name) for name in ("first", "second", "third")]
    for layer in frozen:
        layer.trainable = False
    before, moved = {}, []

    def remember(epoch, logs=None):
        before.update({layer.name: layer.get_weights()[0] for layer in model.layers})

    def compare(epoch, logs=None):
        moved.append({layer.name for layer in model.layers if np.any(layer.get_weights()[0] != before[layer.name])})

    thaw = Thaw(frozen, per_epoch)
    thaw.prepare(model)
    assert len(model.optimizer.variables) == 2 + 8, "a momentum for each of the eight weights"
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=remember, on_epoch_end=compare)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model.fit(x, x[:, :1] + 1.0, epochs=len(expected), callbacks=[thaw, watch], verbose=0)
    assert moved == expected


class TestPlateau:
    def rates(self, part, values):
        found = []
        for epoch, value in enumerate(values):
            part.on_epoch_end(epoch, {part.monitor: value})
            found.append(round(float(part.model.optimizer.learning_rate), 6))
        return found

    def test_half_of_the_rate_after_so_many_epochs_without_a_better_one(self):
        part = attached(Plateau("val_loss", "min", 2))
        assert self.rates(part, [3.0, 2.0, 2.0, 2.0, 1.0, 1.5, 1.5]) == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025]

    def test_more_can_be_better(self):
        assert self.rates(attached(Plateau("val_iou", "max", 1)), [0.3, 0.5, 0.7, 0.6]) == [0.1, 0.1, 0.1, 0.05]

    def test_an_interrupted_wait_goes_on(self):
        values = [2.0, 1.0, 1.5, 1.5, 1.5]
        whole = self.rates(attached(Plateau("val_loss", "min", 3)), values)
        assert whole == [0.1, 0.1, 0.1, 0.1, 0.05]
        first = attached(Plateau("val_loss", "min", 3))
        self.rates(first, values[:3])
        second = attached(Plateau("val_loss", "min", 3))
        second.set_state(json.loads(json.dumps(first.get_state())))
        assert self.rates(second, values[3:]) == whole[3:]


def test_what_the_best_epoch_knows_is_kept():
    first = attached(BestEpoch("val_loss", "min", 2))
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 2.0]):
        first.model.get_layer("last").bias.assign([float(epoch)])
        first.on_epoch_end(epoch, {"val_loss": loss})
    assert first.model.stop_training
    second = attached(BestEpoch("val_loss", "min", 2))
    second.set_state(first.get_state())
    assert (second.wait, second.best, second.best_epoch, second.stopped_epoch) == (2, 1.0, 1, 3)
    second.on_train_end()
    assert second.model.get_layer("last").bias.numpy().tolist() == [1.0]


class TestNoNumber:
    def message(self, logs, names=("a",), epoch=2, batch=1):
        asked = []
        part = attached(NoNumber("val_iou", 3, lambda number: asked.append(number) or list(names)))
        part.on_epoch_begin(epoch)
        part.on_train_batch_end(batch, logs)
        assert part.model.stop_training == bool(part.message) == bool(asked)
        # Two epochs of three batches, and one batch.
        assert asked in ([], [7])
        return part.message

    def test_which_term_where_and_of_which_images(self):
        nan = float("nan")
        assert self.message({"loss": nan}, "abcd") == "the loss is no number in epoch 3, batch 2 (images a, b, c, d)"
        assert self.message({"loss": float("inf"), "dice": nan, "bce": 1.0}, "abcde") == (
            "dice is no number in epoch 3, batch 2 (images a, b, c, d …)"
        )
        assert self.message({"loss": 1.0, "dice": nan}) == "", "a metric alone breaks nothing"

    @pytest.mark.parametrize("broken", ["loss", "val_loss"])
    def test_such_an_epoch_is_not_the_best(self, broken):
        part = attached(NoNumber("val_iou", 3))
        logs = {"loss": 1.0, "val_loss": 1.0, "val_iou": 0.9}
        part.on_epoch_end(0, logs)
        assert logs["val_iou"] == 0.9
        logs[broken] = float("inf")
        part.on_epoch_end(1, logs)
        assert np.isnan(logs["val_iou"])

    def test_what_was_said_is_kept(self):
        first, second = (attached(NoNumber("val_iou", 3)) for _ in range(2))
        first.on_train_batch_end(0, {"loss": float("nan")})
        second.set_state(json.loads(json.dumps(first.get_state())))
        assert second.message == first.message == "the loss is no number in epoch 1, batch 1"


def test_the_record_and_its_bar_go_on(monkeypatch):
    steps = []

    @contextlib.contextmanager
    def bar(description, total):
        steps.append((description, total))
        yield lambda count, note="": steps.append((count, note))

    monkeypatch.setattr(callbacks, "progress_bar", bar)
    with Record("plain", 4, 5, "val_loss") as record:
        record.set_state({"rows": [{"epoch": 1}, {"epoch": 2}]})
        record.on_epoch_begin(2)
        record.on_train_batch_end(0)
        record.on_epoch_end(2, {"loss": 2.0, "val_loss": 0.5})
    assert steps == [
        ("plain", 20),
        (10, "goes on after epoch 2"),
        (1, ""),
        (0, "epoch 3/4 val_loss 0.500"),
    ]
    assert [row["epoch"] for row in record.get_state()["rows"]] == [1, 2, 3]
    assert record.rows[2]["loss"] == 2.0 and record.rows[2]["seconds"] >= 0.0
