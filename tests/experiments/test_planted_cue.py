"""The planted cue: what is drawn, which rows are compared, the run from its command line, and the figure."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.config import ComparisonConfig
from tfseg.data.phantom import PhantomConfig
from tfseg.data.phantom_folder import phantom_folder
from tfseg.errors import ConfigError, RunError
from tfseg.evaluation import planted_figure
from tfseg.evaluation.planted_figure import planted_cue
from tfseg.evaluation.statistics import summarise
from tfseg.jobs import comparison
from tfseg.metrics.localisation import dilate
from tfseg.run import Run, read_json, write_json

SCRIPT = Path(__file__).parents[2] / "experiments" / "planted_cue.py"
EXPERIMENT = runpy.run_path(str(SCRIPT))
Options = EXPERIMENT["Options"]
CUES = ("cue_present", "cue_removed", "cue_random")
# Of the patches, benign to malignant: which of red, green and blue is largest.
HUES = {"benign": 0, "atypical": 1, "malignant": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Thirty lesions, drawn three times."""
    parent = tmp_path_factory.mktemp("planted")
    wanted = EXPERIMENT["phantoms"](Options(images=30), size=48, seed=5)
    return {name: phantom_folder(parent / name, config) for name, config in wanted.items()}


def images(folder: Path, kind: str = "images") -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / kind).iterdir())])


class TestDrawing:
    def test_the_same_lesions_three_times(self, folders):
        tables = [(folder / "labels.csv").read_text() for folder in folders.values()]
        assert tuple(folders) == CUES and len(set(tables)) == 1
        masks = images(folders["cue_present"], "masks")
        lesions = masks > 0
        for other in ("cue_removed", "cue_random"):
            np.testing.assert_array_equal(images(folders[other], "masks"), masks)
            np.testing.assert_array_equal(images(folders[other])[lesions], images(folders["cue_present"])[lesions])

    def test_the_patch_says_the_class_only_where_it_should(self, folders):
        labels = pd.read_csv(folders["cue_present"] / "labels.csv")["label"].map(HUES).to_numpy()
        clean = images(folders["cue_removed"]).astype(int)
        near = dilate(images(folders["cue_present"], "masks") > 0)
        agreed = {}
        for name in ("cue_present", "cue_random"):
            shown = images(folders[name]).astype(int)
            patch = np.abs(shown - clean).sum(-1) > 60
            assert patch.any((1, 2)).all() and not (patch & near).any(), "a patch beside every lesion, none on it"
            hues = [image[where].mean(0).argmax() for image, where in zip(shown, patch, strict=True)]
            agreed[name] = np.mean(np.array(hues) == labels)
        assert agreed["cue_present"] == 1.0
        assert 0.1 < agreed["cue_random"] < 0.6

    def test_once_and_with_one_setting(self, folders, monkeypatch):
        (config, *_) = EXPERIMENT["phantoms"](Options(images=30), size=48, seed=5).values()
        # Which its record must not hide: JSON knows no tuples.
        monkeypatch.setitem(phantom_folder.__globals__, "write_phantoms", lambda *given, **named: pytest.fail())
        assert phantom_folder(folders["cue_present"], config) == folders["cue_present"]
        for change in ({"seed": 6}, {"difficulty": 0.5}, {"planted_cue": None}):
            with pytest.raises(RunError, match="was not drawn with these settings; give another `--out`"):
                phantom_folder(folders["cue_present"], replace(config, **change))

    def test_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "cue_present").mkdir()
        with pytest.raises(RunError, match="give another `--out`"):
            phantom_folder(tmp_path / "cue_present", PhantomConfig(images=3, size=32))


def test_the_rows():
    rows = {row.name: row for row in EXPERIMENT["classifier_rows"]()}
    approaches = {
        "plain": "plain",
        "hard_mask": "hard_mask",
        "soft_mask": "soft_mask",
        "centiou_published": "centiou",
        "centiou": "centiou",
    }
    assert list(rows) == [*approaches, *(f"{name}_swap" for name in approaches)]
    for name, row in rows.items():
        settings = row.config(EXPERIMENT["PRESETS"]["quick"])
        assert settings.approaches == (approaches[name.removesuffix("_swap")],)
        assert settings.background_swap == (0.5 if name.endswith("_swap") else 0.0)
        assert settings.saliency_gradient == ("none" if "published" in name else "full")
        assert set(row.changes) <= {"background_swap", "saliency_gradient"}, "rows differ in nothing else"


def result(name: str, **metrics: list[float]) -> dict:
    return {"name": name, "metrics": {key: summarise(values) for key, values in metrics.items()}, "paper": None}


RESULTS = [
    result("segmenter", iou=[0.9]),
    result("plain", accuracy=[1.0, 1.0], accuracy_cue_removed=[0.3, 0.4], cam_iou_undilated=[0.05, 0.07]),
    result("centiou $x$", accuracy=[0.9, 1.0], accuracy_cue_random=[0.35], cam_iou=[float("nan")]),
]


class TestFromTheCommandLine:
    @pytest.fixture
    def asked(self, tmp_path, monkeypatch) -> dict:
        """What the comparison is asked for; it gives `RESULTS`."""
        kept = {}

        def answer(config, out, **named) -> Run:
            kept.update(named, config=config, out=Path(out))
            run = Run(Path(out))
            head = {
                "experiment": "planted_cue",
                "preset": "quick",
                "seed": 3,
                "data": "d",
                "command": "c",
                "seconds": 1.0,
            }
            write_json(run.path("metrics.json"), {**head, "rows": RESULTS, "best_row": "plain"})
            return run

        monkeypatch.setattr(comparison, "run_comparison", answer)
        return kept

    def call(self, monkeypatch, *words: str) -> int:
        monkeypatch.setattr("sys.argv", ["planted_cue.py", "--images", "30", "--image-size", "32", *words])
        return EXPERIMENT["run"]()

    def test_what_is_compared(self, asked, tmp_path, monkeypatch, capsys):
        out = tmp_path / "out"
        assert self.call(monkeypatch, "--out", str(out), "--seed", "3", "--cells", "plain") == 0
        assert asked["out"] == out / "run" and asked["session"].cells == ("plain",)
        config: ComparisonConfig = asked["config"]
        assert (config.data, config.seed, config.repeats) == (str(out / "data" / "cue_present"), 3, 3)
        assert asked["variants"] == {name: out / "data" / name for name in ("cue_removed", "cue_random")}
        assert [row.name for row in asked["rows"]] == [row.name for row in EXPERIMENT["classifier_rows"]()]
        for name in CUES:
            record = read_json(out / "data" / f"{name}.json")
            assert (record["seed"], record["size"], record["images"]) == (3, 32, 30)
            assert len(list((out / "data" / name / "images").iterdir())) == 30
        figure = out / "run" / "figures" / "planted_cue.png"
        assert figure.is_file() and str(figure) in capsys.readouterr().out

    def test_data_of_another_kind(self, asked, tmp_path, monkeypatch):
        with pytest.raises(ConfigError, match="draws its own lesions: leave `--data photos` out"):
            self.call(monkeypatch, "--data", "photos", "--out", str(tmp_path / "out"))
        assert not asked and not (tmp_path / "out").exists()


def test_two_rows_from_drawing_to_figure(tmp_path, monkeypatch):
    """All of it with one epoch: nothing is learned, everything is measured."""
    small = ("--segmenter-width", "8", "--segmenter-depth", "2", "--segmenter-epochs", "1", "--head-units", "0")
    line = ("--images", "48", "--image-size", "32", "--epochs", "1", "--repeats", "1", *small)
    monkeypatch.setattr(
        "sys.argv", ["planted_cue.py", *line, "--out", str(tmp_path), "--cells", "plain", "centiou_swap"]
    )
    assert EXPERIMENT["run"]() == 0
    metrics = read_json(tmp_path / "run" / "metrics.json")
    rows = {row["name"]: row["metrics"] for row in metrics["rows"]}
    assert list(rows) == ["segmenter", "plain", "centiou_swap"]
    for name in ("plain", "centiou_swap"):
        assert {*EXPERIMENT["COLUMNS"], "accuracy_cue_removed", "accuracy_cue_random"} <= set(rows[name])
    table = (tmp_path / "run" / "table.md").read_text()
    assert "accuracy_cue_removed" in table and "cam_iou_undilated" in table
    assert (tmp_path / "run" / "figures" / "planted_cue.png").is_file()
    assert "What every row makes of the cue" in (tmp_path / "run" / "report.html").read_text()
    settings = read_json(tmp_path / "run" / "config.json")
    assert settings["rows"]["centiou_swap"] == {"approach": "centiou", "changes": {"background_swap": 0.5}}
    assert set(settings["variants"]) == {"cue_removed", "cue_random"}


class TestFigure:
    @pytest.fixture
    def kept(self, monkeypatch) -> list:
        figures, write = [], planted_figure.write_png
        monkeypatch.setattr(
            planted_figure, "write_png", lambda figure, path: (figures.append(figure), write(figure, path))[1]
        )
        return figures

    def test_it_shows_the_numbers(self, kept, tmp_path):
        with Image.open(planted_cue(RESULTS, tmp_path / "cue.png", classes=4)) as image:
            assert image.format == "PNG" and min(image.size) > 200
        accuracy, cam, flips = kept[0].axes
        assert [label.get_text() for label in accuracy.get_yticklabels()] == ["plain", r"centiou \$x\$"]
        assert accuracy.get_ylim()[0] > accuracy.get_ylim()[1], "the first row is on top"
        shown = {line.get_label(): line for panel in (accuracy, cam, flips) for line in panel.lines}
        np.testing.assert_allclose(shown["cue present"].get_xdata(), [1.0, 0.95])
        np.testing.assert_allclose(shown["cue removed"].get_xdata(), [0.35])
        np.testing.assert_allclose(np.round(shown["cue removed"].get_ydata()), [0], err_msg="beside its own row")
        np.testing.assert_allclose(np.round(shown["random cue"].get_ydata()), [1])
        np.testing.assert_allclose(shown["with the mask"].get_xdata(), [0.06])
        assert len(shown["with the mask dilated twice"].get_xdata()) == 0, "NaN is not drawn"
        assert list(shown["chance"].get_xdata()) == [0.25, 0.25]
        # Student's t of two values with one degree of freedom.
        spans = [line.get_xdata() for line in cam.lines if len(line.get_xdata()) == 2]
        np.testing.assert_allclose(spans[0], [0.06 - 12.7062 * 0.01, 0.06 + 12.7062 * 0.01], atol=1e-4)

    def test_nothing_to_show(self, tmp_path):
        with pytest.raises(ValueError, match="at least one classifier"):
            planted_cue(RESULTS[:1], tmp_path / "cue.png", classes=3)
        assert not list(tmp_path.iterdir())
