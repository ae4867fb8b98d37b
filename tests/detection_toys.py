"""What the tests of the person detector share: something a detector can learn in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dwpose_core.models.yolox import YOLOX, anchor_points
from training.detection import simota
from training.detection.pool import ScenePool
from training.detection.start import DetectorConfig

SIDE = 64
CELLS, STRIDES = anchor_points((SIDE, SIDE), torch.device("cpu"))
POINTS = (CELLS + 0.5) * STRIDES  # 64 of stride 8, 16 of stride 16, 4 of stride 32


def boxes_around(centers: torch.Tensor, side: float) -> torch.Tensor:
    return torch.cat((centers - side / 2, centers + side / 2), dim=1)


def toy_pool(count: int, seed: int = 0, people: bool = True) -> ScenePool:
    """Bright upright bars on noise: something a detector can learn in seconds."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, SIDE, SIDE, 4), dtype=np.uint8)
    images[..., 3] = 0
    boxes, points = [], []
    for image in images:
        w, h = rng.integers(12, 24), rng.integers(24, 44)
        x, y = rng.integers(0, SIDE - w), rng.integers(0, SIDE - h)
        if people:
            image[y : y + h, x : x + w] = (*rng.integers(180, 255, 3), 255)
            boxes.append((x, y, x + w, y + h))
            points.append((x + w / 2, y + 1, 0))  # the nose is at the top
    boxes, points = np.array(boxes, np.float32).reshape(-1, 4), np.array(points, np.float32).reshape(-1, 3)
    first = np.arange(count + 1) if people else np.zeros(count + 1, int)
    return ScenePool(images, boxes, first, np.full((count, 2), SIDE), points, first)


def save_pools(folder: Path) -> Path:
    folder.mkdir()
    empty = toy_pool(4, 1, people=False)
    for name, pool in (
        ("train", toy_pool(8)),
        ("test", toy_pool(8)),
        ("test_empty", empty),
        ("test_close", toy_pool(4, 2)),
    ):
        np.save(folder / f"{name}.npy", pool.images)
        np.savez(folder / f"{name}.npz", **{k: v for k, v in vars(pool).items() if k != "images"})
    return folder


def raw_output(net: YOLOX, images: torch.Tensor) -> torch.Tensor:
    return simota.logits(net.head, net.backbone(images))


TINY = DetectorConfig(
    "yolox-nano",
    side=SIDE,
    smallest=32,
    largest=SIDE,
    steps=4,
    batch=4,
    workers=1,
    mosaic=0.5,
    tail=0.5,
    mix_styles=0.5,
)
FAR = np.array((-1e5, -1e5, 1e5, 1e5))  # the border of a photograph that cuts nobody
