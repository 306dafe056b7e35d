"""Augmentation: one warp for a batch's images and maps, drawn from numbers that come with each case."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

FILLS = ("reflect", "nearest", "wrap", "constant")
COLOURS = ("brightness", "contrast", "saturation")
# Columns of a case's draws. The order is part of what a seed means.
COLUMNS = ("angle", "scale", "right", "down", "columns", "rows", "shear", "turn", *COLOURS, "swap", "donor")
DRAWS = len(COLUMNS)


@dataclass(frozen=True)
class Augmentation:
    """How far a training image may be changed; every case draws its own change. By default nothing is.

    Args:
        flips: mirror left–right and up–down, each with probability one half.
        right_angles: turn by 0, 90, 180 or 270 degrees, without interpolation.
        rotation: largest angle, in degrees, either way.
        zoom: largest relative change of scale, in [0, 1); the same in both directions of the image.
        shift: largest shift, as a share of the side, in [0, 1).
        shear: largest slant of the vertical, in degrees, either way.
        brightness: largest relative change of all values, in [0, 1].
        contrast: largest relative change of the distance to the image's mean grey, in [0, 1].
        saturation: largest relative change of the distance to the pixel's own grey, in [0, 1].
        background_swap: share of the images in which everything outside the dilated lesion comes from another image
            of the batch; see `swap_backgrounds`.
        fill: what appears beyond the border: ``"reflect"``, ``"nearest"``, ``"wrap"`` or ``"constant"`` (black, and
            background in masks).
    """

    flips: bool = False
    right_angles: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    background_swap: float = 0.0
    fill: str = "reflect"

    def __post_init__(self):
        for name, upper in (
            ("rotation", 180.0),
            ("shear", 60.0),
            ("background_swap", 1.0),
            *((c, 1.0) for c in COLOURS),
        ):
            if not 0.0 <= getattr(self, name) <= upper:
                raise ValueError(f"`{name}` must lie in [0, {upper:g}], received {getattr(self, name)}")
        for name in ("zoom", "shift"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` must lie in [0, 1), received {getattr(self, name)}")
        if self.fill not in FILLS:
            raise ValueError(f"`fill` must be one of {list(FILLS)}, received {self.fill!r}")

    @property
    def moves(self) -> bool:
        """Whether pixels may change their place."""
        return self.flips or self.right_angles or any((self.rotation, self.zoom, self.shift, self.shear))

    @property
    def changes(self) -> bool:
        """Whether anything may change."""
        return self.moves or any(getattr(self, name) for name in (*COLOURS, "background_swap"))


RECIPES = {
    "none": Augmentation(),
    # Lesions and cells have no upright position.
    "free": Augmentation(flips=True, rotation=180.0, zoom=0.1, shift=0.05),
    "oral": Augmentation(rotation=45.0, zoom=0.1, shift=0.1, shear=10.0),
    # The paper's "15 % shear" is Keras's `shear_range=0.15`, which Keras reads as degrees.
    "cervical": Augmentation(flips=True, rotation=10.0, zoom=0.15, shift=0.2, shear=0.15, fill="nearest"),
    # The paper names the kinds of change and no amounts; the amounts are ours.
    "ebhi": Augmentation(flips=True, rotation=180.0, zoom=0.2),
    "se_lcn": Augmentation(flips=True, right_angles=True),
}


def transforms(augmentation: Augmentation, draws, height: int, width: int):
    """The affine transforms that the draws stand for, in TensorFlow's order (output pixel → input pixel).

    Args:
        draws: uniform in [0, 1), (B, `DRAWS`).
        height, width: of the images, in pixels.

    Returns:
        float32 (B, 8). Flips and right angles alone give exact whole numbers and halves.
    """
    draw = dict(zip(COLUMNS, tf.unstack(draws, axis=1), strict=True))
    centred = {name: 2.0 * values - 1.0 for name, values in draw.items()}
    angle = centred["angle"] * (math.pi / 180.0) * augmentation.rotation
    slant = tf.tan(centred["shear"] * (math.pi / 180.0) * augmentation.shear)
    scale = 1.0 + centred["scale"] * augmentation.zoom
    shift_x = centred["right"] * augmentation.shift * width
    shift_y = centred["down"] * augmentation.shift * height
    mirror_x, mirror_y = (tf.where((draw[name] < 0.5) & augmentation.flips, -1.0, 1.0) for name in ("columns", "rows"))
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Rotation · shear · mirrors, over the scale.
    a, b = cos * mirror_x / scale, (cos * slant - sin) * mirror_y / scale
    d, e = sin * mirror_x / scale, (sin * slant + cos) * mirror_y / scale
    if augmentation.right_angles:
        turn = tf.cast(draw["turn"] * 4.0, tf.int32)
        turn_cos, turn_sin = (
            tf.gather(tf.constant(values), turn) for values in ([1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0])
        )
        a, b, d, e = (
            turn_cos * a - turn_sin * d,
            turn_cos * b - turn_sin * e,
            turn_sin * a + turn_cos * d,
            turn_sin * b + turn_cos * e,
        )
    # About the centre of the pixel grid; an image that isn't square is rotated in pixels, not in shares of its sides.
    centre_x, centre_y = (width - 1) / 2.0, (height - 1) / 2.0
    c = centre_x + shift_x - a * centre_x - b * centre_y
    f = centre_y + shift_y - d * centre_x - e * centre_y
    zero = tf.zeros_like(a)
    return tf.stack([a, b, c, d, e, f, zero, zero], axis=1)


def warp(augmentation: Augmentation, draws, image, classes, maps=()):
    """Move images and maps together, and change the images' colours.

    Values are rounded to whole ones after the interpolation, as if the moved image had been decoded from a file.

    Args:
        augmentation: how far.
        draws: uniform in [0, 1), (B, `DRAWS`).
        image: uint8 (B, H, W, 3), bilinear.
        classes: class indices, uint8 (B, H, W), nearest neighbour.
        maps: further ones of the same scene, uint8 (B, h, w) or (B, h, w, 3), 255 = certain, bilinear; of any size.

    Returns:
        The three: float32 (B, H, W, 3) in [0, 1]; uint8 (B, H, W); a list of float32 (B, h, w, 1 or 3) in [0, 1].
    """
    # Three compiled steps. As one, the compiler would repeat the gathering for each channel: seven times slower.
    matrices = transforms(augmentation, draws, image.shape[1], image.shape[2])
    packed = _pack(image, classes)
    if augmentation.moves:
        packed = _sample(packed, matrices, augmentation.fill, 3)
    amounts = tuple(getattr(augmentation, name) for name in COLOURS)
    first = COLUMNS.index(COLOURS[0])
    image = _unpack_image(packed, 2.0 * draws[:, first : first + 3] - 1.0, amounts)
    classes = _unpack_classes(packed)
    moved = []
    for values in maps:
        three = len(values.shape) == 4
        packed = _pack(values, tf.zeros_like(values[..., 0])) if three else tf.cast(values, tf.int32)
        if augmentation.moves:
            same = values.shape[1:3] == classes.shape[1:3]
            matrices_here = matrices if same else transforms(augmentation, draws, values.shape[1], values.shape[2])
            packed = _sample(packed, matrices_here, augmentation.fill, 3 if three else 1)
        moved.append(_unpack(packed, 3 if three else 1))
    return image, classes, moved


# XLA fuses each of these into one pass over the pixels; operation by operation the warp costs eight times as much.
@tf.function(jit_compile=True)
def _pack(image, classes):
    """A pixel's three channels and its class as the four bytes of one int32, so that one gather fetches all."""
    image = tf.cast(image, tf.int32)
    packed = image[..., 0] + image[..., 1] * 2**8 + image[..., 2] * 2**16
    return tf.bitwise.bitwise_or(packed, tf.bitwise.left_shift(tf.cast(classes, tf.int32), 24))


@tf.function(jit_compile=True)
def _sample(packed, matrices, fill, smooth):
    """Read packed pixels at transformed places: the lowest `smooth` bytes bilinear, the highest byte nearest."""
    height, width = packed.shape[1], packed.shape[2]
    columns = tf.range(width, dtype=tf.float32)[None, None, :]
    rows = tf.range(height, dtype=tf.float32)[None, :, None]
    a, b, c, d, e, f = (matrices[:, index][:, None, None] for index in range(6))
    left, right, left_weight, right_weight = _neighbours(a * columns + (b * rows + c), width, fill)
    upper, lower, upper_weight, lower_weight = _neighbours(d * columns + (e * rows + f), height, fill)
    start = (tf.range(tf.shape(packed)[0]) * (height * width))[:, None, None]
    pixels = tf.reshape(packed, [-1])
    corners = [
        [tf.gather(pixels, start + row * width + column) for column in (left, right)] for row in (upper, lower)
    ]  # fmt: skip
    result = tf.zeros_like(left + upper)
    for shift in range(0, 8 * smooth, 8):
        (p00, p01), (p10, p11) = (
            [tf.cast(tf.bitwise.right_shift(corner, shift) & 255, tf.float32) for corner in row] for row in corners
        )
        value = (p00 * left_weight + p01 * right_weight) * upper_weight
        value += (p10 * left_weight + p11 * right_weight) * lower_weight
        result += tf.cast(value + 0.5, tf.int32) * 2**shift
    on_left, on_upper = left_weight > right_weight, upper_weight > lower_weight
    (p00, p01), (p10, p11) = corners
    nearest = tf.where(on_upper, tf.where(on_left, p00, p01), tf.where(on_left, p10, p11))
    if fill == "constant":
        heaviest = tf.maximum(left_weight, right_weight), tf.maximum(upper_weight, lower_weight)
        nearest = tf.where((heaviest[0] >= 0.5) & (heaviest[1] >= 0.5), nearest, 0)
    return tf.bitwise.bitwise_or(result, nearest & -(2**24))


def _neighbours(place, length, fill):
    """The two whole places beside each place along an axis, and how much each counts."""
    if fill == "reflect":
        place = place + 0.5
        place -= 2.0 * length * tf.floor(place * (1.0 / (2.0 * length)))
        place = tf.minimum(place, 2.0 * length - place) - 0.5
    elif fill == "wrap":
        place = place + 0.5
        place -= length * tf.floor(place * (1.0 / length)) + 0.5
    if fill != "constant":
        place = tf.clip_by_value(place, 0.0, length - 1.0)
    below = tf.floor(place)
    above_weight = place - below
    below_weight = 1.0 - above_weight
    if fill == "constant":
        below_weight = tf.where((below >= 0.0) & (below <= length - 1.0), below_weight, 0.0)
        above_weight = tf.where((below >= -1.0) & (below <= length - 2.0), above_weight, 0.0)
    below = tf.cast(below, tf.int32)
    return (
        tf.clip_by_value(below, 0, length - 1),
        tf.clip_by_value(below + 1, 0, length - 1),
        below_weight,
        above_weight,
    )


@tf.function(jit_compile=True)
def _unpack(packed, channels):
    """The lowest bytes as numbers in [0, 1], (B, H, W, channels)."""
    return tf.cast(tf.bitcast(packed, tf.uint8)[..., :channels], tf.float32) * tf.constant(1.0 / 255.0, tf.float32)


@tf.function(jit_compile=True)
def _unpack_image(packed, centred, amounts):
    image = _unpack(packed, 3)
    if not any(amounts):
        return image
    brightness, contrast, saturation = (
        1.0 + centred[:, index][:, None, None, None] * amount for index, amount in enumerate(amounts)
    )
    if amounts[0]:
        image *= brightness
    if amounts[1]:
        mean = tf.reduce_mean(_grey(image), (1, 2), keepdims=True)
        image = mean + (image - mean) * contrast
    if amounts[2]:
        grey = _grey(image)
        image = grey + (image - grey) * saturation
    return tf.clip_by_value(image, 0.0, 1.0)


@tf.function(jit_compile=True)
def _unpack_classes(packed):
    return tf.bitcast(packed, tf.uint8)[..., 3]


def _grey(image):
    """ITU-R BT.601 luma, (B, H, W, 3) → (B, H, W, 1)."""
    return 0.299 * image[..., :1] + 0.587 * image[..., 1:2] + 0.114 * image[..., 2:]


@tf.function(jit_compile=True)
def dilate(mask, side: int):
    """Grow masks by a square; one of even side reaches one pixel further to the right and down.

    Args:
        mask: uint8 (B, H, W), 0 outside.
        side: of the square, in pixels.

    Returns:
        uint8 (B, H, W).
    """
    before = side // 2
    for axis in (1, 2):
        padding = [[0, 0]] * 3
        padding[axis] = [before, side - 1 - before]
        length, covered = mask.shape[axis], 1
        mask = tf.pad(mask, padding)
        # Maxima over 2, 4, 8 … pixels, and at last over the whole side.
        while covered < side:
            step = min(covered, side - covered)
            extent = mask.shape[axis] - step
            mask = tf.maximum(_part(mask, axis, 0, extent), _part(mask, axis, step, extent))
            covered += step
        mask = _part(mask, axis, 0, length)
    return mask


def _part(values, axis, start, length):
    return values[:, start : start + length] if axis == 1 else values[:, :, start : start + length]


def swap_backgrounds(augmentation: Augmentation, draws, lesion, *values):
    """Take everything outside the dilated lesion from another image of the batch, in a share of the images.

    The lesion is dilated once, by a square of side ⌈0.05 · width⌉. The donor's own lesion comes with its background;
    the mask doesn't change and leaves it out. Images without a lesion in their mask stay as they are. The other
    image depends on the batch, which is the same again for the same seed, epoch, and batch size.

    Args:
        augmentation: its `background_swap` is the share.
        draws: uniform in [0, 1), (B, `DRAWS`).
        lesion: bool (B, H, W).
        values: tensors (B, H, W, …): the images, and maps that were made from them, which may be smaller.

    Returns:
        The values, swapped, as a list.
    """
    count = tf.shape(lesion)[0]
    swapped, donor = draws[:, COLUMNS.index("swap")], draws[:, COLUMNS.index("donor")]
    swapped = (swapped < augmentation.background_swap) & tf.reduce_any(lesion, (1, 2))
    others = tf.maximum(count - 1, 1)
    steps = 1 + tf.minimum(tf.cast(donor * tf.cast(others, tf.float32), tf.int32), others - 1)
    donors = (tf.range(count) + steps) % count
    # In integers: 0.05 * 140 is a little more than 7, and its ceiling would be 8.
    kept = (dilate(tf.cast(lesion, tf.uint8), -(-lesion.shape[2] // 20)) > 0) | ~swapped[:, None, None]
    return [_compose(kept, value, donors) for value in values]


@tf.function(jit_compile=True)
def _compose(kept, values, donors):
    if kept.shape[1:3] != values.shape[1:3]:
        # The pixel in whose middle the smaller one's middle lies.
        rows, columns = (
            tf.cast((tf.range(small, dtype=tf.float32) + 0.5) * (large / small), tf.int32)
            for large, small in zip(kept.shape[1:3], values.shape[1:3], strict=True)
        )
        kept = tf.gather(tf.gather(kept, rows, axis=1), columns, axis=2)
    return tf.where(kept if len(values.shape) == 3 else kept[..., None], values, tf.gather(values, donors))
