"""Garments cut from the body's skin-tight helper meshes: where their hems lie and how they hang.

A garment is a helper mesh moved away from the skin and cut where a per-vertex distance to its hem turns negative (the
shader discards there), so hems lie anywhere. How far away is one number per vertex, along the smoothed normals of the
skin: garments over each other stay in order, whatever the pose does to the body below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from .body import BodyModel, Mesh
from .items import Item, Material

HEM = 0.4  # dm; distances are clipped to +-HEM so that where regions meet the hem stays straight
GAP = 0.05  # dm between garments
TIGHTS, SKIRT = "helper-tights", "helper-skirt"
FOLDS = 7  # sines that the folds are made of
FOLD_LENGTHS = (0.8, 2.0)  # dm from fold to fold; the mesh has an edge every 0.27 dm
SPAN = 40.0  # squared edges: hollows up to about the root of it are spanned by loose cloth
REGIONS = {  # prefixes of the bones that own a vertex
    "upper arm": ("upperarm", "shoulder01"),
    "forearm": ("lowerarm",),
    "hand": ("wrist", "metacarpal", "finger"),
    "thigh": ("upperleg",),
    "calf": ("lowerleg",),
    "foot": ("foot", "toe"),
}
LIMBS = {  # region, bone at its start, bone at its end, along each limb
    "arm": (
        ("upper arm", "upperarm01", "lowerarm01"),
        ("forearm", "lowerarm01", "wrist"),
        ("hand", "wrist", "finger3-1"),
    ),
    "leg": (("thigh", "upperleg01", "lowerleg01"), ("calf", "lowerleg01", "foot"), ("foot", "foot", "toe2-1")),
}


@dataclass(frozen=True)
class Fabric:
    """A material and where its picture lies on the cloth: texture coordinates are metres @ `scale` + `shift`."""

    material: Material
    scale: np.ndarray | None = None  # (2, 2); None: texture coordinates are metres
    shift: tuple[float, float] = (0.0, 0.0)

    def coordinates(self, metres: np.ndarray) -> np.ndarray:
        return metres if self.scale is None else metres @ self.scale + self.shift


@dataclass(frozen=True)
class Fit:
    """How a garment sits, in dm."""

    close: float  # off the body where it lies on
    loose: float = 0.0  # how much farther where it hangs freely; from 0.3 on it is baggy
    flare: float = 0.0  # how much farther at cuffs
    belted: bool = False  # hems on the trunk hold the cloth to the body
    cuffed: bool = False  # hems on limbs do


@dataclass(frozen=True)
class Sheet:
    """A helper mesh as cloth. Legend: n vertices, d drawn vertices, t triangles."""

    base: np.ndarray  # (n,) vertices of the body model
    mesh: Mesh  # of the n vertices
    average: sp.csr_matrix  # (n, n): every vertex and its neighbours; the border of the mesh stays where it is
    flattened: Callable[[np.ndarray], np.ndarray]  # (n, 3) -> (n, 3): as if by very many averages
    free: np.ndarray  # (n,) 0..1, how much of a garment's looseness shows
    creased: np.ndarray  # (n,) how much deeper than elsewhere its folds are
    place: np.ndarray  # (n, 3) dm on the base mesh
    limb: np.ndarray  # (n,) bool, arm or leg
    along: np.ndarray  # (n,) 0..1 along a leg, 0..0.75 along an arm, whose sleeve widens less
    vertex: np.ndarray  # (d,) into the n
    index: np.ndarray  # (t, 3) into the d
    metres: np.ndarray  # (d, 2) of cloth


class Tailor:
    """Measures the base mesh once; `sheet` holds the cloth, `top`, `bottom` and `coat` choose hems.

    Hems are distances in dm per vertex of the body model, positive inside the garment.
    """

    def __init__(self, model: BodyModel):
        self.base = model.base
        self._measure(model)
        self.sheet = {name: self._sheet(model.meshes[name]) for name in (TIGHTS, SKIRT)}
        self.hips = np.abs(self.sheet[TIGHTS].place[:, 1] - self.hip_height) < 0.5

    def _measure(self, model: BodyModel) -> None:
        """On the base mesh: which limb a vertex belongs to and its distance (dm) along that limb."""
        heads = model.head_mean @ model.base
        owner = np.array(model.bones)[model.main_bone]
        region = {name: np.char.startswith(owner, prefixes[0]) for name, prefixes in REGIONS.items()}
        for name, prefixes in REGIONS.items():
            for prefix in prefixes[1:]:
                region[name] |= np.char.startswith(owner, prefix)
        self.along = np.zeros(len(model.base))
        self.limb_length, self.limb_joint = {}, {}
        for limb, parts in LIMBS.items():
            start = 0.0
            for name, first, last in parts:
                for side, sign in (("L", 1), ("R", -1)):
                    origin = heads[model.bone[f"{first}.{side}"]]
                    axis = heads[model.bone[f"{last}.{side}"]] - origin
                    length = float(np.linalg.norm(axis))
                    mine = region[name] & (model.base[:, 0] * sign > 0)
                    distance = start + (model.base[mine] - origin) @ axis / length
                    # A hand or foot never counts as higher up than its joint: the heel is not calf.
                    self.along[mine] = np.maximum(distance, start) if name in ("hand", "foot") else distance
                if name in ("hand", "foot"):
                    self.limb_length[limb] = start
                elif name in ("forearm", "calf"):
                    self.limb_joint[limb] = start
                start += length
        self.arm = region["upper arm"] | region["forearm"] | region["hand"]
        self.leg = region["thigh"] | region["calf"] | region["foot"]
        self.hip_height = float(heads[model.bone["upperleg01.L"], 1])
        self.neck_height = float(heads[model.bone["neck01"], 1])
        self.shoulders = heads[[model.bone["upperarm01.L"], model.bone["upperarm01.R"]]]

    def _sheet(self, helper: Mesh) -> Sheet:
        base, triangles = np.unique(helper.triangles, return_inverse=True)
        triangles = triangles.reshape(-1, 3)
        place, arm, leg, along = self.base[base], self.arm[base], self.leg[base], self.along[base]
        mesh = Mesh(triangles, triangles, place[:, :2], len(base))
        # Cloth lies on shoulders, around the neck, and where a skirt begins. Were it to hang off the shoulders, a
        # picture would not tell where they are.
        shoulder = np.linalg.norm(place[:, None] - self.shoulders, axis=2).min(1)
        free = np.clip(np.minimum(shoulder, place[:, 1].max() - place[:, 1]) / 2, 0.15, 1)
        # Between the legs there is no room: wide trousers would reach into the other leg.
        inward = np.clip(-np.sign(place[:, 0]) * mesh.normals(place)[:, 0], 0, 1) * leg
        free *= 1 - 0.25 * arm  # sleeves are narrower
        free *= 1 - 0.75 * inward * np.clip(1.4 - along / self.limb_length["leg"], 0, 1)
        creased = 0.8 + 0.7 * np.exp(-(((place[:, 1] - self.hip_height - 0.8) / 0.7) ** 2)) * ~(arm | leg)
        reach = np.zeros(len(base))
        for limb, mine, share in (("arm", arm, 0.75), ("leg", leg, 1.0)):
            bend, end = self.limb_joint[limb], self.limb_length[limb]
            near = np.exp(-(((along - bend) / 0.9) ** 2)) + np.exp(-(((along - end) / 0.8) ** 2))
            creased = creased + 0.7 * near * mine
            reach = np.where(mine, share * np.clip(along / end, 0, 1), reach)
        average = averaging(triangles)
        flattened = splu((sp.eye(len(base)) * (1 + SPAN) - average * SPAN).tocsc()).solve
        return Sheet(
            base, mesh, average, flattened, free, creased, place, arm | leg, reach, *self._cut(triangles, base)
        )

    def _cut(self, triangles: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertex, triangles and place on the cloth (metres) of drawn vertices.

        Sleeves are cut along the arm. Triangles that join sleeve and trunk are of the trunk's cloth and have corners of
        their own: halfway between two unrelated uv, a pattern would run through in a hand's breadth.
        """
        on_arm = self.arm[base]
        trunk = self.base[base, :2] / 10
        sleeve = np.stack((self.base[base, 2], self.along[base]), axis=1) / 10
        joins = on_arm[triangles].any(1) & ~on_arm[triangles].all(1)
        doubled = np.unique(triangles[joins][on_arm[triangles[joins]]])
        twin = np.arange(len(base))
        twin[doubled] = len(base) + np.arange(len(doubled))
        index = np.where(joins[:, None], twin[triangles], triangles).astype(np.int32)
        metres = np.concatenate((np.where(on_arm[:, None], sleeve, trunk), trunk[doubled]))
        return np.concatenate((np.arange(len(base)), doubled)), index, metres

    def top(self, rng: np.random.Generator) -> np.ndarray:
        low = self.hip_height + (rng.uniform(-1.2, 1.0) if rng.random() < 0.9 else rng.uniform(1.0, 2.6))
        high = self.neck_height + rng.uniform(-0.5, 0.9)
        across, _, ahead = self.base.T
        front = np.clip(ahead / 1.5, 0, 1) * np.clip(2 - np.abs(across), 0, 1)  # not off the shoulders
        neckline = high - front * rng.uniform(0, 1.3) * (rng.random() < 0.45)
        arm = self.limb_length["arm"]
        sleeve = (0.06, rng.uniform(0.2, 0.5), rng.uniform(0.5, 0.95), 0.98)[rng.choice(4, p=(0.14, 0.36, 0.12, 0.38))]
        inside = np.where(self.arm, sleeve * arm - self.along, self.base[:, 1] - low)
        return np.clip(np.minimum(inside, neckline - self.base[:, 1]), -HEM, HEM)

    def bottom(self, rng: np.random.Generator) -> np.ndarray:
        waist = self.hip_height + rng.uniform(0.3, 1.3)
        length = (rng.uniform(0.12, 0.5), rng.uniform(0.5, 0.85), 0.97)[rng.choice(3, p=(0.27, 0.1, 0.63))]
        above = waist - self.base[:, 1]
        down = length * self.limb_length["leg"] - self.along
        inside = np.where(self.leg, np.minimum(above, down), above)
        return np.clip(np.where(self.arm, -HEM, inside), -HEM, HEM)

    def skirt(self, rng: np.random.Generator) -> np.ndarray:
        return np.clip(self.base[:, 1] - (self.hip_height - rng.uniform(2.0, 8.5)), -HEM, HEM)

    def coat(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Open in front or closed; long ones have a tail, to be cut from the skirt."""
        low = self.hip_height - rng.uniform(-0.8, 5.0)
        trunk = np.minimum(self.base[:, 1] - low, self.neck_height + 0.3 - self.base[:, 1])
        if rng.random() < 0.6:
            gap = rng.uniform(0.15, 0.9)
            trunk = np.where(self.base[:, 2] > 0, np.minimum(trunk, np.abs(self.base[:, 0]) - gap), trunk)
        inside = np.where(self.arm, 0.95 * self.limb_length["arm"] - self.along, trunk)
        inside = np.clip(np.where(self.leg, -HEM, inside), -HEM, HEM)
        return inside, np.clip(trunk, -HEM, HEM) if low < self.hip_height - 1.0 else None


class Drape:
    """Layers of cloth from one sheet on one posed body.

    Args:
        sheet: what garments are cut from.
        vertices: (body vertices, 3) of the posed body, dm.
        down: (3,) where gravity pulls, in the same axes.
    """

    def __init__(self, sheet: Sheet, vertices: np.ndarray, down: np.ndarray):
        self.sheet = sheet
        self.skin = vertices[sheet.base]
        normals = sheet.average @ sheet.mesh.normals(self.skin)
        self.normals = normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9)
        self.hang = 0.65 + 0.45 * self.normals @ down  # cloth lies on what faces up and hangs off what faces down
        self.outside = np.zeros(len(self.skin))  # (n,) dm off the skin of all layers so far

    def stands_off(self, where: np.ndarray) -> float:
        """How far (dm) the layers so far reach at vertices `where`, (n,) bool, but for a few that stick out."""
        return float(np.quantile(self.outside[where], 0.9))

    def layer(self, inside: np.ndarray, fit: Fit, fabric: Fabric, rng: np.random.Generator) -> Item:
        """The next garment, over all earlier ones, with its hem where `inside` (per body vertex) says."""
        sheet = self.sheet
        inside = inside[sheet.base]
        held = np.where(np.where(sheet.limb, fit.cuffed, fit.belted), np.clip(inside / HEM, 0, 1), 1)
        room = (fit.loose * sheet.free * self.hang + fit.flare * sheet.along**2) * held
        depth = (0.025 + 0.45 * room / (1 + room)) * sheet.creased
        out = np.maximum(fit.close + room + depth * _folds(sheet.place, rng), fit.close * 0.6)
        if fit.loose > 0.1:  # loose cloth spans hollows: the small of the back, between the breasts
            placed = self.skin + self.normals * out[:, None]
            span = np.einsum("ij,ij->i", sheet.flattened(placed) - placed, self.normals)
            out += np.clip(span, 0, (fit.loose + 0.2) * sheet.free * held)
        out = np.maximum(out, self.outside + GAP * (self.outside > 0))
        self.outside = np.where(inside > -HEM, out, self.outside)
        placed = self.skin + self.normals * out[:, None]
        normals = sheet.mesh.normals(placed)
        v = sheet.vertex
        keep = (inside[v][sheet.index] > 0).any(1)
        uv = fabric.coordinates(sheet.metres)
        return Item(placed[v], normals[v], uv, sheet.index[keep], fabric.material, inside[v])


def averaging(triangles: np.ndarray) -> sp.csr_matrix:
    """Averages of vertices and their neighbours; vertices on the border of the mesh stay."""
    count = triangles.max() + 1
    edges = np.concatenate((triangles[:, :2], triangles[:, 1:], triangles[:, ::2]))
    edges = np.concatenate((edges, edges[:, ::-1]))
    shared = sp.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    border = np.unique(shared.tocoo().row[shared.tocoo().data < 1.5])  # an inner edge is of two triangles
    shared.data[:] = 1
    inner = np.ones(count)
    inner[border] = 0
    matrix = sp.diags(inner) @ shared + sp.eye(count)
    return (sp.diags(1 / np.asarray(matrix.sum(1)).ravel()) @ matrix).tocsr()


def _folds(place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) smooth noise with a spread of about 1: sines across (n, 3) places, bent by two longer ones."""
    directions = rng.normal(size=(3, FOLDS)) * ((1.0,), (0.5,), (1.0,))  # folds rather hang than lie
    directions /= np.linalg.norm(directions, axis=0)
    lengths = rng.uniform(*FOLD_LENGTHS, FOLDS)
    lengths[:2] *= 2.5
    phase = place @ (directions * 2 * np.pi / lengths) + rng.uniform(0, 2 * np.pi, FOLDS)
    bend = np.sin(phase[:, :2])
    waves = np.sin(phase[:, 2:] + 1.2 * bend[:, :1] + 0.8 * bend[:, 1:])
    return waves.sum(1) * np.sqrt(2 / (FOLDS - 2))
