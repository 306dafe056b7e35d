"""`tfseg calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfseg.commands.arguments import Data, Model
from tfseg.config_checks import check_decisions
from tfseg.quiet import import_tensorflow


@dataclass(frozen=True)
class Calibrate:
    """Choose on a dataset of your own what a trained classifier decides by; its weights stay.

    Of the cases, which must not be those of its training, come the temperature of its probabilities, from which
    probability on a case is positive, when it is not sure, and from where on an image is unfamiliar.

    For example:
        tfseg calibrate model.keras my_clinic --out ours.keras --sensitivity 0.95 --positive melanoma
        tfseg calibrate model.keras my_clinic --part val --out ours.keras --abstain-share 0.1
    """

    model: Model
    """A .keras file of a classifier."""
    data: Data
    """A folder in the plain layout, or NAME:PATH."""
    out: str
    """The .keras file to write."""
    target: str = "label"
    """The column that holds the model's classes."""
    part: Literal["all", "train", "val", "test"] = "all"
    """Only cases of this part, by the data's `split` column."""
    calibration: bool = True
    """Fit the temperature; else it is 1."""
    sensitivity: float | None = None
    """Share of positive cases to be found; default: no case is called positive."""
    positive: tuple[str, ...] = ()
    """The classes that count as positive, with `sensitivity`."""
    abstain_share: float = 0.0
    """Share of the cases that may be "not sure"; 0: the model is never not sure."""
    familiar_share: float = 0.95
    """Share of the cases that count as like those of the training; 0: as the model has it."""
    allow: tuple[str, ...] = ()
    """Kinds of data errors to go on with."""

    def run(self) -> int:
        check_decisions(self.sensitivity, self.positive, self.abstain_share, self.familiar_share)
        import_tensorflow()
        from tfseg.jobs.calibrate import calibrate_model

        calibrate_model(
            self.model,
            self.data,
            self.out,
            target=self.target,
            part=self.part,
            calibration=self.calibration,
            sensitivity=self.sensitivity,
            positive=self.positive,
            abstain_share=self.abstain_share,
            familiar_share=self.familiar_share,
            allow=self.allow,
        )
        return 0
