"""The demonstration, made tiny: all of it once, and nothing twice."""

from __future__ import annotations

import csv
import time
from dataclasses import replace

import pytest

from tfseg.data import phantom_folder
from tfseg.errors import ConfigError, RunError
from tfseg.jobs import cells, demo
from tfseg.run import read_json

IMAGES = 30


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder of a tiny demonstration and what it said."""
    lines = []
    folder = tmp_path_factory.mktemp("demo") / "demo"
    with small() as seconds:
        run = demo.run_demo(folder, images=IMAGES, command="tfseg demo", say=lines.append)
    return folder, run, lines, seconds[0]


class small:
    """A smaller configuration and fewer new images, for as long as the block runs."""

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        tiny = replace(demo.DEMO, approaches=("hard_mask",), image_size=32, segmenter_width=4, segmenter_depth=2)
        self.patch.setattr(demo, "DEMO", replace(tiny, segmenter_epochs=1, epochs=1))
        self.patch.setattr(demo, "PHANTOM_SIZE", 32)
        self.patch.setattr(demo, "NEW_IMAGES", 3)
        self.seconds, self.started = [], time.monotonic()
        return self.seconds

    def __exit__(self, *error):
        self.patch.undo()
        self.seconds.append(time.monotonic() - self.started)


def test_all_of_it_is_made(shown):
    folder, run, lines, _ = shown
    assert run.folder == folder / "run" and run.finished
    assert len(list((folder / "data" / "images").iterdir())) == IMAGES
    assert (folder / "saved_models" / "demo" / "1" / "saved_model.pb").is_file()
    assert (folder / "saved_models" / "demo" / "demo.float32.tflite").is_file()
    assert read_json(folder / "saved_models" / "demo" / "parity.1.json")["passed"]
    metrics = read_json(run.path("metrics.json"))
    assert (metrics["experiment"], metrics["command"]) == ("demo", "tfseg demo")


def test_new_images_are_predicted_through_the_export(shown):
    folder = shown[0]
    with (folder / "predictions" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and {row["predicted"] for row in rows} <= {"benign", "atypical", "malignant"}
    assert len(list((folder / "predictions" / "overlays").glob("*.png"))) == 3
    assert len(list((folder / "predictions" / "masks").glob("*.png"))) == 3


def test_it_says_where_things_are_and_that_the_exports_agree(shown):
    folder, _, lines, _ = shown
    text = "\n".join(lines)
    assert "saved_model agrees with Keras" in text and "litert agrees with Keras" in text
    for path in (
        "run/report.html",
        "saved_models/demo/1",
        "saved_models/demo/demo.float32.tflite",
        "predictions/overlays",
    ):
        assert str(folder / path) in text
    assert all((folder / path).exists() for path in ("run/report.html", "predictions/predictions.csv"))


def test_the_same_command_does_nothing_again(shown, monkeypatch):
    folder, _, _, seconds = shown
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    made = {path for path in before if "predictions" not in path.relative_to(folder).parts[:1]}
    for name in ("given_or_trained", "train_classifier"):
        monkeypatch.setattr(cells, name, lambda *arguments: pytest.fail("trains again"))
    monkeypatch.setattr(demo, "export_run", lambda *arguments, **options: pytest.fail("exports again"))
    monkeypatch.setattr(phantom_folder, "write_phantoms", lambda *arguments, **options: pytest.fail("draws again"))
    with small() as again:
        demo.run_demo(folder, images=IMAGES, command="tfseg demo", say=lambda line: None)
    assert again[0] < max(10, seconds / 2)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert {path for path in made if after[path] != before[path]} == set()


def test_other_settings_need_another_folder(shown):
    with small(), pytest.raises(RunError, match="was not drawn with these settings; give another `--out`"):
        demo.run_demo(shown[0], images=IMAGES + 3, say=lambda line: None)


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(RunError, match="give another `--out`"):
        demo.run_demo(tmp_path, images=IMAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(("options", "name"), [({"images": 29}, "images"), ({"seed": -1}, "seed")])
def test_what_cannot_be_drawn(tmp_path, options, name):
    with pytest.raises(ConfigError, match=f"`{name}` must be at least"):
        demo.run_demo(tmp_path / "demo", **options)
    assert not (tmp_path / "demo").exists()
