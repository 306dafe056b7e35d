import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image
from tensorflow.core.framework import tensor_pb2

from tfseg.data.cases import MaskClasses
from tfseg.data.decode import decode_image, resize_image, to_model_input
from tfseg.export.serving import WARMUP_FILE, export_saved_model, prediction_log_class, read_model_card
from tfseg.layers.outputs import ModelInfo, model_info


def files_of_any_size():
    generator = np.random.default_rng(1)
    for shape, kind in (((20, 31, 3), "JPEG"), ((50, 18, 3), "PNG"), ((16, 16), "PNG")):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
        yield buffer.getvalue()


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported[1]["saved_model"]))


def test_signatures_are_what_a_client_sends(loaded):
    assert set(loaded.signatures) == {"serving_default", "serve_images"}
    by_bytes = loaded.signatures["serving_default"].structured_input_signature[1]
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in by_bytes.items()} == {
        "image_bytes": ([None], tf.string)
    }
    by_images = loaded.signatures["serve_images"].structured_input_signature[1]
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in by_images.items()} == {
        "images": ([None, None, None, 3], tf.uint8)
    }


def test_bytes_of_any_size_give_what_the_keras_model_gives(exported, loaded):
    model, files = exported[0], list(files_of_any_size())
    outputs = loaded.signatures["serving_default"](image_bytes=tf.constant(files))
    pixels = np.stack([resize_image(decode_image(contents), 16).numpy() for contents in files])
    expected = model(to_model_input(pixels), training=False)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, atol=1e-6, err_msg=name)
    assert np.ptp(outputs["probabilities"], axis=0).max() > 1e-3


def test_every_output_has_the_batch_size(loaded):
    outputs = loaded.signatures["serve_images"](images=tf.zeros((3, 40, 25, 3), tf.uint8))
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        "probabilities": (3, 3),
        "mask": (3, 16, 16, 1),
        "saliency": (3, 16, 16, 1),
        "classes": (3, 3),
    }
    assert outputs["classes"].numpy().tolist() == [[b"aphthous", b"neoplastic", b"traumatic"]] * 3


def test_a_broken_file_is_an_error_not_a_guess(loaded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        loaded.signatures["serving_default"](image_bytes=tf.constant([b"not an image"]))


def test_pad_is_inside_the_graph(make_classifier, tmp_path, images):
    model = make_classifier(resize="pad")
    export_saved_model(model, tmp_path / "1")
    wide = np.repeat(images, 2, axis=2)
    outputs = tf.saved_model.load(str(tmp_path / "1")).signatures["serve_images"](images=tf.constant(wide))
    expected = model(to_model_input(resize_image(wide, 16, "pad")), training=False)
    np.testing.assert_allclose(outputs["mask"], expected["mask"], atol=1e-6)
    stretched = model(to_model_input(resize_image(wide, 16)), training=False)
    assert np.abs(outputs["mask"] - stretched["mask"]).max() > 0.01


def test_a_segmenter_alone_serves_masks(make_segmenter, tmp_path):
    cell = MaskClasses(("background", "cytoplasm", "nucleus"), ("nucleus",), 255)
    info = export_saved_model(make_segmenter(cell), tmp_path / "1")
    assert ModelInfo.from_json(read_model_card(tmp_path / "1")) == info
    outputs = tf.saved_model.load(str(tmp_path / "1")).signatures["serve_images"](
        images=tf.zeros((2, 9, 9, 3), tf.uint8)
    )
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {"mask": (2, 16, 16, 3)}


def test_warm_up_requests_run_and_name_the_signatures(exported, loaded):
    records = list(tf.data.TFRecordDataset(str(exported[1]["saved_model"] / WARMUP_FILE)).as_numpy_iterator())
    seen = []
    for record in records:
        request = prediction_log_class().FromString(record).predict_log.request
        inputs = {
            key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(value)) for key, value in request.inputs.items()
        }
        assert request.model_spec.name == "tiny"
        outputs = loaded.signatures[request.model_spec.signature_name](
            **{key: tf.constant(value) for key, value in inputs.items()}
        )
        seen.append((request.model_spec.signature_name, outputs["probabilities"].shape[0]))
    assert seen == [("serving_default", 1), ("serving_default", 2), ("serve_images", 1), ("serve_images", 2)]


def test_warm_up_requests_have_the_servers_wire_format(exported):
    # An own description of the server's messages, with the tensor as the message that it is there.
    pool = descriptor_pool.DescriptorPool()
    for dependency in ("types", "tensor_shape", "resource_handle", "tensor"):
        module = __import__(f"tensorflow.core.framework.{dependency}_pb2", fromlist=["DESCRIPTOR"])
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    text = """
      name: "t.proto" package: "t" syntax: "proto3" dependency: "tensorflow/core/framework/tensor.proto"
      message_type { name: "Spec" field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
        field { name: "signature_name" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL } }
      message_type { name: "Entry" field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
        field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".tensorflow.TensorProto" label: LABEL_OPTIONAL }}
      message_type { name: "Request"
        field { name: "model_spec" number: 1 type: TYPE_MESSAGE type_name: ".t.Spec" label: LABEL_OPTIONAL }
        field { name: "inputs" number: 2 type: TYPE_MESSAGE type_name: ".t.Entry" label: LABEL_REPEATED } }
      message_type { name: "PredictLog"
        field { name: "request" number: 1 type: TYPE_MESSAGE type_name: ".t.Request" label: LABEL_OPTIONAL } }
      message_type { name: "Log"
        field { name: "predict_log" number: 6 type: TYPE_MESSAGE type_name: ".t.PredictLog" label: LABEL_OPTIONAL } }
    """
    from google.protobuf import text_format

    pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
    log_class = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Log"))
    records = list(tf.data.TFRecordDataset(str(exported[1]["saved_model"] / WARMUP_FILE)).as_numpy_iterator())
    request = log_class.FromString(records[-1]).predict_log.request
    assert request.model_spec.signature_name == "serve_images"
    tensor = request.inputs[0].value
    assert request.inputs[0].key == "images"
    assert [dimension.size for dimension in tensor.tensor_shape.dim] == [2, 16, 16, 3]


def test_model_card_says_what_must_be_known(exported):
    card = read_model_card(exported[1]["saved_model"])
    assert card["classes"] == ["aphthous", "neoplastic", "traumatic"]
    assert (card["image_size"], card["resize"], card["abstain_below"]) == (16, "stretch", 0.5)
    assert "No EXIF rotation" in card["input"] and "Research only" in card["intended_use"]
    assert card["metrics"] == {"accuracy": 0.5} and card["versions"]["tensorflow"] == tf.__version__
    assert ModelInfo.from_json(json.loads(json.dumps(card))) == model_info(exported[0])


def test_nothing_is_left_behind_by_an_export_that_fails(make_classifier, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no more room")

    monkeypatch.setattr(tf.io, "TFRecordWriter", fail)
    with pytest.raises(OSError, match="no more room"):
        export_saved_model(make_classifier(), tmp_path / "name" / "1")
    assert not list((tmp_path / "name").iterdir())


def test_a_plain_model_is_refused(tmp_path):
    image = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="not an inference graph"):
        export_saved_model(keras.Model(image, keras.layers.Conv2D(1, 1)(image)), tmp_path / "1")
    assert not (tmp_path / "1").exists()
