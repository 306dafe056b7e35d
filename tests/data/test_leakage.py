import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tfseg.data.audit import audit_cases
from tfseg.data.leakage import Score, border_colour, leak_findings, leak_test
from tfseg.data.phantom import PhantomConfig, write_phantoms
from tfseg.data.sources.folder import read_folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    config = PhantomConfig(images=120, size=48, seed=1, classes=("benign", "malignant"))
    return write_phantoms(config, tmp_path_factory.mktemp("leakage") / "data")


@pytest.fixture
def phantoms(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "data")


def leak_of(folder):
    audit = audit_cases(read_folder(folder))
    told = [problem for problem in audit.problems if problem.kind == "facts_leak_label"]
    return audit.leak, told[0] if told else None


def rewrite(folder, change, label="malignant"):
    """Save the images of one class anew: change(image, path, number)."""
    table = pd.read_csv(folder / "labels.csv")
    for number, row in enumerate(table.itertuples()):
        if row.label == label:
            with Image.open(folder / row.image) as image:
                image.load()
            change(image, folder / row.image, number)


def test_nothing_leaks_from_clean_images(clean):
    leak, told = leak_of(clean)
    assert told is None and not leak.carriers
    assert leak.score.low < 0.5 < leak.score.high
    assert leak.chance == 0.5 and leak.cases == 120 and leak.classes == ("benign", "malignant")


def test_size(phantoms):
    def smaller(image, path, number):
        image.resize((44, 44)).save(path)
        mask = phantoms / "masks" / path.name
        Image.open(mask).resize((44, 44), Image.Resampling.NEAREST).save(mask)

    rewrite(phantoms, smaller)
    leak, told = leak_of(phantoms)
    assert leak.by_fact["size"].balanced_accuracy == 1.0 and list(leak.by_fact)[0] == "size"
    assert "size 1.00" in told.message and "can learn size" in told.message and told.severity == "warning"
    assert leak.medians["malignant"]["width"] == 44 and leak.medians["benign"]["width"] == 48


def test_border_colour(phantoms):
    def frame(image, path, number):
        pixels = np.asarray(image).copy()
        pixels[:2] = pixels[-2:] = pixels[:, :2] = pixels[:, -2:] = 12
        Image.fromarray(pixels).save(path)

    rewrite(phantoms, frame)
    leak, told = leak_of(phantoms)
    assert leak.by_fact["border colour"].balanced_accuracy == 1.0
    assert "border colour 1.00" in told.message


def test_jpeg_quality(phantoms):
    def as_jpeg(quality):
        return lambda image, path, number: image.save(path, "JPEG", quality=quality)

    rewrite(phantoms, as_jpeg(90), "benign")
    rewrite(phantoms, as_jpeg(90), "malignant")
    assert "JPEG quality" not in leak_of(phantoms)[0].carriers
    rewrite(phantoms, as_jpeg(85), "malignant")
    leak, told = leak_of(phantoms)
    assert leak.by_fact["JPEG quality"].balanced_accuracy == 1.0
    assert "JPEG quality 1.00" in told.message and "JPEG quality" in told.message.split(";")[1]


def test_exif_and_file_type(phantoms):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    rewrite(phantoms, lambda image, path, number: image.save(path, exif=exif))
    leak, told = leak_of(phantoms)
    assert list(leak.carriers) == ["EXIF"] and "EXIF" in told.message
    rewrite(phantoms, lambda image, path, number: image.save(path, "BMP"))
    assert "file type" in leak_of(phantoms)[0].carriers


def test_a_leak_of_half_a_class_is_found_too(phantoms):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    rewrite(phantoms, lambda image, path, number: image.save(path, **({"exif": exif} if number % 2 else {})))
    leak, told = leak_of(phantoms)
    assert told is not None and "EXIF" in leak.carriers and leak.by_fact["EXIF"].balanced_accuracy < 0.9


def test_names_of_files_are_not_looked_at(phantoms):
    table = pd.read_csv(phantoms / "labels.csv")
    for number, row in table.iterrows():
        new = f"images/{row['label']}_{number}.png"
        (phantoms / row["image"]).rename(phantoms / new)
        table.loc[number, "image"] = new
    table.to_csv(phantoms / "labels.csv", index=False)
    assert leak_of(phantoms)[1] is None


def facts_table(count, width):
    zeros = dict.fromkeys(("red", "green", "blue", "red_spread", "green_spread", "blue_spread"), np.zeros(count))
    fixed = {"height": 10, "aspect": 1.0, "bytes_per_pixel": 1.0, "quantisation": 0, "exif": 0}
    return pd.DataFrame({"width": width, **zeros, **fixed, "extension": ".png", "form": "colour PNG"})


def test_a_group_is_never_on_both_sides(make_cases):
    # Every patient has a width of its own, and the label is the patient's: only who has seen the patient can tell.
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(24), 10)
    labels = rng.permutation(np.arange(24) % 2)[patients]
    cases = make_cases(np.array(["a", "b"])[labels].tolist(), groups=[f"p{number}" for number in patients])
    facts = facts_table(240, rng.permutation(24)[patients] * 10)
    grouped = leak_test(facts, cases).score
    alone = leak_test(facts, make_cases(np.array(["a", "b"])[labels].tolist())).score
    assert alone.balanced_accuracy > 0.95 and grouped.balanced_accuracy < 0.8
    assert grouped.high - grouped.low > 0.2


def test_too_few_cases_are_not_tested(make_cases):
    facts = facts_table(60, np.arange(60))
    assert leak_test(facts, make_cases("a" * 41 + "b" * 19)) is None
    assert leak_test(facts, make_cases("a" * 40 + "b" * 20, groups=["p"] * 40 + [f"q{n}" for n in range(20)])) is None
    result = leak_test(facts, make_cases("a" * 25 + "b" * 25 + "c" * 10))
    assert result.classes == ("a", "b") and result.cases == 50 and result.score.balanced_accuracy > 0.95
    assert list(result.by_fact) == ["size"], "facts that never vary say nothing"
    assert leak_test(facts.iloc[:0], make_cases("ab")) is None
    assert leak_findings(None, make_cases("ab")) == []


def test_near_chance_is_near(make_cases):
    result = leak_test(facts_table(60, np.arange(60)), make_cases("ab" * 30))
    # Chance is 0.5, and 5 % of the way from there to 1 is 0.525.
    assert not result.leaks(Score(0.7, 0.52, 0.9)) and result.leaks(Score(0.7, 0.53, 0.9))


def test_border_colour_by_hand():
    pixels = np.full((20, 40, 3), 200, np.uint8)
    pixels[0], pixels[:, 0] = 0, 0
    pixels[0, :, 1], pixels[:, 0, 1] = 200, 200
    # The frame is one pixel wide: 2 · 40 + 2 · 18 = 116 pixels, of which 40 + 19 = 59 are 0 in red and in blue.
    mean, spread = 200 * 57 / 116, 200 * np.sqrt(59 * 57) / 116
    np.testing.assert_allclose(border_colour(pixels), [mean, 200, mean, spread, 0, spread], atol=1e-9)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "carriers"),
    [
        ("herlev", {"size", "border colour", "bytes per pixel"}),
        ("oral", {"EXIF", "JPEG quality", "bytes per pixel"}),
        ("ph2", {"border colour"}),
    ],
)
def test_real_leaks(data_folder, name, carriers):
    """Cells are cropped to their size; the healthy mouths are one photographer's; melanomas reach the frame."""
    assert set(leak_of(data_folder / name)[0].carriers) == carriers
