"""Training crops of the people in scenes rendered as a whole: real neighbours, seats, shadows and one light for all.

    python -m training.synthetic.scene_crops --scenes DIR --out POOL --count 20000

DIR is a folder written by training.synthetic.generate (annotations.json, images). Writes a pool like
training.synthetic.pool's: OUT/NAME.npy and OUT/NAME.npz. Crop k is the same for any number of workers.

A box is that of what is seen of a person, as a detector gives it, or, sometimes, of the whole person, as some data sets
label it. Rotation, scale and shift are those of composite.py's tight crops. Light, colour and camera are the scene's.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.skeleton import FLIP_INDICES, NUM_KEYPOINTS

from .composite import BOX_PADDING, Crop, draw_jitter, similarity, warp
from .labels import HIDDEN, OUTSIDE, VISIBLE
from .pool import fill_pool

SMALLEST = 48  # px of a box's longer side
FEWEST = 3  # keypoints of the body that are seen
WHOLE_BOX = 0.25  # share of the boxes around the whole person, within the picture
ROTATED, TURNED = 0.4, 0.3  # as in composite.Disturbance


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
    picture = cv2.imread(str(people.paths[index]))
    if picture is None:
        raise ValueError(f"{people.paths[index]} is not a readable picture")
    whole = rng.random() < WHOLE_BOX
    left, top, width, height = people.whole_box[index] if whole else people.seen_box[index]
    low = np.maximum((left, top), 0)
    high = np.minimum((left + width, top + height), picture.shape[1::-1])
    scale = (np.array(size) / (BOX_PADDING * (high - low))).min()
    angle, factor, shift = draw_jitter(size, ROTATED, TURNED, rng)
    target = (np.array(size) - 1) / 2 + shift
    matrix = similarity(angle, scale * factor, (low + high) / 2 - 0.5, target)
    image = cv2.cvtColor(warp(picture, matrix, size), cv2.COLOR_BGR2RGB)
    points = people.keypoints[index] @ matrix[:, :2].T + matrix[:, 2]
    inside = ((points > -0.5) & (points < np.array(size) - 0.5)).all(1)
    visible = np.where(inside, people.visible[index], OUTSIDE)
    if rng.random() < 0.5:
        image, visible = image[:, ::-1], visible[FLIP_INDICES]
        points = ((size[0] - 1, 0) + points * (-1, 1))[FLIP_INDICES]
    return Crop(np.ascontiguousarray(image), points.astype(np.float32), visible.astype(np.uint8))


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
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(144, 192), metavar=("W", "H"))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    build_scene_pool(args.scenes, args.out, args.name, args.count, args.seed, tuple(args.size), args.workers)


if __name__ == "__main__":
    main()
