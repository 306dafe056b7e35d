"""TensorFlow and LiteRT start without their start-up lines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Hold back what native code writes to the error stream while the block runs; Python's errors are raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def import_tensorflow() -> None:
    """Import TensorFlow without the lines on devices and CPU kernels.

    It writes them before its own log level is read, so that no setting silences them.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with silent_stderr():
        import keras  # noqa: F401
        import tensorflow as tf

        # Every cell builds its own graphs, which TensorFlow takes for a loop that retraces by mistake.
        tf.get_logger().setLevel("ERROR")
        # Several workers must meet before the first operation runs.
        if "TF_CONFIG" not in os.environ:
            tf.constant(0)
