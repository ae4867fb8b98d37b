"""The 1 Euro filter: keypoints of a video without jitter, frame by frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .people import SEEN, People
from .skeleton import NUM_KEYPOINTS


class OneEuro:
    """The 1 Euro filter (Casiez, Roussel and Vogel, CHI 2012) on all points of all people at once.

    A low-pass filter whose cutoff rises with speed, cutoff = min_cutoff + beta * speed: a still point is held still, a
    fast one is followed. Speed is counted in person sizes (square root of the box area) per second, so that one setting
    serves any resolution. At constant speed a point is never further behind than 1 / (2 pi beta) person sizes: 0.8 % by
    default.

    Points with a low score pull less: their cutoffs are multiplied by half of score / threshold (at most 1). A point
    seen neither in the frame before nor in the last `memory` seconds starts afresh instead of sliding over from where
    it was. Scores do not change.

    Args:
        min_cutoff: Hz, 1 in the paper's recipe: lower it against jitter of still points.
        beta: Hz per (person size / second): raise it against lag. Scale-free variant of the paper's; of the order of
            MediaPipe's pose filter (80, on a lower min_cutoff).
        speed_cutoff: Hz of the low-pass on the speed itself, 1 in the paper.
        memory: seconds.
        threshold: score from which a point counts as seen.
    """

    def __init__(
        self,
        *,
        min_cutoff: float = 1.0,
        beta: float = 20.0,
        speed_cutoff: float = 1.0,
        memory: float = 0.25,
        threshold: float = SEEN,
    ):
        if not (min_cutoff > 0 and beta >= 0 and speed_cutoff > 0 and memory >= 0):
            raise ValueError(
                f"min_cutoff and speed_cutoff must be > 0 Hz, beta and memory >= 0; "
                f"got {min_cutoff}, {speed_cutoff}, {beta} and {memory}"
            )
        self.min_cutoff, self.beta, self.speed_cutoff, self.memory = min_cutoff, beta, speed_cutoff, memory
        self.threshold = max(threshold, 1e-6)  # at 0 everything is seen
        self._rows: dict[int, int] = {}  # id -> row of the arrays below
        self._xy = np.zeros((0, NUM_KEYPOINTS, 2))
        self._speed = np.zeros((0, NUM_KEYPOINTS, 2))  # person sizes per second
        self._time = np.zeros(0)  # of the last update
        self._seen = np.zeros((0, NUM_KEYPOINTS))  # when each point was last seen

    def push(self, people: People, time: float) -> People:
        """The next frame at `time` seconds, with filtered `xy`."""
        if people.id is None:
            raise ValueError("people are smoothed one by one: run track first, these people have no ids")
        rows = np.array([self._row(id) for id in people.id.tolist()], np.int64)
        raw = people.xy.astype(np.float64)
        step = time - self._time[rows][:, None]  # (P, 1) seconds; infinite for a new person
        if (step <= 0).any():
            raise ValueError(f"times of frames must rise, got {time} after {self._time[rows].max()}")
        seen = people.score >= self.threshold
        last = self._time[rows][:, None]
        unseen = (self._seen[rows] < last) | np.isinf(last)  # in the frame before, or there was none
        fresh = unseen & (time - self._seen[rows] > self.memory)  # (P, K)
        sides = (people.box[:, 2:] - people.box[:, :2]).astype(np.float64).clip(min=1)
        size = np.sqrt(sides.prod(-1))[:, None, None]
        old, old_speed = self._xy[rows], self._speed[rows]
        weight = np.clip(people.score / (2 * self.threshold), 0, 1)
        speed = (raw - old) / (size * step[..., None])
        speed = old_speed + _rate(self.speed_cutoff * weight, step)[..., None] * (speed - old_speed)
        speed[fresh] = 0
        cutoff = (self.min_cutoff + self.beta * np.linalg.norm(speed, axis=-1)) * weight
        xy = old + _rate(cutoff, step)[..., None] * (raw - old)
        xy[fresh] = raw[fresh]
        self._xy[rows], self._speed[rows], self._time[rows] = xy, speed, time
        self._seen[rows] = np.where(seen, time, self._seen[rows])
        self._forget(time)
        return replace(people, xy=xy.astype(np.float32))

    def _row(self, id: int) -> int:
        if id not in self._rows:
            self._rows[id] = len(self._time)
            empty = np.zeros((1, NUM_KEYPOINTS, 2))
            self._xy, self._speed = np.concatenate((self._xy, empty)), np.concatenate((self._speed, empty))
            self._time = np.append(self._time, -np.inf)
            self._seen = np.concatenate((self._seen, np.full((1, NUM_KEYPOINTS), -np.inf)))
        return self._rows[id]

    def _forget(self, time: float) -> None:
        """Drop those whose every point would start afresh anyway, so that a long video does not pile up tracks."""
        keep = time - self._time <= self.memory
        if keep.all():
            return
        kept = np.flatnonzero(keep)
        new_row = {int(row): i for i, row in enumerate(kept)}
        self._rows = {id: new_row[row] for id, row in self._rows.items() if row in new_row}
        self._xy, self._speed, self._time, self._seen = (
            state[kept] for state in (self._xy, self._speed, self._time, self._seen)
        )


def _rate(cutoff: np.ndarray | float, step: np.ndarray) -> np.ndarray:
    """Share of a new value in an exponential filter of that cutoff (Hz) after `step` seconds: the paper's alpha."""
    ratio = 2 * np.pi * cutoff * np.where(np.isfinite(step), step, 1)
    return ratio / (1 + ratio)
