"""The registry of training approaches."""

from typing import get_args

import pytest

from tfseg.approaches import APPROACHES
from tfseg.layers.masking import MASK_LAYERS, HardMask, mask_layer
from tfseg.models.fusion import POOLINGS
from tfseg.names import Approach


def test_the_command_line_knows_them_all():
    assert set(get_args(Approach)) == set(APPROACHES)


def test_every_way_of_joining_is_an_approach():
    assert {approach.fusion for approach in APPROACHES.values()} - {None} == set(POOLINGS)


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
        ("fusion_flatten", False, False, True, False),
        ("fusion_gap", False, False, True, False),
        ("fusion_gate", False, False, True, False),
        ("fusion_oracle", False, True, False, True),
        ("fusion_zeroed", False, True, False, False),
    ],
)
def test_what_each_needs(name, masked, given, segmenter, truth):
    approach = APPROACHES[name]
    assert (approach.masked, approach.mask_given) == (masked, given)
    assert (approach.needs_segmenter, approach.needs_true_masks) == (segmenter, truth)
    controls = ("inverse_mask", "lesion_removed", "random_mask", "oracle", "fusion_oracle", "fusion_zeroed")
    assert approach.control == (name in controls)
    assert approach.map_input == ("classes" if name.startswith("fusion") else "lesion" if masked else None)


def test_a_layer_is_named_after_its_approach():
    layer = mask_layer("oracle")
    assert isinstance(layer, HardMask) and layer.name == "oracle" and layer.compute_dtype == "float32"
