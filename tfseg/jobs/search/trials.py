"""The trials of a search: what each is trained with, how it is trained, and what the oracle is told of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.cases import Cases
from tfseg.data.splits import Split
from tfseg.errors import TrainingError
from tfseg.jobs.cells import save_model
from tfseg.jobs.gather import write_csv
from tfseg.jobs.grid import Cell, seeded, stored
from tfseg.jobs.handed import SEGMENTER_ROW, handed_maps
from tfseg.jobs.preparation import configured_arrays, recorded_config
from tfseg.jobs.rows import ClassifierRow, rows_of
from tfseg.jobs.search.oracles import Proposal, Proposals
from tfseg.jobs.search.results import TrialResult, best_of, draw_search, trials_csv
from tfseg.jobs.search.space import SearchPlan
from tfseg.jobs.symmetry import load_symmetry, symmetry_arrays, symmetry_cases, symmetry_rows
from tfseg.models.classifier import inference_graph
from tfseg.run import Run, read_json, write_json
from tfseg.training.classifier import train_classifier
from tfseg.training.segmenter import given_or_trained, train_segmenter
from tfseg.training.sitting import Sitting

Say = Callable[[str], None]


@dataclass
class Search:
    """What the trials of a search share.

    Args:
        run: the run folder.
        config: the settings of all trials, not resolved: what ``auto`` is may depend on the trial.
        plan, cases, splits: what is searched, and on which data.
        say: takes the lines that tell what is going on.
    """

    run: Run
    config: ComparisonConfig
    plan: SearchPlan
    cases: Cases
    splits: list[Split]
    say: Say = print
    _arrays: dict[tuple, CaseArrays] = field(default_factory=dict)
    _maps: dict[tuple, np.ndarray] = field(default_factory=dict)
    _asked: list[Proposal] = field(default_factory=list)
    _told: list[float] = field(default_factory=list)

    def __post_init__(self):
        epochs = getattr(self.config, self.plan.epochs_field)
        self._proposals = Proposals(self.plan, epochs, self.config.seed)
        self.count = self._proposals.count

    @property
    def masked(self) -> bool:
        """Whether the trials look at a segmenter's maps."""
        if self.plan.part == "segmenter":
            return False
        needed = APPROACHES[self.config.approaches[0]].needs_segmenter
        return needed or (self.stage is not None and APPROACHES[self.stage.approach].masked)

    @property
    def stage(self) -> ClassifierRow | None:
        """The symmetry network that the trials look at."""
        rows = rows_of(self.config) if self.plan.part == "classifier" else []
        return next(iter(symmetry_rows(self.config.resolved(), rows)), None)

    def cells(self) -> list[Cell]:
        """Segmenter and symmetry network of each fold where one is looked at, then trial by trial."""
        # A trial needs the networks of all folds: without one of them it would never be complete.
        folds = range(len(self.splits))
        needs = tuple(Cell(SEGMENTER_ROW, fold) for fold in folds if self.masked)
        if self.stage is not None:
            needs += tuple(Cell(self.stage.name, fold, 0, needs[fold : fold + 1]) for fold in folds)
        return [*needs, *(cell for number in range(self.count) for cell in self._cells_of(number, needs))]

    def _cells_of(self, number: int, needs: tuple[Cell, ...] = ()) -> list[Cell]:
        repeats = self.config.repeats if self.plan.part == "classifier" else 1
        return [
            Cell(f"trial{number + 1:03d}", fold, repeat, needs)
            for fold in range(len(self.splits))
            for repeat in range(repeats)
        ]

    def compute(self, cell: Cell, sitting: Sitting) -> dict:
        """Train a cell; gives the result to be stored."""
        fold = [f"fold {cell.fold}"] if len(self.splits) > 1 else []
        if cell.row == SEGMENTER_ROW:
            config = seeded(self.config, cell).resolved()
            return self._segmenter(cell, config, replace(sitting, title="".join(fold)))
        if not cell.row.startswith("trial"):
            return self._symmetry(cell, replace(sitting, title="".join(fold)))
        number = int(cell.row.removeprefix("trial")) - 1
        cells = self._cells_of(number)
        proposal = self._proposal(number)
        config = seeded(self.trial_config(proposal), cell).resolved()
        if cell.key == cells[0].key:
            self.report(partly=True)
            self.say(f"trial {number + 1} of {self.count}: {_shown(proposal, self.plan)}")
        earlier = [result for other in cells if (result := stored(self.run, other)) is not None]
        broken = [result["failed"] for result in earlier if result["failed"]]
        title = " · ".join([f"trial {number + 1}", *fold])
        result = {"failed": broken[0]} if broken else self._trial(cell, config, replace(sitting, title=title))
        if cell.key == cells[-1].key:
            score = _mean([*earlier, result])
            self.say(f"  {self.plan.objective} {score:.4g}" if score is not None else f"  failed: {result['failed']}")
        return {"row": cell.row, "fold": cell.fold, "repeat": cell.repeat, "values": proposal.values} | result

    def trial_config(self, proposal: Proposal) -> ComparisonConfig:
        """The settings of a trial, not resolved."""
        epochs = {} if proposal.epochs is None else {self.plan.epochs_field: proposal.epochs}
        return replace(self.config, **proposal.values, **epochs)

    def results(self) -> list[TrialResult]:
        """The trials of which all cells are stored, in their order."""
        return [result for number in range(self.count) if (result := self._result(number)) is not None]

    def report(self, partly: bool = False) -> TrialResult | None:
        """Write ``trials.csv``, and unless `partly` ``best.json`` and the figure; gives the best trial, if any."""
        results = self.results()
        if results:
            trials_csv(results, self.plan, self.run.path("trials.csv"))
        best = best_of(results, self.plan)
        if best is not None:
            config = self.trial_config(Proposal(best.values, best.epochs)).resolved()
            write_json(self.run.path("best.json"), recorded_config(config))
            if not partly:
                draw_search(results, self.plan, self.run.path("figures", "search.png"))
        return best

    def forget(self) -> None:
        """Remove what was kept for trials that are stored by now."""
        for number in range(len(self._asked)):
            if self._result(number) is not None:
                self._begun(number).unlink(missing_ok=True)
        if self.run.path("checkpoints").is_dir() and not any(self.run.path("checkpoints").iterdir()):
            self.run.path("checkpoints").rmdir()

    def _proposal(self, number: int) -> Proposal:
        """What the oracle proposes, which is told of all trials before."""
        while len(self._asked) <= number:
            current = len(self._asked)
            if current:
                self._proposals.tell(self._score(current - 1))
            begun, (first, *_) = self._begun(current), self._cells_of(current)
            result = stored(self.run, first)
            known = result["values"] if result else read_json(begun)["values"] if begun.exists() else None
            proposal = self._proposals.ask(known)
            if known is None:
                # A trial that is killed goes on from its checkpoint, which fits these values only.
                write_json(begun, {"values": proposal.values})
            self._asked.append(proposal)
        return self._asked[number]

    def _begun(self, number: int) -> Path:
        return self.run.path("checkpoints", f"trial{number + 1:03d}.json")

    def _score(self, number: int) -> float:
        """What the oracle is told: a trial that failed was as bad as the worst before it, or has learned nothing.

        An oracle that is told nothing of a failure would propose the like again.
        """
        score = self._result(number).score
        if score is None and self.plan.direction == "max":
            score = min(self._told, default=0.0)
        elif score is None:
            # Cross entropy of guessing, and the Dice loss of hitting nothing.
            guessing = math.log(max(len(self.cases.classes), 2)) + (self.plan.part == "segmenter")
            score = max(self._told, default=guessing)
        self._told.append(score)
        return score

    def _result(self, number: int) -> TrialResult | None:
        cells = [stored(self.run, cell) for cell in self._cells_of(number)]
        if any(cell is None for cell in cells):
            return None
        failed = [cell["failed"] for cell in cells if cell["failed"]]
        notes = failed[:1] or sorted({cell["note"] for cell in cells if cell["note"]})
        return TrialResult(
            number=number,
            values=cells[0]["values"],
            epochs=cells[0].get("epochs"),
            score=_mean(cells),
            best_epochs=tuple(cell["best_epoch"] for cell in cells if not cell["failed"]),
            seconds=round(sum(cell["seconds"] for cell in cells), 1),
            note="; ".join(notes),
        )

    def _trial(self, cell: Cell, config: ComparisonConfig, sitting: Sitting) -> dict:
        arrays, split = self._arrays_of(config), self.splits[cell.fold]
        allowed = {"epochs": getattr(config, self.plan.epochs_field)} if self.plan.tuner == "hyperband" else {}
        objective = self.plan.objective
        try:
            if self.plan.part == "segmenter":
                _, history, note = train_segmenter(config, arrays, split, sitting)
                monitor = "val_iou"
            else:
                classes, approach = len(self.cases.classes), config.approaches[0]
                if config.joint_symmetry and APPROACHES[approach].symmetry == "own":
                    symmetry = symmetry_cases(config, self.cases).labels
                    arrays = replace(arrays, attributes={"symmetry_label": symmetry})
                maps, stages = self._handed(cell, approach, config, arrays), self._stages(cell)
                trained = train_classifier(config, approach, arrays, split, classes, maps, sitting, stages=stages)
                history, note, monitor = trained.history, trained.note, config.monitor
        except TrainingError as error:
            return {"failed": str(error), "note": "", **allowed}
        write_csv(self.run.path("history", f"{cell.key}.csv"), history)
        kept = history[monitor].idxmin() if monitor == "val_loss" else history[monitor].idxmax()
        score = float(history[objective][kept])
        if not math.isfinite(score):
            return {"failed": f"{objective} is no number in the best epoch", "note": note, **allowed}
        measured = {name: float(history[name][kept]) for name in history if name.startswith("val_")}
        best_epoch = int(history["epoch"][kept])
        return {
            "failed": "",
            "note": note,
            "objective": score,
            "best_epoch": best_epoch,
            "validation": measured,
            **allowed,
        }

    def _segmenter(self, cell: Cell, config: ComparisonConfig, sitting: Sitting) -> dict:
        arrays = self._arrays_of(config)
        graph, history, note = given_or_trained(config, arrays, self.splits[cell.fold], sitting)
        save_model(graph, self._model_path(cell))
        write_csv(self.run.path("history", f"{cell.key}.csv"), history)
        return {"row": cell.row, "fold": cell.fold, "repeat": 0, "note": note}

    def _symmetry(self, cell: Cell, sitting: Sitting) -> dict:
        config = seeded(self.stage.config(self.config.resolved()), cell)
        arrays = self._arrays_of(config)
        cases, split = symmetry_cases(config, self.cases), self.splits[cell.fold]
        own, approach = symmetry_arrays(arrays, cases), self.stage.approach
        maps = self._handed(cell, approach, config, arrays)
        trained = train_classifier(config, approach, own, split, len(cases.classes), maps, sitting)
        segmenter = self._stages(cell)["segmenter"]() if cell.needs else None
        graph = inference_graph(
            trained.classifier,
            cases.classes,
            approach,
            segmenter,
            arrays.mask_classes,
            config.saliency,
            config.resize,
            config.saliency_layer,
            hair_removal=config.hair_removal,
        )
        save_model(graph, self._model_path(cell))
        write_csv(self.run.path("history", f"{cell.key}.csv"), trained.history)
        return {"row": cell.row, "fold": cell.fold, "repeat": 0, "note": trained.note}

    def _model_path(self, cell: Cell) -> Path:
        return self.run.path(
            "models", f"{cell.row}.keras" if len(self.splits) == 1 else f"{cell.row}/fold{cell.fold}.keras"
        )

    def _load(self, cell: Cell) -> keras.Model:
        return keras.saving.load_model(self._model_path(cell), compile=False)

    def _stages(self, cell: Cell) -> dict[str, Callable[[], keras.Model]]:
        """What gives the trained networks of a trial's fold."""
        found = {}
        for need in (need for need in cell.needs if need.fold == cell.fold):
            if need.row == SEGMENTER_ROW:
                found["segmenter"] = lambda need=need: self._load(need).get_layer("segmenter")
            else:
                found["symmetry"] = lambda need=need: self._load(need)
        if self.config.symmetry_file:
            arrays = self._arrays_of(self.config)
            found["symmetry"] = lambda: load_symmetry(self.config.symmetry_file, arrays, self.config.resize)
        return found

    def _handed(self, cell: Cell, approach: str, config: ComparisonConfig, arrays: CaseArrays) -> dict[str, np.ndarray]:
        """The maps of the training and validation cases; the others' stay empty."""
        own = replace(cell, needs=tuple(need for need in cell.needs if need.fold == cell.fold))
        split = self.splits[cell.fold]
        seen = np.sort(np.concatenate([split.train, split.val]))
        return handed_maps(approach, config, arrays, own, self._load, self._maps, split, seen)

    def _arrays_of(self, config: ComparisonConfig) -> CaseArrays:
        key = (config.image_size, config.resize, config.hair_removal)
        if key not in self._arrays:
            self._arrays[key] = configured_arrays(config, self.cases)
        return self._arrays[key]


def _shown(proposal: Proposal, plan: SearchPlan) -> str:
    shown = [f"{name} {value}" for name, value in proposal.values.items()]
    return ", ".join(shown + ([f"{plan.epochs_field} {proposal.epochs}"] if proposal.epochs else []))


def _mean(results: list[dict]) -> float | None:
    """Over folds and repeats; None where one of them failed."""
    if any(result["failed"] for result in results):
        return None
    return float(np.mean([result["objective"] for result in results]))
