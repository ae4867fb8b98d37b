"""Where things are in a picture: face and hand boxes that stay steady through a clip, crops, and masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from .openpose import is_visible, openpose_body
from .people import SEEN, People
from .skeleton import OPENPOSE_LIMBS, PARTS

# Fewer seen points than this say where a part is, but not how large.
_MIN_POINTS = 4
# Squares twice as wide as this are read in steps: a crop is smaller, and most of them is the repeated border.
_MOST_CROPPED = 4096
# Frames whose weights are in memory at a time: those of a whole film are gigabytes.
_ROWS = 256
# Half the width of a limb in torso lengths; a head is as wide as its two lines to the ears are thick.
_LIMB = {"arm": 0.11, "leg": 0.15, "head": 0.22}


def part_boxes(people: People, part: str, threshold: float = SEEN) -> np.ndarray:
    """Boxes (P, 4) xyxy around the seen points of "face", "left_hand" or "right_hand"; NaN where too few are seen."""
    xy, score = people.part(part)
    boxes = np.full((len(people), 4), np.nan, np.float32)
    for row, points, seen in zip(boxes, xy, is_visible(xy, score, threshold), strict=True):
        if seen.sum() >= _MIN_POINTS:
            row[:2], row[2:] = points[seen].min(axis=0), points[seen].max(axis=0)
    return boxes


def steady_boxes(boxes: np.ndarray, padding: float, steadiness: float) -> np.ndarray:
    """Square boxes of a clip with one size and a smooth path: (F, 4) xyxy, whole pixels.

    One size for all frames, so that a crop never zooms: the 95th percentile of the longer sides, times 1 + 2 padding.
    Centres missing for a while lie on a straight line between their neighbours, then all are averaged over
    `steadiness` frames (Gaussian).

    Args:
        boxes: (F, 4) xyxy, NaN where the part was not seen.
        padding: share of the side added on each side.
        steadiness: standard deviation of the average in frames; below a tenth nothing is averaged.

    Raises:
        ValueError: when the part was seen in no frame.
    """
    known = np.isfinite(boxes).all(axis=1)
    if not known.any():
        raise ValueError("this part is not seen in any frame")
    frames = np.arange(len(boxes))
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    centers = np.stack([np.interp(frames, frames[known], centers[known, axis]) for axis in (0, 1)], axis=1)
    if steadiness >= 0.1 and len(boxes) > 1:  # far below that all weights underflow to 0
        averaged = []
        for start in range(0, len(frames), _ROWS):
            distance = frames - frames[start : start + _ROWS, None]
            weights = np.exp(-0.5 * np.square(distance / steadiness))
            # A line is fitted to the neighbours, not a constant: else the ends of a moving path would be drawn inwards.
            first, second = ((weights * distance**n).sum(axis=1, keepdims=True) for n in (1, 2))
            weights *= second - distance * first
            averaged.append((weights / weights.sum(axis=1, keepdims=True)) @ centers)
        centers = np.concatenate(averaged)
    sides = (boxes[known, 2:] - boxes[known, :2]).max(axis=1)
    side = max(8, round(float(np.percentile(sides, 95)) * (1 + 2 * padding)))
    corner = np.rint(centers - side / 2).astype(np.int64)
    return np.concatenate([corner, corner + side], axis=1)


def crop_square(image: np.ndarray, box: Sequence[int], size: int) -> np.ndarray:
    """(size, size, 3) uint8 of a square box of whole pixels; where it leaves the image, the border is repeated."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in box)
    step = max(1, (x2 - x1) // _MOST_CROPPED)
    columns = np.arange(x1, x2, step).clip(0, width - 1)
    rows = np.arange(y1, y2, step).clip(0, height - 1)
    square = np.ascontiguousarray(image[rows][:, columns])
    shrinks = size < len(columns)
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def part_mask(people: People, parts: Iterable[str], grow: float = 1.0, threshold: float = SEEN) -> np.ndarray:
    """(H, W) bool: the rough shape of the people's parts, for inpainting and regional conditioning.

    Args:
        parts: any of "body", "face", "hands", or one of them.
        grow: factor on the width of limbs and on the margin around face and hands.

    Raises:
        ValueError: on an unknown part.
    """
    parts = {parts} if isinstance(parts, str) else set(parts)
    if unknown := parts - {"body", "face", "hands"}:
        raise ValueError(f"unknown part {min(unknown)!r}; choose from body, face, hands")
    canvas = np.zeros(people.image_size, np.uint8)
    body_xy, _, body_visible = openpose_body(people, threshold)
    for p, (xy, visible) in enumerate(zip(body_xy, body_visible, strict=True)):
        torso = _torso(people.box[p], xy, visible)
        if "body" in parts:
            _fill_body(canvas, xy, visible, torso, grow)
        if "face" in parts:
            # The 68 points end at the brows; the forehead is as high again as brows to nose tip, about a third.
            _fill_hull(canvas, people, p, "face", threshold, 0.06 * torso * grow, forehead=0.35 * grow)
        if "hands" in parts:
            for hand in ("left_hand", "right_hand"):
                _fill_hull(canvas, people, p, hand, threshold, 0.08 * torso * grow)
    return canvas > 0


def _torso(box: np.ndarray, xy: np.ndarray, visible: np.ndarray) -> float:
    """Length of the torso in pixels; from the box where it is not seen."""
    hips = [i for i in (8, 11) if visible[i]]
    if visible[1] and hips:
        return max(float(np.linalg.norm(xy[1] - xy[hips].mean(axis=0))), 4.0)
    return max(0.3 * float(box[3] - box[1]), 4.0)


def _fill_body(canvas: np.ndarray, xy: np.ndarray, visible: np.ndarray, torso: float, grow: float) -> None:
    for limb, (start, end) in enumerate(OPENPOSE_LIMBS):
        if visible[start] and visible[end]:
            kind = "head" if limb >= 12 else "leg" if 6 <= limb else "arm"
            width = max(1, round(2 * _LIMB[kind] * torso * grow))
            cv2.line(canvas, _pixel(xy[start]), _pixel(xy[end]), 255, width, cv2.LINE_8)
            for point in (xy[start], xy[end]):
                cv2.circle(canvas, _pixel(point), width // 2, 255, -1)
    trunk = [i for i in (2, 5, 11, 8) if visible[i]]
    if len(trunk) >= 3:
        cv2.fillPoly(canvas, [np.rint(xy[trunk]).astype(np.int32)], 255)


def _fill_hull(
    canvas: np.ndarray, people: People, p: int, part: str, threshold: float, margin: float, forehead: float = 0.0
) -> None:
    points = people.xy[p, PARTS[part]]
    points = points[is_visible(points, people.score[p, PARTS[part]], threshold)]
    if len(points) < _MIN_POINTS:
        return
    if forehead:
        chin, top = points[points[:, 1].argmax()], points[points[:, 1].argmin()]
        points = np.concatenate([points, points + (top - chin) * np.float32(forehead)])
    hull = cv2.convexHull(np.rint(points).astype(np.int32))
    cv2.fillConvexPoly(canvas, hull, 255)
    cv2.polylines(canvas, [hull], True, 255, max(1, round(2 * margin)))


def _pixel(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(point).clip(-30000, 30000).astype(int).tolist()
    return x, y
