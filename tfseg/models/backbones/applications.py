"""Convolutional networks of Keras and KerasHub, each fed what its weights were trained on."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.models.backbones.blocks import IMAGENET_MEAN, IMAGENET_STD, MOMENTUM, mean_free, standardised, symmetric

BGR_MEAN = (103.939, 116.779, 123.68)


def mobilenet_v2(input_shape, keras_weights=None):
    """MobileNetV2 (Sandler et al. 2018) without its top."""
    return _application(keras.applications.MobileNetV2, input_shape, keras_weights, symmetric)


def xception(input_shape, keras_weights=None):
    """Xception (Chollet 2017) without its top."""
    return _application(keras.applications.Xception, input_shape, keras_weights, symmetric)


def resnet50(input_shape, keras_weights=None):
    """ResNet50 (He et al. 2016) without its top."""
    return _application(keras.applications.ResNet50, input_shape, keras_weights, lambda x: mean_free(x, BGR_MEAN))


def densenet121(input_shape, keras_weights=None):
    """DenseNet121 (Huang et al. 2017) without its top.

    Keras's halvings drop the last row and column of an odd map; ours keep them, which is the same wherever the sides
    are multiples of 32.
    """

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, layers.AveragePooling2D):
            config["padding"] = "same"
        return type(layer).from_config(config)

    network = _application(keras.applications.DenseNet121, input_shape, keras_weights, standardised)
    return _clone(network, clone_function=clone)


def efficientnet_b0(input_shape, keras_weights=None):
    """EfficientNetB0 (Tan & Le 2019) without its top."""
    return _efficientnet(keras.applications.EfficientNetB0, input_shape, keras_weights)


def efficientnet_b4(input_shape, keras_weights=None):
    """EfficientNetB4 (Tan & Le 2019) without its top."""
    return _efficientnet(keras.applications.EfficientNetB4, input_shape, keras_weights)


def convnext_tiny(input_shape, keras_weights=None):
    """ConvNeXt-Tiny (Liu et al. 2022) without its top."""
    return _convnext(keras.applications.ConvNeXtTiny, input_shape, keras_weights)


def convnext_small(input_shape, keras_weights=None):
    """ConvNeXt-Small (Liu et al. 2022) without its top."""
    return _convnext(keras.applications.ConvNeXtSmall, input_shape, keras_weights)


def resnet34(input_shape, keras_weights=None):
    """ResNet34 (He et al. 2016) of KerasHub without its top; its ImageNet weights are timm's ``resnet34.a1_in1k``."""
    from keras_hub.models import ResNetBackbone

    if keras_weights:
        network = ResNetBackbone.from_preset("hf://timm/resnet34.a1_in1k", image_shape=input_shape)
    else:
        network = ResNetBackbone([64], [7], [64, 128, 256, 512], [3, 4, 6, 3], [1, 2, 2, 2], "basic_block",
                                 image_shape=input_shape)  # fmt: skip

    def normalised_first(layer, inputs, **options):
        return layer(standardised(inputs) if layer.name == "conv1_pad" else inputs, **options)

    return _clone(network, call_function=normalised_first)


def _application(constructor, input_shape, keras_weights, normalise, **options):
    """A network of `keras.applications` behind our normalisation, as one flat model."""
    image = keras.Input(input_shape, name="image")
    network = constructor(
        input_tensor=normalise(image), input_shape=input_shape, include_top=False, weights=keras_weights, **options
    )
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = MOMENTUM  # Keras's is 0.99 or 0.999 here.
    return keras.Model(image, network.output, name="features")


def _efficientnet(constructor, input_shape, keras_weights):
    """EfficientNet takes [0, 255] and standardises inside.

    Keras's ImageNet weights keep the standard deviation where the variance belongs and mend that with one more layer,
    which a network built without them has not; weights saved from the one would be wrong in the other. Here both are
    the same network, with the variance in its place.
    """

    def normalise(image):
        return layers.Rescaling(255.0, name="normalise")(image)

    model = _application(constructor, input_shape, None, normalise)
    if keras_weights:
        model.set_weights(_application(constructor, input_shape, keras_weights, normalise).get_weights())
    (standardise,) = (layer for layer in model.layers if isinstance(layer, layers.Normalization))
    standardise.adapt_mean.assign(IMAGENET_MEAN)
    standardise.adapt_variance.assign([std**2 for std in IMAGENET_STD])
    standardise.finalize_state()
    return model


def _convnext(constructor, input_shape, keras_weights):
    """ConvNeXt with a named layer at the end of each stage: Keras ends them in a nameless addition."""
    network = _application(constructor, input_shape, keras_weights, standardised, include_preprocessing=False)
    stages = iter(range(1, 4))

    def clone(layer):
        config = layer.get_config()
        return type(layer).from_config({**config, "name": "norm"} if layer is network.layers[-1] else config)

    def call(layer, *inputs, **options):
        if "_downsampling_block_" in layer.name:
            inputs = (layers.Identity(name=f"stage{next(stages)}")(inputs[0]),)
        return layer(*inputs, **options)

    return _clone(network, clone_function=clone, call_function=call)


def _clone(network, **how):
    """The same network and weights with something put in; `keras.models.clone_model` takes the functions."""
    image = keras.Input(network.input_shape[1:], name="image")
    clone = keras.models.clone_model(network, input_tensors=image, **how)
    clone.set_weights(network.get_weights())
    return keras.Model(image, clone.output, name="features")
