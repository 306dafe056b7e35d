"""SE-LCN in a comparison: its stages, what they were trained on, its controls, and the graph that is stored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from tfseg.approaches import APPROACHES
from tfseg.data.batches import load_arrays, make_batches
from tfseg.data.phantom import PhantomConfig
from tfseg.data.phantom_folder import phantom_folder
from tfseg.data.sources import load_cases
from tfseg.data.splits import read_split
from tfseg.errors import RunError, UserError
from tfseg.export.predictor import load_predictor
from tfseg.jobs import cells as cells_module
from tfseg.jobs.cells import Comparison, read_arrays
from tfseg.jobs.compare.job import compare
from tfseg.jobs.comparison import run_comparison
from tfseg.jobs.export import trained_model
from tfseg.jobs.grid import Cell, wanted_cells
from tfseg.jobs.masks import exchanged_maps
from tfseg.jobs.preparation import configured_arrays
from tfseg.jobs.rows import ClassifierRow, rows_of
from tfseg.jobs.search.job import run_search
from tfseg.jobs.search.space import plan_search
from tfseg.models.classifier import behind_hair_removal
from tfseg.run import Run, read_json, write_json
from tfseg.session import Session
from tfseg.training import setup

SIZE = 32
STAGE = "symmetry_hard_mask"
ROWS = (
    *(ClassifierRow(name, name) for name in ("plain", "se_lcn", "se_lcn_lesion_area", "se_lcn_zeroed")),
    # Whose network is another image's can't learn along.
    ClassifierRow("se_lcn_shuffled", "se_lcn_shuffled", {"joint_symmetry": 1.0}),
    ClassifierRow("joint", "se_lcn", {"joint_symmetry": 1.0, "epochs": 2}),
    ClassifierRow("both", "se_lcn_soft_mask", {"joint_symmetry": 1.0, "joint_segmentation": 0.5, "epochs": 2}),
)
NAMES = [row.name for row in ROWS]
UNKNOWN = slice(0, 4)
# One of two folds is trained, which is not the one that a mistake would take for every fold.
FOLD = 1
SESSION = Session(folds=(str(FOLD),))


@pytest.fixture(scope="module")
def data(tmp_path_factory, rows_of, write_rows):
    """40 hairy cases of about 27 lesions; of four nobody knows the symmetry."""
    drawn = PhantomConfig(images=40, size=SIZE, classes=("benign", "malignant"), images_per_group=1.5, hairs=1.0)
    folder = phantom_folder(tmp_path_factory.mktemp("se_lcn") / "phantoms", drawn)
    rows = rows_of(folder / "labels.csv")
    for row in rows[UNKNOWN]:
        row["symmetry"] = ""
    write_rows(folder / "labels.csv", rows)
    return folder


@pytest.fixture(scope="module")
def config(data, tiny):
    return tiny(
        data,
        symmetry_approach="hard_mask",
        hair_removal=True,
        cross_validation=2,
        test_fraction=0.2,
        balance="majority",
        segmenter_epochs=2,
        symmetry_epochs=2,
        epochs=1,
        pixel_steps=2,
    )


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory):
    """The run, and the ids that each of its trainings has been given, by cell."""
    seen, current, compute = {}, [], Comparison.compute

    def computed(self, cell, sitting):
        current[:] = [cell.key]
        return compute(self, cell, sitting)

    def batches(arrays, positions, *rest, **options):
        if options.get("training"):
            seen.setdefault(current[0], []).extend(arrays.ids[positions])
        return make_batches(arrays, positions, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "compute", computed)
        patch.setattr(setup, "make_batches", batches)
        out = tmp_path_factory.mktemp("compared") / "run"
        return run_comparison(config, out, rows=ROWS, session=SESSION, say=lambda line: None), seen


@pytest.fixture(scope="module")
def run(compared):
    return compared[0]


@pytest.fixture(scope="module")
def cases(config):
    return load_cases(config.data)


@pytest.fixture(scope="module")
def splits(run, cases):
    return read_split(run.path("splits.json"), cases)


@pytest.fixture(scope="module")
def comparison(run, config, cases, splits):
    resolved = config.resolved()
    return Comparison(run, resolved, cases, configured_arrays(resolved, cases), splits, ROWS)


@pytest.fixture
def again(run, tmp_path, monkeypatch):
    """A copy of the run that can be changed and gone on with; its figures are drawn already."""
    monkeypatch.setattr("tfseg.jobs.comparison.draw_figures", lambda *args: None)
    return Run(shutil.copytree(run.folder, tmp_path / "run"))


def metrics_of(run):
    return {row["name"]: row for row in read_json(run.path("metrics.json"))["rows"]}


class TestStages:
    def test_nothing_was_trained_on_what_its_fold_validates_or_tests(self, compared, cases, splits):
        """By lesion: neither segmenter nor symmetry network nor classifier has seen another picture of it."""
        _, seen = compared
        lesion_of = dict(zip(cases.table["id"], cases.groups, strict=True))
        assert set(seen) == {f"{row}-fold{FOLD}" for row in ("segmenter", STAGE, *NAMES)}
        split = splits[FOLD]
        for key, ids in seen.items():
            trained = {lesion_of[name] for name in ids}
            assert trained and not trained & set(cases.groups[split.val]), key
            assert not trained & set(cases.groups[split.test]), key
            assert set(ids) <= set(cases.table["id"].iloc[split.train]), key
        np.testing.assert_array_equal(splits[0].test, splits[1].test)

    def test_cases_without_a_symmetry_teach_it_nothing(self, compared, cases):
        _, seen = compared
        unknown = set(cases.table["id"][UNKNOWN])
        assert not unknown & set(seen[f"{STAGE}-fold{FOLD}"])
        assert unknown & set(seen[f"se_lcn-fold{FOLD}"]), "the lesions' classifier knows their label"

    def test_its_row_answers_another_question(self, run, config):
        rows = metrics_of(run)
        assert list(rows) == ["segmenter", STAGE, *NAMES]
        assert [name for name, row in rows.items() if "target" in row] == [STAGE]
        row = rows[STAGE]
        assert row["target"] == "symmetry" and set(row["per_class"]) == {"asymmetric", "symmetric"}
        assert row["settings"]["epochs"] == config.symmetry_epochs and row["settings"]["approach"] == "hard_mask"
        assert row["settings"]["saliency"] == "grad_cam_plus_plus"
        assert set(rows["se_lcn"]["per_class"]) == {"benign", "malignant"}
        assert "joint_symmetry" in rows["se_lcn"]["settings"] and "joint_symmetry" not in rows["plain"]["settings"]

    def test_its_predictions_lie_apart(self, run, cases, splits):
        assert {path.stem for path in run.path("predictions").glob("*.csv")} == set(NAMES)
        (path,) = run.path("predictions", "stages").glob("*.csv")
        table = pd.read_csv(path)
        assert path.stem == STAGE and set(table["true"]) == set(table["predicted"]) | set(table["true"])
        assert set(table["true"]) == {"asymmetric", "symmetric"}
        known = cases.subset(splits[FOLD].test).table.set_index("id")["symmetry"].dropna()
        assert set(table["id"]) == set(known.index)
        truth = table.drop_duplicates("id").set_index("id")["true"]
        assert truth.to_dict() == known.to_dict()

    def test_it_is_no_row_to_compare(self, run, tmp_path):
        compare([run.folder], tmp_path / "compared", draws=100, say=lambda line: None)
        text = Path(tmp_path / "compared" / "comparison.json").read_text()
        assert STAGE not in text and "se_lcn_lesion_area" in text

    def test_the_table_sets_it_apart(self, run):
        """Its accuracy stands in no column beside the lesions' classifiers'."""
        text = run.path("table.md").read_text()
        tables = [block for block in text.split("\n\n") if "|" in block]
        (own,) = [block for block in tables if STAGE in block]
        assert "se_lcn_zeroed" not in own and "plain" not in own

    def test_each_fold_trains_one_for_all_that_need_it(self, run, comparison):
        cells = comparison.cells()
        assert sum(cell.row == STAGE for cell in cells) == 2
        for cell in cells:
            wanted = {*NAMES} - {"plain", "se_lcn_zeroed"}
            needs = {need.key for need in cell.needs}
            assert (f"{STAGE}-fold{cell.fold}" in needs) == (cell.row in wanted), cell.key
        assert [path.name for path in run.path("cells").glob(f"{STAGE}*.json")] == [f"{STAGE}-fold{FOLD}.json"]

    def test_rows_that_see_it_alike_share_it(self, comparison, config, run, cases, splits):
        rows = [ClassifierRow("a", "se_lcn"), ClassifierRow("b", "se_lcn", {"learning_rate": 1e-4})]
        shared = Comparison(run, config.resolved(), cases, comparison.arrays, splits, rows)
        assert [row.name for row in shared.stages] == [STAGE]

    def test_a_part_of_the_grid_takes_what_it_needs(self, comparison):
        def keys(**session):
            names = [row.name for row in (*comparison.stages, *comparison.classifiers)]
            return [cell.key for cell in wanted_cells(comparison.cells(), Session(**session), names, 2)]

        wanted = ["segmenter-fold1", f"{STAGE}-fold1", "se_lcn_lesion_area-fold1"]
        assert keys(cells=("se_lcn_lesion_area",), folds=("1",)) == wanted
        assert keys(cells=(STAGE,), folds=("0",)) == ["segmenter-fold0", f"{STAGE}-fold0"]
        assert f"{STAGE}-fold0" not in keys(cells=("se_lcn_zeroed",))
        assert len(keys()) == len(comparison.cells())


class TestStoredGraph:
    @pytest.mark.parametrize("row", ["se_lcn", "se_lcn_lesion_area", "joint", "both"])
    def test_it_decides_on_the_images_as_they_are(self, run, config, cases, splits, row):
        """Hairs are taken out inside, and the map is made inside."""
        images = load_arrays(cases, SIZE).images[splits[FOLD].test]
        with np.load(run.path("outputs", f"{row}-fold{FOLD}.npz")) as kept:
            stored, told = kept["probabilities"], kept["saliency"]
        path = run.path("models", row, f"fold{FOLD}.keras")
        found = load_predictor(path).predict(images)
        assert set(found) >= {"probabilities", "mask", "saliency", "symmetry", "saliency_symmetry"}
        # The cell has tested images without hairs that were rounded to whole numbers.
        np.testing.assert_allclose(found["probabilities"], stored, atol=0.005)
        np.testing.assert_allclose(found["saliency"][..., 0], told / 255, atol=0.1)
        if row not in ("se_lcn", "se_lcn_lesion_area"):
            return
        # The stage's own answers, where it has learned no further.
        stage = read_arrays(run, Cell(STAGE, FOLD))
        known = cases.table["symmetry"].iloc[splits[FOLD].test].notna().to_numpy()
        np.testing.assert_allclose(found["symmetry"][known], stage["probabilities"], atol=0.005)
        np.testing.assert_allclose(found["saliency_symmetry"][known][..., 0], stage["saliency"] / 255, atol=0.1)
        assert load_predictor(path).info.symmetry == ("asymmetric", "symmetric")
        graph = keras.saving.load_model(path, compile=False)
        hairy = behind_hair_removal(graph).predict(images / np.float32(255), verbose=0)["probabilities"]
        assert np.abs(hairy - found["probabilities"]).max() > np.abs(stored - found["probabilities"]).max()

    def test_the_cells_images_are_without_hairs(self, comparison, cases):
        whole = load_arrays(cases, SIZE).images
        assert comparison.arrays.without_hair and comparison.arrays.images.dtype == np.uint8
        changed = np.abs(whole.astype(int) - comparison.arrays.images).max((1, 2, 3))
        assert np.mean(changed > 30) > 0.5, "every picture has hairs"

    def test_controls_can_not_be_served(self, run):
        for row in ("se_lcn_shuffled", "se_lcn_zeroed"):
            graph = keras.saving.load_model(run.path("models", row, f"fold{FOLD}.keras"), compile=False)
            assert set(graph.input) == {"image", "symmetry"} and "symmetry" not in graph.output
            assert behind_hair_removal(graph) is graph


class TestControls:
    def test_what_each_row_is_handed(self, comparison):
        """One network's maps: the image's own, another image's, none."""
        cells = {cell.row: cell for cell in comparison.cells() if cell.fold == FOLD}
        maps = {row: comparison.maps_of(cells[row]) for row in NAMES[:5]}
        assert maps.pop("plain") == {}
        assert set(maps["se_lcn"]) == {"symmetry"} and set(maps["se_lcn_lesion_area"]) == {"symmetry", "lesion"}
        assert maps["se_lcn"]["symmetry"] is maps["se_lcn_lesion_area"]["symmetry"]
        own, other = maps["se_lcn"]["symmetry"], maps["se_lcn_shuffled"]["symmetry"]
        assert own.shape == (len(comparison.cases), SIZE, SIZE) and own.dtype == np.uint8
        assert sorted(map(bytes, own)) == sorted(map(bytes, other)), "the same maps"
        distinct = [number for number, values in enumerate(own) if sum(np.array_equal(values, v) for v in own) == 1]
        assert len(distinct) > 20
        assert not any(np.array_equal(own[number], other[number]) for number in distinct), "of other images"
        empty = maps["se_lcn_zeroed"]["symmetry"]
        assert empty.shape == own.shape and not empty.any()

    def test_handed_maps_are_the_stages_own(self, comparison, run, cases, splits):
        cell = next(cell for cell in comparison.cells() if cell.key == f"se_lcn-fold{FOLD}")
        test = splits[FOLD].test[comparison.cases_of(STAGE).labels[splits[FOLD].test] >= 0]
        stored = read_arrays(run, Cell(STAGE, FOLD))["saliency"].astype(int)
        np.testing.assert_allclose(comparison.maps_of(cell)["symmetry"][test], stored, atol=1)

    @pytest.mark.parametrize("positions", [np.arange(9), np.array([7, 2, 4]), np.array([1, 6])])
    def test_nobody_keeps_their_own(self, positions):
        maps = np.arange(9, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
        for seed in range(20):
            found = exchanged_maps(maps, positions, seed)[:, 0, 0]
            assert (found[positions] != positions).all() and sorted(found[positions]) == sorted(positions)
            others = np.setdiff1d(np.arange(9), positions)
            np.testing.assert_array_equal(found[others], others)
        np.testing.assert_array_equal(maps[:, 0, 0], np.arange(9))

    def test_they_and_the_stage_are_never_the_best_row(self, run):
        best = read_json(run.path("metrics.json"))["best_row"]
        assert not APPROACHES[best].control and trained_model(run)[0] == best


class TestGoingOn:
    def test_nothing_is_trained_twice_and_no_control_is_the_best(self, again, config, monkeypatch):
        trained, train = [], cells_module.train_classifier

        def counted(config, approach, *rest, **options):
            trained.append(approach)
            return train(config, approach, *rest, **options)

        monkeypatch.setattr(cells_module, "train_classifier", counted)
        monkeypatch.setattr(cells_module, "given_or_trained", lambda *args: pytest.fail("the segmenter is stored"))
        for row in ("se_lcn_shuffled", STAGE):
            for path in again.path("cells").glob(f"{row}-fold?.json"):
                cell = read_json(path)
                write_json(path, {**cell, "validation": {**cell["validation"], "balanced_accuracy": 2.0}})
        before = metrics_of(again)
        again.path("cells", f"se_lcn-fold{FOLD}.json").unlink()
        run_comparison(config, again.folder, rows=ROWS, session=SESSION, say=lambda line: None)
        assert trained == ["se_lcn"]
        metrics = read_json(again.path("metrics.json"))
        assert metrics["best_row"] not in ("se_lcn_shuffled", "se_lcn_zeroed", STAGE)
        after = metrics_of(again)["se_lcn"]["metrics"]["accuracy"]
        assert after == before["se_lcn"]["metrics"]["accuracy"], "the same network"

    def test_a_stage_that_was_removed_is_named(self, again, config):
        missing = again.path("models", STAGE, f"fold{FOLD}.keras")
        missing.unlink()
        again.path("cells", f"se_lcn-fold{FOLD}.json").unlink()
        with pytest.raises(RunError, match=f"the model of {STAGE}-fold{FOLD}, is missing") as caught:
            run_comparison(config, again.folder, rows=ROWS, session=SESSION, say=lambda line: None)
        assert str(missing) in str(caught.value) and f"{STAGE}-fold{FOLD}.json" in str(caught.value)


class TestMistakes:
    @pytest.fixture
    def changed(self, data, config, tmp_path, rows_of, write_rows):
        """``changed(change)``: the comparison on a copy of the data whose rows `change` has changed."""

        def refused(change):
            folder = Path(shutil.copytree(data, tmp_path / "data"))
            rows = rows_of(folder / "labels.csv")
            write_rows(folder / "labels.csv", [change(row) for row in rows])
            asked = replace(config, data=str(folder), approaches=("se_lcn",))
            with pytest.raises(UserError) as caught:
                run_comparison(asked, tmp_path / "run", say=lambda line: None)
            assert not (tmp_path / "run" / "models").exists()
            return str(caught.value)

        return refused

    def test_data_without_the_column(self, changed):
        told = changed(lambda row: {name: value for name, value in row.items() if name != "symmetry"})
        assert "symmetry" in told and "column" in told

    def test_one_class_only(self, changed):
        told = changed(lambda row: {**row, "symmetry": row["symmetry"] and "symmetric"})
        assert "`symmetry_target` symmetry" in told and "1 classes" in told

    def test_a_class_that_a_part_lacks(self, changed):
        alone = {"phantom_00010"}
        told = changed(lambda row: {**row, "symmetry": "odd" if Path(row["image"]).stem in alone else row["symmetry"]})
        assert "`symmetry_target` symmetry" in told or "class 'odd'" in told
        assert "is missing from the part" in told

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"segmenter": "none", "approaches": ("se_lcn",)}, "hard_mask: these approaches need a segmenter"),
            ({"saliency_layer": "stage2_down_conv"}, "`saliency_layer`: SE-LCN explains"),
            ({"symmetry_layer": "nothing"}, "nothing"),
            ({"symmetry_target": "shape"}, "shape"),
        ],
    )
    def test_what_can_not_be(self, config, settings, message, tmp_path):
        asked = {"approaches": ("se_lcn",), **settings}
        with pytest.raises(UserError, match=message):
            run_comparison(replace(config, **asked), tmp_path / "run", say=lambda line: None)

    def test_the_empty_map_needs_no_symmetry(self, config, data):
        """Nobody looks at the column then."""
        alone = replace(config, approaches=("plain", "se_lcn_zeroed"), symmetry_target="shape").resolved()
        cases = load_cases(data)
        assert Comparison(None, alone, cases, None, [], rows_of(alone)).stages == ()


class TestEndToEnd:
    """Trained together with the networks before it."""

    def weights(self, run, row, layer):
        graph = keras.saving.load_model(run.path("models", row, f"fold{FOLD}.keras"), compile=False)
        return graph.get_layer(layer).get_weights()

    @pytest.mark.parametrize(("row", "learns", "segments"), [("se_lcn", 0, 0), ("joint", 1, 0), ("both", 1, 1)])
    def test_what_learns_along_is_stored_with_it(self, run, row, learns, segments):
        stage = self.weights(run, STAGE, "features")
        own = self.weights(run, row, "symmetry_features")
        assert any(not np.array_equal(*pair) for pair in zip(stage, own, strict=True)) == learns
        before, after = (self.weights(run, name, "segmenter") for name in ("segmenter", row))
        assert any(not np.array_equal(*pair) for pair in zip(before, after, strict=True)) == segments

    def test_the_losses_add_up_and_the_classifiers_chooses(self, run):
        for row, parts in (("joint", {"symmetry": 1.0}), ("both", {"symmetry": 1.0, "mask": 0.5})):
            history = pd.read_csv(run.path("history", f"{row}-fold{FOLD}.csv"))
            assert {"joint_loss", "loss", "val_loss", "val_accuracy", "val_balanced_accuracy"} <= set(history)
            total = history["val_loss"] + sum(share * history[f"val_{name}_loss"] for name, share in parts.items())
            np.testing.assert_allclose(history["val_joint_loss"], total, rtol=0.15)
            cell = read_json(run.path("cells", f"{row}-fold{FOLD}.json"))
            assert cell["extra"]["best_epoch"] == history["epoch"][history["val_loss"].idxmin()]
        for row in ("se_lcn", "se_lcn_shuffled", STAGE):
            assert "joint_loss" not in pd.read_csv(run.path("history", f"{row}-fold{FOLD}.csv"))


@pytest.mark.slow
def test_a_search_trains_the_symmetry_network_once(config, tmp_path):
    """From it every trial goes on end to end."""
    changes = {"cross_validation": 1, "test_fraction": 0.0, "approaches": ("se_lcn",), "balance": "none"}
    asked = replace(config, **changes, symmetry_epochs=1, segmenter="none", symmetry_approach="plain")
    plan = plan_search(asked, ["joint_symmetry=0.3,0.9"], trials=2)
    run = run_search(asked, plan, tmp_path / "out", say=lambda line: None)
    assert {path.stem for path in run.path("models").glob("**/*.keras")} == {"symmetry_plain"}
    assert len(list(run.path("history").glob("symmetry_plain*.csv"))) == 1
    trials = pd.read_csv(run.path("trials.csv"))
    assert set(trials["state"]) == {"finished"} and sorted(trials["joint_symmetry"]) == [0.3, 0.9]
    assert all("joint_loss" in pd.read_csv(path) for path in run.path("history").glob("trial*.csv"))
    graph = keras.saving.load_model(run.path("models", "symmetry_plain.keras"), compile=False)
    assert graph.get_layer("probabilities").classes == ("asymmetric", "symmetric")
