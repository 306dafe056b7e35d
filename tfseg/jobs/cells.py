"""The cells of a comparison: one training on one fold, tested, with everything that it made on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.data.splits import Split
from tfseg.evaluation.decisions import case_decisions
from tfseg.evaluation.explanations import explanation_scores
from tfseg.evaluation.scores import TestScores
from tfseg.evaluation.segmentation import score_cases
from tfseg.jobs.decisions import settle
from tfseg.jobs.facts import model_facts, training_facts
from tfseg.jobs.gather import write_csv
from tfseg.jobs.grid import Cell, seeded
from tfseg.jobs.masks import frozen_maps, lesion_maps, moved_maps, predict_masks, predict_pixels, true_maps
from tfseg.jobs.rows import ClassifierRow, rows_of
from tfseg.layers.branches import CHANNELS
from tfseg.models.classifier import Classifier, decision_graph, inference_graph
from tfseg.models.fusion import Fusion, fusion_graph
from tfseg.run import Run, written_whole
from tfseg.training.classifier import train_classifier
from tfseg.training.segmenter import given_or_trained
from tfseg.training.sitting import Sitting

SEGMENTER_ROW = "segmenter"


@dataclass
class Comparison:
    """What the cells of one comparison share.

    Args:
        run: the run folder.
        config: resolved; what the rows have in common.
        cases, arrays, splits: the data.
        classifiers: the rows beside the segmenter; by default one for each approach of the configuration.
        variants: name → other images of the same cases, uint8 (N, S, S, 3), on which every classifier is tested too.
    """

    run: Run
    config: ComparisonConfig
    cases: Cases
    arrays: CaseArrays
    splits: list[Split]
    classifiers: Sequence[ClassifierRow] = ()
    variants: Mapping[str, np.ndarray] = field(default_factory=dict)
    _maps: dict[tuple[int, int | None], np.ndarray] = field(default_factory=dict)
    _memo: dict = field(default_factory=dict)

    def __post_init__(self):
        self.classifiers = tuple(self.classifiers) or tuple(rows_of(self.config))

    @property
    def segmented(self) -> bool:
        """Whether there is a segmenter."""
        return self.config.segmenter != "none" and (self.cases.has_mask.any() or bool(self.config.segmenter_file))

    @property
    def rows(self) -> list[str]:
        """The rows of the table in their order."""
        return [*([SEGMENTER_ROW] if self.segmented else []), *(row.name for row in self.classifiers)]

    def row(self, name: str) -> ClassifierRow:
        """A classifier's row by its name."""
        return next(row for row in self.classifiers if row.name == name)

    def cells(self) -> list[Cell]:
        """The grid: of each fold the segmenter, then every classifier with its repeats."""
        cells = []
        for fold in range(len(self.splits)):
            needs = (Cell(SEGMENTER_ROW, fold),) if self.segmented else ()
            cells += needs
            for row in self.classifiers:
                cells += [Cell(row.name, fold, repeat, needs) for repeat in range(self.config.repeats)]
        return cells

    def model_path(self, cell: Cell) -> Path:
        """Where the model of a cell lies: in the row's own place where the row has one cell only."""
        repeats = 1 if cell.row == SEGMENTER_ROW else self.config.repeats
        if len(self.splits) * repeats == 1:
            return row_model(self.run, cell.row)
        name = f"fold{cell.fold}" + (f"-repeat{cell.repeat}" if repeats > 1 else "")
        return self.run.path("models", cell.row, f"{name}.keras")

    def config_of(self, cell: Cell) -> ComparisonConfig:
        """The configuration of the cell's row."""
        return self.config if cell.row == SEGMENTER_ROW else self.row(cell.row).config(self.config)

    def compute(self, cell: Cell, sitting: Sitting) -> dict:
        """Train and test a cell; gives the result to be stored."""
        config = seeded(self.config_of(cell), cell)
        parts = [f"fold {cell.fold}"] if len(self.splits) > 1 else []
        parts += [f"repeat {cell.repeat}"] if self.config.repeats > 1 and cell.row != SEGMENTER_ROW else []
        sitting = replace(sitting, title=" · ".join(parts))
        return (self._segmenter if cell.row == SEGMENTER_ROW else self._classifier)(cell, config, sitting)

    def _segmenter(self, cell: Cell, config: ComparisonConfig, sitting: Sitting) -> dict:
        split = self.splits[cell.fold]
        graph, history, note = given_or_trained(config, self.arrays, split, sitting)
        save_model(graph, self.model_path(cell))
        masks = predict_masks(graph, self.arrays, split.test, config.segmenter_flips)
        maps = lesion_maps(masks, self.arrays.mask_classes)
        table = score_cases(
            self.cases.subset(split.test),
            maps,
            resize=config.resize,
            surfaces=True,
            postprocessing=config.segmenter_postprocessing,
        )
        write_arrays(self.run, cell, lesion=np.round(255 * maps).astype(np.uint8))
        values = {name: table[name].astype(float).tolist() for name in table.columns if name not in ("id", "label")}
        write_csv(self.run.path("history", f"{cell.key}.csv"), history)
        return {
            **identity(cell, note),
            "ids": table["id"].tolist(),
            "per_case": values,
            "validation": {"iou": float(history["val_iou"].max())} if "val_iou" in history else {},
            "extra": training_facts(history, "val_iou", "max")
            | model_facts(graph, self.arrays, config.segmenter_flips),
        }

    def _classifier(self, cell: Cell, config: ComparisonConfig, sitting: Sitting) -> dict:
        split, row = self.splits[cell.fold], self.row(cell.row)
        approach, given = row.approach, APPROACHES[row.approach].mask_given
        maps = self.maps_of(cell)
        trained = train_classifier(
            config,
            approach,
            self.arrays,
            split,
            len(self.cases.classes),
            maps,
            replace(sitting, name=row.name),
            self._memo,
            lambda: self.segmenter_of(cell),
        )
        segmenter = trained.segmenter
        if segmenter is None and self.segmented and not given:
            # Loaded after the training, which clears Keras's session.
            segmenter = self.segmenter_of(cell)
        model = self._graph(trained.classifier, approach, segmenter, config)
        test = split.test[self.arrays.labels[split.test] >= 0]
        validation = split.val[self.arrays.labels[split.val] >= 0]

        def maps_at(positions):
            return {APPROACHES[approach].map_input: maps[positions]} if given else None

        settled = settle(
            model,
            config,
            self.arrays.labels,
            split,
            lambda graph, positions: predict_pixels(graph, self.arrays.images[positions], maps_at(positions)),
            trained.validation,
        )
        save_model(model, self.model_path(cell))

        # Where only the decision is asked for, neither mask nor map is made.
        deciding = decision_graph(model)

        def decided(images, positions):
            return predict_pixels(deciding, images, maps_at(positions))["probabilities"]

        outputs = predict_pixels(model, self.arrays.images[test], maps_at(test))
        groups, labels = self.cases.groups[validation], self.arrays.labels[validation]
        write_arrays(
            self.run,
            cell,
            probabilities=outputs["probabilities"],
            **{
                name: np.round(255 * outputs[name][..., 0]).astype(np.uint8)
                for name in ("saliency", "saliency_mask")
                if name in outputs
            },
            **{name: outputs[name] for name in ("unfamiliarity",) if name in outputs},
        )
        write_csv(self.run.path("history", f"{cell.key}.csv"), trained.history)
        per_case = explanation_scores(
            lambda images, at: decided(images, test[at]),
            self.arrays.images[test],
            self.arrays.lesions_at(test),
            self.arrays.has_mask[test],
            outputs,
            seed=config.split_seed,
            steps=config.pixel_steps,
        )
        for name, images in self.variants.items():
            predicted = decided(images[test], test).argmax(1)
            per_case[f"accuracy_{name}"] = (predicted == self.arrays.labels[test]).astype(float)
        truth = self.arrays.labels[test]
        per_case |= case_decisions(
            outputs["probabilities"],
            truth,
            self.cases.classes,
            unfamiliarity=outputs.get("unfamiliarity"),
            **settled.decision,
        )
        mode = "min" if config.monitor == "val_loss" else "max"
        return {
            **identity(cell, "; ".join([*([trained.note] if trained.note else []), *settled.notes])),
            "ids": self.cases.table["id"].iloc[test].tolist(),
            "per_case": {name: values.tolist() for name, values in per_case.items()},
            "validation": TestScores(groups, labels, settled.validation).metrics(self.cases.classes),
            "decision": settled.decision,
            "extra": training_facts(trained.history, config.monitor, mode)
            | model_facts(model, self.arrays)
            | settled.facts(outputs["probabilities"], truth),
        }

    def _graph(
        self, classifier: Classifier | Fusion, approach: str, segmenter: keras.Model | None, config: ComparisonConfig
    ) -> keras.Model:
        """The inference graph of a trained classifier."""
        options = {"saliency": config.saliency, "resize": config.resize, "unfamiliarity": config.familiar_share > 0}
        parts = (classifier, self.cases.classes, approach, segmenter, self.arrays.mask_classes)
        if isinstance(classifier, Fusion):
            return fusion_graph(*parts, **options)
        return inference_graph(*parts, **options, saliency_layer=config.saliency_layer)

    def _load(self, cell: Cell) -> keras.Model:
        return keras.saving.load_model(self.model_path(cell), compile=False)

    def segmenter_of(self, cell: Cell) -> keras.Model:
        """The trained segmenter of a classifier's fold, image → mask logits."""
        return self._load(cell.needs[0]).get_layer("segmenter")

    def maps_of(self, cell: Cell) -> np.ndarray | None:
        """What a classifier looks at beside the images of all cases, uint8 (N, h, w) or (N, h, w, 3), or None."""
        row = self.row(cell.row)
        approach, config = APPROACHES[row.approach], row.config(self.config)
        if approach.map_input is None:
            return None
        size = config.class_map_size if approach.fusion else None
        if approach.maps == "true":
            return true_maps(self.arrays, size)
        if approach.maps == "zero":
            return np.zeros((len(self.arrays), size, size, CHANNELS), np.uint8)
        # The frozen segmenter's are computed once per fold.
        if (cell.fold, size) not in self._maps:
            self._maps = {key: maps for key, maps in self._maps.items() if key[0] == cell.fold}
            self._maps[cell.fold, size] = frozen_maps(self._load(cell.needs[0]), self.arrays, size)
        maps = self._maps[cell.fold, size]
        return maps if approach.maps == "predicted" else moved_maps(maps, self.config.split_seed)


def identity(cell: Cell, note: str) -> dict:
    return {"row": cell.row, "fold": cell.fold, "repeat": cell.repeat, "note": note}


def row_model(run: Run, row: str) -> Path:
    """Where the model of a row lies."""
    return run.path("models", "segmenter.keras") if row == SEGMENTER_ROW else run.path("models", row, "model.keras")


def save_model(model: keras.Model, path: Path) -> None:
    """Store an inference graph, whole or not at all."""
    with written_whole(path) as temporary:
        model.save(temporary)


def write_arrays(run: Run, cell: Cell, **arrays: np.ndarray) -> None:
    with written_whole(run.path("outputs", f"{cell.key}.npz")) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_arrays(run: Run, cell: Cell) -> dict[str, np.ndarray]:
    with np.load(run.path("outputs", f"{cell.key}.npz")) as file:
        return {name: file[name] for name in file.files}
