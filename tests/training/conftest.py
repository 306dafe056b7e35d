"""Cases without files."""

import numpy as np
import pytest

from tfseg.data.batches import CaseArrays
from tfseg.data.cases import MaskClasses


@pytest.fixture(scope="session")
def tiny_arrays():
    """``tiny_arrays(count, side)``: two classes in turn, a bright or a dim square somewhere on noise."""

    def make(count=12, side=24, seed=0):
        generator = np.random.default_rng(seed)
        images = generator.integers(60, 120, (count, side, side, 3)).astype(np.uint8)
        masks = np.zeros((count, side, side), np.uint8)
        labels = np.arange(count, dtype=np.int32) % 2
        for case in range(count):
            row, column = generator.integers(2, side // 2, 2)
            place = (case, slice(row, row + side // 3), slice(column, column + side // 3))
            images[place] = (230, 190, 180) if labels[case] else (20, 30, 10)
            masks[place] = 1
        ids = np.array([str(number) for number in range(count)])
        return CaseArrays(images, masks, np.ones(count, bool), labels, ids, MaskClasses())

    return make
