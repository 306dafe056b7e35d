"""Compare runs or tables of predictions on the same test cases, and say which differences hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tfseg.errors import ConfigError, RunError, UserError
from tfseg.evaluation.compared import ComparedRow, classifier_rows, segmenter_rows
from tfseg.evaluation.comparison_page import (
    comparison_markdown,
    difference_sentences,
    differences_figure,
    footnotes,
    metrics_of,
)
from tfseg.evaluation.differences import compare_rows
from tfseg.evaluation.tables import command_block
from tfseg.jobs.compare.inputs import Inputs, read_groups, read_inputs
from tfseg.run import read_json, recorded_path, write_json, write_text

RESULT = "comparison.json"
DEFAULT_METRICS = {"classifiers": "accuracy", "segmenters": "dice"}


def compare(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    rows: Sequence[str] = (),
    classes: Sequence[str] = (),
    metric: str | None = None,
    against: str | None = None,
    groups: str | Path | None = None,
    common: bool = False,
    draws: int = 10_000,
    seed: int = 0,
    published: str | Path | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict:
    """Compare every row with every other, or all with one, and write the result.

    Writes ``comparison.json``, ``table.md`` and ``figures/differences.png`` (``figures/differences_segmenters.png``
    for segmenters), none of which shows an image.

    Args:
        paths: run folders, ``predictions.csv`` files, or CSV tables with columns ``<model>_pred``; see
            `tfseg.jobs.compare.inputs.read_inputs`.
        out: folder for the results; new, empty, or of an earlier comparison, which is written again.
        rows: names of the rows to compare; all by default.
        classes: names of the classes 0, 1, 2, … of tables that hold numbers.
        metric: whose differences the sentences and the figure are about; by default accuracy, for segmenters Dice.
        against: compare only with this row.
        groups: CSV table that says which patient or lesion a case is of; see `tfseg.jobs.compare.inputs.read_groups`.
        common: whether to compare on the cases that all have, instead of refusing different test cases.
        draws, seed: of the bootstrap.
        published: JSON file of published scores to set beside ours: ``{"source": text, "std_ddof": 0 or 1,
            "tolerance": number, "rows": {row: {metric: [mean, std]}}}``.
        command: for the records.
        say: takes the lines that tell what was found.

    Returns:
        The content of ``comparison.json``: ``{"command", "inputs", "comparisons": [{"kind", "metric", "left_out", …
        what `compare_rows` gives}]}``.

    Raises:
        UserError: for whatever the user has to mend, such as different test cases; nothing is written then.
    """
    out = Path(out)
    _check_arguments(paths, out, draws, seed)
    inputs = read_inputs(paths, classes)
    if groups is not None:
        inputs.set_groups(read_groups(groups))
    if rows:
        inputs = inputs.chosen(rows)
    found = _rows_by_kind(inputs, classes, common)
    if not found:
        names = ", ".join(inputs.names)
        raise UserError(f"there must be at least two classifiers or two segmenters to compare; there are: {names}")
    if against is not None and not any(against in part for _, part, _, _ in found):
        names = ", ".join(name for _, part, _, _ in found for name in part)
        raise UserError(f"`--against`: there is no row {against!r}; there are {names}")
    comparisons = []
    for kind, part, names, left_out in found:
        result = compare_rows(part, names, against=against if against in part else None, draws=draws, seed=seed)
        comparisons.append({"kind": kind, "metric": metric or DEFAULT_METRICS[kind], "left_out": left_out, **result})
    _settle_metrics(comparisons, metric)
    if published is not None:
        _set_beside(comparisons, published)
    result = {"command": command, "inputs": [recorded_path(path) for path in paths], "comparisons": comparisons}
    write_json(out / RESULT, result)
    result = read_json(out / RESULT)
    _write_pages(result, out)
    for comparison in result["comparisons"]:
        if comparison["left_out"]:
            say(f"left out {comparison['left_out']:,} cases that not all {comparison['kind']} have")
        say("\n".join(difference_sentences(comparison, comparison["metric"])))
        say("\n".join(footnotes(comparison)))
    say(f"written to {out}")
    return result


def _check_arguments(paths: Sequence, out: Path, draws: int, seed: int) -> None:
    if not paths:
        raise UserError("name at least two runs or tables, or one that holds several rows")
    if draws < 100 or seed < 0:
        raise ConfigError(f"`draws` must be at least 100 and `seed` at least 0, received {draws} and {seed}")
    if out.exists() and not (out.is_dir() and ((out / RESULT).exists() or not any(out.iterdir()))):
        raise RunError(f"`--out` {out} is not empty and holds no {RESULT}: give a new or an empty folder")


def _rows_by_kind(
    inputs: Inputs, classes: Sequence[str], common: bool
) -> list[tuple[str, dict[str, ComparedRow], list[str], int]]:
    """Kind, rows, class names and number of cases left out, of each kind with at least two rows."""
    found = []
    if len(inputs.predictions) > 1:
        rows, names, left_out = classifier_rows(inputs.predictions, classes, common)
        for name, row in rows.items():
            if name in inputs.case_scores:
                scores = inputs.case_scores[name].reindex(row.ids)
                rows[name] = replace(row, per_case={column: scores[column].to_numpy(float) for column in scores})
        found.append(("classifiers", rows, names, left_out))
    scores = {name: table for name, table in inputs.case_scores.items() if name not in inputs.predictions}
    if len(scores) > 1:
        rows, left_out = segmenter_rows(scores, inputs.groups, common)
        found.append(("segmenters", rows, [], left_out))
    return found


def _settle_metrics(comparisons: Sequence[dict], asked: str | None) -> None:
    """The asked metric where a comparison has it, else its usual one."""
    known = {name for comparison in comparisons for name in metrics_of(comparison)}
    if asked is not None and asked not in known:
        raise ConfigError(f"`--metric` {asked!r} is in no row; there are {', '.join(sorted(known))}")
    for comparison in comparisons:
        names = metrics_of(comparison)
        if comparison["metric"] not in names:
            usual = DEFAULT_METRICS[comparison["kind"]]
            comparison["metric"] = usual if usual in names else names[0]


def _set_beside(comparisons: Sequence[dict], path: str | Path) -> None:
    """Put the published scores into the rows."""
    content = read_json(path)
    try:
        details = {key: content[name] for key, name in (("source", "source"), ("ddof", "std_ddof"))}
        details["tolerance"] = float(content["tolerance"])
        rows = {
            row: {metric: [float(mean), float(std)] for metric, (mean, std) in metrics.items()}
            for row, metrics in content["rows"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        expected = '{"source", "std_ddof", "tolerance", "rows": {row: {metric: [mean, std]}}}'
        raise UserError(f"{path} must hold {expected}: {error!r}") from error
    for name, metrics in rows.items():
        part = next((part["rows"] for part in comparisons if name in part["rows"]), None)
        if part is None:
            names = ", ".join(row for part in comparisons for row in part["rows"])
            raise UserError(f"{path} names the row {name!r}; there are {names}")
        part[name]["published"] = {"metrics": metrics, **details}


def _write_pages(result: dict, out: Path) -> None:
    lines = []
    for comparison in result["comparisons"]:
        if len(result["comparisons"]) > 1:
            lines += [f"## {comparison['kind'].capitalize()}", ""]
        lines += comparison_markdown(comparison, comparison["metric"])
        suffix = "" if comparison["kind"] == "classifiers" else f"_{comparison['kind']}"
        differences_figure(comparison, comparison["metric"], out / "figures" / f"differences{suffix}.png")
    write_text(out / "table.md", "\n".join([*lines, *command_block(result["command"]), ""]))
