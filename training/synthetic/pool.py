"""Ready training crops on disk, so that training waits for nothing: one .npy of pictures, one .npz of labels.

    python -m training.synthetic.pool --layers DIR --objects DIR --assets DIR --out POOL --count 40000

Writes OUT/NAME.npy (n, h, w, 3) uint8 RGB and OUT/NAME.npz with keypoints (n, 133, 2) float32 px and visible (n, 133).
Crop k is the same for any number of workers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..checkpoint import save_arrays
from ..command import at_least_one, not_negative, run
from .backgrounds import Backgrounds
from .composite import CLOSE, CROWDED, MILD, PARTIAL, QUIET, STRONG, TUMBLING, VACANT, Disturbance, composite
from .layer_store import LayerStore, read_objects
from .workers import fill_pictures

CHUNK = 200  # crops per task
DISTURBANCES = {
    "strong": STRONG,
    "crowded": CROWDED,
    "mild": MILD,
    "quiet": QUIET,
    "vacant": VACANT,
    "tumbling": TUMBLING,
    "partial": PARTIAL,
    "close": CLOSE,
    "none": None,
}


@dataclass(frozen=True)
class CropPool:
    """images (n, h, w, 3) uint8 RGB, memory-mapped; keypoints (n, 133, 2) px; visible (n, 133) uint8."""

    images: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray

    @classmethod
    def load(cls, folder: Path, name: str) -> CropPool:
        labels = np.load(folder / f"{name}.npz")
        return cls(np.load(folder / f"{name}.npy", mmap_mode="r"), labels["keypoints"], labels["visible"])

    def __len__(self) -> int:
        return len(self.images)


def _start(
    layers: Path,
    objects: Path,
    assets: Path,
    picture: Path,
    seed: int,
    size: tuple[int, int],
    disturb: Disturbance | None,
) -> None:
    global _job
    cv2.setNumThreads(1)
    images = np.load(picture, mmap_mode="r+")
    _job = (LayerStore(layers), Backgrounds(assets), read_objects(objects), images, seed, size, disturb)


def _fill(numbers: range) -> tuple[np.ndarray, np.ndarray]:
    store, backgrounds, objects, images, seed, size, disturb = _job
    keypoints, visible = [], []
    for k in numbers:
        rng = np.random.default_rng((seed, k))
        layer = int(rng.integers(len(store))) if disturb else k % len(store)
        crop = composite(store, layer, backgrounds, objects, size, rng, disturb)
        images[k] = crop.image
        keypoints.append(crop.keypoints)
        visible.append(crop.visible)
    return np.stack(keypoints), np.stack(visible)


def fill_pool(
    picture: Path, count: int, size: tuple[int, int], workers: int, start: Callable, arguments: tuple, fill: Callable
) -> None:
    """Make the pool with the pictures `picture` (.npy) and its labels beside it.

    Args:
        count: crops of `size` (width, height).
        start: called in each of `workers` processes with `arguments`.
        fill: writes the crops of a range of numbers to `picture`; returns keypoints (n, 133, 2), visible (n, 133).
    """
    shape = (count, size[1], size[0], 3)
    parts = fill_pictures(picture, shape, "crop", CHUNK, workers, start, arguments, fill)
    keypoints, visible = (np.concatenate(column) for column in zip(*parts, strict=True))
    save_arrays(picture.with_suffix(".npz"), {"keypoints": keypoints, "visible": visible})


def build_pool(
    layers: Path,
    objects: Path,
    assets: Path,
    out: Path,
    name: str,
    count: int,
    seed: int,
    size: tuple[int, int],
    workers: int,
    disturb: Disturbance | None = STRONG,
) -> None:
    """Composite `count` crops of `size` (width, height). Undisturbed: each layer in turn, centred and upright."""
    picture = out / f"{name}.npy"
    arguments = (layers, objects, assets, picture, seed, size, disturb)
    fill_pool(picture, count, size, workers, _start, arguments, _fill)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=Path, required=True, help="folder written by training.synthetic.generate")
    parser.add_argument("--objects", type=Path, required=True, help="folder written by training.synthetic.objects")
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="train")
    parser.add_argument("--count", type=at_least_one, default=40000)
    parser.add_argument("--seed", type=not_negative, default=1)
    parser.add_argument("--size", type=at_least_one, nargs=2, default=(144, 192), metavar=("W", "H"))
    parser.add_argument("--workers", type=at_least_one, default=os.cpu_count())
    parser.add_argument("--disturb", choices=DISTURBANCES, default="strong", help="none: centred, upright, unspoilt")
    args = parser.parse_args()
    size = tuple(args.size)
    build_pool(
        args.layers,
        args.objects,
        args.assets,
        args.out,
        args.name,
        args.count,
        args.seed,
        size,
        args.workers,
        DISTURBANCES[args.disturb],
    )


if __name__ == "__main__":
    sys.exit(run(main))
