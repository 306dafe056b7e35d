"""The head before the rest: what is new learns on frozen features first and so doesn't spoil the pretrained ones."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfseg.approaches import APPROACHES
from tfseg.progress import progress_bar

# Of features that are kept at once.
MOST_IMAGES = 2000
BATCH = 32
LEARNING_RATE = 1e-3
PATIENCE = 8


def train_head_first(
    classifier,
    approach: str,
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    images: int,
    epochs: int,
    title: str,
) -> None:
    """Train all layers behind the backbone by cross entropy, on features that are computed once.

    Of linear probing and fine-tuning in this order Kumar et al. 2022 show that it keeps what pretrained features know
    of images that are unlike the training's. The epoch is chosen by validation loss.

    Args:
        classifier: a `Classifier`, `Fusion` or `Enhanced`; its head is changed in place.
        approach: a name out of `tfseg.approaches.APPROACHES`.
        training: endless augmented batches, (inputs, label, weight).
        validation: one pass, likewise.
        images: how many of the training's to learn from, at most `MOST_IMAGES`.
        epochs: at most.
        title: for the progress bar.
    """
    wanted = "plain" if approach == "centiou" else approach
    trunk, top = classifier.halves() if APPROACHES[approach].fusion else classifier.halves(wanted)
    # Layers are shared with the model that is trained afterwards; compiling this one doesn't touch that one.
    top = keras.Model(top.input, top.output, name="head_first")
    top.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    seen = _features(trunk, training, min(images, MOST_IMAGES), f"{title} · features")
    known = _features(trunk, validation, None, "")
    stop = keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE, restore_best_weights=True)
    maps, labels, weights = seen
    with progress_bar(f"{title} · head", epochs) as advance:
        tick = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: advance())
        top.fit(
            maps,
            labels,
            sample_weight=weights,
            validation_data=known,
            batch_size=BATCH,
            epochs=epochs,
            callbacks=[stop, tick],
            verbose=0,
        )


def _features(trunk: keras.Model, batches: tf.data.Dataset, images: int | None, title: str):
    """What the head takes, labels and weights of the first images; of all where `images` is None."""
    found, labels, weights, count = [], [], [], 0
    run = tf.function(lambda inputs: trunk(inputs, training=False), reduce_retracing=True)
    with progress_bar(title or "features", images or 1) as advance:
        for batch in batches:
            inputs, label, weight = batch
            if isinstance(label, dict):
                label = label["label"]
            maps = run(inputs if isinstance(inputs, dict) else {"image": inputs})
            found.append([np.asarray(values, np.float16) for values in tf.nest.flatten(maps)])
            labels.append(label.numpy())
            weights.append(weight.numpy())
            count += len(label)
            advance(len(label) if images else 0)
            if images is not None and count >= images:
                break
    joined = [np.concatenate(values).astype(np.float32) for values in zip(*found, strict=True)]
    return joined if len(joined) > 1 else joined[0], np.concatenate(labels), np.concatenate(weights)
