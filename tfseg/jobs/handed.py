"""What the earlier stages of a comparison hand to its classifiers: maps of every case."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from tfseg.approaches import APPROACHES
from tfseg.config import ComparisonConfig
from tfseg.data.batches import CaseArrays
from tfseg.data.splits import Split
from tfseg.jobs.grid import Cell
from tfseg.jobs.masks import exchanged_maps, frozen_maps, moved_maps, symmetry_maps, true_maps
from tfseg.jobs.symmetry import load_symmetry
from tfseg.layers.branches import CHANNELS

SEGMENTER_ROW = "segmenter"


def handed_maps(
    approach: str,
    config: ComparisonConfig,
    arrays: CaseArrays,
    cell: Cell,
    load: Callable[[Cell], keras.Model],
    memo: dict[tuple, np.ndarray],
    split: Split,
    positions: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What a classifier looks at beside the images.

    Args:
        approach: a name out of `tfseg.approaches.APPROACHES`.
        config: of the classifier, resolved.
        arrays: decoded cases.
        cell: the classifier's; the networks that make the maps are those that it needs.
        load: gives their inference graphs.
        memo: keeps maps of the cell's fold, which other classifiers look at too.
        split: of the cell's fold; maps are exchanged within its parts.
        positions: of which cases; the others' stay empty. None: all.

    Returns:
        By name, uint8: ``lesion`` (N, S, S), ``classes`` (N, h, w, 3), ``symmetry`` (N, S, S).
    """
    wanted, maps = APPROACHES[approach], {}
    for key in [key for key in memo if key[0] != cell.fold]:
        del memo[key]

    def once(need: Cell, size: int | None, make: Callable[[keras.Model], np.ndarray]) -> np.ndarray:
        key = (cell.fold, need.row, size)
        if key not in memo:
            memo[key] = make(load(need))
        return memo[key]

    if wanted.map_input:
        size = config.class_map_size if wanted.fusion else None
        if wanted.maps == "true":
            found = true_maps(arrays, size)
        elif wanted.maps == "zero":
            found = np.zeros((len(arrays), size, size, CHANNELS), np.uint8)
        else:
            (need,) = (need for need in cell.needs if need.row == SEGMENTER_ROW)
            found = once(need, size, lambda graph: frozen_maps(graph, arrays, size, positions))
        maps[wanted.map_input] = moved_maps(found, config.split_seed) if wanted.maps == "random" else found
    if wanted.symmetry == "zero":
        maps["symmetry"] = np.zeros(arrays.masks.shape, np.uint8)
    elif wanted.symmetry:
        needs = [need for need in cell.needs if need.row != SEGMENTER_ROW]
        if needs:
            maps["symmetry"] = once(needs[0], None, lambda graph: symmetry_maps(graph, arrays, positions))
        else:
            # One network is given for all folds.
            graph = load_symmetry(config.symmetry_file, arrays, config.resize)
            maps["symmetry"] = symmetry_maps(graph, arrays, positions)
        if wanted.symmetry == "shuffled":
            for part in split.parts.values():
                maps["symmetry"] = exchanged_maps(maps["symmetry"], part, config.split_seed)
    return maps
