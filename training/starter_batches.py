"""Batches for the starter model: stored crops, varied anew each time they are drawn.

A stored crop took 10 to 20 ms to composite and is seen several times. What is cheap is therefore done here: another
window of the crop, a patch of another crop in front, mirroring, brightness, contrast, colour, drawings.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from dwpose_core.skeleton import FLIP_INDICES

from .synthetic.crop_bank import GAINED, GREY, PATCHED, SHIFTED, ZOOMED
from .synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from .synthetic.pool import CropPool
from .synthetic.styles import drawn
from .synthetic.torch_composite import Crops
from .synthetic.torch_photometric import LUMA

DRAWN = 0.15  # of all crops


@dataclass(frozen=True)
class Variation:
    """What an ablation can leave out of what a crop undergoes each time it is drawn."""

    patches: bool = True  # of other crops, in front
    colours: bool = True  # grey, contrast, colour, brightness


def resized(images: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Crops (n, h, w, 3) and points (n, 133, 2) at `size` (H, W); whole numbers are pixel centres."""
    if images.shape[1:3] == size:
        return images, points
    scale = np.array((size[1] / images.shape[2], size[0] / images.shape[1]), np.float32)
    small = [cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small), (points + 0.5) * scale - 0.5


def draw_batch(
    pool: CropPool, count: int, size: tuple[int, int], rng: np.random.Generator, variation: Variation = Variation()
) -> Crops:
    """`count` random crops at `size` (H, W)."""
    chosen = np.sort(rng.choice(len(pool), count, replace=False))
    images = np.empty((count, *size, 3), np.uint8)
    points, visible = pool.keypoints[chosen].copy(), pool.visible[chosen].copy()
    for i, k in enumerate(chosen):
        image = pool.images[k]
        if rng.random() < ZOOMED:
            image = _zoom(image, points[i], visible[i], rng)
        images[i : i + 1], points[i : i + 1] = resized(image[None], points[i : i + 1], size)
        if variation.patches and rng.random() < PATCHED:
            _patch(images[i], points[i], visible[i], pool.images[rng.integers(len(pool))], rng)
        if rng.random() < DRAWN:
            images[i] = drawn(images[i], rng)
    flip = rng.random(count) < 0.5
    images[flip] = images[flip][:, :, ::-1]
    points[flip, :, 0] = size[1] - 1 - points[flip, :, 0]
    points[flip], visible[flip] = points[flip][:, FLIP_INDICES], visible[flip][:, FLIP_INDICES]
    pixels = _recolour(images, rng) if variation.colours else torch.from_numpy(images)
    return Crops(pixels, torch.from_numpy(points), torch.from_numpy(visible))


def _zoom(image: np.ndarray, points: np.ndarray, visible: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A window of 0.78 to 1 of the crop's sides; what lies beyond it is outside. Labels change in place."""
    size = np.array(image.shape[1::-1])
    window = np.round(size * rng.uniform(0.78, 1.0)).astype(int)
    left, top = rng.integers(0, size - window + 1)
    points -= (left, top)
    visible[((points < 0) | (points > window - 1)).any(-1)] = OUTSIDE
    return image[top : top + window[1], left : left + window[0]]


def _patch(
    image: np.ndarray, points: np.ndarray, visible: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> None:
    """Cover a rectangle with a piece of `other`, a crop at least as large. Image and flags change in place."""
    size = np.array(image.shape[1::-1])
    width, height = (size * rng.uniform((0.1, 0.08), (0.5, 0.35))).astype(int)
    x, y = rng.integers(0, size - (width, height))
    u, v = rng.integers(0, np.array(other.shape[1::-1]) - (width, height))
    image[y : y + height, x : x + width] = other[v : v + height, u : u + width]
    covered = ((points >= (x, y)) & (points < (x + width, y + height))).all(-1)
    visible[covered & (visible == VISIBLE)] = HIDDEN


def _recolour(images: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Grey pictures, contrast, colour and brightness; black borders stay black. (N, H, W, 3) uint8."""
    count = len(images)
    pixels = torch.from_numpy(images).float()
    border = pixels.amax(-1, keepdim=True) == 0
    grey = torch.from_numpy(rng.random(count) < GREY)
    pixels[grey] = (pixels[grey] @ torch.tensor(LUMA))[..., None].expand(-1, -1, -1, 3)
    gain = rng.uniform(0.75, 1.3, (count, 1)) * (1 + rng.normal(0, 0.08, (count, 3)))
    gain[rng.random(count) >= GAINED] = 1.0
    shift = rng.normal(0, 14, (count, 1)) * (rng.random((count, 1)) < SHIFTED)
    gain, shift = (torch.from_numpy(a).float()[:, None, None] for a in (gain, shift))
    pixels = ((pixels - 128) * gain + 128 + shift).clamp_(0, 255)
    return pixels.masked_fill_(border, 0).to(torch.uint8)
