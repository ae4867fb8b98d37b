"""The straight line: images -> detector -> boxes -> crops -> pose net -> SimCC decode -> People.

Batched on both levels: all images of a chunk go through the detector together, and all people of all those images go
through the pose net together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from . import geometry, simcc
from .backends import Runner
from .geometry import Image
from .models.cspnext import IMAGENET_MEAN, IMAGENET_STD
from .models.yolox import STRIDES, decode_people
from .people import People
from .skeleton import NUM_KEYPOINTS

# A second pass needs a box from keypoints; fewer visible ones than this are noise, not a person. One hand has 21.
MIN_VISIBLE = 6
# Keypoints end at eyes, ankles and fingertips. rtmlib's tracker uses the same factor between frames.
KEYPOINT_BOX_PADDING = 1.25


@dataclass(frozen=True)
class Options:
    """What the pipeline does with its networks. The defaults are the original's (IDEA-Research/DWPose, onnx branch)."""

    detector_threshold: float = 0.3  # person score, exclusive
    nms_threshold: float = 0.45  # IoU up to which two boxes are two people
    detector_size: int | None = None  # side of its input, px; larger for smaller people; None: that of its weights
    keypoint_threshold: float = 0.3  # score from which a point counts as seen: in boxes made from keypoints, in maps
    min_size: float = 0.0  # pixels; detections whose longer side is shorter are dropped
    max_people: int | None = None  # keep the best-scoring boxes of an image
    flip_test: str = "off"  # "off", "original" (as published), "corrected" (without its quarter-pixel bias)
    refine: bool | None = None  # second pass in boxes made from the first pass's keypoints; None: only without boxes
    image_batch: int = 8  # images per detector call
    people_batch: int = 32  # people per pose call, of whatever image

    def __post_init__(self) -> None:
        if self.flip_test not in ("off", "original", "corrected"):
            raise ValueError(f"flip_test must be 'off', 'original' or 'corrected', got {self.flip_test!r}")
        for name in ("image_batch", "people_batch", "max_people"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value, (int, np.integer)) and value >= 1):
                said = "batch_size (image_batch)" if name == "image_batch" else name  # what callers and commands say
                raise ValueError(f"{said} must be a whole number, at least 1; got {value!r}")
        side = self.detector_size
        if side is not None and not (_is_number(side, (int, np.integer)) and side > 0 and side % STRIDES[-1] == 0):
            raise ValueError(f"detector_size must be a multiple of {STRIDES[-1]} pixels, or None; got {side!r}")
        for name, top in (("detector_threshold", 1.0), ("keypoint_threshold", np.inf), ("min_size", np.inf)):
            value = getattr(self, name)
            if not (_is_number(value, (int, float, np.number)) and 0 <= value <= top):
                raise ValueError(f"{name} must be a number from 0{' to 1' if top == 1 else ''}, got {value!r}")
        if not (_is_number(self.nms_threshold, (int, float, np.number)) and 0 < self.nms_threshold <= 1):
            raise ValueError(f"nms_threshold is an IoU in (0, 1], got {self.nms_threshold!r}")
        if self.refine not in (None, True, False):
            raise ValueError(f"refine must be True, False or None, got {self.refine!r}")


def _is_number(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def estimate_people(
    images: Sequence[Image],
    pose: Runner,
    detector: Runner | None,
    boxes: Sequence[np.ndarray] | None = None,
    options: Options | None = None,
) -> list[People]:
    """Everyone in each image.

    Args:
        images: (H, W, 3) uint8 RGB each, numpy arrays or tensors.
        pose: maps crops to SimCC logits.
        detector: maps images to raw YOLOX output; None takes the whole image as the first box.
        boxes: per image (P, 4) xyxy in pixels, instead of the detector.
        options: see `Options`.

    Returns:
        one People per image, best box first; empty where nobody was found.

    Raises:
        ValueError: for boxes that are empty, not finite or outside their image.
    """
    options = options or Options()
    if boxes is not None and len(boxes) != len(images):
        raise ValueError(f"boxes must be one array per image: {len(images)} images, {len(boxes)} arrays")
    results: list[People] = []
    for start in range(0, len(images), options.image_batch):
        stop = start + options.image_batch
        chunk = [_to_runner_device(image, pose) for image in images[start:stop]]
        sizes = [tuple(image.shape[:2]) for image in chunk]
        if boxes is not None:
            given = [geometry.check_boxes(b, size) for b, size in zip(boxes[start:stop], sizes, strict=True)]
            found = [(b, np.ones(len(b), np.float32)) for b in given]
        elif detector is not None:
            found = find_boxes(chunk, detector, options)
        else:
            found = [(np.array([[0, 0, w, h]], np.float32), np.ones(1, np.float32)) for h, w in sizes]
        found = [(b[: options.max_people], s[: options.max_people]) for b, s in found]
        people = find_keypoints(chunk, found, pose, options)
        guessed = boxes is None and detector is None
        if options.refine or (options.refine is None and guessed):
            tight = [(_keypoint_boxes(person, options), person.box_score) for person in people]
            people = [
                _better(first, second)
                for first, second in zip(people, find_keypoints(chunk, tight, pose, options), strict=True)
            ]
        if guessed:
            people = [person[_visible(person, options).sum(axis=1) >= MIN_VISIBLE] for person in people]
        results += people
    used = (detector if boxes is None else None, pose)
    where = " + ".join(getattr(runner, "description", "?") for runner in used if runner is not None)
    return [replace(people, source=where) for people in results]


def find_boxes(images: list[Image], detector: Runner, options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
    """Person boxes (P, 4) xyxy in image pixels and scores (P,) of each image, best first; not clipped to the image.

    Raises:
        ValueError: as `detector_input`.
    """
    size = detector_input(detector, options)
    batch, ratios = geometry.letterbox(images, size)
    rgb = torch.as_tensor(batch).to(detector.device).permute(0, 3, 1, 2)
    (raw,) = detector(rgb[:, [2, 1, 0]].float())  # YOLOX was trained on BGR in 0..255
    found = []
    for (boxes, scores), ratio in zip(decode_people(raw, size, options.detector_threshold), ratios, strict=True):
        keep = geometry.nms(boxes, scores, options.nms_threshold)
        boxes, scores = boxes[keep] / ratio, scores[keep]
        large = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) >= options.min_size
        found.append((boxes[large], scores[large]))
    return found


def detector_input(detector: Runner, options: Options) -> tuple[int, int]:
    """(H, W) of what the detector looks at.

    Raises:
        ValueError: for an `options.detector_size` that the detector, an ONNX file of one size, does not take.
    """
    if options.detector_size is None:
        return detector.input_size
    size = (options.detector_size, options.detector_size)
    if getattr(detector, "fixed_size", False) and size != tuple(detector.input_size):
        height, width = detector.input_size
        raise ValueError(
            f"detector_size {options.detector_size}: {detector.name} takes {width} x {height} pixels only. Leave "
            f"detector_size out, or use PyTorch weights, which run at any size."
        )
    return size


def find_keypoints(
    images: list[Image], found: list[tuple[np.ndarray, np.ndarray]], pose: Runner, options: Options
) -> list[People]:
    """Keypoints of every box of every image, `people_batch` crops at a time."""
    owner = np.repeat(np.arange(len(images)), [len(boxes) for boxes, _ in found])
    boxes = np.concatenate([boxes for boxes, _ in found]).astype(np.float32)
    xy = np.zeros((len(boxes), NUM_KEYPOINTS, 2), np.float32)
    score = np.zeros((len(boxes), NUM_KEYPOINTS), np.float32)
    visibility = np.zeros((len(boxes), NUM_KEYPOINTS), np.float32)
    for start in range(0, len(boxes), options.people_batch):
        part = slice(start, start + options.people_batch)
        logits = _forward(_crops(images, owner[part], boxes[part], pose), pose, options.flip_test)
        crop_xy, part_score = simcc.decode(*logits)
        xy[part] = geometry.keypoints_to_image(crop_xy.cpu().numpy(), boxes[part], pose.input_size)
        score[part] = part_score.cpu().numpy()
        visibility[part] = simcc.visibility(*logits, simcc.label_sigma(pose.input_size)).cpu().numpy()
    return [
        People(
            xy=xy[owner == i],
            score=score[owner == i],
            box=boxes[owner == i],
            box_score=found[i][1],
            image_size=image.shape[:2],
            visibility=visibility[owner == i],
        )
        for i, image in enumerate(images)
    ]


def _crops(images: list[Image], owner: np.ndarray, boxes: np.ndarray, pose: Runner) -> torch.Tensor:
    """Crops (P, 3, H, W) float32, RGB, normalised, on the runner's device."""
    shape = (len(boxes), *pose.input_size, 3)
    if isinstance(images[0], torch.Tensor):
        crops = torch.empty(shape, dtype=torch.uint8, device=images[0].device)
    else:
        crops = np.empty(shape, np.uint8)
    for i in np.unique(owner):
        mine = np.flatnonzero(owner == i)  # contiguous: owners are sorted
        geometry.crop(images[i], boxes[mine], pose.input_size, out=crops[mine[0] : mine[-1] + 1])
    batch = torch.as_tensor(crops).to(pose.device).permute(0, 3, 1, 2).float()
    mean = torch.tensor(IMAGENET_MEAN, device=batch.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=batch.device)[:, None, None]
    return batch.sub_(mean).div_(std)


def _forward(crops: torch.Tensor, pose: Runner, flip_test: str) -> tuple[torch.Tensor, torch.Tensor]:
    logits = pose(crops)
    if flip_test == "off":
        return logits
    return simcc.flip_average(logits, pose(crops.flip(3)), corrected=flip_test == "corrected")


def _visible(people: People, options: Options) -> np.ndarray:
    return people.score >= options.keypoint_threshold


def _better(first: People, second: People) -> People:
    """Of two passes over the same people, each person's surer one: a second look at a wrong box can be worse."""
    take = second.score.mean(axis=1) >= first.score.mean(axis=1)

    def pick(name: str) -> np.ndarray:
        a, b = getattr(first, name), getattr(second, name)
        return np.where(take.reshape(-1, *[1] * (a.ndim - 1)), b, a)

    return replace(first, **{name: pick(name) for name in ("xy", "score", "box", "visibility")})


def _keypoint_boxes(people: People, options: Options) -> np.ndarray:
    """The box of each person's keypoints, padded and cut to the image; the old box where too few are seen.

    Points of half the threshold count, too: in a loose first box limbs are less sure than the face, and a box of the
    face alone would lose them for good.
    """
    boxes = people.box.copy()
    height, width = people.image_size
    for i, visible in enumerate(people.score >= options.keypoint_threshold / 2):
        if visible.sum() < MIN_VISIBLE:
            continue
        points = people.xy[i, visible]
        center = (points.min(axis=0) + points.max(axis=0)) / 2
        half = (points.max(axis=0) - points.min(axis=0)) / 2 * KEYPOINT_BOX_PADDING
        box = np.concatenate((center - half, center + half)).clip(0, (width, height, width, height))
        if (box[2:] - box[:2]).min() >= 1:
            boxes[i] = box
    return boxes


def _to_runner_device(image: Image, pose: Runner) -> Image:
    """Arrays where the networks run on the CPU, tensors on their device otherwise: one upload per image, as uint8."""
    if pose.device.type == "cpu":
        return image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    # CUDA has read pageable memory when the call returns. MPS may read it later, reused (pytorch #189690).
    return torch.as_tensor(image).to(pose.device, non_blocking=pose.device.type == "cuda")
