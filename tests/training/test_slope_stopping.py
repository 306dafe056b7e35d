"""The slope of curves whose answer is known, when it stops, and that it goes on where it was."""

import json

import keras
import numpy as np
import pytest

from tfseg.training.slope import SlopeStopping, loss_slope


def test_slope_by_hand():
    # A line has its own slope, a parabola its derivative at the end.
    assert loss_slope([5.0, 4.0, 3.0, 2.0]) == pytest.approx(-1.0)
    epochs = np.arange(10.0)
    assert loss_slope(3.0 + 2.0 * epochs - 0.5 * epochs**2) == pytest.approx(2.0 - 9.0)
    assert loss_slope([2.0] * 10) == 0.0
    # Ends 0 and 0, between them 1: the bow is x(x − 2) = −1, so curvature −1 and a slope of −2.
    assert loss_slope([0.0, 1.0, 0.0]) == pytest.approx(-2.0)
    # Ends 0 and 3, between them 0 and 0 below the line 1, 2: bow −2, −2; curvature (2 + 4) / 8; slope 1 + 0.75 · 3.
    assert loss_slope([0.0, 0.0, 0.0, 3.0]) == pytest.approx(1.0 + 0.75 * 3.0)


def test_slope_agrees_with_a_constrained_fit():
    """The same through a solver: least squares with the two ends weighted as good as fixed."""
    values = np.random.default_rng(0).random(10)
    weights = np.ones(10)
    weights[[0, -1]] = 1e6
    quadratic = np.polynomial.Polynomial.fit(np.arange(10), values, 2, w=weights)
    assert loss_slope(values) == pytest.approx(quadratic.deriv()(9), rel=1e-6)


def test_the_slope_is_scale_free_and_small_at_the_end_of_a_decay():
    decay = np.exp(-np.arange(60) / 10.0)
    slopes = [loss_slope(decay[end - 10 : end], decay[:end].max()) for end in range(10, 61)]
    assert slopes == sorted(slopes) and slopes[0] < -0.02 and -1e-3 < slopes[-1] < 0.0
    for end in (10, 40):
        scaled = 700.0 * decay
        assert loss_slope(scaled[end - 10 : end], scaled[0]) == pytest.approx(slopes[end - 10], rel=1e-9)
    # The derivative of exp(−t/10) at epoch t, to the fit's accuracy.
    assert slopes[0] == pytest.approx(-0.1 * np.exp(-0.9), rel=0.15)


def test_zeros_and_what_is_no_number():
    assert loss_slope([0.0] * 10, 0.0) == 0.0
    assert np.isnan(loss_slope([1.0, float("nan"), 1.0]))
    with pytest.raises(ValueError, match="at least 3"):
        loss_slope([1.0, 2.0])


def run(losses, callback=None, first_epoch=0):
    """The callback over a curve as `fit` would call it: the epochs done, and the slopes it reported."""
    callback = callback or SlopeStopping()
    callback.set_model(keras.Sequential([keras.layers.Identity()]))
    callback.model.stop_training = False
    callback.on_train_begin()
    slopes = []
    for epoch, loss in enumerate(losses[first_epoch:], first_epoch):
        logs = {"loss": loss, "val_loss": 1.0}
        callback.on_epoch_end(epoch, logs)
        slopes.append(logs["loss_slope"])
        if callback.model.stop_training:
            break
    return epoch + 1, slopes


def test_a_constant_loss_stops_at_epoch_16():
    epochs, slopes = run([0.7] * 40)
    assert epochs == 16 and slopes[9:] == [0.0] * 7 and np.isnan(slopes[:9]).all()


def test_a_rising_loss_stops_and_a_falling_one_does_not():
    assert run(np.linspace(1.0, 5.0, 40))[0] == 16
    # Down by 0.2 % of the first value each epoch: still falling; by 0.05 %: not any more.
    assert run(1.0 - 0.002 * np.arange(100))[0] == 100
    assert run(1.0 - 0.0005 * np.arange(100))[0] == 16


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_fall_to_a_plateau_stops_after_it_at_any_scale(scale):
    curve = scale * np.concatenate([np.linspace(1.0, 0.2, 25), np.full(60, 0.2)])
    epochs, slopes = run(curve)
    # The plateau begins with epoch 25. Once the window lies on it, after nine more epochs, the slope is 0; the
    # parabola overshoots before: a kink in the window looks like the bottom of a bowl.
    first_flat = next(index for index, slope in enumerate(slopes, 1) if slope > -1e-3)
    assert 25 < first_flat <= 34 and epochs == first_flat + 5


def test_flat_epochs_must_be_in_a_row():
    """Flat, then a fall, then flat again: the count starts anew."""
    curve = np.concatenate([np.full(14, 1.0), [0.5], np.full(60, 0.5)])
    epochs, slopes = run(curve)
    assert slopes[13] == 0.0 and slopes[14] < -1e-3 and epochs > 20


def test_arguments_move_the_end():
    assert run([0.7] * 40, SlopeStopping(patience=0))[0] == 11
    assert run([0.7] * 40, SlopeStopping(start=20))[0] == 26
    assert run([0.7] * 40, SlopeStopping(window=20, start=0))[0] == 25
    assert run(1.0 - 0.002 * np.arange(100), SlopeStopping(threshold=0.01))[0] == 16
    callback = SlopeStopping("val_loss")
    assert run(1.0 - 0.002 * np.arange(100), callback)[0] == 16 and callback.stopped_epoch == 16


def test_a_resumed_training_stops_where_an_uninterrupted_one_does():
    curve = np.concatenate([np.linspace(3.0, 1.0, 12), np.full(40, 1.0)])
    whole, slopes = run(curve)
    for cut in (4, 11, whole - 2):
        first = SlopeStopping()
        run(curve[:cut], first)
        second = SlopeStopping()
        second.set_state(json.loads(json.dumps(first.get_state())))
        epochs, later = run(curve, second, first_epoch=cut)
        assert epochs == whole
        np.testing.assert_array_equal(later, slopes[cut:])
    # Without its state, nor after the end of one training, nothing is remembered.
    assert run(curve, SlopeStopping(), first_epoch=whole - 2)[0] > whole
    assert run(curve, second)[0] == whole


def test_no_number_never_counts_as_converged():
    assert run([float("nan")] * 40)[0] == 40
    broken = [0.7] * 5 + [float("inf")] + [0.7] * 40
    epochs, slopes = run(broken)
    # The window is free of it from epoch 16 on, which is the first to count.
    assert epochs == 21 and np.isnan(slopes[9:15]).all() and slopes[15] == 0.0
    stopping = SlopeStopping()
    run(broken[:8], stopping)
    resumed = SlopeStopping()
    resumed.set_state(json.loads(json.dumps(stopping.get_state(), allow_nan=False)))
    assert run(broken, resumed, first_epoch=8)[0] == 21


def test_keras_stops_and_keeps_the_slopes():
    image = keras.Input((1,))
    model = keras.Model(image, keras.layers.Dense(1)(image))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    stopping = SlopeStopping(window=3, patience=1, start=2)
    history = model.fit(np.ones((4, 1)), np.ones((4, 1)), epochs=9, verbose=0, callbacks=[stopping])
    assert len(history.history["loss"]) == 4 == stopping.stopped_epoch
    assert history.history["loss_slope"][2:] == [0.0, 0.0]


def test_misuse_is_named():
    with pytest.raises(ValueError, match="`window` must be at least 3"):
        SlopeStopping(window=2)
    with pytest.raises(ValueError, match="watches 'val_loss', which is not reported; known: loss"):
        SlopeStopping("val_loss").on_epoch_end(0, {"loss": 1.0})
