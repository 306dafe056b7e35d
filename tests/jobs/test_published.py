"""Datasets in their publishers' own layout go through trainings as plain folders do."""

from __future__ import annotations

import pytest
from PIL import Image

from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources import load_cases
from tfseg.jobs.comparison import run_comparison
from tfseg.jobs.evaluate import evaluate_model
from tfseg.jobs.runs import rerun
from tfseg.run import read_json
from tfseg.session import Session


@pytest.fixture(scope="module")
def dermoscopy(phantoms, tmp_path_factory):
    """The shared cases in the layout of HAM10000, and a dozen others in that of PH2, below one folder."""
    base = tmp_path_factory.mktemp("published")
    ham, ph2 = base / "HAM10000", base / "PH2Dataset"
    lesions, criteria = ["lesion_id,image_id,dx,sex"], ["|| Name || Clinical Diagnosis || Asymmetry ||"]
    for number, row in enumerate(load_cases(phantoms).table.itertuples()):
        name, dx = f"ISIC_{number:07d}", "mel" if row.label == "malignant" else "nv"
        _converted(row.image, ham / f"HAM10000_images_part_{1 + number % 2}" / f"{name}.png")
        _converted(row.mask, ham / "HAM10000_segmentations_lesion_tschandl" / f"{name}_segmentation.png")
        lesions.append(f"HAM_{row.group},{name},{dx},{('male', 'female')[number % 3 == 0]}")
    others = write_phantoms(PhantomConfig(images=12, size=48, classes=("benign", "malignant"), seed=9), base / "others")
    for number, row in enumerate(load_cases(others).table.itertuples()):
        name = f"IMD{number:03d}"
        _converted(row.image, ph2 / "PH2 Dataset images" / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp")
        _converted(row.mask, ph2 / "PH2 Dataset images" / name / f"{name}_lesion" / f"{name}_lesion.bmp")
        criteria.append(f"|| {name} || {2 if row.label == 'malignant' else number % 2} || {number % 3} ||")
    (ham / "HAM10000_metadata.csv").write_text("\n".join(lesions))
    (ph2 / "PH2_dataset.txt").write_text("\n".join(criteria))
    return base


def _converted(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(image).save(path)


@pytest.fixture(scope="module")
def trained(dermoscopy, tiny, tmp_path_factory):
    """A probe trained on the one and tested on the other, and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFSEG_DATA", str(dermoscopy))
        names = dermoscopy / "names.json"
        names.write_text('{"common_nevus": "nv", "atypical_nevus": "nv", "melanoma": "mel"}')
        config = tiny(
            f"ham10000:{dermoscopy / 'HAM10000'}",
            training="probe",
            approaches=("plain", "oracle"),
            segmenter="none",
            external=(f"ph2:{dermoscopy / 'PH2Dataset'}",),
            class_map=str(names),
            subgroups=("sex",),
        )
        lines: list[str] = []
        yield run_comparison(config, tmp_path_factory.mktemp("runs") / "published", say=lines.append), config, lines


def test_the_run_names_the_data_and_says_what_is_missing(trained, rows_of):
    run, config, lines = trained
    assert run.config["data"] == "ham10000:$TFSEG_DATA/HAM10000"
    assert read_json(run.path("data.json"))["name"] == "ham10000:$TFSEG_DATA/HAM10000"
    warned = [line for line in lines if "published_counts" in line]
    assert any("nv" in line and "of 6,705" in line for line in warned)
    images = [row["image"] for row in rows_of(run.path("predictions", "plain.csv"))]
    assert images and all(image.startswith("HAM10000_images_part_") for image in images)


def test_the_other_dataset_is_scored_by_its_own_names(trained):
    run, _, _ = trained
    rows = {row["name"]: row["metrics"] for row in read_json(run.path("metrics.json"))["rows"]}
    assert any("PH2Dataset" in str(path) for path in run.folder.rglob("*"))
    assert 0 <= rows["plain"]["accuracy"]["mean"] <= 1


def test_its_own_test_part_and_another_run_of_it(trained, dermoscopy, tmp_path, monkeypatch, rows_of):
    run, config, _ = trained
    lines: list[str] = []
    evaluate_model(run.folder, config.data, tmp_path / "own", row="plain", part="test", say=lines.append)
    before = {row["id"]: row["predicted"] for row in rows_of(run.path("predictions", "plain.csv"))}
    after = {row["id"]: row["predicted"] for row in rows_of(tmp_path / "own" / "predictions.csv")}
    assert after == before and not any("left out" in line for line in lines)
    again = rerun(run.folder, tmp_path / "again", Session(("plain",)))
    assert rows_of(again.path("predictions", "plain.csv")) == rows_of(run.path("predictions", "plain.csv"))
