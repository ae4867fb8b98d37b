"""What travels between nodes, and its conversion to and from what dwpose_core works on."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy_api.v0_0_2 import io

if TYPE_CHECKING:
    from ..dwpose_core.people import People

CATEGORY = "DWPose"
Model = io.Custom("DWPOSE_MODEL")
Keypoints = io.Custom("POSE_KEYPOINT")
Boxes = io.Custom("BOUNDING_BOX")
KijaiBoxes = io.Custom("BBOX")
Segs = io.Custom("SEGS")

# A point of a POSE_KEYPOINT is there or not; nodes after the estimator keep whatever confidence it has.
PRESENT = 1e-6
ALIASES = ["dwpose", "openpose", "pose", "skeleton", "keypoints"]


def schema(**fields: Any) -> io.Schema:
    """io.Schema, without the search aliases where ComfyUI does not know them yet (before 0.4)."""
    if "search_aliases" not in {field.name for field in dataclasses.fields(io.Schema)}:
        del fields["search_aliases"]
    return io.Schema(**fields)


def to_frames(images: torch.Tensor) -> list[np.ndarray]:
    """IMAGE (B, H, W, 3 or 4) float 0..1 -> B arrays (H, W, 3) uint8 RGB; alpha is dropped."""
    pixels = images[..., :3].float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return list(pixels.expand(*pixels.shape[:3], 3).cpu().numpy())


def new_image(count: int, size: tuple[int, int]) -> torch.Tensor:
    """IMAGE (B, H, W, 3) to be filled frame by frame with `put`: no second copy of a film in memory."""
    import comfy.model_management as mm

    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    return torch.empty((count, *size, 3), dtype=dtype, device=mm.intermediate_device())


def put(slot: torch.Tensor, pixels: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB -> one frame of an IMAGE."""
    slot.copy_(torch.from_numpy(pixels)).div_(255)


def to_people(keypoints: Any, image_size: Sequence[int] | None = None) -> list[People]:
    """POSE_KEYPOINT in any dialect -> one People per frame. Errors as in `dwpose_core.openpose.from_openpose`."""
    from ..dwpose_core.openpose import from_openpose

    return from_openpose(keypoints, image_size)


def to_keypoints(people: Sequence[People], threshold: float = PRESENT, confidence: str = "score") -> list[dict]:
    from ..dwpose_core.openpose import to_openpose

    return to_openpose(people, threshold=threshold, confidence=confidence)


def to_bounding_boxes(people: Sequence[People]) -> list[list[dict]]:
    """BOUNDING_BOX: for each frame a list of boxes in pixels."""
    return [
        [
            {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "label": "person", "score": score}
            for (x1, y1, x2, y2), score in zip(frame.box.tolist(), frame.box_score.tolist(), strict=True)
        ]
        for frame in people
    ]


def read_boxes(boxes: Any, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Boxes of BOUNDING_BOX (x, y, width, height), BBOX (x1, y1, x2, y2) or SEGS sockets for `count` frames of `size`
    (H, W): (P, 4) xyxy each, cut to the image.

    Accepted are one box, a flat list of BOUNDING_BOX (the same for all frames), one BBOX for each frame, a list of
    boxes for each frame, or the Impact Pack's SEGS (the same for all frames). The last frame's boxes serve for the
    frames that follow; an empty list is nobody.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(boxes, (np.ndarray, torch.Tensor)):
        boxes = boxes.tolist()
    if _is_segs(boxes):
        boxes = [_segs_boxes(boxes, size)]
    if isinstance(boxes, dict) or _is_numbers(boxes):
        frames = [[boxes]]
    elif not isinstance(boxes, (list, tuple)):
        raise ValueError(f"boxes must be BOUNDING_BOX, BBOX or SEGS, got {type(boxes).__name__}")
    elif all(isinstance(box, dict) for box in boxes):
        frames = [boxes]
    else:
        frames = [[item] if isinstance(item, dict) or _is_numbers(item) else item for item in boxes]
    frames = [_read_frame_boxes(frame, number, size) for number, frame in enumerate(frames[:count] or [[]])]
    return frames + [frames[-1]] * (count - len(frames))


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) >= 4 and all(isinstance(v, (int, float)) for v in value)


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


def _segs_boxes(segs: Sequence, size: tuple[int, int]) -> list[list[float]]:
    """Boxes xyxy of SEGS in pixels of an image of `size` (H, W)."""
    (height, width), found = segs
    scale = [size[1] / width, size[0] / height] * 2
    # SEG is a named tuple: cropped_image, cropped_mask, confidence, crop_region, bbox, label, control_net_wrapper
    boxes = [getattr(seg, "bbox", None) if hasattr(seg, "bbox") else seg[4] for seg in found]
    return [[float(value) * factor for value, factor in zip(box, scale, strict=True)] for box in boxes]


def _read_frame_boxes(frame: Any, number: int, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    rows = []
    for box in [] if frame is None else frame:
        if isinstance(box, (np.ndarray, torch.Tensor)):
            box = box.tolist()
        if isinstance(box, dict) and {"x", "y", "width", "height"} <= set(box):
            corners = [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
        elif _is_numbers(box):
            corners = list(box[:4])
        else:
            raise ValueError(
                f"frame {number}: a box must be x, y, width, height (BOUNDING_BOX) or x1, y1, x2, y2 (BBOX), got {box}"
            )
        x1, y1, x2, y2 = (float(value) for value in corners)
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise ValueError(f"frame {number}: a box has a coordinate that is not a finite number: {corners}")
        cut = (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height))
        if cut[2] > cut[0] and cut[3] > cut[1]:  # what lies outside the image shows nobody
            rows.append(cut)
    return np.array(rows, np.float32).reshape(-1, 4)


def mask_boxes(mask: torch.Tensor, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """MASK (B, h, w) -> for each frame the box around what is selected, (1, 4) or (0, 4), in pixels of `size`."""
    height, width = size
    found = []
    for frame in mask.reshape(-1, *mask.shape[-2:])[:count].cpu().numpy() > 0.5:
        rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
        if not len(rows):
            found.append(np.zeros((0, 4), np.float32))
            continue
        box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
        found.append(box * np.float32([width / frame.shape[1], height / frame.shape[0]] * 2))
    return found + [found[-1]] * (count - len(found))


def without_parts(people: People, body: bool, hands: bool, face: bool, feet: bool) -> People:
    """`people` with the parts that are switched off marked as not seen."""
    from ..dwpose_core.skeleton import PARTS

    score = people.score.copy()
    wanted = {"body": body, "foot": feet, "face": face, "left_hand": hands, "right_hand": hands}
    for part, keep in wanted.items():
        if not keep:
            score[:, PARTS[part]] = -1  # below every threshold, also 0
    return dataclasses.replace(people, score=score)


def to_json(keypoints: list[dict]) -> str:
    return json.dumps(keypoints, separators=(",", ":"))


def say(cls: type[io.ComfyNode], text: str) -> None:
    """Show text on the running node."""
    from server import PromptServer

    node_id = cls.hidden.unique_id if cls.hidden is not None else None
    server = getattr(PromptServer, "instance", None)
    if text and node_id is not None and server is not None:
        server.send_progress_text(text, node_id)


def nobody_text(people: Sequence[People]) -> str:
    """What to say about frames without people, "" where there are none."""
    empty = [number for number, frame in enumerate(people) if not len(frame)]
    if not empty:
        return ""
    if len(people) == 1:
        return "Nobody found."
    if len(empty) == len(people):
        return f"Nobody found in any of {len(people)} frames."
    shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
    return f"Nobody found in {len(empty)} of {len(people)} frames: {shown}"
