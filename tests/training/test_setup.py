"""What a configuration makes of trainings: learning rates step by step, augmentation, batches from any number."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfseg.config import ComparisonConfig
from tfseg.data.augment import RECIPES, Augmentation
from tfseg.training.setup import augmentation_of, optimizer_of, training_batches

# Ten epochs of five batches each; warm-up is over after ten batches.
EPOCHS, STEPS, RATE = 10, 5, 0.1


def optimizer(schedule, warmup_epochs=0, **settings):
    config = ComparisonConfig(data="d", learning_rate_schedule=schedule, warmup_epochs=warmup_epochs, **settings)
    return optimizer_of(config, RATE, EPOCHS, STEPS)


def rates(adam, steps):
    """The learning rate of each of these steps."""
    found = []
    for step in steps:
        adam.iterations.assign(step)
        found.append(float(adam.learning_rate))
    return found


@pytest.mark.parametrize(
    ("schedule", "warmup_epochs", "expected"),
    [
        ("constant", 0, {0: 0.1, 50: 0.1}),
        ("plateau", 0, {0: 0.1, 50: 0.1}),
        # Half a cosine over all 50 steps: cos² of a quarter, a half and the whole of a right angle.
        ("cosine", 0, {0: 0.1, 25: 0.05, 50: 0.0, 60: 0.0}),
        ("step", 0, {0: 0.1, 25: 0.1, 26: 0.01, 50: 0.01}),
        ("constant", 2, {0: 0.0, 1: 0.01, 5: 0.05, 10: 0.1, 50: 0.1}),
        ("plateau", 2, {0: 0.0, 5: 0.05, 10: 0.1, 50: 0.1}),
        # The half cosine has the 40 steps that the warm-up leaves.
        ("cosine", 2, {0: 0.0, 5: 0.05, 10: 0.1, 30: 0.05, 50: 0.0, 60: 0.0}),
        ("step", 2, {0: 0.0, 5: 0.05, 10: 0.1, 25: 0.1, 26: 0.01, 50: 0.01}),
        # A warm-up of the whole training and one that outlasts the higher rate.
        ("cosine", 10, {0: 0.0, 25: 0.05, 49: 0.098}),
        ("step", 10, {20: 0.04, 25: 0.05, 30: 0.006, 50: 0.01}),
    ],
)
def test_the_learning_rate_of_every_step(schedule, warmup_epochs, expected):
    found = rates(optimizer(schedule, warmup_epochs), expected)
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_a_warm_up_can_be_stored(schedule):
    rate = optimizer(schedule, 2)._learning_rate
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    for step in (0, 5, 10, 25, 26, 50):
        assert float(again(step)) == float(rate(step))


def test_the_other_settings_of_adam():
    plain, own = optimizer("constant"), optimizer("constant", momentum=0.8, weight_decay=1e-3)
    assert (plain.beta_1, plain.weight_decay) == (0.9, None)
    assert (own.beta_1, own.weight_decay) == (0.8, 1e-3)


def test_own_amounts_replace_the_recipes():
    def made(**settings):
        return augmentation_of(ComparisonConfig(data="d", **settings))

    assert made(augmentation="cervical") == RECIPES["cervical"]
    # Nothing at all is an amount too.
    assert made(augmentation="free", flips=False, rotation=0.0, zoom=0.0, shift=0.0) == Augmentation()
    own = {"rotation": 5.0, "zoom": 0.1, "shift": 0.2, "shear": 3.0, "brightness": 0.1, "contrast": 0.2}
    own |= {"flips": True, "saturation": 0.3}
    assert made(augmentation="none", background_swap=0.5, **own) == Augmentation(**own)


def test_batches_go_on_from_any_number(tiny_arrays):
    arrays = tiny_arrays(6)

    def adapt(batch):
        return batch["id"], batch["image"]

    batches, names = training_batches(arrays, np.arange(5), 2, adapt, seed=3, augmentation=RECIPES["free"])
    whole = list(batches(0).take(9))
    assert len({tuple(ids.numpy()) for ids, _ in whole}) > 3, "shuffled"
    for first in (1, 4, 7):
        for (ids, image), (expected, expected_image) in zip(batches(first).take(2), whole[first:], strict=False):
            np.testing.assert_array_equal(ids, expected)
            np.testing.assert_array_equal(image, expected_image)
        assert names(first) == [name.decode() for name in whole[first][0].numpy()]
