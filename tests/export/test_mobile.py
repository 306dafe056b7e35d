import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.decode import to_model_input
from tfseg.errors import ExportError, UserError
from tfseg.export.mobile import INFO_FILE, LABELS_FILE, export_litert, foreign_operations, read_litert_info
from tfseg.layers.outputs import model_info


def run(path, images):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path)).get_signature_runner()(image=to_model_input(images).numpy())


def test_outputs_by_name_at_any_batch_size(exported, images):
    model, paths = exported
    for batch in (images[:1], images):
        outputs = run(paths["litert"], batch)
        expected = model(to_model_input(batch), training=False)
        assert set(outputs) == {"probabilities", "mask", "saliency"}
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, atol=1e-5, err_msg=name)


def test_the_file_says_what_it_is(exported):
    model, paths = exported
    assert read_litert_info(paths["litert"]) == model_info(model)
    with zipfile.ZipFile(paths["litert"]) as archive:
        assert archive.namelist() == [LABELS_FILE, INFO_FILE]
        assert archive.read(LABELS_FILE).decode() == "aphthous\nneoplastic\ntraumatic\n"


def test_builtin_operations_only(exported):
    assert foreign_operations(exported[1]["litert"].read_bytes()) == []


@keras.saving.register_keras_serializable(package="tests")
class Rolled(keras.layers.Layer):
    """Shifted windows by `roll`: LiteRT has no such operation."""

    def call(self, inputs):
        return tf.roll(inputs, 1, axis=1)


def test_a_flex_operation_is_named_and_nothing_is_written(exported, tmp_path):
    model = exported[0]
    rolled = keras.Model(model.input, {**model.output, "saliency": Rolled()(model.output["saliency"])})
    with pytest.raises(ExportError, match="model.tflite.*FlexRoll"):
        export_litert(rolled, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_a_segmenter_alone(make_segmenter, tmp_path, images):
    model = make_segmenter()
    export_litert(model, tmp_path / "segmenter.tflite")
    assert read_litert_info(tmp_path / "segmenter.tflite").classes == ()
    np.testing.assert_allclose(
        run(tmp_path / "segmenter.tflite", images)["mask"], model(to_model_input(images))["mask"], atol=1e-6
    )


def test_arguments_are_checked(exported, tmp_path):
    with pytest.raises(ValueError, match="must end in .tflite"):
        export_litert(exported[0], tmp_path / "model.bin")
    with pytest.raises(ValueError, match="`precision` must be one of"):
        export_litert(exported[0], tmp_path / "model.tflite", precision="float8")


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_without_info_is_the_users_error(tmp_path, content):
    (tmp_path / "other.tflite").write_bytes(content)
    with pytest.raises(UserError, match="other.tflite does not say"):
        read_litert_info(tmp_path / "other.tflite")
