import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfseg.data.cases import MaskClasses
from tfseg.export.mobile import export_litert
from tfseg.export.serving import export_saved_model
from tfseg.layers.outputs import ClassProbabilities, MaskProbabilities
from tfseg.layers.unfamiliarity import Unfamiliarity

SIZE = 16
CLASSES = ("aphthous", "neoplastic", "traumatic")


@keras.saving.register_keras_serializable(package="tests")
class TinyExplained(keras.layers.Layer):
    """A linear head and its gradient-weighted map: a tape inside the graph, as a real saliency layer has."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], len(CLASSES)), initializer="random_normal")

    def call(self, features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = keras.ops.matmul(keras.ops.mean(features, axis=(1, 2)), self.kernel)
        best = tf.one_hot(tf.argmax(logits, -1), len(CLASSES))
        gradients = tape.gradient(logits, features, output_gradients=best)
        saliency = keras.ops.relu(keras.ops.sum(gradients * features, axis=-1, keepdims=True))
        saliency = saliency / (keras.ops.max(saliency, axis=(1, 2, 3), keepdims=True) + 1e-9)
        return {"logits": logits, "saliency": keras.ops.image.resize(saliency, (SIZE, SIZE))}

    def compute_output_spec(self, features):
        shapes = {"logits": (None, len(CLASSES)), "saliency": (None, SIZE, SIZE, 1)}
        return {name: keras.KerasTensor(shape, "float32") for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def make_classifier():
    """Builds a masked classifier with saliency: everything that an inference graph can have, in a few weights."""

    def build(resize="stretch", abstain_below=0.5, decides=False):
        keras.utils.set_random_seed(7)
        image = keras.Input((SIZE, SIZE, 3), name="image")
        logits = keras.layers.Conv2D(1, 3, padding="same")(keras.layers.Rescaling(2.0, -1.0)(image))
        mask = MaskProbabilities(MaskClasses().to_json(), resize=resize)(logits)
        features = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image * mask)
        explained = TinyExplained()(features)
        # A cold temperature makes the tiny model's differences between images visible.
        point = {"positive": CLASSES[1:], "threshold": 0.75} if decides else {}
        probabilities = ClassProbabilities(CLASSES, 0.01, abstain_below, resize, **point)(explained["logits"])
        outputs = {"probabilities": probabilities, "mask": mask, "saliency": explained["saliency"]}
        if decides:
            layer = Unfamiliarity(3, 2)
            outputs["unfamiliarity"] = layer(features)
            layer.fit(np.linspace(0.0, 0.5, 24).reshape(3, 8), np.eye(2, 8), [0.04, 0.02], 0.01, threshold=2.0)
        return keras.Model(image, outputs)

    return build


@pytest.fixture(scope="session")
def make_segmenter():
    """Builds a segmenter alone."""

    def build(mask_classes=None, size=SIZE):
        keras.utils.set_random_seed(8)
        mask_classes = mask_classes or MaskClasses()
        image = keras.Input((size, size, 3), name="image")
        logits = keras.layers.Conv2D(mask_classes.channels, 3, padding="same")(image)
        return keras.Model(image, {"mask": MaskProbabilities(mask_classes)(logits * 4.0)})

    return build


@pytest.fixture(scope="session")
def images():
    """Smooth images at the model's size, uint8 (6, SIZE, SIZE, 3)."""
    small = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    resized = [Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for one in small]
    return np.stack([np.asarray(one) for one in resized])


@pytest.fixture(scope="session")
def exported(make_classifier, tmp_path_factory):
    """One classifier in the three formats: ``(model, {format: path})``."""
    folder = tmp_path_factory.mktemp("exported")
    model = make_classifier()
    paths = {"keras": folder / "model.keras", "saved_model": folder / "tiny" / "3", "litert": folder / "model.tflite"}
    model.save(paths["keras"])
    export_saved_model(model, paths["saved_model"], metrics={"accuracy": 0.5})
    export_litert(model, paths["litert"])
    return model, paths
