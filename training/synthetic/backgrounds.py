"""Backgrounds: photographs, views into panoramas, and procedural rooms and clutter made from pieces of both.

Only 36 pictures are at hand, 237 with --photographs, so most variety comes from recombining them: random crops,
colours, patches of texture that look like furniture, posters, doors and street clutter, and the fine structure of one
picture laid over another. All pictures are RGB uint8.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from ..pictures import imread
from .camera import Camera
from .pieces import Pieces
from .rotations import X, turn

LONGEST = 1080  # photographs are held at this longer side
LARGEST_ZOOM = 0.8  # of a photograph's pixels, where it is large enough: shrunk, it is as sharp as other photographs
KINDS = {"photo": 0.32, "view": 0.1, "room": 0.12, "clutter": 0.12, "cut": 0.24, "plain": 0.1}
PIECES = (4, 40)  # least and greatest number of pieces of photographs, drawn by the logarithm, in those that are cut
# Fine structure: mean distance of a picture's values from the blurred ones (sigma FINE_BLUR px). Photographs of COCO
# have 5 to 12, 8 in the median (at 416 px); shrunk photographs here 4 to 10, panoramas, which are enlarged 2 to 11
# times, and painted rooms 1 to 3. Before those a person's outline is the sharpest thing in the picture.
FINE, FINE_SPREAD, FINE_BLUR = 7.0, 0.4, 2.0  # median, spread of its logarithm
# Of the pictures that are not plain so many get thin lines of a photograph laid over them. More of them, and coarser
# lines, would look embossed, which no person is: where that is, a network could tell, is background.
FINER = 0.3
LENT_BLUR = (0.6, 1.5)  # least and greatest sigma of what a photograph lends
LENT = 2.0  # most that is lent, in its own strengths
STUDIO = {"white": 0.4, "black": 0.1}  # of the plain ones: photographs from a studio, cut-outs
SKIN = np.array(((235, 200, 175), (215, 165, 135), (170, 115, 85), (110, 70, 50), (75, 48, 36)), np.float32)


def random_rgb(rng: np.random.Generator) -> np.ndarray:
    """A colour, often greyish; one in six is a skin tone, so that skin colour alone does not mean person."""
    if rng.random() < 0.17:
        return np.clip(SKIN[rng.integers(len(SKIN))] + rng.normal(0, 8, 3), 0, 255)
    grey = rng.uniform(0, 255)
    return np.clip(grey + rng.normal(0, 60, 3) * rng.random(), 0, 255)


class Backgrounds:
    """Pictures of any size (width, height) made from those of the asset folder.

    Raises:
        ValueError: without a photograph or a panorama, or where one cannot be read.
    """

    def __init__(self, assets: Path):
        self.photos, self.panoramas = [], {}  # the latter by name, as the light of the same place has
        folder = assets / "backgrounds"
        for path in sorted(folder.glob("*.jpg")):
            picture = imread(path)
            if picture is None:
                raise ValueError(f"{path} is not a readable picture")
            image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            if path.name.startswith("pano_"):
                self.panoramas[path.stem.removeprefix("pano_")] = image
                continue
            scale = min(1.0, LONGEST / max(image.shape))
            self.photos.append(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        if not self.photos:
            raise ValueError(f"{folder} holds no photographs (.jpg): build the assets with --backgrounds")
        if not self.panoramas:
            raise ValueError(f"{folder} holds no panoramas (pano_*.jpg): build the assets with --hdri")

    @cached_property
    def pieces(self) -> Pieces:
        """Pieces of the photographs."""
        return Pieces(self.photos)

    def sample(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """(h, w, 3) uint8."""
        kind = list(KINDS)[rng.choice(len(KINDS), p=list(KINDS.values()))]
        if kind == "plain":
            return self.plain(size, rng)
        draw = {
            "photo": self._photo,
            "view": self._view,
            "room": self._room,
            "clutter": self._clutter,
            "cut": self._cut,
        }
        image = self._finer(draw[kind](size, rng), rng)
        return image[:, ::-1] if rng.random() < 0.5 else image

    def plain(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """One colour, or a ramp from one to another, (h, w, 3) uint8."""
        kind = rng.random()
        if kind < sum(STUDIO.values()):
            grey = 255 - rng.uniform(0, 25) if kind < STUDIO["white"] else rng.uniform(0, 25)
            top, bottom = np.clip(grey + rng.normal(0, 3, (2, 3)), 0, 255)
        else:
            top, bottom = random_rgb(rng), random_rgb(rng)
        ramp = np.linspace(0, rng.choice((0, 0.3, 1.0)), size[1])[:, None, None]
        return np.broadcast_to(top * (1 - ramp) + bottom * ramp, (size[1], size[0], 3)).astype(np.uint8)

    def _photo(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        image = self.photos[rng.integers(len(self.photos))]
        height, width = image.shape[:2]
        aspect = size[0] / size[1]
        whole = min(height, width / aspect)
        least = np.clip(size[1] / LARGEST_ZOOM / whole, 0.2, 0.9)
        crop_height = np.exp(rng.uniform(np.log(least), np.log(0.98))) * whole
        x, y = rng.uniform(0, width - crop_height * aspect), rng.uniform(0, height - crop_height)
        crop = image[int(y) : int(y + crop_height) + 1, int(x) : int(x + crop_height * aspect) + 1]
        # OpenCV enlarges by areas as by nearest neighbours, in blocks.
        shrinks = size[0] <= crop.shape[1]
        return cv2.resize(crop, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)

    def _finer(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`image` (h, w, 3) uint8, mostly with as much fine structure as photographs have, lent by one of them."""
        if rng.random() >= FINER:
            return image
        lent = _fine(self._photo(image.shape[1::-1], rng), rng.uniform(*LENT_BLUR))
        wanted = FINE * np.exp(rng.normal(0, FINE_SPREAD))
        missing = np.sqrt(max(wanted**2 - np.abs(_fine(image, FINE_BLUR)).mean() ** 2, 0.0))
        gain = min(missing / (np.abs(_fine(lent, FINE_BLUR)).mean() + 1e-3), LENT)
        return np.clip(image + gain * lent, 0, 255).astype(np.uint8)

    def _view(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """A perspective look into an equirectangular panorama."""
        image = list(self.panoramas.values())[rng.integers(len(self.panoramas))]
        half = np.tan(np.deg2rad(rng.uniform(30, 90)) / 2)
        x, y = np.meshgrid(np.linspace(-half, half, size[0]), np.linspace(half, -half, size[1]) * size[1] / size[0])
        rays = np.stack((x, y, np.ones_like(x)), axis=-1) @ turn(X, rng.normal(0, 0.2)).T
        return _look(image, rays, rng)

    def around(self, name: str, camera: Camera, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """What `camera` sees of panorama `name` at a random heading: the horizon lies where it should."""
        image = self.panoramas[name]
        left, right, bottom, top = camera.window
        x, y = np.meshgrid(np.linspace(left, right, size[0]), np.linspace(top, bottom, size[1]))
        rays = np.stack((x, y, -np.ones_like(x)), axis=-1) @ camera.rotation  # view -> world
        return self._finer(_look(image, rays * (1, 1, -1), rng), rng)

    def texture(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """A surface: flat colour, stripes or checks, or a recoloured piece of a photograph. (h, w, 3) uint8."""
        width, height = max(2, size[0]), max(2, size[1])
        kind = rng.random()
        if kind < 0.35:
            return np.broadcast_to(random_rgb(rng), (height, width, 3)).astype(np.uint8)
        if kind < 0.5:
            period = rng.uniform(3, max(4.0, width / 2))
            mask = (np.arange(width) / period) % 1.0 < rng.uniform(0.1, 0.6)
            mask = np.broadcast_to(mask, (height, width))
            if rng.random() < 0.5:
                mask = mask ^ ((np.arange(height) / period) % 1.0 < 0.4)[:, None]
            return np.where(mask[..., None], random_rgb(rng), random_rgb(rng)).astype(np.uint8)
        piece = self._photo((width, height), rng).astype(np.float32)
        if kind < 0.75:
            piece = piece.mean(2, keepdims=True) / 255 * random_rgb(rng) * 1.4
        return np.clip(piece, 0, 255).astype(np.uint8)

    def _patches(self, image: np.ndarray, count: int, largest: float, rng: np.random.Generator) -> None:
        """Paste textured rectangles, ellipses, beams and blobs in place."""
        height, width = image.shape[:2]
        for _ in range(count):
            w, h = (np.array((width, height)) * rng.uniform(0.05, largest, 2)).astype(int) + 3
            if rng.random() < 0.25:  # beams: door frames, poles, rails, limbs
                w, h = (max(3, w // 6), h * 2) if rng.random() < 0.7 else (w * 2, max(3, h // 6))
            centre = rng.uniform(0, 1, 2) * (width, height)
            matrix = cv2.getRotationMatrix2D((w / 2, h / 2), rng.normal(0, 20) * (rng.random() < 0.6), 1.0)
            matrix[:, 2] += centre - np.array((w, h)) / 2
            mask = np.full((h, w), 255, np.uint8)
            if rng.random() < 0.3:
                mask[:] = 0
                cv2.ellipse(mask, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 255, -1)
            texture = self.texture((int(w), int(h)), rng)
            # A border of black, the default, would be mixed into the patch: a dark seam, which people do not have.
            piece = cv2.warpAffine(texture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
            alpha = cv2.warpAffine(mask, matrix, (width, height))[..., None].astype(np.float32) / 255
            shade = np.linspace(rng.uniform(0.6, 1.2), rng.uniform(0.6, 1.2), width)[None, :, None]
            image[:] = np.clip(image * (1 - alpha) + piece * shade * alpha, 0, 255).astype(np.uint8)

    def _room(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Wall above floor with a slanted edge, and furniture and pictures as patches."""
        width, height = size
        image = self.texture(size, rng).copy()
        floor = self.texture(size, rng)
        edge = height * rng.uniform(0.45, 0.95) + (np.arange(width) - width / 2) * rng.normal(0, 0.15)
        below = np.arange(height)[:, None] > edge
        image[below] = floor[below]
        self._patches(image, int(rng.integers(2, 9)), 0.5, rng)
        light = np.linspace(rng.uniform(0.6, 1.3), rng.uniform(0.6, 1.3), width)[None, :, None]
        return np.clip(image * light, 0, 255).astype(np.uint8)

    def _clutter(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        image = self._photo(size, rng) if rng.random() < 0.5 else self._view(size, rng)
        image = image.copy()
        self._patches(image, int(rng.integers(4, 16)), 0.35, rng)
        return image

    def _cut(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """A photograph, or a panorama, under pieces of others."""
        image = self._photo(size, rng) if rng.random() < 0.7 else self._view(size, rng)
        image = image.copy()
        for _ in range(int(np.exp(rng.uniform(*np.log(PIECES))))):
            self.pieces.lay(image, rng)
        return image


def _fine(image: np.ndarray, sigma: float) -> np.ndarray:
    """What a blur takes from `image` (h, w, 3), float32."""
    image = image.astype(np.float32)
    return image - cv2.GaussianBlur(image, (0, 0), sigma)


def _look(panorama: np.ndarray, rays: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours of an equirectangular picture along rays (h, w, 3), Y up, +Z ahead, X to the right; random heading."""
    heading = np.arctan2(rays[..., 0], rays[..., 2]) + rng.uniform(-np.pi, np.pi)
    elevation = np.arctan2(rays[..., 1], np.hypot(rays[..., 0], rays[..., 2]))
    u = (heading / (2 * np.pi)) % 1.0 * (panorama.shape[1] - 1)
    v = (0.5 - elevation / np.pi) * (panorama.shape[0] - 1)
    return cv2.remap(panorama, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
