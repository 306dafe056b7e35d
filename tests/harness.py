"""The checks that every layer, loss and model goes through, so that none is forgotten."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


def assert_close(actual, expected, tolerance=1e-5):
    """Structures of arrays agree, absolutely and relatively."""
    tf.nest.assert_same_structure(actual, expected)
    for left, right in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(np.asarray(left, np.float32), np.asarray(right, np.float32), tolerance, tolerance)


def check_layer(make, inputs, tmp_path, trainable=False, exports=True):
    """Configuration round trip, eager = `tf.function` = functional, mixed precision, `.keras`, LiteRT.

    Args:
        make: gives a new layer.
        inputs: list of arrays, each with a batch dimension, or of lists of them; what the layer is called with.
        tmp_path: a folder.
        trainable: whether the layer has weights to train.
        exports: whether it must run as LiteRT with builtin operations.
    """
    layer = make()
    inputs = tf.nest.map_structure(tf.constant, inputs)
    expected = layer(*inputs)
    assert bool(layer.trainable_weights) == trainable

    clone = type(layer).from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    clone(*inputs)
    clone.set_weights(layer.get_weights())
    assert_close(clone(*inputs), expected)
    assert_close(tf.function(lambda *values: layer(*values))(*inputs), expected)

    symbols = tf.nest.map_structure(lambda value: keras.Input(value.shape[1:], dtype=value.dtype.name), inputs)
    model, values = keras.Model(tf.nest.flatten(symbols), layer(*symbols)), tf.nest.flatten(inputs)
    tf.nest.map_structure(
        lambda symbol, value: np.testing.assert_equal(tuple(symbol.shape)[1:], tuple(value.shape)[1:]),
        model.output,
        expected,
    )
    assert_close(model(values), expected)
    path = tmp_path / "layer.keras"
    model.save(path)
    assert_close(keras.saving.load_model(path)(values), expected)
    if exports:
        check_litert(model, values, tmp_path)

    half = make()
    half.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    for value in tf.nest.flatten(half(*inputs)):
        assert np.isfinite(np.asarray(value, np.float32)).all()
    return layer


def check_loss(make, y_true, y_pred, expected, tolerance=1e-5):
    """Value, configuration round trip, finite gradients, and float16 input without overflow."""
    loss = make()
    np.testing.assert_allclose(float(loss(y_true, y_pred)), expected, tolerance, tolerance)
    config = keras.losses.serialize(loss)
    clone = keras.losses.deserialize(config)
    assert type(clone) is type(loss)
    np.testing.assert_allclose(float(clone(y_true, y_pred)), expected, tolerance, tolerance)
    variable = tf.Variable(y_pred)
    with tf.GradientTape() as tape:
        value = loss(y_true, variable)
    assert np.isfinite(tape.gradient(value, variable).numpy()).all()
    large = tf.zeros((2, 512, 512, y_pred.shape[-1]), tf.float16)
    assert np.isfinite(float(loss(large, large)))


def check_gradient(function, variables, step=1e-2, tolerance=2e-2, count=6, seed=0):
    """Analytic gradients against central differences, at randomly chosen weights.

    Args:
        function: no arguments, a scalar.
        variables: to differentiate by.
        step: of the difference.
        tolerance: on the difference between the two, relative to the largest gradient of the variable.
        count: weights tried per variable.
        seed: of the choice.
    """
    with tf.GradientTape() as tape:
        value = function()
    generator = np.random.default_rng(seed)
    seen = 0.0
    for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
        assert gradient is not None, f"no gradient reaches {variable.path}"
        gradient, start = np.asarray(gradient), np.asarray(variable)
        scale = np.abs(gradient).max()
        seen = max(seen, scale)
        for index in generator.choice(gradient.size, min(count, gradient.size), replace=False):
            place = np.unravel_index(index, gradient.shape)
            values = []
            for sign in (1.0, -1.0):
                moved = start.copy()
                moved[place] += sign * step
                variable.assign(moved)
                values.append(float(function()))
            variable.assign(start)
            numeric = (values[0] - values[1]) / (2.0 * step)
            assert abs(numeric - gradient[place]) <= tolerance * scale + 1e-4, (variable.path, place)
    assert seen > 1e-3, "all gradients vanish: the check says nothing"


def check_model(model, image, tmp_path, tolerance=1e-5):
    """All ways to call agree, weights and graph survive `.keras`, and LiteRT agrees with builtin operations."""
    image = tf.constant(image)
    expected = model(image, training=False)
    assert_close(tf.function(lambda value: model(value, training=False))(image), expected, tolerance)
    assert_close(model.predict(image, verbose=0), expected, tolerance)
    path = tmp_path / "model.keras"
    model.save(path)
    assert_close(keras.saving.load_model(path, compile=False)(image, training=False), expected, tolerance)
    check_litert(model, [image], tmp_path, tolerance=1e-4)


def check_litert(model, inputs, tmp_path, tolerance=1e-5):
    """A model agrees with its LiteRT export, which holds builtin operations only."""
    from ai_edge_litert.interpreter import Interpreter

    from tfseg.export.mobile import foreign_operations

    path = tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False)
    assert foreign_operations(path.read_bytes()) == []
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    names = sorted(runner.get_input_details())
    by_position = dict(zip(names, inputs, strict=True)) if len(names) > 1 else {names[0]: inputs[0]}
    received = list(runner(**{name: np.asarray(value) for name, value in by_position.items()}).values())
    wanted = tf.nest.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))
    for value in wanted:
        shaped = [entry for entry in received if entry.shape == tuple(value.shape)]
        assert any(np.allclose(entry, value, tolerance, tolerance) for entry in shaped), [e.shape for e in received]
