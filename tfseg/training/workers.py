"""Several machines train one model: what Keras's `fit` lacks for that, and who writes."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf

from tfseg.errors import RunError

# A worker waits this long for a file of the chief's, which may be testing a model on many images.
PATIENCE_SECONDS = 3600.0


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether the strategy spans processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@contextlib.contextmanager
def fitting(model: keras.Model, batches: tf.data.Dataset) -> Iterator[None]:
    """Let `fit` work while the block runs, whatever the model's strategy.

    Two things stop Keras 3.15 under several workers: it builds a model from a batch that it takes apart with an
    operation for one process, and it averages metrics, which are scalars, over their first axis. Here the model is
    built from a batch of this process, and metrics are averaged over the workers.

    Args:
        model: compiled, under its strategy.
        batches: in the form that the model takes, not distributed.
    """
    strategy = model.distribute_strategy
    if not several_workers(strategy):
        yield
        return
    from keras.src.backend.tensorflow import trainer

    original = trainer.reduce_per_replica

    def reduce(values, strategy, reduction):
        if reduction == "concat":
            return original(values, strategy, reduction)
        return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    with strategy.scope():
        (batch,) = batches.take(1)
        model._symbolic_build(data_batch=batch)
    model._maybe_symbolic_build = lambda *arguments, **options: None
    trainer.reduce_per_replica = reduce
    try:
        yield
    finally:
        trainer.reduce_per_replica = original


def detached(model: keras.Model) -> keras.Model:
    """The same model with variables of this process alone, to be tested and saved by the chief only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        # A clone would lose what layers such as EfficientNet's normalisation keep beside their variables.
        return keras.saving.load_model(path, compile=False)


def wait_for(path: Path, what: str, seconds: float = PATIENCE_SECONDS, sleep: Callable[[float], None] = time.sleep):
    """Wait until another worker has written a file, on a disk that all workers share.

    Raises:
        RunError: it is not there after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise RunError(
                f"{path} did not appear in {seconds:g} s: {what}; all workers need the same `--out` on a shared disk"
            )
        sleep(0.2)
