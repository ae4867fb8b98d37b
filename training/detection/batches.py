"""Training batches from a pool of scenes: mirrored, zoomed, recoloured, drawn, or four scenes in one (mosaic).

A batch is a function of the generator that it is drawn with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch

from dwpose_core.geometry import LETTERBOX_VALUE
from dwpose_core.skeleton import FLIP_INDICES

from ..synthetic.styles import drawn
from .pool import ScenePool
from .scenes import Scene

KEPT_SHARE = 0.1  # of a box must lie in the part of the scene that is used, or the box is dropped
KEPT_SIDE = 4  # pixels
AS_IS = 0.5  # of the pictures without mosaic are the scene as it was composed
ZOOM = (0.7, 1.7)  # of the others, log-uniform
MOSAIC_ZOOM = (0.5, 1.2)
DRAWN = 0.12  # of the scenes are drawings
RECOLOURED = 0.6  # of the scenes have another brightness and tint each time they are drawn
CAST = 0.15  # of these a strong one, as by lamps, at dusk, under water or on a stage
GREY = 0.1  # of these none


@dataclass
class Picture:
    """A network input in the making: canvas (S, S, 4) uint8 RGB and mask; boxes (P, 4) and points (Q, 3) in its px."""

    canvas: np.ndarray
    boxes: np.ndarray
    points: np.ndarray

    @classmethod
    def blank(cls, side: int) -> Picture:
        canvas = np.full((side, side, 4), LETTERBOX_VALUE, np.uint8)
        canvas[..., 3] = 0
        return cls(canvas, np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32))

    def place(self, region: tuple[int, int, int, int], scene: Scene, zoom: float, rng: np.random.Generator) -> None:
        """Paint `scene`, scaled by `zoom`, top left into `region` (xyxy); a random part of it if it is too big.

        Boxes are cut to the region and dropped where too little of them is left; points outside it are dropped.
        """
        x1, y1, x2, y2 = region
        height, width = scene.mask.shape
        new = np.maximum(np.round(np.array((width, height)) * zoom).astype(int), 1)
        image = np.empty((height, width, 4), np.uint8)
        for channel, plane in enumerate((*np.moveaxis(scene.image, 2, 0), scene.mask)):
            image[..., channel] = plane  # a third of the time of np.dstack
        if zoom != 1.0:
            image = cv2.resize(image, new.tolist(), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
        room = np.array((x2 - x1, y2 - y1))
        skip = np.floor(rng.uniform(0, 1, 2) * (np.maximum(new - room, 0) + 1)).astype(int)
        part = image[skip[1] : skip[1] + room[1], skip[0] : skip[0] + room[0]]
        self.canvas[y1 : y1 + part.shape[0], x1 : x1 + part.shape[1]] = part
        shift, end = (x1, y1) - skip, np.array((x1 + part.shape[1], y1 + part.shape[0]))
        moved = scene.boxes * np.tile(new / (width, height), 2) + np.tile(shift, 2)
        cut = np.concatenate((np.maximum(moved[:, :2], (x1, y1)), np.minimum(moved[:, 2:], end)), axis=1)
        sides, before = np.maximum(cut[:, 2:] - cut[:, :2], 0), moved[:, 2:] - moved[:, :2]
        keep = (sides.prod(1) >= KEPT_SHARE * before.prod(1)) & (sides.min(1, initial=np.inf) >= KEPT_SIDE)
        self.boxes = np.concatenate((self.boxes, cut[keep].astype(np.float32)))
        xy = scene.points[:, :2] * (new / (width, height)) + shift
        inside = ((xy >= (x1, y1)) & (xy < end)).all(1)
        points = np.column_stack((xy, scene.points[:, 2]))[inside]
        self.points = np.concatenate((self.points, points.astype(np.float32)))


def mirrored(scene: Scene) -> Scene:
    """Left and right exchanged, in the picture and in the kinds of its points."""
    width = scene.mask.shape[1]
    boxes = scene.boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0) * 2
    kinds = FLIP_INDICES[scene.points[:, 2].astype(int)]
    points = np.column_stack((width - scene.points[:, 0], scene.points[:, 1], kinds))
    return Scene(scene.image[:, ::-1], boxes, scene.mask[:, ::-1], points)


def draw_picture(pool: ScenePool, side: int, mosaic: bool, rng: np.random.Generator) -> Picture:
    """One network input of `side` pixels."""
    fit = side / pool.side
    picture = Picture.blank(side)

    def scene() -> Scene:
        chosen = pool.scene(int(rng.integers(len(pool))))
        if rng.random() < DRAWN:
            chosen = replace(chosen, image=drawn(np.ascontiguousarray(chosen.image), rng))
        if rng.random() < RECOLOURED:
            chosen = replace(chosen, image=recoloured(chosen.image, rng))
        return mirrored(chosen) if rng.random() < 0.5 else chosen

    if mosaic:
        x, y = rng.integers(side // 4, side * 3 // 4, 2).tolist()
        regions = ((0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side))
        for region, zoom in zip(regions, np.exp(rng.uniform(*np.log(MOSAIC_ZOOM), 4)).tolist(), strict=True):
            picture.place(region, scene(), zoom * fit, rng)
    else:
        zoom = 1.0 if rng.random() < AS_IS else float(np.exp(rng.uniform(*np.log(ZOOM))))
        picture.place((0, 0, side, side), scene(), zoom * fit, rng)
    return picture


def recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) uint8 RGB in another light: exposure, tint and contrast, or grey."""
    tint, curve = (0.2, 0.3) if rng.random() < CAST else (0.06, 0.0)
    gain = rng.uniform(0.7, 1.3) * np.exp(rng.normal(0, tint, 3))
    table = 255 * (np.arange(256)[:, None] / 255) ** np.exp(rng.normal(0, curve)) * gain + rng.normal(0, 12)
    image = np.ascontiguousarray(image)
    if rng.random() < GREY:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        table = table[:, :1].repeat(3, axis=1)
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[:, None])


def to_input(images: np.ndarray | torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """(N, S, S, 3) uint8 RGB -> (N, 3, S, S) float32 BGR 0..255, channels last in memory, as YOLOX takes it."""
    return torch.as_tensor(images, device=device).flip(-1).permute(0, 3, 1, 2).float()


class Batch(NamedTuple):
    """Pictures with their labels as tensors of their own, so that they travel between processes and devices.

    Attributes:
        canvas: (N, S, S, 4) uint8, RGB and mask of the people.
        people: (N, P, 4) float32 boxes xyxy px; as many rows as most people in one picture, at least one, unused
            ones zero.
        points: (Q, 4) float32 number of the picture, x, y in px and kind.
    """

    canvas: torch.Tensor
    people: torch.Tensor
    points: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The host does not wait for pinned memory to arrive."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


def stacked(boxes: list[np.ndarray]) -> torch.Tensor:
    """`Batch.people` of boxes (P, 4) per picture."""
    people = np.zeros((len(boxes), max(1, *map(len, boxes)), 4), np.float32)
    for row, mine in zip(people, boxes, strict=True):
        row[: len(mine)] = mine
    return torch.from_numpy(people)


def numbered(points: list[np.ndarray]) -> torch.Tensor:
    """`Batch.points` of points (Q, 3) per picture."""
    numbers = np.repeat(np.arange(len(points)), [len(mine) for mine in points])
    return torch.from_numpy(np.column_stack((numbers, np.concatenate(points))).astype(np.float32))


def draw_batch(pool: ScenePool, size: int, side: int, mosaic: float, rng: np.random.Generator) -> Batch:
    """`size` pictures of `side` pixels, a share `mosaic` of them of four scenes."""
    pictures = [draw_picture(pool, side, bool(rng.random() < mosaic), rng) for _ in range(size)]
    canvas = torch.from_numpy(np.stack([picture.canvas for picture in pictures]))
    return Batch(canvas, stacked([p.boxes for p in pictures]), numbered([p.points for p in pictures]))
