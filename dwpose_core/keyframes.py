"""The detector on every Nth frame of a video, and boxes in between on straight lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .backends import Runner
from .geometry import Image
from .people import People
from .pipeline import Options, find_boxes
from .tracking import box_overlap

if TYPE_CHECKING:
    from .preprocessor import DWposeDetector

Found = tuple[np.ndarray, np.ndarray]  # boxes (P, 4) xyxy in pixels, scores (P,)

# Overlap (IoU) from which two boxes of neighbouring key frames are the same person.
_SAME = 0.2


class KeyframeDetector:
    """Boxes for any frame of a clip, with the detector run on frames 0, every, 2 every, ... and the last one.

    Between two key frames the boxes of a person go along a straight line; somebody found in only one of the two is in
    the frames nearer to it. Frames must be asked for from first to last.

    Args:
        read: the frame of a number, (H, W, 3) uint8 RGB.
        count: frames of the clip.
        every: frames from one key frame to the next, 1 or more.
    """

    def __init__(self, detector: Runner, options: Options, read: Callable[[int], Image], count: int, every: int):
        if every < 1:
            raise ValueError(f"the detector runs every 1 or more frames, got {every}")
        self.detector, self.options, self.read = detector, options, read
        self.keys = np.unique([*range(0, count, every), count - 1])
        self._found: dict[int, Found] = {}

    def boxes(self, start: int, stop: int) -> list[Found]:
        """Boxes and scores of frames start .. stop - 1, best first, cut to the image."""
        first, last = np.searchsorted(self.keys, start, "right") - 1, np.searchsorted(self.keys, stop - 1)
        keys = self.keys[first : last + 1].tolist()
        self._found = {key: value for key, value in self._found.items() if key >= keys[0]}
        missing = [key for key in keys if key not in self._found]
        self._found |= _look(missing, self.read, self.detector, self.options)
        result = []
        for number in range(start, stop):
            i = int(np.searchsorted(self.keys, number, "right")) - 1
            begin, end = int(self.keys[i]), int(self.keys[min(i + 1, len(self.keys) - 1)])
            share = (number - begin) / max(end - begin, 1)
            result.append(_between(self._found[begin], self._found[end], share) if share else self._found[begin])
        return result


class SparseDetection:
    """`DWposeDetector.detect` for the frames of a film that arrive in order: people are looked for in every Nth frame,
    and found in all of them. Between two key frames boxes go as with `KeyframeDetector`.

        detect = SparseDetection(detector, every=5)
        people_of(video, detect, Steady(), detect.chunk(8))

    Args:
        every: frames from one key frame to the next, 1 or more. The last frame of a call is one, too.

    Raises:
        ValueError: for a `detector` that looks for nobody, and for another number.
    """

    def __init__(self, detector: DWposeDetector, every: int):
        if detector.detector is None:
            raise ValueError("people can only be looked for in every Nth frame with a person detector")
        if every < 1:
            raise ValueError(f"the detector runs every 1 or more frames, got {every}")
        self._detector, self._every = detector, every
        self._last: Found | None = None  # in the frame before those of the call

    def chunk(self, frames: int) -> int:
        """At least `frames`: so many per call look at no more frames than they have to."""
        return -(-frames // self._every) * self._every

    def __call__(self, images: Sequence[Image], **changes: Any) -> list[People]:
        """People of the next frames; `changes` as in `DWposeDetector.detect`."""
        if not len(images):
            return []
        options = replace(self._detector.options, **changes)
        keys = [*range((len(images) - 1) % self._every, len(images), self._every)]
        if self._last is None and keys[0] > 0:
            keys.insert(0, 0)
        found = _look(keys, images.__getitem__, self._detector.detector, options)
        if self._last is not None:
            found[-1], keys = self._last, [-1, *keys]
        rows = []
        for number in range(len(images)):
            end = int(np.searchsorted(keys, number))
            begin = end if keys[end] == number else end - 1
            share = (number - keys[begin]) / max(keys[end] - keys[begin], 1)
            rows.append(_between(found[keys[begin]], found[keys[end]], share) if share else found[keys[begin]])
        self._last = rows[-1]
        people = self._detector.detect(list(images), boxes=[boxes for boxes, _ in rows], **changes)
        detector = getattr(self._detector.detector, "description", "?")
        return [
            replace(p, box_score=scores[: len(p)], source=f"{detector} + {p.source}")
            for p, (_, scores) in zip(people, rows, strict=True)
        ]


def _look(keys: list[int], read: Callable[[int], Image], detector: Runner, options: Options) -> dict[int, Found]:
    """Boxes and scores in each of the frames `keys`, cut to the image; `options.image_batch` frames at a time."""
    result = {}
    for start in range(0, len(keys), options.image_batch):
        chunk = keys[start : start + options.image_batch]
        images = [read(key) for key in chunk]
        for key, image, (boxes, scores) in zip(chunk, images, find_boxes(images, detector, options), strict=True):
            height, width = image.shape[:2]
            boxes = boxes.clip(0, (width, height, width, height))
            inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            result[key] = boxes[inside], scores[inside]
    return result


def _between(first: Found, last: Found, share: float) -> Found:
    (a, a_score), (b, b_score) = first, last
    overlap = box_overlap(a, b)[0]
    rows, columns = [], []
    for pair in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = divmod(int(pair), max(len(b), 1))
        if overlap[row, column] < _SAME:
            break
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
    moving = a[rows] + np.float32(share) * (b[columns] - a[rows])
    rest, rest_score, taken = (a, a_score, rows) if share <= 0.5 else (b, b_score, columns)
    alone = np.setdiff1d(np.arange(len(rest)), taken)
    boxes = np.concatenate([moving, rest[alone]])
    scores = np.concatenate([np.minimum(a_score[rows], b_score[columns]), rest_score[alone]])
    order = np.argsort(-scores, kind="stable")
    return boxes[order].astype(np.float32), scores[order]
