"""The COCO-WholeBody skeleton as plain data: names, part slices, mirror pairs, OKS sigmas.

133 keypoints per person (Jin et al., "Whole-Body Human Pose Estimation in the Wild", ECCV 2020):
17 body (COCO order), 6 feet, 68 face (iBUG-68 order), 21 left hand, 21 right hand. "Left" and "right" are
the person's own sides. The OpenPose-18 body used by ControlNet maps is a view of these points, see `formats.py`.
"""

from __future__ import annotations

import numpy as np

NUM_KEYPOINTS = 133

PARTS: dict[str, slice] = {
    "body": slice(0, 17),
    "foot": slice(17, 23),
    "face": slice(23, 91),
    "left_hand": slice(91, 112),
    "right_hand": slice(112, 133),
}

_BODY = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
_FOOT = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_HAND = ("hand_root", *(f"{finger}{joint}" for finger in _FINGERS for joint in (1, 2, 3, 4)))

KEYPOINT_NAMES: tuple[str, ...] = (
    *_BODY,
    *_FOOT,
    *(f"face-{i}" for i in range(68)),
    *(f"left_{name}" for name in _HAND),
    *(f"right_{name}" for name in _HAND),
)

# iBUG-68 landmarks mirrored about the face's vertical axis: jaw, brows, nose bridge, nostrils, eyes, outer and inner
# lips.
_FACE_MIRROR = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30),
    *(35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46),
    *(39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)


def _mirror_index(name: str) -> int:
    if name.startswith("face-"):
        return PARTS["face"].start + _FACE_MIRROR[int(name[5:])]
    swap = {"left": "right", "right": "left"}
    side, _, rest = name.partition("_")
    return KEYPOINT_NAMES.index(f"{swap[side]}_{rest}" if side in swap else name)


# FLIP_INDICES[i] is the keypoint that point i becomes in a mirrored image.
FLIP_INDICES: np.ndarray = np.array([_mirror_index(name) for name in KEYPOINT_NAMES], dtype=np.int64)

# Half-body augmentation (mmpose 1.x, coco_wholebody dataset meta): the 11 joints above the hips, and hips to feet.
UPPER_BODY: tuple[int, ...] = tuple(range(11))
LOWER_BODY: tuple[int, ...] = tuple(range(11, 23))

_HAND_SIGMAS = (
    *(0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024),
    *(0.022, 0.026, 0.017, 0.021, 0.021, 0.032, 0.020, 0.019, 0.022, 0.031),
)

# OKS sigmas in COCO's convention (per-point tolerance = 2 * sigma), from the COCO-WholeBody evaluation code. Both
# hands share one row. Two of its figures are as published, odd as they look: face point 47 (.034), and the feet.
OKS_SIGMAS: np.ndarray = np.array(
    (
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062),  # head, arms
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),  # hips, knees, ankles
        *(0.068, 0.066, 0.066, 0.092, 0.094, 0.094),  # feet
        *(0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020),  # jaw, right ear to chin
        *(0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041, 0.045),  # jaw, chin to left ear
        *(0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015),  # brows
        *(0.009, 0.007, 0.007, 0.007, 0.012, 0.009, 0.008, 0.016, 0.010),  # nose
        *(0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034),  # eyes
        *(0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007),  # outer lips
        *(0.007, 0.008, 0.011, 0.008, 0.008, 0.008, 0.010, 0.008),  # inner lips
        *_HAND_SIGMAS,
        *_HAND_SIGMAS,
    ),
    dtype=np.float32,
)
