"""Search the settings of a training: every trial learns from the training part and is measured on validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tfseg.config import ComparisonConfig
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError, Paused, TrainingError
from tfseg.jobs.grid import run_grid, write_state
from tfseg.jobs.preparation import prepared, recorded_config, write_records
from tfseg.jobs.rows import rows_of
from tfseg.jobs.search.results import options_text, trials_text
from tfseg.jobs.search.space import SearchPlan
from tfseg.jobs.search.trials import Search
from tfseg.models.backbones import build_backbone, freeze_first, frozen_count
from tfseg.run import Run, read_json, write_json
from tfseg.session import Session
from tfseg.spaces import Choices

Say = Callable[[str], None]
WHOLE = Session()


def run_search(
    config: ComparisonConfig,
    plan: SearchPlan,
    out: str | Path | None = None,
    *,
    command: str = "",
    session: Session = WHOLE,
    say: Say = print,
) -> Run:
    """Train every trial, and write which one was best.

    A trial is as many cells as there are folds and repeats; its score is the mean over them of the objective in the
    epoch that the training itself keeps. Test cases are neither predicted nor scored. A folder that was interrupted
    goes on where it stopped, with the same trials as if it had not been.

    Args:
        config: the settings of all trials; those of a searched field are not used.
        plan: see `plan_search`.
        out: the run folder; see `Run.open`.
        command: for the records.
        session: for how long, and whether with TensorBoard's logs.
        say: takes the lines that tell what is going on.

    Returns:
        The finished run: ``trials.csv``, ``best.json`` (a configuration), ``figures/search.png``, and of every
        training its ``history/``.

    Raises:
        UserError: for whatever the user has to mend, before anything is trained where that can be known.
        TrainingError: not one trial could be trained.
        Paused: the session's time is over; what is stored is written down.
    """
    cases = load_cases(config.data, config.target)
    record = {"experiment": "search", **plan.record(), **recorded_config(config.resolved())}
    run = Run.open(out, record)
    say(f"run folder: {run.folder}")
    if run.finished:
        say(read_json(run.path("search.json"))["text"])
        say("this search was finished before; these are its results")
        return run
    with run.withdrawn_on_mistake():
        rows = rows_of(config) if plan.part == "classifier" else []
        splits, audit = prepared(run, config.resolved(), rows, cases)
        _check_backbones(config, plan)
        write_records(run, config, cases, splits, audit, say)
        search = Search(run, config, plan, cases, splits, say)
        cells = search.cells()
        if search.count != plan.trials:
            say(
                f"{search.count} trials: "
                + ("of all brackets" if plan.trials is None else "there are no more settings")
            )
        try:
            progress = run_grid(run, cells, search.compute, session, (), len(splits), say)
        except Paused:
            search.report()
            raise
        finally:
            search.forget()
    if progress.failed:
        (cell, message), *_ = progress.failed.items()
        raise TrainingError(f"{cell.key}: {message}")
    best = search.report()
    if best is None:
        notes = sorted({result.note for result in search.results()})
        raise TrainingError("not one trial could be trained: " + "; ".join(notes))
    text = "\n".join([trials_text(search.results(), plan), options_text(search.results(), plan)])
    write_json(run.path("search.json"), {"command": command, "text": text, "best_trial": best.number + 1})
    write_state(run, cells, "finished")
    say(text)
    return run


def _check_backbones(config: ComparisonConfig, plan: SearchPlan) -> None:
    """Build every backbone that a trial would build, so that none is found impossible after hours."""
    asked = {name: plan.spaces[name] for name in ("backbone", "weights", "freeze_first") if name in plan.spaces}
    if not asked or plan.part != "classifier":
        return
    choices = {name: space.values for name, space in asked.items() if isinstance(space, Choices)}
    frozen = max(choices.get("freeze_first", (config.freeze_first,)))
    for backbone in choices.get("backbone", (config.backbone,)):
        for weights in choices.get("weights", (config.weights,)):
            trial = replace(config, backbone=backbone, weights=weights).resolved()
            try:
                found = trial.weights_of(trial.backbone)
                features = build_backbone(trial.backbone, (trial.image_size, trial.image_size, 3), found)
                freeze_first(features, frozen_count(features, frozen) if found else 0)
            except ConfigError as error:
                raise ConfigError(f"`fields` would try {backbone} with freeze_first={frozen}: {error}") from error
