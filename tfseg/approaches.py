"""The training approaches: what a classifier sees of its image, and where its mask comes from. No TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Approach:
    """One way to train a classifier.

    Args:
        text: what it is.
        mask: name of the layer that hides a part of the image, out of `tfseg.layers.masking.MASK_LAYERS`; None shows
            the whole image.
        lesion: the map that the layer takes: the segmenter's, the segmenter's moved to a random place, or the truth.
        learns_from_masks: whether its loss compares something with the true masks.
        control: whether it is here to be compared with, not to be used.
    """

    text: str
    mask: Literal["hard", "soft", "lesion_area", "inverse", "lesion_removed"] | None = None
    lesion: Literal["predicted", "random", "true"] = "predicted"
    learns_from_masks: bool = False
    control: bool = False

    @property
    def masked(self) -> bool:
        """Whether a part of the image is hidden."""
        return self.mask is not None

    @property
    def mask_given(self) -> bool:
        """Whether each image comes with its map: the trained model then has no segmenter and can't be served."""
        return self.masked and self.lesion != "predicted"

    @property
    def needs_segmenter(self) -> bool:
        """Whether a segmenter's maps are looked at."""
        return self.masked and self.lesion != "true"

    @property
    def needs_true_masks(self) -> bool:
        """Whether the training cases' own masks are looked at."""
        return self.learns_from_masks or (self.masked and self.lesion == "true")


APPROACHES = {
    "plain": Approach("cross entropy on the whole image"),
    "hard_mask": Approach("the image times the predicted mask, thresholded", "hard"),
    "soft_mask": Approach("the image times the predicted probability map", "soft"),
    "lesion_area": Approach("only the grown bounding box of the predicted lesion is visible", "lesion_area"),
    "centiou": Approach(
        "whole image; cross entropy minus the overlap of the saliency map with the mask", learns_from_masks=True
    ),
    # Controls: a gain of masking that the last but one gives too is none of the segmentation.
    "inverse_mask": Approach("what is outside of the predicted mask", "inverse", control=True),
    "lesion_removed": Approach(
        "the predicted lesion's bounding box is filled with the image's mean colour", "lesion_removed", control=True
    ),
    "random_mask": Approach("as hard_mask, with the mask moved to a random place", "hard", "random", control=True),
    "oracle": Approach("as hard_mask, with the true mask", "hard", "true", control=True),
}
