"""The COCO-WholeBody skeleton as plain data: names, part slices, mirror pairs, OKS sigmas.

133 keypoints per person (Jin et al., "Whole-Body Human Pose Estimation in the Wild", ECCV 2020):
17 body (COCO order), 6 feet, 68 face (iBUG-68 order), 21 left hand, 21 right hand. "Left" and "right" are
the person's own sides. The OpenPose-18 body used by ControlNet maps is a view of these points, see `openpose.py`.
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

# OpenPose-18, the body of ControlNet maps and POSE_KEYPOINT: each point's COCO-WholeBody index. There is no neck among
# the 133; the original DWPose puts it midway between the shoulders (`openpose.openpose_body` does).
NECK = 1
OPENPOSE_BODY: dict[str, int] = {
    "nose": 0,
    "neck": -1,
    "right_shoulder": 6,
    "right_elbow": 8,
    "right_wrist": 10,
    "left_shoulder": 5,
    "left_elbow": 7,
    "left_wrist": 9,
    "right_hip": 12,
    "right_knee": 14,
    "right_ankle": 16,
    "left_hip": 11,
    "left_knee": 13,
    "left_ankle": 15,
    "right_eye": 2,
    "left_eye": 1,
    "right_ear": 4,
    "left_ear": 3,
}

# Limbs of ControlNet v1.1, as pairs of OpenPose-18 points in drawing order; limb i and joint i share colour i.
OPENPOSE_LIMBS: tuple[tuple[int, int], ...] = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)),  # shoulders, right arm, left arm
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),  # right leg, left leg
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),  # nose, right eye and ear, left eye and ear
)
OPENPOSE_COLORS: tuple[tuple[int, int, int], ...] = (  # RGB
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)

# A finger is four edges outwards from the hand root (point 0).
HAND_EDGES: tuple[tuple[int, int], ...] = tuple(
    (0 if joint == 1 else 4 * finger + joint - 1, 4 * finger + joint) for finger in range(5) for joint in (1, 2, 3, 4)
)

# Feet hang on the ankles as in OpenPose's BODY_25, and have its colours (left, right); ControlNet maps have none. The
# pairs index the OpenPose-18 followed by the six foot points: ankle to big toe, on to the small toe, ankle to heel.
FOOT_EDGES: tuple[tuple[int, int], ...] = ((13, 18), (18, 19), (13, 20), (10, 21), (21, 22), (10, 23))
FOOT_COLORS: tuple[tuple[int, int, int], tuple[int, int, int]] = ((0, 0, 255), (0, 255, 255))
