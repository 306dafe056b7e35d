"""CEntIoU: cross entropy minus the overlap of a differentiable saliency map with the lesion."""

from __future__ import annotations

from keras import ops


def soft_iou(saliency, lesion, valid=None):
    """`Σ s·m / Σ (s + m − s·m)` of every image.

    Args:
        saliency: map `s`, (B, H, W, 1) in [0, 1].
        lesion: mask `m`, (B, H, W, 1) in [0, 1].
        valid: (B, H, W, 1), 0 where a pixel counts nowhere; None counts all.

    Returns:
        A pair: the overlap (B,) in [0, 1], and whether the image has a lesion at all, float32 (B,) in {0, 1}.
        Without a lesion the overlap is 0 and says nothing.
    """
    saliency, lesion = ops.cast(saliency, "float32"), ops.cast(lesion, "float32")
    if valid is not None:
        valid = ops.cast(valid, "float32")
        saliency, lesion = saliency * valid, lesion * valid
    overlap = ops.sum(saliency * lesion, axis=(1, 2, 3))
    union = ops.sum(saliency + lesion - saliency * lesion, axis=(1, 2, 3))
    has_lesion = ops.cast(ops.max(lesion, axis=(1, 2, 3)) > 0.0, "float32")
    return overlap / ops.maximum(union, 1e-6), has_lesion


def centiou_loss(cross_entropy, iou, has_lesion, cross_entropy_share, images=None, lesions=None):
    """`λ · mean(CE) − (1 − λ) · mean(IoU)`, the second mean over the images that have a lesion.

    Source: the oral paper's CEntIoU, with the IoU soft and per image.

    Args:
        cross_entropy: of every image, (B,), class weights included.
        iou: overlap of map and lesion, (B,) in [0, 1].
        has_lesion: (B,) in {0, 1}.
        cross_entropy_share: λ in [0, 1].
        images, lesions: what the two sums are divided by; the batch's own counts by default. With several
            replicas they are the counts over all of them, and the replicas' losses add up to the batch's.

    Returns:
        float32 scalar, from −(1 − λ) upwards.
    """
    if not 0.0 <= cross_entropy_share <= 1.0:
        raise ValueError(f"`cross_entropy_share` must lie in [0, 1]. Received: {cross_entropy_share}")
    images = ops.cast(ops.shape(cross_entropy)[0], "float32") if images is None else images
    lesions = ops.sum(has_lesion) if lesions is None else lesions
    classification = ops.sum(cross_entropy) / images
    localisation = ops.sum(iou * has_lesion) / ops.maximum(lesions, 1.0)
    return cross_entropy_share * classification - (1.0 - cross_entropy_share) * localisation
