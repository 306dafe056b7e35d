"""What can be named in a configuration. No TensorFlow here."""

from __future__ import annotations

from typing import Literal

BackboneName = Literal[
    "small_cnn",
    "mobilenet_v2",
    "squeezenet_1_0",
    "squeezenet_1_1",
    "shufflenet_v2",
    "shufflenet_v2_x0_5",
    "resnet34",
    "resnet50",
    "xception",
    "convnext_tiny",
    "convnext_small",
    "efficientnet_b0",
    "efficientnet_b4",
    "densenet121",
    "vit_b16",
    "vit_tiny16",
    "swin_t",
    "swin_s",
    "small_swin",
]
# Nobody publishes ImageNet weights of these that Keras or KerasHub can fetch.
NO_IMAGENET = ("squeezenet_1_0", "squeezenet_1_1", "shufflenet_v2", "shufflenet_v2_x0_5", "vit_tiny16", "small_swin")
Approach = Literal[
    "plain",
    "hard_mask",
    "soft_mask",
    "lesion_area",
    "centiou",
    "fusion_flatten",
    "fusion_gap",
    "fusion_gate",
    "se_lcn",
    "se_lcn_hard_mask",
    "se_lcn_soft_mask",
    "se_lcn_lesion_area",
    "inverse_mask",
    "lesion_removed",
    "random_mask",
    "oracle",
    "fusion_oracle",
    "fusion_zeroed",
    "se_lcn_shuffled",
    "se_lcn_zeroed",
]
# What a symmetry network may see of its image.
SymmetryApproach = Literal["plain", "hard_mask", "soft_mask", "lesion_area"]
Flips = Literal["none", "horizontal", "vertical", "both"]
Postprocessing = Literal["largest_component", "fill_holes"]
