"""What travels between nodes, and its conversion to and from what dwpose_core works on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management as mm
import comfy.utils
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


def image_size(images: Any) -> tuple[int, int]:
    """(H, W) of an IMAGE.

    Raises:
        ValueError: for a batch of none, and for what other packs put on the socket by mistake: a mask, an image without
            its batch, channels first, values up to 255.
    """
    shape = tuple(getattr(images, "shape", ()))
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"An IMAGE is a tensor of floats in 0..1, this one is {kind}; look at the node that made it.")
    if len(shape) != 4 or shape[3] not in (1, 3, 4) or 0 in shape[1:]:
        raise ValueError(
            f"An IMAGE has the shape (frames, height, width, 3), this one {shape}; look at the node that made it."
        )
    if not shape[0]:
        raise ValueError("There are no images in this batch; look at the node that made it.")
    return shape[1:3]


def to_frames(images: torch.Tensor) -> list[np.ndarray]:
    """IMAGE (B, H, W, 1, 3 or 4) float 0..1 -> B arrays (H, W, 3) uint8 RGB; alpha is dropped."""
    # One by one, as floats of a batch of large pictures take gigabytes.
    pixels = [image[..., :3].float().clamp(0, 1).mul_(255).round_().to(torch.uint8) for image in images]
    return [image.expand(*image.shape[:2], 3).cpu().numpy() for image in pixels]


def new_image(count: int, size: tuple[int, int]) -> torch.Tensor:
    """IMAGE (B, H, W, 3) to be filled frame by frame with `put`: no second copy of a film in memory."""
    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    return torch.empty((count, *size, 3), dtype=dtype, device=mm.intermediate_device())


def put(slot: torch.Tensor, pixels: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB -> one frame of an IMAGE."""
    slot.copy_(torch.from_numpy(pixels)).div_(255)


def checked(frames: Iterable) -> Iterator:
    """The frames of a clip one by one; between two of them ComfyUI can interrupt the node."""
    for frame in frames:
        mm.throw_exception_if_processing_interrupted()
        yield frame


def in_turn(frames: Sequence) -> Iterator:
    """As `checked`, with ComfyUI's progress bar."""
    progress = comfy.utils.ProgressBar(len(frames))
    for number, frame in enumerate(checked(frames), 1):
        yield frame
        progress.update_absolute(number)


def to_people(keypoints: Any, image_size: Sequence[int] | None = None) -> list[People]:
    """POSE_KEYPOINT in any dialect -> one People per frame. Errors as in `dwpose_core.openpose.from_openpose`."""
    from ..dwpose_core.openpose import read_openpose

    return list(checked(read_openpose(keypoints, image_size)))


def to_keypoints(people: Sequence[People], threshold: float = PRESENT, confidence: str = "score") -> list[dict]:
    from ..dwpose_core.openpose import to_openpose

    return [to_openpose(frame, threshold=threshold, confidence=confidence)[0] for frame in checked(people)]


def seen_from(people: Sequence[People], threshold: float) -> list[People]:
    """The same people, of whom points below `threshold` are not there: then there is no other threshold.

    A threshold that dwpose_core is given is for the scores of networks, where the original asks of a neck that both
    shoulders lie above it. Keypoints that travel between nodes mostly have 1 for what is seen, and a threshold of 1
    would take the neck from everybody.
    """
    lowest = np.float32(threshold)
    return [
        dataclasses.replace(frame, score=np.where(frame.score >= lowest, frame.score, np.float32(0)))
        for frame in checked(people)
    ]


def to_draw(
    people: People, body: bool, hands: bool, face: bool, feet: bool, head: bool = True
) -> list[tuple[People, list[str]]]:
    """What a renderer draws of people, one on top of the other: people and the `parts` of them.

    The face has its eyes from the body: it is drawn by itself where the body must not show them.
    """
    from ..dwpose_core.skeleton import PARTS

    parts = [part for part, on in (("body", body or feet), ("hand", hands), ("face", face)) if on]
    if "body" not in parts or (body and head):
        return [(people, parts)]
    score = people.score.copy()
    # Feet are drawn with a body only. A head is COCO's nose, eyes and ears. -1 is below every threshold, also 0.
    score[:, slice(5) if body else PARTS["body"]] = -1
    drawn = dataclasses.replace(people, score=score), [part for part in parts if part != "face"]
    return [drawn, (people, ["face"])] if face else [drawn]


def keep_parts(keypoints: list[dict], body: bool, hands: bool, face: bool, feet: bool) -> list[dict]:
    """`keypoints` with zeros for the parts that are switched off, in place; the eyes of the face are its own there."""
    wanted = {"pose": body, "foot": feet, "face": face, "hand_left": hands, "hand_right": hands}
    for person in (person for frame in keypoints for person in frame["people"]):
        for part, keep in wanted.items():
            if not keep:
                person[f"{part}_keypoints_2d"] = [0.0] * len(person[f"{part}_keypoints_2d"])
    return keypoints


def to_json(keypoints: list[dict]) -> str:
    return f"[{','.join(json.dumps(frame, separators=(',', ':')) for frame in checked(keypoints))}]"


def say(cls: type[io.ComfyNode], text: str) -> dict:
    """Show text on the running node, and the same for the `ui` of its output. To be called in every run, with some
    text: the browser ignores an empty one and goes on showing what was said last."""
    from server import PromptServer

    node_id = cls.hidden.unique_id if cls.hidden is not None else None
    server = getattr(PromptServer, "instance", None)
    if node_id is not None and server is not None:
        server.send_progress_text(text, node_id)
    return {"text": (text,)}


def found_text(people: Sequence[People], threshold: float) -> str:
    """How many people there are, in which frames nobody is, and how many of them have no point that is drawn."""
    from ..dwpose_core.openpose import is_visible

    counts = [len(frame) for frame in people]
    empty = [number for number, count in enumerate(counts) if not count]
    blank = sum(int((~is_visible(frame.xy, frame.score, threshold).any(axis=1)).sum()) for frame in people)
    share = f"{blank} of {sum(counts)} " if blank < sum(counts) else ""
    remark = f"; {share}not drawn, as no point scores {threshold:g}" if blank else ""
    if len(counts) == 1:
        return _people(counts[0]) + remark if counts[0] else "Nobody found."
    if len(empty) == len(counts):
        return f"Nobody found in any of {len(counts)} frames."
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        return f"Nobody found in {len(empty)} of {len(counts)} frames: {shown}{remark}"
    least, most = min(counts), max(counts)
    return f"{len(counts)} frames, {_people(most) if least == most else f'{least} to {_people(most)}'} in each{remark}"


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"
