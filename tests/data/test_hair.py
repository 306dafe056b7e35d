"""The classical hair removal, and the hairs that are drawn to test it."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from tfseg.data.hair import draw_hair, remove_hair, scaled
from tfseg.data.phantom import PhantomConfig, draw_phantom

SKIN = np.full((224, 224, 3), (220, 180, 160), np.uint8)


def test_lengths_scale_with_the_mean_side():
    assert [scaled(9, 224, 224), scaled(9, 448, 448), scaled(9, 400, 496), scaled(9, 32, 32)] == [9, 19, 19, 3]
    assert [scaled(10, 224, 224), scaled(11, 224, 224), scaled(12.9, 224, 224)] == [11, 11, 13]
    assert scaled(1, 64, 64, least=1) == 1


class TestDrawHair:
    def test_only_the_mask_changes_and_only_towards_dark(self):
        clean = draw_phantom(PhantomConfig(size=160, hairs=0.0), 3).image
        before = clean.copy()
        image, mask = draw_hair(clean, np.random.default_rng(0), count=6)
        np.testing.assert_array_equal(clean, before)
        assert image.dtype == np.uint8 and mask.dtype == bool and mask.shape == (160, 160)
        np.testing.assert_array_equal(image[~mask], clean[~mask])
        assert (image <= clean).all() and 0.01 < mask.mean() < 0.3
        assert (image[mask] < clean[mask]).any(-1).mean() > 0.9

    def test_seeds(self):
        first, again, other = (draw_hair(SKIN, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_count_and_opacity(self):
        image, mask = draw_hair(SKIN, np.random.default_rng(0), count=0)
        assert not mask.any() and (image == SKIN).all()
        areas = [draw_hair(SKIN, np.random.default_rng(0), count=count)[1].sum() for count in (2, 10, 40)]
        assert areas[0] < areas[1] < areas[2]
        faint = draw_hair(SKIN, np.random.default_rng(0), count=1, opacity=(0.1, 0.1))[0]
        assert faint.min() >= 0.9 * SKIN.min() - 1

    @pytest.mark.parametrize("side", [112, 224, 448])
    def test_widths_are_one_to_four_pixels_at_side_224(self, side):
        image = np.full((side, side, 3), 200, np.uint8)
        widths = []
        for seed in range(40):
            drawn, mask = draw_hair(image, np.random.default_rng(seed), count=1)
            # The area of a stroke divided by its length, which is half of its outline.
            dark = (200.0 - drawn.min(-1).astype(float)) / max(1.0, 200.0 - drawn.min())
            outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            length = sum(cv2.arcLength(one, True) for one in outline) / 2.0
            if length > side / 4:
                widths.append(dark.sum() / length * 224 / side)
        assert min(widths) < 2.0 and max(widths) > 2.8 and min(widths) > 0.6 and max(widths) < 4.6

    def test_an_image_that_is_not_square(self):
        image, mask = draw_hair(np.full((60, 140, 3), 200, np.uint8), np.random.default_rng(0), count=30)
        assert image.shape == (60, 140, 3) and mask[:, :20].any() and mask[:, -20:].any()


class TestRemoveHair:
    def test_one_hair_on_even_skin(self):
        image = SKIN.copy()
        cv2.line(image, (20, 40), (200, 150), (30, 20, 15), 3)
        before = image.copy()
        clean, mask = remove_hair(image)
        np.testing.assert_array_equal(image, before)
        assert mask[(image != SKIN).any(-1)].all() and mask.mean() < 0.05
        assert clean.dtype == np.uint8 and np.abs(clean.astype(int) - SKIN).max() <= 3

    @pytest.mark.parametrize("radius", [1, 2, 5])
    def test_dots_stay(self, radius):
        image = cv2.circle(SKIN.copy(), (112, 112), radius, (30, 20, 15), -1)
        clean, mask = remove_hair(image)
        assert not mask.any() and (clean == image).all()
        assert not radius < 4 or remove_hair(image, shortest=0)[1].any()

    def test_each_parameter(self):
        image = SKIN.copy()
        cv2.line(image, (20, 40), (200, 40), (200, 160, 140), 3)
        cv2.line(image, (20, 120), (200, 120), (30, 20, 15), 13)
        assert remove_hair(image)[1][40].any() and not remove_hair(image, threshold=25)[1].any()
        assert not remove_hair(image)[1][120].any() and remove_hair(image, kernel=31.0)[1][120].any()
        assert not remove_hair(image, shortest=190.0)[1].any()

    @pytest.mark.parametrize("side", [224, 448, 672])
    def test_drawn_hairs_at_every_side(self, side):
        clean = draw_phantom(PhantomConfig(size=side, hairs=0.0, vignettes=0.0), 1).image
        image, hairs = draw_hair(clean, np.random.default_rng(2))
        removed, mask = remove_hair(image)
        assert mask[hairs].mean() > 0.9 and mask[~hairs].mean() < 0.12
        error = [np.abs(values.astype(float) - clean)[hairs].mean() for values in (image, removed)]
        assert error[1] < 0.15 * error[0]


@pytest.mark.parametrize("image", [SKIN / 255.0, SKIN[..., 0], SKIN[..., :2]], ids=["float", "grey", "two channels"])
def test_images_that_do_not_fit(image):
    for work in (remove_hair, lambda values: draw_hair(values, np.random.default_rng(0))):
        with pytest.raises(ValueError, match=r"`image` must be uint8 \(H, W, 3\)"):
            work(image)


def test_without_tensorflow():
    code = "import sys, tfseg.data.hair; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
