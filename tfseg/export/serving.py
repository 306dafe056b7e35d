"""SavedModel for TF-Serving: decoding, resizing, masks and saliency inside the graph, warm-up and model card beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfseg.data.decode import decode_image, resize_image, to_model_input
from tfseg.layers.outputs import ModelInfo, model_info
from tfseg.run import PACKAGES, written_whole

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
CARD_FILE = "assets.extra/model_card.json"


def export_saved_model(model: keras.Model, path: str | Path, metrics: dict | None = None, name: str = "") -> ModelInfo:
    """Write a SavedModel that TF-Serving loads, whole or not at all.

    Signatures, for a batch B:

    - ``serving_default``: ``image_bytes`` string (B,), JPEG or PNG files of any sizes. No EXIF rotation is applied.
    - ``serve_images``: ``images`` uint8 (B, H, W, 3), all of one size, any H and W.

    Outputs of both: those of the model (``probabilities`` (B, classes), ``mask`` (B, S, S, C), ``saliency``
    (B, S, S, 1), ``unfamiliarity`` (B,), all float32), and for a classifier ``classes`` string (B, classes): the names
    are repeated per row because TF-Serving's row format asks one batch size of all outputs.

    Args:
        model: an inference graph, see `tfseg.layers.outputs.model_info`.
        path: the version's folder, such as ``saved_models/NAME/1``; replaced when it is there.
        metrics: numbers for the model card.
        name: what the server will call the model; by default the name of the folder above the version's.

    Raises:
        ValueError: when the model is not an inference graph.
        RunError: when the folder cannot be written.
    """
    path = Path(path)
    info = model_info(model)

    def answer(pixels):
        outputs = model(to_model_input(pixels), training=False)
        outputs = {key: outputs[key] for key in info.outputs}
        if info.classes:
            outputs["classes"] = tf.tile(tf.constant([list(info.classes)]), [tf.shape(pixels)[0], 1])
        return outputs

    def from_bytes(image_bytes):
        spec = tf.TensorSpec((info.image_size, info.image_size, 3), tf.uint8)
        pixels = tf.map_fn(
            lambda contents: resize_image(decode_image(contents), info.image_size, info.resize),
            image_bytes,
            fn_output_signature=spec,
        )
        return answer(pixels)

    def from_images(images):
        return answer(resize_image(images, info.image_size, info.resize))

    with written_whole(path) as temporary:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serving_default", from_bytes, [tf.TensorSpec((None,), tf.string, name="image_bytes")])
        archive.add_endpoint(
            "serve_images", from_images, [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]
        )
        archive.write_out(str(temporary), verbose=False)
        (temporary / "assets.extra").mkdir()
        _write_warmup(temporary / WARMUP_FILE, info, name or path.parent.name)
        card = json.dumps(model_card(info, metrics or {}, name or path.parent.name), indent=1)
        (temporary / CARD_FILE).write_text(card + "\n", encoding="utf-8")
    return info


def model_card(info: ModelInfo, metrics: dict, name: str) -> dict:
    """What somebody who meets the exported model must know, as JSON values; `ModelInfo.from_json` reads it too."""
    meanings = {"not_sure": f"a largest probability below {info.abstain_below} is to be read as 'not sure'"}
    if info.threshold is not None:
        meanings["positive_case"] = (
            f"probabilities of {' and '.join(info.positive)} that sum to {info.threshold} or more; chosen on "
            "validation cases, at the temperature"
        )
    if "unfamiliarity" in info.outputs:
        meanings["unfamiliar"] = "an `unfamiliarity` above 1: unlike the training cases, whatever the probabilities say"
    return {
        "name": name,
        **info.to_json(),
        "intended_use": "Research only. Not a medical device; not for diagnosis or treatment.",
        "input": f"RGB photographs, resized ({info.resize}) to {info.image_size}x{info.image_size} inside the graph. "
        "No EXIF rotation is applied: rotate the pixels before sending a photograph.",
        **meanings,
        "versions": {package: _version(package) for package in ("tfseg", *PACKAGES)},
        "metrics": metrics,
    }


def read_model_card(path: str | Path) -> dict:
    """The model card of a SavedModel's folder.

    Raises:
        FileNotFoundError: when there is none: the folder was not exported by `export_saved_model`.
    """
    return json.loads((Path(path) / CARD_FILE).read_text(encoding="utf-8"))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def prediction_log_class():
    """The message ``tensorflow.serving.PredictionLog``, cut down to the fields that a warm-up request needs.

    Field numbers are those of TF-Serving's ``prediction_log.proto``, ``predict.proto`` and ``model.proto``. The
    inputs' tensors are declared as bytes, which have the same form on the wire as a message: the caller serialises
    the `TensorProto`. A pool of its own keeps clear of ``tensorflow-serving-api`` where that is installed.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tfseg_warmup.proto", package="tfseg.warmup", syntax="proto3")

    def message(parent, name, *fields):
        added = parent.add(name=name)
        for key, number, kind in fields:
            scalar = isinstance(kind, int)
            one = added.field.add(name=key, number=number, label=field.LABEL_OPTIONAL)
            one.type = kind if scalar else field.TYPE_MESSAGE
            if not scalar:
                one.type_name = f".tfseg.warmup.{kind}"
        return added

    message(file.message_type, "ModelSpec", ("name", 1, field.TYPE_STRING), ("signature_name", 3, field.TYPE_STRING))
    request = message(
        file.message_type, "PredictRequest", ("model_spec", 1, "ModelSpec"), ("inputs", 2, "PredictRequest.InputsEntry")
    )
    request.field[-1].label = field.LABEL_REPEATED
    entry = message(request.nested_type, "InputsEntry", ("key", 1, field.TYPE_STRING), ("value", 2, field.TYPE_BYTES))
    entry.options.map_entry = True
    message(file.message_type, "PredictLog", ("request", 1, "PredictRequest"))
    message(file.message_type, "PredictionLog", ("predict_log", 6, "PredictLog"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tfseg.warmup.PredictionLog"))


def _write_warmup(path: Path, info: ModelInfo, name: str) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, key, value in _warmup_inputs(info.image_size):
            log = prediction_log_class()()
            log.predict_log.request.model_spec.name = name
            log.predict_log.request.model_spec.signature_name = signature
            log.predict_log.request.inputs[key] = tf.make_tensor_proto(value).SerializeToString()
            writer.write(log.SerializeToString())


def _warmup_inputs(size: int) -> Iterator[tuple[str, str, np.ndarray]]:
    # A batch of one and a batch of several, because a device may choose other kernels for each; JPEG and PNG.
    grey = np.full((size, size, 3), 128, np.uint8)
    jpeg, png = (encode(grey).numpy() for encode in (tf.io.encode_jpeg, tf.io.encode_png))
    yield "serving_default", "image_bytes", np.array([jpeg], object)
    yield "serving_default", "image_bytes", np.array([jpeg, png], object)
    yield "serve_images", "images", grey[None]
    yield "serve_images", "images", np.stack([grey, grey])
