"""Self-attention over all pixels of a small map: what a transformer adds to a convolutional network."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.errors import ConfigError


@keras.saving.register_keras_serializable(package="tfseg")
class PositionEmbedding(layers.Layer):
    """Add a learned vector to every token, (B, N, K) → (B, N, K)."""

    def build(self, input_shape):
        self.positions = self.add_weight(
            tuple(input_shape[1:]), initializer=keras.initializers.RandomNormal(stddev=0.02), name="positions"
        )

    def call(self, tokens):
        return tokens + self.positions

    def compute_output_shape(self, input_shape):
        return input_shape


def transform_maps(maps, blocks: int, name: str, head_width: int = 32, dropout: float = 0.0):
    """Transformer blocks (Vaswani et al. 2017, normalised first) over a map's pixels as tokens.

    Args:
        maps: symbolic (B, h, w, K); memory grows with (h · w)².
        blocks: how many, at least 1.
        name: what the layers' names begin with.
        head_width: channels of an attention head; K / 32 heads by default, at least one.
        dropout: rate in attention and after each part, in [0, 1).

    Returns:
        Symbolic maps of the same shape.

    Raises:
        ConfigError: fewer than one block.
    """
    if blocks < 1:
        raise ConfigError(f"a transformer needs at least one block, received {blocks}")
    rows, columns, channels = maps.shape[1:]
    heads = max(1, channels // head_width)
    tokens = layers.Reshape((rows * columns, channels), name=f"{name}_tokens")(maps)
    tokens = PositionEmbedding(name=f"{name}_positions")(tokens)
    for number in range(1, blocks + 1):
        block = f"{name}_block{number}"
        normal = layers.LayerNormalization(epsilon=1e-6, name=f"{block}_norm1")(tokens)
        attention = layers.MultiHeadAttention(
            heads, max(1, channels // heads), dropout=dropout, name=f"{block}_attention"
        )
        tokens = layers.Add(name=f"{block}_attended")([tokens, attention(normal, normal)])
        normal = layers.LayerNormalization(epsilon=1e-6, name=f"{block}_norm2")(tokens)
        hidden = layers.Dense(4 * channels, activation="gelu", name=f"{block}_dense1")(normal)
        hidden = layers.Dense(channels, name=f"{block}_dense2")(hidden)
        if dropout:
            hidden = layers.Dropout(dropout, name=f"{block}_dropout")(hidden)
        tokens = layers.Add(name=block)([tokens, hidden])
    tokens = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm")(tokens)
    return layers.Reshape((rows, columns, channels), name=f"{name}_maps")(tokens)
