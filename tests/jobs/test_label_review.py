"""Confidence by hand, what makes a mask odd, and the order in which masks are looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfseg.data.cases import Cases, MaskClasses
from tfseg.evaluation.postprocess import class_mask
from tfseg.jobs.label.review import (
    MaskFacts,
    Usual,
    class_overlaps,
    mask_confidence,
    mask_facts,
    rank_correlation,
    reasons,
    review_order,
    scores_by_class,
    usual,
)

CELL = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), 255)
ONE = {"cytoplasm": 1, "nucleus": 1, "*": 1}
PLAIN = MaskFacts(share=0.3, components=ONE, on_frame=False)
KNOWN = Usual(0.8, ONE, 0.0, (float(np.log(0.3 / 0.7)), 0.25), (0.2, 0.4), ("cytoplasm", "nucleus"), True)


def confidence(probabilities: np.ndarray) -> float:
    """Of the mask without post-processing."""
    classes = CELL if probabilities.shape[-1] == 3 else MaskClasses()
    return mask_confidence(probabilities, class_mask(probabilities, classes))


def cases(classes: MaskClasses = CELL) -> Cases:
    return Cases(pd.DataFrame({"label": ["a"]}), Path("."), mask_classes=classes)


class TestConfidence:
    def test_one_channel_by_hand(self):
        # b = (1, 1, 0, 0): 2 · (0.9 + 0.5) / ((0.9 + 0.5 + 0.4 + 0.2) + 2) = 2.8 / 4
        assert confidence(np.array([[0.9, 0.5], [0.4, 0.2]])[..., None]) == pytest.approx(0.7)

    def test_classes_by_hand(self):
        pixels = [[0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.0, 0.3, 0.7], [1.0, 0.0, 0.0]]
        # cytoplasm: 2 · 0.8 / (1.4 + 1); nucleus: 2 · 0.7 / (0.9 + 1)
        expected = (1.6 / 2.4 + 1.4 / 1.9) / 2
        assert confidence(np.array(pixels).reshape(2, 2, 3)) == pytest.approx(expected)

    def test_a_class_that_nowhere_wins_does_not_count(self):
        pixels = [[0.1, 0.8, 0.1], [0.6, 0.2, 0.2]]
        assert confidence(np.array(pixels).reshape(1, 2, 3)) == pytest.approx(1.6 / 2.0)

    def test_certain_is_one_and_empty_tells_how_near_a_lesion_was(self):
        certain = np.zeros((4, 4, 1))
        assert confidence(certain) == 1.0
        certain[1:3, 1:3] = 1.0
        assert confidence(certain) == 1.0
        assert confidence(np.full((2, 2, 1), 0.4)) == pytest.approx(0.6)
        # The two classes' 0.25 and 0.2 together are the lesion's probability.
        assert confidence(np.array([[[0.55, 0.25, 0.2]]])) == pytest.approx(0.55)

    def test_it_is_the_dice_that_drawn_masks_have(self):
        rng = np.random.default_rng(0)
        p = np.clip(rng.normal(0.5, 0.3, (64, 64)), 0, 1)
        b = p >= 0.5
        drawn = rng.random((200, 64, 64)) < p
        dice = 2 * (drawn & b).sum((1, 2)) / (drawn.sum((1, 2)) + b.sum())
        assert confidence(p[..., None]) == pytest.approx(dice.mean(), abs=2e-3)

    def test_of_a_mask_that_was_cleaned(self):
        # The fourth pixel is taken away, and its probability still counts: 2 · 1.5 / (2.3 + 2) not 2 · 2.2 / 5.3.
        probabilities = np.array([[[0.8], [0.7], [0.1], [0.7]]])
        assert confidence(probabilities) == pytest.approx(4.4 / 5.3)
        cleaned = class_mask(probabilities, MaskClasses(), ("largest_component",))
        assert mask_confidence(probabilities, cleaned) == pytest.approx(3.0 / 4.3)


def test_facts_of_a_mask():
    mask = np.zeros((40, 40), np.uint8)
    mask[5:25, 5:25], mask[10:12, 10:12], mask[30:36, 30:36] = 1, 2, 1
    mask[39, 39] = 1  # A speck, and on the frame.
    mask[0, :20] = 255
    facts = mask_facts(mask, cases())
    assert facts == MaskFacts(437 / 1580, {"cytoplasm": 2, "nucleus": 1, "*": 2}, True)
    assert facts.classes == ("cytoplasm", "nucleus")
    assert MaskFacts.from_json(facts.to_json()) == facts
    assert mask_facts(np.full((4, 4), 255, np.uint8), cases()) == MaskFacts(0.0, {}, False)


def test_only_lesion_classes_make_the_lesion():
    mask = np.zeros((10, 10), np.uint8)
    mask[:5], mask[6:8, 6:8] = 1, 2
    facts = mask_facts(mask, cases(MaskClasses(("background", "hair", "lesion"), ("lesion",))))
    assert facts == MaskFacts(0.04, {"hair": 1, "lesion": 1, "*": 1}, False)


class TestUsual:
    def test_by_hand(self):
        given = [
            MaskFacts(0.5, {"cytoplasm": 1, "nucleus": 2, "*": 1}, True),
            MaskFacts(0.2, {"nucleus": 1, "*": 3}, False),
            MaskFacts(0.0, {"nucleus": 1}, False),
        ]
        known = usual(given, np.arange(0.0, 1.01, 0.1))
        # logit 0.5 = 0, logit 0.2 = −1.3863; the empty mask has no size.
        assert known.size == pytest.approx((-0.693147, 0.980258), abs=1e-5)
        assert known.confidence == pytest.approx(0.1) and known.components == {"cytoplasm": 1, "nucleus": 2, "*": 3}
        assert known.on_frame == pytest.approx(1 / 3)
        assert known.shares == (0.0, 0.5) and known.classes == ("nucleus",) and known.several

    def test_equal_masks_leave_some_room(self):
        assert usual([PLAIN] * 4, [0.9]).size[1] == 0.25


class TestReasons:
    def test_a_mask_like_the_given_ones_has_none(self):
        assert reasons(PLAIN, 0.81, KNOWN) == []

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            ({"components": {**ONE, "*": 2}}, "several parts"),
            ({"components": {**ONE, "nucleus": 3}}, "several parts of nucleus"),
            ({"on_frame": True}, "touches the frame"),
            ({"share": 0.1}, "unusual size"),
            ({"share": 0.9}, "unusual size"),
            ({"components": {"cytoplasm": 1, "*": 1}}, "no nucleus"),
            ({"components": {}, "share": 0.0}, "empty mask"),
        ],
    )
    def test_each_by_itself(self, change, kind):
        (found,) = reasons(MaskFacts(**{**PLAIN.to_json(), **change}), 0.9, KNOWN)
        assert found.partition(" (")[0] == kind

    def test_several_together(self):
        odd = MaskFacts(0.3, {**ONE, "*": 2}, True)
        assert [found.partition(" (")[0] for found in reasons(odd, 0.79, KNOWN)] == [
            *("low confidence", "several parts", "touches the frame")
        ]

    def test_what_the_given_masks_do_too_is_nothing_odd(self):
        odd = MaskFacts(0.3, {"cytoplasm": 2, "*": 2}, True)
        assert reasons(odd, 0.9, usual([odd, odd, PLAIN] * 4, [0.5])) == []

    def test_what_one_in_twenty_given_masks_does_is(self):
        odd = MaskFacts(0.3, {**ONE, "nucleus": 2}, True)
        found = reasons(odd, 0.9, usual([odd] + [PLAIN] * 19, [0.5]))
        assert [reason.partition(" (")[0] for reason in found] == ["several parts of nucleus", "touches the frame"]

    def test_one_class_is_the_lesion_itself(self):
        known = usual([MaskFacts(0.3, {"lesion": 1, "*": 1}, False)] * 4, [0.5])
        (found,) = reasons(MaskFacts(0.3, {"lesion": 2, "*": 2}, False), 0.9, known)
        assert found == "several parts (2; nine of ten given masks have at most 1)"


def test_order():
    found = [[], ["empty mask"], ["several parts"], [], ["empty mask"]]
    assert review_order(found, [0.1, 0.9, 0.4, 0.05, 0.4], list("abxdc")) == [4, 2, 1, 3, 0]


def test_rank_correlation():
    confidences, overlaps = np.arange(1.0, 0.0, -0.1), np.arange(1.0, 0.0, -0.1) ** 2
    overlaps[[1, 2]] = overlaps[[2, 1]]
    # One swap of neighbours: 1 − 6 · 2 / (10 · 99)
    assert rank_correlation(confidences, overlaps) == pytest.approx(0.987879, abs=1e-6)
    assert rank_correlation(confidences, -overlaps) == pytest.approx(-0.987879, abs=1e-6)
    assert rank_correlation(np.arange(9.0), np.arange(9.0)) is None
    assert rank_correlation([0.5] * 10, np.arange(10.0)) is None


def test_class_overlaps_by_hand():
    names = ("background", "cytoplasm", "nucleus")
    counts = {
        "a": [(9, 0, 0), (2, 1, 1), (3, 0, 1)],
        "b": [(9, 0, 0), (0, 0, 0), (1, 1, 0)],
        "c": [(9, 0, 0), (0, 0, 0), (0, 0, 0)],
    }
    rows = []
    for case, triples in counts.items():
        for name, (both, more, missed) in zip(names, triples, strict=True):
            iou = both / (both + more + missed) if both + more + missed else 1.0
            found = {"true_positive": both, "false_positive": more, "false_negative": missed, "true_negative": 0}
            rows.append({"id": case, "class": name, "iou": iou, **found})
    cases = Cases(
        pd.DataFrame({"id": list("abc"), "label": list("xyx")}), Path("."), mask_classes=MaskClasses(names, names[1:])
    )
    assert class_overlaps(pd.DataFrame(rows), cases) == pytest.approx([(0.5 + 0.75) / 2, 0.5, 1.0])
    found = scores_by_class(pd.DataFrame(rows).assign(label="x"))["nucleus"]
    # 3 / 4, 1 / 2 and an empty one that is right; together 4 / 6.
    assert found == {"iou": pytest.approx(0.75), "iou_pooled": pytest.approx(2 / 3), "masks": 2}
