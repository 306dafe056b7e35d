"""Scoring a model of any format on a dataset."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.errors import ConfigError, DataError, RunError, UserError
from tfseg.evaluation.explanations import explanation_scores
from tfseg.evaluation.sanity import randomisation_check
from tfseg.export.predictor import load_model, load_predictor
from tfseg.jobs.evaluate import evaluate_model
from tfseg.layers.outputs import ClassProbabilities
from tfseg.models.classifier import build_classifier, inference_graph
from tfseg.run import Run, read_json

RELIANCE = [f"{where}_{what}" for where in ("background", "lesion") for what in ("flip_rate", "total_variation")]
SANITY = [f"sanity_{name}{part}" for part in ("", "_head") for name in ("spearman", "ssim")]


def quiet(line: str) -> None:
    """In place of `print`."""


def rows(run: Run) -> dict[str, dict]:
    return {row["name"]: row for row in read_json(run.path("metrics.json"))["rows"]}


def predictions(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.path("predictions.csv"), keep_default_na=False).set_index("id")


@pytest.fixture(scope="module")
def evaluated(finished, exported, phantoms, tmp_path_factory) -> dict[str, Run]:
    """The same model in every format, on the same data."""
    run, report = finished[0], exported[0]
    models = {
        "run": run.folder,
        "keras": run.path("models", "soft_mask", "model.keras"),
        "saved_model": report["files"]["saved_model"],
        "litert": report["files"]["float32"],
    }
    out = tmp_path_factory.mktemp("evaluated")
    return {
        name: evaluate_model(
            model, phantoms, out / name, row="soft_mask" if name == "run" else None, command="tfseg evaluate", say=quiet
        )
        for name, model in models.items()
    }


class TestFormats:
    @pytest.mark.parametrize("name", ["keras", "saved_model", "litert"])
    def test_all_give_the_same_predictions(self, evaluated, name):
        expected, received = predictions(evaluated["run"]), predictions(evaluated[name])
        assert list(received.columns) == list(expected.columns)
        assert len(received) == 36
        columns = ["prob_benign", "prob_malignant"]
        np.testing.assert_allclose(received[columns], expected[columns], atol=1e-4)
        assert (received["true"] == expected["true"]).all()

    @pytest.mark.parametrize("name", ["keras", "saved_model", "litert"])
    def test_all_give_the_same_numbers(self, evaluated, name):
        expected, received = rows(evaluated["run"]), rows(evaluated[name])
        assert set(expected) == {"segmenter", "soft_mask"} and set(received) == {"segmenter", "model"}
        for ours, theirs in (("segmenter", "segmenter"), ("soft_mask", "model")):
            assert expected[ours]["metrics"].keys() == received[theirs]["metrics"].keys()
            for metric, summary in expected[ours]["metrics"].items():
                assert received[theirs]["metrics"][metric]["mean"] == pytest.approx(summary["mean"], abs=2e-3), metric

    def test_reliance_stands_beside_localisation(self, evaluated):
        for name, run in evaluated.items():
            metrics = rows(run)["soft_mask" if name == "run" else "model"]["metrics"]
            assert {"cam_iou", "cam_overlap", "cam_pointing", *RELIANCE} <= metrics.keys()
            assert not any(metric.startswith(("insertion", "deletion", "sanity")) for metric in metrics)
            assert "| cam_pointing | background_flip_rate | lesion_flip_rate |" in run.path("table.md").read_text(
                "utf-8"
            )

    def test_everything_is_written(self, evaluated):
        for run in evaluated.values():
            for name in (
                "config.json",
                "environment.json",
                "metrics.json",
                "predictions.csv",
                "table.md",
                "report.html",
            ):
                assert run.path(name).is_file(), name
            figures = {path.name for path in run.path("figures").iterdir()}
            assert figures == {"segmentation.png", "confusion.png", "saliency.png"}
            assert read_json(run.path("metrics.json"))["command"] == "tfseg evaluate"

    def test_the_numbers_are_those_of_the_run_on_the_same_cases(self, evaluated, finished):
        """On the run's own test cases, evaluation and training agree case by case."""
        run = finished[0]
        trained = pd.read_csv(run.path("predictions", "soft_mask.csv")).set_index("id")
        ours = predictions(evaluated["keras"]).loc[trained.index]
        np.testing.assert_allclose(ours["prob_benign"], trained["prob_benign"], atol=1e-4)


class TestMasks:
    """Flips and post-processing are for the scores of masks."""

    OPTIONS = {"flips": "horizontal", "postprocessing": ("largest_component",)}

    @pytest.mark.parametrize("name", ["saved_model", "litert"])
    def test_by_hand(self, evaluated, exported, phantoms, model_images, tmp_path, name):
        model = exported[0]["files"]["float32" if name == "litert" else name]
        lines: list[str] = []
        run = evaluate_model(model, phantoms, tmp_path / "out", **self.OPTIONS, say=lines.append)
        ids = predictions(run).index
        predictor, images = load_predictor(model), model_images(ids)
        plain, mirrored = (predictor.predict(values)["mask"][..., 0] for values in (images, images[:, :, ::-1]))
        expected = []
        for case, found in zip(ids, (plain + mirrored[:, :, ::-1]) / 2 >= 0.5, strict=True):
            parts, count = ndimage.label(found, np.ones((3, 3)))
            sizes = [(parts == number).sum() for number in range(1, count + 1)]
            found = parts == 1 + int(np.argmax(sizes)) if sizes else found
            true = np.asarray(Image.open(phantoms / "masks" / f"{case}.png")) > 0
            expected.append((found & true).sum() / (found | true).sum() if (found | true).any() else 1.0)
        row = rows(run)["segmenter"]
        assert row["metrics"]["iou"]["mean"] == pytest.approx(np.mean(expected), abs=1e-4)
        before = rows(evaluated[name])["segmenter"]["metrics"]["iou"]["mean"]
        assert row["metrics"]["iou"]["mean"] != pytest.approx(before, abs=1e-4)
        assert row["settings"] == {"flips": "horizontal", "postprocessing": ["largest_component"]}
        pd.testing.assert_frame_equal(predictions(run), predictions(evaluated[name]))
        assert rows(run)["model"] == rows(evaluated[name])["model"]
        with pytest.raises(RunError, match="flips"):
            evaluate_model(model, phantoms, tmp_path / "out", say=quiet)

    def test_a_model_without_a_mask(self, phantoms, tmp_path):
        image = keras.Input((16, 16, 3), name="image")
        logits = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(image))
        model = keras.Model(image, {"probabilities": ClassProbabilities(("benign", "malignant"))(logits)})
        model.save(tmp_path / "plain.keras")
        for name, value in self.OPTIONS.items():
            with pytest.raises(UserError, match="are for masks, and the model gives probabilities"):
                evaluate_model(tmp_path / "plain.keras", phantoms, tmp_path / "out", **{name: value}, say=quiet)
        assert not (tmp_path / "out").exists()


class TestExplanations:
    """Further tests of the map, when they are asked for."""

    @pytest.mark.parametrize("name", ["keras", "litert"])
    def test_insertion_and_deletion(self, evaluated, exported, finished, phantoms, model_images, tmp_path, name):
        keras_file = finished[0].path("models", "soft_mask", "model.keras")
        model = keras_file if name == "keras" else exported[0]["files"]["float32"]
        run = evaluate_model(model, phantoms, tmp_path / "out", pixel_steps=3, say=quiet)
        predictor, images = load_predictor(keras_file), model_images(predictions(run).index)
        expected = explanation_scores(
            lambda changed, positions: predictor.predict(changed)["probabilities"],
            images,
            np.zeros(images.shape[:3], bool),
            np.zeros(len(images), bool),
            predictor.predict(images),
            steps=3,
        )
        row = rows(run)["model"]
        for metric in ("insertion_auc", "deletion_auc"):
            assert row["metrics"][metric]["mean"] == pytest.approx(expected[metric].mean(), abs=2e-3)
        before = rows(evaluated[name])["model"]["metrics"]
        assert {metric: row["metrics"][metric] for metric in before} == before
        assert row["settings"] == {"pixel_steps": 3}
        assert read_json(run.path("config.json"))["pixel_steps"] == 3
        text = run.path("table.md").read_text("utf-8")
        assert "| lesion_flip_rate | insertion_auc | deletion_auc |" in text
        assert "model: insertion (high is good) and deletion (low is good) in 3 steps." in text
        with pytest.raises(RunError, match="pixel_steps"):
            evaluate_model(model, phantoms, tmp_path / "out", say=quiet)

    @pytest.fixture
    def few(self, copied, rows_of, write_rows):
        """Four cases and one without a label."""
        table = rows_of(copied / "labels.csv")
        write_rows(copied / "labels.csv", [{**table[0], "label": ""}, *table[1:5]])
        return copied

    def test_sanity_of_what_the_backbone_sees(self, finished, few, model_images, tmp_path):
        model = finished[0].path("models", "soft_mask", "model.keras")
        evaluated = evaluate_model(model, few, tmp_path / "out", sanity=True, say=quiet)
        table = predictions(evaluated)
        images = model_images(table.index[table["true"] != ""]).astype(np.float32) / 255
        assert len(images) == 4
        graph = load_model(model)
        seen = keras.Model(graph.input, graph.get_layer("soft_mask").output)(images).numpy()
        parts = graph.get_layer("features"), graph.get_layer("saliency").head
        row = rows(evaluated)["model"]
        for part, head_only in (("", False), ("_head", True)):
            # As many cases as there are: drawn without leaving one out, in an order of their own.
            order = np.random.default_rng(0).permutation(4)
            expected = randomisation_check(*parts, seen[order], head_only=head_only)
            for name, (values,) in (("spearman", expected.spearman), ("ssim", expected.ssim)):
                found = row["metrics"][f"sanity_{name}{part}"]["mean"]
                mean = values[~np.isnan(values)].mean() if not np.isnan(values).all() else None
                assert found == (None if mean is None else pytest.approx(mean, abs=5e-3)), (name, part)
        assert row["settings"] == {"sanity": True}
        assert any("likeness of 4 maps to those of shuffled weights" in note for note in row["notes"])

    def test_at_most_so_many_maps(self, finished, phantoms, tmp_path, monkeypatch):
        from tfseg.jobs import scored_rows

        sizes = []
        monkeypatch.setattr(scored_rows, "SANITY_CASES", 5)
        shuffled_maps = scored_rows.shuffled_maps
        monkeypatch.setattr(
            scored_rows,
            "shuffled_maps",
            lambda graph, images, head: sizes.append(len(images)) or shuffled_maps(graph, images, head),
        )
        model = finished[0].path("models", "plain", "model.keras")
        run = evaluate_model(model, phantoms, tmp_path / "out", sanity=True, say=quiet)
        assert sizes == [5, 5]
        assert set(SANITY) <= rows(run)["model"]["metrics"].keys()
        assert "likeness of 5 maps" in run.path("report.html").read_text("utf-8")

    @pytest.mark.parametrize("blind", [True, False], ids=["blind", "seeing"])
    def test_a_map_that_ignores_the_weights_is_told(self, few, tmp_path, blind):
        """The backbone's maps are the image, and a head that weighs its colours alike shows brightness."""
        image = keras.Input((32, 32, 3))
        kept = keras.layers.DepthwiseConv2D(1, use_bias=False, depthwise_initializer="ones")
        classifier = build_classifier(keras.Model(image, kept(image), name="features"), 2, units=None)
        # Shuffled, the seeing head speaks for another colour: after that the map is of other pixels.
        kernel = np.full((3, 2), 0.5) if blind else np.array([[9.0, -9.0], [-9.0, 9.0], [-9.0, 9.0]])
        classifier.head.set_weights([kernel, np.array([0.1, 0.1])])
        inference_graph(classifier, ("benign", "malignant")).save(tmp_path / "model.keras")
        lines: list[str] = []
        run = evaluate_model(tmp_path / "model.keras", few, tmp_path / "out", sanity=True, say=lines.append)
        alike = rows(run)["model"]["metrics"]["sanity_spearman"]["mean"]
        told = [line for line in lines if "hardly change" in line]
        if blind:
            assert alike == pytest.approx(1.0, abs=1e-6)
            assert len(told) == 1 and "warning: " in told[0] and "(mean rank correlation 1.00)" in told[0]
        else:
            assert alike is None or alike <= 0.5
            assert told == []

    def test_what_can_not_be_tested(self, finished, exported, phantoms, copied, tmp_path, rows_of, write_rows):
        run, files = finished[0], exported[0]["files"]
        segmenter, plain = run.path("models", "segmenter.keras"), run.path("models", "plain", "model.keras")
        for model in files.values():
            with pytest.raises(ConfigError, match="`sanity` shuffles weights, which needs a run or a .keras file"):
                evaluate_model(model, phantoms, tmp_path / "out", sanity=True, say=quiet)
        for options in ({"pixel_steps": 2}, {"sanity": True}):
            with pytest.raises(ConfigError, match=rf"`{min(options)}`: .*segmenter.keras gives \['mask'\]"):
                evaluate_model(segmenter, phantoms, tmp_path / "out", **options, say=quiet)
        for steps in (-1, 32 * 32 + 1):
            with pytest.raises(ConfigError, match=rf"`pixel_steps` must lie in \[0, 1024\].* received {steps}"):
                evaluate_model(plain, phantoms, tmp_path / "out", pixel_steps=steps, say=quiet)
        write_rows(copied / "labels.csv", [row | {"label": ""} for row in rows_of(copied / "labels.csv")])
        with pytest.raises(UserError, match="`pixel_steps` and `sanity` are for cases with a label"):
            evaluate_model(plain, copied, tmp_path / "out", sanity=True, say=quiet)
        assert not (tmp_path / "out").exists()


class TestParts:
    @pytest.fixture
    def divided(self, copied, finished, rows_of, write_rows):
        """The data with the run's own parts as its `split` column."""
        (split,) = read_json(finished[0].path("splits.json"))
        part_of = {case: part for part in ("train", "val", "test") for case in split[part]}
        table = rows_of(copied / "labels.csv")
        for row in table:
            row["split"] = part_of[row["image"].removeprefix("images/").removesuffix(".png")]
        write_rows(copied / "labels.csv", table)
        return copied

    def test_the_test_part_gives_the_runs_own_numbers(self, divided, finished, tmp_path):
        run = finished[0]
        evaluated = evaluate_model(run.folder, divided, tmp_path / "out", row="plain", part="test", say=quiet)
        assert set(predictions(evaluated).index) == set(read_json(run.path("splits.json"))[0]["test"])
        stored = {row["name"]: row["metrics"] for row in read_json(run.path("metrics.json"))["rows"]}
        for metric in ("accuracy", "auc", "brier", "cam_iou", *RELIANCE):
            ours = rows(evaluated)["plain"]["metrics"][metric]["mean"]
            assert ours == pytest.approx(stored["plain"][metric]["mean"], abs=2e-3), metric
        dice = rows(evaluated)["segmenter"]["metrics"]["dice"]["mean"]
        assert dice == pytest.approx(stored["segmenter"]["dice"]["mean"], abs=2e-3)

    def test_a_part_that_is_not_there(self, finished, phantoms, tmp_path):
        model = finished[0].path("models", "plain", "model.keras")
        with pytest.raises(UserError, match="no cases whose `split` is test"):
            evaluate_model(model, phantoms, tmp_path / "out", part="test", say=quiet)
        assert not (tmp_path / "out").exists()

    def test_a_run_knows_its_own_parts(self, finished, phantoms, tmp_path):
        run = finished[0]
        evaluated = evaluate_model(run.folder, phantoms, tmp_path / "out", row="plain", part="test", say=quiet)
        assert set(predictions(evaluated).index) == set(read_json(run.path("splits.json"))[0]["test"])


class TestData:
    def test_classes_that_the_model_does_not_know(self, finished, copied, tmp_path, rows_of, write_rows):
        table = rows_of(copied / "labels.csv")
        for row in table[:6]:
            row["label"] = "naevus"
        write_rows(copied / "labels.csv", table)
        with pytest.raises(DataError, match="'naevus' is unknown to the model.*benign.*malignant"):
            evaluate_model(finished[0].folder, copied, tmp_path / "out", say=quiet)
        assert not (tmp_path / "out").exists()

    def test_one_known_class_and_missing_labels_are_fine(self, finished, copied, tmp_path, rows_of, write_rows):
        table = [row | {"mask": ""} for row in rows_of(copied / "labels.csv") if row["label"] == "malignant"]
        table[0]["label"] = ""
        write_rows(copied / "labels.csv", table)
        model = finished[0].path("models", "plain", "model.keras")
        run = evaluate_model(model, copied, tmp_path / "out", row="plain", say=quiet)
        table = predictions(run)
        assert len(table) == 18 and (table["true"] == "").sum() == 1
        scores = rows(run)["plain"]["metrics"]
        known = table[table["true"] != ""]
        assert scores["accuracy"]["mean"] == pytest.approx((known["predicted"] == "malignant").mean())
        assert scores["auc"]["mean"] is None, "one class only has no curve"

    def test_nothing_to_score(self, finished, copied, tmp_path, rows_of, write_rows):
        write_rows(copied / "labels.csv", [row | {"mask": "", "label": ""} for row in rows_of(copied / "labels.csv")])
        with pytest.raises(UserError, match="nothing to score.*0 labels and 0 masks"):
            evaluate_model(finished[0].folder, copied, tmp_path / "out", say=quiet)
        assert not (tmp_path / "out").exists()

    def test_a_segmenter_alone(self, finished, phantoms, tmp_path):
        model = finished[0].path("models", "segmenter.keras")
        run = evaluate_model(model, phantoms, tmp_path / "out", say=quiet)
        assert set(rows(run)) == {"segmenter"} and not run.path("predictions.csv").exists()

    def test_again_into_the_same_folder_and_not_into_anothers(self, finished, phantoms, copied, tmp_path):
        model = finished[0].path("models", "segmenter.keras")
        first = evaluate_model(model, phantoms, tmp_path / "out", say=quiet)
        before = rows(first)["segmenter"]["metrics"]
        again = evaluate_model(model, phantoms, tmp_path / "out", say=quiet)
        assert rows(again)["segmenter"]["metrics"] == before
        with pytest.raises(RunError, match="data"):
            evaluate_model(model, copied, tmp_path / "out", say=quiet)

    def test_an_unknown_row_names_the_rows(self, finished, phantoms, tmp_path):
        with pytest.raises(RunError, match="'magic'.*segmenter, plain, soft_mask"):
            evaluate_model(finished[0].folder, phantoms, tmp_path / "out", row="magic", say=quiet)


class TestElsewhere:
    """Another clinic's data: other names of classes, images that both have, attributes."""

    @pytest.fixture
    def foreign(self, tmp_path, rows_of, write_rows):
        """30 new cases under other class names, five of them of a class that the model doesn't know."""
        config = PhantomConfig(images=30, size=32, classes=("benign", "malignant"), seed=9)
        folder = write_phantoms(config, tmp_path / "clinic")
        table = rows_of(folder / "labels.csv")
        for number, row in enumerate(table):
            row["label"] = "other" if number < 5 else {"benign": "nevus", "malignant": "melanoma"}[row["label"]]
            row["sex"] = ("female", "male")[number % 2]
        write_rows(folder / "labels.csv", table)
        names = {"nevus": "benign", "melanoma": "malignant", "other": None}
        (tmp_path / "names.json").write_text(json.dumps(names), encoding="utf-8")
        return folder

    def test_class_map_subgroups_and_shared_images(self, finished, foreign, phantoms, tmp_path):
        run, said = finished[0], []
        trained = read_json(run.path("splits.json"))[0]["train"][0]
        tested = read_json(run.path("splits.json"))[0]["test"][0]
        for number, case in ((10, trained), (11, tested)):
            shutil.copy(phantoms / "images" / f"{case}.png", foreign / "images" / f"phantom_{number:05d}.png")
        evaluated = evaluate_model(
            run.folder,
            foreign,
            tmp_path / "out",
            row="plain",
            class_map=tmp_path / "names.json",
            subgroups=("sex",),
            say=said.append,
        )
        table = predictions(evaluated)
        assert "phantom_00010" not in table.index, "the training case is left out"
        assert "phantom_00011" in table.index and len(table) == 29
        assert any("left out 1 images" in line and "phantom_00010" in line for line in said)
        known = table[table["true"] != ""]
        assert len(known) == 24 and set(known["true"]) == {"benign", "malignant"}
        row = rows(evaluated)["plain"]
        assert row["metrics"]["accuracy"]["mean"] == pytest.approx((known["true"] == known["predicted"]).mean())
        parts = row["subgroups"]["sex"]
        assert sum(part["cases"] for part in parts.values()) == 24
        mean = sum(part["cases"] * part["metrics"]["accuracy"]["mean"] for part in parts.values()) / 24
        assert mean == pytest.approx(row["metrics"]["accuracy"]["mean"])
        assert "| plain | sex | female |" in evaluated.path("table.md").read_text(encoding="utf-8")

    def test_without_the_map_the_classes_are_unknown(self, finished, foreign, tmp_path):
        with pytest.raises(DataError, match="'melanoma' is unknown to the model"):
            evaluate_model(finished[0].folder, foreign, tmp_path / "out", say=quiet)

    def test_a_map_that_names_what_is_not_there(self, finished, foreign, tmp_path):
        (tmp_path / "wrong.json").write_text('{"naevus": "benign"}', encoding="utf-8")
        with pytest.raises(UserError, match="wrong.json: .* has no class naevus to rename"):
            evaluate_model(finished[0].folder, foreign, tmp_path / "out", class_map=tmp_path / "wrong.json", say=quiet)
        (tmp_path / "wrong.json").write_text('["nevus"]', encoding="utf-8")
        with pytest.raises(UserError, match="JSON object"):
            evaluate_model(finished[0].folder, foreign, tmp_path / "out", class_map=tmp_path / "wrong.json", say=quiet)
