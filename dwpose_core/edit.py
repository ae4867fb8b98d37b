"""People changed on purpose: moved, mirrored, fitted to another person's proportions; and one of them picked out.

All coordinates are pixels of the image the People belong to. Every function returns new People.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .openpose import extent
from .people import SEEN, People
from .skeleton import FLIP_INDICES, PARTS

_LEFT_HIP, _RIGHT_HIP, _LEFT_SHOULDER, _RIGHT_SHOULDER = 11, 12, 5, 6

# The body as a tree of (joint, parent), outwards from the middle of the hips (-1) through the neck (-2), the middle of
# the shoulders. Left and right of a limb get the same length, so that a turned body stays straight.
_TREE = (
    *((5, -2), (6, -2), (7, 5), (8, 6), (9, 7), (10, 8)),
    *((11, -1), (12, -1), (13, 11), (14, 12), (15, 13), (16, 14)),
    *((0, -2), (1, 0), (2, 0), (3, 1), (4, 2)),
)
_FEET = ((slice(17, 20), 15), (slice(20, 23), 16))
_HANDS = (("left_hand", 9, 7), ("right_hand", 10, 8))
# A bone seen end-on is short for the moment. Its true length is near the longest it was seen with.
_LENGTH_PERCENTILE = 90.0
# Limb ratios outside of this are a mismatch of the two people, not their proportions.
_RATIO = (0.4, 2.5)


def affine(
    people: People,
    *,
    scale: float = 1.0,
    rotate: float = 0.0,
    move: tuple[float, float] = (0.0, 0.0),
    center: tuple[float, float] | None = None,
) -> People:
    """Scaled and turned about `center` (x, y), then moved by (x, y) pixels.

    Args:
        scale: factor, > 0.
        rotate: degrees, clockwise as seen in the image.
        center: None is the middle of the image.

    Raises:
        ValueError: for a scale that is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    height, width = people.image_size
    pivot = np.float32(((width - 1) / 2, (height - 1) / 2) if center is None else center)
    angle = np.deg2rad(rotate)
    turn = np.float32([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * np.float32(scale)
    shift = pivot + np.float32(move)

    def place(xy: np.ndarray) -> np.ndarray:
        return (xy - pivot) @ turn + shift

    corners = people.box[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (P, 4, 2)
    corners = place(corners - np.float32(0.5)) + np.float32(0.5)  # whole numbers are a box's edges, a point's centres
    return replace(people, xy=place(people.xy), box=np.concatenate([corners.min(1), corners.max(1)], axis=1))


def mirror(people: People) -> People:
    """The people of the mirrored image: x is flipped, and what was a left hand is a right hand."""
    width = people.image_size[1]
    xy = people.xy[:, FLIP_INDICES].copy()
    xy[..., 0] = width - 1 - xy[..., 0]  # pixel centres are whole numbers
    x1, y1, x2, y2 = people.box.T
    visibility = None if people.visibility is None else people.visibility[:, FLIP_INDICES]
    return replace(
        people,
        xy=xy,
        score=people.score[:, FLIP_INDICES],
        visibility=visibility,
        box=np.stack([width - x2, y1, width - x1, y2], axis=1),
    )


def fit(people: People, size: tuple[int, int], how: str = "stretch") -> People:
    """The people of the image brought to another `size` (H, W).

    Args:
        how: "stretch" scales each axis by itself; "crop" and "pad" keep the shape of people and put the middle of the
            image in the middle: "crop" fills the size and cuts what is too much (as ComfyUI crops hints), "pad" shows
            all of the image.

    Raises:
        ValueError: for another way.
    """
    old, new = (np.float32((side[1], side[0])) for side in (people.image_size, size))
    factor = new / old
    if how in ("crop", "pad"):
        factor = np.full(2, factor.max() if how == "crop" else factor.min())
    elif how != "stretch":
        raise ValueError(f"people are fitted by 'stretch', 'crop' or 'pad', got {how!r}")
    shift = (new - old * factor) / 2
    box = (people.box.reshape(-1, 2, 2) * factor + shift).reshape(-1, 4)
    return replace(people, xy=people.xy * factor + shift, box=box, image_size=size)


def align(frames: Sequence[People], reference: People, actor: int | None = None) -> list[People]:
    """The whole clip moved and scaled by one rule, so that its first person, or the one of the id `actor`, stands where
    `reference` stands.

    Place and scale come from the torso (middle of the hips, distance to the neck) in the first frame that shows it;
    where the reference or every frame hides it, from the shoulders (their middle and distance), else from the box. The
    clip gets the reference's image size, and all of its frames keep their motion, scaled. The person is followed by
    their id where they have one, else taken as the first of each frame.

    Raises:
        ValueError: when the reference or every frame is empty, or nobody has that id.
    """
    frames, goal = list(frames), _first(reference)
    (root, size), (goal_root, goal_size) = _common_anchor(_appearances(frames, follow(frames, actor=actor)), goal)
    factor, result = goal_size / size, []
    for people in frames:
        corner = people.box.reshape(-1, 2, 2)
        result.append(
            replace(
                people,
                xy=(people.xy - root) * factor + goal_root,
                box=((corner - root) * factor + goal_root).reshape(-1, 4),
                image_size=reference.image_size,
            )
        )
    return result


def retarget(frames: Sequence[People], reference: People, actor: int | None = None) -> list[People]:
    """The motion of a clip on the body of `reference`: each limb keeps its direction and takes on the length that the
    reference's proportions give it.

    Every limb's length relative to the torso is compared between clip and reference; the clip's limbs are scaled by the
    ratio, from the hips outwards. Limbs pointing at the camera look short: of left and right the longer one counts, of
    the clip its 90th percentile. Where clip or reference hides the hips, as a portrait does, lengths are relative to
    the shoulders' width; limbs that one of them hides stay as long as they are. Hands go with the forearm's ratio, feet
    with the shin's, the face with the head's. The person keeps place and overall size; `align` moves it to the
    reference's. People are followed by their ids where they have some, else taken as the first of each frame; with
    `actor` it is the person of that id.

    Raises:
        ValueError: when the reference or every frame is empty, or nobody has that id.
    """
    frames, goal = list(frames), _first(reference)
    picks = follow(frames, actor=actor)
    own = np.stack([_limb_lengths(person) for person in _appearances(frames, picks)])  # (frames, 2, limbs)
    own = np.array([[_robust(limb) for limb in unit.T] for unit in own.transpose(1, 0, 2)])
    theirs = _limb_lengths(goal)
    ratios = np.array([_pair_ratio(i, own, theirs) for i in range(len(_TREE))])
    result = []
    for people, p in zip(frames, picks, strict=True):
        if p is None:
            result.append(people)
            continue
        xy, box = people.xy.copy(), people.box.copy()
        xy[p] = _rebuild(people.xy[p], ratios)
        if (people.score[p] >= SEEN).any():
            box[p] = extent(xy[p], np.where(people.score[p] >= SEEN, 1, 0))
        result.append(replace(people, xy=xy, box=box))
    return result


def _first(reference: People) -> People:
    if not len(reference):
        raise ValueError("there is nobody in the reference")
    return reference[0]


def follow(frames: Sequence[People], person: int = 0, actor: int | None = None) -> list[int | None]:
    """The row in each frame of one person of a clip, None where they are away.

    It is who stands in row `person` of the first frame that has so many people, found again by id. People without ids
    are told apart by their row alone. With `actor` it is the person of that id.
    """
    if actor is not None:
        return [None if people.id is None else _row(people, person, actor) for people in frames]
    start = next((people for people in frames if len(people) > person), None)
    if start is None:
        return [None] * len(frames)
    key = None if start.id is None else int(start.id[person])
    return [_row(people, person, key) for people in frames]


def _row(people: People, person: int, key: int | None) -> int | None:
    if key is None or people.id is None:
        return person if person < len(people) else None
    found = np.flatnonzero(people.id == key)
    return int(found[0]) if len(found) else None


def _appearances(frames: Sequence[People], picks: Sequence[int | None]) -> list[People]:
    """One person of the clip, as often as they are in it. Raises ValueError where they never are."""
    found = [people[p] for people, p in zip(frames, picks, strict=True) if p is not None]
    if not found:
        raise ValueError("there is nobody in the clip")
    return found


def _middle(xy: np.ndarray, score: np.ndarray, a: int, b: int) -> np.ndarray | None:
    seen = [i for i in (a, b) if score[i] >= SEEN]
    return xy[seen].mean(0) if seen else None


Anchor = tuple[np.ndarray, float]  # a point of the body, and a size in pixels


def _torso(person: People) -> Anchor | None:
    xy, score = person.xy[0], person.score[0]
    hips = _middle(xy, score, _LEFT_HIP, _RIGHT_HIP)
    neck = _middle(xy, score, _LEFT_SHOULDER, _RIGHT_SHOULDER)
    if hips is None or neck is None or np.linalg.norm(neck - hips) <= 1:
        return None
    return hips, float(np.linalg.norm(neck - hips))


def _shoulders(person: People) -> Anchor | None:
    left, right = person.xy[0, _LEFT_SHOULDER], person.xy[0, _RIGHT_SHOULDER]
    width = float(np.linalg.norm(left - right))
    if person.score[0, [_LEFT_SHOULDER, _RIGHT_SHOULDER]].min() < SEEN or width <= 1:
        return None
    return (left + right) / 2, width


def _box(person: People) -> Anchor:
    x1, y1, x2, y2 = person.box[0]
    return np.float32([(x1 + x2) / 2, (y1 + y2) / 2]), float(max(y2 - y1, 1))


def _common_anchor(actor: Sequence[People], goal: People) -> tuple[Anchor, Anchor]:
    """The same thing in the first frame of `actor` that shows it and in `goal`: torso, else shoulders, else box."""
    for kind in (_torso, _shoulders):
        there = kind(goal)
        here = next((anchor for person in actor if (anchor := kind(person)) is not None), None)
        if here is not None and there is not None:
            return here, there
    return _box(actor[0]), _box(goal)


def _joints(xy: np.ndarray) -> np.ndarray:
    """Body points and the two middles, so that -1 is the hips and -2 the neck: (19, 2)."""
    body = xy[PARTS["body"]]
    return np.concatenate([body, xy[[5, 6]].mean(0, keepdims=True), xy[[11, 12]].mean(0, keepdims=True)])


def _limb_lengths(person: People) -> np.ndarray:
    """Length of each limb of `_TREE` over the torso's and over the shoulders' width: (2, limbs), NaN where not seen."""
    score = person.score[0]
    joints = _joints(person.xy[0])
    seen = np.concatenate([score[PARTS["body"]], [score[[5, 6]].min(), score[[11, 12]].min()]]) >= SEEN
    units = np.float64([np.linalg.norm(joints[-2] - joints[-1]), np.linalg.norm(joints[5] - joints[6])])
    units[[not (seen[-1] and seen[-2]), not seen[-2]]] = np.nan
    units[~(units > 1)] = np.nan
    lengths = np.full(len(_TREE), np.nan)
    for i, (joint, parent) in enumerate(_TREE):
        if seen[joint] and seen[parent]:
            lengths[i] = np.linalg.norm(joints[joint] - joints[parent])
    return lengths / units[:, None]


def _robust(lengths: np.ndarray) -> float:
    known = lengths[np.isfinite(lengths)]
    return float(np.percentile(known, _LENGTH_PERCENTILE)) if len(known) else np.nan


# Of two limbs that mirror each other, the position of the other.
_TWIN = {0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4, 6: 7, 7: 6, 8: 9, 9: 8, 10: 11, 11: 10, 13: 14, 14: 13, 15: 16, 16: 15}


def _pair_ratio(limb: int, own: np.ndarray, theirs: np.ndarray) -> float:
    """Of lengths (2, limbs), in the first unit that both sides have them in; 1 where there is none.

    The longer twin counts: of two forearms one may point at the camera, and people's sides are alike.
    """
    pair = [limb, _TWIN.get(limb, limb)]
    for lengths in zip(own[:, pair], theirs[:, pair], strict=True):
        a, b = (np.nan if np.isnan(side).all() else np.nanmax(side) for side in lengths)
        if a > 0 and b > 0:
            return float(np.clip(b / a, *_RATIO))
    return 1.0


def _rebuild(xy: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """One person's 133 points with every limb scaled."""
    old = _joints(xy)
    new = old.copy()
    for ratio, (joint, parent) in zip(ratios, _TREE, strict=True):
        new[joint] = new[parent] + (old[joint] - old[parent]) * ratio
    result = xy.copy()
    result[PARTS["body"]] = new[:17]
    by_limb = dict(zip(_TREE, ratios, strict=True))
    for part, wrist, elbow in _HANDS:
        points = PARTS[part]
        result[points] = new[wrist] + (xy[points] - old[wrist]) * by_limb[wrist, elbow]
    for points, ankle in _FEET:
        result[points] = new[ankle] + (xy[points] - old[ankle]) * by_limb[ankle, ankle - 2]
    face = PARTS["face"]
    result[face] = new[0] + (xy[face] - old[0]) * np.mean([by_limb[1, 0], by_limb[2, 0]])
    return result


def select_per_frame(
    frames: Sequence[People], by: str, *, index: int = 0, count: int = 1, masks: Sequence[np.ndarray] | None = None
) -> list[People]:
    """The `count` best people of each frame, best first, starting from the `index`-th.

    Args:
        by: "largest" (box area), "centre" (nearest to the middle of the image), "score" (box score), "index" (the
            order of the frame), "left" (from left to right), "mask" (share of seen points inside).
        masks: for "mask", (h, w) bool each, of any size; the last one serves for the frames that follow.
    """
    result = []
    for number, people in enumerate(frames):
        rank = people_rank(people, by, None if masks is None else masks[min(number, len(masks) - 1)])
        result.append(people[np.argsort(rank, kind="stable")[index : index + count]])
    return result


def select_tracks(
    frames: Sequence[People], by: str, *, index: int = 0, count: int = 1, masks: Sequence[np.ndarray] | None = None
) -> list[People]:
    """As `select_per_frame`, but the same people in all frames, chosen once by their mean rank over the clip.

    Somebody who is rarely seen is worth less: the mean counts missing frames as the last rank of all.

    Raises:
        ValueError: for frames without ids; run `tracking.track` first.
    """
    if any(len(people) and people.id is None for people in frames):
        raise ValueError("people are followed by their ids: run track first, these people have none")
    most = max((len(people) for people in frames), default=0)
    places: dict[int, list[float]] = {}
    for number, people in enumerate(frames):
        rank = people_rank(people, by, None if masks is None else masks[min(number, len(masks) - 1)])
        for place, p in enumerate(np.argsort(rank, kind="stable").tolist()):
            places.setdefault(int(people.id[p]), []).append(place)
    value = {key: (sum(seen) + most * (len(frames) - len(seen))) / len(frames) for key, seen in places.items()}
    chosen = sorted(value, key=lambda key: (value[key], key))[index : index + count]
    return select_ids(frames, chosen)


def select_ids(frames: Sequence[People], ids: Sequence[int]) -> list[People]:
    """The people with these ids, in this order; people without ids are counted from 0 in every frame."""
    result = []
    for people in frames:
        own = list(range(len(people))) if people.id is None else people.id.tolist()
        result.append(people[np.array([own.index(key) for key in ids if key in own], np.int64)])
    return result


def people_rank(people: People, by: str, mask: np.ndarray | None = None) -> np.ndarray:
    """A number per person (P,), lower is better; see `select_per_frame`. Who has no point is last, but in "index"."""
    if by == "index":
        return np.arange(len(people), dtype=np.float32)
    # Files list such people, too, with zeros, as if they stood in the corner.
    return np.where((people.score > 0).any(axis=1), _rank(people, by, mask), np.inf)


def _rank(people: People, by: str, mask: np.ndarray | None) -> np.ndarray:
    size = people.box[:, 2:] - people.box[:, :2]
    middle = (people.box[:, 2:] + people.box[:, :2]) / 2
    height, width = people.image_size
    if by == "largest":
        return -size.prod(axis=1)
    if by == "centre":
        return np.linalg.norm(middle - np.float32([width / 2, height / 2]), axis=1)
    if by == "score":
        return -people.box_score
    if by == "left":
        return middle[:, 0]
    if by == "mask":
        if mask is None:
            raise ValueError("to select by mask, give a mask")
        rows, columns = mask.shape
        x = (people.xy[..., 0] * (columns / width)).astype(np.int64).clip(0, columns - 1)
        y = (people.xy[..., 1] * (rows / height)).astype(np.int64).clip(0, rows - 1)
        seen = people.score >= SEEN
        return -(mask[y, x] & seen).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    raise ValueError(f"cannot select by {by!r}; choose largest, centre, score, index, left or mask")
