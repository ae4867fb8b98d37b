"""People to and from the pose types of the animation packs for ComfyUI, and OpenPose's BODY_25.

POSEDATA (kijai/ComfyUI-WanAnimatePreprocess): one person. `pose_metas_original` holds a dict per frame with `width`,
`height` and arrays (n, 3) of x, y in fractions of the image and score: `keypoints_body` (OpenPose-18, then the middle
of each foot's two toes, left first), `keypoints_left_hand`, `keypoints_right_hand` (21) and `keypoints_face` (69: the
right heel, an off-by-one they all rely on, then iBUG-68). `pose_metas` holds the same as objects, in pixels.

DWPOSES (kijai/ComfyUI-SCAIL-Pose): `poses` holds a dict per frame with fractions of the image: `bodies.candidate`
(P, 18, 2) and `bodies.subset` (P, 18), `hands` (2P, 21, 2) left then right (right then left with `swap_hands`),
`faces` (P, 70 or 68, 2), and the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .edit import follow
from .openpose import body_25_points, extent, openpose_body, openpose_face
from .people import People
from .skeleton import NUM_KEYPOINTS, OPENPOSE_BODY, PARTS

_BODY_18 = np.array(list(OPENPOSE_BODY.values()))
_HAS_SOURCE = _BODY_18 >= 0
_TOES = ((17, 18), (20, 21))
_RIGHT_HEEL = 22


@dataclass
class PoseMeta:
    """One frame of POSEDATA's `pose_metas`: what drawing and retargeting nodes read off it. Coordinates in pixels."""

    width: int
    height: int
    kps_body: np.ndarray  # (20, 2)
    kps_body_p: np.ndarray  # (20,)
    kps_lhand: np.ndarray  # (21, 2)
    kps_lhand_p: np.ndarray
    kps_rhand: np.ndarray
    kps_rhand_p: np.ndarray
    kps_face: np.ndarray  # (69, 2)
    kps_face_p: np.ndarray
    image_id: str = ""


def to_posedata(frames: Sequence[People]) -> dict:
    """POSEDATA of the first person of the clip (`edit.follow`); where they are away, everything scores 0."""
    originals, metas = [], []
    for people, p in zip(frames, follow(frames), strict=True):
        height, width = people.image_size
        if p is not None:
            xy, score = people.xy[p], people.score[p]
            body_xy, body_score, _ = (part[0] for part in openpose_body(people[p]))
        else:
            xy, score = np.zeros((NUM_KEYPOINTS, 2), np.float32), np.zeros(NUM_KEYPOINTS, np.float32)
            body_xy, body_score = np.zeros((18, 2), np.float32), np.zeros(18, np.float32)
        toes_xy = np.stack([xy[list(pair)].mean(axis=0) for pair in _TOES])
        toes_score = np.stack([score[list(pair)].mean() for pair in _TOES])
        face = slice(_RIGHT_HEEL, PARTS["face"].stop)
        arrays = {
            "body": (np.concatenate([body_xy, toes_xy]), np.concatenate([body_score, toes_score])),
            "left_hand": (xy[PARTS["left_hand"]], score[PARTS["left_hand"]]),
            "right_hand": (xy[PARTS["right_hand"]], score[PARTS["right_hand"]]),
            "face": (xy[face], score[face]),
        }
        scale = np.float32([width, height])
        original: dict[str, Any] = {"width": width, "height": height}
        for part, (points, values) in arrays.items():
            original[f"keypoints_{part}"] = np.concatenate([points / scale, values[:, None]], axis=1)
        originals.append(original)
        (body, body_p), (left, left_p), (right, right_p), (face_xy, face_p) = (
            (points.copy(), values.copy()) for points, values in arrays.values()
        )
        metas.append(PoseMeta(width, height, body, body_p, left, left_p, right, right_p, face_xy, face_p))
    return {
        "retarget_image": None,
        "pose_metas": metas,
        "refer_pose_meta": None,
        "pose_metas_original": originals,
    }


def from_posedata(data: Mapping) -> list[People]:
    """One person per frame; nobody where no point scores.

    Raises:
        ValueError: for anything but POSEDATA.
    """
    metas = data.get("pose_metas") or data.get("pose_metas_original")
    if not metas:
        raise ValueError("POSEDATA has no pose_metas")
    frames = []
    for number, meta in enumerate(metas):
        try:
            frames.append(_from_meta(meta, number))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"POSEDATA, frame {number}: not as this type has it ({_told(error)})") from None
    return frames


def _from_meta(meta: Any, number: int) -> People:
    xy, score = np.zeros((NUM_KEYPOINTS, 2), np.float32), np.zeros(NUM_KEYPOINTS, np.float32)
    if isinstance(meta, Mapping):
        width, height = meta["width"], meta["height"]
        names = ("keypoints_body", "keypoints_left_hand", "keypoints_right_hand", "keypoints_face")
        parts = [_array(meta.get(name), 3, f"frame {number}: {name}") for name in names]
        parts = [(part[:, :2] * np.float32([width, height]), part[:, 2]) for part in parts]
    else:
        width, height = meta.width, meta.height
        names = ("kps_body", "kps_lhand", "kps_rhand", "kps_face")
        parts = []
        for name in names:
            points = _array(getattr(meta, name), 2, f"frame {number}: {name}")
            values = getattr(meta, f"{name}_p", None)
            parts.append((points, np.ones(len(points), np.float32) if values is None else np.float32(values)))
    (body, body_p), left, right, (face, face_p) = parts
    if len(body) >= 18:
        xy[_BODY_18[_HAS_SOURCE]], score[_BODY_18[_HAS_SOURCE]] = body[:18][_HAS_SOURCE], body_p[:18][_HAS_SOURCE]
    for slot, pair in enumerate(_TOES):
        if len(body) >= 20:
            # The middle of the toes is all that is known: both stand there.
            xy[list(pair)], score[list(pair)] = body[18 + slot], body_p[18 + slot]
    for part, (points, values) in (("left_hand", left), ("right_hand", right), ("face", (face[-68:], face_p[-68:]))):
        if len(points) == PARTS[part].stop - PARTS[part].start:
            xy[PARTS[part]], score[PARTS[part]] = points, values
    return _person_frame([(xy, score)], (round(height), round(width)))


def to_dwposes(frames: Sequence[People], threshold: float = 0.3) -> dict:
    """DWPOSES of everyone."""
    poses = []
    for people in frames:
        scale = np.float32(people.image_size[::-1])
        body_xy, body_score, body_visible = openpose_body(people, threshold)
        face_xy, face_score, _ = openpose_face(people, threshold)
        hands = [people.part(name) for name in ("left_hand", "right_hand")]
        count = len(people)
        poses.append(
            {
                "bodies": {
                    "candidate": body_xy / scale,
                    "subset": np.where(body_visible, np.arange(18), -1).astype(np.float32),
                },
                "hands": np.stack([xy for xy, _ in hands], axis=1).reshape(2 * count, 21, 2) / scale,
                "faces": face_xy / scale,
                "body_score": body_score,
                "hand_score": np.stack([score for _, score in hands], axis=1).reshape(2 * count, 21),
                "face_score": face_score,
            }
        )
    return {"poses": poses, "swap_hands": False}


def from_dwposes(data: Mapping, image_size: Sequence[int]) -> list[People]:
    """Everyone of each frame, in pixels of `image_size` (H, W), which DWPOSES do not hold.

    Raises:
        ValueError: for anything but DWPOSES.
    """
    if data.get("poses") is None:
        raise ValueError("DWPOSES has no poses")
    scale = np.float32(image_size[::-1])
    frames = []
    for number, pose in enumerate(data["poses"]):
        try:
            frames.append(_from_pose(pose, scale, bool(data.get("swap_hands")), number))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"DWPOSES, frame {number}: not as this type has it ({_told(error)})") from None
    return frames


def _from_pose(pose: Mapping, scale: np.ndarray, swap_hands: bool, number: int) -> People:
    where = f"frame {number}"
    candidate = np.float32(pose["bodies"]["candidate"])
    count = len(candidate) if candidate.size else 0
    subset = np.float32(pose["bodies"]["subset"]).reshape(count, -1) if count else np.zeros((0, 18))
    people = []
    for p in range(count):
        xy, score = np.zeros((NUM_KEYPOINTS, 2), np.float32), np.zeros(NUM_KEYPOINTS, np.float32)
        body = _array(candidate[p], 2, f"{where}: bodies.candidate")[:18]
        values = _score(pose, "body_score", p, 18) if "body_score" in pose else (subset[p, :18] >= 0)
        xy[_BODY_18[_HAS_SOURCE]], score[_BODY_18[_HAS_SOURCE]] = body[_HAS_SOURCE], values[_HAS_SOURCE]
        order = ("right_hand", "left_hand") if swap_hands else ("left_hand", "right_hand")
        parts = [(part, "hands", "hand_score", 2 * p + side, 21) for side, part in enumerate(order)]
        for part, key, score_key, row, points in [*parts, ("face", "faces", "face_score", p, 68)]:
            values_xy = np.float32(pose.get(key, []))
            if row < len(values_xy):
                xy[PARTS[part]] = values_xy[row][:points]
                score[PARTS[part]] = _score(pose, score_key, row, points)
        # A part that was not found is at the origin or, in the original DWPose, at -1.
        score[(xy <= 0).all(axis=1)] = 0
        people.append((xy * scale, score))
    width, height = scale.astype(int).tolist()
    return _person_frame(people, (height, width))


def to_body25(frame: dict) -> dict:
    """A POSE_KEYPOINT frame with OpenPose's 25 body points: the middle hip added, the feet taken in."""
    people = []
    for person in frame["people"]:
        rest = {key: value for key, value in person.items() if key != "foot_keypoints_2d"}
        points = body_25_points(person["pose_keypoints_2d"], person["foot_keypoints_2d"])
        people.append({**rest, "pose_keypoints_2d": points})
    return {**frame, "people": people}


def to_fractions(frame: dict) -> dict:
    """A POSE_KEYPOINT frame with coordinates in fractions of the canvas, as OpenPose nodes of ComfyUI give them."""
    people, size = [], np.array((frame["canvas_width"], frame["canvas_height"]), np.float64)
    for person in frame["people"]:
        changed = dict(person)
        for key, value in person.items():
            if key.endswith("_2d"):
                points = np.array(value, np.float64).reshape(-1, 3)
                points[:, :2] /= size
                changed[key] = points.reshape(-1).tolist()
        if "bbox" in person:  # in the same unit: it tells readers what a few points in the corner are
            changed["bbox"] = (np.array(person["bbox"], np.float64) / np.tile(size, 2)).tolist()
        people.append(changed)
    return {**frame, "people": people}


def to_nested(frame: dict) -> dict:
    """A POSE_KEYPOINT frame with points as [x, y, c] instead of one flat list."""
    people = [
        {
            key: [list(point) for point in zip(*[iter(value)] * 3, strict=True)] if key.endswith("_2d") else value
            for key, value in person.items()
        }
        for person in frame["people"]
    ]
    return {**frame, "people": people}


def _person_frame(people: list[tuple[np.ndarray, np.ndarray]], image_size: tuple[int, int]) -> People:
    people = [(xy, score) for xy, score in people if (score > 0).any()]
    if not people:
        return People.empty(image_size)
    return People(
        xy=np.stack([xy for xy, _ in people]),
        score=np.stack([score for _, score in people]),
        box=np.stack([extent(xy, score) for xy, score in people]),
        box_score=np.ones(len(people), np.float32),
        image_size=image_size,
    )


def _told(error: Exception) -> str:
    """What is missing or odd: a KeyError has the name alone."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _array(value: Any, columns: int, where: str) -> np.ndarray:
    array = np.zeros((0, columns), np.float32) if value is None else np.array(value, np.float32)
    if array.ndim != 2 or array.shape[1] < columns:
        raise ValueError(f"{where}: expected (n, {columns}) numbers, got shape {array.shape}")
    return array


def _score(pose: Mapping, key: str, row: int, points: int) -> np.ndarray:
    scores = pose.get(key)
    return np.ones(points, np.float32) if scores is None else np.float32(scores[row])[:points].reshape(-1)
