import json

import keras
import numpy as np
import pytest

from tfseg.errors import ExportError
from tfseg.export.mobile import export_litert
from tfseg.export.parity import check_parity
from tfseg.export.predictor import load_predictor
from tfseg.export.serving import export_saved_model, read_model_card
from tfseg.layers.outputs import model_info


def weight(model, layer_type):
    return next(layer for layer in model.layers if isinstance(layer, layer_type)).kernel


def test_exports_of_the_model_pass(exported, images):
    model, paths = exported
    report = check_parity(model, images, paths["saved_model"], paths["litert"], batch_size=4)
    assert report["passed"] and report["images"] == 6 and report["problems"] == []
    for kind in ("saved_model", "saved_model_bytes", "litert"):
        assert set(report[kind]["max_difference"]) == {"probabilities", "mask", "saliency"}
        assert max(report[kind]["max_difference"].values()) < 1e-5
        assert report[kind]["argmax_agreement"] == 1.0 and report[kind]["saliency_within_tolerance"]
    json.dumps(report)


def test_one_format_alone(exported, images):
    model, paths = exported
    assert "litert" not in check_parity(model, images, saved_model=paths["saved_model"].parent)
    assert "saved_model" not in check_parity(model, images, litert=paths["litert"])


@pytest.mark.parametrize("kind", ["saved_model", "litert"])
def test_a_corrupted_export_is_refused(exported, images, make_classifier, tmp_path, kind):
    corrupted = make_classifier()
    kernel = weight(corrupted, keras.layers.Conv2D)
    kernel.assign(kernel + 0.01)
    path = tmp_path / ("1" if kind == "saved_model" else "model.tflite")
    (export_saved_model if kind == "saved_model" else export_litert)(corrupted, path)
    with pytest.raises(ExportError, match=f"{kind}: mask differs by .* more than 0.0001") as caught:
        check_parity(exported[0], images, **{kind: path})
    report = caught.value.report
    assert not report["passed"] and report[kind]["max_difference"]["mask"] > 1e-4


def test_nan_is_refused_even_where_both_agree_on_it(make_classifier, images, tmp_path):
    model = make_classifier()
    kernel = weight(model, keras.layers.Conv2D)
    kernel.assign(np.full(kernel.shape, np.nan))
    export_litert(model, tmp_path / "model.tflite")
    with pytest.raises(ExportError, match="litert: mask holds NaN") as caught:
        check_parity(model, images, litert=tmp_path / "model.tflite")
    assert any(problem.startswith("keras: ") for problem in caught.value.report["problems"])


def test_a_format_that_decodes_otherwise_is_refused(make_classifier, images, tmp_path, monkeypatch):
    import tfseg.export.serving as serving

    model = make_classifier()
    decode = serving.decode_image
    monkeypatch.setattr(serving, "decode_image", lambda contents: decode(contents)[..., ::-1])
    export_saved_model(model, tmp_path / "1")
    with pytest.raises(ExportError, match="saved_model_bytes: ") as caught:
        check_parity(model, images, saved_model=tmp_path / "1")
    assert not any(problem.startswith("saved_model: ") for problem in caught.value.report["problems"])


def test_a_saliency_that_differs_is_reported_and_let_pass(images, tmp_path, exported):
    model = exported[0]
    outputs = {**model.output, "saliency": keras.layers.Rescaling(0.5)(model.output["saliency"])}
    export_litert(keras.Model(model.input, outputs), tmp_path / "model.tflite")
    report = check_parity(model, images, litert=tmp_path / "model.tflite")
    assert report["passed"] and report["litert"]["saliency_within_tolerance"] is False
    assert report["litert"]["max_difference"]["saliency"] == pytest.approx(0.5, abs=0.1)


@pytest.fixture(scope="module")
def deciding(make_classifier, tmp_path_factory):
    """A model with an operating point and an unfamiliarity, in the three formats."""
    model, folder = make_classifier(decides=True), tmp_path_factory.mktemp("deciding")
    export_saved_model(model, folder / "deciding" / "1")
    export_litert(model, folder / "model.tflite")
    return model, folder / "deciding" / "1", folder / "model.tflite"


def test_unfamiliarity_goes_with_the_model(deciding, images):
    model, saved_model, litert = deciding
    report = check_parity(model, images, saved_model, litert)
    for kind in ("saved_model", "saved_model_bytes", "litert"):
        assert report[kind]["max_difference"]["unfamiliarity"] < 1e-4
    for path in (saved_model, litert):
        predictor = load_predictor(path)
        assert predictor.info == model_info(model)
        assert predictor.info.positive == ("neoplastic", "traumatic") and predictor.info.threshold == 0.75
        found = predictor.predict(images)["unfamiliarity"]
        assert found.shape == (6,) and found.std() > 0.02
    card = read_model_card(saved_model)
    assert "neoplastic and traumatic that sum to 0.75 or more" in card["positive_case"]
    assert "above 1" in card["unfamiliar"] and card["temperature"] == 0.01


def test_unfamiliarity_is_compared_relatively(deciding, images, tmp_path):
    model = deciding[0]

    def exported(factor):
        scaled = keras.layers.Rescaling(factor)(model.output["unfamiliarity"])
        path = tmp_path / f"{factor}.tflite"
        export_litert(keras.Model(model.input, {**model.output, "unfamiliarity": scaled}), path)
        return path

    report = check_parity(model, images, litert=exported(1.0005))
    assert report["litert"]["max_difference"]["unfamiliarity"] == pytest.approx(0.0005, abs=5e-5)
    with pytest.raises(ExportError, match="litert: unfamiliarity differs by 0.00.*, more than 0.001"):
        check_parity(model, images, litert=exported(1.002))


def test_the_map_of_a_second_branch_is_a_saliency_too(exported, images, tmp_path):
    model = exported[0]
    both = keras.Model(model.input, {**model.output, "saliency_mask": model.output["saliency"]})
    halved = keras.layers.Rescaling(0.5)(model.output["saliency"])
    export_litert(keras.Model(model.input, {**model.output, "saliency_mask": halved}), tmp_path / "model.tflite")
    report = check_parity(both, images, litert=tmp_path / "model.tflite")
    assert report["passed"] and report["litert"]["saliency_within_tolerance"] is False
    assert report["litert"]["max_difference"]["saliency"] < 1e-5


def test_a_missing_output_is_refused(exported, images, tmp_path):
    model = exported[0]
    fewer = {name: value for name, value in model.output.items() if name != "mask"}
    export_litert(keras.Model(model.input, fewer), tmp_path / "model.tflite")
    with pytest.raises(ExportError, match="mask is missing"):
        check_parity(model, images, litert=tmp_path / "model.tflite")


def test_arguments_are_checked(exported, images):
    model, paths = exported
    with pytest.raises(ValueError, match="nothing to compare"):
        check_parity(model, images)
    with pytest.raises(ValueError, match="at least one image"):
        check_parity(model, images[:0], litert=paths["litert"])
    with pytest.raises(ValueError, match="uint8 .batch, 16, 16, 3."):
        check_parity(model, images / 255, litert=paths["litert"])
