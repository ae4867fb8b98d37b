"""Dressed people and things as plain arrays: what worker processes send to the device that draws them.

No torch here, so that the workers start quickly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .items import Item, Material
from .light import Light

# Legend: V vertices, T triangles, S items.

# Columns of the material table.
COLUMNS = {
    name: slice(start, start + width)
    for name, start, width in (
        *(("texture", 0, 1), ("occlusion", 1, 1), ("recolor", 2, 1), ("tint", 3, 3), ("plain", 6, 3), ("shine", 9, 1)),
        *(("weave", 10, 1), ("weave_color", 11, 3), ("weave_form", 14, 3), ("folds", 17, 2)),
        *(("translucent", 19, 1), ("alpha_min", 20, 1), ("opacity", 21, 1)),
    )
}


def material_row(material: Material, textures: dict[Path, int]) -> np.ndarray:
    """(22,) float32 of the material table; textures by number, -1 for none."""
    row = np.empty(22, np.float32)
    for name, where in COLUMNS.items():
        value = getattr(material, name)
        if name in ("texture", "occlusion"):
            value = -1 if value is None else textures[value]
        row[where] = value
    return row


def light_row(light: Light) -> np.ndarray:
    """(14, 3) float32: nine harmonics, lamp direction, lamp colour, view-to-light rotation."""
    rows = (light.harmonics, light.lamp_direction[None], light.lamp_color[None], light.axes)
    return np.concatenate(rows).astype(np.float32)


@dataclass(frozen=True)
class Mesh:
    """All items of one scene in one piece, ready to be copied to a device."""

    vertices: np.ndarray  # (V, 9) float32: position, normal, uv, dm inside the hem
    corner: np.ndarray  # (T, 3) int32
    item: np.ndarray  # (T,) int16
    materials: np.ndarray  # (S, 22) float32, see `material_row`

    @classmethod
    def of(cls, items: list[Item], textures: dict[Path, int]) -> Mesh:
        """Items in drawing order; `textures` numbers the pictures as the atlas does."""
        vertices, corner, owner, shift = [], [], [], 0
        for number, item in enumerate(items):
            inside = np.ones(len(item.positions)) if item.inside is None else item.inside
            vertices.append(np.concatenate((item.positions, item.normals, item.uv, inside[:, None]), axis=1))
            corner.append(item.index + shift)
            owner.append(np.full(len(item.index), number, np.int16))
            shift += len(item.positions)
        rows = np.stack([material_row(item.material, textures) for item in items])
        joined = (np.concatenate(part) for part in (vertices, corner, owner))
        vertices, corner, owner = joined
        return cls(vertices.astype(np.float32), corner.astype(np.int32), owner, rows)


@dataclass(frozen=True)
class View:
    """One picture of a mesh: rotation (3, 3) and shift (3,) into view space, the window in tangents, the light."""

    rotation: np.ndarray
    shift: np.ndarray
    window: tuple[float, float, float, float]
    light: np.ndarray  # (14, 3), see `light_row`


def window_of(projection: np.ndarray) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in tangents of a 4x4 clip matrix, the inverse of Camera.projection."""
    (scale_x, _, shift_x, _), (_, scale_y, shift_y, _) = projection[:2]
    return (shift_x - 1) / scale_x, (shift_x + 1) / scale_x, (shift_y - 1) / scale_y, (shift_y + 1) / scale_y
