"""Pictures of images with what was found in them: outlines of lesions, saliency maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfseg.evaluation.canvas import new_figure, wrapped, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUE_COLOUR = "#00E08A"
PREDICTED_COLOUR = "#FF4FD8"
LESION_COLOUR = "#5CFFCF"
# Of a mask's classes, without the background.
CLASS_COLOURS = ("#00E08A", "#FFD23F", "#FF4FD8", "#4FC3FF")
DASHES = (0, (3.5, 1.2))


def segmentation_overlays(
    images: np.ndarray,
    true_masks: np.ndarray | None,
    predicted: np.ndarray,
    path: str | Path,
    titles: Sequence[str] | None = None,
    threshold: float = 0.5,
) -> Path:
    """Images with the outline of the true lesion (green, solid) and of the predicted one (magenta, dashed).

    Args:
        images: uint8 (N, H, W, 3).
        true_masks: bool (N, H, W), or None where there are none.
        predicted: lesion probability (N, H, W).
        path: PNG to write.
        titles: N lines; the IoU stands below each where there is a true mask.
        threshold: probability from which a pixel is lesion.

    Raises:
        ValueError: when the shapes do not fit.
    """
    from matplotlib.lines import Line2D

    from tfseg.evaluation.segmentation import mask_scores

    images = _images(images)
    predicted = _maps(predicted, images, "predicted")
    true = None if true_masks is None else _maps(true_masks, images, "true_masks").astype(bool)
    columns = min(4, len(images))
    rows = math.ceil(len(images) / columns)
    panel_height = 2.5 * images.shape[1] / images.shape[2]
    figure = new_figure(max(3.6, 2.5 * columns), rows * (panel_height + 0.5) + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False)
    for index, panel in enumerate(panels.flat):
        if index >= len(images):
            panel.set_visible(False)
            continue
        found = predicted[index] >= threshold
        _show(panel, images[index])
        lines = [wrapped(str(titles[index]), 30)] if titles is not None else []
        if true is not None:
            _outline(panel, true[index], TRUE_COLOUR)
            lines.append(f"IoU {mask_scores(true[index], found)['iou']:.3f}")
        _outline(panel, found, PREDICTED_COLOUR, style=DASHES)
        panel.set_title("\n".join(lines), fontsize=9)
    handles = [Line2D([], [], color="#E030B8", linewidth=2, linestyle=DASHES, label="predicted")]
    if true is not None:
        handles.insert(0, Line2D([], [], color="#00A868", linewidth=2, label="true"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return write_png(figure, path)


def class_overlays(
    images: np.ndarray,
    masks: Mapping[str, np.ndarray],
    names: Sequence[str],
    path: str | Path,
    titles: Sequence[str] | None = None,
) -> Path:
    """One column per image and one row per kind of mask, with the outlines of the mask's classes in their colours.

    Args:
        images: uint8 (N, H, W, 3).
        masks: kind, such as ``"true"``, → class indices (N, H, W); other values, such as 255, are in no class.
        names: of the classes, the background first, which has no outline.
        path: PNG to write.
        titles: N texts, above the columns.

    Raises:
        ValueError: when the shapes do not fit.
    """
    from matplotlib.lines import Line2D

    images = _images(images)
    masks = {kind: _maps(values, images, f"masks[{kind!r}]") for kind, values in masks.items()}
    height = 2.2 * images.shape[1] / images.shape[2]
    figure = new_figure(2.2 * len(images) + 0.4, height * len(masks) + 0.9)
    panels = figure.subplots(len(masks), len(images), squeeze=False)
    for row, (kind, values) in zip(panels, masks.items(), strict=True):
        row[0].set_ylabel(kind, fontsize=10)
        for panel, image, mask in zip(row, images, values, strict=True):
            _show(panel, image)
            for value in range(1, len(names)):
                _outline(panel, mask == value, CLASS_COLOURS[(value - 1) % len(CLASS_COLOURS)])
    for panel, title in zip(panels[0], titles or (), strict=False):
        panel.set_title("\n".join(wrapped(line, 28) for line in title.split("\n")), fontsize=9)
    handles = [
        Line2D([], [], color=CLASS_COLOURS[at % len(CLASS_COLOURS)], linewidth=2, label=wrapped(name, 34))
        for at, name in enumerate(names[1:])
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return write_png(figure, path)


def saliency_overlays(
    images: np.ndarray,
    saliency: Mapping[str, np.ndarray],
    masks: np.ndarray | None,
    path: str | Path,
    titles: Sequence[str] | None = None,
) -> Path:
    """One row per image: the image, then one saliency map per approach laid over it, lesion outlined.

    Args:
        images: uint8 (N, H, W, 3).
        saliency: approach → (N, H, W) in [0, 1].
        masks: bool (N, H, W), or None.
        path: PNG to write.
        titles: N lines, beside the rows.

    Raises:
        ValueError: when the shapes do not fit.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    images = _images(images)
    maps = {name: _maps(values, images, f"saliency[{name!r}]") for name, values in saliency.items()}
    masks = None if masks is None else _maps(masks, images, "masks").astype(bool)
    colour_map = colormaps["inferno"]
    side = 1.9
    figure = new_figure(
        side * (1 + len(maps)) + 1.3, (side * images.shape[1] / images.shape[2] + 0.06) * len(images) + 0.5
    )
    panels = figure.subplots(len(images), 1 + len(maps), squeeze=False)
    for row, image in enumerate(images):
        _show(panels[row, 0], image)
        if titles is not None:
            panels[row, 0].set_ylabel(wrapped(str(titles[row]), 20), fontsize=9)
        for panel, values in zip(panels[row, 1:], maps.values(), strict=True):
            strength = np.clip(values[row], 0, 1)[..., None]
            grey = image.mean(axis=-1, keepdims=True) / 255
            # Weak saliency lets the image through; grey below, so that hue says saliency only.
            weight = 0.25 + 0.6 * strength
            _show(panel, (1 - weight) * grey + weight * colour_map(strength[..., 0])[..., :3])
        for panel in panels[row]:
            if masks is not None:
                _outline(panel, masks[row], LESION_COLOUR)
    for panel, name in zip(panels[0], ["image", *maps], strict=True):
        panel.set_title(wrapped(name, 20), fontsize=9.5)
    bar = figure.colorbar(
        ScalarMappable(cmap=colour_map),
        ax=panels,
        fraction=0.03,
        pad=0.02,
        aspect=12 * len(images),
        shrink=0.9,
    )
    bar.outline.set_visible(False)
    bar.set_label("saliency" + (" (line: lesion)" if masks is not None else ""))
    return write_png(figure, path)


def _show(panel: Axes, image: np.ndarray) -> None:
    panel.imshow(image, interpolation="nearest", aspect="equal")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def _outline(panel: Axes, mask: np.ndarray, colour: str, style: str | tuple = "-") -> None:
    if not mask.any():
        return
    # A rim of background closes outlines at the image's edge.
    rimmed = np.pad(mask.astype(float), 1)
    ys, xs = (np.arange(-1, length + 1) for length in mask.shape)
    panel.contour(xs, ys, rimmed, [0.5], colors="black", linewidths=2.4, alpha=0.35)
    panel.contour(xs, ys, rimmed, [0.5], colors=colour, linewidths=1.6, linestyles=[style])
    panel.set_xlim(-0.5, mask.shape[1] - 0.5)
    panel.set_ylim(mask.shape[0] - 0.5, -0.5)


def _images(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"`images` must be uint8 (N, H, W, 3), received {images.dtype} {images.shape}")
    return images


def _maps(values: np.ndarray, images: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != images.shape[:3]:
        raise ValueError(f"`{name}` must be (N, H, W) as the images {images.shape[:3]}, received {values.shape}")
    return values
