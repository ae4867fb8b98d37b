"""Made-up checkouts of the sources that body assets are built from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

CC0_TEXT = "Creative Commons Legal Code\n\nCC0 1.0 Universal\n"
HEADER = "# This asset was explicitly released as CC0 in september 2020.\n"
BASE_OBJ = """
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 1
v 1 0 1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
g body
f 1/1 2/2 3/3 4/4
g helper-tights
f 1/1 2/2 5/3
g helper-skirt
f 2/1 5/2 6/3
"""
SKELETON = {
    "license": "CC0",
    "bones": {
        "tip": {"parent": "root", "head": "b", "tail": "c"},
        "root": {"parent": None, "head": "a", "tail": "b"},
    },
    "joints": {"a": [0, 1], "b": [2], "c": [3, 4, 5]},
}
WEIGHTS = {"license": "CC0", "weights": {"root": [[0, 1.0], [1, 0.6]], "tip": [[1, 0.2], [2, 0.5]]}}
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"
FITTING = """name thing
obj_file thing.obj
x_scale 0 1 0.5
z_scale 0 4 2
y_scale 0 3 4
verts 0
material thing.mhmat
0 1 2 0.5 0.25 0.25 0.1 0.2 0.3
3
4
delete_verts
0 - 2 5
"""
POSE_BVH = "HIERARCHY\nROOT root\n{\n\tOFFSET 0 0 0\n\tCHANNELS 3 Xrotation Yrotation Zrotation\n}\nMOTION\nFrames: 1\n"
REQUIRED_PIECES = ("clothes/shirt", "hair/bob", "eyebrows/brow", "eyelashes/lash", "teeth/teeth_base")


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def picture(suffix: str, shape: tuple[int, ...], seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, shape)
    image = (pixels / 255).astype(np.float32) if suffix == ".hdr" else pixels.astype(np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


def pointer(data: bytes) -> bytes:
    sha256 = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()


def put_piece(folder: Path, name: str, material: str = "diffuseTexture {stem}.png\n") -> None:
    stem = Path(name).name
    put(folder / name / f"{stem}.mhclo", HEADER + FITTING.replace("thing", stem))
    put(folder / name / f"{stem}.obj", HEADER + TRIANGLE)
    put(folder / name / f"{stem}.mhmat", HEADER + material.format(stem=stem))
    put(folder / name / f"{stem}.png", picture(".png", (40, 30, 4), seed=len(name)))


def put_trees(folder: Path) -> dict[str, Path]:
    """Small checkouts of all sources but the motion capture, in folders of `folder`."""
    roots = {key: folder / key for key in ("makehuman", "makehuman-assets", "hdri", "backgrounds")}
    data = roots["makehuman"] / "makehuman" / "data"
    put(roots["makehuman"] / "LICENSE.ASSETS.md", "# Creative Commons CC0 1.0 Universal\n")
    put(data / "3dobjs/base.obj", HEADER + BASE_OBJ)
    put(data / "rigs/default.mhskel", json.dumps(SKELETON))
    put(data / "rigs/default_weights.mhw", json.dumps(WEIGHTS))
    put(data / "targets/chin/wide.target", HEADER + "0 .012 0 -.004\n2 .0005 0 0\n5 0 .0041 .006\n")
    put(data / "targets/chin/nothing.target", HEADER + "1 .001 0 0\n")
    put(data / "targets/asym/left.target", HEADER + "1 1 0 0\n")
    put(data / "targets/baby/face.target", HEADER + "1 1 0 0\n")
    put_piece(data, "eyes/low-poly")
    put(data / "eyes/materials/brown_eye.png", picture(".png", (16, 16, 4)))

    clothes = roots["makehuman-assets"] / "base"
    put(roots["makehuman-assets"] / "LICENSE.txt", CC0_TEXT)
    for name in REQUIRED_PIECES:
        put_piece(clothes, name)
    put_piece(clothes, "hair/bob01")  # the reference pack has no picture of it
    put_piece(clothes, "clothes/coat", "diffuseTexture {stem}.png\naomapTexture {stem}_ao.png\n")
    put(clothes / "clothes/coat/coat_ao.png", picture(".png", (20, 20)))
    put(clothes / "eyes/materials/blue_eye.png", picture(".png", (16, 16, 4)))
    put(clothes / "skins/young/young.mhmat", HEADER + "diffuseTexture ../textures/young.png\n")
    put(clothes / "skins/textures/young.png", picture(".png", (2048, 1024, 3)))
    put(clothes / "poses/run.bvh", POSE_BVH + "Frame Time: 1\n0 0 90\n")
    put(clothes / "poses/run.meta", "name run\nlicense CC0\n")

    put(roots["hdri"] / "LICENSE", CC0_TEXT)
    put(roots["hdri"] / "src/hdri/hall.hdr", picture(".hdr", (256, 512, 3)))
    put(roots["backgrounds"] / "LICENSE", CC0_TEXT)
    put(roots["backgrounds"] / "backgrounds/hills.jpg", picture(".jpg", (1200, 2000, 3)))
    put(roots["backgrounds"] / "backgrounds/saturnian-profile.jpg", picture(".jpg", (10, 20, 3)))
    return roots
