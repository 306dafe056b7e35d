"""Labelling from end to end: what is written, what stays as it was, and that it goes on where it stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.commands.audit import Audit
from tfseg.commands.label import Label
from tfseg.config import ComparisonConfig
from tfseg.data.batches import load_arrays
from tfseg.data.cases import Cases, MaskClasses
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources import load_cases
from tfseg.errors import ConfigError, DataError, Paused, RunError, TrainingError
from tfseg.evaluation.mask_classes import class_means, score_classes
from tfseg.jobs.label import job as label
from tfseg.jobs.label.data import divide, file_names, lesion_value, pixel_weights, upright_size
from tfseg.jobs.label.job import label_masks, weighted
from tfseg.models.classifier import segmentation_graph
from tfseg.run import Run, read_json
from tfseg.session import Session

SIZE = 32
TINY = ComparisonConfig(
    data="",
    image_size=SIZE,
    val_fraction=0.3,
    segmenter_loss="dice_focal",
    segmenter_width=4,
    segmenter_depth=2,
    segmenter_epochs=20,
    segmenter_batch_size=4,
    segmenter_learning_rate=1e-2,
)
GIVEN = 12


def rows_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def without_masks(folder: Path, kept: int = GIVEN) -> Path:
    """Only the first masks are left."""
    rows = rows_of(folder / "labels.csv")
    for row in rows[kept:]:
        (folder / row["mask"]).unlink()
        row["mask"] = ""
    write_rows(folder / "labels.csv", rows)
    return folder


@pytest.fixture(scope="module")
def phantom_cells(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """36 images of two sizes with three mask classes, pixels nobody knows, and 12 of the masks; and all the masks."""
    folder = tmp_path_factory.mktemp("cells") / "data"
    write_phantoms(PhantomConfig(images=36, size=40, classes=("benign", "malignant"), difficulty=0.0, seed=3), folder)
    rows, truth = rows_of(folder / "labels.csv"), {}
    for number, row in enumerate(rows):
        mask = (np.asarray(Image.open(folder / row["mask"])) > 0).astype(np.uint8)
        image = np.array(Image.open(folder / row["image"]))
        rim = np.pad(mask, 4)
        inner = np.minimum.reduce([np.roll(rim, shift, (0, 1)) for shift in [(4, 0), (-4, 0), (0, 4), (0, -4)]])
        mask += inner[4:-4, 4:-4] * mask
        image[mask == 2] = (40, 40, 160)
        if number % 2:
            image, mask = image[:32], mask[:32]
        row["id"] = f"slide/{number}"
        truth[row["id"]] = mask.copy()
        mask[0, :5] = 255
        Image.fromarray(image).save(folder / row["image"])
        Image.fromarray(mask).save(folder / row["mask"])
    write_rows(folder / "labels.csv", rows)
    description = {"mask_classes": ["background", "cytoplasm", "nucleus"], "ignore": 255}
    (folder / "dataset.json").write_text(json.dumps(description))
    return without_masks(folder), truth


@pytest.fixture(scope="module")
def labelled(phantom_cells, tmp_path_factory) -> tuple[Run, Path, dict, list[str]]:
    folder, truth = phantom_cells
    before, lines = digests(folder), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label, "CHUNK", 10)
        patch.setattr(label, "AT_ONCE", 4)
        out = tmp_path_factory.mktemp("labelled") / "out"
        run = label_masks(replace(TINY, data=str(folder)), out, command="tfseg label cells", say=lines.append)
    assert digests(folder) == before, "the data is only read"
    return run, folder, truth, lines


class TestFolder:
    def test_it_passes_the_audit(self, labelled, capsys):
        assert Audit(data=str(labelled[0].folder)).run() == 0
        assert "0 errors\n" in capsys.readouterr().out

    def test_the_table(self, labelled):
        run, folder, _, _ = labelled
        rows, source = rows_of(run.path("labels.csv")), rows_of(folder / "labels.csv")
        assert [row["mask_source"] for row in rows] == ["given"] * GIVEN + ["predicted"] * 24
        for row, old in zip(rows, source, strict=True):
            assert {name: row[name] for name in ("id", "label", "group", "symmetry")} == {
                name: old[name] for name in ("id", "label", "group", "symmetry")
            }
            assert (run.folder / row["image"]).read_bytes() == (folder / old["image"]).read_bytes()
            assert re.fullmatch(r"0\.\d{4}", row["mask_confidence"]) if not old["mask"] else not row["mask_confidence"]

    def test_given_masks_byte_for_byte(self, labelled):
        run, folder, _, _ = labelled
        for row, old in zip(rows_of(run.path("labels.csv"))[:GIVEN], rows_of(folder / "labels.csv"), strict=False):
            assert (run.folder / row["mask"]).read_bytes() == (folder / old["mask"]).read_bytes()
            assert (run.folder / row["mask"]).stat().st_ino != (folder / old["mask"]).stat().st_ino

    def test_predicted_masks_are_class_values_at_the_images_size(self, labelled):
        run, _, truth, _ = labelled
        overlaps = []
        for row in rows_of(run.path("labels.csv"))[GIVEN:]:
            mask = np.asarray(Image.open(run.folder / row["mask"]))
            assert mask.dtype == np.uint8 and mask.shape == truth[row["id"]].shape and mask.max() <= 2
            both, either = (mask > 0) & (truth[row["id"]] > 0), (mask > 0) | (truth[row["id"]] > 0)
            overlaps.append(both.sum() / either.sum())
        assert np.mean(overlaps) > 0.5, "a mask of everything has 0.25"

    def test_it_reads_as_cases_with_the_same_mask_classes(self, labelled):
        run, folder, _, _ = labelled
        cases = load_cases(run.folder)
        assert cases.mask_classes == load_cases(folder).mask_classes and cases.has_mask.all()

    def test_the_report(self, labelled):
        run, _, _, lines = labelled
        report = read_json(run.path("labelling.json"))
        assert (report["cases"], report["given"], report["predicted"]) == (36, GIVEN, 24)
        assert report["training"] + report["validation"]["masks"] == GIVEN
        assert list(report["validation"]["classes"]) == ["background", "cytoplasm", "nucleus"]
        assert report["validation"]["classes"]["nucleus"]["masks"] == report["validation"]["masks"]
        assert 0.0 < report["validation"]["lesion"]["iou"] <= 1.0 and report["command"] == "tfseg label cells"
        (option,) = report["training_facts"]["loss_options"]
        weights = [float(word) for word in option.removeprefix("class_weights=").split(",")]
        assert len(weights) == 3 and weights[0] == min(weights), "the background has the most pixels"
        assert lines[-1] == report["text"] and "nucleus" in report["text"]

    def test_the_scores_of_the_classes_are_those_of_the_maps(self, labelled, phantom_cells):
        run, folder, _, _ = labelled
        cases = load_cases(folder)
        given = cases.subset(np.flatnonzero(cases.has_mask))
        validation = given.subset(np.flatnonzero(given.table["id"].isin(read_json(run.path("splits.json"))[0]["val"])))
        model = keras.saving.load_model(run.path("models", "segmenter.keras"), compile=False)
        maps = model.predict(load_arrays(validation, SIZE).images / np.float32(255), verbose=0)["mask"]
        for name, scores in class_means(score_classes(validation, maps)).items():
            found = read_json(run.path("labelling.json"))["validation"]["classes"][name]
            assert found["iou"] == pytest.approx(scores["iou"], abs=2e-3)

    def test_the_list(self, labelled):
        run, _, _, _ = labelled
        rows = rows_of(run.path("review.csv"))
        confidence = {row["id"]: row["mask_confidence"] for row in rows_of(run.path("labels.csv"))}
        assert {row["id"] for row in rows} == {name for name, value in confidence.items() if value}
        assert [int(row["rank"]) for row in rows] == list(range(1, 25))
        keys = [(row["check_first"] == "no", float(row["confidence"])) for row in rows]
        assert keys == sorted(keys)
        assert all((row["check_first"] == "yes") == bool(row["reasons"]) for row in rows)
        assert all(row["confidence"] == confidence[row["id"]] for row in rows)
        report = read_json(run.path("labelling.json"))
        assert report["check_first"] == sum(row["check_first"] == "yes" for row in rows)

    def test_the_page_stands_by_itself(self, labelled):
        page = labelled[0].path("review.html").read_text()
        assert page.count("data:image/jpeg;base64,") == 24 + 8 and "can't be read" not in page
        assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
        order = re.findall(r'alt="(slide/\d+)"', page)
        assert order[:24] == [row["id"] for row in rows_of(labelled[0].path("review.csv"))]

    def test_again_writes_nothing(self, labelled):
        run, folder, _, _ = labelled
        row = rows_of(run.path("review.csv"))[0]
        original = (run.folder / row["mask"]).read_bytes()
        Image.new("L", (3, 3)).save(run.folder / row["mask"])
        before = digests(run.folder)
        try:
            label_masks(replace(TINY, data=str(folder)), run.folder, say=lambda line: None)
            assert digests(run.folder) == before, "an expert's correction stays"
            with pytest.raises(RunError, match="segmenter_width"):
                label_masks(replace(TINY, data=str(folder), segmenter_width=8), run.folder)
        finally:
            (run.folder / row["mask"]).write_bytes(original)


class Trainer:
    """In place of a training: what is dark is lesion."""

    def __init__(self):
        self.splits = []

    def __call__(self, config, arrays, split, sitting):
        self.splits.append((arrays.ids[split.train], arrays.ids[split.val]))
        image = keras.Input((SIZE, SIZE, 3))
        lesion = keras.layers.Conv2D(1, 1)
        model = keras.Model(image, lesion(image))
        lesion.set_weights([np.full((1, 1, 3, 1), -7.0, np.float32), np.array([11.0], np.float32)])
        history = {"epoch": [1], "seconds": [0.1], "val_iou": [0.5]}
        return segmentation_graph(model, arrays.mask_classes, config.resize), pd.DataFrame(history), ""


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(label, "train_segmenter", trainer)
    return trainer


@pytest.fixture(scope="module")
def _binary(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("binary") / "data"
    config = PhantomConfig(images=24, size=SIZE, classes=("benign", "malignant"), images_per_group=1.5, seed=3)
    return without_masks(write_phantoms(config, folder))


@pytest.fixture
def binary(_binary, tmp_path) -> Path:
    """24 cases of which 12 have a binary mask, to be changed."""
    return Path(shutil.copytree(_binary, tmp_path / "data"))


@pytest.fixture
def go(tmp_path) -> Callable[..., Run]:
    def run(data: Path, out: str = "out", session: Session | None = None, **options) -> Run:
        own = {name: options.pop(name) for name in ("link_images", "sheet") if name in options}
        config = replace(TINY, data=str(data), **options)
        return label_masks(config, tmp_path / out, session=session or Session(), say=lambda line: None, **own)

    return run


class TestGoingOn:
    def test_after_an_interruption(self, go, trainer, binary, monkeypatch):
        monkeypatch.setattr(label, "CHUNK", 5)
        write, count = label.write_mask, iter(range(100))

        def interrupted(*arguments):
            if next(count) == 7:
                raise KeyboardInterrupt
            write(*arguments)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(label, "write_mask", interrupted)
            go(binary)
        written = []
        monkeypatch.setattr(label, "write_mask", lambda path, *rest: (written.append(path.stem), write(path, *rest)))
        run = go(binary)
        assert len(trainer.splits) == 1, "the training is not done again"
        assert len(written) == 7, "nor is the first chunk of five"
        other = go(binary, "other")
        for name in ("masks", "images"):
            assert digests(run.folder / name) == digests(other.folder / name)
        for name in ("labels.csv", "review.csv"):
            assert run.path(name).read_bytes() == other.path(name).read_bytes()

    def test_the_time_is_over(self, go, trainer, binary):
        with pytest.raises(Paused):
            go(binary, session=Session(max_minutes=1e-9))
        assert read_json(go(binary).path("state.json"))["state"] == "finished"

    def test_a_second_round_learns_from_what_was_accepted(self, go, trainer, binary):
        first = go(binary)
        rows = rows_of(first.path("labels.csv"))
        for row in rows[12:15]:
            row["mask_source"] = "given"
        write_rows(first.path("labels.csv"), rows)
        second = go(first.folder, "second")
        assert [len(train) + len(val) for train, val in trainer.splits] == [12, 15]
        again = rows_of(second.path("labels.csv"))
        assert [row["mask_source"] for row in again] == ["given"] * 15 + ["predicted"] * 9
        assert list(again[0]) == list(rows[0]), "no column twice"


class TestBinary:
    def test_masks_and_names(self, go, trainer, binary):
        rows = rows_of(binary / "labels.csv")
        for number, row in enumerate(rows):
            row["id"] = ["../a", "A", "a"][number] if number < 3 else f"case {number}"
        write_rows(binary / "labels.csv", rows)
        run = go(binary, link_images=True, sheet=3)
        rows = rows_of(run.path("labels.csv"))
        assert rows[0]["mask"] == "masks/_.._a.png" and rows[1]["mask"] == "masks/A.png"
        assert rows[2]["image"] == "images/a-2.png" and rows[3]["image"] == "images/case_3.png"
        assert sorted(path.name for path in run.path("masks").iterdir()) == sorted(
            row["mask"].removeprefix("masks/") for row in rows
        )
        for row in rows[12:]:
            assert set(np.unique(np.asarray(Image.open(run.folder / row["mask"])))) <= {0, 255}
        assert (run.folder / rows[0]["image"]).stat().st_nlink == 2 and (
            run.folder / rows[0]["mask"]
        ).stat().st_nlink == 1
        page = run.path("review.html").read_text()
        assert page.count("data:image") == 3 + 8 and "and 9 more in review.csv" in page

    def test_another_target_keeps_the_tables_own_columns(self, go, trainer, binary):
        run = go(binary, target="symmetry:symmetric=yes")
        assert [row["label"] for row in rows_of(run.path("labels.csv"))] == [
            row["label"] for row in rows_of(binary / "labels.csv")
        ]
        assert {row["symmetry"] for row in rows_of(run.path("labels.csv"))} == {"symmetric", "asymmetric"}

    def test_turned_images_get_upright_masks(self, go, trainer, binary):
        row = rows_of(binary / "labels.csv")[20]
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(binary / row["image"]).crop((0, 0, 32, 20)).save(binary / row["image"], exif=exif)
        assert upright_size(binary / row["image"]) == (32, 20)
        run = go(binary)
        assert Image.open(run.folder / rows_of(run.path("labels.csv"))[20]["mask"]).size == (20, 32)


class TestFlipsAndPostprocessing:
    """A network that sees what is dark as lesion, a pixel to the right of where it is."""

    @pytest.fixture
    def shifting(self, monkeypatch):
        def train(config, arrays, split, sitting):
            image = keras.Input((SIZE, SIZE, 3))
            lesion = keras.layers.Conv2D(1, (1, 3), padding="same")
            model = keras.Model(image, lesion(image))
            kernel = np.zeros((1, 3, 3, 1), np.float32)
            kernel[0, 0] = -7.0
            lesion.set_weights([kernel, np.array([11.0], np.float32)])
            history = {"epoch": [1], "seconds": [0.1], "val_iou": [0.5]}
            return segmentation_graph(model, arrays.mask_classes, config.resize), pd.DataFrame(history), ""

        monkeypatch.setattr(label, "train_segmenter", train)

    def shifted(self, images: np.ndarray) -> np.ndarray:
        """The network by hand: what lies beyond the left border counts as black."""
        left = np.concatenate([np.zeros_like(images[:, :, :1]), images[:, :, :-1]], axis=2)
        return 1 / (1 + np.exp(7 * left.sum(-1) - 11))

    def test_masks_by_hand(self, go, shifting, binary):
        rows = rows_of(binary / "labels.csv")[GIVEN:]
        images = np.stack([np.asarray(Image.open(binary / row["image"])) for row in rows]) / 255
        mean = (self.shifted(images) + self.shifted(images[:, :, ::-1])[:, :, ::-1]) / 2
        steps = ("fill_holes", "largest_component")
        runs = {
            "plain": go(binary, "plain"),
            "flips": go(binary, "flips", segmenter_flips="horizontal"),
            "cleaned": go(binary, "cleaned", segmenter_flips="horizontal", segmenter_postprocessing=steps),
        }
        masks = {
            name: np.stack(
                [np.asarray(Image.open(run.folder / row["mask"])) for row in rows_of(run.path("labels.csv"))]
            )
            for name, run in runs.items()
        }
        masks = {name: values[GIVEN:] > 0 for name, values in masks.items()}
        np.testing.assert_array_equal(masks["plain"], self.shifted(images) >= 0.5)
        np.testing.assert_array_equal(masks["flips"], mean >= 0.5)
        assert (masks["plain"] != masks["flips"]).any() and (masks["cleaned"] != masks["flips"]).any()
        for found, before in zip(masks["cleaned"], masks["flips"], strict=True):
            contours, _ = cv2.findContours(before.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            parts = [cv2.drawContours(np.zeros_like(before, np.uint8), [line], -1, 1, -1) for line in contours]
            assert found.sum() == max(part.sum() for part in parts)
            assert any((found == part).all() for part in parts)
        listed = rows_of(runs["cleaned"].path("review.csv"))
        assert not any("several parts" in row["reasons"] for row in listed)
        assert any("several parts" in row["reasons"] for row in rows_of(runs["flips"].path("review.csv")))
        confidence = {row["id"]: float(row["confidence"]) for row in listed}
        for row, p, b in zip(rows, mean, masks["cleaned"], strict=True):
            assert confidence[Path(row["image"]).stem] == pytest.approx(2 * p[b].sum() / (p.sum() + b.sum()), abs=1e-4)

    def test_the_validation_masks_are_scored_as_the_others_are_drawn(self, go, shifting, binary):
        run = go(binary, segmenter_postprocessing=("largest_component",))
        validation = read_json(run.path("splits.json"))[0]["val"]
        rows = {Path(row["image"]).stem: row for row in rows_of(binary / "labels.csv")}
        overlaps = []
        for name in validation:
            image = np.asarray(Image.open(binary / rows[name]["image"]))[None] / 255
            true = np.asarray(Image.open(binary / rows[name]["mask"])) > 0
            found = (self.shifted(image)[0] >= 0.5).astype(np.uint8)
            _, parts, facts, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
            found = parts == 1 + facts[1:, cv2.CC_STAT_AREA].argmax()
            overlaps.append((true & found).sum() / (true | found).sum())
        report = read_json(run.path("labelling.json"))["validation"]
        assert report["lesion"]["iou"] == pytest.approx(np.mean(overlaps))
        assert report["classes"]["lesion"]["iou"] == pytest.approx(np.mean(overlaps))
        assert read_json(run.path("cells", "segmenter-fold0.json"))["iou"] == pytest.approx(overlaps)


class TestMistakes:
    def no(self, binary, change) -> Path:
        rows = rows_of(binary / "labels.csv")
        change(rows)
        write_rows(binary / "labels.csv", rows)
        return binary

    @pytest.mark.parametrize("kept", [0, 3])
    def test_too_few_masks(self, go, trainer, binary, kept):
        data = self.no(binary, lambda rows: [row.update(mask="") for row in rows[kept:]])
        with pytest.raises(ConfigError, match=f"^{kept} of 24 cases .* have a mask; .* at least 4"):
            go(data)

    def test_nothing_to_label(self, go, trainer, binary):
        data = self.no(binary, lambda rows: [row.update(mask=rows[0]["mask"]) for row in rows])
        with pytest.raises(ConfigError, match="all 24 cases .* have a mask"):
            go(data)

    def test_a_mask_class_that_never_occurs(self, go, trainer, binary, tmp_path):
        (binary / "dataset.json").write_text('{"mask_classes": ["background", "cytoplasm", "nucleus"]}')
        for row in rows_of(binary / "labels.csv")[:GIVEN]:
            mask = np.asarray(Image.open(binary / row["mask"]))
            Image.fromarray((mask > 0).astype(np.uint8)).save(binary / row["mask"])
        with pytest.raises(DataError, match="mask class 'nucleus': occurs in none of the 12 masks"):
            go(binary)
        assert not (tmp_path / "out").exists(), "the folder is free for the mended data"

    def test_broken_files_are_named_all(self, go, trainer, binary):
        rows = rows_of(binary / "labels.csv")
        for row in (rows[0], rows[20]):
            (binary / row["image"]).write_bytes(b"")
        with pytest.raises(DataError) as caught:
            go(binary)
        assert len(caught.value.problems) == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"approaches": ("plain",), "head_units": 8}, "no use for approaches, head_units"),
            ({"segmenter": "none"}, "`segmenter` is none"),
            ({"distribution": "multiworker"}, "one machine"),
            ({"sheet": 0}, "`sheet`"),
        ],
    )
    def test_settings(self, go, binary, change, message):
        with pytest.raises(ConfigError, match=message):
            go(binary, **change)

    def test_never_into_the_data(self, go, binary):
        before = digests(binary)
        with pytest.raises(ConfigError, match="lies inside the data"):
            go(binary, "data/labelled")
        with pytest.raises(ConfigError, match="lies inside the data"):
            go(binary, "data")
        assert digests(binary) == before

    def test_a_training_that_breaks_down(self, go, binary, monkeypatch, tmp_path):
        def breaks(*arguments):
            raise TrainingError("the loss is no number")

        monkeypatch.setattr(label, "train_segmenter", breaks)
        with pytest.raises(TrainingError, match="^the loss is no number$"):
            go(binary)
        assert not (tmp_path / "out").exists()


class TestParts:
    def test_stratified_by_whole_groups(self, binary):
        cases = load_cases(binary)
        given = cases.subset(np.flatnonzero(cases.has_mask))
        split = divide(given, load_arrays(given, SIZE), 0.3, 0)
        train, val = split.train, split.val
        assert sorted([*train, *val]) == list(range(GIVEN)) and not len(split.test)
        assert not set(given.groups[train]) & set(given.groups[val])
        assert set(given.labels[val]) == set(given.labels[train]) == {0, 1}
        again = divide(given, load_arrays(given, SIZE), 0.3, 0)
        assert np.array_equal(again.val, val)

    def test_a_class_in_one_mask_is_learned_from(self, binary):
        cases = load_cases(binary)
        given = cases.subset(np.flatnonzero(cases.has_mask))
        classes = MaskClasses(("background", "lesion", "nucleus"))
        arrays = load_arrays(given, SIZE)
        for alone in range(GIVEN):
            masks = arrays.masks.copy()
            masks[alone, 5, 5] = 2
            split = divide(replace(given, mask_classes=classes), replace(arrays, masks=masks), 0.3, 0)
            assert alone in split.train

    def test_one_group_cannot_be_divided(self, binary):
        cases = load_cases(binary)
        given = cases.subset(np.flatnonzero(cases.has_mask))
        given = replace(given, table=given.table.assign(group="one"))
        with pytest.raises(DataError, match="all cases with a mask are of one group"):
            divide(given, load_arrays(given, SIZE), 0.3, 0)

    def test_class_weights_by_hand(self):
        masks = np.array([[[0, 0, 0, 0], [0, 0, 1, 255], [1, 2, 255, 255]]], np.uint8)
        # 9 known pixels: 6, 2 and 1 of them, so 9 / (6 · 3), 9 / (2 · 3), 9 / (1 · 3).
        assert pixel_weights(masks, 3) == [0.5, 1.5, 3.0]

    def test_class_weights_where_they_belong(self, phantom_cells, binary):
        for folder, loss, options, expected in [
            (phantom_cells[0], "dice_focal", (), 1),
            (phantom_cells[0], "dice_focal", ("class_weights=1,1,1",), 1),
            (phantom_cells[0], "bce_with_logits", (), 0),
            (binary, "dice_focal", (), 0),
        ]:
            cases = load_cases(folder)
            given = cases.subset(np.flatnonzero(cases.has_mask))
            arrays = load_arrays(given, SIZE)
            config = replace(TINY, segmenter_loss=loss, segmenter_loss_options=options)
            found = weighted(config, arrays, divide(given, arrays, 0.3, 0)).segmenter_loss_options
            assert len(found) == expected and (not options or found == options)


@pytest.mark.parametrize(
    ("values", "ignore", "expected"),
    [([0, 255], None, 255), ([0, 1], None, 1), ([0, 1], 255, 1), ([0, 255], 7, 255)],
)
def test_lesion_value(tmp_path, values, ignore, expected):
    Image.new("L", (2, 1)).save(tmp_path / "empty.png")
    Image.fromarray(np.array([values], np.uint8)).save(tmp_path / "mask.png")
    table = pd.DataFrame({"label": ["a", "a"], "mask": [str(tmp_path / "empty.png"), str(tmp_path / "mask.png")]})
    assert lesion_value(Cases(table, tmp_path, mask_classes=MaskClasses(ignore=ignore))) == expected


def test_file_names():
    names = file_names(["x", "X", "a/b", "a_b", "..", ".hidden", "x-2", "é 1", "long" * 80])
    assert names[:8] == ["x", "X-2", "a_b", "a_b-2", "_..", "_.hidden", "x-2-2", "é_1"] and len(names[8]) == 100


def test_the_command_hands_everything_on(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "tfseg.jobs.label.job.label_masks", lambda config, out, **options: seen.update(options, c=config, o=out)
    )
    command = Label(data="d", out="o", link_images=True, sheet=7, max_minutes=3.0, segmenter_width=8)
    assert command.run() == 0
    assert (seen["o"], seen["link_images"], seen["sheet"]) == ("o", True, 7)
    assert seen["session"] == Session(max_minutes=3.0)
    assert seen["c"] == ComparisonConfig(
        data="d", segmenter_width=8, segmenter_loss="dice_focal", segmenter_epochs=60, val_fraction=0.2
    )
    with pytest.raises(ConfigError, match="max_minutes"):
        Label(data="d", max_minutes=0.0)
