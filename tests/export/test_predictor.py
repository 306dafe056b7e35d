import shutil
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest
from PIL import Image

from tfseg.commands.models import Predict
from tfseg.data.cases import MaskClasses
from tfseg.data.decode import resize_image, restore_map, to_model_input
from tfseg.errors import DataError, RunError, UserError
from tfseg.evaluation.classification import read_predictions
from tfseg.export import predictions
from tfseg.export.mobile import export_litert
from tfseg.export.overlays import draw_overlay
from tfseg.export.predictions import find_images, predict_folder
from tfseg.export.predictor import KerasPredictor, load_predictor
from tfseg.export.serving import export_saved_model
from tfseg.layers.outputs import ClassProbabilities, MaskProbabilities, model_info
from tfseg.layers.unfamiliarity import Unfamiliarity
from tfseg.losses.segmentation import build_loss
from tfseg.metrics.segmentation import LesionIoU

FORMATS = ("keras", "saved_model", "litert")


def smooth(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    smooth(40, 30, 1).save(folder / "first.png")
    smooth(25, 50, 2).save(folder / "second.jpg", quality=95)
    smooth(33, 33, 3).convert("L").save(folder / "deeper" / "third.tif")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_predicts_the_same_and_knows_what_it_is(exported, images, kind):
    model, paths = exported
    predictor = load_predictor(paths[kind])
    assert predictor.info == model_info(model)
    for batch in (images, images[:1]):
        outputs = predictor.predict(batch)
        expected = model(to_model_input(batch), training=False)
        assert set(outputs) == {"probabilities", "mask", "saliency"}
        for name, value in outputs.items():
            assert isinstance(value, np.ndarray) and value.dtype == np.float32
            np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)


def mask_of(model, image):
    return model(to_model_input(image[None]), training=False)["mask"].numpy()[0]


def mean_over_mirrors(model, image):
    """By hand: the image, left–right, up–down and turned by half."""
    maps = [
        mask_of(model, image),
        mask_of(model, image[:, ::-1])[:, ::-1],
        mask_of(model, image[::-1])[::-1],
        mask_of(model, np.rot90(image, 2))[::-1, ::-1],
    ]
    return np.mean(maps, axis=0)


@pytest.mark.parametrize("kind", FORMATS)
def test_flips_change_the_mask_alone(exported, images, kind):
    model, paths = exported
    predictor = load_predictor(paths[kind])
    plain, averaged = predictor.predict(images), predictor.predict(images, "both")
    assert list(averaged) == list(plain)
    for name in ("probabilities", "saliency"):
        np.testing.assert_array_equal(averaged[name], plain[name])
    expected = np.stack([mean_over_mirrors(model, image) for image in images])
    assert np.abs(expected - plain["mask"]).max() > 0.01
    np.testing.assert_allclose(averaged["mask"], expected, atol=1e-5)


def test_the_highest_version_of_a_name_is_taken(exported, make_segmenter, tmp_path):
    shutil.copytree(exported[1]["saved_model"], tmp_path / "name" / "9")
    export_saved_model(make_segmenter(), tmp_path / "name" / "10")
    (tmp_path / "name" / "11").mkdir()
    assert load_predictor(tmp_path / "name").info.outputs == ("mask",)


@pytest.mark.parametrize("kind", FORMATS)
def test_files_come_in_order_with_their_originals(exported, folder, kind):
    predictor = load_predictor(exported[1][kind])
    paths = [folder / "second.jpg", folder / "first.png", folder / "deeper" / "third.tif"]
    finished = []
    results = list(predictor.predict_files(paths, batch_size=2, progress=finished.append))
    assert [path for path, _, _ in results] == paths and finished == [2, 1]
    assert [original.shape for _, _, original in results] == [(25, 50, 3), (40, 30, 3), (33, 33, 3)]
    for _, outputs, original in results:
        expected = predictor.predict(resize_image(original, 16).numpy()[None])
        assert outputs["mask"].shape == (16, 16, 1)
        np.testing.assert_allclose(outputs["probabilities"], expected["probabilities"][0], atol=1e-5)


def test_exif_rotation_is_applied_to_files(exported, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(20, 60).save(tmp_path / "turned.jpg", exif=exif)
    ((_, _, original),) = load_predictor(exported[1]["keras"]).predict_files([tmp_path / "turned.jpg"])
    assert original.shape == (60, 20, 3)


def damage(folder):
    whole = (folder / "second.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")


def test_unreadable_files_are_named_or_collected(exported, folder):
    damage(folder)
    predictor = load_predictor(exported[1]["keras"])
    paths = [folder / "first.png", folder / "cut.jpg", folder / "text.png", folder / "second.jpg", folder / "gone.png"]
    with pytest.raises(ValueError, match="cut.jpg"):
        list(predictor.predict_files(paths))
    results = list(predictor.predict_files(paths, batch_size=2, on_error="collect"))
    assert [path.name for path, _, _ in results] == ["first.png", "second.jpg"]
    assert [problem.file for problem in predictor.problems] == [str(paths[index]) for index in (1, 2, 4)]
    assert predictor.problems[2].kind == "missing_file"
    list(predictor.predict_files(paths[:1], on_error="collect"))
    assert predictor.problems == []


def test_arguments_are_checked(exported, images):
    predictor = load_predictor(exported[1]["keras"])
    for wrong in (images / 255, images[:, :8], images[0]):
        with pytest.raises(ValueError, match="must be uint8 .batch, 16, 16, 3."):
            predictor.predict(wrong)
    with pytest.raises(ValueError, match="`batch_size`"):
        predictor.predict_files([], batch_size=0)
    with pytest.raises(ValueError, match="`on_error`"):
        predictor.predict_files([], on_error="ignore")


def test_what_is_no_model_is_the_users_error(exported, tmp_path):
    (tmp_path / "model.h5").write_bytes(b"")
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    (tmp_path / "broken.tflite").write_bytes(b"no model")
    (tmp_path / "empty").mkdir()
    content = exported[1]["litert"].read_bytes()
    (tmp_path / "damaged.tflite").write_bytes(b"\0" * 2000 + content[2000:])
    image = keras.Input((8, 8, 3))
    plain = keras.Model(image, keras.layers.Conv2D(1, 1)(image))
    plain.save(tmp_path / "plain.keras")
    plain.export(tmp_path / "plain", verbose=False)
    for name, message in (
        ("nothing", "there is no model at"),
        ("model.h5", "must be a .keras file, a SavedModel folder or a .tflite file"),
        ("broken.keras", "can't be loaded as a model of tfseg"),
        ("plain.keras", "not an inference graph"),
        ("broken.tflite", "does not say what its classes are"),
        ("damaged.tflite", "damaged.tflite"),
        ("empty", "without a saved_model.pb and without numbered versions"),
        ("plain", "is not a SavedModel of `tfseg export`"),
    ):
        with pytest.raises(UserError, match=message):
            load_predictor(tmp_path / name)


def test_a_graph_that_was_saved_with_its_loss_is_read_by_a_new_process(tmp_path):
    image, inner = keras.Input((16, 16, 3), name="image"), keras.Input((16, 16, 3))
    trained = keras.Model(inner, keras.layers.Conv2D(1, 1)(inner))
    trained.compile("adam", build_loss("dice_focal"), weighted_metrics=[LesionIoU()])
    keras.Model(image, {"mask": MaskProbabilities(MaskClasses())(trained(image))}).save(tmp_path / "model.keras")
    code = (
        "import sys; from tfseg.export.predictor import load_predictor; print(load_predictor(sys.argv[1]).info.outputs)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model.keras"], capture_output=True, text=True)
    assert done.stdout == "('mask',)\n", done.stderr


def test_names_of_images(folder, tmp_path):
    assert list(find_images([folder])) == ["third", "first", "second"]
    smooth(9, 9).save(folder / "deeper" / "first.png")
    assert list(find_images([folder, folder / "first.png"])) == ["deeper/first", "deeper/third", "first", "second"]
    smooth(9, 9).save(folder / "first.bmp")
    assert list(find_images([folder]))[2:4] == ["first.bmp", "first.png"]
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / "masks").mkdir()
    smooth(9, 9).save(other / "images" / "first.png")
    smooth(9, 9).save(other / "masks" / "first.png")
    assert find_images([other]) == {"first": other / "images" / "first.png"}
    clash = find_images([other / "images" / "first.png", folder / "first.png"])
    assert len(clash) == 2 and not any(name.startswith("/") for name in clash)
    for wrong, message in ((other / "gone", "no image or folder at"), (tmp_path / "empty", "there is no image in")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message):
            find_images([wrong])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_becomes_a_table_masks_and_overlays(exported, folder, tmp_path, kind):
    damage(folder)
    summary = predict_folder(exported[1][kind], [folder], tmp_path / "out")
    header = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[0]
    assert header == ("id,image,true,predicted,confidence,abstained,prob_aphthous,prob_neoplastic,prob_traumatic")
    table = read_predictions(tmp_path / "out" / "predictions.csv")
    assert table["id"].tolist() == ["third", "first", "second"] and table["true"].isna().all()
    assert summary["images"] == 3 and sum(summary["predicted"].values()) == 3
    assert sorted(problem.file for problem in summary["problems"]) == [
        str(folder / "cut.jpg"),
        str(folder / "text.png"),
    ]
    assert (tmp_path / "out" / "problems.csv").read_text().count("\n") == 3
    original = np.asarray(Image.open(folder / "first.png"))
    probabilities = load_predictor(exported[1]["keras"]).predict(resize_image(original, 16).numpy()[None])
    row = table.set_index("id").loc["first"]
    assert row["prob_neoplastic"] == pytest.approx(probabilities["probabilities"][0, 1], abs=1e-5)
    assert row["confidence"] == pytest.approx(probabilities["probabilities"].max(), abs=1e-5)
    assert Image.open(tmp_path / "out" / "overlays" / "first.png").size == (60, 40)
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "first.png"))
    assert mask.shape == (40, 30) and set(np.unique(mask)) <= {0, 255}
    predict_folder(exported[1][kind], [folder], tmp_path / "out", overlays=False)


def test_not_sure_is_marked_and_keeps_its_class(make_classifier, folder, tmp_path):
    make_classifier(abstain_below=1.0).save(tmp_path / "unsure.keras")
    summary = predict_folder(tmp_path / "unsure.keras", [folder], tmp_path / "out")
    table = read_predictions(tmp_path / "out" / "predictions.csv")
    assert summary["abstained"] == 3 and table["abstained"].all() and table["predicted"].notna().all()


def test_what_a_model_decides_stands_in_the_table(make_classifier, folder, tmp_path, monkeypatch, capsys):
    model, captions = make_classifier(abstain_below=0.9, decides=True), []
    first = [
        found["unfamiliarity"] for _, found, _ in KerasPredictor(model).predict_files(find_images([folder]).values())
    ]
    layer = next(layer for layer in model.layers if isinstance(layer, Unfamiliarity))
    layer.threshold.assign(layer.threshold * np.mean(np.sort(first)[:2]))
    model.save(tmp_path / "deciding.keras")
    draw = predictions.draw_overlay
    monkeypatch.setattr(predictions, "draw_overlay", lambda *given: captions.append(given[-1]) or draw(*given))
    summary = predict_folder(tmp_path / "deciding.keras", [folder], tmp_path / "out")
    header = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[0]
    assert header.startswith("id,image,true,predicted,confidence,abstained,positive,unfamiliarity,unfamiliar,prob_")
    table = read_predictions(tmp_path / "out" / "predictions.csv").set_index("id")
    unfamiliarity = table["unfamiliarity"].astype(float)
    files, predictor = find_images([folder]), load_predictor(tmp_path / "deciding.keras")
    for name in table.index:
        ((_, alone, _),) = predictor.predict_files([files[name]])
        outputs = {key: value[None] for key, value in alone.items()}
        assert unfamiliarity[name] == pytest.approx(outputs["unfamiliarity"][0], rel=1e-5)
        assert table["positive"][name] == str(int(outputs["probabilities"][0, 1:].sum() >= 0.75))
        assert table["unfamiliar"][name] == str(int(outputs["unfamiliarity"][0] > 1))
    assert summary["unfamiliar"] == 2 == (unfamiliarity > 1).sum() and summary["abstained"] == table["abstained"].sum()
    for name, caption in zip(table.index, captions, strict=True):
        assert ("unfamiliar" in caption) == (unfamiliarity[name] > 1)
        assert ("not sure" in caption) == table["abstained"][name]
    assert Predict(str(tmp_path / "deciding.keras"), (str(folder),), str(tmp_path / "out")).run() == 0
    said = capsys.readouterr().out
    doubts = [f"; {summary['abstained']} not sure"] if summary["abstained"] else []
    doubts += [f"; {summary['unfamiliar']} unfamiliar"] if summary["unfamiliar"] else []
    assert doubts and f"{''.join(doubts)}); written to" in said


def test_masks_undo_the_padding(make_segmenter, folder, tmp_path):
    # A mask that is where the image is bright must come back onto the bright half of a wide image.
    image = keras.Input((16, 16, 3), name="image")
    logits = keras.layers.Rescaling(20.0, -10.0)(image)[..., :1]
    model = keras.Model(image, {"mask": MaskProbabilities(MaskClasses(), resize="pad")(logits)})
    export_litert(model, tmp_path / "bright.tflite")
    bright = np.zeros((30, 90, 3), np.uint8)
    bright[:, 45:] = 255
    Image.fromarray(bright).save(tmp_path / "wide.png")
    predict_folder(tmp_path / "bright.tflite", [tmp_path / "wide.png"], tmp_path / "out")
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "wide.png"))
    assert (mask != bright[..., 0]).mean() < 0.05
    header, row = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert header == "id,image,true,predicted,confidence,abstained" and row.startswith("wide,")


def test_class_values_are_written_for_several_mask_classes(make_segmenter, folder, tmp_path):
    cell = MaskClasses(("background", "cytoplasm", "nucleus"), ("nucleus",), 255)
    make_segmenter(cell).save(tmp_path / "cell.keras")
    predict_folder(tmp_path / "cell.keras", [folder / "first.png"], tmp_path / "out")
    original = np.asarray(Image.open(folder / "first.png"))
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "first.png"))
    assert mask.shape == original.shape[:2] and mask.max() <= 2 and len(np.unique(mask)) > 1


@pytest.mark.parametrize("kind", FORMATS)
def test_masks_are_averaged_and_cleaned_before_they_are_written(exported, folder, tmp_path, kind):
    options = {"flips": "both", "postprocessing": ("fill_holes", "largest_component")}
    out = tmp_path / "out"
    predict_folder(exported[1][kind], [folder], out, **options)
    predict_folder(exported[1][kind], [folder], tmp_path / "plain")
    changed = 0
    for name in ("first.png", "second.jpg"):
        original = np.asarray(Image.open(folder / name).convert("RGB"))
        small = resize_image(original, 16).numpy()
        lesion = restore_map(mean_over_mirrors(exported[0], small), *original.shape[:2])[..., 0] >= 0.5
        # Outer contours, filled, are the parts without their holes; OpenCV's touch by corners too.
        contours, _ = cv2.findContours(lesion.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        parts = [cv2.drawContours(np.zeros_like(lesion, np.uint8), [line], -1, 255, -1) for line in contours]
        expected = max(parts, key=np.count_nonzero)
        name = name.replace("jpg", "png")
        written = np.asarray(Image.open(out / "masks" / name))
        np.testing.assert_array_equal(written, expected)
        changed += (np.asarray(Image.open(tmp_path / "plain" / "masks" / name)) != written).sum()
    assert changed
    assert (out / "predictions.csv").read_text() == (tmp_path / "plain" / "predictions.csv").read_text()
    predict_folder(exported[1][kind], [folder], out, **options)
    with pytest.raises(RunError, match="flips: 'both' there"):
        predict_folder(exported[1][kind], [folder], out)


def test_of_several_classes_the_lesion_is_cleaned(make_segmenter, tmp_path):
    noise = np.random.default_rng(4).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    cell = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm",))
    model = make_segmenter(cell)
    model.save(tmp_path / "cell.keras")
    for out, postprocessing in (("plain", ()), ("cleaned", ("largest_component",))):
        files = [tmp_path / "noise.png"]
        predict_folder(tmp_path / "cell.keras", files, tmp_path / out, postprocessing=postprocessing)
    plain, cleaned = (np.asarray(Image.open(tmp_path / out / "masks" / "noise.png")) for out in ("plain", "cleaned"))
    count, parts, facts, _ = cv2.connectedComponentsWithStats((plain == 1).astype(np.uint8), connectivity=8)
    assert count > 2, "there is something to clean"
    largest = parts == 1 + facts[1:, cv2.CC_STAT_AREA].argmax()
    instead = 2 * mask_of(model, noise)[..., [0, 2]].argmax(-1)
    np.testing.assert_array_equal(cleaned, np.where((plain == 1) & ~largest, instead, plain))


def test_a_model_without_a_mask_has_none_to_flip_or_to_clean(folder, tmp_path):
    image = keras.Input((16, 16, 3), name="image")
    logits = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(image))
    model = keras.Model(image, {"probabilities": ClassProbabilities(("benign", "malignant"))(logits)})
    model.save(tmp_path / "plain.keras")
    for options in ({"flips": "vertical"}, {"postprocessing": ("fill_holes",)}):
        with pytest.raises(UserError, match="are for masks, and the model gives probabilities"):
            predict_folder(tmp_path / "plain.keras", [folder], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="are for masks"):
        load_predictor(tmp_path / "plain.keras").predict(np.zeros((1, 16, 16, 3), np.uint8), "both")


def test_nothing_readable_and_a_folder_in_use_are_the_users_errors(exported, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="text.png"):
        predict_folder(exported[1]["keras"], [tmp_path / "text.png"], tmp_path / "out")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.doc").write_text("")
    smooth(9, 9).save(tmp_path / "fine.png")
    with pytest.raises(RunError, match="not empty"):
        predict_folder(exported[1]["keras"], [tmp_path / "fine.png"], tmp_path / "used")


def test_overlay_draws_the_edge_and_leaves_the_rest():
    image = np.full((60, 60, 3), 90, np.uint8)
    lesion = np.zeros((60, 60))
    lesion[20:40, 20:40] = 0.9
    picture = draw_overlay(image, lesion)
    changed = (picture != image).any(-1)
    assert changed[20, 20:40].all() and changed[20:40, 39].all()
    assert not changed[24:36, 24:36].any() and not changed[:15].any()
    saliency = np.zeros((60, 60))
    saliency[:30] = 1.0
    panels = draw_overlay(image, lesion, saliency, "benign 0.90")
    heat = panels[-60:, 60:].astype(int)
    assert heat[:30, :, 0].mean() > heat[:30, :, 2].mean() and heat[30:, :, 0].mean() < heat[30:, :, 2].mean()
    with pytest.raises(ValueError, match="`saliency` must have the image's size"):
        draw_overlay(image, lesion, saliency[:30])
