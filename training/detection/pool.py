"""Scenes on disk, ready for a detector: one .npy of letterboxed pictures, one .npz of labels.

    python -m training.detection.pool --layers DIR --objects DIR --assets DIR --out POOL --count 24000

Writes OUT/NAME.npy (n, S, S, 4) uint8: RGB, each scene top left on grey 114 as the detector gets it, and the mask of
the people. OUT/NAME.npz holds boxes (m, 4) float32 xyxy and points (q, 3) float32 x, y, kind (scenes.py); first and
first_point (n + 1,), where those of each scene begin; sizes (n, 2) of the scenes as (w, h). Scene k of a seed is the
same for any number of workers. With --labelled, pictures that already have COCO-WholeBody labels follow the composed
ones, those of training.synthetic.generate for example.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.geometry import LETTERBOX_VALUE

from ..checkpoint import save_arrays
from ..command import at_least_one, not_negative, run
from ..data.wholebody import DataSource
from ..synthetic.workers import fill_pictures
from .labelled import LabelledPictures
from .scenes import Material, Scene, compose

CHUNK = 100  # scenes per task


@dataclass(frozen=True)
class ScenePool:
    """images (n, S, S, 4) uint8 RGB and mask, memory-mapped; the rest as in the module docstring."""

    images: np.ndarray
    boxes: np.ndarray
    first: np.ndarray
    sizes: np.ndarray
    points: np.ndarray
    first_point: np.ndarray

    @classmethod
    def load(cls, folder: Path, name: str) -> ScenePool:
        if not (folder / f"{name}.npz").is_file():
            raise ValueError(f"{folder} has no scenes {name!r}; make them with training.detection.pool")
        images = np.load(folder / f"{name}.npy", mmap_mode="r")
        if images.shape[-1] != 4:
            raise ValueError(f"{folder / name}.npy has no masks; it is of an older version, delete it")
        return cls(images, **np.load(folder / f"{name}.npz"))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def side(self) -> int:
        return self.images.shape[1]

    def boxes_of(self, k: int) -> np.ndarray:
        return self.boxes[self.first[k] : self.first[k + 1]]

    def scene(self, k: int) -> Scene:
        """Scene k without its grey border."""
        width, height = self.sizes[k]
        picture = self.images[k, :height, :width]
        points = self.points[self.first_point[k] : self.first_point[k + 1]]
        return Scene(picture[..., :3], self.boxes_of(k), picture[..., 3], points)


def _start(
    sources: tuple[Path, Path, Path],
    held_out: bool,
    picture: Path,
    seed: int,
    people: int | None,
    close_up: bool | None,
    composed: int,
    labelled: tuple[DataSource, ...],
) -> None:
    global _job
    cv2.setNumThreads(1)
    images = np.load(picture, mmap_mode="r+")
    material = Material.load(*sources, held_out=held_out)
    _job = (material, images, seed, people, close_up, composed, LabelledPictures(labelled))


def _fill(numbers: range) -> list[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
    material, images, seed, people, close_up, composed, labelled = _job
    side, rows = images.shape[1], []
    for k in numbers:
        if k < composed:
            scene = compose(material, side, np.random.default_rng((seed, k)), people, close_up)
        else:
            scene = labelled.scene(k - composed, side)
        height, width = scene.mask.shape
        images[k] = (LETTERBOX_VALUE,) * 3 + (0,)
        images[k, :height, :width] = np.dstack((scene.image, scene.mask))
        rows.append((scene.boxes, scene.points, (width, height)))
    return rows


def build_pool(
    sources: tuple[Path, Path, Path],
    out: Path,
    name: str,
    count: int,
    seed: int,
    side: int,
    workers: int,
    held_out: bool = False,
    people: int | None = None,
    close_up: bool | None = None,
    labelled: tuple[DataSource, ...] = (),
) -> None:
    """Compose `count` scenes of longer side `side`, and add labelled pictures at that size.

    Args:
        sources: folders of people (training.synthetic.generate), objects and assets.
        held_out: use the backgrounds and objects that training never sees.
        people: in every composed scene; None draws the number.
        close_up: whether composed scenes are close-ups; None draws it, of those with one person.
        labelled: COCO-WholeBody data to add; all their pictures without crowds, weights are ignored.
    """
    total = count + len(LabelledPictures(labelled))
    picture = out / f"{name}.npy"
    arguments = (sources, held_out, picture, seed, people, close_up, count, labelled)
    parts = fill_pictures(picture, (total, side, side, 4), "scene", CHUNK, workers, _start, arguments, _fill)
    rows = [row for part in parts for row in part]
    boxes, points, sizes = zip(*rows, strict=True)
    labels = {
        "boxes": np.concatenate(boxes),
        "first": np.cumsum([0, *map(len, boxes)]),
        "points": np.concatenate(points),
        "first_point": np.cumsum([0, *map(len, points)]),
        "sizes": np.array(sizes),
    }
    save_arrays(out / f"{name}.npz", labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=Path, required=True, help="folder written by training.synthetic.generate")
    parser.add_argument("--objects", type=Path, required=True, help="folder written by training.synthetic.objects")
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="train")
    parser.add_argument("--count", type=not_negative, default=24000)
    parser.add_argument("--seed", type=not_negative, default=1)
    parser.add_argument("--side", type=at_least_one, default=256, help="longer side of a scene, pixels")
    parser.add_argument("--workers", type=at_least_one, default=os.cpu_count())
    parser.add_argument("--held-out", action="store_true", help="backgrounds and objects that training never sees")
    parser.add_argument("--people", type=not_negative, help="in every scene")
    parser.add_argument("--close-ups", action="store_true", help="nothing but close-ups of faces and hands")
    labelled = {"type": DataSource.parse, "action": "append", "default": [], "metavar": "ANNOTATIONS,IMAGES"}
    parser.add_argument("--labelled", **labelled, help="COCO-WholeBody data to add; may be given several times")
    args = parser.parse_args()
    sources = (args.layers, args.objects, args.assets)
    job = (args.name, args.count, args.seed, args.side, args.workers, args.held_out, args.people)
    build_pool(sources, args.out, *job, args.close_ups or None, tuple(args.labelled))


if __name__ == "__main__":
    sys.exit(run(main))
