import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tfseg.data.sources.outlines import (
    exceeds,
    expanded_counts,
    outline_pixels,
    polygon_pixels,
    read_outline,
    run_pixels,
)


def pixels_of(*coordinates, height=4, width=5):
    return outline_pixels(read_outline([list(coordinates)], height, width), height, width).astype(int).tolist()


def test_rectangle_covers_its_area():
    assert pixels_of(1, 1, 4, 1, 4, 3, 1, 3) == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


def test_triangle_by_hand():
    # The hypotenuse from (4, 0) to (0, 4): the centres with x + y < 4 lie inside, those on it don't.
    assert pixels_of(0, 0, 4, 0, 0, 4) == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_centres_decide():
    assert pixels_of(1.4, 0, 2.6, 0, 2.6, 1, 1.4, 1)[0] == [0, 1, 1, 0, 0]
    assert pixels_of(1.6, 0, 2.4, 0, 2.4, 1, 1.6, 1)[0] == [0, 0, 0, 0, 0]


def test_the_direction_does_not_matter():
    assert pixels_of(1, 1, 1, 3, 4, 3, 4, 1) == pixels_of(1, 1, 4, 1, 4, 3, 1, 3)


def test_outside_is_cut_off():
    assert pixels_of(-3, -2, 2, -2, 2, 2, -3, 2) == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], 5 * [0], 5 * [0]]
    assert pixels_of(3, 2, 90, 2, 90, 90, 3, 90) == [5 * [0], 5 * [0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]


def test_polygons_are_united():
    outline = read_outline([[0, 0, 2, 0, 2, 2, 0, 2], [1, 0, 4, 0, 4, 1, 1, 1]], 2, 4)
    assert outline_pixels(outline, 2, 4).astype(int).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("seed", range(8))
def test_against_other_rasterisers(seed):
    rng = np.random.default_rng(seed)
    height, width = map(int, rng.integers(60, 160, 2))
    angles, radii = np.sort(rng.random(20)) * 2 * np.pi, rng.uniform(0.15, 0.6, 20)
    points = np.stack([width * (0.5 + radii * np.cos(angles)), height * (0.5 + radii * np.sin(angles))], axis=1)
    ours = polygon_pixels(points, height, width)
    pillow = Image.new("1", (width, height))
    ImageDraw.Draw(pillow).polygon([tuple(point) for point in points], fill=1, outline=1)
    # OpenCV counts from the centre of the first pixel; four bits after the point.
    corners = [np.round((points - 0.5) * 16).astype(np.int32)]
    opencv, outline = np.zeros((2, height, width), np.uint8)
    cv2.fillPoly(opencv, corners, 1, shift=4)
    cv2.polylines(outline, corners, True, 1, shift=4)
    near = cv2.dilate(outline, np.ones((3, 3), np.uint8)) > 0
    assert 0.1 < ours.mean() < 0.9
    for other in (np.asarray(pillow), opencv > 0):
        assert not ((ours != other) & ~near).any()


@pytest.mark.parametrize(
    ("polygon", "text"),
    [
        ([1, 1, 2, 2], "2 points, expected at least 3"),
        ([], "0 points"),
        ([1, 1, 2, 2, 3, 3, 4], "7 coordinates, expected an x and a y"),
        ([1, 1, 2, 2, 3, float("nan")], "no finite number"),
        ([1, 1, 2, 2, 3, "4"], "no finite number"),
        (7, "must be a list of coordinates, received 7"),
        ([5, 0, 9, 0, 9, 4], "outside the image of 5×4 pixels"),
        ([0, -3, 4, -3, 4, 0], "outside the image"),
    ],
)
def test_polygons_that_are_none(polygon, text):
    with pytest.raises(ValueError, match=text):
        read_outline([polygon], 4, 5)


def test_what_exceeds_the_image():
    assert not exceeds(read_outline([[0, 0, 5, 0, 5, 4]], 4, 5), 4, 5)
    assert exceeds(read_outline([[0, 0, 5.1, 0, 5, 4]], 4, 5), 4, 5)
    assert exceeds(read_outline([[0, -0.1, 5, 0, 5, 4]], 4, 5), 4, 5)


def test_no_outline():
    assert read_outline([], 4, 5) is None and read_outline(None, 4, 5) is None


def test_runs_go_down_the_columns():
    runs = {"size": [3, 2], "counts": [1, 2, 2, 1]}
    assert run_pixels(runs, 3, 2).astype(int).tolist() == [[0, 0], [1, 0], [1, 1]]
    assert run_pixels({"size": [3, 2], "counts": [0, 6]}, 3, 2).all()


def test_compressed_runs():
    # As pycocotools writes them: rows 1 and 2, columns 1 to 3 of 4×5; and a run of more than five bits.
    mask = run_pixels({"size": [4, 5], "counts": "5220003"}, 4, 5)
    assert mask.astype(int).tolist() == [5 * [0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], 5 * [0]]
    assert expanded_counts("5220003") == [5, 2, 2, 2, 2, 2, 5]


@pytest.mark.parametrize("counts", [[0, 1, 2, 3, 4], [100, 3, 2000, 5, 31, 32, 1, 40000], [16], [15, 16, 17, 1, 2]])
def test_compression_round_trip(counts):
    def groups(value):
        text = ""
        while True:
            low, value = value & 31, value >> 5
            last = value == (-1 if low & 16 else 0)
            text += chr(48 + (low if last else low | 32))
            if last:
                return text

    written = [count - (counts[place - 2] if place > 2 else 0) for place, count in enumerate(counts)]
    assert expanded_counts("".join(map(groups, written))) == counts


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ({"size": [2, 3], "counts": [6]}, r"for \[2, 3\] \(height, width\), the image has \[3, 2\]"),
        ({"size": [3, 2], "counts": [5]}, "add up to 6"),
        ({"size": [3, 2], "counts": [7, -1]}, "add up to 6"),
        ({"size": [3, 2]}, "add up to 6"),
        ({"size": [3, 2], "counts": "6 "}, "the character ' '"),
        ({"size": [3, 2], "counts": "f"}, "end within a number"),
    ],
)
def test_runs_that_do_not_fit(runs, text):
    with pytest.raises(ValueError, match=text):
        read_outline(runs, 3, 2)
