"""Draw augmentation.png: a synthetic lesion through every recipe, with the outline of its mask.

python docs/images/augmentation.py
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tfseg.quiet import import_tensorflow

import_tensorflow()

from tfseg.data.augment import RECIPES  # noqa: E402
from tfseg.data.batches import CaseArrays, make_batches  # noqa: E402
from tfseg.data.cases import MaskClasses  # noqa: E402
from tfseg.data.phantom import PhantomConfig, draw_phantoms  # noqa: E402
from tfseg.evaluation.canvas import new_figure, write_png  # noqa: E402

COLUMNS, SIDE = 6, 112
ROWS = {
    **RECIPES,
    "colours of 0.3": replace(RECIPES["none"], brightness=0.3, contrast=0.3, saturation=0.3),
    "background swap": replace(RECIPES["none"], background_swap=1.0),
}


def main() -> None:
    phantoms = list(draw_phantoms(PhantomConfig(images=COLUMNS, size=SIDE, seed=4, hairs=0.5, images_per_group=1.0)))
    arrays = CaseArrays(
        images=np.stack([phantom.image for phantom in phantoms]),
        masks=np.stack([phantom.mask for phantom in phantoms]),
        has_mask=np.ones(COLUMNS, bool),
        labels=np.zeros(COLUMNS, np.int32),
        ids=np.arange(COLUMNS).astype(str),
        mask_classes=MaskClasses(),
    )
    figure = new_figure(0.95 * COLUMNS, 1.0 * len(ROWS))
    for panels, (name, augmentation) in zip(figure.subplots(len(ROWS), COLUMNS), ROWS.items(), strict=True):
        # One case as often as there are columns, each time with draws of its own; a swap needs other images.
        positions = np.arange(COLUMNS) if augmentation.background_swap else np.zeros(COLUMNS, int)
        batches = make_batches(arrays, positions, COLUMNS, training=True, augmentation=augmentation)
        batch = next(iter(batches))
        panels[0].set_ylabel(name, fontsize=8)
        order = np.argsort(batch["id"].numpy().astype(int), kind="stable")
        for panel, case in zip(panels, order, strict=True):
            panel.imshow(batch["image"][case])
            panel.contour(batch["mask"][case, ..., 0], [0.5], colors="#00A651", linewidths=1.2)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
    write_png(figure, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
