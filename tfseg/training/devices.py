"""Devices, precision and seeds: set once before anything is built, unknown to the training code."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from tfseg.errors import ConfigError

STRATEGIES = {
    "one": tf.distribute.get_strategy,
    "mirrored": tf.distribute.MirroredStrategy,
    "multiworker": tf.distribute.MultiWorkerMirroredStrategy,
}


@functools.cache
def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy to build and fit models under; the same one for all trainings of a process.

    A second one would number its sums over devices from the start again, and TensorFlow refuses a number that it knows
    with another shape.

    Args:
        name: ``"one"``, ``"mirrored"`` (all devices of this machine) or ``"multiworker"`` (through ``TF_CONFIG``).

    Raises:
        ConfigError: for another name.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"`distribution` must be one of {', '.join(STRATEGIES)}, received {name!r}")
    return STRATEGIES[name]()


class SharedLossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's dynamic loss scale for float16, with one decision for all replicas.

    Keras's looks at each replica's own gradients. Where they overflow on one replica only, that one skips the step in
    which the others add up their gradients, and from then on the replicas add up those of different steps.
    """

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return finite
        overflowing = tf.cast(tf.logical_not(finite), tf.float32)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, overflowing) == 0.0


def training_batch_size(count: int, batch_size: int, replicas: int) -> int:
    """The batch that a training over `count` cases takes, so that every replica gets as many images as the others.

    Raises:
        ConfigError: `batch_size` is no multiple of `replicas`, or there are fewer cases than replicas.
    """
    if batch_size % replicas or count < replicas:
        raise ConfigError(
            f"a batch of {batch_size} out of {count} cases can't be shared out evenly to {replicas} devices; give a "
            f"batch size that is a multiple of {replicas}, or `--distribution one`"
        )
    return min(batch_size, count) // replicas * replicas


def validation_batch_size(count: int, batch_size: int, replicas: int) -> int:
    """The batch size near `batch_size` whose last batch, too, gives every replica an image: convolutions fail on none.

    Args:
        count: cases of one pass.
        batch_size: a multiple of `replicas`.
        replicas: TensorFlow fills one after the other, each with its part of a full batch.

    Raises:
        ConfigError: there is no such size.
    """
    for size in [*range(batch_size, 0, -replicas), *range(batch_size, count + replicas, replicas)]:
        last = count % size
        if last == 0 or last > size // replicas * (replicas - 1):
            return size
    raise ConfigError(
        f"{count} validation cases can't be shared out to {replicas} devices; give fewer devices or more cases"
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes records: always, but for the workers other than the chief."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    return resolver.task_type == "chief" or (resolver.task_type == "worker" and resolver.task_id == 0)


def set_precision(name: str) -> None:
    """Set the policy that layers are built with; losses, heads and outputs stay float32 by their own dtype."""
    keras.mixed_precision.set_global_policy(name)


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Forget the previous model and seed Python, NumPy and TensorFlow."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
