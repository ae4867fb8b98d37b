"""Training batches from a pool of scenes: mirrored, zoomed, shrunk, or four scenes in one (mosaic).

A batch is a function of (seed, step, process), so a resumed run sees the batches it would have seen.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from dwpose_core.geometry import LETTERBOX_VALUE

from .pool import ScenePool

KEPT_SHARE = 0.3  # of a box must lie in the part of the scene that is used, or the box is dropped
KEPT_SIDE = 4  # pixels
AS_IS = 0.5  # of the pictures without mosaic are the scene as it was composed
ZOOM = (0.55, 1.7)  # of the others, log-uniform
MOSAIC_ZOOM = (0.4, 1.1)


def place(
    canvas: np.ndarray,
    region: tuple[int, int, int, int],
    image: np.ndarray,
    boxes: np.ndarray,
    zoom: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Paint `image` (h, w, 3), scaled by `zoom`, top left into `region` (xyxy) of `canvas`; a random part if too big.

    Returns:
        the boxes (P, 4) in pixels of the canvas, cut to the region, without those of which too little is left.
    """
    x1, y1, x2, y2 = region
    height, width = image.shape[:2]
    new = np.maximum(np.round(np.array((width, height)) * zoom).astype(int), 1)
    if zoom != 1.0:
        image = cv2.resize(image, new.tolist(), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    room = np.array((x2 - x1, y2 - y1))
    skip = np.floor(rng.uniform(0, 1, 2) * (np.maximum(new - room, 0) + 1)).astype(int)
    part = image[skip[1] : skip[1] + room[1], skip[0] : skip[0] + room[0]]
    canvas[y1 : y1 + part.shape[0], x1 : x1 + part.shape[1]] = part
    moved = boxes * np.tile(new / (width, height), 2) + np.tile((x1, y1) - skip, 2)
    cut = moved.copy()
    cut[:, :2] = np.maximum(moved[:, :2], (x1, y1))
    cut[:, 2:] = np.minimum(moved[:, 2:], (x1 + part.shape[1], y1 + part.shape[0]))
    sides, before = np.maximum(cut[:, 2:] - cut[:, :2], 0), moved[:, 2:] - moved[:, :2]
    keep = (sides.prod(1) >= KEPT_SHARE * before.prod(1)) & (sides.min(1, initial=np.inf) >= KEPT_SIDE)
    return cut[keep].astype(np.float32)


def draw_picture(pool: ScenePool, side: int, mosaic: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One network input (side, side, 3) uint8 RGB and its boxes (P, 4) xyxy px."""
    fit = side / pool.images.shape[1]
    canvas = np.full((side, side, 3), LETTERBOX_VALUE, np.uint8)

    def scene() -> tuple[np.ndarray, np.ndarray]:
        image, boxes = pool.scene(int(rng.integers(len(pool))))
        if rng.random() < 0.5:
            image, boxes = image[:, ::-1], boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (image.shape[1], 0) * 2
        return np.ascontiguousarray(image), boxes

    if not mosaic:
        zoom = 1.0 if rng.random() < AS_IS else float(np.exp(rng.uniform(*np.log(ZOOM))))
        return canvas, place(canvas, (0, 0, side, side), *scene(), zoom * fit, rng)
    x, y = rng.integers(side // 4, side * 3 // 4, 2).tolist()
    regions = ((0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side))
    zooms = np.exp(rng.uniform(*np.log(MOSAIC_ZOOM), 4))
    parts = [place(canvas, r, *scene(), z * fit, rng) for r, z in zip(regions, zooms.tolist(), strict=True)]
    return canvas, np.concatenate(parts)


def to_input(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """(N, S, S, 3) uint8 RGB -> (N, 3, S, S) float32 BGR 0..255, channels last in memory, as YOLOX takes it."""
    return torch.from_numpy(images).to(device)[..., [2, 1, 0]].permute(0, 3, 1, 2).float()


def draw_batch(
    pool: ScenePool, size: int, side: int, mosaic: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """`size` pictures (N, side, side, 3) uint8 RGB, a share `mosaic` of them of four scenes, and the boxes of each."""
    pictures = [draw_picture(pool, side, bool(rng.random() < mosaic), rng) for _ in range(size)]
    return np.stack([image for image, _ in pictures]), [boxes for _, boxes in pictures]
