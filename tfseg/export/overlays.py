"""Pictures of a prediction: the lesion's contour and the saliency map on the original image."""

from __future__ import annotations

import numpy as np

CONTOUR = (255, 230, 0)
HEAT_SHARE = 0.5
TEXT_SIZES = (1.0, 0.35)


def draw_overlay(
    image: np.ndarray,
    lesion: np.ndarray | None = None,
    saliency: np.ndarray | None = None,
    caption: str = "",
    threshold: float = 0.5,
) -> np.ndarray:
    """Draw the panels of one image side by side, each at the image's own size.

    Args:
        image: uint8 (h, w, 3), RGB.
        lesion: (h, w) in [0, 1], the probability of the lesion; its contour at `threshold` goes onto the first
            panel.
        saliency: (h, w) in [0, 1]; where given, a second panel shows it as a heat map.
        caption: one line above the panels; left out where the image is too narrow for it to be read.
        threshold: from which probability on a pixel belongs to the lesion.

    Returns:
        uint8 (h + caption, w · panels, 3), RGB.

    Raises:
        ValueError: when a map has another size than the image.
    """
    for name, values in (("lesion", lesion), ("saliency", saliency)):
        if values is not None and values.shape != image.shape[:2]:
            raise ValueError(f"`{name}` must have the image's size {image.shape[:2]}, received {values.shape}")
    panels = [image if lesion is None else _with_contour(image, lesion >= threshold)]
    if saliency is not None:
        panels.append(_with_heat(image, saliency))
    picture = np.concatenate(panels, axis=1)
    strip = _caption_strip(caption, picture.shape[1])
    return picture if strip is None else np.concatenate([strip, picture])


def write_png(path, image: np.ndarray) -> None:
    """Write uint8 (h, w) or RGB (h, w, 3) as a PNG file, whole or not at all."""
    import cv2

    from tfseg.run import written_whole

    with written_whole(path) as temporary:
        content = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1]
        temporary.write_bytes(content.tobytes())


def _with_contour(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    import cv2

    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = np.ascontiguousarray(image).copy()
    width = max(1, round(min(image.shape[:2]) / 250))
    # Dark beneath bright, so that the line is seen on any skin or stain; a thumbnail has no room for both.
    if width > 1 or min(image.shape[:2]) >= 128:
        cv2.drawContours(drawn, contours, -1, (0, 0, 0), width + 2)
    cv2.drawContours(drawn, contours, -1, CONTOUR, width)
    return drawn


def _with_heat(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    import cv2

    levels = np.round(np.clip(saliency, 0.0, 1.0) * 255).astype(np.uint8)
    heat = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1]
    return np.round((1 - HEAT_SHARE) * image + HEAT_SHARE * heat).astype(np.uint8)


def _caption_strip(caption: str, width: int) -> np.ndarray | None:
    import cv2

    font, margin = cv2.FONT_HERSHEY_SIMPLEX, 6
    # OpenCV's font knows ASCII only.
    caption = caption.encode("ascii", "replace").decode()
    (full, height), below = cv2.getTextSize(caption, font, 1.0, 1)
    scale = min(TEXT_SIZES[0], width / 800, (width - 2 * margin) / max(full, 1))
    scale = max(scale, min(TEXT_SIZES[1], (width - 2 * margin) / max(full, 1)))
    if not caption or scale < TEXT_SIZES[1]:
        return None
    tall = round((height + below) * scale) + 2 * margin
    strip = np.full((tall, width, 3), 255, np.uint8)
    at = (margin, margin + round(height * scale))
    return cv2.putText(strip, caption, at, font, scale, (0, 0, 0), 1, cv2.LINE_AA)
