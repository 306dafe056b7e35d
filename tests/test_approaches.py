"""The registry of training approaches."""

from typing import get_args

import pytest

from tfseg.approaches import APPROACHES
from tfseg.config import Approach
from tfseg.layers.masking import MASK_LAYERS, HardMask, mask_layer


def test_the_command_line_knows_them_all():
    assert set(get_args(Approach)) == set(APPROACHES)


def test_every_mask_is_a_layer_and_every_layer_is_used():
    assert {approach.mask for approach in APPROACHES.values()} - {None} == set(MASK_LAYERS)


@pytest.mark.parametrize(
    ("name", "masked", "given", "segmenter", "truth"),
    [
        ("plain", False, False, False, False),
        ("hard_mask", True, False, True, False),
        ("soft_mask", True, False, True, False),
        ("lesion_area", True, False, True, False),
        ("centiou", False, False, False, True),
        ("inverse_mask", True, False, True, False),
        ("lesion_removed", True, False, True, False),
        ("random_mask", True, True, True, False),
        ("oracle", True, True, False, True),
    ],
)
def test_what_each_needs(name, masked, given, segmenter, truth):
    approach = APPROACHES[name]
    assert (approach.masked, approach.mask_given) == (masked, given)
    assert (approach.needs_segmenter, approach.needs_true_masks) == (segmenter, truth)
    assert approach.control == (name in ("inverse_mask", "lesion_removed", "random_mask", "oracle"))


def test_a_layer_is_named_after_its_approach():
    layer = mask_layer("oracle")
    assert isinstance(layer, HardMask) and layer.name == "oracle" and layer.compute_dtype == "float32"
