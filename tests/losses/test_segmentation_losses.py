"""Every segmentation loss on masks of a few pixels: by hand, weighted, differentiated, and by name."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import check_gradient, check_loss

from tfseg.errors import ConfigError
from tfseg.losses.dice import DiceLoss
from tfseg.losses.overlap import JaccardLoss, TverskyLoss, tversky_index
from tfseg.losses.pixelwise import CrossEntropy, DiceFocal, FocalLoss, SmoothL1Loss, clipped_cross_entropy
from tfseg.losses.rank import DiceRank, RankLoss, rank_loss
from tfseg.losses.segmentation import LOSSES, build_loss, loss_options

TRUE = np.array([[1, 1], [0, 0]], np.float32).reshape(1, 2, 2, 1)
PROBABILITIES = np.array([[0.8, 0.4], [0.4, 0.2]], np.float32).reshape(1, 2, 2, 1)
LOGITS = np.log(PROBABILITIES / (1.0 - PROBABILITIES))
# Overlap 0.8 + 0.4, false positive 0.4 + 0.2, false negative 0.2 + 0.6.
DICE, JACCARD, TVERSKY = 2.4 / 3.8, 1.2 / 2.6, 1.2 / (1.2 + 0.3 * 0.6 + 0.7 * 0.8)

CLASSES = np.zeros((1, 1, 2, 3), np.float32)
CLASSES[0, 0, 0, 0] = CLASSES[0, 0, 1, 2] = 1.0
SOFTMAX = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32).reshape(1, 1, 2, 3)

RNG = np.random.default_rng(0)
MANY_TRUE = (RNG.random((3, 5, 7, 1)) > 0.6).astype(np.float32)
MANY_LOGITS = RNG.normal(size=(3, 5, 7, 1)).astype(np.float32)
MANY_CLASSES = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, (3, 5, 7))]
MANY_CLASS_LOGITS = RNG.normal(size=(3, 5, 7, 3)).astype(np.float32)


def focal_by_hand(alpha=0.25, gamma=2.0):
    lesion = alpha * (0.2**gamma * math.log(0.8) + 0.6**gamma * math.log(0.4))
    background = (1 - alpha) * (0.4**gamma * math.log(0.6) + 0.2**gamma * math.log(0.8))
    return -(lesion + background) / 4.0


CROSS_ENTROPY = -(math.log(0.8) + math.log(0.4) + math.log(0.6) + math.log(0.8)) / 4.0
# Two worst background pixels 0.4 and 0.2 against two worst lesion pixels 0.4 and 0.8, margin 0.3:
# 0.4 − 0.4 + 0.3, 0.4 − 0.8 + 0.3 < 0, 0.2 − 0.4 + 0.3, 0.2 − 0.8 + 0.3 < 0.
RANK = (0.3 + 0.1) / 4.0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (JaccardLoss, 1 - JACCARD),
        (TverskyLoss, 1 - TVERSKY),
        (lambda: TverskyLoss(0.5, 0.5), 1 - DICE),
        (lambda: TverskyLoss(1.0, 1.0), 1 - JACCARD),
        (CrossEntropy, CROSS_ENTROPY),
        (lambda: CrossEntropy(from_logits=False), CROSS_ENTROPY),
        # Halves of the squares of 0.2, 0.6, 0.4, 0.2.
        (SmoothL1Loss, (0.04 + 0.36 + 0.16 + 0.04) / 8.0),
        # With beta 0.3 the first and the last are 0.04/0.6 and the others 0.6 − 0.15 and 0.4 − 0.15.
        (lambda: SmoothL1Loss(0.3), (0.04 / 0.6 + 0.45 + 0.25 + 0.04 / 0.6) / 4.0),
        (FocalLoss, focal_by_hand()),
        (lambda: FocalLoss(0.6, 1.0), focal_by_hand(0.6, 1.0)),
        (lambda: FocalLoss(0.5, 0.0), CROSS_ENTROPY / 2.0),
        (DiceFocal, 1 - DICE + focal_by_hand()),
        (lambda: DiceFocal(0.6, 1.0, focal_weight=0.5), 1 - DICE + 0.5 * focal_by_hand(0.6, 1.0)),
        (RankLoss, RANK),
        # One pixel of each kind: 0.4 and 0.4.
        (lambda: RankLoss(pixels=1), 0.3),
        (lambda: RankLoss(margin=0.0), 0.0),
        (DiceRank, 1 - DICE + 0.05 * RANK),
        (lambda: DiceRank(1, 0.1, rank_weight=2.0), 1 - DICE + 2.0 * 0.1),
        # The background's Dice: overlap 0.6 + 0.8, sums 2 + 2.2.
        (lambda: DiceLoss(background=True), 1 - (DICE + 2.8 / 4.2) / 2.0),
        (lambda: DiceLoss(background=True, class_weights=(0.0, 3.0)), 1 - DICE),
    ],
)
def test_one_channel_by_hand(make, expected):
    check_loss(make, TRUE, LOGITS, expected)


# Dice of the classes: 1.4 / 1.8, 0 / 0.5, 1.2 / 1.7.
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: DiceLoss(class_weights=(1, 0, 3)), 1 - (1.4 / 1.8 + 3 * 1.2 / 1.7) / 4),
        # Unions 1.1, 0.5, 1.1.
        (JaccardLoss, 1 - (0.7 / 1.1 + 0.0 + 0.6 / 1.1) / 3),
        (lambda: JaccardLoss(class_weights=(2, 1, 1)), 1 - (2 * 0.7 / 1.1 + 0.0 + 0.6 / 1.1) / 4),
        (lambda: CrossEntropy(from_logits=False), -(math.log(0.7) + math.log(0.6)) / 2),
        (CrossEntropy, -(math.log(0.7) + math.log(0.6)) / 2),
        (FocalLoss, -0.25 * (0.09 * math.log(0.7) + 0.16 * math.log(0.6)) / 2),
        (lambda: FocalLoss((0.5, 0.1, 2.0)), -(0.5 * 0.09 * math.log(0.7) + 2.0 * 0.16 * math.log(0.6)) / 2),
        (
            lambda: DiceFocal(class_weights=(1, 0, 3)),
            1 - (1.4 / 1.8 + 3 * 1.2 / 1.7) / 4 - 0.25 * (0.09 * math.log(0.7) + 0.16 * math.log(0.6)) / 2,
        ),
        # Squares per pixel: 0.09 + 0.04 + 0.01 and 0.01 + 0.09 + 0.16.
        (SmoothL1Loss, (0.14 + 0.26) / 12),
        # Class 0: 0.1 − 0.7 < −0.3; class 1 has no pixel; class 2: 0.1 − 0.6 < −0.3.
        (RankLoss, 0.0),
        # Class 0: 0.1 − 0.7 + 1; class 2: 0.1 − 0.6 + 1; class 1 counts nowhere.
        (lambda: RankLoss(margin=1.0), (0.4 + 0.5) / 2),
    ],
)
def test_classes_by_hand(make, expected):
    check_loss(make, CLASSES, np.log(SOFTMAX), expected, 1e-4)


def test_focal_agrees_with_keras():
    probabilities = keras.ops.sigmoid(MANY_LOGITS)
    theirs = keras.losses.BinaryFocalCrossentropy(True, alpha=0.3, gamma=1.5)(MANY_TRUE, probabilities)
    assert float(FocalLoss(0.3, 1.5)(MANY_TRUE, MANY_LOGITS)) == pytest.approx(float(theirs), rel=1e-4)
    theirs = keras.losses.CategoricalFocalCrossentropy(0.3, 1.5, from_logits=True)(MANY_CLASSES, MANY_CLASS_LOGITS)
    assert float(FocalLoss(0.3, 1.5)(MANY_CLASSES, MANY_CLASS_LOGITS)) == pytest.approx(float(theirs), rel=1e-4)


def test_tversky_agrees_with_keras():
    # Keras 3.15 gives alpha to the missed pixels and beta to the false ones, against its own documentation.
    theirs = keras.losses.Tversky(alpha=0.9, beta=0.2, axis=(1, 2, 3))(MANY_TRUE, keras.ops.sigmoid(MANY_LOGITS))
    assert float(TverskyLoss(0.2, 0.9)(MANY_TRUE, MANY_LOGITS)) == pytest.approx(float(theirs), rel=1e-5)


def brute_force_rank(true, probabilities, valid, pixels, margin):
    """One image of one channel, pixel by pixel."""
    lesion = sorted(float(p) for p, t, v in zip(probabilities, true, valid, strict=True) if v and t)[:pixels]
    background = sorted((float(p) for p, t, v in zip(probabilities, true, valid, strict=True) if v and not t))[::-1]
    pairs = [max(0.0, b - a + margin) for b in background[:pixels] for a in lesion]
    return np.mean(pairs) if pairs else 0.0


@pytest.mark.parametrize("pixels", [1, 4, 30, 500])
def test_rank_agrees_with_a_loop(pixels):
    generator = np.random.default_rng(pixels)
    true = (generator.random((6, 9, 11, 1)) > 0.8).astype(np.float32)
    true[1], true[2] = 0.0, 1.0
    true[3] = 0.0
    true[3, 0, :3] = 1.0
    probabilities = generator.random(true.shape).astype(np.float32)
    valid = (generator.random(true.shape) > 0.3).astype(np.float32)
    valid[4] = 0.0
    expected = [
        brute_force_rank(*(values[image].ravel() for values in (true, probabilities, valid)), pixels, 0.3)
        for image in range(6)
    ]
    # Nothing to rank without a lesion, without a background, without a known pixel.
    assert expected[1] == expected[2] == expected[4] == 0.0 < expected[3]
    np.testing.assert_allclose(rank_loss(true, probabilities, valid, pixels), expected, rtol=1e-5)
    graph = tf.function(lambda *values: rank_loss(*values, pixels=pixels))
    np.testing.assert_allclose(graph(true, probabilities, valid), expected, rtol=1e-5)


def test_two_softmax_channels_rank_as_one_sigmoid_does():
    logits = np.concatenate([np.zeros_like(MANY_LOGITS), MANY_LOGITS], -1)
    both = np.concatenate([1 - MANY_TRUE, MANY_TRUE], -1)
    single = float(RankLoss(5)(MANY_TRUE, MANY_LOGITS))
    assert single > 0.1
    assert float(RankLoss(5)(both, logits)) == pytest.approx(single, rel=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_cross_entropy_of_probabilities_is_clipped_and_that_of_logits_is_not(compiled):
    """The two forms that the EBHI-Seg report compares differ where the network is sure and wrong."""
    true, logits = np.ones((1, 1, 1, 1), np.float32), tf.Variable(np.full((1, 1, 1, 1), -40.0, np.float32))

    def value_and_gradient(from_logits):
        with tf.GradientTape() as tape:
            value = CrossEntropy(from_logits)(true, logits)
        return value, tape.gradient(value, logits)

    run = tf.function(value_and_gradient) if compiled else value_and_gradient
    value, gradient = run(False)
    assert float(value) == pytest.approx(-math.log(1e-7), rel=1e-5) and gradient.numpy().item() == 0.0
    value, gradient = run(True)
    assert float(value) == pytest.approx(40.0, rel=1e-5) and gradient.numpy().item() == pytest.approx(-1.0)


def test_clipped_cross_entropy_agrees_with_keras():
    theirs = keras.losses.BinaryCrossentropy()(MANY_TRUE, keras.ops.sigmoid(MANY_LOGITS))
    assert float(np.mean(clipped_cross_entropy(MANY_TRUE, MANY_LOGITS))) == pytest.approx(float(theirs), rel=1e-5)
    theirs = keras.losses.CategoricalCrossentropy()(MANY_CLASSES, keras.ops.softmax(MANY_CLASS_LOGITS))
    ours = np.mean(clipped_cross_entropy(MANY_CLASSES, MANY_CLASS_LOGITS))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_against_finite_differences(name, channels):
    true, start = (MANY_TRUE, MANY_LOGITS) if channels == 1 else (MANY_CLASSES, MANY_CLASS_LOGITS)
    # Few ranked pixels have large gradients; the step must not change which pixels are ranked.
    loss = build_loss(name, **({"pixels": 3} if "pixels" in loss_options(name) else {}))
    logits = tf.Variable(start)
    check_gradient(lambda: 100.0 * loss(true, logits), [logits], step=3e-3, count=12)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_weight_zero_count_nowhere(name, channels):
    true, logits = (MANY_TRUE, MANY_LOGITS) if channels == 1 else (MANY_CLASSES, MANY_CLASS_LOGITS)
    loss, valid = build_loss(name), np.ones((3, 5, 7, 1), np.float32)
    known = float(loss(true, logits))
    assert float(loss(true, logits, valid)) == pytest.approx(known, rel=1e-6)
    valid[:, 2, 3:5] = 0.0
    weighed = float(loss(true, logits, valid))
    assert weighed != pytest.approx(known, rel=1e-6)
    wrong, unknown = logits.copy(), true.copy()
    wrong[:, 2, 3:5], unknown[:, 2, 3:5] = 7.0, 0.0
    assert float(loss(unknown, wrong, valid)) == pytest.approx(weighed, rel=1e-6)
    # Cut out instead of weighed: the same, as the images stay in one piece.
    valid[:] = 1.0
    valid[:, 4] = 0.0
    assert float(loss(true, logits, valid)) == pytest.approx(float(loss(true[:, :4], logits[:, :4])), rel=1e-5)
    assert np.isfinite(float(loss(true, logits, np.zeros_like(valid))))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_is_the_mean_over_images_and_adds_up_over_replicas(name, monkeypatch):
    loss = build_loss(name)
    whole = float(loss(MANY_TRUE, MANY_LOGITS))
    parts = [float(loss(MANY_TRUE[image : image + 1], MANY_LOGITS[image : image + 1])) for image in range(3)]
    assert whole == pytest.approx(np.mean(parts), rel=1e-5)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: SimpleNamespace(num_replicas_in_sync=2))
    assert float(loss(MANY_TRUE, MANY_LOGITS)) == pytest.approx(whole / 2.0, rel=1e-5)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky"])
def test_overlap_losses_of_empty_masks_and_pooled_batches(name):
    empty = np.zeros((1, 2, 2, 1), np.float32)
    assert float(build_loss(name)(empty, np.full_like(empty, -100.0))) == pytest.approx(0.0, abs=1e-6)
    true = np.concatenate([TRUE, empty])
    logits = np.concatenate([LOGITS, np.full_like(empty, -100.0)])
    alone = float(build_loss(name)(TRUE, LOGITS))
    assert float(build_loss(name)(true, logits)) == pytest.approx(alone / 2.0, rel=1e-4)
    # Pooled, the empty image adds nothing.
    assert float(build_loss(name, per_image=False)(true, logits)) == pytest.approx(alone, rel=1e-5)


def test_tversky_index_pools():
    true, predicted = np.concatenate([TRUE, 1 - TRUE]), np.concatenate([PROBABILITIES, PROBABILITIES])
    # Second image: overlap 0.4 + 0.2, false positive 1.2, false negative 0.6 + 0.8.
    pooled = tversky_index(true, predicted, alpha=1.0, beta=0.5, per_image=False)
    assert float(pooled) == pytest.approx(1.8 / (1.8 + 1.8 + 0.5 * 2.2), rel=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_large_images_in_half_precision_do_not_overflow(name):
    """512² pixels that are all wrong: sums of 262,144 do not fit float16."""
    true = tf.ones((1, 512, 512, 1), tf.float16)
    logits = tf.fill((1, 512, 512, 1), tf.constant(-3.0, tf.float16))
    loss = build_loss(name)
    value = float(loss(true, logits))
    small = float(loss(true[:, :8, :8], logits[:, :8, :8]))
    assert value == pytest.approx(small, rel=1e-4) and np.isfinite(value)


@pytest.mark.parametrize("name", ["focal", "dice_focal", "bce_with_logits"])
def test_gradients_of_certain_pixels_are_numbers(name):
    logits = tf.Variable(np.array([200.0, -200.0, 0.0, 50.0], np.float32).reshape(1, 2, 2, 1))
    with tf.GradientTape() as tape:
        value = build_loss(name)(TRUE, logits)
    assert np.isfinite(tape.gradient(value, logits).numpy()).all()


@pytest.mark.parametrize("name", ["dice", "bce", "jaccard", "dice_focal", "dice_rank"])
def test_a_compiled_model_is_loaded_back_with_its_loss(name, tmp_path):
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.layers.Conv2D(1, 1)(image))
    model.compile("sgd", build_loss(name))
    generator = np.random.default_rng(0)
    images = generator.random((2, 4, 4, 3)).astype(np.float32)
    masks = (generator.random((2, 4, 4, 1)) > 0.5).astype(np.float32)
    model.fit(images, masks, sample_weight=np.ones_like(masks), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(images, masks, verbose=0) == pytest.approx(model.evaluate(images, masks, verbose=0))
    assert loaded.loss.get_config() == model.loss.get_config()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lovasz", {}, "no segmentation loss named 'lovasz'; known: dice, "),
        ("rank", {"gamma": 2.0}, "the loss rank has no option 'gamma'; known: pixels, margin"),
        ("bce", {"from_logits": True}, "no option 'from_logits'; known: none"),
        ("tversky", {"alpha": -1.0}, "the loss tversky: `alpha` and `beta`.*-1.0"),
        ("smooth_l1", {"beta": 0.0}, "`beta` must be above 0"),
        ("focal", {"gamma": -1.0}, "`gamma` must be 0 or more"),
        ("focal", {"alpha": 1.5}, r"`alpha` must lie in \[0, 1\]"),
        ("rank", {"pixels": 0}, "`pixels` must be at least 1"),
        ("dice", {"class_weights": (0.0, 0.0)}, "not all of them 0"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_loss(name, **options)


def test_weights_that_do_not_fit_the_channels():
    with pytest.raises(ValueError, match="must hold 3 weights"):
        DiceLoss(class_weights=(1, 2))(CLASSES, np.log(SOFTMAX))
    with pytest.raises(ValueError, match="`alpha` must be one number, or 3 of them"):
        FocalLoss((0.1, 0.9))(CLASSES, np.log(SOFTMAX))
    with pytest.raises(ValueError, match="`alpha` must be one number for"):
        FocalLoss((0.9,))(TRUE, LOGITS)


def test_options_are_listed_for_the_command_line():
    assert loss_options("dice_rank") == ("pixels", "margin", "rank_weight")
    assert loss_options("bce_with_logits") == ()
