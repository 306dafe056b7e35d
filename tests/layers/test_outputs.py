import keras
import numpy as np
import pytest

from tfseg.data.cases import MaskClasses
from tfseg.layers.outputs import ClassProbabilities, MaskProbabilities, ModelInfo, model_info

CELL = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), 255)


def segmenter(mask_classes, name="mask_probabilities", **options):
    image = keras.Input((8, 8, 3), name="image")
    logits = keras.layers.Conv2D(mask_classes.channels, 3, padding="same")(image)
    return keras.Model(image, {"mask": MaskProbabilities(mask_classes.to_json(), name=name, **options)(logits)})


def classifier(**options):
    image = keras.Input((8, 8, 3), name="image")
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    logits = keras.layers.Dense(3)(pooled)
    return keras.Model(image, {"probabilities": ClassProbabilities(["a", "b", "c"], **options)(logits)})


def test_class_probabilities_by_hand():
    # softmax([0, ln 3]) = [1/4, 3/4]; with temperature 2 the ratio is √3.
    logits = np.array([[0.0, np.log(3.0)]], np.float32)
    np.testing.assert_allclose(ClassProbabilities(["a", "b"])(logits), [[0.25, 0.75]], rtol=1e-5)
    half = 1 / (1 + 3**0.5)
    np.testing.assert_allclose(ClassProbabilities(["a", "b"], 2.0)(logits), [[half, 1 - half]], rtol=1e-5)


def test_mask_probabilities_by_hand():
    one = MaskProbabilities(MaskClasses().to_json())(np.full((1, 2, 2, 1), np.log(3.0), np.float32))
    np.testing.assert_allclose(one, np.full((1, 2, 2, 1), 0.75), rtol=1e-5)
    three = MaskProbabilities(CELL)(np.log(np.full((1, 2, 2, 3), [1.0, 2.0, 5.0], np.float32)))
    np.testing.assert_allclose(three[0, 0, 0], [0.125, 0.25, 0.625], rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_float32_logits_are_not_rounded_under_mixed_precision(policy):
    # Both rows hold a number that neither half-precision type has.
    logits = np.array([[1.0001, 1.0], [0.0, 5.00012]], np.float32)
    exact = ClassProbabilities(["a", "b"])(logits)
    mixed = ClassProbabilities(["a", "b"], dtype=keras.DTypePolicy(policy))(logits)
    assert keras.backend.standardize_dtype(mixed.dtype) == "float32"
    np.testing.assert_array_equal(mixed, exact)
    masks = MaskProbabilities(MaskClasses(), dtype=keras.DTypePolicy(policy))(logits.reshape(1, 2, 2, 1))
    assert keras.backend.standardize_dtype(masks.dtype) == "float32"
    np.testing.assert_array_equal(masks, MaskProbabilities(MaskClasses())(logits.reshape(1, 2, 2, 1)))


def test_half_precision_logits_give_float32():
    logits = keras.ops.cast([[1.0, 2.0]], "float16")
    assert keras.backend.standardize_dtype(ClassProbabilities(["a", "b"])(logits).dtype) == "float32"


def test_a_keras_file_is_enough(tmp_path):
    image = keras.Input((8, 8, 3), name="image")
    mask = MaskProbabilities(CELL, resize="pad")(keras.layers.Conv2D(3, 1)(image))
    logits = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(mask))
    layer = ClassProbabilities(
        ["benign", "malignant"], 1.5, abstain_below=0.7, resize="pad", positive=["malignant"], threshold=0.25
    )
    model = keras.Model(image, {"probabilities": layer(logits), "mask": mask})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = ModelInfo(
        ("benign", "malignant"), 8, "pad", CELL, 0.7, ("probabilities", "mask"), ("malignant",), 0.25, 1.5
    )
    assert model_info(model) == model_info(loaded) == expected
    assert ModelInfo.from_json(expected.to_json()) == expected
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(model(images)["probabilities"], loaded(images)["probabilities"])


def test_a_model_that_decides_anew(tmp_path):
    model = classifier(temperature=3.0, abstain_below=0.5)
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    before = np.asarray(model(images)["probabilities"])
    model.layers[-1].decide(0.5, positive=("b", "c"), threshold=0.125)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = ModelInfo(("a", "b", "c"), 8, "stretch", None, 0.0, ("probabilities",), ("b", "c"), 0.125, 0.5)
    assert model_info(loaded) == model_info(model) == expected
    scaled = before**6 / (before**6).sum(1, keepdims=True)
    np.testing.assert_allclose(loaded(images)["probabilities"], scaled, rtol=1e-4)
    with pytest.raises(ValueError, match="`temperature`"):
        model.layers[-1].decide(0.0)


def test_info_of_older_cards():
    card = ModelInfo(("a", "b"), 8, "pad", None, 0.7, ("probabilities",)).to_json()
    for name in ("positive", "threshold", "temperature"):
        del card[name]
    assert ModelInfo.from_json(card) == ModelInfo(("a", "b"), 8, "pad", None, 0.7, ("probabilities",))


def test_info_of_parts():
    assert model_info(segmenter(CELL)) == ModelInfo((), 8, "stretch", CELL, 0.0, ("mask",))
    assert model_info(classifier()) == ModelInfo(("a", "b", "c"), 8, "stretch", None, 0.0, ("probabilities",))


def test_own_layers_come_before_those_of_nested_models():
    inner, image = segmenter(MaskClasses()), keras.Input((8, 8, 3), name="image")
    nested = keras.Model(image, {"mask": inner(image)["mask"]})
    assert model_info(nested).mask_classes == MaskClasses()
    own = MaskProbabilities(CELL)(keras.layers.Conv2D(3, 1)(inner(image)["mask"]))
    assert model_info(keras.Model(image, {"mask": own})).mask_classes == CELL


def test_a_model_without_an_output_layer_is_refused():
    image = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="neither a ClassProbabilities nor a MaskProbabilities"):
        model_info(keras.Model(image, keras.layers.Conv2D(1, 1)(image)))


def test_two_output_layers_of_a_kind_are_refused():
    image = keras.Input((8, 8, 3))
    first = MaskProbabilities(MaskClasses(), name="first")(keras.layers.Conv2D(1, 1)(image))
    second = MaskProbabilities(MaskClasses(), name="second")(keras.layers.Conv2D(1, 1)(first))
    with pytest.raises(ValueError, match="has 2: \\['first', 'second'\\]"):
        model_info(keras.Model(image, {"mask": second}))


def test_layers_that_disagree_and_inputs_without_a_size_are_refused():
    image = keras.Input((8, 8, 3))
    mask = MaskProbabilities(MaskClasses(), resize="pad")(keras.layers.Conv2D(1, 1)(image))
    logits = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(mask))
    both = {"mask": mask, "probabilities": ClassProbabilities(["a", "b"])(logits)}
    with pytest.raises(ValueError, match="disagree about `resize`"):
        model_info(keras.Model(image, both))
    for shape, message in (((None, None, 3), "no fixed size"), ((8, 9, 3), "one input")):
        image = keras.Input(shape)
        mask = MaskProbabilities(MaskClasses())(keras.layers.Conv2D(1, 1)(image))
        with pytest.raises(ValueError, match=message):
            model_info(keras.Model(image, {"mask": mask}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["b", "a"]}, "sorted order"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"classes": ["a"]}, "at least two"),
        ({"classes": "ab"}, "list of class names"),
        ({"temperature": 0.0}, "`temperature`"),
        ({"temperature": float("nan")}, "`temperature`"),
        ({"abstain_below": 1.5}, "`abstain_below`"),
        ({"resize": "crop"}, "`resize`"),
        ({"positive": ["c"], "threshold": 0.5}, r"`positive` must be some of \['a', 'b'\] and not all"),
        ({"positive": ["a", "b"], "threshold": 0.5}, "and not all"),
        ({"positive": "a", "threshold": 0.5}, "`positive` must be some of"),
        ({"positive": ["a"]}, "`positive` and `threshold` go together"),
        ({"threshold": 0.5}, "`positive` and `threshold` go together"),
        ({"positive": ["a"], "threshold": 1.5}, "`threshold` must lie in"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ClassProbabilities(**{"classes": ["a", "b"], **options})


def test_mask_classes_and_shapes_are_checked():
    with pytest.raises(ValueError, match="at least two"):
        MaskProbabilities({"mask_classes": ["background"]})
    with pytest.raises(ValueError, match="batch, height, width, 3"):
        MaskProbabilities(CELL)(np.zeros((1, 4, 4, 1), np.float32))
    with pytest.raises(ValueError, match="batch, 2"):
        ClassProbabilities(["a", "b"])(np.zeros((1, 3), np.float32))
