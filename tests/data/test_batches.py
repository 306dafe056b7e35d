"""The contract of a batch, what is ignored, and the order of an endless training."""

import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.augment import RECIPES, Augmentation
from tfseg.data.balance import balance_positions
from tfseg.data.batches import CaseArrays, class_weights, lesion_of, load_arrays, make_batches, steps_per_epoch
from tfseg.data.cases import MaskClasses
from tfseg.data.sources import load_cases
from tfseg.errors import DataError

CELL = MaskClasses(("background", "cytoplasm", "nucleus"), ("cytoplasm", "nucleus"), 255)
FREE = RECIPES["free"]
SIDE = 8


def case_arrays(count=6, mask_classes=None, seed=0):
    """Random pictures; the first case has no mask, the second an empty one, the third ignored pixels."""
    mask_classes = mask_classes or MaskClasses()
    generator = np.random.default_rng(seed)
    masks = generator.integers(0, len(mask_classes.names), (count, SIDE, SIDE)).astype(np.uint8)
    masks[0], masks[1], masks[2, :3] = 255, 0, 255
    return CaseArrays(
        images=generator.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8),
        masks=masks,
        has_mask=np.arange(count) != 0,
        labels=np.arange(count, dtype=np.int32) % 3 - 1,
        ids=np.array([f"case{number}" for number in range(count)]),
        mask_classes=mask_classes,
    )


def whole(arrays, **options):
    """The first batch with all cases in it, as arrays."""
    batch = next(iter(make_batches(arrays, np.arange(len(arrays)), len(arrays), **options)))
    return {name: values.numpy() for name, values in batch.items()}


@pytest.mark.parametrize(("mask_classes", "channels"), [(MaskClasses(), 1), (CELL, 3)])
def test_the_contract(mask_classes, channels):
    arrays = case_arrays(mask_classes=mask_classes)
    batch = whole(arrays, maps={"lesion": np.full((6, SIDE, SIDE), 51, np.uint8)})
    kinds = {name: (values.dtype, values.shape[1:]) for name, values in batch.items() if name != "id"}
    assert kinds == {
        "image": (np.float32, (SIDE, SIDE, 3)),
        "mask": (np.float32, (SIDE, SIDE, channels)),
        "valid": (np.float32, (SIDE, SIDE, 1)),
        "has_mask": (np.bool_, ()),
        "label": (np.int32, ()),
        "lesion": (np.float32, (SIDE, SIDE, 1)),
    }
    np.testing.assert_allclose(batch["image"], arrays.images / 255.0, atol=1e-6)
    assert (batch["image"].min(), batch["image"].max()) == (0.0, 1.0)
    np.testing.assert_allclose(batch["lesion"], 0.2, rtol=1e-6)
    np.testing.assert_array_equal(batch["label"], arrays.labels)
    assert [name.decode() for name in batch["id"]] == list(arrays.ids)
    assert "lesion" not in whole(arrays)


def test_pixels_that_count_nowhere():
    for mask_classes in (MaskClasses(), CELL):
        arrays = case_arrays(mask_classes=mask_classes)
        batch = whole(arrays)
        np.testing.assert_array_equal(batch["valid"][..., 0], arrays.masks != 255)
        assert batch["mask"][np.broadcast_to(batch["valid"] == 0.0, batch["mask"].shape)].max() == 0.0
        lesion = lesion_of(batch["mask"], mask_classes).numpy()
        np.testing.assert_array_equal(lesion[..., 0] > 0, (arrays.masks > 0) & (arrays.masks < 255))
        np.testing.assert_array_equal(lesion[..., 0] > 0, arrays.lesions_at(np.arange(len(arrays))))


def test_only_the_named_classes_are_lesion():
    nucleus = MaskClasses(("background", "cytoplasm", "nucleus"), ("nucleus",), 255)
    arrays = case_arrays(mask_classes=nucleus)
    np.testing.assert_array_equal(lesion_of(whole(arrays)["mask"], nucleus)[..., 0] == 1.0, arrays.masks == 2)
    np.testing.assert_array_equal(arrays.lesions_at(np.arange(len(arrays))), arrays.masks == 2)


def test_classes_are_one_hot():
    arrays = case_arrays(mask_classes=CELL)
    mask = whole(arrays)["mask"]
    np.testing.assert_array_equal(mask[3:].argmax(-1), arrays.masks[3:])
    np.testing.assert_array_equal(mask[3:].sum(-1), 1.0)


def test_no_mask_is_not_an_empty_mask():
    batch = whole(case_arrays())
    np.testing.assert_array_equal(batch["has_mask"][:2], [False, True])
    np.testing.assert_array_equal(batch["mask"][:2], 0.0)
    np.testing.assert_array_equal(batch["valid"][0], 0.0)
    np.testing.assert_array_equal(batch["valid"][1], 1.0)


def numbers(dataset, count):
    return [[int(name[4:]) for name in batch["id"].numpy()] for batch in islice(dataset, count)]


def test_one_pass_in_order_with_a_smaller_last_batch():
    assert numbers(make_batches(case_arrays(), np.array([4, 1, 3]), 2), 9) == [[4, 1], [3]]


def test_an_epoch_holds_every_case_once():
    positions = np.array([0, 2, 3, 4, 5, 1])
    batches = numbers(make_batches(case_arrays(), positions, 2, training=True, seed=5), 9)
    epochs = [sum(batches[start : start + 3], []) for start in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4, 5]] * 3
    assert epochs[0] != epochs[1] != epochs[2], "every epoch has its own order"
    other = numbers(make_batches(case_arrays(), positions, 2, training=True, seed=6), 3)
    assert sum(other, []) != epochs[0], "the seed matters"


def test_the_last_batch_is_filled_up_from_the_start_of_the_order():
    batches = numbers(make_batches(case_arrays(), np.arange(5), 2, training=True), 6)
    assert steps_per_epoch(5, 2) == 3
    for epoch in (sum(batches[:3], []), sum(batches[3:], [])):
        assert sorted(epoch[:5]) == [0, 1, 2, 3, 4]
        assert epoch[5] == epoch[0]


def test_a_batch_is_never_larger_than_the_cases():
    assert steps_per_epoch(3, 16) == 1
    batches = numbers(make_batches(case_arrays(), np.arange(3), 16, training=True), 2)
    assert [sorted(batch) for batch in batches] == [[0, 1, 2]] * 2


def test_going_on_after_an_interruption_gives_the_same_batches():
    options = {"training": True, "augmentation": FREE, "seed": 3}
    arrays, positions = case_arrays(), np.array([5, 1, 2, 4])
    ongoing = list(islice(make_batches(arrays, positions, 2, **options), 8))
    resumed = list(islice(make_batches(arrays, positions, 2, first_batch=4, **options), 4))
    inside = list(islice(make_batches(arrays, positions, 2, first_batch=5, **options), 3))
    for left, right in zip(ongoing[5:], inside, strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])
    for left, right in zip(ongoing[4:], resumed, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    first, later = (
        {name: image for batch in batches for name, image in zip(batch["id"].numpy(), batch["image"], strict=True)}
        for batches in (ongoing[:2], resumed[:2])
    )
    assert all(np.abs(first[name] - later[name]).max() > 0.01 for name in first), "augmentation differs by epoch"


def test_a_case_is_augmented_alike_in_any_company():
    """What a case becomes in an epoch depends on seed, epoch and position: not on the batch size or the others."""
    options = {"training": True, "augmentation": FREE, "seed": 3}
    arrays = case_arrays()
    some = next(iter(make_batches(arrays, np.array([2, 4]), 2, **options)))
    every = next(iter(make_batches(arrays, np.arange(6), 6, **options)))
    for name in (b"case2", b"case4"):
        left, right = ([*batch["id"].numpy()].index(name) for batch in (some, every))
        np.testing.assert_array_equal(some["image"][left], every["image"][right])
        np.testing.assert_array_equal(some["mask"][left], every["mask"][right])


def test_every_repetition_of_a_case_is_augmented_for_itself():
    options = {"training": True, "augmentation": FREE, "seed": 3}
    arrays, positions = case_arrays(), np.array([4, 2, 4, 4])
    (batch,) = islice(make_batches(arrays, positions, 4, **options), 1)
    assert sorted(batch["id"].numpy()) == [b"case2", b"case4", b"case4", b"case4"]
    repeated = batch["image"].numpy()[batch["id"].numpy() == b"case4"]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(repeated[left] - repeated[right]).max() > 0.01
    # The first time it is what it is without repetitions.
    alone = next(iter(make_batches(arrays, np.array([4]), 1, **options)))["image"].numpy()[0]
    assert sum(np.array_equal(alone, image) for image in repeated) == 1
    (again,) = islice(make_batches(arrays, positions, 4, **options), 1)
    np.testing.assert_array_equal(batch["image"], again["image"])


def test_balanced_positions_make_balanced_epochs_that_use_every_case():
    """9 cases of one class and 3 of the other: short epochs draw both alike and come round to everybody."""
    arrays = case_arrays(12)
    arrays.labels[:] = [0] * 9 + [1] * 3
    positions = balance_positions(arrays.labels, np.arange(12), "majority")
    steps = steps_per_epoch(len(positions), 3, 6)
    assert (len(positions), steps) == (18, 2)
    drawn = numbers(make_batches(arrays, positions, 3, training=True, seed=1), 6 * steps)
    seen = np.bincount(np.concatenate(drawn), minlength=12)
    np.testing.assert_array_equal(seen, [2] * 9 + [6] * 3)


def test_backgrounds_are_swapped_around_lesions_only():
    arrays = case_arrays(4)
    arrays.images[:] = (np.arange(4, dtype=np.uint8) * 10 + 10)[:, None, None, None]
    arrays.masks[:2], arrays.masks[2:] = 0, 1
    arrays.masks[:, 4:] = 0
    arrays.masks[0] = 255
    swap = Augmentation(background_swap=1.0)
    maps = arrays.images[..., 0] + 1
    batch = whole(arrays, training=True, augmentation=swap, maps={"lesion": maps})
    for name, image, mask, lesion in zip(
        batch["id"], batch["image"] * 255.0, batch["mask"], batch["lesion"] * 255.0, strict=True
    ):
        own = 10 * int(name[4:]) + 10
        changed = {float(value) for value in np.round(image[4:], 3).ravel()}
        np.testing.assert_allclose(image[:4], own, atol=1e-3)
        np.testing.assert_allclose(lesion[..., 0], image[..., 0] + 1, atol=1e-3)
        # The first case has no mask and the second an empty one.
        assert (changed == {own}) == (name in (b"case0", b"case1")) and len(changed) == 1
        assert mask.sum() == (32 if own > 20 else 0)


def on_disk(arrays, folder):
    """The same cases with images and masks as memory maps."""
    for name in ("images", "masks"):
        np.save(folder / f"{name}.npy", getattr(arrays, name))
    maps = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks")}
    return replace(arrays, **maps)


def test_memory_maps_give_the_same_batches(tmp_path):
    arrays = case_arrays()
    mapped = on_disk(arrays, tmp_path)
    options = {"training": True, "augmentation": replace(FREE, background_swap=0.5), "seed": 3}
    for expected, batch in zip(
        islice(make_batches(arrays, np.arange(6), 2, **options), 5),
        islice(make_batches(mapped, np.arange(6), 2, **options), 5),
        strict=True,
    ):
        assert expected.keys() == batch.keys()
        for name in expected:
            np.testing.assert_array_equal(expected[name], batch[name])
    specs = [make_batches(cases, np.arange(6), 2, **options).element_spec for cases in (arrays, mapped)]
    assert specs[0] == specs[1]


FLAT = """
import sys
import numpy as np, tensorflow as tf
from pathlib import Path
from tfseg.data.augment import RECIPES
from tfseg.data.batches import CaseArrays, make_batches
from tfseg.data.cases import MaskClasses

count, side, folder = 10000, 64, Path(sys.argv[1])
images = np.lib.format.open_memmap(folder / "i.npy", "w+", np.uint8, (count, side, side, 3))
masks = np.lib.format.open_memmap(folder / "m.npy", "w+", np.uint8, (count, side, side))
images[:], masks[:] = 100, 1
images, masks = (np.load(folder / name, mmap_mode="r") for name in ("i.npy", "m.npy"))
ids = np.arange(count).astype(str)
arrays = CaseArrays(images, masks, np.ones(count, bool), np.zeros(count, np.int32), ids, MaskClasses())

def own():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

def epoch(cases, steps):
    batches = iter(make_batches(cases, np.arange(len(cases)), 50, training=True, augmentation=RECIPES["free"]))
    for _ in range(steps):
        next(batches)
    return own()

few = CaseArrays(*(values[:200] for values in (images, masks, arrays.has_mask, arrays.labels, ids)), MaskClasses())
print(epoch(few, 40), epoch(arrays, count // 50))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_an_epoch_from_the_disk_needs_no_more_memory_than_a_few_images(tmp_path):
    """10,000 images and masks, 164 MB: held, they would be added to the process's own memory."""
    done = subprocess.run([sys.executable, "-c", FLAT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    few, many = (float(word) for word in done.stdout.split())
    assert many - few < 40, f"{few} MB grew to {many} MB"


def test_image_mask_and_lesion_map_are_augmented_in_step():
    arrays = case_arrays()
    arrays.masks[3:] = (arrays.images[3:, ..., 0] > 127).astype(np.uint8)
    flips = Augmentation(flips=True)
    batches = make_batches(
        arrays, np.arange(3, 6), 3, training=True, augmentation=flips, maps={"lesion": arrays.images[..., 1]}
    )
    flipped = 0
    for batch in islice(batches, 6):
        np.testing.assert_array_equal(batch["mask"][..., 0], batch["image"][..., 0] > 0.5)
        np.testing.assert_allclose(batch["lesion"][..., 0], batch["image"][..., 1], atol=1e-5)
        originals = [arrays.images[int(name[4:])] / 255.0 for name in batch["id"].numpy()]
        flipped += sum(np.abs(image - kept).max() > 0.01 for image, kept in zip(batch["image"], originals, strict=True))
    assert 5 <= flipped <= 18, "three of four images are flipped one way or another"


def test_ignored_pixels_stay_ignored_when_they_move():
    arrays = case_arrays(mask_classes=CELL)
    batch = whole(arrays, training=True, augmentation=FREE)
    np.testing.assert_array_equal(np.unique(batch["mask"]), [0.0, 1.0])
    np.testing.assert_array_equal(batch["mask"].sum(-1, keepdims=True), batch["valid"])
    place = [*batch["id"]].index(b"case0")
    np.testing.assert_array_equal(batch["valid"][place], 0.0)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="positions"):
        make_batches(case_arrays(), np.array([]), 2)
    with pytest.raises(ValueError, match="training only"):
        make_batches(case_arrays(), np.arange(2), 2, augmentation=FREE)


def test_class_weights_by_hand():
    # 3 of class 0, 1 of class 1, one unlabelled: 4 / (3 · 2) and 4 / (1 · 2).
    np.testing.assert_allclose(class_weights(np.array([0, 0, 1, 0, -1]), 2), [4 / 6, 2.0], rtol=1e-6)
    with pytest.raises(ValueError, match="class 1"):
        class_weights(np.array([0, 2, 2]), 3)


def test_cases_are_read_in_order(make_folder):
    folder = make_folder()
    (folder / "masks" / "b.png").unlink()
    table = (folder / "labels.csv").read_text().replace("masks/b.png", "")
    (folder / "labels.csv").write_text(table)
    cases = load_cases(folder)
    arrays = load_arrays(cases, 24)
    assert [*arrays.ids] == [*cases.table["id"]]
    np.testing.assert_array_equal(arrays.has_mask, [True, False, True, True])
    np.testing.assert_array_equal(arrays.labels, [1, 1, 0, 0])
    np.testing.assert_array_equal(arrays.masks[1], 255)
    # The rectangle covers the middle half of either side: a quarter of the image.
    assert arrays.lesions_at(np.arange(len(arrays))).mean((1, 2)) == pytest.approx([0.25, 0.0, 0.25, 0.25], abs=0.05)
    assert (arrays.images.dtype, arrays.images.shape) == (np.uint8, (4, 24, 24, 3))
    for name in ("a", "c"):
        (folder / "images" / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as raised:
        load_arrays(cases, 24)
    assert {problem.file.rsplit("/", 1)[-1] for problem in raised.value.problems} == {"a.png", "c.png"}


def test_the_image_has_a_static_shape():
    spec = make_batches(case_arrays(), np.arange(4), 2, training=True, augmentation=FREE).element_spec
    assert spec["image"].shape.as_list() == [None, SIDE, SIDE, 3]
    assert spec["id"].dtype == tf.string
