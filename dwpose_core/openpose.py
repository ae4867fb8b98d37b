"""The OpenPose view of People: body of 18 and face of 70 points, and OpenPose JSON (ComfyUI's POSE_KEYPOINT).

The reader accepts what is in circulation and refuses the rest with a ValueError that names frame, person and array.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from .people import People
from .skeleton import NECK, NUM_KEYPOINTS, OPENPOSE_BODY, PARTS

_BODY_18 = np.array(list(OPENPOSE_BODY.values()))  # COCO-WholeBody index of each point; the neck's -1 is a placeholder
_SHOULDERS = [OPENPOSE_BODY["left_shoulder"], OPENPOSE_BODY["right_shoulder"]]
_EYES = [2, 1]  # right first, as among the OpenPose-18 and at the end of the 70-point face
_EYES_18 = slice(14, 16)
_HIPS_18 = (8, 11)  # right, left

_BODY, _FOOT, _FACE, _LEFT_HAND, _RIGHT_HAND = (list(range(NUM_KEYPOINTS))[part] for part in PARTS.values())

# By key of a person and number of points: the COCO-WholeBody index of each point, -1 where there is none.
_LAYOUTS: dict[str, dict[int, list[int]]] = {
    "pose_keypoints_2d": {
        18: [*_BODY_18],
        24: [*_BODY_18, *_FOOT],  # DWPose before it splits the feet off
        25: [*_BODY_18[:8], -1, *_BODY_18[8:], *_FOOT],  # BODY_25: a middle hip before the right hip
    },
    "foot_keypoints_2d": {6: _FOOT},
    "face_keypoints_2d": {70: [*_FACE, *_EYES], 68: _FACE},
    "hand_left_keypoints_2d": {21: _LEFT_HAND},
    "hand_right_keypoints_2d": {21: _RIGHT_HAND},
}

# Coordinates up to here are fractions of the canvas: estimates may lie outside it, but no pose is 2 pixels wide.
_FRACTION = 2.0
# Fewer seen points than this are no pose, but may be all that is left of somebody in the corner of the picture.
_POSE = 4


def is_visible(xy: np.ndarray, score: np.ndarray, threshold: float, strict: bool = False) -> np.ndarray:
    """Whether points (..., 2) have finite coordinates and a score (...) >= threshold, or > if strict, in float32.

    A score of 0 or less is a point that is not there, whatever the threshold.

    Comparing in float32 makes a score of exactly float32(0.3) the same on every NumPy: seen, and not seen if strict.
    """
    threshold = np.float32(threshold)
    return (score > threshold if strict else score >= threshold) & (score > 0) & np.isfinite(xy).all(-1)


def openpose_body(
    people: People, threshold: float = 0.3, strict: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The OpenPose-18 body: xy (P, 18, 2), score (P, 18) and visible (P, 18), see `is_visible`.

    The neck is the middle of the shoulders with the smaller of their scores, and visible if both are > threshold.
    """
    xy, score = people.xy[:, _BODY_18], people.score[:, _BODY_18]
    xy[:, NECK] = people.xy[:, _SHOULDERS].mean(axis=1)
    score[:, NECK] = people.score[:, _SHOULDERS].min(axis=1)
    visible = is_visible(xy, score, threshold, strict)
    visible[:, NECK] &= score[:, NECK] > np.float32(threshold)
    return xy, score, visible


def openpose_face(
    people: People, threshold: float = 0.3, strict_body: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 70-point face: xy (P, 70, 2), score (P, 70), visible (P, 70): iBUG-68, then the body's right and left eye.

    The eyes of a face with no visible point among its own 68 are not visible either.
    """
    xy, score = people.part("face")
    visible = is_visible(xy, score, threshold)
    body_xy, body_score, body_visible = openpose_body(people, threshold, strict_body)
    eyes_visible = body_visible[:, _EYES_18] & visible.any(axis=1, keepdims=True)
    return (
        np.concatenate([xy, body_xy[:, _EYES_18]], axis=1),
        np.concatenate([score, body_score[:, _EYES_18]], axis=1),
        np.concatenate([visible, eyes_visible], axis=1),
    )


def to_openpose(people: People | Iterable[People], *, threshold: float = 0.3, confidence: str = "binary") -> list[dict]:
    """OpenPose JSON as ComfyUI's POSE_KEYPOINT socket carries it: a list with one dict per frame, ready for json.dump.

    A frame has int `canvas_height`, `canvas_width` and `people`. A person has flat lists x, y, c, x, y, c, ... in
    pixels of `image_size`: `pose_keypoints_2d` (18 points), `face_keypoints_2d` (70), `hand_left_keypoints_2d` and
    `hand_right_keypoints_2d` (21), `foot_keypoints_2d` (6: left big toe, small toe, heel, then right), further `bbox`
    [x, y, w, h], `score` (box score) and, if tracked, `person_id`.

    Lists always have their full length. A point below the threshold is 0, 0, 0; but in a face of which anything is
    visible it keeps its x and y and only c is 0: readers take the extent of all 70 points as the face box.

    Args:
        people: one frame, or frames in order.
        threshold: score a point must have to be visible (inclusive; the neck needs both shoulders above it).
        confidence: c of a visible point: "binary" writes 1.0 (many readers drop all that is less), "score" the score.

    Raises:
        ValueError: on another confidence, or frames that are not People.
    """
    if confidence not in ("binary", "score"):
        raise ValueError(f"unknown confidence {confidence!r}; choose 'binary' or 'score'")
    return [_frame_dict(frame, threshold, confidence) for frame in as_frames(people)]


def _frame_dict(people: People, threshold: float, confidence: str) -> dict:
    def triples(xy: np.ndarray, score: np.ndarray, visible: np.ndarray, keep: np.ndarray) -> list[list[float]]:
        c = np.where(visible, 1 if confidence == "binary" else np.maximum(score, 0), 0)
        table = np.concatenate([np.where(keep[..., None], xy, 0), c[..., None]], axis=-1)
        return table.reshape(len(people), 3 * table.shape[1]).tolist()  # -1 cannot be inferred for nobody

    def part(name: str) -> list[list[float]]:
        xy, score = people.part(name)
        visible = is_visible(xy, score, threshold)
        return triples(xy, score, visible, visible)

    xy, score, visible = openpose_face(people, threshold)
    for face_xy, face_score, seen in zip(xy, score, visible, strict=True):
        # a point without coordinates (NaN, or read as missing) must not stretch the face box to 0, 0 either
        unknown = ~np.isfinite(face_xy).all(-1) | ((face_score <= 0) & (face_xy == 0).all(-1))
        if seen.any():
            face_xy[unknown] = face_xy[seen].mean(axis=0)
    face = triples(xy, score, visible, np.broadcast_to(visible.any(axis=1, keepdims=True), visible.shape))

    body_xy, body_score, body_visible = openpose_body(people, threshold)
    columns = {
        "pose_keypoints_2d": triples(body_xy, body_score, body_visible, body_visible),
        "face_keypoints_2d": face,
        "hand_left_keypoints_2d": part("left_hand"),
        "hand_right_keypoints_2d": part("right_hand"),
        "foot_keypoints_2d": part("foot"),
        "bbox": np.concatenate([people.box[:, :2], people.box[:, 2:] - people.box[:, :2]], axis=1).tolist(),
        "score": people.box_score.tolist(),
    }
    if people.id is not None:
        columns["person_id"] = people.id.tolist()
    height, width = people.image_size
    return {
        "people": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        "canvas_height": height,
        "canvas_width": width,
    }


def openpose_file(frame: Mapping[str, Any], body_25: bool = False) -> dict:
    """A frame of `to_openpose` as the OpenPose program writes it, version 1.3 of its files: `person_id` is a list of
    one, -1 where there is none. The canvas size, which its readers ignore, stays: ours need it.

    Args:
        body_25: bodies as that program has them by default, with a middle hip and the feet among the 25 points, as
            try-on networks and body model fitting want them. Otherwise 18 points, as pose editors want them, and the
            feet beside them.
    """
    people = []
    for person in frame["people"]:
        parts = {key: list(person[key]) for key in _LAYOUTS}
        if body_25:
            parts["pose_keypoints_2d"] = body_25_points(parts["pose_keypoints_2d"], parts.pop("foot_keypoints_2d"))
        people.append({"person_id": [person.get("person_id", -1)], **parts})
    return {"version": 1.3, "people": people, **{key: frame[key] for key in ("canvas_height", "canvas_width")}}


def body_25_points(body: Sequence[float], feet: Sequence[float]) -> list[float]:
    """OpenPose's 25 body points, x, y, c, ..., of 18 and the 6 of the feet. The middle hip that comes in is as sure as
    the less sure of the two hips; 0, 0, 0 where one of them is missing."""
    (right_x, right_y, right), (left_x, left_y, left) = (body[3 * i : 3 * i + 3] for i in _HIPS_18)
    middle = [(right_x + left_x) / 2, (right_y + left_y) / 2, min(right, left)]
    middle = middle if min(right, left) > 0 else [0.0, 0.0, 0.0]
    cut = 3 * _HIPS_18[0]
    return [*body[:cut], *middle, *body[cut:], *feet]


def from_openpose(obj: Any, image_size: Sequence[int] | None = None, *, normalized: bool | None = None) -> list[People]:
    """People of each frame of OpenPose JSON in any of the dialects in circulation.

    Read are: a frame, a list of frames, or either as JSON text or bytes; the files of the OpenPose program; flat and
    nested ([[x, y, c], ...]) lists; pixels and fractions of the canvas; bodies of 18, 24 (18 + feet) and 25 (BODY_25)
    points; faces of 70 and 68; parts that are absent, null, empty or all zeros. A point with c <= 0 or a coordinate
    that is not finite is missing: score 0 (its x and y are kept, finite ones). Any other c becomes its score.

    There is no neck among the 133 points: it is written as the middle of the shoulders, so a file with a neck but
    without one of the shoulders loses its neck. The middle hip of BODY_25 is lost, too. Boxes come from `bbox`, else
    from the extent of the visible points; ids from `person_id` where everyone in the frame has one (OpenPose's -1 is
    none). `visibility` is None.

    Args:
        obj: see above. For a file pass its bytes.
        image_size: (H, W) for frames without `canvas_height` and `canvas_width`. Without it they get the canvas of the
            first frame that has one.
        normalized: whether coordinates are fractions of the canvas. None decides for each array: it is in fractions
            if none of its points is further than 2 from the origin. Where fewer than 4 of them are seen, that alone
            says little, and it is in the unit of the person's other arrays, else of the others in `obj`, of all frames;
            where there are no others either, in pixels if a `bbox` reaches further than 2 or the OpenPose program's
            `version` is there.

    Raises:
        ValueError: for anything else, naming frame, person and array: broken JSON, lists of a wrong length, no canvas
            size, animals (AP-10K has 17 other points).
    """
    return list(read_openpose(obj, image_size, normalized=normalized))


def read_openpose(
    obj: Any, image_size: Sequence[int] | None = None, *, normalized: bool | None = None
) -> Iterator[People]:
    """`from_openpose` one frame after another, for who wants to stop in between."""
    frames = _parse(obj)
    for number, frame in enumerate(frames):
        if not isinstance(frame, Mapping):
            raise ValueError(f"frame {number}: expected an object with 'people', got {type(frame).__name__}")
        if "people" not in frame:
            what = "animals; People hold the 133 points of humans" if "animals" in frame else "no 'people'"
            if "image_id" in frame:
                what += ": COCO-WholeBody results are read by formats.from_coco, in ComfyUI by DWPose Convert"
            raise ValueError(f"frame {number}: has {what}")
    canvases = [_canvas_size(frame, number) for number, frame in enumerate(frames)]
    if image_size is None:
        image_size = next((canvas for canvas in canvases if canvas), None)
    others = cache(lambda: _others_are_fractions(frames))
    for number, (frame, canvas) in enumerate(zip(frames, canvases, strict=True)):
        size = canvas or image_size
        if size is None:
            raise ValueError(
                f"frame {number}: has no canvas_height and canvas_width, and no image_size was given: give that, in "
                "ComfyUI connect an image of DWPose Load JSON or Convert, or add the two to the JSON"
            )
        where = f"frame {number}"
        persons = _read_persons(frame["people"], where)
        units = [
            _units(arrays, others) if normalized is None else dict.fromkeys(arrays, normalized) for _, arrays in persons
        ]
        yield _to_people(persons, units, size, where)


def as_frames(people: People | Iterable[People]) -> list[People]:
    """One frame or several as a list. Raises ValueError for what is not People."""
    frames = [people] if isinstance(people, People) else list(people)
    for number, frame in enumerate(frames):
        if not isinstance(frame, People):
            raise ValueError(f"frame {number}: expected People, got {type(frame).__name__}")
    return frames


def extent(xy: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Smallest box (4,) xyxy around one person's points (K, 2) of positive score (K,); zeros where there is none."""
    seen = xy[score > 0]
    return np.concatenate([seen.min(axis=0), seen.max(axis=0)]) if len(seen) else np.zeros(4)


def _parse(obj: Any) -> list:
    if isinstance(obj, (str, bytes, bytearray)):
        try:
            return _parse(json.loads(obj.lstrip("\ufeff") if isinstance(obj, str) else obj))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            named = isinstance(obj, str) and not set("[{\n") & set(obj)
            hint = "; of a file give the contents, not the name" if named else ""
            raise ValueError(f"not JSON ({error}){hint}") from None
    if isinstance(obj, Mapping):
        return [obj]
    if not isinstance(obj, (list, tuple)):
        raise ValueError(f"expected a frame, a list of frames, or their JSON text, got {type(obj).__name__}")
    # ComfyUI's side channel wraps the JSON text of all frames in a list
    return [frame for item in obj for frame in (_parse(item) if isinstance(item, (str, bytes)) else [item])]


def _canvas_size(frame: Mapping, number: int) -> tuple[int, int] | None:
    sides = frame.get("canvas_height"), frame.get("canvas_width")
    if sides == (None, None):
        return None
    try:
        height, width = (round(float(side)) for side in sides)
    except (TypeError, ValueError, OverflowError):
        height = width = 0
    if height < 1 or width < 1:
        raise ValueError(f"frame {number}: canvas_height, canvas_width must be positive numbers, got {sides}")
    return height, width


def _read_persons(persons: Any, where: str) -> list[tuple[Mapping, dict[str, np.ndarray]]]:
    """Each person of a frame, and their points (n, 3) x, y, c by key; none for a part that is absent."""
    persons = [] if persons is None else persons
    if not isinstance(persons, (list, tuple)):
        raise ValueError(f"{where}: 'people' must be a list, got {type(persons).__name__}")
    result = []
    for index, person in enumerate(persons):
        here = f"{where}, person {index}"
        if not isinstance(person, Mapping):
            raise ValueError(
                f"{here}: expected an object with 'pose_keypoints_2d' and the like, got {type(person).__name__}"
            )
        arrays = {key: _read_points(person.get(key), layouts, f"{here}: {key}") for key, layouts in _LAYOUTS.items()}
        result.append((person, arrays))
    return result


def _units(arrays: Mapping[str, np.ndarray], others: Callable[[], bool]) -> dict[str, bool]:
    """Whether each of a person's arrays is in fractions of the canvas; what cannot tell is as the rest of the person,
    and nothing of whom can tell as `others`."""
    units = {key: _are_fractions(points) for key, points in arrays.items() if len(points)}
    if None not in units.values():
        return units
    known = set(units.values()) - {None}
    rest = False not in known if known else others()
    return {key: rest if unit is None else unit for key, unit in units.items()}


def _are_fractions(points: np.ndarray) -> bool | None:
    """Whether points (n, 3) are fractions of the canvas; None where so few of them cannot tell."""
    if (np.abs(points[:, :2]) > _FRACTION).any():
        return False
    return True if (points[:, 2] > 0).sum() >= _POSE else None


def _others_are_fractions(frames: Sequence[Mapping]) -> bool:
    """The unit of people nothing of whom can tell it: that of everybody else, else what the boxes say."""
    # The OpenPose program, whose files have a version and no box, writes pixels.
    units, far_box = set(), any(isinstance(frame.get("version"), (int, float)) for frame in frames)
    for number, frame in enumerate(frames):
        for index, (person, arrays) in enumerate(_read_persons(frame["people"], f"frame {number}")):
            units |= {_are_fractions(points) for points in arrays.values()}
            box = _read_numbers(person.get("bbox"), (0, 4), f"frame {number}, person {index}: bbox")
            far_box |= bool((np.abs(box) > _FRACTION).any())
    return False not in units if units & {True, False} else not far_box


def _to_people(
    persons: Sequence[tuple[Mapping, dict[str, np.ndarray]]],
    units: Sequence[Mapping[str, bool]],
    size: Sequence[int],
    where: str,
) -> People:
    """People of `_read_persons`, with `_units` of each of them."""
    count = len(persons)
    xy, score = np.zeros((count, NUM_KEYPOINTS, 2), np.float32), np.zeros((count, NUM_KEYPOINTS), np.float32)
    box, box_score = np.zeros((count, 4), np.float32), np.ones(count, np.float32)
    ids = []
    scale = np.array([size[1], size[0]], np.float64)
    for index, ((person, arrays), fractions) in enumerate(zip(persons, units, strict=True)):
        here = f"{where}, person {index}"
        for key, points in arrays.items():
            if fractions.get(key):
                points[:, :2] *= scale
            if len(points) == 70:
                points[68:, 2] = 0  # the body has its own eyes: what a face says of them is only where they are
            target = np.array(_LAYOUTS[key].get(len(points), []), np.int64)
            new = (target >= 0) & (score[index, target] <= 0)
            xy[index, target[new]], score[index, target[new]] = points[new, :2], points[new, 2]
        box[index] = extent(xy[index], score[index])
        corner = _read_numbers(person.get("bbox"), (0, 4), f"{here}: bbox")
        if corner.size and np.isfinite(corner).all():
            if any(fractions.values()) and (np.abs(corner) <= _FRACTION).all():  # some divide the points only
                corner *= np.tile(scale, 2)
            box[index] = [*corner[:2], *(corner[:2] + corner[2:])]
        value = _read_numbers(person.get("score"), (0, 1), f"{here}: score")
        if value.size and np.isfinite(value).all():
            box_score[index] = value[0]
        value = _read_numbers(person.get("person_id"), (0, 1), f"{here}: person_id")
        if not (np.abs(value) < 2**63).all():  # NaN, too
            raise ValueError(f"{here}: person_id: expected a whole number, got {value[0]:g}")
        ids.append(int(value[0]) if value.size else -1)
    known = ids and min(ids) >= 0 and len(set(ids)) == len(ids)  # OpenPose itself writes [-1] for everybody
    return People(xy, score, box, box_score, tuple(size), id=np.array(ids) if known else None)


def _read_points(value: Any, layouts: Mapping[int, list], where: str) -> np.ndarray:
    """(n, 3) float64 x, y, c with n one of the layouts; (0, 3) for an absent part."""
    if isinstance(value, (list, tuple)) and any(isinstance(point, (list, tuple)) for point in value):
        points = [(0, 0, 0) if point is None else point for point in value]
        if any(not isinstance(point, (list, tuple)) or len(point) != 3 for point in points):
            raise ValueError(f"{where}: a nested list must hold x, y, c of each point")
        value = [number for point in points for number in point]
    numbers = _read_numbers(value, (0, *(3 * count for count in layouts)), where).reshape(-1, 3)
    numbers[~np.isfinite(numbers).all(axis=1)] = 0
    numbers[:, 2] = np.maximum(numbers[:, 2], 0)
    return numbers if numbers.any() else numbers[:0]


def _read_numbers(value: Any, lengths: Sequence[int], where: str) -> np.ndarray:
    """A new flat float64 array of one of the lengths; a number is one, None is none."""
    try:
        numbers = np.array([] if value is None else value, np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: expected a list of numbers, got {str(value)[:60]!r}") from None
    if len(numbers) not in lengths:
        wanted = " or ".join(str(length) for length in lengths if length)
        raise ValueError(f"{where}: has {len(numbers)} numbers; expected {wanted}")
    return numbers
