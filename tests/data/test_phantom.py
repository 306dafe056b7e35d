import json
import time
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tfseg.data.phantom import (
    SYMMETRY_THRESHOLD,
    PhantomConfig,
    draw_phantom,
    draw_phantoms,
    write_phantoms,
)

SMALL = PhantomConfig(images=24, size=64)
EDGES = (slice(0, 4), slice(-4, None))


@pytest.fixture(scope="module")
def many():
    return list(draw_phantoms(PhantomConfig(images=600, size=64, seed=11)))


def background_features(phantom):
    size = len(phantom.mask)
    side = -(-size // 20)
    square = np.ones((side, side), np.uint8)
    outside = cv2.dilate(cv2.dilate(phantom.mask, square), square) == 0
    pixels = phantom.image[outside].astype(np.float64)
    corners = [phantom.image[rows, columns].mean((0, 1)) for rows in EDGES for columns in EDGES]
    hair = (phantom.image != phantom.clean)[outside].mean()
    percentiles = np.percentile(pixels, [1, 5, 25, 50, 75, 95, 99], axis=0)
    return np.concatenate([pixels.mean(0), pixels.std(0), percentiles.ravel(), *corners, [hair]])


def class_accuracy(features, phantoms):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return cross_val_score(model, np.array(features), [p.label for p in phantoms], cv=5).mean()


def test_same_seed_and_index_give_the_same_phantom_in_any_order():
    forward = [draw_phantom(SMALL, index) for index in range(6)]
    backward = [draw_phantom(SMALL, index) for index in reversed(range(6))][::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
        assert (one.label, one.symmetry, one.group) == (other.label, other.symmetry, other.group)
    assert not np.array_equal(forward[0].image, draw_phantom(replace(SMALL, seed=1), 0).image)


@pytest.mark.parametrize("size", [32, 64, 96, 131])
def test_any_size(size):
    config = replace(SMALL, size=size, hairs=1.0, vignettes=1.0, specular=1.0, planted_cue=1.0)
    for index in range(6):
        phantom = draw_phantom(config, index)
        assert phantom.image.shape == phantom.clean.shape == (size, size, 3)
        assert phantom.image.dtype == phantom.clean.dtype == phantom.mask.dtype == np.uint8
        assert phantom.mask.shape == (size, size)
        assert set(np.unique(phantom.mask)) == {0, 1}


def test_the_lesion_is_the_same_at_every_size():
    for index in range(8):
        small, large = (draw_phantom(replace(SMALL, size=size), index) for size in (64, 128))
        assert (small.label, small.symmetry, small.group) == (large.label, large.symmetry, large.group)
        assert small.mask.mean() == pytest.approx(large.mask.mean(), rel=0.08)


def test_lesions_take_5_to_45_percent_and_seldom_cross_the_edge(many):
    areas = np.array([phantom.mask.mean() for phantom in many])
    assert 0.05 < areas.min() < 0.1
    assert 0.35 < areas.max() < 0.47
    edges = np.array([np.r_[p.mask[0], p.mask[-1], p.mask[:, 0], p.mask[:, -1]].any() for p in many])
    assert 0.0 < edges.mean() < 0.15


def test_labels_are_balanced_for_any_number_of_images():
    for images in (7, 30, 31):
        config = PhantomConfig(images=images, size=32, classes=("a", "b", "c", "d"))
        counts = Counter(phantom.label for phantom in draw_phantoms(config))
        assert set(counts) == set("abcd")
        assert max(counts.values()) - min(counts.values()) <= 1


def test_groups_mix_classes_and_share_the_skin(many):
    groups = pd.DataFrame({"group": [p.group for p in many], "label": [p.label for p in many]})
    skin = [np.median(p.image[p.mask == 0], axis=0) for p in many]
    groups[["red", "green", "blue"]] = skin
    sizes = groups.groupby("group").size()
    assert len(sizes) == 300
    assert sizes.max() > 2
    repeated = groups[groups.groupby("group")["label"].transform("size") > 1]
    assert repeated.groupby("group")["label"].nunique().max() > 1
    # Chance that two draws from three classes agree is 1/3: patients say nothing about the class
    pairs = [
        first == second
        for _, labels in repeated.groupby("group")["label"]
        for i, first in enumerate(labels)
        for second in labels.iloc[i + 1 :]
    ]
    assert np.mean(pairs) == pytest.approx(1 / 3, abs=0.1)
    within = repeated.groupby("group")["blue"].std().median()
    assert within < 0.5 * groups["blue"].std()


def measured_mirror_overlap(mask):
    """The definition on pixels: rotate the principal axis onto the horizontal, then flip."""
    moments = cv2.moments(mask, binaryImage=True)
    centre = (moments["m10"] / moments["m00"], moments["m01"] / moments["m00"])
    angle = 0.5 * np.degrees(np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]))
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    middle = (len(mask) - 1) / 2
    turn[:, 2] += middle - np.array(centre)
    upright = cv2.warpAffine(mask * 255, turn, mask.shape, flags=cv2.INTER_LINEAR) > 127
    return min((upright & f).sum() / (upright | f).sum() for f in (upright[::-1], upright[:, ::-1]))


def test_symmetry_is_what_the_mask_shows():
    phantoms = list(draw_phantoms(PhantomConfig(images=150, size=160, seed=4)))
    agreements = []
    for phantom in phantoms:
        mask = np.pad(phantom.mask, 60)
        edge = np.r_[phantom.mask[0], phantom.mask[-1], phantom.mask[:, 0], phantom.mask[:, -1]]
        overlap = measured_mirror_overlap(mask)
        if edge.any() or abs(overlap - SYMMETRY_THRESHOLD) < 0.01:
            continue
        agreements.append((overlap >= SYMMETRY_THRESHOLD) == (phantom.symmetry == "symmetric"))
    assert len(agreements) > 100
    assert np.mean(agreements) > 0.95


def test_symmetry_goes_with_the_class_but_is_not_the_class(many):
    table = pd.crosstab([p.label for p in many], [p.symmetry for p in many], normalize="index")["symmetric"]
    assert table["benign"] > table["atypical"] + 0.1 > table["malignant"] + 0.2
    assert table["malignant"] > 0.02 and table["benign"] < 0.999


def test_hairs_change_pixels_along_hairs_only():
    changed = []
    for index in range(12):
        bald = draw_phantom(replace(SMALL, size=128, hairs=0.0), index)
        hairy = draw_phantom(replace(SMALL, size=128, hairs=1.0), index)
        np.testing.assert_array_equal(bald.image, bald.clean)
        np.testing.assert_array_equal(hairy.clean, bald.image)
        hair = (hairy.image != hairy.clean).any(axis=2)
        assert (hairy.image <= hairy.clean).all()
        # A hair is thin: nothing of it survives an opening by more than its width
        assert not cv2.erode(hair.astype(np.uint8), np.ones((13, 13), np.uint8)).any()
        changed.append(hair.mean())
    assert 0.005 < np.mean(changed) < 0.25


def test_shares_of_artefacts_are_kept(many):
    hairy = np.mean([(p.image != p.clean).any() for p in many])
    assert hairy == pytest.approx(PhantomConfig().hairs, abs=0.06)


def test_background_place_and_area_do_not_tell_the_class(many):
    assert class_accuracy([background_features(p) for p in many], many) < 0.42

    def geometry(phantom):
        rows, columns = np.nonzero(phantom.mask)
        y, x = rows.mean() - 31.5, columns.mean() - 31.5
        return [phantom.mask.mean(), y, x, abs(y), abs(x)]

    assert class_accuracy([geometry(p) for p in many], many) < 0.42
    assert class_accuracy([p.image[p.mask > 0].mean(0) for p in many], many) < 0.42


def test_inside_the_lesion_there_is_something_to_learn(many):
    assert class_accuracy([p.image[p.mask > 0].std(0) for p in many], many) > 0.45


@pytest.mark.parametrize(("cue", "low", "high"), [("class", 0.9, 1.0), ("random", 0.0, 0.45)])
def test_planted_cue(cue, low, high):
    config = PhantomConfig(images=300, size=64, planted_cue=1.0, cue=cue, seed=11)
    phantoms = list(draw_phantoms(config))
    assert low <= class_accuracy([background_features(p) for p in phantoms], phantoms) <= high


def test_planted_cue_leaves_everything_else_as_it_was():
    for index in range(24):
        plain = draw_phantom(SMALL, index)
        planted = draw_phantom(replace(SMALL, planted_cue=1.0), index)
        changed = (plain.image != planted.image).any(axis=2)
        assert changed.any()
        assert not changed[cv2.dilate(plain.mask, np.ones((5, 5), np.uint8)) > 0].any()
        np.testing.assert_array_equal(plain.mask, planted.mask)


def test_throughput():
    # 200 a second is what one undisturbed core must do; half of that leaves room for a busy machine
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        config = PhantomConfig(images=40)
        draw_phantom(config, 0)
        seconds = []
        for _ in range(3):
            start = time.process_time()
            for index in range(config.images):
                draw_phantom(config, index)
            seconds.append(time.process_time() - start)
    finally:
        cv2.setNumThreads(threads)
    assert config.images / min(seconds) >= 100


def test_write_phantoms_makes_the_plain_layout(tmp_path):
    config = PhantomConfig(images=5, size=48)
    steps = []
    target = tmp_path / "new" / "set"
    folder = write_phantoms(config, target, progress=lambda *step: steps.append(step))
    assert folder == target
    assert steps == [(i, 5) for i in range(1, 6)]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["set"]
    assert sorted(p.name for p in folder.iterdir()) == ["dataset.json", "images", "labels.csv", "masks"]
    described = json.loads((folder / "dataset.json").read_text())
    assert described == {"mask_classes": ["background", "lesion"], "lesion": ["lesion"]}
    table = pd.read_csv(folder / "labels.csv")
    assert list(table.columns) == ["image", "mask", "label", "group", "symmetry"]
    for row, phantom in zip(table.itertuples(), draw_phantoms(config), strict=True):
        image = cv2.cvtColor(cv2.imread(str(folder / row.image)), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(image, phantom.image)
        mask = cv2.imread(str(folder / row.mask), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, phantom.mask * 255)
        assert (row.label, row.group, row.symmetry) == (phantom.label, phantom.group, phantom.symmetry)


def test_write_phantoms_takes_an_empty_folder_and_refuses_a_full_one(tmp_path):
    config = PhantomConfig(images=2, size=32)
    target = tmp_path / "set"
    target.mkdir()
    write_phantoms(config, target)
    with pytest.raises(FileExistsError, match="folder"):
        write_phantoms(config, target)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(PhantomConfig(images=2, size=32), tmp_path / "set", progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", 0),
        ("images", 2.5),
        ("size", 31),
        ("seed", -1),
        ("classes", "ab"),
        ("classes", ("one",)),
        ("classes", ("one", "one")),
        ("classes", ("one", "")),
        ("hairs", 1.5),
        ("hairs", None),
        ("vignettes", -0.1),
        ("specular", "much"),
        ("difficulty", float("nan")),
        ("planted_cue", 2.0),
        ("cue", "colour"),
        ("images_per_group", 0.5),
        ("images_per_group", float("inf")),
    ],
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*Received"):
        PhantomConfig(**{name: value})


@pytest.mark.parametrize("index", [-1, 24])
def test_index_out_of_range(index):
    with pytest.raises(ValueError, match="`index`"):
        draw_phantom(SMALL, index)
