"""Drawn stand-ins for rendered people, and a check that code written for GPUs can be trusted without one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from training.synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from training.synthetic.layer_pool import Layers, Surroundings, boxes_of
from training.synthetic.pool import CropPool

LAYER, CROP = (96, 128), (72, 96)  # (W, H)
RED = (250, 20, 20)
PEOPLE = 24


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_layers() -> Layers:
    """Red ellipses with all keypoints well inside them; every third is cut by its photograph's lower border."""
    rng = np.random.default_rng(0)
    rgba = np.zeros((PEOPLE, LAYER[1], LAYER[0], 4), np.uint8)
    points = np.zeros((PEOPLE, 133, 2), np.float32)
    frame = np.tile(np.float32((-1e5, -1e5, 1e5, 1e5)), (PEOPLE, 1))
    for k in range(PEOPLE):
        centre, axes = np.array((48, 64)) + rng.normal(0, 2, 2), np.array((20, 40)) * rng.uniform(0.8, 1.1, 2)
        box = (tuple(centre.tolist()), tuple((2 * axes).tolist()), 0.0)
        cv2.ellipse(rgba[k], box, (*RED, 255), -1)
        direction = rng.uniform(0, 2 * np.pi, 133)
        radius = np.sqrt(rng.uniform(0, 0.6, 133))[:, None]
        points[k] = centre + radius * axes * np.stack((np.cos(direction), np.sin(direction)), axis=1)
        if k % 3 == 0:
            frame[k, 3] = centre[1] + 10
    visible = rng.choice((HIDDEN, VISIBLE), (PEOPLE, 133), p=(0.3, 0.7)).astype(np.uint8)
    visible[points[..., 1] > frame[:, 3:]] = OUTSIDE
    pictures = torch.from_numpy(rgba)
    arrays = (torch.from_numpy(array) for array in (points, visible, frame))
    return Layers(pictures, *arrays, boxes_of(pictures, 60))


def noise_pool() -> CropPool:
    """Forty crops of noise with random points and flags."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    points = rng.uniform(0, 63, (40, 133, 2)).astype(np.float32)
    return CropPool(images, points, rng.choice((OUTSIDE, HIDDEN, VISIBLE), (40, 133)).astype(np.uint8))


def write_pool(pool: CropPool, folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}.npy", pool.images)
    np.savez(folder / f"{name}.npz", keypoints=pool.keypoints, visible=pool.visible)


def plain_surroundings() -> Surroundings:
    """Blue backgrounds, blue textures, green boxes."""
    backgrounds = torch.zeros((5, CROP[1], CROP[0], 3), dtype=torch.uint8)
    backgrounds[..., 2] = 200
    things = torch.zeros((4, 40, 40, 4), dtype=torch.uint8)
    things[:, 5:35, 10:30] = torch.tensor((0, 220, 0, 255), dtype=torch.uint8)
    return Surroundings(backgrounds, backgrounds[:, ::2, ::2].clone(), things, boxes_of(things, 0))


class NamesItsDevice(TorchFunctionMode):
    """Fails where a tensor is made on the default device: on a GPU it would meet the others and stop the run."""

    MAKERS = frozenset(
        {
            "arange",
            "as_tensor",
            "empty",
            "eye",
            "full",
            "linspace",
            "ones",
            "rand",
            "randint",
            "randn",
            "tensor",
            "zeros",
        }
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.MAKERS and kwargs.get("device") is None:
            raise AssertionError(f"torch.{func.__name__} without a device")
        return func(*args, **kwargs)
