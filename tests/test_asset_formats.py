"""Readers of MakeHuman's formats and pictures: meshes, fittings, materials, skeletons, textures."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from tests.asset_toys import BASE_OBJ, FITTING, HEADER, SKELETON
from training.synthetic.assets import motion, pictures
from training.synthetic.assets.formats import read_mhclo, read_mhmat, read_obj, read_skeleton, read_target


def test_obj_polygons_become_fans():
    mesh = read_obj("# x\n" + BASE_OBJ + "f 1 2 3\n")
    assert mesh.tri.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4], [1, 4, 5], [0, 1, 2]]
    assert mesh.tri_uv[1].tolist() == [0, 2, 3] and mesh.tri_uv[4].tolist() == [-1, -1, -1]
    assert [mesh.groups[g] for g in mesh.tri_group] == ["body", "body", "helper-tights", "helper-skirt", "helper-skirt"]
    assert mesh.verts.dtype == np.float32 and mesh.verts.shape == (6, 3) and mesh.uv.shape == (4, 2)


def test_mhclo_fields():
    fitting = read_mhclo(HEADER + FITTING)
    assert fitting.ref.tolist() == [[0, 1, 2], [3, 3, 3], [4, 4, 4]]
    np.testing.assert_array_equal(fitting.w, np.float32([[0.5, 0.25, 0.25], [1, 0, 0], [1, 0, 0]]))
    np.testing.assert_array_equal(fitting.d, np.float32([[0.1, 0.2, 0.3], [0, 0, 0], [0, 0, 0]]))
    assert fitting.scale_idx.tolist() == [[0, 1], [0, 3], [0, 4]]  # x, y, z whatever their order in the file
    assert fitting.scale_den.tolist() == [0.5, 4, 2]
    assert fitting.delete.tolist() == [0, 1, 2, 5]
    assert (fitting.mesh_file, fitting.material_file) == ("thing.obj", "thing.mhmat")


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_mhclo, FITTING.replace("obj_file thing.obj\n", ""), "without obj_file"),
        (read_mhclo, FITTING.replace("0.1 0.2 0.3", "0.1"), "has 7 numbers"),
        (read_obj, "v 0 0 0\n", "without vertices or faces"),
        (read_target, "0 1 2\n", "has 3 numbers"),
        (motion.read_bvh, "HIERARCHY\nROOT a\n{\nOFFSET 0 0 0\n}\n", "without a MOTION"),
    ],
)
def test_broken_files_are_refused(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


def test_material_and_skeleton():
    assert read_mhmat("# c\nname a b\ndiffuseTexture ../x.png\nflag\n") == {
        "name": "a b",
        "diffuseTexture": "../x.png",
    }
    skeleton = read_skeleton(json.dumps(SKELETON))
    assert (skeleton.names, skeleton.parents) == (["root", "tip"], [-1, 0])  # parents first
    assert (skeleton.heads, skeleton.tails) == ([[0, 1], [2]], [[2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("shape", "alpha", "suffix", "channels"),
    [
        ((40, 20, 3), None, ".jpg", 3),
        ((40, 20), None, ".jpg", 3),  # grey
        ((40, 20, 4), 255, ".jpg", 3),  # opaque
        ((40, 20, 4), 7, ".png", 4),
        ((8, 4, 3), None, ".jpg", 3),  # never enlarged
    ],
)
def test_textures(shape, alpha, suffix, channels):
    image = np.full(shape, 90, np.uint8)
    if alpha is not None:
        image[..., 3] = alpha
    data, found = pictures.texture(cv2.imencode(".png", image)[1].tobytes(), 10)
    result = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    height = min(10, shape[0])
    assert found == suffix and result.shape == (height, height // 2, channels)
    assert abs(result[..., :3].astype(int) - 90).max() <= 1
