"""Devices, precision and seeds: set once before anything is built, unknown to the training code."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfseg.errors import ConfigError

STRATEGIES = {
    "one": tf.distribute.get_strategy,
    "mirrored": tf.distribute.MirroredStrategy,
    "multiworker": tf.distribute.MultiWorkerMirroredStrategy,
}


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy to build and fit models under.

    Args:
        name: ``"one"``, ``"mirrored"`` (all devices of this machine) or ``"multiworker"`` (through ``TF_CONFIG``).

    Raises:
        ConfigError: for another name.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"`distribution` must be one of {', '.join(STRATEGIES)}, received {name!r}")
    return STRATEGIES[name]()


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
