"""The cells of a study: one segmenter on one split, trained and tested, with everything that it made on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.data.splits import Split
from tfseg.evaluation.postprocess import binarise
from tfseg.evaluation.thresholds import study_thresholds
from tfseg.jobs.cells import identity, row_model, save_model, write_arrays
from tfseg.jobs.facts import model_facts, training_facts
from tfseg.jobs.gather import write_csv
from tfseg.jobs.grid import Cell, seeded
from tfseg.jobs.masks import lesion_maps, predict_masks
from tfseg.jobs.preparation import configured_arrays
from tfseg.jobs.study.rows import StudyDesign, StudyRow
from tfseg.jobs.study.scores import baseline_mask, baseline_scores, model_size_scores, polarity
from tfseg.run import Run
from tfseg.training.segmenter import train_segmenter
from tfseg.training.sitting import Sitting


@dataclass
class Study:
    """What the cells of one study share.

    Args:
        run: the run folder.
        config: resolved.
        rows: of the table, in its order.
        design: of the study.
        cases, splits: the data.
    """

    run: Run
    config: ComparisonConfig
    rows: Sequence[StudyRow]
    design: StudyDesign
    cases: Cases
    splits: list[Split]
    _arrays: dict[tuple, CaseArrays] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """The grid: every row on a split before the next split."""
        return [
            Cell(row.name, number, needs=(Cell(row.model_of, number),) if row.model_of else ())
            for number in range(len(self.splits))
            for row in self.rows
        ]

    def row(self, name: str) -> StudyRow:
        """A row by its name."""
        return next(row for row in self.rows if row.name == name)

    def config_of(self, cell: Cell) -> ComparisonConfig:
        """The row's configuration with the cell's own seed."""
        return seeded(self.row(cell.row).config(self.config), cell)

    def arrays_of(self, config: ComparisonConfig) -> CaseArrays:
        """The cases at the size that a row asks for, decoded once."""
        key = (config.image_size, config.resize, config.hair_removal)
        if key not in self._arrays:
            self._arrays[key] = configured_arrays(config, self.cases)
        return self._arrays[key]

    def tested(self, number: int) -> np.ndarray:
        """The test cases of a split that have a mask."""
        test = self.splits[number].test
        return test[self.cases.has_mask[test]]

    def validated(self, number: int) -> np.ndarray:
        """The validation cases of a split that have a mask."""
        validation = self.splits[number].val
        return validation[self.cases.has_mask[validation]]

    def model_path(self, cell: Cell) -> Path:
        """Where the model of a cell lies: in the place of the row that trains it where there is one split."""
        row = self.row(cell.row).model_of or cell.row
        if len(self.splits) == 1:
            return row_model(self.run, row)
        return self.run.path("models", row, f"fold{cell.fold}.keras")

    def compute(self, cell: Cell, sitting: Sitting) -> dict:
        """Train a cell or take the model that it needs, and test it; gives the result to be stored."""
        row, config = self.row(cell.row), self.config_of(cell)
        if row.baseline:
            return self._baseline(cell, row.baseline, config)
        # The architecture stands in front of the title.
        parts = [row.name] if row.name != config.segmenter else []
        if len(self.splits) > 1:
            parts.append(f"{'fold' if self.design.split_by == 'folds' else 'run'} {cell.fold}")
        return self._segmenter(cell, config, replace(sitting, title=" · ".join(parts)))

    def _baseline(self, cell: Cell, kind: str, config: ComparisonConfig) -> dict:
        test, arrays = self.tested(cell.fold), self.arrays_of(config)
        table = baseline_scores(self.cases.subset(test), kind, config.seed, self.design.surfaces)
        per_case = _values(table)
        if self.design.model_size:
            shape = (len(test), *arrays.masks.shape[1:])
            guess = baseline_mask(kind, shape, np.random.default_rng(config.seed))
            per_case |= model_size_scores(arrays, test, guess)
        return {**identity(cell, ""), "ids": table["id"].tolist(), "per_case": per_case, "validation": {}, "extra": {}}

    def _segmenter(self, cell: Cell, config: ComparisonConfig, sitting: Sitting) -> dict:
        arrays, split = self.arrays_of(config), self.splits[cell.fold]
        graph, history, note = self._model(cell, config, arrays, split, sitting)
        flips, postprocessing = config.segmenter_flips, config.segmenter_postprocessing
        test, validation = self.tested(cell.fold), self.validated(cell.fold)
        maps = {
            name: lesion_maps(predict_masks(graph, arrays, positions, flips), arrays.mask_classes)
            for name, positions in (("test", test), ("validation", validation))
        }
        masks = {
            name: np.stack([binarise(values, postprocessing=postprocessing) for values in part])
            for name, part in maps.items()
        }
        write_arrays(self.run, cell, **{name: np.round(255 * values).astype(np.uint8) for name, values in maps.items()})
        thresholds = study_thresholds(
            (self.cases.subset(validation), maps["validation"]),
            (self.cases.subset(test), maps["test"]),
            resize=config.resize,
            over_labels=self.design.over_labels,
            surfaces=self.design.surfaces,
            postprocessing=postprocessing,
        )
        per_case = _values(thresholds.tables["fixed"])
        for choice in ("chosen", "otsu"):
            per_case |= {f"{name}_{choice}": thresholds.tables[choice][name].tolist() for name in ("dice", "iou")}
        if self.design.model_size:
            per_case |= model_size_scores(arrays, test, masks["test"])
        sides = polarity(arrays, test, maps["test"])
        if sides["probability_inside"] < sides["probability_outside"]:
            inverted = "the mask is inverted: its probability is larger outside of the lesions than inside"
            note = "; ".join(filter(None, [note, inverted]))
        validated = model_size_scores(arrays, validation, masks["validation"])["iou_model_size"]
        facts = training_facts(history, "val_iou", "max") | model_facts(graph, arrays, flips)
        curves = {"validation": thresholds.validation, "test": thresholds.test}
        return {
            **identity(cell, note),
            "ids": thresholds.tables["fixed"]["id"].tolist(),
            "per_case": per_case,
            "validation": {"iou": float(np.nanmean(validated))},
            "extra": {**facts, "threshold_chosen": thresholds.chosen, **sides},
            "curves": {name: curve[["threshold", "dice", "iou"]].to_dict("list") for name, curve in curves.items()},
        }

    def _model(
        self, cell: Cell, config: ComparisonConfig, arrays: CaseArrays, split: Split, sitting: Sitting
    ) -> tuple[keras.Model, pd.DataFrame, str]:
        """The model of the cell that is needed, with an empty record, or a trained one, stored."""
        if cell.needs:
            graph = keras.saving.load_model(self.model_path(cell), compile=False)
            return graph, pd.DataFrame({"epoch": [], "seconds": []}), ""
        graph, history, note = train_segmenter(config, arrays, split, sitting)
        save_model(graph, self.model_path(cell))
        write_csv(self.run.path("history", f"{cell.key}.csv"), history)
        return graph, history, note


def _values(table: pd.DataFrame) -> dict[str, list[float]]:
    """The scores per case, by name."""
    return {name: table[name].astype(float).tolist() for name in table.columns if name not in ("id", "label")}
