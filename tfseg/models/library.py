"""Networks of segmentation-models, made so that they can be saved, loaded anywhere and run on a phone."""

from __future__ import annotations

import contextlib
import io
import os

import keras
import numpy as np
from keras import layers

from tfseg.errors import ConfigError, WeightsError
from tfseg.models.encoders import crop_to

# In front of an encoder's name: it comes from segmentation-models.
LIBRARY = "sm:"


def library_network(
    architecture: str,
    encoder: str,
    input_shape: tuple[int, int, int],
    classes: int,
    weights: str | None = None,
    **options,
) -> keras.Model:
    """A network of segmentation-models with its encoder's normalisation inside, for images of any size.

    Images whose sides are no multiples of 32 get black rows and columns below and to the right, which are cut off the
    logits. Layers that Keras can't load without the library are replaced by their equals.

    Args:
        architecture: the name of a constructor of segmentation-models, such as ``"FPN"``.
        encoder: a backbone's name as the library has it, such as ``"seresnext50"``.
        input_shape: (height, width, 3).
        classes: channels of the mask.
        weights: ``"imagenet"`` (the library fetches them), or None for random ones.
        options: of the constructor.

    Returns:
        A functional model named ``segmenter``, image (B, H, W, 3) in [0, 1] → logits (B, H, W, classes), float32.

    Raises:
        ConfigError: an encoder that the library doesn't have, or one that can't be saved; other weights.
        WeightsError: the weights can't be had.
    """
    os.environ.setdefault("SM_FRAMEWORK", "tf.keras")
    with contextlib.redirect_stdout(io.StringIO()):  # It announces its framework.
        import segmentation_models
    known = segmentation_models.get_available_backbone_names()
    if encoder not in known:
        raise ConfigError(f"segmentation-models has no encoder named {encoder!r}; known: {', '.join(sorted(known))}")
    if weights not in (None, "imagenet"):
        raise ConfigError(f"segmentation-models' encoders have the weights 'imagenet' or None, received {weights!r}")
    if classes < 1:
        raise ConfigError(f"a segmenter expects classes ≥ 1; received classes={classes}")
    padded = [-(-side // 32) * 32 for side in input_shape[:2]]
    scale, offset = affine_preprocessing(segmentation_models.get_preprocessing(encoder), encoder)
    constructor = getattr(segmentation_models, architecture)
    try:
        network = constructor(
            encoder,
            input_shape=(*padded, 3),
            classes=classes,
            activation="linear",
            encoder_weights=weights,
            **options,
        )
    except Exception as error:
        if weights is None:
            raise
        raise WeightsError(
            f"the ImageNet weights of {encoder} could not be fetched by segmentation-models ({error}); choices: a "
            "machine with network, or no weights for random ones"
        ) from error
    network = _self_contained(network, encoder)
    if weights is not None:
        _keep_statistics(network)
    image = keras.Input(input_shape, name="image")
    outputs = layers.Rescaling(scale, offset, name="normalise")(image)
    missing = [whole - side for whole, side in zip(padded, input_shape[:2], strict=True)]
    if any(missing):
        outputs = layers.ZeroPadding2D(((0, missing[0]), (0, missing[1])), name="pad")(outputs)
    outputs = crop_to(network(outputs), input_shape[:2], "crop")
    return keras.Model(image, layers.Identity(dtype="float32", name="logits")(outputs), name="segmenter")


def affine_preprocessing(preprocess, encoder: str) -> tuple[list[float], list[float]]:
    """A preprocessing of pixels in [0, 255], as scale and offset of each channel of pixels in [0, 1].

    Raises:
        ConfigError: it mixes channels.
    """
    colours = 255.0 * np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0.5, 0]])
    dark, bright, red, green = (
        np.asarray(preprocess(colour.reshape(1, 1, 3).copy()), np.float64).ravel() for colour in colours
    )
    scale = bright - dark
    if not np.allclose([red, green], [dark + scale * (1, 0, 0), dark + scale * (0, 0.5, 0)]):
        raise ConfigError(f"the encoder {encoder} of segmentation-models mixes colour channels: not supported")
    return scale.tolist(), dark.tolist()


@keras.saving.register_keras_serializable(package="tfseg")
class ChannelSlice(layers.Layer):
    """Some of the channels, (B, …, K) → (B, …, stop − start): one group of a grouped convolution.

    Args:
        start, stop: the first channel and the one behind the last.
    """

    def __init__(self, start, stop, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.stop = stop

    def call(self, inputs):
        return inputs[..., self.start : self.stop]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.stop - self.start)

    def get_config(self):
        return {**super().get_config(), "start": self.start, "stop": self.stop}


def _self_contained(network, encoder):
    """The same network and weights out of layers that a fresh process can load: no Python code in the file."""

    def known(layer):
        arguments = getattr(layer, "arguments", {})
        if isinstance(layer, layers.Lambda) and {"start", "stop"} <= set(arguments):
            return ChannelSlice(arguments["start"], arguments["stop"], name=layer.name)
        if isinstance(layer, layers.Lambda) and "channels_axis" in arguments:
            return layers.Reshape((1, 1, layer.input.shape[-1]), name=layer.name)
        if isinstance(layer, layers.Lambda):
            raise ConfigError(f"the encoder {encoder} of segmentation-models holds Python code and can't be saved")
        if isinstance(layer, layers.Dropout):
            return layers.Dropout(layer.rate, noise_shape=layer.noise_shape, name=layer.name)
        config = layer.get_config()
        if getattr(getattr(layer, "activation", None), "__name__", "") == "swish":
            config["activation"] = "silu"
        clone = type(layer).from_config(config)
        clone.trainable = layer.trainable
        return clone

    def called(layer, *inputs, mask=None, **options):
        # Python code was called with a mask that its replacement doesn't take.
        return layer(*inputs, **options)

    image = keras.Input(network.input_shape[1:], name="scaled")
    clone = keras.models.clone_model(network, input_tensors=image, clone_function=known, call_function=called)
    clone.set_weights(network.get_weights())
    return keras.Model(image, clone.output, name="network")


def _keep_statistics(network):
    """Freeze the batch norm of the encoder, as `build_backbone` does; what the decoder has, has seen no image yet."""
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization) and np.any(layer.moving_mean.numpy()):
            layer.trainable = False
