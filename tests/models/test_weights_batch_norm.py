"""Re-estimated batch norm: the same function in inference mode, and a sane one in training mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfseg.models.backbones import build_backbone
from tfseg.models.weights import reestimate_batch_norm


def pictures(count, size, seed=0):
    """Colours that change slowly over the image, in [0, 1]."""
    coarse = np.random.default_rng(seed).uniform(size=(count, 5, 5, 3))
    return tf.image.resize(coarse, (size, size), "bicubic").numpy().clip(0, 1).astype(np.float32)


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def folded(model, seed=0):
    """Batch norm as folded weights leave it: the identity plus a bias, behind convolutions of a real scale."""
    generator = np.random.default_rng(seed)
    for layer in norms(model):
        size = layer.gamma.shape
        identity = [np.full(size, np.sqrt(1.0 + layer.epsilon)), generator.normal(0.5, 0.3, size)]
        layer.set_weights([*identity, np.zeros(size), np.ones(size)])
    return model


def test_one_channel_by_hand():
    """y = 3 x + 1 with x in {1, 5}: mean 3, variance 4, so gamma is 3 · √(4 + ε) and beta 1 + 3 · 3."""
    image = keras.Input((1, 1, 1))
    model = keras.Model(image, layers.BatchNormalization(epsilon=0.25)(image))
    norm = norms(model)[0]
    norm.set_weights(np.array([[3.0 * np.sqrt(1.25)], [1.0], [0.0], [1.0]]))
    reestimate_batch_norm(model, np.array([1.0, 5.0], np.float32).reshape(2, 1, 1, 1))
    expected = [[3.0 * np.sqrt(4.25)], [10.0], [3.0], [4.0]]
    np.testing.assert_allclose(norm.get_weights(), expected, rtol=1e-6)


def test_the_function_stays_and_training_keeps_it():
    keras.utils.set_random_seed(0)
    model = folded(build_backbone("small_cnn", (32, 32, 3)))
    images, others = pictures(48, 32), pictures(8, 32, seed=1)
    before = model(others, training=False).numpy()
    wild = model(images, training=True).numpy()
    folded(model)
    reestimate_batch_norm(model, images, batch_size=20)
    after = model(others, training=False).numpy()
    scale = np.abs(before).max()
    np.testing.assert_allclose(after / scale, before / scale, atol=1e-5)
    wanted = model(images, training=False).numpy()
    trained = model(images, training=True).numpy()

    def apart(maps):
        return np.linalg.norm(maps - wanted) / np.linalg.norm(wanted)

    assert apart(trained) < 1e-3 < 0.3 < apart(wild)


def test_statistics_are_those_of_all_images_together():
    """Whatever the size of the batches, and with a last one that is not full."""
    keras.utils.set_random_seed(1)
    models = [build_backbone("small_cnn", (16, 16, 3)) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    images = pictures(7, 16)
    for model, size in zip(models, (7, 3), strict=True):
        reestimate_batch_norm(model, images, batch_size=size)
    for left, right in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    first = norms(models[0])[0]
    maps = keras.Model(models[0].input, first.input)(images).numpy()
    np.testing.assert_allclose(first.moving_mean, maps.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(first.moving_variance, maps.var((0, 1, 2)), rtol=1e-4)


def test_a_channel_that_never_changes():
    """Its variance is 0 and must stay finite in both directions."""
    image = keras.Input((4, 4, 2))
    model = keras.Model(image, layers.BatchNormalization()(image))
    images = np.zeros((3, 4, 4, 2), np.float32)
    images[..., 1] = 0.7
    before = model(images, training=False).numpy()
    reestimate_batch_norm(model, images)
    np.testing.assert_allclose(model(images, training=False), before, atol=1e-5)
    assert np.isfinite(model(images, training=True)).all()


def test_a_network_without_batch_norm_is_left_alone():
    model = build_backbone("squeezenet_1_1", (32, 32, 3))
    before = model.get_weights()
    reestimate_batch_norm(model, pictures(2, 32))
    for left, right in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.real_data
def test_real_folded_weights_survive_training_mode(data_folder):
    path = str(data_folder / "weights" / "mobilenet_v2_imagenet_bn_folded.npz")
    from tfseg.data.decode import decode_image, resize_image, to_model_input

    files = sorted((data_folder / "herlev" / "images").iterdir())[::24][:32]
    images = np.stack([to_model_input(resize_image(decode_image(file.read_bytes()), 96)) for file in files])
    model = build_backbone("mobilenet_v2", (96, 96, 3), path)
    for layer in norms(model):
        layer.trainable = True
    wanted = model(images, training=False).numpy()
    weights = model.get_weights()
    wild = model(images, training=True).numpy()
    model.set_weights(weights)
    reestimate_batch_norm(model, images)
    np.testing.assert_allclose(model(images, training=False), wanted, atol=1e-3 * wanted.max())
    trained = model(images, training=True).numpy()
    similar = [np.corrcoef(maps.ravel(), wanted.ravel())[0, 1] for maps in (trained, wild)]
    assert similar[0] > 0.99 and similar[1] < 0.5, similar
