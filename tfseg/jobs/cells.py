"""The cells of a comparison: one training on one fold, tested, with everything that it made on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.data.splits import Split
from tfseg.errors import RunError
from tfseg.evaluation.decisions import case_decisions
from tfseg.evaluation.explanations import explanation_scores
from tfseg.evaluation.scores import TestScores
from tfseg.evaluation.segmentation import score_cases
from tfseg.jobs.decisions import settle
from tfseg.jobs.facts import model_facts, training_facts
from tfseg.jobs.gather import write_csv
from tfseg.jobs.grid import Cell, seeded
from tfseg.jobs.handed import SEGMENTER_ROW, handed_maps
from tfseg.jobs.masks import fitting, lesion_maps, predict_masks, predict_pixels
from tfseg.jobs.rows import ClassifierRow, rows_of
from tfseg.jobs.symmetry import (
    load_symmetry,
    needs_symmetry,
    symmetry_arrays,
    symmetry_cases,
    symmetry_row,
    symmetry_rows,
)
from tfseg.models.cascade import Enhanced, cascade_graph, symmetry_network
from tfseg.models.classifier import decision_graph, inference_graph
from tfseg.models.fusion import Fusion, fusion_graph
from tfseg.run import Run, written_whole
from tfseg.training.classifier import train_classifier
from tfseg.training.segmenter import given_or_trained
from tfseg.training.setup import Trained
from tfseg.training.sitting import Sitting


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
    _maps: dict[tuple, np.ndarray] = field(default_factory=dict)
    _memo: dict = field(default_factory=dict)

    def __post_init__(self):
        self.classifiers = tuple(self.classifiers) or tuple(rows_of(self.config))
        self.stages = tuple(symmetry_rows(self.config, self.classifiers))
        joint = any(row.config(self.config).joint_symmetry for row in self.classifiers if needs_symmetry(row))
        self._symmetry = symmetry_cases(self.config, self.cases) if self.stages or joint else None

    @property
    def segmented(self) -> bool:
        """Whether there is a segmenter."""
        return self.config.segmenter != "none" and (self.cases.has_mask.any() or bool(self.config.segmenter_file))

    @property
    def rows(self) -> list[str]:
        """The rows of the table in their order."""
        return [
            *([SEGMENTER_ROW] if self.segmented else []),
            *(row.name for row in (*self.stages, *self.classifiers)),
        ]

    def row(self, name: str) -> ClassifierRow:
        """A classifier's row, or a symmetry network's, by its name."""
        return next(row for row in (*self.stages, *self.classifiers) if row.name == name)

    def cases_of(self, name: str) -> Cases:
        """The cases with the labels that a row learns."""
        return self._symmetry if name != SEGMENTER_ROW and self.row(name).symmetry else self.cases

    def cells(self) -> list[Cell]:
        """The grid: of each fold the segmenter and the symmetry networks, then every classifier with its repeats."""
        cells = []
        for fold in range(len(self.splits)):
            needs = (Cell(SEGMENTER_ROW, fold),) if self.segmented else ()
            stages = {row.name: Cell(row.name, fold, 0, needs) for row in self.stages}
            cells += [*needs, *stages.values()]
            for row in self.classifiers:
                own = needs
                if needs_symmetry(row) and self.stages:
                    own += (stages[symmetry_row(row.config(self.config)).name],)
                cells += [Cell(row.name, fold, repeat, own) for repeat in range(self.config.repeats)]
        return cells

    def model_path(self, cell: Cell) -> Path:
        """Where the model of a cell lies: in the row's own place where the row has one cell only."""
        once = cell.row == SEGMENTER_ROW or self.row(cell.row).symmetry
        repeats = 1 if once else self.config.repeats
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
        once = cell.row == SEGMENTER_ROW or self.row(cell.row).symmetry
        parts += [f"repeat {cell.repeat}"] if self.config.repeats > 1 and not once else []
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
        split, row, cases, arrays = self.splits[cell.fold], self.row(cell.row), self.cases_of(cell.row), self.arrays
        if row.symmetry:
            arrays = symmetry_arrays(arrays, cases)
        elif config.joint_symmetry and needs_symmetry(row):
            arrays = replace(arrays, attributes={"symmetry_label": self._symmetry.labels})
        maps = self.maps_of(cell)
        trained = train_classifier(
            config,
            row.approach,
            arrays,
            split,
            len(cases.classes),
            maps,
            replace(sitting, name=row.name),
            self._memo,
            self.stages_of(cell),
        )
        model = self._graph(cell, trained, config)
        test = split.test[arrays.labels[split.test] >= 0]
        validation = split.val[arrays.labels[split.val] >= 0]
        given = [name for name in model.input if name != "image"] if isinstance(model.input, dict) else []

        def maps_at(positions):
            return {name: maps[name][positions] for name in given}

        def predict(graph, positions):
            return predict_pixels(fitting(graph, arrays), arrays.images[positions], maps_at(positions))

        settled = settle(model, config, arrays.labels, split, predict, trained.validation)
        save_model(model, self.model_path(cell))

        # Where only the decision is asked for, neither mask nor map is made.
        deciding = fitting(decision_graph(model), arrays)

        def decided(images, positions):
            return predict_pixels(deciding, images, maps_at(positions))["probabilities"]

        outputs = predict(model, test)
        groups, labels = cases.groups[validation], arrays.labels[validation]
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
            arrays.images[test],
            arrays.lesions_at(test),
            arrays.has_mask[test],
            outputs,
            seed=config.split_seed,
            steps=config.pixel_steps,
        )
        for name, images in self.variants.items():
            predicted = decided(images[test], test).argmax(1)
            per_case[f"accuracy_{name}"] = (predicted == arrays.labels[test]).astype(float)
        truth = arrays.labels[test]
        per_case |= case_decisions(
            outputs["probabilities"],
            truth,
            cases.classes,
            unfamiliarity=outputs.get("unfamiliarity"),
            **settled.decision,
        )
        mode = "min" if config.monitor == "val_loss" else "max"
        return {
            **identity(cell, "; ".join([*([trained.note] if trained.note else []), *settled.notes])),
            **({"target": config.symmetry_target} if row.symmetry else {}),
            "ids": cases.table["id"].iloc[test].tolist(),
            "per_case": {name: values.tolist() for name, values in per_case.items()},
            "validation": TestScores(groups, labels, settled.validation).metrics(cases.classes),
            "decision": settled.decision,
            "extra": training_facts(trained.history, config.monitor, mode)
            | model_facts(model, arrays)
            | settled.facts(outputs["probabilities"], truth),
        }

    def _graph(self, cell: Cell, trained: Trained, config: ComparisonConfig) -> keras.Model:
        """The inference graph of a trained classifier."""
        approach, classes = APPROACHES[config.approaches[0]], self.cases_of(cell.row).classes
        options = {
            "saliency": config.saliency,
            "resize": config.resize,
            "unfamiliarity": config.familiar_share > 0,
            # A control is tested on images whose hairs are out, and never served.
            "hair_removal": config.hair_removal and approach.served,
        }
        # Loaded after the training, which clears Keras's session.
        segmenter, stages = trained.segmenter, self.stages_of(cell)
        if segmenter is None and "segmenter" in stages and approach.served:
            segmenter = stages["segmenter"]()
        parts = (trained.classifier, classes, config.approaches[0], segmenter, self.arrays.mask_classes)
        if isinstance(trained.classifier, Enhanced):
            symmetry = trained.symmetry
            if symmetry is None and approach.served:
                symmetry = symmetry_network(stages["symmetry"]())
            return cascade_graph(*parts, symmetry, **options)
        if isinstance(trained.classifier, Fusion):
            return fusion_graph(*parts, **options)
        return inference_graph(*parts, **options, saliency_layer=config.saliency_layer)

    def _load(self, cell: Cell) -> keras.Model:
        path = self.model_path(cell)
        if not path.is_file():
            raise RunError(
                f"{path}, the model of {cell.key}, is missing; remove {self.run.path('cells', f'{cell.key}.json')} and "
                "run the same command again, which trains it anew"
            )
        return keras.saving.load_model(path, compile=False)

    def stages_of(self, cell: Cell) -> dict[str, Callable[[], keras.Model]]:
        """What gives the trained networks of a classifier's fold: ``segmenter``, image → mask logits, and ``symmetry``,
        an inference graph."""
        found = {}
        for need in cell.needs:
            if need.row == SEGMENTER_ROW:
                found["segmenter"] = lambda need=need: self._load(need).get_layer("segmenter")
            else:
                found["symmetry"] = lambda need=need: self._load(need)
        if self.config.symmetry_file:
            found["symmetry"] = lambda: load_symmetry(self.config.symmetry_file, self.arrays, self.config.resize)
        return found

    def maps_of(self, cell: Cell) -> dict[str, np.ndarray]:
        """What a classifier looks at beside the images of all cases, by name: uint8 (N, h, w) or (N, h, w, 3)."""
        row = self.row(cell.row)
        return handed_maps(
            row.approach, row.config(self.config), self.arrays, cell, self._load, self._maps, self.splits[cell.fold]
        )


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
