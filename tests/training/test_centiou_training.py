"""CEntIoU's training step: its value by hand, its gradient, and what `fit` says of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_gradient

from tfseg.losses.centiou import centiou_loss
from tfseg.models.backbones import convolution_block
from tfseg.models.classifier import Classifier, build_classifier, build_head
from tfseg.training.centiou import CEntIoUModel

SIDE = 8
SHARE = 0.3


def smooth_classifier(units=None, seed=0):
    """Positive feature maps without a kink at the input's own size, and a head; seed 7 has no dead map."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    maps = keras.layers.Conv2D(4, 3, padding="same", activation="softplus", name="conv")(image)
    return Classifier(keras.Model(image, maps, name="features"), build_head((SIDE, SIDE, 4), 3, units))


def batch(count=5, side=SIDE, seed=1):
    """Images with a lesion each, but for the second; some pixels of the third are unknown."""
    generator = np.random.default_rng(seed)
    image = generator.uniform(size=(count, side, side, 3)).astype(np.float32)
    lesion = np.zeros((count, side, side, 1), np.float32)
    for case in range(count):
        row, column = generator.integers(0, side // 2, 2)
        lesion[case, row : row + side // 2, column : column + side // 2] = 1.0
    valid = np.ones_like(lesion)
    lesion[1] = 0.0
    if count > 2:
        valid[2, : side // 2] = 0.0
        lesion[2, : side // 2] = 0.0
        lesion[2, -2:] = 1.0
    labels = np.arange(count, dtype=np.int32) % 3
    weights = np.linspace(0.5, 2.0, count, dtype=np.float32)
    return image, {"label": labels, "lesion": lesion, "valid": valid}, weights


def parts_by_hand(classifier, image, targets, chosen, threshold=False):
    """Cross entropy and soft overlap of every image in NumPy, for a linear head on maps of the image's size."""
    maps = np.asarray(classifier.features(image, training=False), np.float64)
    kernel, bias = (np.asarray(value, np.float64) for value in classifier.head.get_layer("logits").get_weights())
    logits = maps.mean((1, 2)) @ kernel + bias
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    cross_entropy = -log_probabilities[np.arange(len(image)), targets["label"]]
    target = targets["label"] if chosen == "true" else logits.argmax(1)
    # α_k is the class's weight divided by the number of positions, which the normalisation takes out again.
    saliency = np.maximum((maps * kernel[:, target].T[:, None, None]).sum(-1, keepdims=True), 0.0)
    highest = saliency.max((1, 2, 3), keepdims=True)
    saliency = saliency / np.where(highest > 0, highest, 1.0)
    if threshold:
        saliency = (saliency >= 0.5).astype(float)
    saliency, lesion = saliency * targets["valid"], targets["lesion"] * targets["valid"]
    union = (saliency + lesion - saliency * lesion).sum((1, 2, 3))
    overlap = (saliency * lesion).sum((1, 2, 3)) / np.maximum(union, 1e-6)
    return cross_entropy, overlap, lesion.any((1, 2, 3)), logits


def loss_by_hand(cross_entropy, overlap, has_lesion, weights, share=SHARE):
    return share * np.mean(weights * cross_entropy) - (1 - share) * overlap[has_lesion].mean()


@pytest.mark.parametrize("target", ["true", "predicted"])
@pytest.mark.parametrize("gradient", ["full", "none"])
def test_the_loss_by_hand(target, gradient):
    classifier = smooth_classifier(seed=2)
    image, targets, weights = batch()
    model = CEntIoUModel(classifier, SHARE, saliency_target=target, saliency_gradient=gradient)
    loss, parts = model.objective(image, targets, weights)
    hand = parts_by_hand(classifier, image, targets, target, threshold=gradient == "none")
    np.testing.assert_allclose(parts["cross_entropy"], hand[0], rtol=1e-4)
    np.testing.assert_allclose(parts["iou"], hand[1], atol=1e-4)
    np.testing.assert_array_equal(parts["has_lesion"], hand[2])
    np.testing.assert_allclose(parts["logits"], hand[3], rtol=1e-4, atol=1e-5)
    assert float(loss) == pytest.approx(loss_by_hand(*hand[:3], weights), abs=1e-4)
    unweighted, _ = model.objective(image, targets)
    assert float(unweighted) == pytest.approx(loss_by_hand(*hand[:3], np.ones(5)), abs=1e-4)
    assert not np.allclose(hand[3].argmax(1), targets["label"]), "else both targets are the same"


def test_the_maps_of_the_two_targets_differ():
    classifier = smooth_classifier(seed=2)
    image, targets, _ = batch()
    overlaps = [
        CEntIoUModel(classifier, saliency_target=name).objective(image, targets)[1]["iou"]
        for name in ("true", "predicted")
    ]
    assert np.abs(overlaps[0] - overlaps[1]).max() > 1e-3


@pytest.mark.parametrize("units", [None, 6])
def test_the_gradient_is_the_whole_loss(units):
    """Through the map too: of backbone and head, against finite differences."""
    classifier = smooth_classifier(units, seed=7)
    image, targets, weights = batch()
    model = CEntIoUModel(classifier, SHARE)
    assert np.sum(model.objective(image, targets, weights)[1]["iou"] > 0.05) >= 3, "else there is no map to go through"
    variables = [classifier.features.get_layer("conv").kernel, classifier.head.get_layer("logits").kernel]
    if units:
        variables.append(classifier.head.get_layer("hidden").kernel)
    check_gradient(lambda: model.objective(image, targets, weights)[0], variables, step=2e-3, tolerance=5e-2, count=8)


def gradients(function, variables):
    with tf.GradientTape() as tape:
        value = function()
    return tape.gradient(value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def test_as_published_the_map_moves_no_weight():
    classifier = smooth_classifier(6, seed=7)
    image, targets, weights = batch()
    variables = classifier.features.trainable_weights + classifier.head.trainable_weights
    variables = [variable.value for variable in variables]

    def cross_entropy():
        logits = classifier.head(classifier.features(image))
        losses = keras.losses.sparse_categorical_crossentropy(targets["label"], logits, from_logits=True)
        return SHARE * tf.reduce_mean(losses * weights)

    published = CEntIoUModel(classifier, SHARE, saliency_gradient="none")
    received = gradients(lambda: published.objective(image, targets, weights)[0], variables)
    expected = gradients(cross_entropy, variables)
    for left, right in zip(received, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)
    full = CEntIoUModel(classifier, SHARE)
    moved = gradients(lambda: full.objective(image, targets, weights)[0], variables)
    assert max(np.abs(left - right).max() for left, right in zip(moved, expected, strict=True)) > 1e-3
    assert float(published.objective(image, targets)[0]) != float(cross_entropy())


def test_as_published_the_map_begins_at_one_half():
    """The map of class 0 is the first channel: 1, exactly one half and a quarter; the first two are the lesion."""
    image = keras.Input((SIDE, SIDE, 3), name="image")
    features = keras.Model(image, keras.layers.Identity(name="maps")(image), name="features")
    classifier = Classifier(features, build_head((SIDE, SIDE, 3), 3, None))
    classifier.head.get_layer("logits").set_weights([np.eye(3, dtype=np.float32), np.zeros(3, np.float32)])
    picture, lesion = np.zeros((1, SIDE, SIDE, 3), np.float32), np.zeros((1, SIDE, SIDE, 1), np.float32)
    picture[0, 0, :3, 0], lesion[0, 0, :2] = (1.0, 0.5, 0.25), 1.0
    targets = {"label": np.array([0], np.int32), "lesion": lesion, "valid": np.ones_like(lesion)}
    for gradient, expected in (("none", 1.0), ("full", 1.5 / 2.25)):
        _, parts = CEntIoUModel(classifier, saliency_gradient=gradient).objective(picture, targets)
        assert float(parts["iou"][0]) == pytest.approx(expected, rel=1e-5)


def test_a_scaled_loss_moves_the_weights_as_far():
    ends = []
    for optimizer in (keras.optimizers.SGD(1.0), keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), 256.0)):
        model = CEntIoUModel(smooth_classifier(6, seed=7), SHARE)
        start = model.get_weights()
        model.compile(optimizer, run_eagerly=True)
        model.train_on_batch(*batch())
        ends.append(model.get_weights())
    assert max(np.abs(left - right).max() for left, right in zip(start, ends[0], strict=True)) > 1e-2
    for left, right in zip(*ends, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_only_training_is_told_so():
    """Batch norm's statistics move and dropout drops in a training step, and neither does in a test."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    features = keras.Model(image, convolution_block(image, 8, "down", strides=2), name="features")
    model = CEntIoUModel(build_classifier(features, 3, units=8, dropout=0.5), SHARE)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    values = batch(4, 16)

    def statistics():
        return np.concatenate([variable.numpy() for variable in features.non_trainable_variables])

    start = statistics()
    tested = [model.test_on_batch(*values, return_dict=True)["loss"] for _ in range(2)]
    np.testing.assert_array_equal(statistics(), start)
    assert tested[0] == tested[1]
    model.train_on_batch(*values)
    assert np.abs(statistics() - start).max() > 1e-3
    first, second = (model.objective(*values, training=True)[1]["logits"] for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_the_share_of_one_is_cross_entropy():
    classifier = smooth_classifier(6, seed=7)
    image, targets, _ = batch()
    loss, parts = CEntIoUModel(classifier, 1.0).objective(image, targets)
    assert float(loss) == pytest.approx(float(np.mean(parts["cross_entropy"])), rel=1e-6)


def small_model(seed=5, **options):
    """With batch norm and a ReLU at the end, as backbones have them."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((16, 16, 3), name="image")
    maps = convolution_block(convolution_block(image, 8, "down", strides=2), 8, "last")
    return CEntIoUModel(build_classifier(keras.Model(image, maps, name="features"), 3, units=8), SHARE, **options)


def dataset(values, size):
    return tf.data.Dataset.from_tensor_slices(values).batch(size)


def test_what_fit_reports_is_true(tmp_path):
    """With weights that stand still, every number can be worked out again from the batches."""
    classifier = smooth_classifier(6, seed=7)
    model = CEntIoUModel(classifier, SHARE)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    training, validation = batch(5, seed=1), batch(4, seed=2)
    seen = []
    history = model.fit(
        dataset(training, 3),
        validation_data=dataset(validation, 3),
        epochs=2,
        callbacks=[
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
        ],
        verbose=0,
    ).history
    assert set(history) == {
        prefix + name for prefix in ("", "val_") for name in ("loss", "cross_entropy", "saliency_iou", "accuracy")
    }
    for prefix, values in (("", training), ("val_", validation)):
        losses, sizes = [], []
        for image, targets, weights in dataset(values, 3):
            loss, _ = model.objective(image, targets, weights)
            losses.append(float(loss))
            sizes.append(len(image))
        _, parts = model.objective(*values[:2])
        found = np.asarray(parts["has_lesion"]) > 0
        expected = {
            "loss": np.average(losses, weights=sizes),
            "cross_entropy": np.mean(parts["cross_entropy"]),
            "saliency_iou": np.mean(np.asarray(parts["iou"])[found]),
            "accuracy": np.mean(np.argmax(parts["logits"], 1) == values[1]["label"]),
        }
        for name, value in expected.items():
            assert history[prefix + name] == pytest.approx([value, value], abs=1e-5), prefix + name
            assert seen[0][prefix + name] == history[prefix + name][0]
        assert abs(expected["loss"]) > 0.01 and expected["saliency_iou"] > 0.01
    evaluated = model.evaluate(dataset(validation, 3), verbose=0, return_dict=True)
    assert evaluated["loss"] == pytest.approx(history["val_loss"][-1], abs=1e-6)
    assert (tmp_path / "last.weights.h5").exists()


def test_training_lowers_the_loss_and_moves_the_map():
    model = small_model()
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    history = model.fit(dataset(batch(6, 16), 6).repeat(), epochs=4, steps_per_epoch=15, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 0.1
    assert history["saliency_iou"][-1] > history["saliency_iou"][0] + 0.1


def test_what_was_trained_is_what_predicts():
    model = small_model()
    image, _, _ = batch(4, 16)
    logits = model(image, training=False)
    np.testing.assert_allclose(model.predict(image, verbose=0), logits, atol=1e-6)
    np.testing.assert_allclose(logits, model.explain.head(model.features(image, training=False)), atol=1e-6)
    assert len(model.trainable_weights) == len(model.features.trainable_weights) + 4


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = small_model()
        model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
        before = [value.copy() for value in model.get_weights()]
        # A first loss scale of 2¹⁵ may overflow a few times before a step counts.
        history = model.fit(dataset(batch(6, 16), 6).repeat(), epochs=2, steps_per_epoch=6, verbose=0).history
    finally:
        keras.mixed_precision.set_global_policy("float32")
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    assert model.features.get_layer("last_conv").compute_dtype == policy[len("mixed_") :]
    assert np.isfinite([*history["loss"], *history["saliency_iou"]]).all()
    after = model.get_weights()
    assert all(np.isfinite(value).all() for value in after)
    kernels = [number for number, value in enumerate(before) if value.ndim == 4]
    assert all(np.abs(after[number] - before[number]).max() > 0 for number in kernels)
    # The loss that is reported is unscaled: cross entropy of three classes and an overlap are of the order of one.
    assert abs(history["loss"][0]) < 5.0


def test_a_batch_without_any_lesion():
    model = small_model()
    image, targets, weights = batch(4, 16)
    targets["lesion"] = np.zeros_like(targets["lesion"])
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    loss = model.objective(image, targets, weights)[0]
    model.fit(dataset((image, targets, weights), 4), verbose=0)
    assert np.isfinite(float(loss)) and all(np.isfinite(value).all() for value in model.get_weights())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_entropy_share": 1.1}, "cross_entropy_share.*1.1"),
        ({"saliency": "cam"}, "saliency.*grad_cam.*'cam'"),
        ({"saliency_target": "all"}, "saliency_target.*'all'"),
        ({"saliency_gradient": "half"}, "saliency_gradient.*'half'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        CEntIoUModel(smooth_classifier(), **options)


def test_parts_are_put_together_by_the_tested_formula():
    classifier = smooth_classifier(seed=2)
    image, targets, weights = batch()
    loss, parts = CEntIoUModel(classifier, SHARE).objective(image, targets, weights)
    expected = centiou_loss(parts["cross_entropy"] * weights, parts["iou"], parts["has_lesion"], SHARE)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
