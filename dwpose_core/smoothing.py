"""Corrections that look at a whole clip, both ways in time: no delay, but the clip has to be there.

`tracking` has the filters for frames that arrive one by one. Frames need ids (`tracking.track`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from .people import SEEN, People
from .skeleton import NUM_KEYPOINTS

# Limbs from the middle outwards, as (inner, outer) COCO points: a wrong elbow must not cost the wrist its place, too.
_LIMBS = ((5, 7), (6, 8), (7, 9), (8, 10), (11, 13), (12, 14), (13, 15), (14, 16), (0, 1), (0, 2), (1, 3), (2, 4))
# Frames to both sides in which a limb's usual length is looked for: people come nearer and walk away.
_NEIGHBOURHOOD = 15


def savitzky_golay(frames: Iterable[People], window: int = 9, order: int = 2) -> list[People]:
    """Every point replaced by a polynomial through its neighbours in time (Savitzky and Golay, 1964), weighted by
    score: nothing lags behind, and fast movements keep their height better than under an average.

    Where fewer than `order` + 1 neighbours are seen (score >= 0.3), and for points that are not seen, coordinates stay
    as they are. Scores and boxes do not change.

    Args:
        window: frames, odd; at the ends of a clip the half that exists.
        order: of the polynomial.

    Raises:
        ValueError: for a window that is even or not longer than `order`, and for people without ids.
    """
    frames = list(frames)
    if window % 2 != 1 or not 0 <= order < window:
        raise ValueError(f"window must be an odd number of frames above the order, got {window} and order {order}")
    half = window // 2
    smoothed = [people.xy.copy() for people in frames]
    for rows, xy, score in _tracks(frames):
        count = len(frames)
        weight = np.where(score >= SEEN, score, 0.0)  # (T, K)
        padded = np.pad(weight, ((half, half), (0, 0)))
        values = np.pad(xy, ((half, half), (0, 0), (0, 0)))
        # Normal equations of a fit around each frame: sums of w u^m and of w u^m x over the window, u = -1..1.
        moments = np.zeros((2 * order + 1, count, NUM_KEYPOINTS))
        sides = np.zeros((order + 1, count, NUM_KEYPOINTS, 2))
        for step in range(-half, half + 1):
            u = step / max(half, 1)
            near = slice(half + step, half + step + count)
            for power in range(2 * order + 1):
                moments[power] += padded[near] * u**power
            for power in range(order + 1):
                sides[power] += (padded[near] * u**power)[..., None] * values[near]
        number = np.add(*np.indices((order + 1, order + 1)))
        system = moments[number].transpose(2, 3, 0, 1)  # (T, K, order + 1, order + 1)
        seen = np.stack([padded[i : i + count] > 0 for i in range(window)]).sum(0)
        fit = (seen > order) & (weight > 0)
        centre = np.linalg.solve(system[fit], sides.transpose(1, 2, 0, 3)[fit])[:, 0]  # the polynomial at u = 0
        xy = xy.copy()
        xy[fit] = centre
        for number, row in rows.items():
            smoothed[number][row] = xy[number]
    return [replace(people, xy=xy) for people, xy in zip(frames, smoothed, strict=True)]


def drop_outliers(frames: Iterable[People], factor: float = 1.6) -> list[People]:
    """Ends of limbs that are thrown far away for a moment, marked as not seen (score 0): limbs more than `factor` times
    as long as they usually are in the second around. `tracking.fill_gaps` puts the points back where they belong.

    Limbs look shorter when they point at the camera, never longer, so only length counts. "Usually" is the median of
    the 31 frames around, so a person may come nearer.

    Raises:
        ValueError: for a factor of 1 or less, and for people without ids.
    """
    if not factor > 1:
        raise ValueError(f"factor must be above 1 (limbs are as long as usual), got {factor}")
    frames = list(frames)
    scores = [people.score.copy() for people in frames]
    for rows, xy, score in _tracks(frames):
        seen = score >= SEEN
        for inner, outer in _LIMBS:
            length = np.linalg.norm(xy[:, inner] - xy[:, outer], axis=-1)
            known = seen[:, inner] & seen[:, outer]
            padded = np.pad(np.where(known, length, np.nan), _NEIGHBOURHOOD, constant_values=np.nan)
            around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEIGHBOURHOOD + 1)  # (T, 31)
            for number in np.flatnonzero(known)[length[known] > factor * np.nanmedian(around[known], axis=1)]:
                seen[number, outer] = False
                scores[number][rows[number], outer] = 0
    return [replace(people, score=score) for people, score in zip(frames, scores, strict=True)]


def _tracks(frames: Sequence[People]) -> Iterator[tuple[dict[int, int], np.ndarray, np.ndarray]]:
    """For each id: {frame: row in it}, xy (T, K, 2) float64 and score (T, K), zeros where the person is not."""
    tracks: dict[int, dict[int, int]] = {}
    for number, people in enumerate(frames):
        if len(people) and people.id is None:
            raise ValueError("people are followed by their ids: run track first, these people have none")
        for row, id in enumerate([] if people.id is None else people.id.tolist()):
            tracks.setdefault(id, {})[number] = row
    for rows in tracks.values():
        xy, score = np.zeros((len(frames), NUM_KEYPOINTS, 2)), np.zeros((len(frames), NUM_KEYPOINTS))
        for number, row in rows.items():
            xy[number], score[number] = frames[number].xy[row], frames[number].score[row]
        yield rows, xy, score
