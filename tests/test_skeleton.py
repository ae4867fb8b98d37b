"""What hangs on what, and which point is which in a mirror."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dwpose_core.skeleton import (
    FLIP_INDICES,
    FOOT_EDGES,
    HAND_EDGES,
    KEYPOINT_NAMES,
    OKS_SIGMAS,
    OPENPOSE_BODY,
    OPENPOSE_LIMBS,
)

OPENPOSE_NAMES = [*OPENPOSE_BODY, *KEYPOINT_NAMES[17:23]]


def side_of(name: str) -> str:
    return name.split("_")[0] if name.startswith(("left", "right")) else ""


def test_a_mirror_swaps_left_and_right():
    np.testing.assert_array_equal(FLIP_INDICES[FLIP_INDICES], np.arange(133))
    swap = {"left": "right", "right": "left", "": ""}
    for name, mirrored in zip(KEYPOINT_NAMES, np.array(KEYPOINT_NAMES)[FLIP_INDICES], strict=True):
        assert side_of(mirrored) == swap[side_of(name)]
        if not name.startswith("face"):
            assert mirrored.removeprefix(side_of(mirrored)) == name.removeprefix(side_of(name))
    # chin, nose tip, jaw's ends, outer and inner corners of eyes and lips, nostrils
    face = {8: 8, 30: 30, 0: 16, 36: 45, 39: 42, 37: 44, 41: 46, 31: 35, 48: 54, 60: 64, 51: 51, 57: 57, 62: 62, 17: 26}
    assert {point: FLIP_INDICES[23 + point] - 23 for point in face} == face


def test_openpose_points_are_where_their_names_say():
    for name, index in OPENPOSE_BODY.items():
        assert name == "neck" if index < 0 else KEYPOINT_NAMES[index] == name


def test_limbs_stay_on_their_side():
    for start, end in (*OPENPOSE_LIMBS, *FOOT_EDGES):
        sides = {side_of(OPENPOSE_NAMES[point]) for point in (start, end)} - {""}
        assert len(sides) <= 1, (OPENPOSE_NAMES[start], OPENPOSE_NAMES[end])


def test_fingers_grow_out_of_the_hand_root():
    fingers = [[0, *range(first, first + 4)] for first in (1, 5, 9, 13, 17)]
    assert list(HAND_EDGES) == [edge for finger in fingers for edge in pairwise(finger)]


def test_both_sides_of_the_body_and_both_hands_are_as_hard_to_tell():
    for points in (slice(17), slice(91, 133)):
        np.testing.assert_array_equal(OKS_SIGMAS[FLIP_INDICES][points], OKS_SIGMAS[points])
