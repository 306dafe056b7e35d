"""Trainings that are broken off: what goes on, from where, and what can't."""

from __future__ import annotations

import time
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfseg.errors import Paused, RunError
from tfseg.training import checkpoint
from tfseg.training.callbacks import BestEpoch, Plateau, Thaw
from tfseg.training.fit import fit, make_optimizer
from tfseg.training.sitting import Sitting

EPOCHS, STEPS = 6, 2


def network(optimizer=None, units=8):
    """Batch norm, dropout and Adam: statistics, random state and moments all have to be kept."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(units, name="first"),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Dropout(0.4),
        keras.layers.Dense(1, name="last"),
    ]
    model = keras.Sequential(layers)
    # Tracing a graph for every one of these trainings would take longer than they do.
    model.compile(optimizer or keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
    return model


def batch(number):
    generator = np.random.default_rng(number)
    x = generator.normal(size=(6, 4)).astype(np.float32)
    return x, x[:, :1] * x[:, 1:2]


def batches(first):
    spec = (tf.TensorSpec((6, 4)), tf.TensorSpec((6, 1)))

    def endless():
        number = first
        while True:
            yield batch(number)
            number += 1

    return tf.data.Dataset.from_generator(endless, output_signature=spec)


def validation():
    return tf.data.Dataset.from_tensors(batch(10_000))


def train(model, sitting=None, epochs=EPOCHS, patience=4, **options):
    options |= {} if sitting is None else {"sitting": sitting}
    return fit(model, batches, validation(), epochs=epochs, steps=STEPS, patience=patience, **options)


class Killed(BaseException):
    """Like a signal: nothing gets a chance to tidy up."""


class KillAt(keras.callbacks.Callback):
    def __init__(self, epoch, step):
        super().__init__()
        self.where, self.epoch = (epoch, step), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, number, logs=None):
        if (self.epoch, number) == self.where:
            raise Killed


def same(left, right):
    pd.testing.assert_frame_equal(
        *(table.drop(columns=["seconds", "peak_memory_mb"]) for table in (left, right)), check_exact=True
    )


@pytest.fixture(scope="module")
def unbroken():
    model = network()
    table, note = train(model)
    assert note == "" and len(table) == EPOCHS
    return model.get_weights(), table


@pytest.mark.parametrize("kills", [[(2, 1)], [(1, 0), (1, 1), (4, 1)], [(0, 1)]], ids=str)
def test_killed_and_gone_on_with(tmp_path, unbroken, kills):
    path = tmp_path / "checkpoint.npz"
    for kill in kills:
        with pytest.raises(Killed):
            train(network(), Sitting(path), extra={"kill": KillAt(*kill)})
    model = network()
    table, _ = train(model, Sitting(path), extra={"kill": KillAt(-1, -1)})
    same(table, unbroken[1])
    for ours, theirs in zip(model.get_weights(), unbroken[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_the_checkpoint_it_would_differ(tmp_path, unbroken):
    """The test above can fail: a training that begins in the middle with fresh moments ends elsewhere."""
    model = network()
    fit(model, lambda first: batches(3 * STEPS), validation(), epochs=EPOCHS - 3, steps=STEPS, patience=4)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(model.get_weights(), unbroken[0], strict=True))


def test_killed_after_its_end(tmp_path, unbroken):
    """Between the last epoch and the storing of the result: nothing is trained again."""
    path = tmp_path / "checkpoint.npz"
    train(network(), Sitting(path))
    model = network()
    table, _ = fit(
        model,
        lambda first: pytest.fail("it trains"),
        validation(),
        epochs=EPOCHS,
        steps=STEPS,
        patience=4,
        sitting=Sitting(path),
    )
    same(table, unbroken[1])
    for ours, theirs in zip(model.get_weights(), unbroken[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_stopping_early_survives(tmp_path):
    """Patience that was half used up is not given anew."""
    whole, _ = train(network(), epochs=40, patience=3)
    assert len(whole) < 40, "it stops early"
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        train(network(), Sitting(path), 40, 3, extra={"kill": KillAt(len(whole) - 2, 1)})
    again, _ = train(network(), Sitting(path), 40, 3, extra={"kill": KillAt(-1, -1)})
    same(again, whole)


def test_time_runs_out(tmp_path, unbroken):
    path = tmp_path / "checkpoint.npz"
    sittings = 0
    while True:
        sittings += 1
        model = network()
        try:
            table, _ = train(model, Sitting(path, deadline=time.monotonic() + 1e-3))
            break
        except Paused as pause:
            assert f"after epoch {sittings}" in str(pause)
    assert sittings == len(unbroken[1])
    same(table, unbroken[1])
    for ours, theirs in zip(model.get_weights(), unbroken[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("schedule", ["cosine", "step", "plateau"])
def test_schedules_go_on(tmp_path, schedule):
    def trained(sitting, kill):
        model = network(make_optimizer(0.05, schedule, EPOCHS * STEPS, warmup_steps=4, weight_decay=1e-3))
        extra = {"kill": kill}
        if schedule == "plateau":
            extra["plateau"] = Plateau("val_loss", "min", 1)
        table, _ = train(model, sitting, patience=99, extra=extra)
        return model, table

    whole, table = trained(Sitting(), KillAt(-1, -1))
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        trained(Sitting(path), KillAt(4, 0))
    model, again = trained(Sitting(path), KillAt(-1, -1))
    same(again, table)
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def thawing(sitting, kill=(-1, -1)):
    model = network()
    frozen = [model.get_layer("first")]
    frozen[0].trainable = False
    extra = {"thaw": Thaw(frozen, 1), "kill": KillAt(*kill)}
    table, _ = train(model, sitting, patience=99, extra=extra)
    return model, table


def test_layers_thaw_one_after_the_other(tmp_path):
    """Frozen in the first epoch, trained from the second on; and after an interruption likewise."""
    start = network().get_layer("first").get_weights()[0]
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        thawing(Sitting(path), (1, 0))
    with np.load(path) as file:
        first = [file[name] for name in file.files if name.startswith("model/") and file[name].shape == start.shape]
    np.testing.assert_array_equal(first[0], start)
    model, table = thawing(Sitting(path))
    assert np.abs(model.get_layer("first").get_weights()[0] - start).max() > 0.01
    whole, expected = thawing(Sitting())
    same(table, expected)
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class TestMistakes:
    def test_a_damaged_file(self, tmp_path):
        path = tmp_path / "checkpoint.npz"
        for content in (b"", b"PK\x03\x04 and then nothing"):
            path.write_bytes(content)
            with pytest.raises(RunError, match="checkpoint.npz is damaged.*delete it"):
                train(network(), Sitting(path))

    def test_another_model(self, tmp_path):
        path = tmp_path / "checkpoint.npz"
        train(network(), Sitting(path), epochs=2)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
        with pytest.raises(RunError, match="is of another model"):
            train(model, Sitting(path))

    def test_a_model_of_another_width(self, tmp_path):
        """As many variables, of other shapes."""
        path = tmp_path / "checkpoint.npz"
        train(network(), Sitting(path), epochs=1)
        with pytest.raises(RunError, match="is of another model"):
            train(network(units=9), Sitting(path))

    def test_who_is_not_the_chief_writes_nothing(self, tmp_path):
        train(network(), Sitting(tmp_path / "checkpoint.npz", chief=False), epochs=2)
        assert list(tmp_path.iterdir()) == []


def test_writing_costs_little(tmp_path, monkeypatch):
    """A file that takes long to write is not written after every short epoch."""
    written = []
    save = checkpoint.Checkpoint._save

    def slow(self, epoch, stopped):
        written.append(epoch)
        time.sleep(0.3)
        save(self, epoch, stopped)

    monkeypatch.setattr(checkpoint.Checkpoint, "_save", slow)
    train(network(), Sitting(tmp_path / "checkpoint.npz"), patience=99)
    assert written == [1, EPOCHS], "the first, to know what it costs, and the last"


@pytest.mark.parametrize("stopped", [False, True])
def test_what_the_optimizer_and_the_random_layers_know_is_kept(tmp_path, stopped):
    def kept(model):
        seeds = [
            variable
            for layer in model.layers
            for variable in getattr(layer, "variables", [])
            if "seed" in variable.path
        ]
        return [np.asarray(variable) for variable in (*model.optimizer.variables, *seeds)]

    model, path = network(), tmp_path / "checkpoint.npz"
    model.fit(*batch(0), verbose=0)
    model.optimizer.learning_rate = 0.0125
    keeper = checkpoint.Checkpoint(Sitting(path), {})
    keeper.set_model(model)
    keeper.set_params({"epochs": 9})
    model.stop_training = stopped
    keeper.on_epoch_begin(3)
    keeper.on_epoch_end(3)
    again, other = network(), checkpoint.Checkpoint(Sitting(path), {})
    other.set_model(again)
    assert other.read() == {"epoch": 4, "stopped": stopped}
    other.restore()
    assert int(again.optimizer.iterations) == 1 and float(again.optimizer.learning_rate) == pytest.approx(0.0125)
    ours, theirs = kept(again), kept(model)
    # Step, rate, two moments of each of six weights, and the state of the dropout.
    assert len(ours) == 2 + 2 * 6 + 1 and any(np.any(value) for value in ours[2:])
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(left, right)


class Clock:
    """Epochs of so many seconds, and a file that takes so many to write, without waiting for either."""

    def __init__(self, monkeypatch, folder, deadline=None, epoch=10.0, cost=0.0):
        self.now, self.epoch, self.written = 0.0, epoch, []
        monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.keeper = checkpoint.Checkpoint(Sitting(folder / "checkpoint.npz", deadline), {})
        self.keeper.set_model(network())
        self.keeper.set_params({"epochs": 9})
        self.keeper.model.stop_training = False

        def save(epoch, stopped):
            self.written.append(epoch)
            self.now += cost

        monkeypatch.setattr(self.keeper, "_save", save)

    def run(self, epochs):
        self.keeper.on_train_begin()
        for epoch in range(epochs):
            self.keeper.on_epoch_begin(epoch)
            self.now += self.epoch
            self.keeper.on_epoch_end(epoch)
        return self.written


@pytest.mark.parametrize(("deadline", "cost", "epochs"), [(25.0, 0.0, 2), (30.0, 0.0, 3), (36.0, 4.0, 2)])
def test_an_epoch_that_would_be_lost_is_not_begun(monkeypatch, tmp_path, deadline, cost, epochs):
    """10 s an epoch: the second ends at 20 and a third would at 30; a file of 4 s makes that 38."""
    clock = Clock(monkeypatch, tmp_path, deadline, cost=cost)
    with pytest.raises(Paused, match=f"after epoch {epochs}$"):
        clock.run(8)
    assert clock.written[-1] == epochs, "what is paused is stored"


def test_the_last_epoch_is_no_pause(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, tmp_path, deadline=95.0)
    assert clock.run(9)[-1] == 9


def test_writing_takes_a_twentieth_of_the_time(monkeypatch, tmp_path):
    """A file of 4 s is due 80 s after the last one, which ended at 34: at the end of the fourth epoch, 124."""
    assert Clock(monkeypatch, tmp_path, epoch=30.0, cost=4.0).run(6) == [1, 4]


def test_keras_names_have_not_changed():
    """What `get_state` keeps are attributes of Keras's own callbacks."""
    for part in (BestEpoch("val_loss", "min", 3), Plateau("val_loss", "min", 3)):
        part.set_model(network())
        part.on_train_begin()
        before = set(vars(part))
        part.set_state(part.get_state())
        assert set(vars(part)) == before
