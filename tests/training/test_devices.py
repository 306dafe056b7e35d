"""The same training on one device and on two: weights and reported numbers.

Devices are fixed when TensorFlow starts, so this file runs itself once in a process with two logical ones.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

EPOCHS, STEPS = 1, 5
SIDE = 16
TRAININGS = ("plain", "centiou", "segmentation")


def batches(adapt, sizes, seed=0):
    """Batches of the given sizes; every other one has a lesion in its first image alone, so that one of two replicas
    has none, and the rest in the first three images, so that one has two and the other has one."""
    import tensorflow as tf

    generator = np.random.default_rng(seed)
    count = sum(sizes)
    mask = np.zeros((count, SIDE, SIDE, 1), np.float32)
    starts = np.cumsum([0, *sizes[:-1]])
    several = starts[1::2]
    mask[np.concatenate([starts, several + 1, several + 2]), 3:9, 4:12] = 1.0
    valid = np.ones_like(mask)
    valid[:, :2] = 0.0
    cases = {
        "image": generator.uniform(size=(count, SIDE, SIDE, 3)).astype(np.float32),
        "mask": mask,
        "valid": valid,
        "label": (np.arange(count) % 2).astype(np.int32),
    }
    parts = [{name: values[i : i + n] for name, values in cases.items()} for i, n in zip(starts, sizes, strict=True)]
    spec = {name: tf.TensorSpec((None, *values.shape[1:]), values.dtype) for name, values in cases.items()}
    dataset = tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=spec)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(parts))).map(adapt)


def train(name, sizes):
    """Weights after a short training, and what was reported, under the strategy in scope."""
    import keras

    from tfseg.data.cases import MaskClasses
    from tfseg.losses.dice import DiceCrossEntropy
    from tfseg.metrics.segmentation import LesionDice, LesionIoU
    from tfseg.models.backbones import convolution_block
    from tfseg.models.classifier import build_classifier
    from tfseg.models.unet import unet
    from tfseg.training.centiou import CEntIoUModel
    from tfseg.training.devices import SharedLossScale
    from tfseg.training.fit import fit, for_centiou, for_classification, for_segmentation

    keras.utils.set_random_seed(0)
    # Gradient descent, because Adam would hide gradients that are twice too large.
    optimizer = keras.optimizers.SGD(0.2)
    if keras.config.dtype_policy().name == "mixed_float16":
        optimizer = SharedLossScale(optimizer)
    if name == "segmentation":
        model, adapt = unet((SIDE, SIDE, 3), width=4, depth=1, norm=None), for_segmentation
        metrics = [LesionIoU(name="iou"), LesionDice(name="dice")]
        model.compile(optimizer, DiceCrossEntropy(), weighted_metrics=metrics, jit_compile=False)
    else:
        # Batch norm's statistics are each replica's own; without it both trainings are the same arithmetic.
        image = keras.Input((SIDE, SIDE, 3), name="image")
        maps = convolution_block(convolution_block(image, 6, "down", strides=2, norm=None), 6, "last", norm=None)
        classifier = build_classifier(keras.Model(image, maps, name="features"), 2, units=None)
        weights = np.array([0.5, 1.5], np.float32)
        if name == "centiou":
            model, adapt = CEntIoUModel(classifier, 0.5), for_centiou(weights, MaskClasses())
            model.compile(optimizer, jit_compile=False)
        else:
            model, adapt = classifier.logits_model(), for_classification(weights)
            model.compile(
                optimizer,
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
                jit_compile=False,
            )
    before = model.get_weights()
    validation = batches(adapt, [4, 3], seed=1)
    table, _ = fit(model, lambda first: batches(adapt, sizes), validation, epochs=EPOCHS, steps=len(sizes), patience=9)
    reported = table.drop(columns=["epoch", "seconds", "peak_memory_mb"])
    record = {column: float(reported[column].iloc[0]) for column in reported.columns}
    moved = max(float(np.abs(left - right).max()) for left, right in zip(before, model.get_weights(), strict=True))
    return {"record": record, "moved": moved, "weights": [value.tolist() for value in model.get_weights()]}


def overflow(strategy):
    """Weights of both replicas after a float16 training in which one step overflows on the second replica alone."""
    import keras
    import tensorflow as tf

    from tfseg.training.fit import make_optimizer

    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1, dtype="float32")])
        model.compile(make_optimizer(1e-2, "constant", 10), "mse", jit_compile=False)
    inputs = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    targets = inputs[:, :1].copy()
    targets[2] = 1e4
    model.fit(tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(4), verbose=0)
    replicas = zip(*(strategy.experimental_local_results(weight.value) for weight in model.weights), strict=True)
    return [[value.numpy().tolist() for value in values] for values in replicas]


def main(path):
    import keras
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    from tfseg.training.devices import is_chief, make_strategy, set_precision

    found = {}
    for distribution in ("one", "mirrored"):
        strategy = make_strategy(distribution)
        found[distribution] = {
            "replicas": strategy.num_replicas_in_sync,
            "chief": is_chief(strategy),
            "trainings": {},
        }
        with strategy.scope():
            for name in TRAININGS:
                # CEntIoU takes a smaller last batch as it is; Keras's own losses are means over each replica.
                last = 3 if name == "centiou" else 4
                found[distribution]["trainings"][name] = train(name, [4] * (STEPS - 1) + [last])
    found["full"] = {"trainings": {"centiou": train("centiou", [4] * STEPS)}}
    set_precision("mixed_float16")
    with make_strategy("mirrored").scope():
        found["mixed"] = train("centiou", [4] * STEPS)
    found["overflow"] = overflow(make_strategy("mirrored"))
    assert keras.mixed_precision.global_policy().name == "mixed_float16"
    with open(path, "w") as file:
        json.dump(found, file)


def work(path):
    """One of two workers, as TF_CONFIG says: the chief writes what it found."""
    from tfseg.training.devices import is_chief, make_strategy

    strategy = make_strategy("multiworker")
    with strategy.scope():
        trainings = {name: train(name, [4] * STEPS) for name in TRAININGS}
    found = {"replicas": strategy.num_replicas_in_sync, "trainings": trainings}
    if is_chief(strategy):
        with open(path, "w") as file:
            json.dump(found, file)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Two processes of this file train together, and a third one alone."""
    import socket

    folder = tmp_path_factory.mktemp("workers")
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("localhost", 0))
    cluster = {"worker": [f"localhost:{one.getsockname()[1]}" for one in sockets]}
    for one in sockets:
        one.close()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
    processes = []
    for number in range(2):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": number}})
        words = [sys.executable, __file__, str(folder / "two.json"), "work"]
        own = environment | {"TF_CONFIG": config}
        processes.append(subprocess.Popen(words, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][-3000:]
    return json.loads((folder / "two.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_two_workers_end_with_the_weights_of_one(found, workers, name):
    """All batches full: CEntIoU's last one of the other test is not."""
    one, two = found["one" if name != "centiou" else "full"]["trainings"][name], workers["trainings"][name]
    assert workers["replicas"] == 2
    for left, right in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    assert two["record"]["loss"] == pytest.approx(one["record"]["loss"], abs=1e-5)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("devices") / "found.json"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, __file__, str(path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(path.read_text())


def test_two_devices_are_two_replicas(found):
    assert (found["one"]["replicas"], found["mirrored"]["replicas"]) == (1, 2)
    assert found["one"]["chief"] and found["mirrored"]["chief"]


@pytest.mark.parametrize("name", TRAININGS)
def test_two_replicas_end_with_the_weights_of_one(found, name):
    one, two = (found[distribution]["trainings"][name] for distribution in ("one", "mirrored"))
    assert one["moved"] > 1e-2
    for left, right in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_replicas_report_what_one_does(found, name):
    """The validation's last batch gives one replica two images and the other one."""
    one, two = (found[distribution]["trainings"][name]["record"] for distribution in ("one", "mirrored"))
    assert set(one) == set(two)
    for key, value in one.items():
        assert two[key] == pytest.approx(value, abs=1e-5), key
    assert one["loss"] != 0.0 and one["val_loss"] != 0.0


def test_mixed_precision_on_two_replicas(found):
    assert all(np.isfinite(list(found["mixed"]["record"].values())))
    assert all(np.isfinite(np.array(value)).all() for value in found["mixed"]["weights"])
    assert found["mixed"]["moved"] > 0


def test_an_overflow_on_one_replica_is_a_skipped_step_on_both(found):
    first, second = found["overflow"]
    for left, right in zip(first, second, strict=True):
        assert np.isfinite(left).all()
        np.testing.assert_array_equal(left, right)


def test_an_unknown_distribution_is_named():
    from tfseg.errors import ConfigError
    from tfseg.training.devices import make_strategy

    with pytest.raises(ConfigError, match="one, mirrored, multiworker, received 'two'"):
        make_strategy("two")


def test_the_chief_writes():
    import types

    from tfseg.training.devices import is_chief

    def worker(task, number):
        return types.SimpleNamespace(cluster_resolver=types.SimpleNamespace(task_type=task, task_id=number))

    assert is_chief(worker("chief", 0)) and is_chief(worker("worker", 0))
    assert not is_chief(worker("worker", 1))
    assert is_chief(worker("", None)) and is_chief(types.SimpleNamespace(cluster_resolver=None))


def test_seeds_decide_the_weights():
    import keras

    from tfseg.training.devices import seed_everything

    def draw(seed):
        seed_everything(seed)
        return np.asarray(keras.layers.Dense(3)(np.ones((1, 3)))), np.random.rand(3)

    np.testing.assert_array_equal(draw(1)[0], draw(1)[0])
    np.testing.assert_array_equal(draw(1)[1], draw(1)[1])
    assert np.abs(draw(1)[0] - draw(2)[0]).max() > 0


if __name__ == "__main__":
    (work if sys.argv[2:] == ["work"] else main)(sys.argv[1])
