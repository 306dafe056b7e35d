"""Swin Transformer (Liu et al. 2021), with a window shift that phones can run, for images of any multiple of 32.

KerasHub has the network, and its weights are taken; but its shift is a `roll`, which LiteRT has no builtin operation
for, it fails where a map is smaller than the window, and its inner maps can't be reached.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tfseg.layers.gradients import concatenate, matmul, piece
from tfseg.models.backbones.blocks import standardised

WINDOW = 7


def swin_t(input_shape, keras_weights=None):
    """Swin-T."""
    return _published(input_shape, (2, 2, 6, 2), keras_weights and "swin_tiny_patch4_window7_224")


def swin_s(input_shape, keras_weights=None):
    """Swin-S."""
    return _published(input_shape, (2, 2, 18, 2), keras_weights and "swin_small_patch4_window7_224")


def small_swin(input_shape, keras_weights=None):
    """A small Swin for images of 64 to 160 pixels, trained from scratch: three stages, stride 16, 0.6 M parameters."""
    return swin(input_shape, 32, (2, 2, 2), (2, 4, 8), window=4, drop_path=0.05)


def swin(input_shape, width, depths, heads, window=WINDOW, drop_path=0.1):
    """Image → maps (B, h, w, width · 2^(stages − 1)), of stride 4 in the first stage and twice that in each further.

    Args:
        input_shape: (height, width, 3), multiples of the last stage's stride.
        width: channels of the first stage, doubled in each further one.
        depths: blocks of each stage; every second one has shifted windows.
        heads: of the attention, for each stage.
        window: side of the windows, in tokens.
        drop_path: largest rate of blocks left out in training (stochastic depth), rising from 0 over the blocks.
    """
    image = keras.Input(input_shape, name="image")
    outputs = layers.Conv2D(width, 4, 4, kernel_initializer="lecun_normal", name="patches")(standardised(image))
    outputs = layers.LayerNormalization(epsilon=1e-5, name="patches_norm")(outputs)
    rates = iter(np.linspace(0.0, drop_path, sum(depths)))
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True), 1):
        if stage > 1:
            outputs = _merge(outputs, f"merge{stage}")
        for block in range(depth):
            name = f"stage{stage}" if block == depth - 1 else f"stage{stage}_block{block + 1}"
            shift = window // 2 if block % 2 else 0
            outputs = swin_block(outputs, count, window, shift, float(next(rates)), name)
    outputs = layers.LayerNormalization(epsilon=1e-5, name="norm")(outputs)
    return keras.Model(image, outputs, name="features")


def load_kerashub(model: keras.Model, network) -> None:
    """Copy the weights of a `keras_hub.models.SwinTransformerBackbone` into a `swin` of the same shape.

    Raises:
        ValueError: when the two have not the same weights.
    """
    weights = network.patch_embedding.get_weights()
    for stage in network.stages:
        for block in stage.blocks:
            weights += block.get_weights()
        if stage.downsample is not None:
            # Theirs is made before its normalisation, though it comes after it.
            reduction, gamma, beta = stage.downsample.get_weights()
            weights += [gamma, beta, reduction]
    model.set_weights(weights + network.norm.get_weights())


def _published(input_shape, depths, preset):
    network = None
    if preset:
        from keras_hub.models import SwinTransformerBackbone

        network = SwinTransformerBackbone.from_preset(preset)
    model = swin(input_shape, 96, depths, (3, 6, 12, 24))
    if network is not None:
        load_kerashub(model, network)
    return model


def swin_block(inputs, heads, window, shift, rate, name):
    """Window attention, then two dense layers, each added to what came in (Figure 3 b)."""
    normal = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm1")(inputs)
    attended = WindowAttention(heads, window, shift, name=f"{name}_attention")(normal)
    outputs = layers.Add(name=f"{name}_attended")([inputs, _drop_path(attended, rate, f"{name}_drop1")])
    normal = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm2")(outputs)
    hidden = layers.Dense(4 * inputs.shape[-1], activation="gelu", name=f"{name}_dense1")(normal)
    hidden = layers.Dense(inputs.shape[-1], name=f"{name}_dense2")(hidden)
    return layers.Add(name=name)([outputs, _drop_path(hidden, rate, f"{name}_drop2")])


def _drop_path(inputs, rate, name):
    """Leave a branch out for some of the images in training."""
    return layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(inputs) if rate else inputs


def _merge(inputs, name):
    """Join 2×2 neighbours, column by column, and halve their channels: (B, h, w, K) → (B, h/2, w/2, 2K)."""
    rows, columns, channels = inputs.shape[1:]
    outputs = layers.Reshape((rows // 2, 2, columns // 2, 2, channels), name=f"{name}_cells")(inputs)
    outputs = layers.Permute((1, 3, 4, 2, 5), name=f"{name}_neighbours")(outputs)
    outputs = layers.Reshape((rows // 2, columns // 2, 4 * channels), name=f"{name}_join")(outputs)
    outputs = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm")(outputs)
    return layers.Dense(2 * channels, use_bias=False, name=name)(outputs)


@keras.saving.register_keras_serializable(package="tfseg")
class WindowAttention(layers.Layer):
    """Self-attention within windows of a map, with learned relative positions (sections 3.2 and 3.3 of the paper).

    Maps are padded to whole windows; nothing attends to the padding. Along a side of one window nothing is shifted.

    Args:
        heads: of the attention, a divisor of the channels.
        window: side of the windows, in pixels of the map.
        shift: by how many pixels the windows are moved down and right, below `window`.
    """

    def __init__(self, heads, window=WINDOW, shift=0, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.window = window
        self.shift = shift

    def build(self, input_shape):
        channels = input_shape[-1]
        self.table = self.add_weight(
            ((2 * self.window - 1) ** 2, self.heads),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="relative_positions",
        )
        self.query_key_value = layers.Dense(3 * channels, dtype=self.dtype_policy, name="query_key_value")
        self.query_key_value.build((None, None, channels))
        self.project = layers.Dense(channels, dtype=self.dtype_policy, name="project")
        self.project.build((None, None, channels))
        sides = [-(-side // self.window) * self.window for side in input_shape[1:3]]
        self.missing = [padded - side for padded, side in zip(sides, input_shape[1:3], strict=True)]
        self.shifts = [self.shift if side > self.window else 0 for side in sides]
        self.counts = [side // self.window for side in sides]
        self.index = relative_position_index(self.window)
        self.mask = attention_mask(input_shape[1:3], self.window, self.shifts)

    def call(self, inputs):
        rows, columns, channels = inputs.shape[1:]
        maps = ops.pad(inputs, ((0, 0), (0, self.missing[0]), (0, self.missing[1]), (0, 0)))
        maps = _rolled(_rolled(maps, self.shifts[0], 1), self.shifts[1], 2)
        down, across = self.counts
        windows = ops.reshape(maps, (-1, down, self.window, across, self.window, channels))
        windows = ops.transpose(windows, (0, 1, 3, 2, 4, 5))
        windows = self._attend(ops.reshape(windows, (-1, self.window**2, channels)))
        windows = ops.reshape(windows, (-1, down, across, self.window, self.window, channels))
        windows = ops.transpose(windows, (0, 1, 3, 2, 4, 5))
        maps = ops.reshape(windows, (-1, down * self.window, across * self.window, channels))
        maps = _rolled(_rolled(maps, -self.shifts[0], 1), -self.shifts[1], 2)
        return piece(piece(maps, 1, 0, rows), 2, 0, columns)

    def _attend(self, tokens):
        """Windows (B · windows, pixels, K) → the same shape."""
        area, channels = tokens.shape[1:]
        query, key, value = (
            ops.transpose(ops.reshape(part, (-1, area, self.heads, channels // self.heads)), (0, 2, 1, 3))
            for part in ops.split(self.query_key_value(tokens), 3, axis=-1)
        )
        scores = matmul(query * (channels // self.heads) ** -0.5, ops.transpose(key, (0, 1, 3, 2)))
        scores = scores + ops.transpose(ops.take(self.table, self.index, axis=0), (2, 0, 1))
        if self.mask is not None:
            mask = ops.cast(self.mask[None, :, None], scores.dtype)
            scores = ops.reshape(scores, (-1, mask.shape[1], self.heads, area, area)) + mask
            scores = ops.reshape(scores, (-1, self.heads, area, area))
        outputs = ops.transpose(matmul(ops.softmax(scores), value), (0, 2, 1, 3))
        return self.project(ops.reshape(outputs, (-1, area, channels)))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "window": self.window, "shift": self.shift}


def relative_position_index(window: int) -> np.ndarray:
    """For each pair of pixels of a window, the row of the table of relative positions: (window², window²) int32."""
    places = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1).reshape(-1, 2)
    apart = places[:, None] - places[None] + window - 1
    return (apart[..., 0] * (2 * window - 1) + apart[..., 1]).astype(np.int32)


def attention_mask(sides, window: int, shifts) -> np.ndarray | None:
    """−100 where two pixels share a shifted window but not a neighbourhood, or one of them is padding, else 0.

    Args:
        sides: (height, width) of the map before it is padded.
        window: side of the windows.
        shifts: by how much the padded map is moved up and left.

    Returns:
        (windows, window², window²) float32, or None where nothing is to be kept apart.
    """
    regions = []
    for side, shift in zip(sides, shifts, strict=True):
        padded = -(-side // window) * window
        came_from = (np.arange(padded) + shift) % padded
        wrapped = np.arange(padded) >= padded - shift
        regions.append(np.where(came_from >= side, 2, wrapped.astype(int)))
    if not any(region.any() for region in regions):
        return None
    region = 3 * regions[0][:, None] + regions[1][None]
    down, across = (len(entry) // window for entry in regions)
    windows = region.reshape(down, window, across, window).transpose(0, 2, 1, 3).reshape(-1, window**2)
    return np.where(windows[:, :, None] == windows[:, None], 0.0, -100.0).astype(np.float32)


def _rolled(maps, shift, axis):
    """`roll` by −shift along an axis out of two pieces, which every LiteRT runtime has."""
    if shift == 0:
        return maps
    side = maps.shape[axis]
    first = shift % side
    return concatenate([piece(maps, axis, first, side), piece(maps, axis, 0, first)], axis)
