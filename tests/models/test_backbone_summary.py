"""The table of backbones: multiply-adds against counts by hand and against published ones."""

import keras
import pytest
from keras import layers

from tfseg.models.backbones import BACKBONES, build_backbone
from tfseg.models.summary import BackboneSummary, markdown, multiply_adds


def test_multiply_adds_by_hand():
    image = keras.Input((8, 6, 3))
    outputs = layers.Conv2D(4, 3, padding="same")(image)  # 8 · 6 pixels · 9 · 3 inputs · 4 outputs
    outputs = layers.DepthwiseConv2D(3, 2, padding="same")(outputs)  # 4 · 3 pixels · 9 · 4
    outputs = layers.Conv2D(8, 3, groups=2)(outputs)  # 2 · 1 pixels · 9 · 2 inputs · 8 outputs
    tokens = layers.Reshape((2, 8))(outputs)
    # Query, key, value and output are 2 tokens · 8 · 8 each; scores and their sum 2 · 2 pairs · 8 each.
    tokens = layers.MultiHeadAttention(2, 4)(tokens, tokens)
    outputs = layers.Dense(5)(tokens)  # 2 tokens · 8 · 5
    expected = 48 * 108 + 12 * 36 + 2 * 144 + 4 * 128 + 2 * 32 + 80
    assert multiply_adds(keras.Model(image, outputs)) == expected


def test_multiply_adds_of_a_published_network():
    """41 million with its top, which has one."""
    assert multiply_adds(build_backbone("shufflenet_v2_x0_5", (224, 224, 3))) / 1e6 == pytest.approx(40, abs=1)


def test_markdown():
    row = BackboneSummary("some_net", 1_234_567, 2_345_000_000, (7, 8, 512), (4, 32), "from 32", "Keras")
    assert markdown([row]).splitlines()[-1] == (
        "| `some_net` | 1.23 M | 2.35 G | 7 × 8 × 512 | 4, 32 | from 32 | Keras |"
    )


def test_the_page_has_every_backbone(request):
    page = (request.config.rootpath / "docs" / "backbones.md").read_text(encoding="utf-8")
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == list(BACKBONES)
