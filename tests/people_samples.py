"""People made up for the tests of formats."""

from __future__ import annotations

import numpy as np

from dwpose_core.people import People

LENGTHS = {
    "pose_keypoints_2d": 54,
    "face_keypoints_2d": 210,
    "hand_left_keypoints_2d": 63,
    "hand_right_keypoints_2d": 63,
    "foot_keypoints_2d": 18,
}


def some_people(count=2, size=(480, 640), seed=0) -> People:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(10, 400, (count, 133, 2))
    box = np.concatenate([xy.min(1), xy.max(1)], axis=-1)
    return People(
        xy, rng.uniform(0.4, 1.1, (count, 133)), box, rng.uniform(0.5, 1, count), size, id=np.arange(count) + 5
    )
