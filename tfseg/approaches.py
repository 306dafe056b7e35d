"""The training approaches: what a classifier sees of its image and of its mask. No TensorFlow here."""

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
        fusion: how a second branch, which sees the class map, is joined, out of `tfseg.models.fusion.POOLINGS`; None
            has no second branch.
        maps: what the mask's layer or the second branch takes: the segmenter's maps, the segmenter's moved to a random
            place, the truth, or nothing but zeros.
        symmetry: the map of a symmetry network that is handed on: the image's own, another image's, or nothing but
            zeros; None hands none on.
        learns_from_masks: whether its loss compares something with the true masks.
        control: whether it is here to be compared with, not to be used.
    """

    text: str
    mask: Literal["hard", "soft", "lesion_area", "inverse", "lesion_removed"] | None = None
    fusion: Literal["flatten", "gap", "gate"] | None = None
    maps: Literal["predicted", "random", "true", "zero"] = "predicted"
    symmetry: Literal["own", "shuffled", "zero"] | None = None
    learns_from_masks: bool = False
    control: bool = False

    @property
    def masked(self) -> bool:
        """Whether a part of the image is hidden."""
        return self.mask is not None

    @property
    def map_input(self) -> Literal["lesion", "classes"] | None:
        """The map beside the image in a batch: the lesion's probability, the class map, or none."""
        return "classes" if self.fusion else "lesion" if self.masked else None

    @property
    def mask_given(self) -> bool:
        """Whether each image comes with its mask: the trained model then has no segmenter and can't be served."""
        return self.map_input is not None and self.maps != "predicted"

    @property
    def symmetry_given(self) -> bool:
        """Whether each image comes with its symmetry map: the trained model has no symmetry network then either."""
        return self.symmetry in ("shuffled", "zero")

    @property
    def served(self) -> bool:
        """Whether an image is all that the trained model takes."""
        return not (self.mask_given or self.symmetry_given)

    @property
    def needs_segmenter(self) -> bool:
        """Whether a segmenter's maps are looked at."""
        return self.map_input is not None and self.maps in ("predicted", "random")

    @property
    def needs_true_masks(self) -> bool:
        """Whether the training cases' own masks are looked at."""
        return self.learns_from_masks or (self.map_input is not None and self.maps == "true")


APPROACHES = {
    "plain": Approach("cross entropy on the whole image"),
    "hard_mask": Approach("the image times the predicted mask, thresholded", "hard"),
    "soft_mask": Approach("the image times the predicted probability map", "soft"),
    "lesion_area": Approach("only the grown bounding box of the predicted lesion is visible", "lesion_area"),
    "centiou": Approach(
        "whole image; cross entropy minus the overlap of the saliency map with the mask", learns_from_masks=True
    ),
    "fusion_flatten": Approach(
        "image and class map, a network for each; their maps joined pixel by pixel", fusion="flatten"
    ),
    "fusion_gap": Approach("image and class map, a network for each; their means joined", fusion="gap"),
    "fusion_gate": Approach("as fusion_gap, with a gate that shares out between the two", fusion="gate"),
    "se_lcn": Approach("image, and the map of a symmetry network joined with the feature maps", symmetry="own"),
    "se_lcn_hard_mask": Approach("as se_lcn, on what hard_mask sees", "hard", symmetry="own"),
    "se_lcn_soft_mask": Approach("as se_lcn, on what soft_mask sees", "soft", symmetry="own"),
    "se_lcn_lesion_area": Approach("as se_lcn, on what lesion_area sees", "lesion_area", symmetry="own"),
    # Controls: a gain of masking that random_mask gives too is none of the segmentation.
    "inverse_mask": Approach("what is outside of the predicted mask", "inverse", control=True),
    "lesion_removed": Approach(
        "the predicted lesion's bounding box is filled with the image's mean colour", "lesion_removed", control=True
    ),
    "random_mask": Approach("as hard_mask, with the mask moved to a random place", "hard", maps="random", control=True),
    "oracle": Approach("as hard_mask, with the true mask", "hard", maps="true", control=True),
    "fusion_oracle": Approach("as fusion_gap, with the true masks", fusion="gap", maps="true", control=True),
    "fusion_zeroed": Approach("as fusion_gap, with nothing in the class map", fusion="gap", maps="zero", control=True),
    "se_lcn_shuffled": Approach("as se_lcn, with another image's map", symmetry="shuffled", control=True),
    "se_lcn_zeroed": Approach("as se_lcn, with an empty map", symmetry="zero", control=True),
}
