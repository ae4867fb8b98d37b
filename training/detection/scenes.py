"""Pictures for a person detector: rendered people and things on backgrounds, and the box of what is seen of each.

Everything has a depth. From far to near, people and things are laid over the background, each hiding what is behind
it; then light, colour, blur, noise and JPEG disturb the whole picture. A box is the extent of the visible pixels, as
in COCO. A person whom the photograph of its layer cuts (at the knees, the hips, the chest) is put at the border of
the picture that cuts it; most people are whole. A quarter of the pictures show nobody: with few backgrounds at hand,
false alarms are the weak spot, so things there are many and some wear the texture of clothes and skin. Of the
pictures of one person, some are close-ups, in which a face or a hand is large and the rest of the person beyond the
picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.skeleton import FLIP_INDICES

from ..synthetic.backgrounds import Backgrounds
from ..synthetic.composite import PHOTO_ASPECTS, Disturbance, lay_over, photometric, similarity
from ..synthetic.labels import VISIBLE
from ..synthetic.layer_store import LayerStore, read_objects, read_rgba

# Legend: picture coordinates are pixel edges, so a box around one pixel (x, y) is (x, y, x + 1, y + 1).

PEOPLE = (0.25, 0.26, 0.16, 0.1, 0.08, 0.05, 0.04, 0.03, 0.03)  # share of pictures with 0..8 people
CLOSE_UPS = 0.3  # of the pictures with one person
CLOSE_UP_HEIGHT = (0.5, 1.3)  # as HEIGHT, of what the layer of a face or a hand shows
WHOLE = 0.6  # of the people are drawn from the layers of framing "full", the others from all layers
CROWDS = 0.45  # of the pictures of two or more people have them close together
CROWD_SPREAD = 0.12  # standard deviation of where they stand, in widths of the picture
BEYOND = 0.07  # of the people whom no border cuts stand partly beyond one, left or right; as many above or below one
BEYOND_SHARE = (0.05, 0.75)  # of their width or height
COVERED = 0.2  # of the people have something right before them
TURNED = 0.1  # of the people whom no border cuts: by any angle, because people lie, hang and do handstands
HEIGHT = (0.09, 1.3)  # of a person over that of the picture; above 1 the picture cuts it
FAR = 1.3  # exponent that draws the logarithm of HEIGHT towards its low end: there are more people far off than near
LARGEST_SCALE = 3.0  # of a layer's pixels; somebody larger is drawn again, at most so many times
TRIES = 4
PIECES = 0.3  # of the things are pieces of photographs
LIGHT = Disturbance(convolved=0.06, photometric=0.8)
SEEN = 0.4  # alpha from which a pixel belongs to a person
KEPT_SHARE = 0.1  # of a person's pixels must be left by what is in front, or it has no box
KEPT_PIXELS = 24
KEPT_SIDE = 4  # pixels of the shorter side
KINDS = 23  # of keypoints kept: the 17 of the body, then 6 of the feet (the first of COCO-WholeBody's 133)
HELD_OUT = 6  # every sixth background, and 1 / 15 of the things, is for tests only


@dataclass(frozen=True)
class Scene:
    """image (h, w, 3) uint8 RGB; boxes (P, 4) float32 xyxy of the visible part of each person.

    mask (h, w) uint8: 255 where a person is seen, whether or not enough is left for a box.
    points (Q, 3) float32: x, y and kind (0..KINDS - 1) of the keypoints that are seen.
    """

    image: np.ndarray
    boxes: np.ndarray
    mask: np.ndarray
    points: np.ndarray


@dataclass(frozen=True)
class Material:
    """What scenes are made of."""

    people: LayerStore
    backgrounds: Backgrounds
    objects: list[np.ndarray]

    @cached_property
    def close_ups(self) -> np.ndarray:
        """Rows of `people` that show a face or a hand.

        Raises:
            ValueError: when there are none.
        """
        return self._framed("close-up of a face or a hand", "face", "hand")

    @cached_property
    def whole(self) -> np.ndarray:
        """Rows of `people` that show somebody from head to foot.

        Raises:
            ValueError: when there are none.
        """
        return self._framed("whole person", "full")

    def _framed(self, what: str, *framings: str) -> np.ndarray:
        rows = np.flatnonzero(np.isin(self.people.framing, framings))
        if not len(rows):
            raise ValueError(f"the layers hold no {what}; render more people")
        return rows

    @classmethod
    def load(cls, layers: Path, objects: Path, assets: Path, held_out: bool = False) -> Material:
        """The training part, or the backgrounds and things that training never sees."""
        backgrounds, things = Backgrounds(assets), read_objects(objects)
        for name in ("photos", "panoramas"):
            pictures = getattr(backgrounds, name)
            chosen = [p for i, p in enumerate(pictures) if (i % HELD_OUT == HELD_OUT - 1) == held_out]
            setattr(backgrounds, name, chosen)
        border = len(things) - len(things) // 15
        return cls(LayerStore(layers), backgrounds, things[border:] if held_out else things[:border])


@dataclass(frozen=True)
class Cut:
    """A layer without what lies beyond its photograph's border: rgba, its extent xyxy, which sides are cut."""

    rgba: np.ndarray
    extent: np.ndarray
    sides: np.ndarray  # (4,) bool: left, top, right, bottom


def cut_layer(rgba: np.ndarray, frame: np.ndarray) -> Cut | None:
    """`rgba` (h, w, 4) within `frame` (left, top, right, bottom; pixel centres); None where nothing is left."""
    height, width = rgba.shape[:2]
    left, top = np.clip(np.ceil(frame[:2]), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.floor(frame[2:]) + 1, 0, (width, height)).astype(int)
    seen = rgba[top:bottom, left:right, 3] > 255 * SEEN
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    if not len(columns):
        return None
    inside = np.zeros_like(rgba)
    inside[top:bottom, left:right] = rgba[top:bottom, left:right]
    extent = np.array((columns[0] + left, rows[0] + top, columns[-1] + left + 1, rows[-1] + top + 1))
    # The border of the layer's own pixels cuts as well, as in close-ups.
    return Cut(inside, extent.astype(float), extent == (left, top, right, bottom))


def compose(
    material: Material,
    side: int,
    rng: np.random.Generator,
    people: int | None = None,
    close_up: bool | None = None,
) -> Scene:
    """A picture whose longer side is `side`, with `people` people or as many as `PEOPLE` says.

    `close_up`: whether one person alone is shown so, None draws it.
    """
    aspect = PHOTO_ASPECTS[rng.integers(len(PHOTO_ASPECTS))]
    size = (side, round(side / aspect)) if aspect >= 1 else (round(side * aspect), side)
    image = material.backgrounds.sample(size, rng).astype(np.float32)
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 3.0))
    if people is None:
        people = int(rng.choice(len(PEOPLE), p=PEOPLE))

    # Depth is the height of a person standing there; things stand anywhere.
    usual = np.log(HEIGHT[0]) + np.log(HEIGHT[1] / HEIGHT[0]) * rng.random() ** FAR
    spread = rng.normal(0, 0.35, people) if people > 1 else np.zeros(people)
    heights = np.exp(np.clip(usual + spread, *np.log(HEIGHT)))
    crowd = rng.uniform(0.2, 0.8) if people >= 2 and rng.random() < CROWDS else None
    if close_up is None:
        close_up = people == 1 and rng.random() < CLOSE_UPS
    if close_up:
        heights = rng.uniform(*CLOSE_UP_HEIGHT, people)
    things = int(rng.choice((0, 1, 2, 3, 4, 6), p=(0.2, 0.22, 0.2, 0.16, 0.12, 0.1))) + (3 if people == 0 else 0)
    depths = np.concatenate((heights, np.exp(rng.uniform(*np.log(HEIGHT), things))))
    visible: list[np.ndarray] = []
    pasted: list[int] = []
    keypoints: list[np.ndarray] = []
    # Who is cut on opposite sides spans the picture, however small they were to be: that decides who is in front.
    drawn = [_choose(material, heights[i], size, rng, close_up, crowd) for i in range(people)]
    depths[:people] = [heights[i] if one is None else one.height for i, one in enumerate(drawn)]
    for i in np.argsort(depths):
        if i < people:
            if drawn[i] is None:
                continue
            image, alpha = lay_over(image, drawn[i].rgba, drawn[i].matrix)
            points = drawn[i].points
            pixels = (alpha > SEEN).sum()
            if rng.random() < COVERED:
                image, cover = _cover(material, image, alpha, rng)
                for mask in (*visible, alpha):
                    mask *= 1 - cover
        else:
            image, alpha = _thing(material, image, rng)
        for mask in visible:
            mask *= 1 - alpha
        if i < people:
            visible.append(alpha)
            pasted.append(pixels)
            keypoints.append(points)
    image = photometric(image, LIGHT, rng)
    found = [box_of(mask, count) for mask, count in zip(visible, pasted, strict=True)]
    boxes = np.array([box for box in found if box is not None], np.float32).reshape(-1, 4)
    mask = np.zeros(image.shape[:2], np.float32)
    for one in visible:
        mask = np.maximum(mask, one)
    points = [on_mask(them, one > SEEN) for them, one in zip(keypoints, visible, strict=True)]
    points = np.concatenate([np.zeros((0, 3), np.float32), *points])
    return Scene(np.clip(image, 0, 255).astype(np.uint8), boxes, np.round(mask * 255).astype(np.uint8), points)


def on_mask(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The rows of `points` (Q, 3) that lie on true pixels of `mask` (h, w)."""
    height, width = mask.shape
    inside = ((points[:, :2] >= 0) & (points[:, :2] < (width, height))).all(1)
    points = points[inside]
    x, y = points[:, :2].astype(int).T
    return points[mask[y, x]]


def box_of(mask: np.ndarray, pasted: int) -> np.ndarray | None:
    """xyxy of the pixels of `mask` (h, w) above SEEN; None where too little is left of the `pasted` pixels."""
    seen = mask > SEEN
    count = seen.sum()
    if count < max(KEPT_PIXELS, KEPT_SHARE * pasted):
        return None
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    box = np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), np.float32)
    return box if (box[2:] - box[:2]).min() >= KEPT_SIDE else None


def placement(
    cut: Cut, height: float, size: tuple[int, int], rng: np.random.Generator, crowd: float | None = None
) -> np.ndarray:
    """2x3 matrix, layer pixels to picture pixels (pixel centres), for a person of `height` times the picture's.

    A cut side lies on the border of the picture or a little beyond; one cut on opposite sides spans the picture.
    Others of a `crowd` (where, in widths of the picture) stand close to it.
    """
    size = np.array(size, float)
    extent = cut.extent[2:] - cut.extent[:2]
    scale = height * size[1] / extent[1]
    opposite = cut.sides[:2] & cut.sides[2:]
    if opposite.any():
        scale = max(scale, *(size[opposite] / extent[opposite]))
    length = extent * scale
    centre = np.empty(2)
    for axis in (0, 1):
        low, high = sorted((length[axis] / 2, size[axis] - length[axis] / 2))
        beyond = length[axis] * rng.uniform(0, 0.12)
        if cut.sides[axis] and not cut.sides[axis + 2]:
            centre[axis] = length[axis] / 2 - beyond
        elif cut.sides[axis + 2] and not cut.sides[axis]:
            centre[axis] = size[axis] - length[axis] / 2 + beyond
        elif not cut.sides[axis] and rng.random() < BEYOND:
            inside = length[axis] * (0.5 - rng.uniform(*BEYOND_SHARE))
            centre[axis] = inside if rng.random() < 0.5 else size[axis] - inside
        elif crowd is not None and axis == 0:
            centre[axis] = np.clip(rng.normal(crowd, CROWD_SPREAD) * size[axis], low, high)
        else:
            centre[axis] = rng.uniform(low, high)
    angle = 0.0
    if not cut.sides.any():
        angle = rng.uniform(-np.pi, np.pi) if rng.random() < TURNED else rng.normal(0, 0.06)
    return similarity(angle, scale, (cut.extent[:2] + cut.extent[2:]) / 2 - 0.5, centre - 0.5)


@dataclass(frozen=True)
class Placed:
    """A person of a composed scene: layer, matrix to the picture, height in pictures, points seen in the layer."""

    rgba: np.ndarray
    matrix: np.ndarray
    height: float
    points: np.ndarray


def _choose(
    material: Material,
    height: float,
    size: tuple[int, int],
    rng: np.random.Generator,
    close_up: bool,
    crowd: float | None,
) -> Placed | None:
    """A random person, or one in close-up, in a picture of `size` (w, h); none who would be magnified to a blur."""
    people = material.people
    for _ in range(TRIES):
        if close_up:
            index = int(rng.choice(material.close_ups))
        else:
            index = int(rng.choice(material.whole) if rng.random() < WHOLE else rng.integers(len(people)))
        cut = cut_layer(read_rgba(people.paths[index]), people.frame[index])  # too many to keep decoded
        if cut is None:
            continue
        rgba, extent, sides = cut.rgba, cut.extent, cut.sides
        xy, visible = people.keypoints[index], people.visible[index]
        if rng.random() < 0.5:
            width = rgba.shape[1]
            rgba = rgba[:, ::-1]
            extent = np.array((width - extent[2], extent[1], width - extent[0], extent[3]))
            sides = sides[[2, 1, 0, 3]]
            xy, visible = ((width - 1, 0) + xy * (-1, 1))[FLIP_INDICES], visible[FLIP_INDICES]
        matrix = placement(Cut(rgba, extent, sides), height, size, rng, crowd)
        scale = np.hypot(matrix[0, 0], matrix[0, 1])
        if scale > LARGEST_SCALE:
            continue
        person = rgba.copy()
        gain = rng.uniform(0.7, 1.25) * (1 + rng.normal(0, 0.06, 3))
        person[..., :3] = np.clip(rgba[..., :3] * gain, 0, 255)
        kinds = np.flatnonzero(visible[:KINDS] == VISIBLE)
        points = np.column_stack((xy[kinds] @ matrix[:, :2].T + matrix[:, 2] + 0.5, kinds)).astype(np.float32)
        return Placed(person, matrix, scale * (extent[3] - extent[1]) / size[1], points)
    return None


def _cover(
    material: Material, image: np.ndarray, alpha: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A table, a wall, a pole right before the person seen in `alpha` (h, w). Image and its own alpha."""
    rows, columns = np.flatnonzero((alpha > SEEN).any(1)), np.flatnonzero((alpha > SEEN).any(0))
    if not len(rows):
        return image, np.zeros_like(alpha)
    low, extent = np.array((columns[0], rows[0])), np.array((np.ptp(columns), np.ptp(rows))) + 1.0
    kind = rng.random()
    if kind < 0.55:  # from some height on down
        start, end = np.array((rng.uniform(-1.0, 0.3), rng.uniform(0.25, 0.9))), (rng.uniform(0.7, 2.0), 1.1)
    elif kind < 0.8:  # from one side
        start, end = np.array((rng.uniform(0.25, 0.8), rng.uniform(-0.5, 0.3))), (2.0, rng.uniform(0.7, 1.5))
        if rng.random() < 0.5:
            start[0], end = -1.0, (1 - start[0], end[1])
    else:  # a pole or a rail
        start = rng.uniform(0.2, 0.7, 2)
        end = start + 0.15
        across = int(rng.random() < 0.5)
        start[across], end[across] = -0.5, 1.5
    corners = np.array((start, (end[0], start[1]), end, (start[0], end[1]))) * extent + low
    turn = similarity(rng.normal(0, 0.06), 1.0, corners.mean(0), corners.mean(0))
    cover = np.zeros(image.shape[:2], np.float32)
    cv2.fillConvexPoly(cover, np.round(corners @ turn[:, :2].T + turn[:, 2]).astype(np.int32), 1.0)
    texture = material.backgrounds.texture(image.shape[1::-1], rng)
    return image * (1 - cover[..., None]) + texture * cover[..., None], cover


def _thing(material: Material, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A rendered object, perhaps in a person's colours, a piece of a photograph, or a flat shape: (image, alpha)."""
    size = np.array(image.shape[1::-1])
    if rng.random() < PIECES:
        image = image.copy()
        return image, material.backgrounds.pieces.lay(image, rng)
    centre = rng.uniform(0, 1, 2) * size
    if rng.random() < 0.2:
        mask = np.zeros(image.shape[:2], np.float32)
        extent = rng.uniform(0.05, 0.4, 2) * size
        if rng.random() < 0.35:  # poles, rails, table edges
            extent[rng.integers(2)] *= 0.15
        corners = cv2.boxPoints((tuple(centre.tolist()), tuple(extent.tolist()), float(rng.normal(0, 15))))
        cv2.fillConvexPoly(mask, corners.astype(np.int32), 1.0)
        return image * (1 - mask[..., None]) + material.backgrounds.texture(tuple(size), rng) * mask[..., None], mask
    rgba = material.objects[rng.integers(len(material.objects))]
    if rng.random() < 0.3:
        rgba = _clothed(rgba, read_rgba(material.people.paths[rng.integers(len(material.people))]), rng)
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    scale = size.max() * np.exp(rng.uniform(np.log(0.06), np.log(0.9))) / max(rgba.shape[:2])
    angle = rng.normal(0, 0.15) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
    return lay_over(image, rgba, similarity(angle, scale, np.array(rgba.shape[1::-1]) / 2, centre))


def _clothed(thing: np.ndarray, person: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`thing` in the texture of a small piece of a person, so that cloth and skin alone do not mean person."""
    rows, columns = np.nonzero(person[..., 3] > 200)
    if len(rows) < 100:
        return thing
    k = rng.integers(len(rows))
    piece = person[max(0, rows[k] - 10) : rows[k] + 10, max(0, columns[k] - 10) : columns[k] + 10, :3]
    piece = cv2.resize(piece, thing.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
    shade = thing[..., :3].mean(2, keepdims=True) / 128.0
    result = thing.copy()
    result[..., :3] = np.clip(piece * shade, 0, 255)
    return result
