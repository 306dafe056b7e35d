"""What a phantom is painted with: skin, lesion colours, hairs, vignettes, glints and planted patches.

Images in the making are float32 (H, W, 3), RGB in [0, 1]. Lengths are fractions of the image's side, so that
a phantom looks the same at every size.
"""

from functools import lru_cache

import cv2
import numpy as np

SKIN_TONES = np.array(
    [[0.93, 0.80, 0.76], [0.90, 0.70, 0.66], [0.86, 0.67, 0.52], [0.80, 0.60, 0.47], [0.66, 0.49, 0.39]],
    np.float32,
)
# Departures from the lesion's own brown: black-brown, tan, red, blue-grey veil, white
LESION_COLOURS = np.array(
    [
        [-0.22, -0.17, -0.13],
        [0.15, 0.11, 0.04],
        [0.13, -0.06, -0.04],
        [-0.14, -0.02, 0.09],
        [0.13, 0.14, 0.14],
    ],
    np.float32,
)
MELANIN_ABSORPTION = np.array([0.55, 1.0, 1.25], np.float32)


@lru_cache(maxsize=32)
def _noise_tiles(size: int, frequency: float) -> np.ndarray:
    """Four tileable fields (4, size, size), mean 0, variance 1, of about `frequency` cycles per side."""
    rng = np.random.default_rng([size, round(frequency * 16)])
    vertical = np.fft.fftfreq(size)[:, None] * size
    horizontal = np.fft.rfftfreq(size)[None] * size
    octaves = np.log2(np.maximum(np.hypot(vertical, horizontal), 1e-3) / frequency)
    spectrum = np.fft.rfft2(rng.standard_normal((4, size, size))) * np.exp(-2.0 * octaves**2)
    tiles = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    tiles -= tiles.mean(axis=(1, 2), keepdims=True)
    tiles /= tiles.std(axis=(1, 2), keepdims=True)
    tiles.setflags(write=False)
    return tiles


def noise(rng: np.random.Generator, size: int, frequency: float) -> np.ndarray:
    """A noise field (size, size), shifted and turned: a new one would cost a Fourier transform per image."""
    variant, vertical, horizontal, turn = (int(v) for v in rng.integers([4, size, size, 8]))
    tile = np.roll(_noise_tiles(size, frequency)[variant], (vertical, horizontal), axis=(0, 1))
    tile = tile.T if turn & 1 else tile
    return tile[:: -1 if turn & 2 else 1, :: -1 if turn & 4 else 1]


@lru_cache(maxsize=8)
def _coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertical (size, 1) and horizontal (1, size) pixel positions in [-0.5, 0.5]."""
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    return line[:, None], line[None]


def _smoothstep(values: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((values - low) * np.float32(1.0 / (high - low)), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def skin_tone(rng: np.random.Generator) -> np.ndarray:
    """A patient's skin, RGB in [0, 1]: a mixture of SKIN_TONES."""
    return rng.dirichlet(np.full(len(SKIN_TONES), 0.5)).astype(np.float32) @ SKIN_TONES


def paint_skin(rng: np.random.Generator, size: int, tone: np.ndarray, contrast: float) -> np.ndarray:
    """Skin with folds, mottling, a lighting gradient and freckles (size, size, 3).

    `contrast` is the optical density that a freckle may reach, in the unit of a lesion's depth.
    """
    vertical, horizontal = _coordinates(size)
    tilt = rng.normal(0.0, 0.09, 2).astype(np.float32)
    shade = 1.0 + tilt[0] * vertical + tilt[1] * horizontal + 0.02 * noise(rng, size, 3.0)
    folds, mottling = noise(rng, size, 26.0), noise(rng, size, 7.0)
    shade += rng.uniform(0.004, 0.018) * folds
    redness = rng.uniform(0.005, 0.03) * mottling + rng.uniform(0.0, 0.02) * noise(rng, size, 2.0)
    density = _freckles(rng, size, contrast)
    jittered = tone * rng.normal(1.0, 0.015, 3).astype(np.float32)
    channels = [
        jittered[c] * shade * (1.0 - share * redness) * np.exp(-MELANIN_ABSORPTION[c] * density)
        for c, share in enumerate((0.2, 1.0, 0.8))
    ]
    return cv2.merge(channels)


def _draw_ellipse(canvas: np.ndarray, centre: np.ndarray, axes: np.ndarray, angle: float, value: int) -> None:
    """Fill an ellipse in place; `centre` (x, y) and `axes` are fractions of the side, `angle` is degrees."""
    scale = 16 * len(canvas)
    x, y = (int(v) for v in centre * scale)
    a, b = (max(int(v), 8) for v in axes * scale)
    cv2.ellipse(canvas, (x, y), (a, b), angle, 0, 360, value, -1, cv2.LINE_AA, 4)


def _freckles(rng: np.random.Generator, size: int, contrast: float) -> np.ndarray:
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(rng.poisson(2.0)):
        centre, axes = rng.uniform(0.0, 1.0, 2), rng.uniform(0.008, 0.035, 2)
        _draw_ellipse(canvas, centre, axes, rng.uniform(0.0, 180.0), int(rng.uniform(40, 255)))
    spots = cv2.GaussianBlur(canvas.astype(np.float32) * np.float32(1.0 / 255.0), (0, 0), 0.008 * size)
    stains = np.maximum(noise(rng, size, 4.5) - 1.0, 0.0) * np.float32(rng.uniform(0.0, 0.35))
    return (spots + stains) * np.float32(contrast)


def paint_lesion(
    rng: np.random.Generator, skin: np.ndarray, mask: np.ndarray, depth: float, variety: float
) -> np.ndarray:
    """Lay a lesion over the skin.

    Args:
        rng: Source of everything that is random here.
        skin: float32 (H, W, 3) in [0, 1].
        mask: uint8 (H, W) in {0, 1}, the lesion.
        depth: Mean optical density of the pigment, about 0.3 (faint) to 1.3 (black-brown).
        variety: How many colours and dots there are and how strong, 0 to about 1.

    Returns:
        float32 (H, W, 3). Over the mask its mean colour depends on `depth` and the skin, never on `variety`.
    """
    size = len(mask)
    inside = mask.astype(np.float32)
    alpha = cv2.GaussianBlur(inside, (0, 0), size * rng.uniform(0.007, 0.024))
    fray = 4.0 * alpha * (1.0 - alpha) * noise(rng, size, 9.0)
    alpha = np.clip(alpha + np.float32(rng.uniform(0.1, 0.35)) * fray, 0.0, 1.0)

    lines = np.exp(-4.0 * np.square(noise(rng, size, 12.0)))
    relief = rng.uniform(0.0, 0.4) * lines
    relief += rng.uniform(0.05, 0.2) * noise(rng, size, 4.5)
    relief += rng.uniform(0.02, 0.08) * noise(rng, size, 26.0)
    # Dots are most frequent midway, so that a middle class is more than a weak form of the last
    dots = max(min(2.0 * variety, 1.7 - 1.4 * variety), 0.0)
    relief += dots * np.clip(2.5 * noise(rng, size, 12.0) - np.float32(4.0 - 0.7 * dots), 0.0, 1.8)
    absorption = MELANIN_ABSORPTION * rng.normal(1.0, 0.06, 3).astype(np.float32)
    brown = np.exp(-np.float32(depth) * absorption)
    density = np.float32(depth) * (1.0 + relief)
    layer = skin * cv2.merge([np.exp(-a * density) for a in absorption])

    colours = min(int(5.5 * max(variety - 0.3, 0.0) + rng.uniform()), len(LESION_COLOURS))
    for colour in rng.permutation(len(LESION_COLOURS))[:colours]:
        strength = rng.uniform(0.7, 0.8 + 0.5 * variety) * min(depth + 0.35, 1.0)
        region = _smoothstep(noise(rng, size, rng.choice((2.0, 3.0, 4.5))), rng.uniform(-0.2, 0.6), 1.5)
        layer += region[..., None] * (np.float32(strength) * LESION_COLOURS[colour])

    # Variation is made to average out: the lesion's mean colour must not tell the class
    goal = np.array(cv2.mean(skin, mask)[:3], np.float32) * brown
    layer += goal - np.array(cv2.mean(layer, mask)[:3], np.float32)
    return skin + alpha[..., None] * (np.clip(layer, 0.02, 1.0) - skin)


def add_vignette(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Darken the corners as a dermatoscope's tube does; float32 (H, W, 3) in, the same out."""
    vertical, horizontal = _coordinates(len(image))
    y, x = rng.normal(0.0, 0.03, 2).astype(np.float32)
    radius = np.sqrt(np.square(vertical - y) + np.square(horizontal - x))
    inner = rng.uniform(0.42, 0.58)
    light = 1.0 - rng.uniform(0.6, 0.95) * _smoothstep(radius, inner, inner + rng.uniform(0.06, 0.2))
    return image * light[..., None]


def add_glints(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add specular spots of the immersion fluid; float32 (H, W, 3) in, the same out."""
    size = len(image)
    canvas = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0.1, 0.9, 2)
    for _ in range(rng.integers(3, 12)):
        spot = centre + rng.normal(0.0, 0.12, 2)
        axes = rng.uniform(0.003, 0.014, 2)
        _draw_ellipse(canvas, spot, axes, rng.uniform(0.0, 180.0), int(rng.uniform(130, 255)))
    light = cv2.GaussianBlur(canvas.astype(np.float32) * np.float32(1.0 / 255.0), (0, 0), 0.004 * size)
    return image + light[..., None] * (1.0 - image)


def add_hairs(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Draw hairs over uint8 (H, W, 3); pixels that no hair covers stay as they are."""
    size = len(image)
    canvas = np.zeros((size, size), np.uint8)
    t = np.linspace(0.0, 1.0, 12)[:, None]
    main_direction = rng.uniform(0.0, np.pi)
    for _ in range(rng.integers(2, 13)):
        direction = main_direction + rng.normal(0.0, 0.5)
        along = np.array([np.cos(direction), np.sin(direction)]) * rng.uniform(0.15, 0.5)
        bend = np.array([-along[1], along[0]]) * rng.normal(0.0, 0.5)
        curve = rng.uniform(0.0, 1.0, 2) + along * (2.0 * t - 1.0) + bend * (4.0 * t * (1.0 - t) - 0.5)
        points = np.round(curve * size * 16).astype(np.int32)
        width = max(1, round(size * rng.uniform(0.003, 0.011)))
        cv2.polylines(canvas, [points], False, int(rng.uniform(130, 240)), width, cv2.LINE_AA, 4)
    covered = canvas.astype(np.float32)[..., None] * np.float32(1.0 / 255.0)
    colour = np.array([60.0, 42.0, 32.0], np.float32) * np.float32(rng.uniform(0.2, 1.2))
    return np.round(image + covered * (np.minimum(colour, image) - image)).astype(np.uint8)


def add_patch(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, colour: int, colours: int) -> np.ndarray:
    """Stick a disc of a saturated colour on the background, clear of the lesion.

    Args:
        rng: Source of the place and the size.
        image: float32 (H, W, 3) in [0, 1].
        mask: uint8 (H, W) in {0, 1}.
        colour: Which of the `colours` evenly spaced hues, from 0.
        colours: How many hues there are.

    Returns:
        float32 (H, W, 3). Where the lesion leaves little room, the disc shrinks.

    Raises:
        ValueError: If no pixel is far enough from the lesion for the smallest disc.
    """
    size = len(image)
    for radius in (rng.uniform(0.06, 0.09), 0.05, 0.03):
        reach = 2 * round((radius + 0.06) * size) + 1
        taken = cv2.dilate(mask, np.ones((reach, reach), np.uint8))
        edge = round(radius * size) + 1
        free = np.flatnonzero(taken[edge:-edge, edge:-edge] == 0)
        if len(free):
            break
    else:
        raise ValueError("Argument `mask` must leave room for a patch. Received: one that covers the image")
    row, column = np.divmod(int(rng.choice(free)), size - 2 * edge)
    canvas = np.zeros((size, size), np.uint8)
    centre = np.array([column + edge, row + edge]) / size
    _draw_ellipse(canvas, centre, np.array([radius, radius]), 0.0, 255)
    hue = np.float32([[[360.0 * colour / colours, 0.8, 0.75]]])
    covered = canvas.astype(np.float32)[..., None] * np.float32(0.85 / 255.0)
    return image + covered * (cv2.cvtColor(hue, cv2.COLOR_HSV2RGB) - image)
