"""Gloves, from surgical ones to those of skiers: the skin of both hands moved outward, with a hem at the forearm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .body import BodyModel
from .fabrics import random_cloth
from .garments import REGIONS
from .items import Item
from .rotations import unit
from .skin_patch import SkinPatch

SMOOTHED = 2  # averages with neighbours: the normals of two fingers must not mix
CUFF = 0.9  # dm of forearm that the longest gloves reach up


class Gloves:
    """Makes pairs for posed bodies of one model."""

    def __init__(self, model: BodyModel):
        shape = model.shape_of(model.base, 0.0)
        owner = np.array(model.bones)[model.main_bone]
        self.hands = []
        for side in ("L", "R"):
            wrist, elbow = (shape.heads[model.bone[f"{part}.{side}"]] for part in ("wrist", "lowerarm01"))
            mine = np.char.endswith(owner, f".{side}")
            hand = mine & np.array([name.startswith(REGIONS["hand"]) for name in owner])
            up = (model.base - wrist) @ unit(elbow - wrist)  # along the forearm
            sleeve = mine & np.array([name.startswith(REGIONS["forearm"]) for name in owner]) & (up < CUFF + 0.3)
            patch = SkinPatch(model, hand | sleeve, SMOOTHED)
            self.hands.append((patch, up[patch.base]))

    def wear(self, vertices: np.ndarray, rng: np.random.Generator) -> list[Item]:
        """A pair for the posed body's `vertices` (body vertices, 3) in any axes, dm."""
        thick = float(np.exp(rng.uniform(np.log(0.015), np.log(0.16))))
        cuff = rng.uniform(-0.25, CUFF)
        material = replace(random_cloth(rng), shine=rng.uniform(0, 0.5) ** 2)
        return [
            patch.cover(vertices, cuff - up, np.full(len(up), thick), material, level=False)[0]
            for patch, up in self.hands
        ]
