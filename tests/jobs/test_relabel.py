"""The test of a labelling: what is hidden from it, how its masks are scored, and what its folder holds."""

from __future__ import annotations

import json
import runpy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.config import ComparisonConfig
from tfseg.data.cases import MaskClasses
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError, DataError, Paused, UserError
from tfseg.jobs.label import job as label
from tfseg.jobs.relabel import cells as relabel_cells
from tfseg.jobs.relabel import pictures
from tfseg.jobs.relabel.draw import RelabelDesign, draw_masks, with_hidden_masks
from tfseg.jobs.relabel.job import describe_relabelling, run_relabelling
from tfseg.jobs.relabel.scores import LabelScores, score_labels
from tfseg.models.segmenters import segmenter_options
from tfseg.presets import CERVICAL_PRESETS
from tfseg.run import Run, read_json
from tfseg.session import Session
from tfseg.training.segmenter import configured_loss
from tfseg.words import named_values

SCRIPT = Path(__file__).parents[2] / "experiments" / "cervical.py"
TINY = ComparisonConfig(
    data="",
    image_size=32,
    val_fraction=0.3,
    segmenter_loss="dice_focal",
    segmenter_width=4,
    segmenter_depth=2,
    segmenter_epochs=8,
    segmenter_batch_size=4,
    segmenter_learning_rate=1e-2,
)
DESIGN = RelabelDesign(masks_per_class=6, runs=2)
OPTIONS = {
    "experiment": "cervical_labelling",
    "command": "python experiments/cervical.py",
    "paper": {"mean_iou": 0.94},
    "notes": ("one example",),
}


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def cell_images(tmp_path_factory) -> Path:
    """32 images of two classes and two sizes, with background, cytoplasm, nucleus and pixels that nobody knows."""
    folder = tmp_path_factory.mktemp("cells") / "data"
    write_phantoms(PhantomConfig(images=32, size=40, classes=("benign", "malignant"), difficulty=0.0, seed=3), folder)
    table = pd.read_csv(folder / "labels.csv")
    for number, row in table.iterrows():
        mask = (np.asarray(Image.open(folder / row["mask"])) > 0).astype(np.uint8)
        image = np.array(Image.open(folder / row["image"]))
        rim = np.pad(mask, 4)
        inner = np.minimum.reduce([np.roll(rim, shift, (0, 1)) for shift in [(4, 0), (-4, 0), (0, 4), (0, -4)]])
        mask += inner[4:-4, 4:-4] * mask
        image[mask == 2] = (40, 40, 160)
        mask[0, :5] = 255
        if number % 2:
            image, mask = image[:36], mask[:36]
        Image.fromarray(image).save(folder / row["image"])
        Image.fromarray(mask).save(folder / row["mask"])
    description = {"mask_classes": ["background", "cytoplasm", "nucleus"], "ignore": 255}
    (folder / "dataset.json").write_text(json.dumps(description))
    table.drop(columns="group").to_csv(folder / "labels.csv", index=False)
    return folder


class TestDrawing:
    def test_so_many_of_each_class_and_the_others_hidden(self, cell_images):
        cases = load_cases(cell_images)
        splits = draw_masks(cases, RelabelDesign(5, 3), seed=1)
        assert [split.name for split in splits] == ["run_0", "run_1", "run_2"]
        for split in splits:
            assert np.bincount(cases.labels[split.train]).tolist() == [5, 5] and not len(split.val)
            assert sorted([*split.train, *split.test]) == list(range(len(cases)))
        assert len({tuple(split.train) for split in splits}) == 3, "every run draws its own"
        (second,) = draw_masks(cases, RelabelDesign(5, 1), seed=2)
        assert second.train.tolist() == splits[1].train.tolist(), "run r has the seed + r"

    def test_the_order_of_the_rows_makes_no_difference(self, cell_images):
        cases = load_cases(cell_images)
        order = np.random.default_rng(0).permutation(len(cases))
        (one,), (other,) = (draw_masks(some, RelabelDesign(5), 0) for some in (cases, cases.subset(order)))
        assert set(one.train) == set(order[other.train])

    def test_cases_without_label_or_mask_are_not_given(self, cell_images):
        cases = load_cases(cell_images)
        labels, masks = cases.table["label"].astype(object).copy(), cases.table["mask"].astype(object).copy()
        labels[:3], masks[3:6] = None, None
        (split,) = draw_masks(replace(cases, table=cases.table.assign(label=labels, mask=masks)), RelabelDesign(9), 0)
        assert set(range(6)) <= set(split.test)

    def test_the_others_have_no_mask(self, cell_images):
        cases = load_cases(cell_images)
        given = with_hidden_masks(cases, np.array([0, 7]))
        assert np.flatnonzero(given.has_mask).tolist() == [0, 7] and cases.has_mask.all()
        assert given.table["mask"][7] == cases.table["mask"][7]

    def test_what_can_not_be_drawn(self, cell_images):
        cases = load_cases(cell_images)
        with pytest.raises(DataError, match=r"'benign': has 16 masks; at least 17 are needed"):
            draw_masks(cases, RelabelDesign(16), 0)
        with pytest.raises(ConfigError, match="has no masks to hide"):
            draw_masks(with_hidden_masks(cases, np.array([])), RelabelDesign(1), 0)
        unlabelled = replace(cases, table=cases.table.assign(label=None), classes=())
        with pytest.raises(ConfigError, match="has no labels"):
            draw_masks(unlabelled, RelabelDesign(1), 0)
        for values in ((0, 1), (1, 0)):
            with pytest.raises(ConfigError, match="must be at least 1"):
                RelabelDesign(*values)


def written(
    folder: Path, masks: list[np.ndarray], drawn: list[np.ndarray], flags: str, confidences: list[float]
) -> Path:
    """A dataset with true masks, and in ``drawn`` what is read of a labelling's folder."""
    for name in ("images", "masks", "drawn/masks"):
        (folder / name).mkdir(parents=True)
    lines, review = ["id,image,mask,label"], ["rank,id,mask,confidence,check_first"]
    for number, (true, found) in enumerate(zip(masks, drawn, strict=True)):
        name = f"{number}.png"
        Image.fromarray(np.full((*true.shape, 3), number, np.uint8)).save(folder / "images" / name)
        Image.fromarray(true).save(folder / "masks" / name)
        Image.fromarray(found).save(folder / "drawn" / "masks" / name)
        lines.append(f"0{number},images/{name},masks/{name},a")
        review.insert(1, f"1,0{number},masks/{name},{confidences[number]},{'yes' if flags[number] == 'y' else 'no'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "drawn" / "review.csv").write_text("\n".join(review) + "\n")
    return folder


class TestScores:
    def test_of_three_classes_by_hand(self, tmp_path):
        true = np.array([[0, 0, 1, 1, 2, 2], [0, 255, 1, 1, 2, 2]], np.uint8)
        drawn = np.array([[0, 1, 1, 1, 1, 2], [0, 2, 1, 0, 2, 2]], np.uint8)
        nothing = np.zeros((2, 6), np.uint8)
        folder = written(tmp_path / "data", [true, true], [drawn, nothing], "yn", [0.75, 0.5])
        (folder / "dataset.json").write_text(
            json.dumps({"mask_classes": ["background", "cytoplasm", "nucleus"], "ignore": 255})
        )
        table = score_labels(load_cases(folder), folder / "drawn")
        assert table["id"].tolist() == ["00", "01"], "in the order of the cases"
        # Known pixels: background 3, cytoplasm 4, nucleus 4. Drawn: background 2 of 3 and 1 more, cytoplasm 3 of 4 and
        # 2 more, nucleus 3 of 4.
        overlaps = [2 / 4, 3 / 6, 3 / 4]
        first = table.iloc[0]
        assert first[["iou_background", "iou_cytoplasm", "iou_nucleus"]].tolist() == pytest.approx(overlaps)
        assert first["mean_iou"] == pytest.approx(np.mean(overlaps))
        assert first["foreground_iou"] == pytest.approx(np.mean(overlaps[1:]))
        assert first["iou"] == pytest.approx(7 / 9) and first["dice"] == pytest.approx(14 / 16)
        assert (first["confidence"], first["check_first"]) == (0.75, 1.0)
        second = table.iloc[1]
        assert second[["iou_background", "iou_cytoplasm", "iou", "check_first"]].tolist() == pytest.approx(
            [3 / 11, 0.0, 0.0, 0.0]
        )

    def test_of_a_lesion_alone(self, tmp_path):
        true, drawn = np.zeros((2, 2, 4), np.uint8)
        true[0], drawn[0, :3] = 255, 255
        folder = written(tmp_path / "data", [true], [drawn], "n", [0.9])
        cases = load_cases(folder)
        assert cases.mask_classes == MaskClasses()
        (row,) = score_labels(cases, folder / "drawn").to_dict("records")
        assert row["iou"] == row["iou_lesion"] == row["foreground_iou"] == pytest.approx(3 / 4)
        assert row["iou_background"] == pytest.approx(4 / 5) and row["mean_iou"] == pytest.approx((3 / 4 + 4 / 5) / 2)

    def test_what_confidence_and_list_are_worth(self):
        overlap = np.arange(20) / 20
        flags = np.zeros(20)
        flags[[0, 2, 10]] = 1
        per_case = {"foreground_iou": overlap, "confidence": overlap**2, "check_first": flags}
        scores = LabelScores(np.arange(20), per_case=per_case)
        found = scores.metrics(())
        assert found["spearman"] == pytest.approx(1.0) and found["check_first"] == pytest.approx(3 / 20)
        assert found["check_first_iou"] == pytest.approx(0.2), "of 0, 0.1 and 0.5"
        assert found["others_iou"] == pytest.approx((overlap.sum() - 0.6) / 17)
        assert found["worst_found"] == pytest.approx(1 / 2), "the worst two are 0 and 1"
        reversed_order = LabelScores(np.arange(20), per_case={**per_case, "confidence": -overlap})
        assert reversed_order.metrics(())["spearman"] == pytest.approx(-1.0)
        few = scores.metrics((), np.array([3, 4, 5]))
        assert np.isnan(few["spearman"]) and np.isnan(few["check_first_iou"])
        assert few["others_iou"] == pytest.approx(0.2) and few["worst_found"] == 0.0
        assert LabelScores(np.arange(2), per_case={"iou": np.array([0.5, 1.0])}).metrics(()) == {"iou": 0.75}


@pytest.fixture(scope="module")
def relabelled(cell_images, tmp_path_factory) -> tuple[Run, list[str]]:
    """Begun with the control, broken off once a labelling was done, then gone on with. Not to be changed."""
    config, folder = replace(TINY, data=str(cell_images)), tmp_path_factory.mktemp("relabelled") / "run"
    lines: list[str] = []
    first = run_relabelling(config, DESIGN, folder, session=Session(cells=("1",)), say=silent, **OPTIONS)
    metrics = read_json(first.path("metrics.json"))
    assert [row["name"] for row in metrics["rows"]] == ["all_foreground"] and len(metrics["missing"]) == 2
    seeds, train = [], label.train_segmenter

    def counted(config, *arguments):
        seeds.append((config.seed, config.split_seed))
        return train(config, *arguments)

    def broken(*arguments):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label, "train_segmenter", counted)
        with pytest.MonkeyPatch.context() as other, pytest.raises(KeyboardInterrupt):
            other.setattr(relabel_cells, "score_labels", broken)
            run_relabelling(config, DESIGN, folder, say=silent, **OPTIONS)
        run = run_relabelling(config, DESIGN, folder, say=lines.append, **OPTIONS)
    assert seeds == [(0, 0), (1000, 1)], "each run its own training and its own draw; none is trained twice"
    return run, lines


class TestRun:
    def test_a_run_is_a_labelling_that_was_given_the_drawn_masks_alone(self, relabelled, cell_images):
        run, _ = relabelled
        given = []
        for number, split in enumerate(read_json(run.path("splits.json"))):
            folder = run.path("outputs", f"unet-fold{number}")
            table = pd.read_csv(folder / "labels.csv")
            assert set(table["id"][table["mask_source"] == "given"]) == set(split["train"])
            assert (folder / "review.html").is_file() and (folder / "labelling.json").is_file()
            for row in table[table["mask_source"] == "given"].itertuples():
                assert (folder / row.mask).read_bytes() == (cell_images / "masks" / f"{row.id}.png").read_bytes()
            given.append(set(split["train"]))
        assert given[0] != given[1]

    def test_the_scores_are_those_of_the_drawn_files(self, relabelled, cell_images):
        run, _ = relabelled
        rows = {row["name"]: row for row in read_json(run.path("metrics.json"))["rows"]}
        labels = pd.read_csv(cell_images / "labels.csv", index_col="image")["label"]
        means, by_label = [], []
        for number, split in enumerate(read_json(run.path("splits.json"))):
            found = []
            for name in split["test"]:
                true = np.asarray(Image.open(cell_images / "masks" / f"{name}.png"))
                drawn = np.asarray(Image.open(run.path("outputs", f"unet-fold{number}", "masks", f"{name}.png")))
                known = true != 255
                overlap = [
                    ((true == value) & (drawn == value))[known].sum()
                    / ((true == value) | (drawn == value))[known].sum()
                    for value in range(3)
                ]
                cell = ((true > 0) & (drawn > 0))[known].sum() / ((true > 0) | (drawn > 0))[known].sum()
                found.append([*overlap, np.mean(overlap), cell])
            means.append(np.mean(found, 0))
            malignant = [labels[f"images/{name}.png"] == "malignant" for name in split["test"]]
            by_label.append(np.mean(np.array(found)[malignant], 0))
        names = ("iou_background", "iou_cytoplasm", "iou_nucleus", "mean_iou", "iou")
        metrics, of_class = rows["unet"]["metrics"], rows["unet"]["per_class"]["malignant"]
        for at, name in enumerate(names):
            assert metrics[name]["values"] == pytest.approx([mean[at] for mean in means]), name
            assert of_class[name] == pytest.approx(np.mean([mean[at] for mean in by_label])), name
        assert of_class["support"] == 20, "ten hidden ones of each run"
        assert (
            metrics["mean_iou"]["mean"] > 0.5
            and metrics["iou"]["mean"] > rows["all_foreground"]["metrics"]["iou"]["mean"]
        )
        assert {"spearman", "check_first_iou", "others_iou", "worst_found", "epochs"} <= metrics.keys()

    def test_the_control_is_of_the_whole_cell(self, relabelled):
        rows = {row["name"]: row for row in read_json(relabelled[0].path("metrics.json"))["rows"]}
        control = rows["all_foreground"]
        assert control["metrics"]["iou"]["mean"] + control["metrics"]["pixel_error"]["mean"] == pytest.approx(1.0)
        assert "mean_iou" not in control["metrics"] and control["paper"] is None
        assert control["settings"] == {"baseline": "foreground"}

    def test_table_figures_and_report(self, relabelled):
        run, lines = relabelled
        text = run.path("table.md").read_text(encoding="utf-8")
        assert "mean_iou (paper)" in text and "| 0.940 |" in text and "unet: one example." in text
        assert "## unet, by class of image" in text and "draws 6 images of each class" in text
        assert "over 2 folds or runs" in text and "python experiments/cervical.py" in text
        assert {path.name for path in run.path("figures").iterdir()} == {
            "comparison.png",
            "segmenter_curves.png",
            "confidence.png",
            "masks.png",
        }
        assert "one example" in run.path("report.html").read_text(encoding="utf-8")
        assert run.path("models", "unet", "model.keras").is_file() and run.path("history.csv").is_file()
        assert run.finished and "outputs" in describe_relabelling(run)
        assert any("run 1: 12 masks given" in line for line in lines)

    def test_a_finished_one_is_not_run_again(self, relabelled, cell_images, monkeypatch):
        monkeypatch.setattr(label, "train_segmenter", None)
        lines: list[str] = []
        run_relabelling(replace(TINY, data=str(cell_images)), DESIGN, relabelled[0].folder, say=lines.append, **OPTIONS)
        assert any("finished before" in line for line in lines)


def test_the_picture_of_confidence_parts_what_is_to_be_checked(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(pictures, "write_png", lambda figure, path: kept.append(figure))
    scores = {"confidence": [0.9, 0.4, 0.8], "foreground_iou": [0.7, 0.2, 0.6], "check_first": [0.0, 1.0, 0.0]}
    ranks = {f"run {number}": 0.25 * number for number in range(5)}
    pictures.draw_confidence(dict.fromkeys(ranks, scores), ranks, tmp_path / "f.png")
    panels = kept[0].axes
    assert [panel.get_title(loc="left") for panel in panels] == [
        "run 0: Spearman ρ 0.00",
        "run 1: Spearman ρ 0.25",
        "run 2: Spearman ρ 0.50",
    ]
    points = [line.get_xydata().tolist() for line in panels[0].lines]
    assert points == [[[0.9, 0.7], [0.8, 0.6]], [[0.4, 0.2]]]
    labels = [text.get_text() for text in panels[0].get_legend().get_texts()]
    assert labels == ["others (2)", "to check first (1)"]


@pytest.mark.parametrize(
    ("changes", "session", "message"),
    [
        ({"cross_validation": 3}, Session(), "no use for cross_validation"),
        ({"segmenter": "none"}, Session(), "needs a segmenter"),
        ({}, Session(cells=("fpn",)), "there is no row 'fpn'"),
        ({}, Session(folds=("2",)), "must be numbers from 0 to 1"),
    ],
)
def test_mistakes_are_found_before_anything_is_drawn(cell_images, tmp_path, changes, session, message):
    config = replace(TINY, data=str(cell_images), **changes)
    with pytest.raises(ConfigError, match=message):
        run_relabelling(config, DESIGN, tmp_path / "run", session=session, say=silent)
    assert not (tmp_path / "run").exists()


def test_a_labelling_whose_time_is_over_pauses_the_run(cell_images, tmp_path, monkeypatch):
    given = []

    def out_of_time(config, arrays, split, sitting):
        given.append(sitting.deadline)
        raise Paused("time is over")

    monkeypatch.setattr(label, "train_segmenter", out_of_time)
    config, started = replace(TINY, data=str(cell_images)), time.monotonic()
    with pytest.raises(Paused):
        run_relabelling(config, DESIGN, tmp_path / "run", session=Session(max_minutes=30), say=silent)
    assert given[0] == pytest.approx(started + 1800, abs=60), "it is told how much of the session's time is left"
    run = Run(tmp_path / "run")
    assert read_json(run.path("state.json"))["state"] == "paused"
    assert read_json(run.path("outputs", "unet-fold0", "state.json"))["state"] == "paused"
    assert [row["name"] for row in read_json(run.path("metrics.json"))["rows"]] == ["all_foreground"]


def test_masks_of_an_earlier_labelling_are_no_truth(relabelled, tmp_path):
    """Of the 12 given masks of a labelled folder 7 of each class can't be given."""
    folder = relabelled[0].path("outputs", "unet-fold0")
    with pytest.raises(DataError, match="has 6 masks; at least 7"):
        run_relabelling(replace(TINY, data=str(folder)), DESIGN, tmp_path / "run", say=silent)


class TestExperiment:
    @pytest.mark.parametrize("preset", list(CERVICAL_PRESETS["labelling"]))
    def test_its_presets_can_be_built(self, preset):
        preset = CERVICAL_PRESETS["labelling"][preset]
        # The stage gives them to the design.
        assert preset.segmenter_masks == 20
        config = replace(preset, data="d", segmenter_masks=0).resolved()
        label.check_settings(config, 1)
        configured_loss(config)
        known = segmenter_options(config.segmenter)
        assert set(named_values(config.segmenter_options, "segmenter_options")) <= set(known)

    def test_from_its_command_line(self, cell_images, tmp_path, monkeypatch, capsys):
        script, out = runpy.run_path(str(SCRIPT)), tmp_path / "run"
        line = ["cervical.py", "--data", str(cell_images), "--out", str(out), "--segmenter-masks", "4", "--runs", "2"]
        monkeypatch.setattr("sys.argv", [*line, "--stage", "labelling", "--cells", "all_foreground"])
        assert script["run"]() == 0
        metrics = read_json(out / "metrics.json")
        assert (metrics["experiment"], metrics["preset"], metrics["cells"]) == ("cervical_labelling", "quick", 4)
        assert metrics["command"].startswith("python experiments/cervical.py --data ")
        assert metrics["design"] == {"masks_per_class": 4, "runs": 2}
        assert "report" in capsys.readouterr().out

    def test_a_stage_that_there_is_not(self, cell_images, monkeypatch):
        monkeypatch.setattr("sys.argv", ["cervical.py", "--data", str(cell_images), "--stage", "dreaming"])
        with pytest.raises(UserError, match="`--stage` must be one of labelling, fusion, received 'dreaming'"):
            runpy.run_path(str(SCRIPT))["run"]()

    def test_it_says_what_its_numbers_are_not(self):
        script = runpy.run_path(str(SCRIPT))
        assert "cleaned public set" in script["__doc__"] and any("not comparable" in note for note in script["NOTES"])
