"""The registry of training approaches."""

from typing import get_args

import pytest

from tfseg.approaches import APPROACHES
from tfseg.layers.masking import MASK_LAYERS, HardMask, mask_layer
from tfseg.models.fusion import POOLINGS
from tfseg.names import Approach, SymmetryApproach


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
        ("se_lcn", False, False, False, False),
        ("se_lcn_hard_mask", True, False, True, False),
        ("se_lcn_soft_mask", True, False, True, False),
        ("se_lcn_lesion_area", True, False, True, False),
        ("se_lcn_shuffled", False, False, False, False),
        ("se_lcn_zeroed", False, False, False, False),
    ],
)
def test_what_each_needs(name, masked, given, segmenter, truth):
    approach = APPROACHES[name]
    assert (approach.masked, approach.mask_given) == (masked, given)
    assert (approach.needs_segmenter, approach.needs_true_masks) == (segmenter, truth)
    controls = ("inverse_mask", "lesion_removed", "random_mask", "oracle", "fusion_oracle", "fusion_zeroed")
    controls += ("se_lcn_shuffled", "se_lcn_zeroed")
    assert approach.control == (name in controls)
    assert approach.map_input == ("classes" if name.startswith("fusion") else "lesion" if masked else None)


def test_what_hands_on_a_symmetry_map():
    """Those whose map is not their own image's are given it, and can't be served."""
    own = {name for name, approach in APPROACHES.items() if approach.symmetry == "own"}
    assert own == {"se_lcn", "se_lcn_hard_mask", "se_lcn_soft_mask", "se_lcn_lesion_area"}
    given = {name for name, approach in APPROACHES.items() if approach.symmetry_given}
    assert given == {"se_lcn_shuffled", "se_lcn_zeroed"}
    unserved = {name for name, approach in APPROACHES.items() if not approach.served}
    assert unserved == given | {"random_mask", "oracle", "fusion_oracle", "fusion_zeroed"}


def test_a_symmetry_network_sees_what_a_classifier_may():
    seen = [APPROACHES[name] for name in get_args(SymmetryApproach)]
    assert [approach.mask for approach in seen] == [None, "hard", "soft", "lesion_area"]
    assert not any(approach.control or approach.symmetry or approach.fusion for approach in seen)


def test_a_layer_is_named_after_its_approach():
    layer = mask_layer("oracle")
    assert isinstance(layer, HardMask) and layer.name == "oracle" and layer.compute_dtype == "float32"
