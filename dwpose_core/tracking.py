"""Keypoints of a video made steady: ids, gaps, jitter.

    track -> fill_gaps -> smooth        each a function of all frames, and a class for frames that arrive one by one

`Steady` is the three of them in a row for a video of any length: memory holds a few frames, never the film.
Legend: T tracks, P people of a frame, K = 133 keypoints.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .one_euro import OneEuro
from .people import SEEN, People
from .skeleton import NUM_KEYPOINTS, OKS_SIGMAS, PARTS

_BODY = PARTS["body"]
# OKS falls off with (2 sigma)^2 (COCO keypoint evaluation).
_TOLERANCE = (2 * OKS_SIGMAS[_BODY]) ** 2
# Fewer common body points than this say nothing about a pose; boxes alone decide then.
_MIN_COMMON = 3
# A track that is not seen coasts: its speed falls to this share every frame, as people rarely keep going unseen.
_COAST = 0.95
# How fast the estimate of a track's speed follows its boxes, per frame.
_SPEED_RATE = 0.5
# Frames without somebody who is followed after which their place is free: a third of a second, longer than most hide.
_PATIENCE = 10


def track(
    frames: Iterable[People],
    *,
    max_age: int = 30,
    min_similarity: float = 0.2,
    max_people: int | None = None,
    threshold: float = SEEN,
) -> list[People]:
    """The same frames with ids: a person keeps their id from frame to frame, also through gaps of `max_age` frames.

    See `Tracker` for how people are matched, and what `max_people` keeps.
    """
    tracker = Tracker(max_age=max_age, min_similarity=min_similarity, max_people=max_people, threshold=threshold)
    return [tracker.push(people) for people in frames]


def fill_gaps(frames: Iterable[People], max_gap: int = 5, *, threshold: float = SEEN) -> list[People]:
    """People and points that go missing for up to `max_gap` frames, put back by straight lines. See `GapFiller`."""
    filler = GapFiller(max_gap, threshold=threshold)
    return [done for people in frames for done in filler.push(people)] + filler.flush()


def smooth(
    frames: Iterable[People],
    fps: float | None = None,
    *,
    times: Sequence[float] | None = None,
    min_cutoff: float = 1.0,
    beta: float = 20.0,
    speed_cutoff: float = 1.0,
    threshold: float = SEEN,
) -> list[People]:
    """Keypoints without jitter. Frames need ids (`track`) and either `fps` or their `times` in seconds.

    See `OneEuro` for the parameters.

    Raises:
        ValueError: without fps and times, for times that are not as many as frames or do not rise, and without ids.
    """
    frames = list(frames)
    if times is None:
        if fps is None or not fps > 0:
            raise ValueError(f"smooth needs fps > 0, or the times of the frames in seconds; got fps={fps}")
        times = np.arange(len(frames)) / fps
    if len(times) != len(frames):
        raise ValueError(f"smooth needs a time for each frame, got {len(times)} times of {len(frames)} frames")
    euro = OneEuro(min_cutoff=min_cutoff, beta=beta, speed_cutoff=speed_cutoff, threshold=threshold)
    return [euro.push(people, float(time)) for people, time in zip(frames, times, strict=True)]


class Tracker:
    """Gives ids to people of frames that arrive in order. Ids count from 0 and are never used twice.

    A track is matched with a person by the mean of two numbers in 0..1: the overlap (IoU) of their boxes, and the
    object keypoint similarity (COCO's OKS) of the body points seen in both, which tells two people apart who pass
    through the same place. A track is looked for where its speed would have carried it. The most similar pair is
    matched first, then the next (greedy, no solver): nothing is gained by an optimal assignment with so few people.

    Args:
        max_age: frames a track may be missing before it is forgotten.
        min_similarity: below this, a person is somebody new.
        max_people: give out no more than so many people, the same ones as long as they are there. A place is free once
            its owner has been missing for `patience` frames; the surest of the others gets it. None: everybody.
        patience: frames; `Steady` makes it no less than what its `GapFiller` fills, which would put the owner back.
        threshold: score from which a point counts as seen.
    """

    def __init__(
        self,
        *,
        max_age: int = 30,
        min_similarity: float = 0.2,
        max_people: int | None = None,
        patience: int = _PATIENCE,
        threshold: float = SEEN,
    ):
        if max_age < 0 or not 0 < min_similarity < 1:
            raise ValueError(f"max_age must be >= 0 and min_similarity in 0..1, got {max_age} and {min_similarity}")
        if max_people is not None and max_people < 1:
            raise ValueError(f"max_people must be at least 1, or None for everybody, got {max_people}")
        self.max_age, self.min_similarity, self.threshold = max_age, min_similarity, threshold
        self.max_people, self.patience = max_people, patience
        self._followed: set[int] = set()  # ids, at most max_people
        self._next_id = 0
        self._tracks: list[_Track] = []

    def push(self, people: People) -> People:
        """The next frame, with ids and in their order, so that a row is the same person from frame to frame."""
        similarity = self._similarity(people)
        ids = np.full(len(people), -1, np.int64)
        taken: set[int] = set()
        for pair in np.argsort(-similarity, axis=None, kind="stable"):
            t, p = divmod(int(pair), len(people))
            if similarity[t, p] < self.min_similarity:
                break
            if ids[p] < 0 and t not in taken:
                taken.add(t)
                ids[p] = self._tracks[t].id
                self._tracks[t].update(people, p, self.threshold)
        for t, known in enumerate(self._tracks):
            known.age += t not in taken
        self._tracks = [known for known in self._tracks if known.age <= self.max_age]
        for p in np.flatnonzero(ids < 0):
            ids[p] = self._next_id
            self._tracks.append(_Track(self._next_id, people, p, self.threshold))
            self._next_id += 1
        order = np.argsort(ids, kind="stable")
        tracked = replace(people, id=ids)[order]
        return tracked if self.max_people is None else self._follow(tracked)

    def _follow(self, people: People) -> People:
        """Those of `people` who have one of the `max_people` places."""
        self._followed &= {known.id for known in self._tracks if known.age <= self.patience}
        for p in np.argsort(-people.box_score, kind="stable"):
            if len(self._followed) < self.max_people:
                self._followed.add(int(people.id[p]))
        return people[np.isin(people.id, list(self._followed))]

    def _similarity(self, people: People) -> np.ndarray:
        """(T, P) in 0..1."""
        if not self._tracks or not len(people):
            return np.zeros((len(self._tracks), len(people)))
        moved = np.stack([known.expected_shift() for known in self._tracks])  # (T, 2)
        boxes = np.stack([known.box for known in self._tracks]) + np.tile(moved, 2)
        xy = np.stack([known.xy for known in self._tracks]) + moved[:, None]
        now = people.score[:, _BODY] >= self.threshold
        seen = np.stack([known.seen for known in self._tracks])[:, None] & now
        iou, area = box_overlap(boxes, people.box)
        distance = np.square(xy[:, None] - people.xy[:, _BODY]).sum(-1)  # (T, P, 17)
        common = seen.sum(-1)
        oks = (np.exp(-distance / (2 * area[..., None] * _TOLERANCE)) * seen).sum(-1) / np.maximum(common, 1)
        return np.where(common >= _MIN_COMMON, (iou + oks) / 2, iou)


class _Track:
    """One person as last seen, and how fast they moved (pixels per frame)."""

    def __init__(self, id: int, people: People, p: int, threshold: float):
        self.id = id
        self.speed = np.zeros(2, np.float32)
        self._see(people, p, threshold)

    def update(self, people: People, p: int, threshold: float) -> None:
        step = (people.box[p].reshape(2, 2).mean(0) - self.box.reshape(2, 2).mean(0)) / (self.age + 1)
        self.speed += _SPEED_RATE * (step - self.speed)
        self._see(people, p, threshold)

    def expected_shift(self) -> np.ndarray:
        """Pixels (2,) from where they were seen to where they should be now."""
        return self.speed * (1 - _COAST ** (self.age + 1)) / (1 - _COAST)

    def _see(self, people: People, p: int, threshold: float) -> None:
        self.age = 0  # frames since
        self.box = people.box[p]
        self.xy, self.seen = people.xy[p, _BODY], people.score[p, _BODY] >= threshold


def box_overlap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU of boxes (T, 4) and (P, 4) xyxy, and the geometric mean of their areas: (T, P) each."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    inner = sides.clip(min=0).prod(-1)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).clip(min=1).prod(-1) for boxes in (a, b))
    return inner / (area_a[:, None] + area_b - inner), np.sqrt(area_a[:, None] * area_b)


@dataclass
class _Person:
    """One person of a buffered frame; arrays as in People, without the leading P."""

    xy: np.ndarray
    score: np.ndarray
    box: np.ndarray
    box_score: float
    visibility: np.ndarray | None


class GapFiller:
    """Puts back people and points that are missing for a few frames between two sightings.

    Nothing is invented: only what was seen before and is seen again after at most `max_gap` frames is filled, by a
    straight line, with the lower of the two scores. What fades in at the start or out at the end is left as it is.

    Args:
        max_gap: the longest gap in frames; frames come out one more than this later than they go in. 0 fills nothing.
        threshold: score from which a point counts as seen.
    """

    def __init__(self, max_gap: int = 5, *, threshold: float = SEEN):
        if max_gap < 0:
            raise ValueError(f"max_gap must be >= 0 frames, got {max_gap}")
        self.max_gap, self.threshold = max_gap, threshold
        self._frames: deque[tuple[People, dict[int, _Person]]] = deque()  # the last ones, not yet given out
        self._first = 0  # number of the first of them
        # id -> number of the frame it was last in, and of the last frame each of its points was seen in, (K,)
        self._last: dict[int, tuple[int, np.ndarray]] = {}

    def push(self, people: People) -> list[People]:
        """The next frame; returns the frame that is settled by now, or none yet."""
        if people.id is None:
            raise ValueError("gaps are filled person by person: run track first, these people have no ids")
        number = self._first + len(self._frames)
        persons = {}
        for p, id in enumerate(people.id.tolist()):
            visibility = None if people.visibility is None else people.visibility[p].copy()
            persons[id] = _Person(
                people.xy[p].copy(), people.score[p].copy(), people.box[p], float(people.box_score[p]), visibility
            )
        self._frames.append((people, persons))
        for id, person in persons.items():
            self._fill(id, person, number)
        for id in [id for id, (frame, _) in self._last.items() if number - frame > self.max_gap]:
            del self._last[id]
        # One frame more than the gap stays: it is the near end of the line.
        return [self._pop()] if len(self._frames) > self.max_gap + 1 else []

    def flush(self) -> list[People]:
        """The frames still held, at the end of the video."""
        return [self._pop() for _ in range(len(self._frames))]

    def _pop(self) -> People:
        people, persons = self._frames.popleft()
        self._first += 1
        if not persons:
            return people
        persons = dict(sorted(persons.items()))  # in the order of the ids, as the tracker has them
        rows = list(persons.values())
        columns = {name: np.stack([getattr(row, name) for row in rows]) for name in ("xy", "score", "box")}
        has_visibility = all(row.visibility is not None for row in rows)
        return replace(
            people,
            **columns,
            id=np.array(list(persons)),
            box_score=np.array([row.box_score for row in rows]),
            visibility=np.stack([row.visibility for row in rows]) if has_visibility else None,
        )

    def _fill(self, id: int, now: _Person, number: int) -> None:
        seen = now.score >= self.threshold
        if id in self._last:
            before, point_frames = self._last[id]
            start = self._at(before)[id]
            for frame in range(before + 1, number):  # the whole person was missing
                share = (frame - before) / (number - before)
                self._at(frame)[id] = _Person(
                    xy=_between(start.xy, now.xy, share),
                    score=np.zeros(NUM_KEYPOINTS, np.float32),  # each point is filled below, if it may be
                    box=_between(start.box, now.box, share),
                    box_score=min(start.box_score, now.box_score),
                    visibility=None if start.visibility is None else np.zeros(NUM_KEYPOINTS, np.float32),
                )
            gap = number - point_frames - 1
            for k in np.flatnonzero(seen & (gap > 0) & (gap <= self.max_gap)):
                begin = self._at(point_frames[k])[id]
                for frame in range(point_frames[k] + 1, number):
                    person = self._at(frame)[id]
                    person.xy[k] = _between(begin.xy[k], now.xy[k], (frame - point_frames[k]) / (gap[k] + 1))
                    person.score[k] = min(begin.score[k], now.score[k])
                    if person.visibility is not None and begin.visibility is not None and now.visibility is not None:
                        person.visibility[k] = min(begin.visibility[k], now.visibility[k])
        else:
            point_frames = np.full(NUM_KEYPOINTS, -self.max_gap - 2)  # never
        self._last[id] = (number, np.where(seen, number, point_frames))

    def _at(self, number: int) -> dict[int, _Person]:
        return self._frames[number - self._first][1]


def _between(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return (a + (b - a) * np.float32(share)).astype(np.float32)


class Steady:
    """Ids, gaps and jitter in one go, for frames that arrive one by one.

        steady = Steady()
        for number, people in enumerate(frames):
            for done in steady.push(people, number / fps): ...
        for done in steady.flush(): ...

    Args:
        tracker: see `Tracker`; the default forgets after 30 frames and keeps everybody.
        filler: see `GapFiller`; it makes the delay.
        euro: see `OneEuro`; None leaves the coordinates as they are.
    """

    def __init__(self, tracker: Tracker | None = None, filler: GapFiller | None = None, euro: OneEuro | None = None):
        self.tracker, self.filler, self.euro = tracker or Tracker(), filler or GapFiller(), euro
        self.tracker.patience = max(self.tracker.patience, self.filler.max_gap)
        self._times: deque[float] = deque()

    def push(self, people: People, time: float) -> list[People]:
        """The next frame, at `time` seconds; returns the frames (none or one) that are done, in order."""
        self._times.append(time)
        return self._smooth(self.filler.push(self.tracker.push(people)))

    def flush(self) -> list[People]:
        """The frames still held, at the end of the video."""
        return self._smooth(self.filler.flush())

    def _smooth(self, frames: list[People]) -> list[People]:
        times = [self._times.popleft() for _ in frames]
        if self.euro is None:
            return frames
        return [self.euro.push(people, time) for people, time in zip(frames, times, strict=True)]
