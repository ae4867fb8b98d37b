"""Beards: the skin of the lower face once more, pushed outward, in the colour and grain of hair.

The region is drawn once on the base mesh, from its keypoints, as a distance to the beard's edge (positive inside).
"""

from __future__ import annotations

import numpy as np

from dwpose_core.skeleton import PARTS

from .body import BodyModel, Posed, Shape
from .items import Item, Material
from .labels import KeypointRules

SHARE = 0.3  # of grown men
GROWN = 15.5  # dm; whoever is shorter counts as a child
COLORS = ((0.03, 0.022, 0.016), (0.09, 0.055, 0.03), (0.012, 0.01, 0.01), (0.2, 0.07, 0.025), (0.4, 0.38, 0.36))
# share, thickness (dm), opacity, each from .. to
KINDS = {"stubble": (0.4, (0.006, 0.012), (0.2, 0.5)), "short": (0.35, (0.02, 0.06), (0.7, 1.0))}
FULL = ((0.08, 0.22), (1.0, 1.0))


class Beards:
    """Beards for any person of the body model."""

    def __init__(self, model: BodyModel, rules: KeypointRules):
        rest = model.shape_of(model.base, 1.0)
        face = rules.locate(rest, model.pose(rest, {}, {}))[PARTS["face"]]
        x, y, z = np.abs(model.base[:, 0]), model.base[:, 1], model.base[:, 2]
        chin, nose = face[8], face[33]
        side = np.abs(face[[3, 13], 0]).mean()
        jaw = face[[3, 13], 1].mean()
        out = np.clip(x / side, 0, 1.3)
        below_cheek = nose[1] - 0.02 + (face[[1, 15], 1].mean() - nose[1]) * out**2 - y
        above_neck = y - (chin[1] - 0.15 + (jaw - chin[1]) * out**2)
        before_ear = z - face[[0, 16], 2].mean() + 0.05
        mouth = face[48:60]
        half = np.array((np.abs(mouth[:, 0]).max(), np.ptp(mouth[:, 1]) / 2))
        middle = (mouth[:, 1].max() + mouth[:, 1].min()) / 2
        lips = (np.hypot(x / half[0], (y - middle) / half[1]) - 1) * half[1]
        self.region = np.minimum.reduce((below_cheek, above_neck, before_ear, lips))
        self.chin_only = 0.75 * half[0] + 0.1 - x
        self.upper_lip = np.minimum(y - middle, 1.15 * half[0] - x)
        self.mesh = model.meshes["body"]
        self.uv = np.stack((model.base[:, 0] + z, y), 1) / 10  # metres

    def grow(self, shape: Shape, posed: Posed, rng: np.random.Generator) -> list[Item]:
        """A beard or moustache on some grown men, in the space of `posed`; nothing on anybody else."""
        if shape.male < 0.5 or np.ptp(shape.vertices[self.mesh.vertex, 1]) < GROWN or rng.random() > SHARE:
            return []
        kind = rng.random()
        thickness, opacity = FULL
        for share, *form in KINDS.values():
            if kind < share:
                thickness, opacity = form
                break
            kind -= share
        inside = self.region
        style = rng.random()
        if style < 0.15:
            inside = np.minimum(inside, self.chin_only)
        elif style < 0.25:
            inside = np.minimum(inside, self.upper_lip)
        elif style < 0.35:
            inside = np.minimum(inside, -self.upper_lip)
        color = np.array(COLORS[rng.integers(len(COLORS))]) * rng.uniform(0.6, 1.5)
        grain = (rng.uniform(250, 600), 0.5, rng.uniform(0.3, 0.8))
        material = Material(
            plain=tuple(color),
            weave=4,
            weave_color=tuple(color * rng.uniform(1.3, 2.5)),
            weave_form=grain,
            shine=0.02,
            translucent=True,
            opacity=rng.uniform(*opacity),
        )
        normals = self.mesh.normals(posed.vertices)
        depth = rng.uniform(*thickness) * np.clip(inside / 0.15, 0.1, 1.0)
        v = self.mesh.vertex
        keep = (inside[v][self.mesh.index] > 0).any(1)
        pushed = posed.vertices + normals * depth[:, None]
        return [Item(pushed[v], normals[v], self.uv[v], self.mesh.index[keep], material, inside[v])]
