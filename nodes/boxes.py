"""Boxes of people as they travel between nodes: BOUNDING_BOX, BBOX, SEGS and masks."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from ..dwpose_core.people import People

Found = tuple[np.ndarray, np.ndarray]  # of one frame: boxes (P, 4) xyxy in pixels, scores (P,)


def to_bounding_boxes(people: Sequence[People]) -> list[list[dict]]:
    """BOUNDING_BOX: for each frame a list of boxes in pixels."""
    return [
        [
            {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "label": "person", "score": score}
            for (x1, y1, x2, y2), score in zip(frame.box.tolist(), frame.box_score.tolist(), strict=True)
        ]
        for frame in people
    ]


def read_boxes(boxes: Any, count: int, size: tuple[int, int]) -> list[Found]:
    """Boxes of BOUNDING_BOX (x, y, width, height), BBOX (x1, y1, x2, y2) or SEGS sockets for `count` frames of `size`
    (H, W), without those outside of the image, with their scores; 1 where a box has none. A box may reach over the
    edge, as the detector's own do: somebody half in the picture has their keypoints in it where a whole body would.

    Accepted are one box, a flat list of BOUNDING_BOX (the same for all frames), one BBOX for each frame (where there is
    one frame only, all of them are its), a list of boxes for each frame, or the Impact Pack's SEGS (the same for all
    frames). The last frame's boxes serve for the frames that follow; an empty list is nobody.

    Raises:
        ValueError: for anything else.
    """
    boxes = _listed(boxes)
    if _is_segs(boxes):
        boxes = _segs_boxes(boxes, size)
    elif isinstance(boxes, (list, tuple)):
        boxes = [_listed(item) for item in boxes]
    if isinstance(boxes, dict) or _is_numbers(boxes):
        frames = [[boxes]]
    elif not isinstance(boxes, (list, tuple)):
        raise ValueError(f"boxes must be BOUNDING_BOX, BBOX or SEGS, got {type(boxes).__name__}")
    elif all(isinstance(box, dict) for box in boxes) or (count == 1 and all(map(_is_numbers, boxes))):
        frames = [boxes]
    else:
        frames = [[item] if isinstance(item, dict) or _is_numbers(item) else item for item in boxes]
    frames = [_read_frame(frame, number, size) for number, frame in enumerate(frames[:count] or [[]])]
    return frames + [frames[-1]] * (count - len(frames))


def mask_boxes(mask: torch.Tensor, count: int, size: tuple[int, int]) -> list[Found]:
    """MASK (B, h, w) -> for each frame the box around what is selected, or none, in pixels of `size`.

    Raises:
        ValueError: where there are no masks.
    """
    if not len(mask):
        raise ValueError("There are no masks in this batch; look at the node that made it.")
    height, width = size
    found = []
    for frame in (mask.reshape(-1, *mask.shape[-2:])[:count] > 0.5).cpu().numpy():
        rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
        box = np.zeros((0, 4), np.float32)
        if len(rows):
            box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
            box *= np.float32([width / frame.shape[1], height / frame.shape[0]] * 2)
        found.append((box, np.ones(len(box), np.float32)))
    return found + found[-1:] * (count - len(found))


def keep(found: Found, min_size: float, max_people: int) -> Found:
    """Without boxes that are small, and of the others the `max_people` surest (0: all), in the order they came in."""
    boxes, scores = found
    large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) >= min_size)
    surest = large[np.argsort(-scores[large], kind="stable")][: max_people or None]
    chosen = np.sort(surest)
    return boxes[chosen], scores[chosen]


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic, torch.Tensor)) else value


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) >= 4 and all(isinstance(v, numbers.Real) for v in value)


def _is_segs(value: Any) -> bool:
    """SEGS of ltdrdata/ComfyUI-Impact-Pack: ((height, width), [SEG, ...])."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and isinstance(value[0], (list, tuple))
        and len(value[0]) == 2
        and all(isinstance(side, (int, np.integer)) for side in value[0])
        and isinstance(value[1], (list, tuple))
    )


def _segs_boxes(segs: Sequence, size: tuple[int, int]) -> list[dict]:
    """BOUNDING_BOX of SEGS in pixels of an image of `size` (H, W)."""
    (height, width), found = segs
    sx, sy = size[1] / (width or 1), size[0] / (height or 1)  # EmptySEGS, which is nobody, has a size of 0 x 0
    result = []
    for seg in found:
        # SEG is a named tuple: cropped_image, cropped_mask, confidence, crop_region, bbox, label, control_net_wrapper
        named = hasattr(seg, "bbox")
        box, score = (seg.bbox, seg.confidence) if named else (seg[4], seg[2])
        x1, y1, x2, y2 = (float(value) for value in box)
        result.append({"x": x1 * sx, "y": y1 * sy, "width": (x2 - x1) * sx, "height": (y2 - y1) * sy, "score": score})
    return result


def _read_frame(frame: Any, number: int, size: tuple[int, int]) -> Found:
    height, width = size
    rows, scores = [], []
    frame = [] if frame is None else frame
    for box in frame if isinstance(frame, (list, tuple)) else [frame]:
        box = _listed(box)
        score = None
        sides = [_listed(box.get(key)) for key in ("x", "y", "width", "height")] if isinstance(box, dict) else None
        if _is_numbers(sides):
            corners = [*sides[:2], sides[0] + sides[2], sides[1] + sides[3]]
            score = box.get("score")
        elif _is_numbers(box):
            corners = list(box[:4])
        else:
            raise ValueError(
                f"frame {number}: a box must be x, y, width, height (BOUNDING_BOX) or x1, y1, x2, y2 (BBOX), got {box}"
            )
        x1, y1, x2, y2 = np.array(corners, np.float32).tolist()  # as it is looked at later: hardly a box may be none
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ValueError(f"frame {number}: a box has a coordinate that is not a finite number: {corners}")
        empty = x2 <= x1 or y2 <= y1
        if not empty and x2 > 0 and y2 > 0 and x1 < width and y1 < height:  # what lies outside the image shows nobody
            rows.append((x1, y1, x2, y2))
            # Ultralytics detectors of the Impact Pack give it as an array of one.
            scores.append(1.0 if score is None else float(np.ravel(_listed(score))[0]))
    return np.array(rows, np.float32).reshape(-1, 4), np.array(scores, np.float32)
