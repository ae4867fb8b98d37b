"""Training crops of the people in scenes rendered as a whole: real neighbours, seats, shadows and one light for all.

    python -m training.synthetic.scene_crops --scenes DIR --out POOL --count 20000

DIR is a folder written by training.synthetic.generate (annotations.json, images). Writes a pool like
training.synthetic.pool's: OUT/NAME.npy and OUT/NAME.npz. Crop k is the same for any number of workers.
`SceneCropper` renders and cuts in one go, for training that has no folder.

A box is that of what is seen of a person, as a detector gives it, or, sometimes, of the whole person, as some data sets
label it, or of a part (partial.py), where the picture may end as well. Rotation, scale and shift are those of
composite.py's tight crops. Light, colour and camera are the scene's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.skeleton import FLIP_INDICES, NUM_KEYPOINTS

from ..command import at_least_one, not_negative, run
from ..pictures import imread
from .coco import seen_box
from .composite import BOX_PADDING, Crop, draw_jitter, similarity, warp
from .labels import HIDDEN, OUTSIDE, VISIBLE
from .partial import draw_limits, tells_enough, within
from .pool import fill_pool
from .scene_set import jpeg
from .scenes import SceneGenerator

SMALLEST = 48  # px of a box's longer side
FEWEST = 3  # keypoints of the body that are seen
WHOLE_BOX = 0.25  # share of the boxes around the whole person, within the picture
ROTATED, TURNED = 0.4, 0.3  # as in composite.Disturbance
PARTIAL = 0.3  # of the crops are around a part of the person
AT_BORDER = 0.6  # share of those in which the picture ends there too
PART_MARGIN = 0.1  # around the seen points of a part, in the longer side of the person's box


class ScenePeople:
    """People of a scene folder who are large enough.

    Raises:
        ValueError: for a folder without scenes, or scenes without the labels beyond COCO's that this needs.
    """

    def __init__(self, folder: Path):
        path = folder / "annotations.json"
        if not path.is_file():
            raise ValueError(f"{path} is missing; run training.synthetic.generate --out {folder} first")
        content = json.loads(path.read_text())
        names = {row["id"]: row["file_name"] for row in content["images"]}
        people = content["annotations"]
        if people and "wholebody_state" not in people[0]:
            raise ValueError(f"{path} has no wholebody_state; it takes scenes of training.synthetic.generate")
        kept = [a for a in people if max(a["bbox"][2:]) >= SMALLEST]
        kept = [a for a in kept if sum(v == VISIBLE for v in a["wholebody_state"][:17]) >= FEWEST]
        if not kept:
            raise ValueError(f"{path} has nobody of {SMALLEST} px with {FEWEST} keypoints seen")
        self.paths = [folder / "images" / names[a["image_id"]] for a in kept]
        self.keypoints = np.array([a["wholebody_xy"] for a in kept], np.float32).reshape(-1, NUM_KEYPOINTS, 2)
        state = np.array([a["wholebody_state"] for a in kept], np.uint8)
        self.visible = np.where(state > VISIBLE, HIDDEN, state)  # crops do not say what hides a point
        self.seen_box, self.whole_box = (np.array([a[f] for a in kept], np.float32) for f in ("bbox", "full_bbox"))

    def __len__(self) -> int:
        return len(self.paths)


def scene_crop(people: ScenePeople, index: int, size: tuple[int, int], rng: np.random.Generator) -> Crop:
    """A crop of `size` (width, height) of person `index`."""
    picture = imread(people.paths[index])
    if picture is None:
        raise ValueError(f"{people.paths[index]} is not a readable picture")
    boxes = people.seen_box[index], people.whole_box[index]
    return cut(picture, boxes, people.keypoints[index], people.visible[index], size, rng)


def cut(
    picture: np.ndarray,
    boxes: tuple[np.ndarray, np.ndarray],
    keypoints: np.ndarray,
    visible: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Crop:
    """A crop of `size` (width, height) around one of two boxes.

    Args:
        picture: (h, w, 3) uint8 BGR.
        boxes: of what is seen of the person and of all of it, (4,) x, y, width, height in px.
        keypoints: (133, 2) px of the picture; `visible` (133,), no OCCLUDED among them.
    """
    left, top, width, height = boxes[int(rng.random() < WHOLE_BOX)]
    low = np.maximum((left, top), 0)
    high = np.minimum((left + width, top + height), picture.shape[1::-1])
    if rng.random() < PARTIAL:
        limits = draw_limits(np.concatenate((low, high)), rng)
        if tells_enough(keypoints, visible, limits):
            low, high = _seen_part(low, high, limits, keypoints, visible)
            if rng.random() < AT_BORDER:
                picture = _ended(picture, limits)
                visible = np.where(within(keypoints, limits), visible, OUTSIDE)
    scale = (np.array(size) / (BOX_PADDING * (high - low))).min()
    angle, factor, shift = draw_jitter(size, ROTATED, TURNED, rng)
    target = (np.array(size) - 1) / 2 + shift
    matrix = similarity(angle, scale * factor, (low + high) / 2 - 0.5, target)
    image = cv2.cvtColor(warp(picture, matrix, size), cv2.COLOR_BGR2RGB)
    points = keypoints @ matrix[:, :2].T + matrix[:, 2]
    inside = ((points > -0.5) & (points < np.array(size) - 0.5)).all(1)
    visible = np.where(inside, visible, OUTSIDE)
    if rng.random() < 0.5:
        image, visible = image[:, ::-1], visible[FLIP_INDICES]
        points = ((size[0] - 1, 0) + points * (-1, 1))[FLIP_INDICES]
    return Crop(np.ascontiguousarray(image), points.astype(np.float32), visible.astype(np.uint8))


def _seen_part(
    low: np.ndarray, high: np.ndarray, limits: np.ndarray, keypoints: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a box (low, high) around what is seen of the person between `limits`, by its keypoints."""
    seen = keypoints[within(keypoints, limits) & (visible == VISIBLE)]
    margin = PART_MARGIN * (high - low).max()
    low = np.maximum(np.maximum(low, limits[:2]), seen.min(0) - margin)
    return low, np.minimum(np.minimum(high, limits[2:]), seen.max(0) + margin)


def _ended(picture: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The picture, black beyond `limits`, as it is beyond its border."""
    left, top, right, bottom = np.clip(np.round(limits), 0, np.tile(picture.shape[1::-1], 2)).astype(int)
    ended = np.zeros_like(picture)
    ended[top:bottom, left:right] = picture[top:bottom, left:right]
    return ended


class SceneCropper:
    """Worker side of `subjects.stream`: renders scenes and cuts `each` crops of `size` (w, h) of everybody in them.

    Args:
        assets: folder of packed body assets.
        longest: longer side of the scenes in pixels.
        captured: share of poses from motion capture, which is not CC0.
    """

    def __init__(self, assets: Path, size: tuple[int, int], longest: int, each: int, captured: float = 0.0):
        self.scenes = SceneGenerator(assets, longest, captured=captured)
        self.size, self.each = size, each

    def crops(self, seed: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pictures (n, h, w, 3) uint8 RGB, keypoints (n, 133, 2) px, visible (n, 133) of scene `number`; n may be 0."""
        scene = self.scenes.scene(seed, number)
        picture = cv2.imdecode(np.frombuffer(jpeg(scene.image, seed, number), np.uint8), cv2.IMREAD_COLOR)
        rng = np.random.default_rng((seed, number, 200))
        crops = []
        for person in scene.people:
            box, (left, top, right, bottom) = np.array(seen_box(person.mask)), person.full_box
            if box[2:].max() < SMALLEST or (person.state[:17] == VISIBLE).sum() < FEWEST:
                continue
            whole = np.array((left + 0.5, top + 0.5, right - left, bottom - top))
            visible = np.where(person.state > VISIBLE, HIDDEN, person.state)
            crops += [cut(picture, (box, whole), person.keypoints, visible, self.size, rng) for _ in range(self.each)]
        images = np.empty((len(crops), self.size[1], self.size[0], 3), np.uint8)
        keypoints = np.empty((len(crops), NUM_KEYPOINTS, 2), np.float32)
        flags = np.empty((len(crops), NUM_KEYPOINTS), np.uint8)
        for k, crop in enumerate(crops):
            images[k], keypoints[k], flags[k] = crop.image, crop.keypoints, crop.visible
        return images, keypoints, flags


def _start(folder: Path, picture: Path, seed: int, size: tuple[int, int]) -> None:
    global _job
    cv2.setNumThreads(1)
    _job = (ScenePeople(folder), np.load(picture, mmap_mode="r+"), seed, size)


def _fill(numbers: range) -> tuple[np.ndarray, np.ndarray]:
    people, images, seed, size = _job
    keypoints, visible = [], []
    for k in numbers:
        crop = scene_crop(people, k % len(people), size, np.random.default_rng((seed, k)))
        images[k] = crop.image
        keypoints.append(crop.keypoints)
        visible.append(crop.visible)
    return np.stack(keypoints), np.stack(visible)


def build_scene_pool(
    scenes: Path, out: Path, name: str, count: int, seed: int, size: tuple[int, int], workers: int
) -> None:
    """`count` crops of `size` (width, height): everybody of `scenes` in turn."""
    picture = out / f"{name}.npy"
    fill_pool(picture, count, size, workers, _start, (scenes, picture, seed, size), _fill)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, required=True, help="folder written by training.synthetic.generate")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="scenes")
    parser.add_argument("--count", type=at_least_one, default=20000)
    parser.add_argument("--seed", type=not_negative, default=1)
    parser.add_argument("--size", type=at_least_one, nargs=2, default=(144, 192), metavar=("W", "H"))
    parser.add_argument("--workers", type=at_least_one, default=os.cpu_count())
    args = parser.parse_args()
    build_scene_pool(args.scenes, args.out, args.name, args.count, args.seed, tuple(args.size), args.workers)


if __name__ == "__main__":
    sys.exit(run(main))
