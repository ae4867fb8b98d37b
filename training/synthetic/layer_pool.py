"""Rendered people as tensors on the training device, and the pictures that go behind and in front of them.

A pool is a ring: when it is full, new people replace the oldest, so that a long run keeps seeing new ones.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from dwpose_core.skeleton import NUM_KEYPOINTS, PARTS

from .backgrounds import Backgrounds
from .labels import OUTSIDE, VISIBLE
from .objects import SIZE as THING_SIZE
from .ring import Ring
from .subjects import Subject, ThingGenerator, stream, texture_files
from .torch_render import TorchRenderer, seen

# Legend: M layers, h and w of a layer, K keypoints.

EXTENT_ALPHA = 60  # a column or row with more alpha than that belongs to the person, as in composite._loose


@dataclass(frozen=True)
class Layers:
    """People with their labels; the fields of generate.Layer, and the pixel box of each."""

    rgba: torch.Tensor  # (M, h, w, 4) uint8, straight alpha
    keypoints: torch.Tensor  # (M, K, 2) float32 px of the layer
    visible: torch.Tensor  # (M, K) uint8
    frame: torch.Tensor  # (M, 4) float32 left, top, right, bottom of the photograph
    box: torch.Tensor  # (M, 4) float32 first column, first row, last column, last row of the person

    def __len__(self) -> int:
        return len(self.rgba)

    def __getitem__(self, index) -> Layers:
        return Layers(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> Layers:
        return Layers(*(getattr(self, field.name).to(device) for field in fields(self)))


class LayerPool(Ring[Layers]):
    """A ring of at most `capacity` layers of `size` (W, H) on one device; `layers` is the filled part."""

    def __init__(self, capacity: int, size: tuple[int, int], device: torch.device | str):
        width, height = size
        whole = Layers(
            rgba=torch.zeros((capacity, height, width, 4), dtype=torch.uint8, device=device),
            keypoints=torch.zeros((capacity, NUM_KEYPOINTS, 2), device=device),
            visible=torch.zeros((capacity, NUM_KEYPOINTS), dtype=torch.uint8, device=device),
            frame=torch.zeros((capacity, 4), device=device),
            box=torch.zeros((capacity, 4), device=device),
        )
        super().__init__(whole)

    @property
    def layers(self) -> Layers:
        return self.rows(slice(len(self)))


def boxes_of(rgba: torch.Tensor, alpha: int) -> torch.Tensor:
    """(M, 4) float32: first and last column and row with an alpha above the limit, as x0, y0, x1, y1."""
    seen_at = rgba[..., 3] > alpha
    sides = []
    for axis in (1, 2):  # any over the rows leaves columns, and the other way round
        line = seen_at.any(axis).float()
        first = line.argmax(1)
        last = line.shape[1] - 1 - line.flip(1).argmax(1)
        sides.append((first, last))
    (x0, x1), (y0, y1) = sides
    return torch.stack((x0, y0, x1, y1), dim=1).float()


def usable(framing: str, visible: np.ndarray, share: float) -> bool:
    """What PersonGenerator asks of an attempt: enough of the person in the picture, and close-ups that show their part.

    `visible` (K,), `share` of the picture that the person covers.
    """
    part = {"hand": PARTS["left_hand"], "face": PARTS["face"]}.get(framing)
    enough = (visible[:17] > OUTSIDE).sum() >= 4 if part is None else (visible[part] == VISIBLE).mean() > 0.4
    return bool(enough and share > 0.02)


def draw_people(renderer: TorchRenderer, subjects: list[Subject]) -> Layers:
    """All views of all subjects that are usable."""
    drawn = renderer.draw([(subject.mesh, subject.views) for subject in subjects])
    device = renderer.device
    arrays = (np.concatenate([getattr(s, name) for s in subjects]) for name in ("keypoints", "distance", "frame"))
    keypoints, distance, frame = (torch.from_numpy(array).to(device) for array in arrays)
    visible = seen(keypoints, distance, drawn.distance, renderer.size, frame)
    share = (drawn.rgba[..., 3] > 128).flatten(1).float().mean(1).tolist()
    framing = [name for subject in subjects for name in subject.framing]
    rows = zip(framing, visible.cpu().numpy(), share, strict=True)
    kept = [k for k, row in enumerate(rows) if usable(*row)]
    layers = Layers(drawn.rgba, keypoints, visible, frame, boxes_of(drawn.rgba, EXTENT_ALPHA))
    return layers[torch.tensor(kept, dtype=torch.long, device=device)]


@dataclass(frozen=True)
class Surroundings:
    """What is not the person, as uint8 tensors on the device."""

    backgrounds: torch.Tensor  # (n, H, W, 3)
    textures: torch.Tensor  # (n, h, w, 3) surfaces of plain occluders
    things: torch.Tensor  # (n, h, w, 4) straight alpha
    thing_box: torch.Tensor  # (n, 4) float32 x0, y0, x1, y1 of each thing


class _Pictures:
    """Worker side: background and texture `number`."""

    def __init__(self, assets: Path, size: tuple[int, int]):
        self.backgrounds = Backgrounds(assets)
        self.size = size

    def pair(self, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((seed, number))
        background = self.backgrounds.sample(self.size, rng)
        texture = self.backgrounds.texture((self.size[0] // 2, self.size[1] // 2), rng)
        return np.ascontiguousarray(background), np.ascontiguousarray(texture)


def prepare_surroundings(
    assets: Path, size: tuple[int, int], pictures: int, things: int, seed: int, workers: int, device: torch.device
) -> Surroundings:
    """Paint `pictures` backgrounds of `size` (width, height) and render `things` objects."""
    with stream(_Pictures, (assets, size), "pair", seed, 0, pictures, workers) as pairs:
        backgrounds, textures = zip(*pairs, strict=True)
    renderer = TorchRenderer(THING_SIZE, texture_files(assets), device)
    drawn = []
    with stream(ThingGenerator, (assets, THING_SIZE), "thing", seed, 0, things, workers) as jobs:
        waiting = []
        for number, job in enumerate(jobs):
            waiting.append(job)
            if len(waiting) == 32 or number == things - 1:
                drawn.append(renderer.draw(waiting).rgba)
                waiting = []
    rgba = torch.cat(drawn)
    rgba = rgba[(rgba[..., 3] > 0).flatten(1).any(1)]
    return Surroundings(
        torch.from_numpy(np.stack(backgrounds)).to(device),
        torch.from_numpy(np.stack(textures)).to(device),
        rgba,
        boxes_of(rgba, 0),
    )
