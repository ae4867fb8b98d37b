"""Crops and masks of people's parts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dwpose_core import regions
from dwpose_core.people import People
from dwpose_core.regions import crop_square, part_boxes, part_mask, steady_boxes
from dwpose_core.render import render
from dwpose_core.skeleton import PARTS


def person(points: dict[int, tuple[float, float]]) -> People:
    """Only these points seen, of somebody 200 pixels tall."""
    xy, score = np.zeros((1, 133, 2)), np.zeros((1, 133))
    for index, place in points.items():
        xy[0, index], score[0, index] = place, 1
    return People(xy, score, [[100, 50, 200, 250]], [1], (300, 300))


def test_a_face_grows_by_its_forehead_and_not_below_the_chin():
    """A face of 40 pixels from the brows, at 80, to the chin, at 120: its forehead is 14 pixels high."""
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    circle = 20 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + (150, 100)
    mask = part_mask(person(dict(enumerate(circle, PARTS["face"].start))), ["face"])
    assert mask[70, 150] and mask[119, 150]
    assert not mask[130, 150]


def test_a_crop_a_thousand_times_as_wide_as_its_picture():
    """A face of two points far apart asks for one; it would take 300 gigabytes."""
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 100:] = 255
    crop = crop_square(picture, (100 - 160_000, 50 - 160_000, 100 + 160_000, 50 + 160_000), 512)
    assert crop.shape == (512, 512, 3) and (crop[:, :255] == 0).all() and (crop[:, 257:] == 255).all()


def test_the_trunk_is_filled():
    """Between shoulders so far apart that no limb is as thick as what lies between them."""
    trunk = person({5: (250, 100), 6: (50, 100), 11: (250, 150), 12: (50, 150)})
    assert part_mask(trunk, ["body"], grow=0.1)[100:151, 50:251].all()


def test_one_part_may_be_named_alone():
    trunk = person({5: (250, 100), 6: (50, 100), 11: (250, 150), 12: (50, 150)})
    assert (part_mask(trunk, "body") == part_mask(trunk, ["body"])).all()
    with pytest.raises(ValueError, match="unknown part 'hand'"):
        part_mask(trunk, "hand")


def test_missing_points_stay_missing_at_threshold_0():
    hand = {i: (200 + i, 200 + i % 3) for i in range(PARTS["left_hand"].start, PARTS["left_hand"].start + 9)}
    somebody = person(hand)
    (box,) = part_boxes(somebody, "left_hand", 0.0)
    assert box[:2].min() > 150
    assert not part_mask(somebody, ["hands"], threshold=0.0)[:100, :100].any()
    assert not render(somebody, threshold=0.0)[:100, :100].any()


@pytest.mark.parametrize("steadiness", [1e-6, 0.02, 0.09, 0.1])
def test_an_average_over_next_to_no_frames_is_the_frame_itself(steadiness):
    boxes = np.array([[10, 10, 50, 50], [20, 12, 60, 52], [15, 30, 55, 70]], float)
    np.testing.assert_array_equal(steady_boxes(boxes, 0.0, steadiness), steady_boxes(boxes, 0.0, 0.0))


def test_the_path_of_a_film_needs_no_gigabytes(monkeypatch):
    rng = np.random.default_rng(0)
    corner = 100 + np.cumsum(rng.normal(0, 2, (3000, 2)), axis=0)
    boxes = np.concatenate([corner, corner + 40], axis=1)
    boxes[rng.random(3000) < 0.1] = np.nan
    tracemalloc.start()
    path = steady_boxes(boxes, 0.25, 5.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # 72 MB is one array of all frames by all frames
    monkeypatch.setattr(regions, "_ROWS", 3000)
    np.testing.assert_array_equal(path, steady_boxes(boxes, 0.25, 5.0))
