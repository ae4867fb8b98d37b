"""Readers of MakeHuman's text formats: .obj, .target, .mhclo, .mhmat, .mhskel with .mhw. Text in, arrays out.

The formats are documented on the MakeHuman community wiki; lengths are decimetres.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """Wavefront mesh, polygons split into fans of triangles."""

    verts: np.ndarray  # (n, 3) float32
    uv: np.ndarray  # (m, 2) float32
    tri: np.ndarray  # (t, 3) int32 into verts
    tri_uv: np.ndarray  # (t, 3) int32 into uv, -1 without
    tri_group: np.ndarray  # (t,) int16 into groups
    groups: list[str]


def read_obj(text: str) -> Mesh:
    verts, uv, corners, owners = [], [], [], []
    groups: list[str] = []
    group = ""
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            verts.append([float(x) for x in words[1:4]])
        elif words[0] == "vt":
            uv.append([float(x) for x in words[1:3]])
        elif words[0] == "g":
            group = words[1] if len(words) > 1 else ""
        elif words[0] == "f":
            if group not in groups:
                groups.append(group)
            fields = [word.split("/") for word in words[1:]]
            face = [(int(f[0]) - 1, int(f[1]) - 1 if len(f) > 1 and f[1] else -1) for f in fields]
            for k in range(1, len(face) - 1):
                corners.append((face[0], face[k], face[k + 1]))
                owners.append(groups.index(group))
    if not verts or not corners:
        raise ValueError("an .obj mesh without vertices or faces")
    table = np.array(corners, np.int32)
    return Mesh(
        np.array(verts, np.float32),
        np.array(uv, np.float32).reshape(-1, 2),
        table[..., 0],
        table[..., 1],
        np.array(owners, np.int16),
        groups,
    )


def read_target(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Morph target -> vertex indices (n,) int64, displacements (n, 3) float64 dm."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return np.zeros(0, np.int64), np.zeros((0, 3))
    rows = np.loadtxt(io.StringIO("\n".join(lines)), ndmin=2)
    if rows.shape[1] != 4:
        raise ValueError(f"a .target line has {rows.shape[1]} numbers, expected a vertex and three displacements")
    return rows[:, 0].astype(np.int64), rows[:, 1:]


@dataclass(frozen=True)
class Fitting:
    """A .mhclo file: how the vertices of a piece of clothing follow the body. Fields as in proxies.npz."""

    ref: np.ndarray  # (n, 3) body vertices
    w: np.ndarray  # (n, 3) their weights
    d: np.ndarray  # (n, 3) offset
    scale_idx: np.ndarray  # (3, 2) body vertices whose distance along x, y, z ...
    scale_den: np.ndarray  # (3,) ... is divided by this to scale the offset
    delete: np.ndarray  # body vertices hidden below
    mesh_file: str
    material_file: str


def read_mhclo(text: str) -> Fitting:
    """Lines of numbers belong to the last `verts` or `delete_verts`; other keys, even between them, take one line."""
    keys: dict[str, list[str]] = {}
    rows: list[list[float]] = []
    hidden: set[int] = set()
    section = ""
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0][0].isalpha():
            keys.setdefault(words[0], words[1:])
            section = words[0] if words[0] in ("verts", "delete_verts") else section
        elif section == "verts":
            # One number: the vertex itself. Nine: three vertices, their weights, an offset.
            if len(words) not in (1, 9):
                raise ValueError(f"an .mhclo vertex has {len(words)} numbers, expected 1 or 9: {line.strip()!r}")
            alone = len(words) == 1
            rows.append([float(words[0])] * 3 + [1, 0, 0, 0, 0, 0] if alone else [float(x) for x in words])
        elif section == "delete_verts":
            spans = " ".join(words).replace(" - ", "-").split()
            for first, _, last in (span.partition("-") for span in spans):
                hidden.update(range(int(first), int(last or first) + 1))
    for key in ("obj_file", "material", "verts"):
        if not keys.get(key):
            raise ValueError(f"an .mhclo file without {key}")
    table = np.array(rows, np.float64).reshape(-1, 9)
    scales = [keys.get(f"{axis}_scale", ("0", "0", "0")) for axis in "xyz"]
    return Fitting(
        ref=table[:, :3].astype(np.uint16),
        w=table[:, 3:6].astype(np.float32),
        d=table[:, 6:].astype(np.float32),
        scale_idx=np.array([[int(a), int(b)] for a, b, _ in scales], np.int32),
        scale_den=np.array([float(length) for _, _, length in scales], np.float32),
        delete=np.array(sorted(hidden), np.uint16),
        mesh_file=keys["obj_file"][0],
        material_file=keys["material"][0],
    )


def read_mhmat(text: str) -> dict[str, str]:
    """Material: key -> rest of its line, of which `diffuseTexture` and `aomapTexture` name pictures beside it."""
    pairs = (line.split(None, 1) for line in text.splitlines() if not line.startswith("#"))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


@dataclass(frozen=True)
class Skeleton:
    """Bones with parents first; a joint is the mean of some vertices."""

    names: list[str]
    parents: list[int]  # -1 at the root
    heads: list[list[int]]  # vertices of the joint where a bone starts
    tails: list[list[int]]


def read_skeleton(text: str) -> Skeleton:
    data = json.loads(text)
    bones, joints = data["bones"], data["joints"]
    names: list[str] = []

    def add(name: str) -> None:
        if name not in names:
            if bones[name]["parent"]:
                add(bones[name]["parent"])
            names.append(name)

    for name in bones:
        add(name)
    parents = [names.index(bones[name]["parent"]) if bones[name]["parent"] else -1 for name in names]
    heads, tails = ([joints[bones[name][end]] for name in names] for end in ("head", "tail"))
    return Skeleton(names, parents, heads, tails)


def read_weights(text: str, bones: list[str], count: int) -> np.ndarray:
    """(count, bones) float32 skinning weights as they stand in the file."""
    weights = np.zeros((count, len(bones)), np.float32)
    for bone, pairs in json.loads(text)["weights"].items():
        for vertex, weight in pairs:
            weights[int(vertex), bones.index(bone)] += weight
    return weights
