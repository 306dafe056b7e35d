"""The two trainings end to end, on pictures of a few pixels."""

import zipfile
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.augment import RECIPES, Augmentation
from tfseg.data.batches import class_weights, make_batches
from tfseg.data.splits import Split
from tfseg.errors import ConfigError, UserError
from tfseg.jobs.masks import lesion_maps, predict_masks
from tfseg.layers.outputs import model_info
from tfseg.losses.dice import DiceCrossEntropy
from tfseg.models.classifier import inference_graph
from tfseg.training import classifier as classifier_module
from tfseg.training import segmenter as segmenter_module
from tfseg.training import setup
from tfseg.training.classifier import train_classifier
from tfseg.training.devices import training_batch_size, validation_batch_size
from tfseg.training.segmenter import load_segmenter, train_segmenter
from tfseg.training.sitting import Sitting
from tfseg.training.tensorboard import blended

SIDE = 24
SPLIT = Split(np.arange(8), np.arange(8, 11), np.arange(11, 14))
CONFIG = ComparisonConfig(
    data="phantoms",
    image_size=SIDE,
    segmenter_width=4,
    segmenter_depth=1,
    segmenter_epochs=3,
    segmenter_batch_size=4,
    # Fast enough that the last epoch is seldom the best.
    segmenter_learning_rate=3e-2,
    epochs=3,
    batch_size=4,
    learning_rate=2e-2,
    dropout=0.0,
    head_units=4,
    learning_rate_schedule="constant",
).resolved()


@pytest.fixture
def arrays(tiny_arrays):
    return tiny_arrays(14, SIDE)


@pytest.fixture(scope="module")
def segmented(tiny_arrays):
    arrays = tiny_arrays(14, SIDE)
    return arrays, *train_segmenter(CONFIG, arrays, SPLIT)[:2]


def intersection_over_union(left, right):
    return np.mean((left & right).sum((1, 2)) / np.maximum((left | right).sum((1, 2)), 1))


def test_the_segmenters_best_epoch_is_what_is_kept(segmented):
    arrays, graph, history = segmented
    assert list(history["epoch"]) == [1, 2, 3]
    assert {"seconds", "loss", "iou", "dice", "val_loss", "val_iou", "val_dice"} <= set(history.columns)
    maps = lesion_maps(predict_masks(graph, arrays, SPLIT.val), arrays.mask_classes)
    score = intersection_over_union(maps >= 0.5, arrays.masks[SPLIT.val] == 1)
    assert score == pytest.approx(history["val_iou"].max(), abs=1e-5)
    info = model_info(graph)
    assert (info.outputs, info.image_size, info.mask_classes) == (("mask",), SIDE, arrays.mask_classes)


def test_masks_come_in_the_order_of_the_positions(segmented):
    arrays, graph, _ = segmented
    masks = predict_masks(graph, arrays, np.array([5, 2, 9]))
    assert masks.shape == (3, SIDE, SIDE, 1)
    np.testing.assert_allclose(masks[1:2], predict_masks(graph, arrays, np.array([2])), atol=1e-5)


def test_a_trained_segmenter_can_be_loaded(segmented, tmp_path, tiny_arrays):
    arrays, graph, _ = segmented
    graph.save(tmp_path / "segmenter.keras")
    loaded = load_segmenter(tmp_path / "segmenter.keras", arrays)
    expected = predict_masks(graph, arrays, SPLIT.test)
    np.testing.assert_allclose(predict_masks(loaded, arrays, SPLIT.test), expected, atol=1e-6)
    assert loaded.get_layer("segmenter").output.shape == (None, SIDE, SIDE, 1)
    with pytest.raises(UserError, match="at 24 pixels; expected a mask at 16"):
        load_segmenter(tmp_path / "segmenter.keras", tiny_arrays(2, 16))
    with pytest.raises(UserError, match="none.keras does not exist"):
        load_segmenter(tmp_path / "none.keras", arrays)
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(UserError, match="text.keras is not a segmenter"):
        load_segmenter(tmp_path / "text.keras", arrays)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="other.keras is not a segmenter"):
        load_segmenter(tmp_path / "other.keras", arrays)


@pytest.mark.parametrize("changes", [{"learning_rate_schedule": "step"}, {"warmup_epochs": 1}])
def test_a_stored_segmenter_knows_nothing_of_its_training(changes, tmp_path, tiny_arrays):
    """A program without this package's schedules and losses can load it: only its layers must be known."""
    config = replace(CONFIG, segmenter_epochs=1, **changes)
    graph, _, _ = train_segmenter(config, tiny_arrays(14, SIDE), SPLIT)
    graph.save(tmp_path / "segmenter.keras")
    with zipfile.ZipFile(tmp_path / "segmenter.keras") as file:
        stored = file.read("config.json").decode()
    assert "Decay" not in stored and "Warmup" not in stored and "Adam" not in stored and "Dice" not in stored
    assert keras.saving.load_model(tmp_path / "segmenter.keras").output.keys() == {"mask"}


def test_cases_without_a_mask_are_left_out_of_segmentation(segmented, arrays, monkeypatch):
    seen = []
    for module in (setup, segmenter_module):
        monkeypatch.setattr(
            module, "make_batches", lambda *args, **options: seen.append(args[1]) or make_batches(*args, **options)
        )
    replace_fit(monkeypatch, lambda model, batches, *args, **options: batches(0))
    arrays.has_mask[[1, 9]] = False
    train_segmenter(CONFIG, arrays, SPLIT)
    assert sorted(list(positions) for positions in seen) == [[0, 2, 3, 4, 5, 6, 7], [8, 10]]


def replace_fit(monkeypatch, fake):
    """Both trainings fit by `fake`, whose own result is left out."""

    def fit(*args, **options):
        fake(*args, **options)
        return pd.DataFrame({"epoch": []}), ""

    for module in (classifier_module, segmenter_module):
        monkeypatch.setattr(module, "fit", fit)


def what_is_asked_of_the_batches(monkeypatch, train, *arguments):
    """Positions and augmentation of the training batches."""
    seen = []
    monkeypatch.setattr(
        setup,
        "make_batches",
        lambda *args, **options: seen.append((args[1], options)) or make_batches(*args, **options),
    )

    def fake(model, batches, *args, **options):
        batches(0)
        seen.append(options["steps"])

    replace_fit(monkeypatch, fake)
    train(*arguments)
    ((positions, options),) = [entry for entry in seen if isinstance(entry, tuple) and entry[1].get("training")]
    return positions, options["augmentation"], [entry for entry in seen if isinstance(entry, int)]


def test_recipes_overrides_and_balance_reach_both_trainings(arrays, monkeypatch):
    arrays.labels[:8] = [0, 0, 0, 0, 0, 0, 1, 1]
    config = replace(
        CONFIG,
        augmentation="cervical",
        rotation=3.0,
        flips=False,
        contrast=0.2,
        balance="majority",
        background_swap=0.5,
    )
    wanted = Augmentation(flips=False, rotation=3.0, zoom=0.15, shift=0.2, shear=0.15, contrast=0.2, fill="nearest")
    segmenting = what_is_asked_of_the_batches(monkeypatch, train_segmenter, config, arrays, SPLIT)
    classifying = what_is_asked_of_the_batches(monkeypatch, train_classifier, config, "plain", arrays, SPLIT, 2)
    for positions, _, steps in (segmenting, classifying):
        np.testing.assert_array_equal(positions, [0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 7, 7])
        assert steps == [3], "twelve images in batches of four"
    assert segmenting[1] == wanted, "a segmenter learns from whole images"
    assert classifying[1] == replace(wanted, background_swap=0.5)


def test_the_default_is_free_and_unbalanced(arrays, monkeypatch):
    positions, augmentation, _ = what_is_asked_of_the_batches(monkeypatch, train_segmenter, CONFIG, arrays, SPLIT)
    assert augmentation == RECIPES["free"] == Augmentation(flips=True, rotation=180.0, zoom=0.1, shift=0.05)
    np.testing.assert_array_equal(positions, SPLIT.train)


def test_class_weights_follow_the_balanced_part(arrays, monkeypatch):
    """Repeated up to the majority, every class weighs the same: nothing is corrected twice."""
    arrays.labels[:8] = [0, 0, 0, 0, 0, 0, 1, 1]
    weights = []
    replace_fit(monkeypatch, lambda model, batches, *args, **options: weights.extend(next(iter(batches(0)))[2]))
    for balance in ("none", "majority"):
        train_classifier(replace(CONFIG, balance=balance, batch_size=8), "plain", arrays, SPLIT, 2)
    assert sorted({round(float(weight), 4) for weight in weights[:8]}) == [round(8 / 12, 4), 2.0]
    np.testing.assert_allclose(weights[8:], 1.0)


def approach_loss(classifier, approach, arrays, maps):
    """The validation loss once more, from the parts that were handed back."""
    labels = arrays.labels[SPLIT.val]
    inputs = {"image": arrays.images[SPLIT.val].astype(np.float32) / 255.0}
    if approach not in ("plain", "centiou"):
        inputs["lesion"] = maps["lesion"][SPLIT.val][..., None].astype(np.float32) / 255.0
    logits = classifier.logits_model(approach)(inputs, training=False)
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return float(np.mean(losses * class_weights(arrays.labels[SPLIT.train], 2)[labels]))


@pytest.mark.parametrize("approach", ["soft_mask", "centiou"])
def test_the_classifiers_best_epoch_is_what_is_kept(approach, arrays):
    arrays.labels[[0, 6]] = -1, 1
    split = replace(SPLIT, train=np.arange(8))
    maps = {"lesion": np.where(arrays.masks == 1, 255, 40).astype(np.uint8)} if approach == "soft_mask" else None
    trained = train_classifier(CONFIG, approach, arrays, split, 2, maps)
    classifier, history = trained.classifier, trained.history
    assert len(history) == 3 and {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history.columns)
    best = history.loc[history["val_loss"].idxmin()]
    column = "val_loss"
    expected = approach_loss(classifier, approach, arrays, maps)
    if approach == "centiou":
        # The reported cross entropy is unweighted.
        column = "val_cross_entropy"
        labels = arrays.labels[SPLIT.val]
        logits = classifier.logits_model()({"image": arrays.images[SPLIT.val] / np.float32(255)}, training=False)
        expected = float(np.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)))
        assert best["val_loss"] != best["val_cross_entropy"] and best["val_saliency_iou"] >= 0.0
    assert expected == pytest.approx(best[column], abs=1e-4)
    graph = inference_graph(classifier, ("a", "b"))
    assert graph.predict(arrays.images[:2] / np.float32(255), verbose=0)["probabilities"].shape == (2, 2)


def test_what_each_approach_is_given(arrays, monkeypatch):
    """Only the masking approaches take maps; cases without a label take no part; weights follow the training part."""
    given = {}

    def record(model, training, validation, **options):
        given[options["description"].split(" ")[0]] = next(iter(training(0))), options

    replace_fit(monkeypatch, record)
    arrays.labels[[0, 2, 9]] = -1
    empty = np.zeros(arrays.masks.shape, np.uint8)
    maps = {"lesion": empty, "classes": np.zeros_like(arrays.images), "symmetry": empty}
    wanted = {
        name: {approach.map_input, "symmetry" if approach.symmetry else None} - {None}
        for name, approach in APPROACHES.items()
    }
    for name in APPROACHES:
        train_classifier(CONFIG, name, arrays, SPLIT, 2, {kind: maps[kind] for kind in wanted[name]})
    assert set(given) == set(APPROACHES)
    for approach, ((inputs, targets, weights), options) in given.items():
        # Six labelled training cases, batches of four: two steps; two of class 0 and four of class 1.
        assert options["steps"] == 2
        labels = targets["label"] if approach == "centiou" else targets
        assert set(np.unique(labels)) <= {0, 1}
        np.testing.assert_allclose(weights, np.where(np.asarray(labels) == 0, 6 / 4, 6 / 8))
        if approach != "centiou":
            assert set(inputs) == {"image"} | wanted[approach]


def test_what_is_missing_is_named(arrays):
    with pytest.raises(ConfigError, match="hard_mask needs maps of the lesions: lesion"):
        train_classifier(CONFIG, "hard_mask", arrays, SPLIT, 2)
    lesion = {"lesion": np.zeros(arrays.masks.shape, np.uint8)}
    with pytest.raises(ConfigError, match="se_lcn_hard_mask needs maps of the lesions: symmetry"):
        train_classifier(CONFIG, "se_lcn_hard_mask", arrays, SPLIT, 2, lesion)
    arrays.has_mask[SPLIT.train] = False
    with pytest.raises(ConfigError, match="centiou needs masks"):
        train_classifier(CONFIG, "centiou", arrays, SPLIT, 2)
    with pytest.raises(ConfigError, match="`background_swap` needs masks"):
        train_classifier(replace(CONFIG, background_swap=0.5), "plain", arrays, SPLIT, 2)
    with pytest.raises(ConfigError, match="0 of the training and 3 of the validation.*segmenter-file"):
        train_segmenter(CONFIG, arrays, SPLIT)
    arrays.labels[SPLIT.val] = -1
    with pytest.raises(ConfigError, match="8 of the training and 0 of the validation"):
        train_classifier(CONFIG, "plain", arrays, SPLIT, 2)


@pytest.mark.parametrize(("masks", "learned", "validated"), [(0, 8, 3), (5, 7, 2), (2, 2, 2)])
def test_a_segmenter_learns_from_so_many_masks_of_each_class(arrays, monkeypatch, masks, learned, validated):
    """Of five masks of a class one chooses the epoch and four are learned from; there are three or more of each."""
    seen = {}
    arrays.labels[:] = [0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, *arrays.labels[11:]]

    def record(model, training, validation, **options):
        seen["steps"], seen["validated"] = options["steps"], sum(len(batch[0]) for batch in validation)
        batches = training(0).take(options["steps"])
        seen["learned"] = sum(len(batch[0]) for batch in batches)

    replace_fit(monkeypatch, record)
    config = replace(CONFIG, segmenter_masks=masks, val_fraction=0.2, segmenter_batch_size=1, augmentation="none")
    train_segmenter(config, arrays, SPLIT)
    assert (seen["learned"], seen["validated"]) == (learned, validated)


def test_the_segmenters_loss_is_dice_and_cross_entropy(arrays, monkeypatch):
    compiled = {}
    replace_fit(monkeypatch, lambda model, *args, **options: compiled.update(loss=model.loss, **options))
    train_segmenter(CONFIG, arrays, SPLIT)
    assert isinstance(compiled["loss"], DiceCrossEntropy)
    assert (compiled["monitor"], compiled["mode"]) == ("val_iou", "max")


def test_the_network_and_loss_that_are_named(arrays, monkeypatch):
    seen = []
    replace_fit(monkeypatch, lambda model, *args, **options: seen.append((model, options["extra"])))
    config = replace(
        CONFIG,
        segmenter="attention_unet",
        segmenter_options=("dropout=0.25", "width=6"),
        segmenter_loss="focal",
        segmenter_loss_options=("gamma=3",),
        segmenter_slope=0.01,
    )
    train_segmenter(config, arrays, SPLIT)
    ((model, extra),) = seen
    assert model.get_layer("up0_a_dropout").rate == 0.25 and model.get_layer("up0_a_conv").filters == 6
    assert any("gate" in layer.name for layer in model.layers)
    assert model.loss.gamma == 3 and extra["slope"].threshold == 0.01
    for wrong in ({"segmenter_options": ("colour=3",)}, {"segmenter_loss_options": ("colour=3",)}):
        with pytest.raises(ConfigError, match="no option 'colour'"):
            train_segmenter(replace(config, **wrong), arrays, SPLIT)


def test_batches_are_shared_out_evenly():
    assert training_batch_size(100, 16, 1) == 16
    assert training_batch_size(5, 16, 1) == 5
    assert training_batch_size(7, 16, 4) == 4
    for count, size, replicas in ((100, 15, 2), (1, 2, 2)):
        with pytest.raises(ConfigError, match=f"batch of {size} out of {count} cases.*{replicas} devices"):
            training_batch_size(count, size, replicas)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_no_replica_is_left_without_a_validation_image(replicas):
    for count in range(2 * replicas, 40):
        size = validation_batch_size(count, 4 * replicas, replicas)
        assert size % replicas == 0
        part = size // replicas
        for start in range(0, count, size):
            images = min(size, count - start)
            # One replica after the other gets its part of a full batch.
            assert min(max(images - part * replica, 0) for replica in range(replicas)) > 0, (count, size)
    with pytest.raises(ConfigError, match="1 validation cases"):
        validation_batch_size(1, 2, 2)


class TestPretrained:
    """What is frozen of a backbone with weights, and what thaws."""

    @pytest.fixture
    def weights(self, tmp_path):
        from tfseg.models.backbones import build_backbone

        keras.utils.set_random_seed(5)
        features = build_backbone("mobilenet_v2", (32, 32, 3))
        features.save_weights(tmp_path / "backbone.weights.h5")
        return str(tmp_path / "backbone.weights.h5")

    def classifier(self, weights, monkeypatch, tiny_arrays, **changes):
        """The classifier before its training, and the callbacks that it would have."""
        seen = {}
        replace_fit(monkeypatch, lambda *args, **options: seen.update(options["extra"]))
        config = replace(CONFIG, image_size=32, backbone="mobilenet_v2", weights=weights, **changes)
        trained = train_classifier(config, "plain", tiny_arrays(14, 32), SPLIT, 2)
        return trained.classifier.features, seen

    def norms(self, features):
        return [layer for layer in features.layers if isinstance(layer, keras.layers.BatchNormalization)]

    def test_batch_norm_stays_as_it_is_and_does_not_thaw(self, weights, monkeypatch, tiny_arrays):
        features, extra = self.classifier(weights, monkeypatch, tiny_arrays, freeze_first=10, unfreeze_per_epoch=2)
        assert not any(layer.trainable for layer in self.norms(features))
        weighted = [layer for layer in features.layers if layer.weights]
        thawing = extra["thaw"]._layers
        assert thawing == [layer for layer in weighted[:10] if not isinstance(layer, keras.layers.BatchNormalization)]

    def test_batch_norm_with_statistics_of_the_images(self, weights, monkeypatch, tiny_arrays):
        from tfseg.models.backbones import build_backbone

        features, extra = self.classifier(
            weights, monkeypatch, tiny_arrays, freeze_first=0, batch_norm="reestimated", unfreeze_per_epoch=2
        )
        assert all(layer.trainable for layer in self.norms(features)) and "thaw" not in extra
        assert np.abs(self.norms(features)[0].moving_mean).max() > 0.01, "random weights begin with zero"
        images = tiny_arrays(4, 32).images / np.float32(255)
        before = build_backbone("mobilenet_v2", (32, 32, 3), weights)(images, training=False)
        np.testing.assert_allclose(features(images, training=False), before, atol=2e-3 * np.abs(before).max())


def test_what_chooses_the_epoch_can_be_told(arrays, monkeypatch):
    seen = []
    replace_fit(monkeypatch, lambda *args, **options: seen.append((options["monitor"], options["mode"])))
    for monitor in ("val_loss", "val_balanced_accuracy"):
        train_classifier(replace(CONFIG, monitor=monitor), "plain", arrays, SPLIT, 2)
    assert seen == [("val_loss", "min"), ("val_balanced_accuracy", "max")]


def test_a_probe_is_logistic_regression_on_pooled_features(arrays):
    """Against scikit-learn on the features that the trained parts give."""
    from sklearn.linear_model import LogisticRegression

    config = replace(CONFIG, training="probe", approaches=("plain",), augmentation="none")
    maps = {"lesion": np.where(arrays.masks == 1, 255, 0).astype(np.uint8)}
    for approach in ("plain", "soft_mask"):
        trained = train_classifier(config, approach, arrays, SPLIT, 2, maps)
        classifier, record = trained.classifier, trained.history.iloc[0]
        visible = arrays.images / np.float32(255)
        if approach == "soft_mask":
            visible = visible * (arrays.masks[..., None] == 1)
        pooled = np.asarray(classifier.features(visible, training=False)).mean((1, 2))
        seen = np.concatenate([SPLIT.train, SPLIT.val])
        spread = pooled[seen].std(0) + 1e-6
        scaled = (pooled - pooled[seen].mean(0)) / spread
        regression = LogisticRegression(C=record["inverse_penalty"], class_weight="balanced", max_iter=2000)
        regression.fit(scaled[seen], arrays.labels[seen])
        logits = classifier.head(classifier.features(visible, training=False), training=False)
        np.testing.assert_allclose(keras.ops.softmax(logits)[:, 1], regression.predict_proba(scaled)[:, 1], atol=2e-3)
        assert trained.validation.shape == (3, 2)
        np.testing.assert_allclose(trained.validation.sum(1), 1.0, atol=1e-5)
        truth = arrays.labels[SPLIT.val]
        assert record["val_accuracy"] == pytest.approx((trained.validation.argmax(1) == truth).mean())


def test_a_probe_can_learn_from_flips_too(arrays):
    """The same regression on all four flips of what is seen."""
    from sklearn.linear_model import LogisticRegression

    config = replace(CONFIG, training="probe", approaches=("plain",), augmentation="none", flips=True)
    trained = train_classifier(config, "plain", arrays, SPLIT, 2)
    images, seen = arrays.images / np.float32(255), np.concatenate([SPLIT.train, SPLIT.val])
    turned = [images, images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1]]
    views = [np.asarray(trained.classifier.features(view, training=False)).mean((1, 2)) for view in turned]
    assert np.abs(views[0] - views[1]).max() > 1e-4, "the network tells the flips apart"
    known = np.concatenate([view[seen] for view in views])
    scale = known.std(0) + 1e-6
    regression = LogisticRegression(
        C=trained.history["inverse_penalty"].iloc[0], class_weight="balanced", max_iter=2000
    ).fit((known - known.mean(0)) / scale, np.tile(arrays.labels[seen], 4))
    expected = regression.predict_proba((views[0] - known.mean(0)) / scale)[:, 1]
    logits = trained.classifier.head(trained.classifier.features(images, training=False), training=False)
    np.testing.assert_allclose(keras.ops.softmax(logits)[:, 1], expected, atol=2e-3)


def test_a_probe_computes_the_features_of_whole_images_once(arrays, monkeypatch):
    from tfseg.training import probe

    counted = []
    pooled = probe._pooled
    monkeypatch.setattr(probe, "_pooled", lambda *args: counted.append(len(args) > 3) or pooled(*args))
    config, memo = replace(CONFIG, training="probe", approaches=("plain",)), {}
    maps = {"lesion": np.zeros(arrays.masks.shape, np.uint8)}
    for approach in ("plain", "plain", "hard_mask", "hard_mask"):
        train_classifier(config, approach, arrays, SPLIT, 2, maps, memo=memo)
    assert counted == [False, True, True], "another fold has other masks"


def test_tensorboard_has_scalars_and_pictures_of_every_epoch(arrays, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, sitting = replace(CONFIG, epochs=2, segmenter_epochs=2), Sitting(tensorboard=tmp_path)
    trainings = {
        "segmenter": lambda: train_segmenter(config, arrays, SPLIT, replace(sitting, tensorboard=tmp_path / "s"))
    }
    maps = {"lesion": np.where(arrays.masks == 1, 255, 0).astype(np.uint8)}
    own = replace(sitting, tensorboard=tmp_path / "c")
    trainings["classifier"] = lambda: train_classifier(config, "soft_mask", arrays, SPLIT, 2, maps, own)
    for (name, train), folder, metric in zip(
        trainings.items(), (tmp_path / "s", tmp_path / "c"), ("epoch_iou", "epoch_accuracy"), strict=True
    ):
        train()
        pictures = EventAccumulator(str(folder / "pictures"), size_guidance={"images": 0}).Reload()
        tags = pictures.Tags()["images"] or pictures.Tags()["tensors"]
        assert any("validation" in tag for tag in tags), name
        scalars = EventAccumulator(str(folder / "validation")).Reload()
        assert metric in scalars.Tags()["tensors"] + scalars.Tags()["scalars"], name
        assert len(scalars.Tensors(metric)) == 2, name


def test_a_map_is_laid_over_the_image():
    image, lesion = np.full((1, 1, 2, 3), 0.5, np.float32), np.array([[[[0.0], [1.0]]]], np.float32)
    np.testing.assert_allclose(blended(image, lesion)[0, 0], [[0.5, 0.5, 0.5], [0.8, 0.29, 0.26]], atol=1e-6)
