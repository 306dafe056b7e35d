"""Masks that can be read and still look wrong: inverted, used twice, or of another image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfseg.data.cases import Cases
from tfseg.data.checks import Finding, lesion_pixels, told_once
from tfseg.data.ingest import IGNORED

SIDE = 32
LEAST_MASKS = 30
# A mask that fits its image less well than this share of the other masks is reported, …
LOW_RANK = 0.6
# … but only where three quarters of the masks fit better than 90 % of the others do.
USUAL_RANK = 0.9
SHIFT_GAIN = 0.1
_REFERENCES = 300
_BLOCK = 256


@dataclass(frozen=True)
class MaskLook:
    """What is kept of a mask and its image while the files are read.

    Args:
        digest: of the mask's class indices and its shape; None for a mask without lesion or without background.
        inverted: see `looks_inverted`.
        classes: share of each class in the cells of a grid, in the order of the mask's classes, float32 (32, 32, K);
            the sum is less than 1 where pixels are ignored.
    """

    digest: bytes | None
    inverted: bool
    classes: np.ndarray


def look_at_mask(mask: np.ndarray, cases: Cases) -> MaskLook:
    """Reduce a mask of class indices, uint8 (H, W), to what the checks need."""
    import hashlib

    import cv2

    lesion, known = lesion_pixels(mask, cases), mask != IGNORED
    plain = not lesion.any() or bool(lesion[known].all())
    digest = None if plain else hashlib.sha256(repr(mask.shape).encode() + mask.tobytes()).digest()
    size, area = (SIDE, SIDE), cv2.INTER_AREA
    values = range(len(cases.mask_classes.names))
    cells = [
        cv2.resize(np.where(mask == value, np.uint8(255), np.uint8(0)), size, interpolation=area) for value in values
    ]
    shares = np.dstack(cells).astype(np.float32) / 255
    return MaskLook(digest, looks_inverted(lesion, known), shares)


def looks_inverted(lesion: np.ndarray, counts: np.ndarray) -> bool:
    """Whether a mask shows a hole in a frame of lesion, as the mask of the background would.

    That is: at least 95 % of the border is lesion, at least 2 % of the pixels are not, and the centre of those
    lies within a fifth of the sides from the mask's centre.

    Args:
        lesion: bool (H, W).
        counts: which pixels aren't ignored, bool (H, W).
    """
    border = np.ones(lesion.shape, bool)
    border[1:-1, 1:-1] = False
    border &= counts
    hole = ~lesion & counts
    if not border.any() or lesion[border].mean() < 0.95 or hole.sum() < 0.02 * counts.sum():
        return False
    centre = (np.argwhere(hole).mean(0) + 0.5) / lesion.shape
    return bool((np.abs(centre - 0.5) < 0.2).all())


@dataclass(frozen=True)
class MaskFit:
    """How well the masks fit their images, compared with the other masks.

    Args:
        positions: of the cases judged, (M,).
        rank: share of the other masks that fit the image less well, in [0, 1], (M,); 0.5 on average for a mask
            of another image.
        partner: the position of the case whose mask fits better while this one's mask fits that image, -1 where
            there is none, (M,).
        shift: 1 or -1 when the masks fit the images of the next or the previous row better, else 0.
    """

    positions: np.ndarray
    rank: np.ndarray
    partner: np.ndarray
    shift: int

    @property
    def telling(self) -> bool:
        """Whether masks usually follow what is seen, so that one that doesn't stands out."""
        return bool(np.quantile(self.rank, 0.25) >= USUAL_RANK)


def mask_fit(looks: Mapping[int, MaskLook], thumbnails: Mapping[int, np.ndarray]) -> MaskFit | None:
    """Compare how each image is explained by its own mask and by the masks of other cases.

    Two measures, both on a 32×32 grid of colour, local contrast and distance from the mean brightness: the
    correlation of the mask with the map that a linear model of all images predicts (what the lesions of the data
    have in common), and the mask's norm after projection on the image's own features (any difference between
    inside and outside). A mask keeps the better of its two ranks.

    Args:
        looks: by the case's position.
        thumbnails: of the images, uint8 (32, 32, 3), by position.

    Returns:
        The result; None with fewer than 30 masks that have lesion and background.
    """
    chosen = [position for position in sorted(looks) if looks[position].digest is not None]
    if len(chosen) < LEAST_MASKS:
        return None
    features = np.stack([_features(thumbnails[position]) for position in chosen])
    shares = np.stack([looks[position].classes.reshape(SIDE * SIDE, -1) for position in chosen])
    known = shares.sum(2, keepdims=True)
    targets = shares - known * shares.sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1e-6)
    count = len(chosen)

    weighted = features * known
    scatter = np.tensordot(weighted, features, ([0, 1], [0, 1]))
    scatter += 1e-3 * np.trace(scatter) / len(scatter) * np.eye(len(scatter)) + 1e-9 * np.eye(len(scatter))
    weights = np.linalg.solve(scatter, np.tensordot(features, targets, ([0, 1], [0, 1])))
    predicted = _normalised((features @ weights.astype(np.float32)).reshape(count, -1))
    targets = _normalised(targets.reshape(count, -1)).reshape(targets.shape)
    flat = targets.reshape(count, -1)

    own = (predicted * flat).sum(1)
    references = np.arange(count)
    if count > _REFERENCES:
        references = np.sort(np.random.default_rng(0).choice(count, _REFERENCES, replace=False))
    bases = _orthonormal(features)
    # The background's share follows from the others.
    lesions = np.ascontiguousarray(targets.transpose(0, 2, 1)[:, 1:])
    single = _explained(bases, lesions)
    others = _explained_by_others(bases, lesions[references])
    rank = np.maximum(_rank(predicted @ flat[references].T, own, references), _rank(others, single, references))
    partner, shift = np.full(count, -1), _shift(predicted, flat, own)
    for first, second in [] if shift else _swaps(predicted, flat, own):
        exchanged = _explained(bases[[first, second]], lesions[[second, first]])
        if exchanged.sum() > single[first] + single[second]:
            partner[first], partner[second] = chosen[second], chosen[first]
    return MaskFit(np.array(chosen), rank, partner, shift)


def _features(image: np.ndarray) -> np.ndarray:
    """Colour (CIELAB), local contrast and squared distance from the mean lightness, centred, float32 (1024, 5)."""
    import cv2

    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    light = lab[..., 0]
    spread = np.sqrt(np.maximum(cv2.blur(light * light, (5, 5)) - cv2.blur(light, (5, 5)) ** 2, 0))
    features = np.dstack([lab, spread, (light - light.mean()) ** 2 / 100]).reshape(SIDE * SIDE, -1)
    return features - features.mean(0)


def _normalised(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _orthonormal(features: np.ndarray) -> np.ndarray:
    """The features of each image as orthonormal columns, float32 (M, P, F)."""
    products = features.transpose(0, 2, 1) @ features
    ridge = (1e-4 * np.trace(products, axis1=1, axis2=2) + 1e-6)[:, None, None] * np.eye(products.shape[1])
    factors = np.linalg.cholesky(products.astype(np.float64) + ridge)
    return features @ np.linalg.inv(factors).transpose(0, 2, 1).astype(np.float32)


def _explained(bases: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Squared norm of each mask's projection on the features of its image: (M, P, F) and (M, K, P) give (M,)."""
    return ((lesions @ bases) ** 2).sum((1, 2))


def _explained_by_others(bases: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """The same for every image and every mask: (N, P, F) and (M, K, P) give (N, M)."""
    masks, classes, cells = lesions.shape
    result = []
    for at in range(0, len(bases), _BLOCK):
        block = bases[at : at + _BLOCK]
        columns = block.transpose(1, 0, 2).reshape(cells, -1)
        projected = (lesions.reshape(-1, cells) @ columns).reshape(masks, classes, len(block), -1)
        result.append((projected**2).sum((1, 3)).T)
    return np.concatenate(result)


def _rank(others: np.ndarray, own: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Share of the reference masks, but the case's own, that explain less, (M,)."""
    less = (others < own[:, None]) & (references[None] != np.arange(len(own))[:, None])
    compared = len(references) - np.isin(np.arange(len(own)), references)
    return less.sum(1) / compared


def _shift(predicted: np.ndarray, flat: np.ndarray, own: np.ndarray) -> int:
    for step in (1, -1):
        gain = (predicted * np.roll(flat, -step, axis=0)).sum(1) - own
        if gain.mean() > max(SHIFT_GAIN, 5 * gain.std() / np.sqrt(len(gain))):
            return step
    return 0


def _swaps(predicted: np.ndarray, flat: np.ndarray, own: np.ndarray) -> list[tuple[int, int]]:
    """Pairs that are each other's best exchange, where both masks then fit as masks usually do."""
    usual = np.quantile(own, 0.25)
    badly = np.flatnonzero(own < np.median(own))[:3000]
    fit = predicted[badly] @ flat[badly].T
    gain = fit + fit.T - own[badly][:, None] - own[badly][None]
    np.fill_diagonal(gain, -np.inf)
    best = gain.argmax(1)
    return [
        (int(badly[first]), int(badly[second]))
        for first, second in enumerate(best)
        if first < second
        and best[second] == first
        and gain[first, second] > 0.5
        and min(fit[first, second], fit[second, first]) >= usual
        and max(own[badly[first]], own[badly[second]]) < usual
    ]


def mask_findings(
    cases: Cases, looks: Mapping[int, MaskLook], fit: MaskFit | None, picture: Mapping[int, int]
) -> list[Finding]:
    """The warnings about masks.

    Args:
        cases: all of them.
        looks: by the case's position.
        fit: from `mask_fit`.
        picture: from `tfseg.data.copies.pictures`: copies of a picture share their mask rightly.
    """
    found = []
    inverted = [position for position in sorted(looks) if looks[position].inverted]
    if inverted:
        message = (
            f"{len(inverted)} of {len(looks)} masks are lesion along the border and not in the middle: look whether "
            "lesion and background are exchanged (tissue that fills the picture round a gap looks the same)"
        )
        found.append(told_once(cases, "mask_inverted", inverted, message, "mask"))
    same: dict[bytes, list[int]] = {}
    for position in sorted(looks):
        if looks[position].digest is not None:
            same.setdefault(looks[position].digest, []).append(position)
    for equal in same.values():
        different = sorted({picture.get(position, position): position for position in reversed(equal)}.values())
        if len(different) > 1:
            ids = ", ".join(cases.table["id"].iloc[different[:5]]) + (" …" if len(different) > 5 else "")
            message = f"{len(different)} different images have the same mask: {ids}"
            found.append(told_once(cases, "mask_shared", different, message, "mask"))
    return found + (_mismatches(cases, fit) if fit is not None else [])


def _mismatches(cases: Cases, fit: MaskFit) -> list[Finding]:
    found = []
    if fit.shift:
        where = "next" if fit.shift < 0 else "previous"
        message = f"the masks fit the images of the {where} row better than their own: is the table shifted?"
        found.append(told_once(cases, "mask_mismatch", fit.positions, message, "mask"))
    if not fit.telling or fit.shift:
        return found
    ids = cases.table["id"].to_numpy(str)
    for position, partner in zip(fit.positions, fit.partner, strict=True):
        if position < partner:
            message = f"this mask fits the image of {ids[partner]} better, and that one's mask this image: look at both"
            found.append(told_once(cases, "mask_mismatch", [position, partner], message, "mask"))
    badly = fit.positions[(fit.rank < LOW_RANK) & (fit.partner < 0)]
    if len(badly):
        message = (
            f"{len(badly)} of {len(fit.positions)} masks follow their image no better than masks of other images do: "
            "look whether they belong to it"
        )
        found.append(told_once(cases, "mask_mismatch", badly, message, "mask"))
    return found
