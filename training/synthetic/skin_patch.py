"""A piece of the skin as cloth: moved outward, cut at a hem. Fits every body in every pose.

Distances are dm, places those of the base mesh.
"""

from __future__ import annotations

import numpy as np

from .body import BodyModel, Mesh
from .garments import HEM, averaging
from .items import Item, Material


class SkinPatch:
    """The skin's triangles all of whose corners are `chosen` ((body vertices,) bool), n vertices in all.

    `smoothed`: how many averages with its neighbours a vertex goes through where the skin is levelled.
    """

    def __init__(self, model: BodyModel, chosen: np.ndarray, smoothed: int):
        skin = model.meshes["body"].triangles
        self.base, triangles = np.unique(skin[chosen[skin].all(1)], return_inverse=True)
        triangles = triangles.reshape(-1, 3)
        self.place = model.base[self.base]  # (n, 3)
        self.mesh = Mesh(triangles, triangles, self.place[:, :2] / 10, len(self.base))
        average = averaging(triangles)
        self.smooth = average
        for _ in range(smoothed - 1):
            self.smooth = self.smooth @ average

    def cover(
        self, vertices: np.ndarray, inside: np.ndarray, out: np.ndarray, material: Material, level: bool
    ) -> tuple[Item, np.ndarray]:
        """The cloth, and where its n vertices lie.

        Args:
            vertices: (body vertices, 3) of a posed body, in any axes.
            inside: (n,) distance to the hem, negative is cut away.
            out: (n,) how far off the skin.
            material: of the cloth.
            level: even out what is below.
        """
        skin = vertices[self.base]
        normals = self.smooth @ self.mesh.normals(skin)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        ground = self.smooth @ skin if level else skin
        # Averaging shrinks: never let the cloth dip below the skin.
        dip = np.clip(np.einsum("ij,ij->i", skin - ground, normals), 0, 0.25)
        placed = ground + normals * (dip + out)[:, None]
        normals = self.mesh.normals(placed)
        inside = np.clip(inside, -HEM, HEM)
        v = self.mesh.vertex
        keep = (inside[v][self.mesh.index] > 0).any(1)
        return Item(placed[v], normals[v], self.mesh.uv, self.mesh.index[keep], material, inside[v]), placed
