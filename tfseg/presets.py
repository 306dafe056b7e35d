"""Named settings of the main job."""

from __future__ import annotations

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

EBHI_PRESETS = {
    # The report's network at a quarter of its width, with batch norm, and a learning rate that falls to zero.
    "quick": ComparisonConfig(
        data="",
        image_size=64,
        segmenter="unet",
        segmenter_options=("greyscale=true",),
        segmenter_loss="bce",
        segmenter_width=16,
        segmenter_epochs=16,
        segmenter_batch_size=16,
        segmenter_patience=16,
        segmenter_learning_rate=1e-3,
        learning_rate_schedule="cosine",
        augmentation="none",
        epoch_images=0,
        segmenter_slope=1e-3,
    ),
    "paper": ComparisonConfig(
        data="",
        image_size=64,
        segmenter="unet",
        segmenter_options=("greyscale=true", "norm=none", "upsampling=transposed"),
        segmenter_loss="bce",
        segmenter_width=64,
        segmenter_epochs=200,
        segmenter_batch_size=32,
        segmenter_patience=200,
        segmenter_learning_rate=1e-4,
        learning_rate_schedule="constant",
        augmentation="none",
        epoch_images=0,
        segmenter_slope=1e-3,
    ),
}

MELANOMA_PRESETS = {
    "quick": ComparisonConfig(
        data="",
        image_size=160,
        cross_validation=5,
        segmenter="fpn",
        segmenter_loss="dice",
        segmenter_epochs=20,
        segmenter_batch_size=8,
        segmenter_patience=20,
        segmenter_learning_rate=1e-3,
        learning_rate_schedule="cosine",
        augmentation="free",
        epoch_images=0,
    ),
    # What the paper leaves open is taken from a public re-implementation: encoder, size, batch and learning rates.
    "paper": ComparisonConfig(
        data="",
        image_size=320,
        cross_validation=5,
        segmenter="fpn",
        segmenter_encoder="resnet50",
        weights="imagenet",
        segmenter_loss="dice",
        segmenter_epochs=10,
        segmenter_batch_size=3,
        segmenter_patience=10,
        segmenter_learning_rate=1e-4,
        learning_rate_schedule="step",
        augmentation="none",
        epoch_images=0,
    ),
}
