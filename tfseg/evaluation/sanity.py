"""Does a saliency map depend on what the network has learnt? One that survives random weights shows the image only."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfseg.layers.saliency import ClassActivationMap


@dataclass(frozen=True)
class Randomised:
    """How alike maps are before and after a part of the weights was shuffled.

    Args:
        layers: by stage, how many layers were shuffled, counted from the output.
        shuffled: by stage, the deepest layer that was.
        spearman: rank correlation of each map's pixels, float (stages, N); NaN where a map is constant.
        ssim: structural similarity, float (stages, N).
    """

    layers: list[int]
    shuffled: list[str]
    spearman: np.ndarray
    ssim: np.ndarray


def randomisation_check(
    features: keras.Model,
    head: keras.Model,
    images: np.ndarray,
    method: str = "grad_cam",
    labels: np.ndarray | None = None,
    stages: int = 1,
    head_only: bool = False,
    seed: int = 0,
    grid: tuple[int, int] | None = None,
) -> Randomised:
    """Shuffle the weights from the output backwards, and compare the maps with those of the trained network.

    Every weight array is shuffled by itself, so that its values and their scale stay and what was learnt goes. The
    weights are put back in the end.

    Source: Adebayo et al. 2018, section 4 ("cascading randomization"; with one stage, all weights at once).

    Args:
        features: image (B, H, W, 3) in [0, 1] → feature maps.
        head: feature maps → logits.
        images: as the backbone sees them, float (N, H, W, 3) in [0, 1].
        method: a name out of `tfseg.layers.saliency.METHODS`.
        labels: the class to explain in each image, int (N,); None: the one predicted before.
        stages: how many comparisons, each after a further share of the layers.
        head_only: leave the backbone as it is.
        seed: of the shuffling.
        grid: of the patches, where the feature maps are tokens, see `ClassActivationMap`.

    Raises:
        ValueError: fewer layers than `stages`, or none.
    """
    parts = (head,) if head_only else (head, features)
    weighted = [layer for part in parts for layer in reversed(part.layers) if layer.weights]
    if not 1 <= stages <= len(weighted):
        raise ValueError(f"`stages` must lie in [1, {len(weighted)}], the number of layers, received {stages}")
    images = tf.constant(images, tf.float32)
    maps = features(images, training=False)
    if labels is None:
        labels = tf.argmax(head(maps, training=False), axis=-1)
    explain = ClassActivationMap(head, features.input_shape[1:3], method, "true", grid)

    def saliency():
        return explain(features(images, training=False), labels)["saliency"][..., 0].numpy()

    before, generator = saliency(), np.random.default_rng(seed)
    ends = np.round(np.linspace(0, len(weighted), stages + 1)).astype(int)[1:]
    kept = [layer.get_weights() for layer in weighted]
    found, done = [], 0
    try:
        for end in ends:
            for layer in weighted[done:end]:
                values = layer.get_weights()
                layer.set_weights([generator.permuted(value.ravel()).reshape(value.shape) for value in values])
            done = end
            found.append(saliency())
    finally:
        for layer, values in zip(weighted, kept, strict=True):
            layer.set_weights(values)
    return Randomised(
        ends.tolist(),
        [weighted[end - 1].name for end in ends],
        np.stack([spearman(before, after) for after in found]),
        np.stack([structural_similarity(before, after) for after in found]),
    )


def spearman(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rank correlation of the pixels of two maps, (N, H, W) each → (N,); NaN where one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (left, right)]
    centred = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    return np.divide((centred[0] * centred[1]).sum(1), scale, np.full(len(left), np.nan), where=scale > 0)


def structural_similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean SSIM of two maps in [0, 1], (N, H, W) each → (N,) in [−1, 1].

    Source: Wang et al. 2004, eq. 13 with their constants 0.01 and 0.03 and their Gaussian window of σ = 1.5; over the
    pixels around which the window of 11 lies inside, or over all of them in maps that are smaller.
    """
    import cv2

    def smooth(values):
        return np.stack([cv2.GaussianBlur(one, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT) for one in values])

    left, right = (np.asarray(maps, np.float64) for maps in (left, right))
    means = [smooth(maps) for maps in (left, right)]
    variances = [smooth(maps**2) - mean**2 for maps, mean in zip((left, right), means, strict=True)]
    shared = smooth(left * right) - means[0] * means[1]
    alike = (2 * means[0] * means[1] + 0.01**2) / (means[0] ** 2 + means[1] ** 2 + 0.01**2)
    alike *= (2 * shared + 0.03**2) / (variances[0] + variances[1] + 0.03**2)
    margin = 5 if min(left.shape[1:]) > 10 else 0
    return alike[:, margin : alike.shape[1] - margin, margin : alike.shape[2] - margin].mean((1, 2))
