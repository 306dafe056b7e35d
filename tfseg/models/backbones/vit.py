"""Vision Transformer (Dosovitskiy et al. 2021) with maps in place of a sequence, for images of any multiple of 16.

KerasHub has the network, and its weights are taken; but its layers can't be saved one by one, which a flat model needs,
and know one image size only.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tfseg.models.backbones.blocks import symmetric

PATCH = 16
PRESET = "vit_base_patch16_224_imagenet"


def vit_b16(input_shape, keras_weights=None):
    """ViT-B/16; ImageNet weights of 224² with position embeddings brought to the image's size."""
    network = None
    if keras_weights:
        from keras_hub.models import ViTBackbone

        network = ViTBackbone.from_preset(PRESET)
    model = vit(input_shape, width=768, depth=12, heads=12)
    if network is not None:
        load_kerashub(model, network)
    return model


def vit_tiny16(input_shape, keras_weights=None):
    """ViT of width 192 with 3 heads, as DeiT-Ti (Touvron et al. 2021): for quick trials."""
    return vit(input_shape, width=192, depth=12, heads=3)


def vit(input_shape, width, depth, heads):
    """Image → patch tokens as maps (B, H/16, W/16, width); the class token is dropped in the end.

    It takes part in the attention, as pretrained weights expect. A head that pools the maps is a mean over the patches,
    so its gradient reaches every one of them.

    Args:
        input_shape: (height, width, 3), multiples of 16.
        width: channels of a token.
        depth: number of blocks.
        heads: of the attention, a divisor of `width`.
    """
    image = keras.Input(input_shape, name="image")
    patches = layers.Conv2D(width, PATCH, PATCH, name="patches")(symmetric(image))
    tokens = ClassTokenAndPositions(name="tokens")(patches)
    for number in range(1, depth + 1):
        tokens = _block(tokens, width, heads, f"block{number}")
    tokens = layers.LayerNormalization(epsilon=1e-6, name="norm")(tokens)
    tokens = layers.Cropping1D((1, 0), name="drop_class_token")(tokens)
    maps = layers.Reshape(patches.shape[1:], name="maps")(tokens)
    return keras.Model(image, maps, name="features")


def load_kerashub(model: keras.Model, network) -> None:
    """Copy the weights of a `keras_hub.models.ViTBackbone` of any image size into a `vit` of the same width and depth.

    Raises:
        ValueError: when the two are not of the same width or depth.
    """
    token, kernel, bias, positions, *blocks = network.get_weights()
    tokens = model.get_layer("tokens")
    before = tuple(side // PATCH for side in network.image_shape[:2])
    model.set_weights([kernel, bias, token, resize_positions(positions, before, tokens.grid), *blocks])


def resize_positions(table: np.ndarray, before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    """Position embeddings of one grid of patches, brought to another by bicubic interpolation.

    Args:
        table: (1 + rows · columns, width), the class token's first.
        before: (rows, columns) of the table.
        after: (rows, columns) wanted.
    """
    if tuple(before) == tuple(after):
        return table
    grid = table[1:].reshape(*before, -1)
    resized = ops.image.resize(grid[None], after, interpolation="bicubic", antialias=True)
    return np.concatenate([table[:1], ops.convert_to_numpy(resized).reshape(-1, table.shape[1])])


@keras.saving.register_keras_serializable(package="tfseg")
class ClassTokenAndPositions(layers.Layer):
    """Patches (B, h, w, K) → tokens (B, 1 + h·w, K): a learned class token in front, learned positions added.

    Weights saved at another image size are brought to this one's grid when they are loaded.
    """

    def build(self, input_shape):
        self.grid = tuple(input_shape[1:3])
        width = input_shape[3]
        self.token = self.add_weight((1, 1, width), initializer="random_normal", name="class_token")
        self.positions = self.add_weight(
            (1 + self.grid[0] * self.grid[1], width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )

    def call(self, inputs):
        patches = ops.reshape(inputs, (-1, self.grid[0] * self.grid[1], inputs.shape[-1]))
        # Repeated by addition: a tile by the batch size would need the size at run time.
        token = ops.zeros_like(patches[:, :1]) + self.token
        return ops.concatenate([token, patches], axis=1) + self.positions

    def compute_output_shape(self, input_shape):
        return input_shape[0], 1 + input_shape[1] * input_shape[2], input_shape[3]

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["grid"] = np.asarray(self.grid)

    def load_own_variables(self, store):
        missing = {"0", "1", "grid"} - set(store.keys())
        if missing:
            raise ValueError(f"{self.name} lacks {', '.join(sorted(missing))}")
        self.token.assign(store["0"])
        self.positions.assign(resize_positions(np.asarray(store["1"]), tuple(np.asarray(store["grid"])), self.grid))


def _block(inputs, width, heads, name):
    """Attention, then two dense layers, each behind its normalisation and added to what came in (equations 2 and 3)."""
    normal = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(inputs)
    attended = layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")(normal, normal)
    outputs = layers.Add(name=f"{name}_attended")([inputs, attended])
    normal = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(outputs)
    hidden = layers.Dense(4 * width, activation="gelu", name=f"{name}_dense1")(normal)
    hidden = layers.Dense(width, name=f"{name}_dense2")(hidden)
    return layers.Add(name=name)([outputs, hidden])
