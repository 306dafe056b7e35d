"""Named settings of the main job."""

from __future__ import annotations

from dataclasses import replace

from tfseg.config import ComparisonConfig

DEMO = ComparisonConfig(
    data="",
    image_size=64,
    segmenter_width=8,
    segmenter_depth=3,
    segmenter_epochs=10,
    segmenter_batch_size=16,
    epochs=24,
    batch_size=32,
    learning_rate=1e-3,
    dropout=0.2,
    epoch_images=0,
)

QUICKSTART_PRESETS = {
    # Flips and quarter turns leave every pixel as it was photographed; on validation they were better than free
    # rotation and scale for the fine texture that pretrained features read.
    "quick": ComparisonConfig(data="", augmentation="se_lcn", balance="majority"),
    # What a linear classifier makes of frozen features: the floor that a trained one has to beat.
    "probe": ComparisonConfig(
        data="",
        training="probe",
        approaches=("plain",),
        segmenter="none",
        image_size=224,
        cross_validation=5,
        augmentation="none",
        flips=True,
    ),
    "paper": ComparisonConfig(
        data="",
        image_size=224,
        segmenter_width=64,
        segmenter_epochs=200,
        segmenter_batch_size=16,
        segmenter_patience=20,
        segmenter_learning_rate=1e-4,
        freeze_first=0,
        epoch_images=0,
        augmentation="oral",
        epochs=700,
        batch_size=32,
        patience=20,
        learning_rate=2.5e-5,
        learning_rate_schedule="constant",
        class_weights=False,
        dropout=0.0,
        cross_entropy_share=0.6,
    ),
}

# What the presets of segmenters share; each says what is its own, or otherwise.
_SEGMENTATION_QUICK = ComparisonConfig(
    data="",
    image_size=160,
    segmenter="unet",
    segmenter_batch_size=8,
    segmenter_learning_rate=1e-3,
    learning_rate_schedule="cosine",
    augmentation="free",
    epoch_images=0,
)
_SEGMENTATION_PAPER = ComparisonConfig(
    data="",
    image_size=224,
    segmenter="unet",
    segmenter_batch_size=32,
    segmenter_patience=20,
    segmenter_learning_rate=1e-4,
    learning_rate_schedule="constant",
    augmentation="none",
    epoch_images=0,
)

EBHI_PRESETS = {
    # The report's network at a quarter of its width, with batch norm, and a learning rate that falls to zero. The
    # balanced rows take as many steps as the others.
    "quick": replace(
        _SEGMENTATION_QUICK,
        image_size=64,
        segmenter_encoder="none",
        segmenter_options=("greyscale=true",),
        segmenter_loss="bce",
        segmenter_width=16,
        segmenter_epochs=10,
        segmenter_batch_size=16,
        segmenter_patience=10,
        augmentation="none",
        epoch_images=1400,
        segmenter_slope=1e-3,
    ),
    "paper": replace(
        _SEGMENTATION_PAPER,
        image_size=64,
        segmenter_encoder="none",
        segmenter_options=("greyscale=true", "norm=none", "upsampling=transposed"),
        segmenter_loss="bce",
        segmenter_width=64,
        segmenter_epochs=200,
        segmenter_patience=200,
        segmenter_slope=1e-3,
    ),
}

MELANOMA_PRESETS = {
    "quick": replace(
        _SEGMENTATION_QUICK,
        cross_validation=5,
        segmenter="fpn",
        segmenter_loss="dice",
        segmenter_epochs=12,
        segmenter_patience=12,
    ),
    # What the paper leaves open is taken from a public re-implementation: encoder, size, batch and learning rates.
    "paper": replace(
        _SEGMENTATION_PAPER,
        image_size=320,
        cross_validation=5,
        segmenter="fpn",
        segmenter_encoder="resnet50",
        weights="imagenet",
        segmenter_loss="dice",
        segmenter_epochs=10,
        segmenter_batch_size=3,
        segmenter_patience=10,
        learning_rate_schedule="step",
    ),
}

_ORAL_QUICK = replace(
    _SEGMENTATION_QUICK,
    cross_validation=5,
    segmenter_loss="bce_with_logits",
    segmenter_epochs=24,
    segmenter_batch_size=4,
    segmenter_patience=24,
    epochs=12,
    patience=12,
)
# The paper leaves encoder and learning rate of its segmenters open.
_ORAL_PAPER = replace(
    _SEGMENTATION_PAPER,
    segmenter_encoder="resnet50",
    weights="imagenet",
    segmenter_loss="bce",
    segmenter_epochs=700,
    augmentation="oral",
    repeats=20,
    freeze_first=0,
    epochs=700,
    batch_size=32,
    patience=20,
    class_weights=False,
    dropout=0.0,
)
# Classifiers gain from the size that their weights are of; the segmenter then takes fewer epochs.
_ORAL_CLASSIFIERS = replace(_ORAL_QUICK, image_size=224, segmenter_epochs=16, segmenter_patience=16)
_CONSTANT = {"segmenter": "none", "learning_rate_schedule": "constant"}
ORAL_PRESETS = {
    "segmentation": {"quick": _ORAL_QUICK, "paper": replace(_ORAL_PAPER, repeats=1)},
    "search": {"quick": replace(_ORAL_CLASSIFIERS, cross_validation=1), "paper": replace(_ORAL_PAPER, repeats=1)},
    "comparison": {"quick": _ORAL_CLASSIFIERS, "paper": _ORAL_PAPER},
    "convergence": {
        "quick": replace(_ORAL_CLASSIFIERS, **_CONSTANT, cross_validation=1, repeats=3, epochs=40, patience=6),
        "paper": replace(_ORAL_PAPER, **_CONSTANT),
    },
}

_LABELLING = {
    "quick": replace(
        _SEGMENTATION_QUICK,
        image_size=128,
        val_fraction=0.2,
        segmenter_masks=20,
        segmenter_loss="dice_focal",
        segmenter_epochs=40,
        segmenter_patience=40,
        segmenter_flips="both",
        segmenter_postprocessing=("largest_component", "fill_holes"),
    ),
    # The paper names its U-Net's loss, batch and optimiser, and neither its size nor its augmentation.
    "paper": replace(
        _SEGMENTATION_PAPER,
        val_fraction=0.2,
        segmenter_masks=20,
        segmenter_encoder="none",
        segmenter_loss="dice_focal",
        segmenter_width=64,
        segmenter_epochs=500,
        augmentation="cervical",
    ),
}
# The segmenter of a fusion works at a quarter of the side: its share of the time is what a second branch costs. Size,
# learning rate and class weights in place of repeated cases were chosen by the validation part of one fold.
_FUSION = {
    "quick": ComparisonConfig(
        data="",
        image_size=224,
        cross_validation=3,
        val_fraction=0.2,
        segmenter_masks=20,
        segmenter_loss="dice_focal",
        segmenter_encoder="none",
        segmenter_width=16,
        segmenter_depth=3,
        segmenter_scale=4,
        segmenter_epochs=40,
        segmenter_patience=40,
        mask_backbone="small_cnn",
        mask_size=56,
        augmentation="se_lcn",
        learning_rate=1e-3,
    ),
    # A fold of the paper's is 30 test cases of each class, and a fifth of the others for validation.
    "paper": replace(
        _LABELLING["paper"],
        test_per_class=30,
        repeats=5,
        backbone="xception",
        mask_backbone="resnet50",
        weights="imagenet",
        freeze_first=40,
        epochs=500,
        batch_size=32,
        patience=20,
        learning_rate=1e-4,
        class_weights=False,
        dropout=0.0,
        balance="majority",
    ),
}
CERVICAL_PRESETS = {"labelling": _LABELLING, "fusion": _FUSION}

# One split by lesion with a fixed test part; Adam, one linear layer behind global pooling, as in the thesis's code.
_SE_LCN = {
    "quick": ComparisonConfig(
        data="",
        image_size=128,
        cross_validation=4,
        test_fraction=0.2,
        hair_removal=True,
        segmenter="unet",
        segmenter_loss="dice_rank",
        segmenter_epochs=20,
        symmetry_target="symmetry:symmetric_1_axis=symmetric",
        symmetry_backbone="squeezenet_1_1",
        symmetry_epochs=20,
        symmetry_learning_rate=2e-4,
        saliency="grad_cam_plus_plus",
        head_units=0,
        balance="towards",
        augmentation="se_lcn",
        epochs=20,
        epoch_images=640,
        batch_size=32,
        patience=10,
        class_weights=False,
        joint_symmetry=0.5,
        joint_segmentation=0.5,
    ),
    "paper": ComparisonConfig(
        data="",
        image_size=256,
        cross_validation=4,
        test_fraction=0.2,
        hair_removal=True,
        segmenter="deeplab_v3_plus",
        segmenter_encoder="resnet50",
        segmenter_loss="dice_rank",
        segmenter_epochs=100,
        segmenter_patience=10,
        segmenter_learning_rate=1e-4,
        weights="imagenet",
        backbone="efficientnet_b4",
        freeze_first=0,
        symmetry_target="symmetry:symmetric_1_axis=symmetric",
        symmetry_backbone="squeezenet_1_0",
        symmetry_epochs=100,
        symmetry_learning_rate=3.34e-5,
        saliency="grad_cam_plus_plus",
        head_units=0,
        dropout=0.0,
        balance="towards",
        augmentation="se_lcn",
        epochs=100,
        epoch_images=0,
        batch_size=32,
        learning_rate=1.2e-4,
        learning_rate_schedule="constant",
        weight_decay=1.08e-4,
        patience=10,
        class_weights=False,
        joint_symmetry=0.5,
        joint_segmentation=0.5,
    ),
}
_SE_LCN_SEGMENTATION = {
    "quick": replace(
        _SE_LCN["quick"], cross_validation=5, test_fraction=0.0, balance="none", epoch_images=0, augmentation="free"
    ),
    "paper": replace(_SE_LCN["paper"], cross_validation=5, test_fraction=0.0, balance="none"),
}
# Three folds for the symmetry networks, as in the thesis.
_SE_LCN_SYMMETRY = {name: replace(preset, cross_validation=3) for name, preset in _SE_LCN.items()}
SE_LCN_PRESETS = {
    "grid": _SE_LCN,
    "segmentation": _SE_LCN_SEGMENTATION,
    "symmetry": _SE_LCN_SYMMETRY,
    "search": _SE_LCN,
    "elsewhere": _SE_LCN,
}
