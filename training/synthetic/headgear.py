"""What covers a head: knitted caps, peaked caps, sun hats, helmets, hoods and headscarves, masks, goggles.

All but brims are pieces of the skin itself, pushed outward and smoothed, with a hem where a per-vertex distance turns
negative, so they fit every head in every pose. Distances are dm, measured on the base mesh.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .body import BodyModel
from .fabrics import random_cloth, random_color
from .garments import HEM
from .items import Item, Material
from .rotations import unit
from .skin_patch import SkinPatch
from .solids import Solid

# Share, and whether it takes the place of hair (which would poke through).
KINDS = {
    "knitted": (0.2, True),
    "peaked": (0.25, True),
    "brimmed": (0.1, True),
    "helmet": (0.2, True),
    "hood": (0.15, True),
    "mask": (0.05, False),
    "goggles": (0.05, False),
}
# On the base mesh: heights of brows, nape, chin and the middle of the face; how far ahead the brows lie.
BROW, NAPE, CHIN, MIDDLE, AHEAD = 7.46, 6.7, 6.16, 6.9, 1.4
BACK = -0.35  # where the head ends behind
EAR, EAR_ROOM = (0.82, 7.05, 0.35), 0.42  # the middle of the left one, and how far around it a helmet is cut out
BRIM_POINTS = 25
SMOOTHED = 12  # averages with neighbours: ears and nose hardly show through


class Headgear:
    """Makes head coverings for posed bodies of one model."""

    def __init__(self, model: BodyModel):
        above = (model.base[:, 1] > CHIN - 0.9) & (np.abs(model.base[:, 0]) < 1.5)
        self.patch = SkinPatch(model, above, SMOOTHED)
        self.place = self.patch.place
        marks = {"left": (0.9, 7.1, 0.4), "right": (-0.9, 7.1, 0.4), "front": (0, 7.5, 1.5), "back": (0, 7.5, -0.4)}
        self.mark = {name: int(np.linalg.norm(self.place - at, axis=1).argmin()) for name, at in marks.items()}
        self.azimuth = np.arctan2(self.place[:, 0], self.place[:, 2] - 0.5)  # 0 in front, positive to the left

    def wear(self, kind: str, vertices: np.ndarray, rng: np.random.Generator) -> list[Item]:
        """Items of one of `KINDS`, for the posed body's `vertices` (body vertices, 3) in any axes, dm."""
        inside, out, material = getattr(self, f"_{kind}")(rng)
        item, placed = self.patch.cover(vertices, inside, out, material, level=kind not in ("mask", "goggles"))
        items = [item]
        peak = {"peaked": 1.1, "brimmed": np.pi, "helmet": 0.9 * (rng.random() < 0.3)}.get(kind, 0.0)
        if peak:
            items.append(self._brim(placed, np.clip(inside, -HEM, HEM), peak, material, rng))
        return items

    def _brim(
        self, placed: np.ndarray, inside: np.ndarray, reach: float, material: Material, rng: np.random.Generator
    ) -> Item:
        """A rim along the hem, as far as `reach` (radians) to both sides of the middle."""
        left = unit(placed[self.mark["left"]] - placed[self.mark["right"]])
        ahead = placed[self.mark["front"]] - placed[self.mark["back"]]
        ahead = unit(ahead - (ahead @ left) * left)
        up = np.cross(ahead, left)
        angles = np.linspace(-reach, reach, BRIM_POINTS)
        near = np.abs(inside) < 0.12
        off = np.abs((self.azimuth[None] - angles[:, None] + np.pi) % (2 * np.pi) - np.pi)
        off = np.where(near, off, np.inf)
        weight = np.exp(-((off / 0.15) ** 2)) + 1e-12 * near
        start = weight @ placed / weight.sum(1, keepdims=True)
        radial = np.cos(angles)[:, None] * ahead + np.sin(angles)[:, None] * left
        whole = reach > 3
        width = rng.uniform(0.4, 1.2) if whole else rng.uniform(0.5, 0.9) * np.cos(angles * 1.3 / reach)
        outward = radial if whole else 0.7 * ahead + 0.3 * radial
        step = (outward - rng.uniform(-0.1, 0.6) * up) * np.broadcast_to(width, angles.shape)[:, None]
        rim = Solid(np.stack([start - 0.1 * step, start + 0.5 * step, start + step]))
        return Item(rim.points, rim.normals, rim.uv, rim.index, replace(material, folds=(0.0, 1.0)))

    def _cap(self, low: float, high: float) -> np.ndarray:
        """Inside of a cap that reaches down to `high` over the brows and `low` over the nape."""
        share = np.clip((self.place[:, 2] - BACK) / (AHEAD - BACK), 0, 1)
        return self.place[:, 1] - (NAPE + low + share * (BROW + high - NAPE - low))

    def _knitted(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Material]:
        inside = self._cap(rng.uniform(-0.1, 0.3), rng.uniform(0.0, 0.45))
        crown = np.clip((self.place[:, 1] - BROW) / 1.0, 0, 1) ** 2
        return inside, rng.uniform(0.06, 0.2) + crown * rng.uniform(0, 0.5), random_cloth(rng)

    def _peaked(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Material]:
        inside = self._cap(rng.uniform(0.5, 0.8), rng.uniform(0.05, 0.35))
        return inside, np.full(len(inside), rng.uniform(0.06, 0.15)), random_cloth(rng)

    def _brimmed(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Material]:
        inside = self._cap(rng.uniform(0.5, 0.8), rng.uniform(0.1, 0.4))
        crown = np.clip((self.place[:, 1] - BROW) / 1.0, 0, 1)
        return inside, rng.uniform(0.06, 0.15) + crown * rng.uniform(0, 0.5), random_cloth(rng)

    def _helmet(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Material]:
        inside = self._cap(rng.uniform(-0.2, 0.6), rng.uniform(0.0, 0.4))
        if rng.random() > 0.6:  # ears stay free
            mirrored = self.place * np.where(self.place[:, :1] < 0, (-1, 1, 1), 1)
            off_ears = np.linalg.norm((mirrored - EAR) * (0.3, 1, 1), axis=1)
            inside = np.minimum(inside, off_ears - EAR_ROOM)
        hard = replace(random_cloth(rng), shine=rng.uniform(0.1, 0.8), folds=(0.0, 1.0))
        return inside, np.full(len(inside), rng.uniform(0.15, 0.5)), hard

    def _hood(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Material]:
        """Everything but the face, down to the neck; at times the mouth is covered too."""
        x, y, z = self.place.T
        covered = rng.random() < 0.2
        middle, tall = (7.25, 0.35) if covered else (MIDDLE + rng.uniform(-0.05, 0.15), rng.uniform(0.75, 0.95))
        face = np.hypot(x / rng.uniform(0.6, 0.75), (y - middle) / tall) - 1
        inside = np.where(z > 0.3, np.minimum(face * 0.6, HEM), HEM)
        inside = np.minimum(inside, y - (CHIN - rng.uniform(0.3, 0.7)))
        return inside, np.full(len(inside), rng.uniform(0.05, 0.35)), random_cloth(rng)

    def _mask(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Material]:
        x, y, z = self.place.T
        top = 6.95 + 0.12 * np.clip(1 - np.abs(x) / 0.4, 0, 1)
        inside = np.minimum(np.minimum(top - y, y - CHIN + 0.05), (z - 0.75) * 0.8)
        plain = Material(plain=tuple(random_color(rng)), shine=0.02, folds=(rng.uniform(0, 0.05), 20.0))
        return inside, np.full(len(inside), rng.uniform(0.04, 0.14)), plain

    def _goggles(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Material]:
        x, y, z = self.place.T
        inside = np.minimum(np.minimum(7.62 - y, y - 6.98 - 0.15 * (np.abs(x) < 0.2)), (z - 0.7) * 0.8)
        dark = Material(plain=tuple(random_color(rng) * rng.uniform(0.05, 0.8)), shine=rng.uniform(0.3, 1.0))
        return inside, np.full(len(inside), rng.uniform(0.1, 0.25)), dark
