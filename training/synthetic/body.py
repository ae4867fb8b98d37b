"""The morphable, posable body: base mesh, morph targets, skeleton, skinning and fitted proxy meshes.

Units are decimetres. Y is up, the rest pose (arms at 45 degrees) looks to +Z, the person's left is +X. All bones have
identity rest rotation, so a local rotation is plain 3x3 in rest-pose axes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

EXPRESSION = "expression/units/caucasian/"
FACE_DETAILS = ("chin", "cheek", "nose", "mouth", "eyes", "eyebrows", "forehead", "ears", "head", "neck")
BODY_DETAILS = ("armslegs", "torso", "stomach", "hip", "buttocks", "pelvis")

Local = dict[str, np.ndarray]  # bone -> rotation relative to its parent


class Mesh:
    """Triangles over shared vertices, with one drawn vertex per (vertex, texture coordinate) pair."""

    def __init__(self, triangles: np.ndarray, uv_triangles: np.ndarray, uv: np.ndarray, num_vertices: int):
        corners = np.stack((triangles.ravel(), uv_triangles.ravel()), axis=1)
        pairs, index = np.unique(corners, axis=0, return_inverse=True)
        self.vertex = pairs[:, 0].astype(np.int64)
        self.uv = uv[pairs[:, 1]].astype(np.float32)
        self.index = index.reshape(-1, 3).astype(np.int32)
        self.triangles = triangles
        owner = np.repeat(np.arange(len(triangles)), 3)
        ones = np.ones(owner.size, np.float32)
        self.gather = sp.csr_matrix((ones, (triangles.ravel(), owner)), shape=(num_vertices, len(triangles)))

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """Unit normals per shared vertex: face normals averaged by area."""
        a, b, c = (vertices[self.triangles[:, k]] for k in range(3))
        normals = self.gather @ np.cross(b - a, c - a)
        return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9)


@dataclass
class Proxy:
    """A mesh that follows the body: hair, eyes, teeth, suits, shoes."""

    mesh: Mesh
    bind: sp.csr_matrix  # (n, body vertices)
    offset: np.ndarray  # (n, 3), scaled per axis with the local body size
    scale_pairs: np.ndarray  # (3, 2) body vertices whose distance along the axis ...
    scale_lengths: np.ndarray  # ... is compared with this one; 0: no scaling
    covered: np.ndarray  # body vertices below it
    texture: str | None
    occlusion: str | None


@dataclass(frozen=True)
class Shape:
    """One person at rest."""

    vertices: np.ndarray  # (19158, 3)
    heads: np.ndarray  # (163, 3) where bones start
    tails: np.ndarray  # (163, 3) where they end
    male: float  # 0 female .. 1 male


@dataclass(frozen=True)
class Posed:
    """One person in a pose."""

    vertices: np.ndarray  # (19158, 3)
    skinning: np.ndarray  # (19158, 12) blended 3x3 rotation, then translation
    rotations: np.ndarray  # (163, 3, 3) of the bones
    positions: np.ndarray  # (163, 3) bone starts


def blend(skinning: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply one 3x4 transform (flattened to 12) per point."""
    return np.einsum("nij,nj->ni", skinning[:, :9].reshape(-1, 3, 3), points) + skinning[:, 9:]


def averaging_matrix(lists: np.ndarray, columns: int) -> sp.csr_matrix:
    """Rows average the listed columns; -1 entries are unused."""
    used = lists >= 0
    rows = np.nonzero(used)[0]
    share = 1.0 / used.sum(1)
    return sp.csr_matrix((share[rows], (rows, lists[used])), shape=(len(lists), columns))


def check_assets(assets: Path) -> None:
    """ValueError unless `assets` is a folder of packed body assets."""
    if not (assets / "base.npz").is_file():
        raise ValueError(
            f"{assets} holds no base.npz; --assets must name the folder that training.synthetic.build_assets wrote"
        )


def assets_digest(assets: Path) -> str:
    """Tells asset folders apart, by the names and sizes of their files."""
    files = sorted((path.relative_to(assets).as_posix(), path.stat().st_size) for path in assets.rglob("*.*"))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


class BodyModel:
    """Everything read from the asset folder that has to do with geometry."""

    def __init__(self, assets: Path):
        base = np.load(assets / "base.npz")
        self.base = base["verts"].astype(np.float64)
        count = len(self.base)
        self.bones = [str(name) for name in base["bones"]]
        self.bone = {name: i for i, name in enumerate(self.bones)}
        self.parents = [int(p) for p in base["parents"]]
        rows = np.repeat(np.arange(count), base["skin_idx"].shape[1])
        shares = base["skin_w"].astype(np.float64)
        shares /= shares.sum(1, keepdims=True)  # stored in half precision
        weights = (shares.ravel(), (rows, base["skin_idx"].ravel().astype(int)))
        self.weights = sp.csr_matrix(weights, shape=(count, len(self.bones)))
        self.main_bone = np.asarray(self.weights.argmax(axis=1)).ravel()
        self.head_mean = averaging_matrix(base["bone_head_verts"], count)
        self.tail_mean = averaging_matrix(base["bone_tail_verts"], count)
        groups = {str(name): i for i, name in enumerate(base["groups"])}
        self.meshes = {}
        for name in ("body", "helper-tights", "helper-skirt"):
            part = base["tri_group"] == groups[name]
            self.meshes[name] = Mesh(base["tri"][part].astype(np.int64), base["tri_uv"][part], base["uv"], count)
        self.skin_vertices = np.unique(self.meshes["body"].triangles)
        self._read_targets(assets, count)
        self._read_proxies(assets, count)

    def _read_targets(self, assets: Path, count: int) -> None:
        """Morph targets as one sparse matrix (targets, 3 * vertices): a body is a row of weights times it."""
        data = np.load(assets / "targets.npz")
        offsets = data["off"].astype(np.int64)
        steps = data["idx_step"].astype(np.int64)
        # Vertex indices are stored as steps that restart at every target.
        total = np.cumsum(steps)
        before = np.where(offsets[:-1] > 0, total[np.maximum(offsets[:-1] - 1, 0)], 0)
        sizes = np.diff(offsets)
        vertex = total - np.repeat(before, sizes)
        columns = (vertex[:, None] * 3 + np.arange(3)).ravel()
        deltas = np.stack((data["dx"], data["dy"], data["dz"]), axis=1).ravel() * float(data["scale"])
        self.targets = sp.csr_matrix((deltas, columns, offsets * 3), shape=(len(sizes), count * 3))
        self.target_names = [str(name) for name in data["names"]]
        self.target_row = {name: i for i, name in enumerate(self.target_names)}

    def _read_proxies(self, assets: Path, count: int) -> None:
        info = json.loads((assets / "proxies.json").read_text())
        arrays = np.load(assets / "proxies.npz")
        self.proxies: dict[str, Proxy] = {}
        for name, entry in info.items():
            fields = ("ref", "w", "d", "scale_idx", "scale_den", "uv", "tri", "tri_uv", "delete")
            ref, w, d, pairs, lengths, uv, tri, tri_uv, covered = (arrays[f"{name}|{field}"] for field in fields)
            rows = np.repeat(np.arange(len(ref)), 3)
            self.proxies[name] = Proxy(
                mesh=Mesh(tri.astype(np.int64), tri_uv, uv, len(ref)),
                bind=sp.csr_matrix((w.ravel().astype(np.float64), (rows, ref.ravel().astype(int))), (len(ref), count)),
                offset=d.astype(np.float64),
                scale_pairs=pairs.astype(int),
                scale_lengths=lengths,
                covered=covered.astype(int),
                texture=entry["tex"],
                occlusion=entry["ao"],
            )

    def morph(self, weights: dict[str, float], start: np.ndarray | None = None) -> np.ndarray:
        """Base (or `start`) vertices plus weighted targets. Shapes that are the average by name have no target."""
        known = [(self.target_row[name], w) for name, w in weights.items() if name in self.target_row and abs(w) > 1e-4]
        vertices = self.base if start is None else start
        if not known:
            return vertices.copy()
        rows, values = zip(*known, strict=True)
        row = sp.csr_matrix((values, (np.zeros(len(rows), int), rows)), shape=(1, self.targets.shape[0]))
        return vertices + (row @ self.targets).toarray().reshape(-1, 3)

    def shape_of(self, vertices: np.ndarray, male: float) -> Shape:
        return Shape(vertices, self.head_mean @ vertices, self.tail_mean @ vertices, male)

    def random_shape(self, rng: np.random.Generator) -> Shape:
        """A random person.

        The base mesh is no person by itself: the "macro" targets are families whose weights are products of factors
        (ancestry, gender, age, muscle, weight, height), each family summing to one. Single details come on top.
        """
        male = float(rng.integers(2))
        if rng.random() < 0.3:
            male = float(np.clip(male + rng.normal(0, 0.2), 0, 1))
        stage = rng.choice(3, p=(0.15, 0.6, 0.25))
        age = (rng.uniform(0.2, 0.5), rng.uniform(0.45, 0.65), rng.uniform(0.6, 1.0))[stage]
        child, old = max(0.0, (0.5 - age) / 0.3125), max(0.0, 2 * age - 1)
        ages = {"child": min(child, 1.0), "young": max(0.0, 1 - child - old), "old": old}
        genders = {"female": 1 - male, "male": male}
        ancestry = dict(zip(("african", "asian", "caucasian"), rng.dirichlet((0.6, 0.6, 0.6)), strict=True))

        def three_way(spread: float) -> dict[str, float]:
            level = np.clip(rng.normal(0, spread), -1, 1)
            return {"min": max(0.0, -level), "average": 1 - abs(level), "max": max(0.0, level)}

        muscle, fat, tall = three_way(0.3), three_way(0.33), three_way(0.4)
        weights: dict[str, float] = {}
        for gender, wg in genders.items():
            for era, wa in ages.items():
                for origin, wo in ancestry.items():
                    weights[f"macrodetails/{origin}-{gender}-{era}"] = wg * wa * wo
                for m, wm in muscle.items():
                    for f, wf in fat.items():
                        kind, share = f"{gender}-{era}-{m}muscle-{f}weight", wg * wa * wm * wf
                        weights[f"macrodetails/universal-{kind}"] = share
                        for h in ("min", "max"):
                            weights[f"macrodetails/height/{kind}-{h}height"] = share * tall[h]
        weights |= self._details(FACE_DETAILS, 24, 0.35, rng) | self._details(BODY_DETAILS, 6, 0.2, rng)
        return self.shape_of(self.morph(weights), male)

    def _details(
        self, groups: tuple[str, ...], count: int, spread: float, rng: np.random.Generator
    ) -> dict[str, float]:
        names = [name for name in self.target_names if name.split("/")[0] in groups]
        chosen = rng.choice(len(names), count, replace=False)
        return {names[i]: float(abs(rng.normal(0, spread))) for i in chosen}

    def random_expression(self, shape: Shape, rng: np.random.Generator) -> Shape:
        """The same person with another face; bone positions stay those of the neutral face."""
        units = [name for name in self.target_names if name.startswith(EXPRESSION)]
        chosen = rng.choice(len(units), rng.integers(0, 6), replace=False)
        weights = {units[i]: rng.uniform(0.1, 0.9) for i in chosen}
        kind = rng.random()
        if kind < 0.25:
            weights[EXPRESSION + "mouth-open"] = rng.uniform(0.2, 1.0)
        elif kind < 0.6:
            weights[EXPRESSION + "mouth-corner-puller"] = rng.uniform(0.3, 1.0)  # a smile, teeth shown or not
            weights[EXPRESSION + "mouth-part-later"] = rng.uniform(0.0, 0.8)
        if rng.random() < 0.08:
            closed = rng.uniform(0.6, 1.0)
            weights |= {f"{EXPRESSION}eye-{side}-closure": closed for side in ("left", "right")}
        return self.shape_of(self.morph(weights, shape.vertices), shape.male)

    def forward_kinematics(
        self, shape: Shape, local: Local, world: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bone rotations (163, 3, 3) and start points (163, 3). `world` wins over `local`; other bones follow."""
        rotations = np.empty((len(self.bones), 3, 3))
        positions = shape.heads.copy()
        for i, (name, parent) in enumerate(zip(self.bones, self.parents, strict=True)):
            above = rotations[parent] if parent >= 0 else np.eye(3)
            if name in world:
                rotations[i] = world[name]
            else:
                rotations[i] = above @ local[name] if name in local else above
            if parent >= 0:
                positions[i] = positions[parent] + above @ (shape.heads[i] - shape.heads[parent])
        return rotations, positions

    def pose(self, shape: Shape, local: Local, world: dict[str, np.ndarray]) -> Posed:
        """Linear blend skinning of the whole mesh."""
        rotations, positions = self.forward_kinematics(shape, local, world)
        shift = positions - np.einsum("nij,nj->ni", rotations, shape.heads)
        skinning = self.weights @ np.concatenate((rotations.reshape(-1, 9), shift), axis=1)
        return Posed(blend(skinning, shape.vertices), skinning, rotations, positions)

    def fit(self, proxy: Proxy, shape: Shape, posed: Posed) -> np.ndarray:
        """Posed vertices of a proxy: placed on the body at rest, then moved with the transforms of what it sits on."""
        a, b = proxy.scale_pairs.T
        size = np.abs(shape.vertices[a, range(3)] - shape.vertices[b, range(3)])
        factor = np.where(proxy.scale_lengths > 0, size / np.where(proxy.scale_lengths > 0, proxy.scale_lengths, 1), 1)
        rest = proxy.bind @ shape.vertices + proxy.offset * factor
        return blend(proxy.bind @ posed.skinning, rest)
