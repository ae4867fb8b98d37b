"""The body: arrays of base.npz and targets.npz."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from .formats import read_obj, read_skeleton, read_target, read_weights
from .sources import Checkout, naming

BONES_PER_VERTEX = 6
# Of each joint, the first ones: joints between the halves of a limb have up to 24, and the reference pack is cut alike.
JOINT_VERTICES = 8
# Vertices whose sixth and seventh largest weights are equal: the bone the reference pack took. Where nothing is named
# it is the one that comes first in the skeleton.
TIES = {
    "breast.L": (8067,),
    "breast.R": (1375, 1526, 1528, 16912),
    "clavicle.R": (787, 791, 797, 803, 17927, 17932, 18854, 19068),
    "levator05.R": (491, 557, 591, 724, 733, 5337),
    "neck01": (17061, 17922),
    "oris05": (403, 3703, 7163, 10371),
    "oris07.R": (574, 608, 625, 642, 659),
    "pelvis.R": (17970, 17973),
    "shoulder01.L": (8350, 16954),
    "shoulder01.R": (1678, 15642),
    "tongue05.R": (13385,),
    "tongue06.R": (13392, 13393),
    "upperarm01.L": (7477, 17816),
    "upperarm01.R": (758, 16482, 18825, 19039),
    "upperarm02.L": (16927,),
    "upperarm02.R": (15618,),
    "upperleg01.R": (4188, 4195, 4317, 4387, 17378, 17389, 17958, 18057),
    "upperleg02.L": (17348,),
    "upperleg02.R": (4370, 4372, 4374, 6431, 16021, 17967, 17969, 18172),
}
STEP = 0.004  # dm: morph displacements are whole multiples
LEFT_OUT = ("genitals", "asym", "bodyshapes", "expression/units/african", "expression/units/asian")


def base_arrays(makehuman: Checkout) -> dict[str, np.ndarray]:
    """Base mesh, skeleton and the six largest skinning weights per vertex."""
    paths = [makehuman.folder / name for name in ("3dobjs/base.obj", "rigs/default.mhskel", "rigs/default_weights.mhw")]
    mesh_text, skeleton_text, weights_text = map(makehuman.text, paths)
    with naming(paths[0]):
        mesh = read_obj(mesh_text)
    with naming(paths[1]):
        skeleton = read_skeleton(skeleton_text)
    with naming(paths[2]):
        weights = read_weights(weights_text, skeleton.names, len(mesh.verts))
    rank = weights.copy()
    for bone, vertices in TIES.items():
        if bone in skeleton.names:
            rank[[v for v in vertices if v < len(rank)], skeleton.names.index(bone)] += 1e-6
    order = np.argsort(-rank, axis=1, kind="stable")[:, :BONES_PER_VERTEX]
    largest = np.take_along_axis(weights, order, axis=1)
    free = largest.sum(1) == 0  # helper vertices that no bone owns hang on the root
    order[free, 0], largest[free, 0] = skeleton.names.index("root"), 1
    largest /= largest.sum(1, keepdims=True)
    return {
        "verts": mesh.verts,
        "uv": mesh.uv,
        "tri": mesh.tri,
        "tri_uv": mesh.tri_uv,
        "tri_group": mesh.tri_group,
        "groups": np.array(mesh.groups),
        "bones": np.array(skeleton.names),
        "parents": np.array(skeleton.parents, np.int16),
        "bone_head_verts": _padded(skeleton.heads),
        "bone_tail_verts": _padded(skeleton.tails),
        "skin_idx": order.astype(np.uint8),
        "skin_w": largest.astype(np.float16),
    }


def _padded(lists: list[list[int]]) -> np.ndarray:
    """(len(lists), JOINT_VERTICES) int32, -1 where unused."""
    return np.array([(entries + [-1] * JOINT_VERTICES)[:JOINT_VERTICES] for entries in lists], np.int32)


def target_arrays(makehuman: Checkout) -> dict[str, np.ndarray]:
    """Morph targets as steps of vertex indices and displacements in units of STEP.

    Displacements are rounded to 0.001 dm, then to STEP, halves to even; vertices that round to nothing are dropped.
    """
    names, sizes, steps, moves = [], [0], [], []
    folder = makehuman.folder / "targets"
    for path in tqdm(makehuman.find("targets/**/*.target"), desc="morph targets", unit="file"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name.startswith(LEFT_OUT) or "baby" in name:
            continue
        text = makehuman.text(path)
        with naming(path):
            vertex, delta = read_target(text)
        move = np.round(np.round(delta * 1000) / (STEP * 1000)).astype(np.int16)
        kept = (move != 0).any(1)
        if not kept.any():
            continue
        names.append(name)
        sizes.append(int(kept.sum()))
        steps.append(np.diff(vertex[kept], prepend=0).astype(np.int16))
        moves.append(move[kept])
    if not names:
        raise ValueError(f"{folder} holds no morph target that moves anything")
    x, y, z = np.concatenate(moves).T
    return {
        "names": np.array(names),
        "off": np.cumsum(sizes),
        "idx_step": np.concatenate(steps),
        "dx": x,
        "dy": y,
        "dz": z,
        "scale": np.float32(STEP),
    }
