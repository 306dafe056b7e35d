"""What a trained classifier decides by: chosen on validation, stored in the model, scored on the test part."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.special import softmax
from sklearn.covariance import ledoit_wolf

from tfseg.data.batches import load_arrays
from tfseg.data.decode import to_model_input
from tfseg.data.sources import load_cases
from tfseg.data.splits import read_split
from tfseg.errors import ConfigError, DataError, UserError
from tfseg.evaluation.calibration import fit_temperature, rescaled
from tfseg.evaluation.classification import classification_metrics
from tfseg.export.predictor import load_model, load_predictor
from tfseg.jobs import cells
from tfseg.jobs.calibrate import calibrate_model
from tfseg.jobs.compare.job import compare
from tfseg.jobs.comparison import run_comparison
from tfseg.jobs.decisions import MARGIN, choose_decisions
from tfseg.jobs.evaluate import evaluate_model
from tfseg.layers.outputs import model_info
from tfseg.run import read_json

CLASSES = ("benign", "malignant")
ASKED = {"sensitivity": 0.7, "positive": ("malignant",), "abstain_share": 0.3}


def quiet(line: str) -> None:
    """In place of `print`."""


def rows(run) -> dict[str, dict]:
    return {row["name"]: row for row in read_json(run.path("metrics.json"))["rows"]}


@pytest.fixture(scope="module")
def deciding(phantoms, tiny, tmp_path_factory):
    """A run with everything that can be decided, also where masks are given."""
    config = tiny(phantoms, segmenter="none", approaches=("plain", "oracle"), epochs=3, **ASKED)
    return run_comparison(config, tmp_path_factory.mktemp("deciding") / "run", say=quiet)


@pytest.fixture(scope="module")
def arrays(phantoms):
    return load_arrays(load_cases(phantoms), 32)


@pytest.fixture(scope="module")
def parts(deciding, phantoms):
    return read_split(deciding.path("splits.json"), load_cases(phantoms))[0]


def parts_of_graph(graph, images):
    """Logits and pooled features, straight from the network's parts."""
    maps = graph.get_layer("features")(to_model_input(images), training=False)
    return graph.get_layer("saliency").head(maps).numpy().astype(float), maps.numpy().mean((1, 2), dtype=float)


class TestChoice:
    def test_temperature_first(self):
        generator = np.random.default_rng(0)
        true = generator.integers(0, 3, 200)
        probabilities = rescaled(generator.dirichlet(np.ones(3) + 3 * np.eye(3)[true[0]], 200), 0.5)
        probabilities[np.arange(200), true] += 0.5
        probabilities = rescaled(probabilities / probabilities.sum(1, keepdims=True), 0.3)
        found = choose_decisions(
            probabilities, true, ("a", "b", "c"), sensitivity=0.9, positive=("b",), abstain_share=0.25
        )
        assert found.temperature == fit_temperature(probabilities, true) and found.temperature > 1.5
        scaled = rescaled(probabilities, found.temperature)
        called = scaled[:, 1] >= found.point.threshold
        assert called[true == 1].mean() >= 0.9 > (scaled[true == 1, 1] > found.point.threshold).mean()
        assert (scaled.max(1) < found.abstain_below).mean() == 0.25
        (note,) = found.notes
        assert f"which finds {called[true == 1].sum()} of the {(true == 1).sum()}" in note

    def test_nothing_asked(self):
        probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
        found = choose_decisions(probabilities, np.array([0, 1, 1]), CLASSES, calibration=False)
        assert (found.temperature, found.point, found.abstain_below, found.notes) == (1.0, None, 0.0, ())

    def test_cases_of_one_class(self):
        found = choose_decisions(
            np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 0]), CLASSES, sensitivity=0.9, positive=("malignant",)
        )
        assert (found.temperature, found.point) == (1.0, None)
        assert found.notes == (
            "temperature 1: the cases to fit it to are of one class only",
            "no operating point: 0 of the 2 cases to choose it on are malignant",
        )

    def test_a_temperature_at_the_end_is_noted(self):
        probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
        found = choose_decisions(probabilities, np.array([1, 0, 1, 0]), CLASSES)
        assert found.temperature == pytest.approx(20, rel=1e-3)
        assert "lies at the end of what is searched" in found.notes[0]


class TestRun:
    def test_the_stored_model_has_what_validation_says(self, deciding, arrays, parts):
        graph = load_model(deciding.path("models", "plain", "model.keras"))
        info, metrics = model_info(graph), rows(deciding)["plain"]["metrics"]
        logits, _ = parts_of_graph(graph, arrays.images[parts.val])
        probabilities, true = softmax(logits, axis=1), arrays.labels[parts.val]
        assert info.temperature == pytest.approx(fit_temperature(probabilities, true), rel=1e-3)
        assert info.temperature == metrics["temperature"]["mean"] != 1
        scores = rescaled(probabilities, info.temperature)
        sick = np.sort(scores[true == 1, 1])[::-1]
        assert info.positive == ("malignant",)
        assert info.threshold == pytest.approx(sick[int(np.ceil(0.7 * len(sick))) - 1], abs=1e-5)
        assert metrics["positive_threshold"]["mean"] == pytest.approx(info.threshold, abs=2 * MARGIN)
        assert metrics["validation_sensitivity"]["mean"] == (sick >= info.threshold).mean() >= 0.7
        confidence = np.sort(scores.max(1))
        assert info.abstain_below == pytest.approx(confidence[int(0.3 * len(confidence))], abs=1e-5)
        found = keras.Model(graph.input, graph.output["probabilities"])(to_model_input(arrays.images[parts.val]))
        np.testing.assert_allclose(found, scores, atol=1e-5)
        assert ((found.numpy()[:, 1] >= info.threshold)[true == 1]).mean() >= 0.7, "float32 loses none"

    def test_unfamiliarity_is_the_distance_of_validation_cases(self, deciding, arrays, parts):
        graph = load_model(deciding.path("models", "plain", "model.keras"))
        training, validation = (parts_of_graph(graph, arrays.images[at])[1] for at in (parts.train, parts.val))
        labels = arrays.labels[parts.train]
        means = np.stack([training[labels == label].mean(0) for label in (0, 1)])
        covariance, _ = ledoit_wolf(training - means[labels], assume_centered=True)
        variances, directions = np.linalg.eigh(covariance)
        variances[:-64] = variances[:-64].mean() if len(variances) > 64 else 0
        inverse = directions @ np.diag(1 / variances) @ directions.T
        distances = np.array([min(mahalanobis(row, mean, inverse) for mean in means) for row in validation])
        threshold = np.sort(distances)[int(np.ceil(0.95 * len(distances))) - 1]
        found = graph(to_model_input(arrays.images[parts.val]), training=False)["unfamiliarity"].numpy()
        np.testing.assert_allclose(found, distances / threshold, rtol=2e-3)
        assert (found <= 1).mean() >= 0.95
        noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
        strange = graph(to_model_input(noise), training=False)["unfamiliarity"].numpy()
        assert strange.mean() > found.mean()

    @pytest.mark.parametrize("row", ["plain", "oracle"])
    def test_scores_are_those_of_the_table(self, deciding, row):
        table = pd.read_csv(deciding.path("predictions", f"{row}.csv"))
        added = ["positive", "unfamiliarity", "unfamiliar"]
        assert list(table.columns)[6:] == ["abstained", *added, *(f"prob_{name}" for name in CLASSES)]
        metrics = {name: value["mean"] for name, value in rows(deciding)[row]["metrics"].items()}
        sick, right = table["true"] == "malignant", table["true"] == table["predicted"]
        expected = {
            "sensitivity": table["positive"][sick].mean(),
            "specificity": 1 - table["positive"][~sick].mean(),
            "coverage": 1 - table["abstained"].mean(),
            "accuracy_kept": right[~table["abstained"]].mean(),
            "accuracy_left_out": right[table["abstained"]].mean(),
            "unfamiliar_rate": (table["unfamiliarity"] > 1).mean(),
        }
        for name, value in expected.items():
            assert metrics[name] == (None if np.isnan(value) else pytest.approx(value)), name
        assert (table["unfamiliar"] == (table["unfamiliarity"] > 1)).all()
        values = table[[f"prob_{name}" for name in CLASSES]].to_numpy()
        before = classification_metrics(sick.to_numpy(int), rescaled(values, 1 / metrics["temperature"]), CLASSES)
        for name in ("ece", "brier"):
            assert metrics[f"{name}_uncalibrated"] == pytest.approx(before[name], abs=1e-6)
        assert metrics["brier_uncalibrated"] != pytest.approx(metrics["brier"], abs=1e-6)

    def test_the_record_says_how_it_decides(self, deciding):
        row = rows(deciding)["plain"]
        assert (row["settings"]["sensitivity"], row["settings"]["positive"]) == (0.7, ["malignant"])
        assert any("malignant is called from a probability of 0." in note for note in row["notes"])
        table = deciding.path("table.md").read_text("utf-8")
        assert "| auc | sensitivity | specificity | coverage | accuracy_kept | accuracy_left_out |" in table
        page = deciding.path("report.html").read_text("utf-8")
        assert "plain: accuracy on the test cases where it is how sure" in page and "Net benefit of acting" in page
        for name in ("reliability_plain", "reliability_oracle", "decision_curves"):
            assert deciding.path("figures", f"{name}.png").is_file()

    def test_runs_and_their_tables_are_still_compared(self, deciding, tmp_path):
        tables = [deciding.path("predictions", f"{row}.csv") for row in ("plain", "oracle")]
        compare([deciding.folder], tmp_path / "run", draws=100, metric="sensitivity", say=quiet)
        compare(tables, tmp_path / "tables", draws=100, say=quiet)
        found = [read_json(tmp_path / name / "comparison.json")["comparisons"][0] for name in ("run", "tables")]
        assert [one["metric"] for one in found] == ["sensitivity", "accuracy"]

    def test_an_evaluation_gives_the_same(self, deciding, phantoms, tmp_path):
        run = evaluate_model(deciding.folder, phantoms, tmp_path / "out", row="plain", part="test", say=quiet)
        ours, theirs = rows(run)["plain"]["metrics"], rows(deciding)["plain"]["metrics"]
        for name in ("sensitivity", "specificity", "coverage", "accuracy_kept", "unfamiliar_rate"):
            assert ours[name]["mean"] == theirs[name]["mean"], name
        columns = ["id", "positive", "abstained", "unfamiliar"]
        tables = [
            pd.read_csv(path)[columns]
            for path in (run.path("predictions.csv"), deciding.path("predictions", "plain.csv"))
        ]
        pd.testing.assert_frame_equal(*(table.sort_values("id", ignore_index=True) for table in tables))

    def test_it_can_be_left_out(self, phantoms, tiny, tmp_path):
        config = tiny(
            phantoms, segmenter="none", approaches=("plain",), epochs=1, calibration=False, familiar_share=0.0
        )
        run = run_comparison(config, tmp_path / "run", say=quiet)
        info = load_predictor(run.path("models", "plain", "model.keras")).info
        assert (info.temperature, info.outputs) == (1.0, ("probabilities", "saliency"))
        new = {"temperature", "ece_uncalibrated", "unfamiliar_rate", "sensitivity", "coverage"}
        assert not new & rows(run)["plain"]["metrics"].keys()
        assert "unfamiliarity" not in pd.read_csv(run.path("predictions", "plain.csv"))
        assert not list(run.path("figures").glob("reliability*"))

    def test_a_probe_is_calibrated_by_a_head_that_did_not_see_validation(
        self, phantoms, tiny, tmp_path, arrays, monkeypatch
    ):
        trainings, train = [], cells.train_classifier
        monkeypatch.setattr(cells, "train_classifier", lambda *given: trainings.append(train(*given)) or trainings[-1])
        config = tiny(phantoms, segmenter="none", approaches=("plain",), training="probe")
        run = run_comparison(config, tmp_path / "run", say=quiet)
        (split,) = read_split(run.path("splits.json"), load_cases(phantoms))
        info = load_predictor(run.path("models", "plain", "model.keras")).info
        (trained,) = trainings
        assert info.temperature == pytest.approx(fit_temperature(trained.validation, arrays.labels[split.val]))
        assert "unfamiliarity" in info.outputs

    def test_an_unknown_class_is_named_before_training(self, phantoms, tiny, tmp_path):
        for positive in (("melanoma",), CLASSES):
            config = tiny(phantoms, segmenter="none", approaches=("plain",), sensitivity=0.9, positive=positive)
            with pytest.raises(ConfigError, match="`positive` must be some of the classes benign, malignant"):
                run_comparison(config, tmp_path / "run", say=quiet)
        assert not (tmp_path / "run").exists()


class TestCalibrate:
    def test_on_other_cases(self, deciding, phantoms, arrays, tmp_path):
        model, said = deciding.path("models", "plain", "model.keras"), []
        out = calibrate_model(
            model, phantoms, tmp_path / "new.keras", sensitivity=1.0, positive=("benign",), say=said.append
        )
        old, new = load_predictor(model), load_predictor(out)
        before, after = (predictor.predict(arrays.images) for predictor in (old, new))
        probabilities = rescaled(before["probabilities"], 1 / old.info.temperature)
        assert new.info.temperature == pytest.approx(fit_temperature(probabilities, arrays.labels), rel=1e-4)
        np.testing.assert_allclose(after["probabilities"], rescaled(probabilities, new.info.temperature), atol=1e-5)
        benign = after["probabilities"][arrays.labels == 0, 0]
        assert new.info.positive == ("benign",) and new.info.abstain_below == 0
        assert (benign >= new.info.threshold).all() and benign.min() == pytest.approx(new.info.threshold, abs=1e-5)
        ratio = after["unfamiliarity"] / before["unfamiliarity"]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
        assert (after["unfamiliarity"] <= 1).sum() == np.ceil(0.95 * 36)
        np.testing.assert_allclose(after["saliency"], before["saliency"], atol=1e-6)
        (line,) = (line for line in said if line.startswith("temperature"))
        assert line.startswith(f"temperature {old.info.temperature:.3f} → {new.info.temperature:.3f}")
        assert "on the 36 cases that it was fitted to" in line

    def test_a_part_with_what_is_asked(self, deciding, copied, arrays, tmp_path, rows_of, write_rows):
        table = rows_of(copied / "labels.csv")
        for number, row in enumerate(table):
            row["split"], row["group"] = ("train", "val")[number % 2], ""
        table[1]["label"] = ""
        write_rows(copied / "labels.csv", table)
        out = calibrate_model(
            deciding.path("models", "plain", "model.keras"),
            copied,
            tmp_path / "new.keras",
            part="val",
            calibration=False,
            abstain_share=0.25,
            familiar_share=0.0,
            say=quiet,
        )
        info = load_predictor(out).info
        assert (info.temperature, info.positive, info.threshold) == (1.0, (), None)
        confidence = load_predictor(out).predict(arrays.images[3::2])["probabilities"].max(1)
        assert len(confidence) == 17 and (confidence < info.abstain_below).sum() == 4

    def test_mistakes(self, deciding, finished, phantoms, copied, tmp_path, rows_of, write_rows):
        model, out = deciding.path("models", "plain", "model.keras"), tmp_path / "new.keras"
        segmenter = finished[0].path("models", "segmenter.keras")
        for given, options, error, message in (
            ((model, phantoms, tmp_path / "new.tflite"), {}, ConfigError, "`out` must be a .keras file"),
            ((deciding.folder, phantoms, out), {}, ConfigError, "`model` must be a .keras file"),
            ((segmenter, phantoms, out), {}, UserError, "gives mask: there is no classifier"),
            ((model, phantoms, out), {"sensitivity": 0.9}, ConfigError, "`positive` must name"),
            ((model, phantoms, out), {"sensitivity": 0.9, "positive": ("c",)}, ConfigError, "received c"),
            ((model, phantoms, out), {"abstain_share": 1.0}, ConfigError, "`abstain_share`"),
        ):
            with pytest.raises(error, match=message):
                calibrate_model(*given, **options, say=quiet)
        write_rows(copied / "labels.csv", [row | {"label": "naevus"} for row in rows_of(copied / "labels.csv")])
        with pytest.raises(DataError, match="'naevus' is unknown to the model"):
            calibrate_model(model, copied, out, say=quiet)
        write_rows(copied / "labels.csv", [row | {"label": ""} for row in rows_of(copied / "labels.csv")])
        with pytest.raises(UserError, match="no labels to calibrate with"):
            calibrate_model(model, copied, out, say=quiet)
        assert not out.exists()
