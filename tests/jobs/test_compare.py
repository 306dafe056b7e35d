"""`tfseg compare`: runs and tables in, what holds out; different test cases are refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro

from tfseg.commands.compare import Compare
from tfseg.errors import ConfigError, DataError, RunError, UserError
from tfseg.evaluation.classification import predictions_table
from tfseg.jobs.compare.inputs import read_groups, read_inputs
from tfseg.jobs.compare.job import compare

CLASSES = ["a", "b"]
DRAWS = 200
PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "se_lcn_predictions" / "published.json"
HAM_CLASSES = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")


def predictions(share: float, count: int = 60, seed: int = 0, groups=None) -> pd.DataFrame:
    """A table of a model that is right on about this share of the cases."""
    generator = np.random.default_rng(seed)
    true = np.arange(count) % 2
    right = generator.random(count) < share
    probabilities = np.where((true == 1) == right, 0.9, 0.1) + generator.uniform(-0.05, 0.05, count)
    ids = [f"case{number:03d}" for number in range(count)]
    return predictions_table(
        ids,
        [f"images/{name}.png" for name in ids],
        [CLASSES[label] for label in true],
        np.stack([1 - probabilities, probabilities], axis=1),
        CLASSES,
        groups=groups,
    )


@pytest.fixture
def run_folder(tmp_path):
    """``run_folder(name, row=table, …)`` writes what a run keeps of its predictions."""

    def write(name: str, cells: dict[str, dict] | None = None, **tables: pd.DataFrame) -> Path:
        folder = tmp_path / name
        (folder / "predictions").mkdir(parents=True)
        for row, table in tables.items():
            table.to_csv(folder / "predictions" / f"{row}.csv", index=False)
        for number, cell in enumerate((cells or {}).values()):
            (folder / "cells").mkdir(exist_ok=True)
            (folder / "cells" / f"cell{number}.json").write_text(json.dumps(cell))
        return folder

    return write


@pytest.fixture
def columns_table(tmp_path):
    """``columns_table(name, true, model=predicted, …)`` writes a table with one column per model, a letter a case."""

    def write(name: str, true, **models: str) -> Path:
        table = {"image_name": [f"i{number}" for number in range(len(true))], "true_label": list(true)}
        table |= {f"{model}_pred": list(predicted) for model, predicted in models.items()}
        path = tmp_path / f"{name}.csv"
        pd.DataFrame(table).to_csv(path, index=False)
        return path

    return write


def quiet(*arguments, **options) -> dict:
    return compare(*arguments, draws=DRAWS, say=lambda line: None, **options)


class TestRuns:
    def test_rows_of_one_run(self, run_folder, tmp_path):
        run = run_folder("soft", plain=predictions(0.6), soft_mask=predictions(0.95, seed=1))
        lines = []
        compare([run], tmp_path / "out", draws=DRAWS, say=lines.append, command="tfseg compare soft")
        (comparison,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]
        assert list(comparison["rows"]) == ["plain", "soft_mask"] and comparison["kind"] == "classifiers"
        assert comparison["pairs"][0]["metrics"]["accuracy"]["test"] == "mcnemar"
        said = "\n".join(lines)
        assert "The difference in accuracy holds." in said and "plain − soft_mask: accuracy −0." in said
        assert "The difference in accuracy holds." in (tmp_path / "out" / "table.md").read_text()
        assert "tfseg compare soft" in (tmp_path / "out" / "table.md").read_text()
        assert (tmp_path / "out" / "figures" / "differences.png").stat().st_size > 5000
        # Written again by the same command; another folder's content is left alone.
        quiet([run], tmp_path / "out")
        with pytest.raises(RunError, match="holds no comparison.json"):
            quiet([run], run)

    def test_rows_of_two_runs(self, run_folder, tmp_path):
        first = run_folder("one", plain=predictions(0.6), soft=predictions(0.8, seed=1))
        second = run_folder("two", plain=predictions(0.9, seed=2))
        found = quiet([first, second], tmp_path / "out")["comparisons"][0]
        assert list(found["rows"]) == ["one/plain", "one/soft", "two/plain"] and len(found["pairs"]) == 3
        found = quiet([first, second], tmp_path / "out", rows=("plain",))["comparisons"][0]
        assert list(found["rows"]) == ["one/plain", "two/plain"]
        found = quiet([first, second], tmp_path / "out", rows=("one/soft", "two/plain"))["comparisons"][0]
        assert list(found["rows"]) == ["one/soft", "two/plain"]
        found = quiet([first, second], tmp_path / "out", against="two/plain", metric="kappa")["comparisons"][0]
        assert [pair["first"] for pair in found["pairs"]] == ["one/plain", "one/soft"] and found["metric"] == "kappa"

    def test_rows_stand_in_the_order_of_the_runs_table(self, run_folder, tmp_path):
        run = run_folder("soft", soft=predictions(0.8), plain=predictions(0.6), more=predictions(0.7))
        (run / "metrics.json").write_text(
            json.dumps({"rows": [{"name": "segmenter"}, {"name": "soft"}, {"name": "plain"}]})
        )
        assert list(quiet([run], tmp_path / "out")["comparisons"][0]["rows"]) == ["soft", "plain", "more"]

    def test_groups_of_the_tables(self, run_folder, tmp_path):
        groups = np.arange(60) // 2
        run = run_folder("soft", one=predictions(0.6, groups=groups), two=predictions(0.9, seed=1, groups=groups))
        found = quiet([run], tmp_path / "out")["comparisons"][0]
        assert found["groups"] == 30 and found["pairs"][0]["mcnemar"]["assumes_independent_cases"]
        assert found["pairs"][0]["metrics"]["accuracy"]["test"] == "bootstrap"

    def test_groups_of_a_file(self, run_folder, tmp_path):
        run = run_folder("soft", one=predictions(0.6), two=predictions(0.9, seed=1))
        labels = tmp_path / "labels.csv"
        labels.write_text("image,label,group\n" + "".join(f"images/case{n:03d}.jpg,a,p{n // 3}\n" for n in range(30)))
        assert read_groups(labels)["case029"] == "p9"
        found = quiet([run], tmp_path / "out", groups=labels)["comparisons"][0]
        assert found["groups"] == 10 + 30
        labels.write_text("image,label\nx,a\n")
        with pytest.raises(DataError, match="one of group, lesion_id, patient_id"):
            quiet([run], tmp_path / "out", groups=labels)

    def test_different_test_cases(self, run_folder, tmp_path):
        first, second = predictions(0.6), predictions(0.9, seed=1)
        run_one, run_two = run_folder("one", plain=first), run_folder("two", plain=second.iloc[2:])
        with pytest.raises(UserError, match=r"2 are only in one/plain \(case000, case001\)"):
            quiet([run_one, run_two], tmp_path / "out")
        assert not (tmp_path / "out").exists()
        lines = []
        compare([run_one, run_two], tmp_path / "out", common=True, draws=DRAWS, say=lines.append)
        assert "left out 2 cases that not all classifiers have" in lines
        relabelled = run_folder("three", plain=second.assign(true=["b", *second["true"][1:]]))
        with pytest.raises(UserError, match=r"`true` of 1 cases \(case000\)"):
            quiet([run_one, relabelled], tmp_path / "other", common=True)

    def test_segmenters_and_scores_per_case(self, run_folder, tmp_path):
        ids = [f"case{number:03d}" for number in range(12)]
        dice = np.linspace(0.5, 0.9, 12)

        def cell(row, values, **more):
            return {"row": row, "fold": 0, "ids": ids, "per_case": {"dice": list(values), **more}}

        first = run_folder("one", {"s": cell("segmenter", dice)}, plain=predictions(0.6))
        other = {
            "s": cell("segmenter", dice + 0.05),
            "p": {**cell("plain", dice), "per_case": {"cam_iou": [None] * 12}},
        }
        second = run_folder("two", other, plain=predictions(0.9, seed=1))
        result = quiet([first, second], tmp_path / "out")
        classifiers, segmenters = result["comparisons"]
        assert [part["kind"] for part in result["comparisons"]] == ["classifiers", "segmenters"]
        entry = segmenters["pairs"][0]["metrics"]["dice"]
        assert entry["difference"] == pytest.approx(-0.05) and entry["p"] == pytest.approx(2 / 2**12)
        assert segmenters["metric"] == "dice" and segmenters["pairs"][0]["first"] == "one/segmenter"
        assert "cam_iou" in classifiers["rows"]["two/plain"]["metrics"]
        assert (tmp_path / "out" / "figures" / "differences_segmenters.png").exists()
        assert "## Segmenters" in (tmp_path / "out" / "table.md").read_text()

    def test_folds_and_repeats_of_a_cell_are_averaged(self, run_folder):
        cells = {
            str(repeat): {"row": "segmenter", "fold": 0, "ids": ["x", "y"], "per_case": {"dice": values}}
            for repeat, values in enumerate(([0.5, None], [0.7, 0.4]))
        }
        scores = read_inputs([run_folder("one", cells)]).case_scores["segmenter"]["dice"]
        assert scores.to_dict() == pytest.approx({"x": 0.6, "y": 0.4})

    def test_the_folder_of_an_evaluation(self, tmp_path):
        for name, seed in (("one", 0), ("two", 1)):
            (tmp_path / name).mkdir()
            predictions(0.8, seed=seed).to_csv(tmp_path / name / "predictions.csv", index=False)
        found = quiet([tmp_path / "one", tmp_path / "two"], tmp_path / "out")["comparisons"][0]
        assert list(found["rows"]) == ["one", "two"]
        files = [tmp_path / name / "predictions.csv" for name in ("one", "two")]
        assert list(quiet(files, tmp_path / "out")["comparisons"][0]["rows"]) == ["one/predictions", "two/predictions"]


class TestColumns:
    def test_columns_of_one_file_are_models(self, columns_table, tmp_path):
        path = columns_table("grid", "aabbab", unet="aabbab", fcn="abbbaa")
        found = quiet([path], tmp_path / "out")["comparisons"][0]
        assert list(found["rows"]) == ["unet", "fcn"] and found["rows"]["fcn"]["models"] == 1
        assert found["pairs"][0]["metrics"]["accuracy"]["difference"] == pytest.approx(2 / 6)

    def test_columns_of_several_files_are_repeats(self, columns_table, tmp_path):
        paths = [
            columns_table("first", "aabb", fold_1="aabb", fold_2="abbb"),
            columns_table("second", "aabb", fold_1="bbbb", fold_2="bbaa"),
        ]
        found = quiet(paths, tmp_path / "out")["comparisons"][0]
        assert found["rows"]["first"]["models"] == 2
        assert found["rows"]["first"]["metrics"]["accuracy"]["values"] == [1.0, 0.75]
        assert found["rows"]["second"]["metrics"]["accuracy"]["values"] == [0.5, 0.0]

    def test_numbers_need_names(self, columns_table, tmp_path):
        path = columns_table("grid", "0011", unet="aabb", fcn="abbb")
        with pytest.raises(
            UserError, match=r"`true_label` holds numbers and the predictions names \(a, b\).*--classes"
        ):
            quiet([path], tmp_path / "out")
        found = quiet([path], tmp_path / "out", classes=("a", "b"))["comparisons"][0]
        assert found["rows"]["unet"]["metrics"]["accuracy"]["mean"] == 1.0 and found["classes"] == ["a", "b"]
        with pytest.raises(UserError, match="holds the class 2, and `--classes` names 2"):
            quiet([columns_table("more", "0012", unet="aabb", fcn="abbb")], tmp_path / "out", classes=("a", "b"))
        both = quiet([columns_table("both", "0011", unet="0011", fcn="0111")], tmp_path / "out")["comparisons"][0]
        assert both["classes"] == ["0", "1"]

    def test_a_table_of_each_kind(self, columns_table, tmp_path):
        path = columns_table("labels", "ab" * 30, one="ab" * 30)
        table = predictions(0.7)
        table["id"] = [f"i{number}" for number in range(60)]
        table.to_csv(tmp_path / "probabilities.csv", index=False)
        found = quiet([path, tmp_path / "probabilities.csv"], tmp_path / "out")["comparisons"][0]
        assert "auc" in found["rows"]["probabilities"]["metrics"]
        assert "auc" not in found["pairs"][0]["metrics"] and "kappa" in found["pairs"][0]["metrics"]

    def test_problems_of_a_table(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("image_name,true_label,one_pred,two_pred\nx,a,a,b\nx,b,,a\n")
        with pytest.raises(DataError) as caught:
            quiet([path], tmp_path / "out")
        assert [(problem.kind, problem.file) for problem in caught.value.problems] == [
            ("duplicate_id", "table.csv, line 3"),
            ("label", "table.csv, line 3"),
        ]
        path.write_text("name,one_pred\nx,a\n")
        with pytest.raises(DataError, match="one of id, image_name.*\n.*one of true, true_label, label"):
            quiet([path], tmp_path / "out")


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"metric": "beauty"}, ConfigError, "`--metric` 'beauty' is in no row; there are accuracy"),
            ({"against": "best"}, UserError, "`--against`: there is no row 'best'; there are plain, soft"),
            ({"rows": ("best",)}, UserError, "`--rows`: there is no row 'best'; there are plain, soft"),
            ({"rows": ("plain",)}, UserError, "at least two classifiers"),
            ({"published": "none.json"}, RunError, "none.json is missing"),
        ],
    )
    def test_named(self, options, error, message, run_folder, tmp_path):
        run = run_folder("run", plain=predictions(0.6), soft=predictions(0.8, seed=1))
        with pytest.raises(error, match=message):
            quiet([run], tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    def test_inputs(self, run_folder, tmp_path):
        run = run_folder("run", plain=predictions(0.6))
        for paths, message in (
            ([], "at least two runs"),
            ([tmp_path / "nothing"], "nothing is neither a run folder nor a file"),
            ([run, run], "run is given twice"),
            ([tmp_path], "holds no predictions"),
        ):
            with pytest.raises(UserError, match=message):
                quiet(paths, tmp_path / "out")
        with pytest.raises(ConfigError, match="`draws`"):
            compare([run], tmp_path / "out", draws=5)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"rows": {}}', "must hold"),
            ('{"source": "s", "std_ddof": 0, "tolerance": 0.1, "rows": {"plain": {"accuracy": 0.5}}}', "must hold"),
            ('{"source": "s", "std_ddof": 0, "tolerance": 0.1, "rows": {"best": {"accuracy": [0.5, 0]}}}', "'best'"),
        ],
    )
    def test_published(self, content, message, run_folder, tmp_path):
        path = tmp_path / "published.json"
        path.write_text(content)
        run = run_folder("run", plain=predictions(0.6), soft=predictions(0.8, seed=1))
        with pytest.raises(UserError, match=message):
            quiet([run], tmp_path / "out", published=path)


def test_the_command_line(monkeypatch):
    received = {}
    monkeypatch.setattr(
        "tfseg.jobs.compare.job.compare", lambda *values, **options: received.update(options, values=values)
    )
    words = ["one", "two.csv", "--out", "o", "--rows", "x", "y", "--metric", "kappa", "--against", "x", "--common"]
    words += ["--classes", "a", "b", "--groups", "g.csv", "--draws", "500", "--published", "p.json", "--seed", "3"]
    assert tyro.cli(Compare, args=words).run() == 0
    assert received.pop("values") == (("one", "two.csv"), "o")
    del received["command"]
    assert received == {
        "rows": ("x", "y"),
        "metric": "kappa",
        "against": "x",
        "common": True,
        "classes": ("a", "b"),
        "groups": "g.csv",
        "draws": 500,
        "published": "p.json",
        "seed": 3,
    }


@pytest.mark.real_data
class TestThesis:
    """The test-set predictions of the SE-LCN thesis: six cells of its Table 8b, four models each."""

    @pytest.fixture(scope="class")
    def comparison(self, data_folder, tmp_path_factory):
        files = sorted((data_folder / "se_lcn_predictions").glob("test_*.csv"))
        if len(files) != 6:
            pytest.skip("se_lcn_predictions is missing")
        out = tmp_path_factory.mktemp("thesis") / "out"
        result = compare(files, out, classes=HAM_CLASSES, draws=2000, published=PUBLISHED, say=lambda line: None)
        return result["comparisons"][0]

    def test_the_cell_that_agrees(self, comparison):
        found = comparison["rows"]["test_none_none"]
        assert found["models"] == 4 and comparison["cases"] == comparison["groups"] == 1999
        expected = {
            "accuracy": 0.845,
            "kappa": 0.716,
            "precision_macro": 0.756,
            "recall_macro": 0.823,
            "f1_macro": 0.785,
        }
        for name, value in expected.items():
            assert found["metrics"][name]["mean"] == pytest.approx(value, abs=6e-4)
        # The thesis has the standard deviation of a population.
        assert np.std(found["metrics"]["accuracy"]["values"]) == pytest.approx(0.004, abs=5e-4)

    def test_where_the_printed_table_and_the_files_disagree(self, comparison):
        apart = {}
        for name, row in comparison["rows"].items():
            printed = row["published"]["metrics"]
            apart[name] = [key for key in printed if abs(printed[key][0] - row["metrics"][key]["mean"]) > 0.004]
        assert {name: len(names) for name, names in apart.items()} == {
            "test_none": 0,
            "test_none_none": 0,
            "test_none_mask": 0,
            "test_none_lae": 0,
            "test_lae": 5,
            "test_lae_lae": 5,
        }

    def test_what_holds(self, comparison):
        """Masking the classifier's input costs accuracy; transfer of the symmetry maps shows no gain."""
        assert len(comparison["pairs"]) == 15
        for pair in comparison["pairs"]:
            masked = [name.startswith("test_lae") for name in (pair["first"], pair["second"])]
            for metric in ("accuracy", "kappa", "f1_macro"):
                assert pair["metrics"][metric]["holds"] == (masked[0] != masked[1])
