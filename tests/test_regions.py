"""Masks of people's parts."""

from __future__ import annotations

import numpy as np

from dwpose_core.people import People
from dwpose_core.regions import part_mask
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


def test_the_trunk_is_filled():
    """Between shoulders so far apart that no limb is as thick as what lies between them."""
    trunk = person({5: (250, 100), 6: (50, 100), 11: (250, 150), 12: (50, 150)})
    assert part_mask(trunk, ["body"], grow=0.1)[100:151, 50:251].all()
