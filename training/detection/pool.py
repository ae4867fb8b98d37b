"""Scenes on disk, ready for a detector: one .npy of letterboxed pictures, one .npz of boxes.

    python -m training.detection.pool --layers DIR --objects DIR --assets DIR --out POOL --count 24000

Writes OUT/NAME.npy (n, S, S, 3) uint8 RGB, each scene top left on grey 114 as the detector gets it, and OUT/NAME.npz
with boxes (m, 4) float32 xyxy, first (n + 1,) where the boxes of each scene begin, and sizes (n, 2) of the scenes as
(w, h). Scene k of a seed is the same for any number of workers.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dwpose_core.geometry import LETTERBOX_VALUE

from ..synthetic.workers import worker_pool
from .scenes import Material, compose

CHUNK = 100  # scenes per task


@dataclass(frozen=True)
class ScenePool:
    """images (n, S, S, 3) uint8 RGB, memory-mapped; boxes (m, 4) xyxy px; first (n + 1,); sizes (n, 2) as (w, h)."""

    images: np.ndarray
    boxes: np.ndarray
    first: np.ndarray
    sizes: np.ndarray

    @classmethod
    def load(cls, folder: Path, name: str) -> ScenePool:
        labels = np.load(folder / f"{name}.npz")
        return cls(np.load(folder / f"{name}.npy", mmap_mode="r"), labels["boxes"], labels["first"], labels["sizes"])

    def __len__(self) -> int:
        return len(self.sizes)

    def scene(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture k (h, w, 3) without its grey border, and its boxes (P, 4)."""
        width, height = self.sizes[k]
        return self.images[k, :height, :width], self.boxes[self.first[k] : self.first[k + 1]]


def _start(sources: tuple[Path, Path, Path], held_out: bool, picture: Path, seed: int, people: int | None) -> None:
    global _job
    cv2.setNumThreads(1)
    images = np.load(picture, mmap_mode="r+")
    _job = (Material.load(*sources, held_out=held_out), images, seed, people)


def _fill(numbers: range) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    material, images, seed, people = _job
    boxes, sizes = [], []
    for k in numbers:
        scene = compose(material, images.shape[1], np.random.default_rng((seed, k)), people)
        height, width = scene.image.shape[:2]
        images[k] = LETTERBOX_VALUE
        images[k, :height, :width] = scene.image
        boxes.append(scene.boxes)
        sizes.append((width, height))
    return boxes, sizes


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
) -> None:
    """Compose `count` scenes of longer side `side`.

    Args:
        sources: folders of people (training.synthetic.generate), objects and assets.
        held_out: use the backgrounds and objects that training never sees.
        people: in every scene; None draws the number.
    """
    out.mkdir(parents=True, exist_ok=True)
    picture = out / f"{name}.npy"
    np.lib.format.open_memmap(picture, "w+", np.uint8, (count, side, side, 3)).flush()
    tasks = [range(k, min(k + CHUNK, count)) for k in range(0, count, CHUNK)]
    boxes: list[np.ndarray] = []
    sizes: list[tuple[int, int]] = []
    with worker_pool(workers, _start, (sources, held_out, picture, seed, people)) as pool:
        with tqdm(total=count, unit="scene", desc=name) as bar:
            for part, shapes in pool.imap(_fill, tasks):
                boxes += part
                sizes += shapes
                bar.update(len(shapes))
    first = np.cumsum([0, *(len(b) for b in boxes)])
    np.savez(out / f"{name}.npz", boxes=np.concatenate(boxes), first=first, sizes=np.array(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=Path, required=True, help="folder written by training.synthetic.generate")
    parser.add_argument("--objects", type=Path, required=True, help="folder written by training.synthetic.objects")
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="train")
    parser.add_argument("--count", type=int, default=24000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--side", type=int, default=256, help="longer side of a scene, pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--held-out", action="store_true", help="backgrounds and objects that training never sees")
    parser.add_argument("--people", type=int, help="in every scene")
    args = parser.parse_args()
    sources = (args.layers, args.objects, args.assets)
    build_pool(sources, args.out, args.name, args.count, args.seed, args.side, args.workers, args.held_out, args.people)


if __name__ == "__main__":
    main()
