"""Keypoints of several clips put together, and clips on another time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .people import SEEN, People


def together(first: Sequence[People], second: Sequence[People]) -> list[People]:
    """The people of both clips in every frame, in pixels of the first one's image. The shorter clip's last frame goes
    on until the longer one ends. Ids stay apart where both clips have some, else there are none.

    Raises:
        ValueError: where one of them has no frames.
    """
    first, second = _both(first, second)
    count = max(len(first), len(second))
    last = max((int(people.id.max()) for people in first if people.id is not None and len(people)), default=-1)
    result = []
    for number in range(count):
        one, other = first[min(number, len(first) - 1)], second[min(number, len(second) - 1)]
        has_ids = all(people.id is not None or not len(people) for people in (one, other))
        ids = [[] if people.id is None else people.id for people in (one, other)]
        has_visibility = one.visibility is not None and other.visibility is not None
        result.append(
            replace(
                one,
                **{
                    name: np.concatenate([getattr(one, name), getattr(other, name)])
                    for name in ("xy", "score", "box", "box_score")
                },
                id=np.concatenate([ids[0], np.asarray(ids[1], np.int64) + last + 1]) if has_ids else None,
                visibility=np.concatenate([one.visibility, other.visibility]) if has_visibility else None,
            )
        )
    return result


def one_after_another(first: Sequence[People], second: Sequence[People]) -> list[People]:
    """The frames of the second clip behind those of the first, in pixels of its image. Ids stay as they are.

    Raises:
        ValueError: where one of them has no frames.
    """
    return [frame for clip in _both(first, second) for frame in clip]


def resample(frames: Sequence[People], times: Sequence[float]) -> list[People]:
    """The clip at other times, counted in its frames: 0.5 is half way between the first two.

    A point between two frames lies on the straight line between its places, with the lower of the two scores, if it is
    seen in both; else it is as in the nearer frame. The same goes for whole people. People are the same if they have
    the same id, or, without ids, the same place in the frame.

    Raises:
        ValueError: for times outside of the clip.
    """
    frames, times = list(frames), np.asarray(times, np.float64)
    if not frames or (len(times) and not 0 <= times.min() <= times.max() <= len(frames) - 1):
        raise ValueError(f"times must lie in the clip's 0..{len(frames) - 1}, got {times}")
    result = []
    for time in times.tolist():
        start = min(int(time), max(len(frames) - 2, 0))
        share = time - start
        near, far = frames[start], frames[min(start + 1, len(frames) - 1)]
        if share > 0.5:
            near, far, share = far, near, 1 - share
        result.append(_toward(near, far, share))
    return result


def _toward(near: People, far: People, share: float) -> People:
    """The people of `near`, moved to those of `far` by a share of 0..0.5."""
    if share == 0 or not len(near) or not len(far):
        return near
    keys = [np.arange(len(people)) if people.id is None else people.id for people in (near, far)]
    if (near.id is None) != (far.id is None):
        return near  # nobody knows who is who
    xy, score, box = near.xy.copy(), near.score.copy(), near.box.copy()
    for row, key in enumerate(keys[0].tolist()):
        for other in np.flatnonzero(keys[1] == key):
            seen = (near.score[row] >= SEEN) & (far.score[other] >= SEEN)
            xy[row, seen] += np.float32(share) * (far.xy[other, seen] - near.xy[row, seen])
            score[row, seen] = np.minimum(near.score[row, seen], far.score[other, seen])
            box[row] += np.float32(share) * (far.box[other] - near.box[row])
    return replace(near, xy=xy, score=score, box=box)


def _both(first: Sequence[People], second: Sequence[People]) -> tuple[list[People], list[People]]:
    first, second = list(first), list(second)
    if not first or not second:
        raise ValueError("both clips need at least one frame")
    size = first[0].image_size
    return [_fit(frame, size) for frame in first], [_fit(frame, size) for frame in second]


def _fit(people: People, size: tuple[int, int]) -> People:
    """In pixels of an image of another size (H, W)."""
    scale = np.float32([size[1] / people.image_size[1], size[0] / people.image_size[0]])
    return replace(people, xy=people.xy * scale, box=people.box * np.tile(scale, 2), image_size=size)
