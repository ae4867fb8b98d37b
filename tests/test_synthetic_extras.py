"""Captured poses, glasses and bags of rendered people. Needs assets; some need EGL."""

from __future__ import annotations

import numpy as np
import pytest

from dwpose_core.skeleton import PARTS

pytest.importorskip("scipy", reason="the body model needs scipy")

from training.synthetic import accessories as acc
from training.synthetic.beards import Beards
from training.synthetic.fabrics import muted
from training.synthetic.items import Item, Material
from training.synthetic.labels import VISIBLE, KeypointRules
from training.synthetic.motion import FILE, MotionLibrary, fraction
from training.synthetic.rotations import turn


@pytest.fixture(scope="module")
def rest(body_model, assets):
    """(keypoints (133, 3), skin (n, 3)) of a person at rest, looking to +Z."""
    shape = body_model.random_shape(np.random.default_rng(0))
    posed = body_model.pose(shape, {}, {})
    points = KeypointRules(body_model).locate(shape, posed)
    return points, posed.vertices[body_model.skin_vertices]


@pytest.fixture(scope="module")
def library(body_model, assets) -> MotionLibrary:
    if not (assets / FILE).is_file():
        pytest.skip("the assets hold no motion capture")
    return MotionLibrary(body_model, assets)


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0])
def test_fractions_of_a_rotation_add_up(angle):
    rotation = turn(np.array((1.0, -2.0, 0.5)), angle)
    np.testing.assert_allclose(np.linalg.matrix_power(fraction(rotation, 0.2), 5), rotation, atol=1e-12)


def test_limbs_point_where_they_were_captured(library, body_model):
    """Up to the heading, which is turned to +Z: heights of limb directions are exact."""
    shape = body_model.random_shape(np.random.default_rng(1))
    bones = (
        ("L_Thigh", "L_Calf", "upperleg01.L", "lowerleg01.L"),
        ("R_Calf", "R_Foot", "lowerleg01.R", "foot.R"),
        ("L_Upperarm", "L_Forearm", "upperarm01.L", "lowerarm01.L"),
        ("R_Forearm", "R_Hand", "lowerarm01.R", "wrist.R"),
    )
    for positions in library.frames[::500].astype(float):
        local, world = library.rotations(positions, shape, None)
        rotations, placed = body_model.forward_kinematics(shape, local, world)
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (163, 1, 1)), atol=1e-9)
        np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-9)
        forward = local["root"][:, 2] * (1, 0, 1)
        if np.linalg.norm(forward) > 0.3:
            assert abs(forward[0]) < 1e-9 and forward[2] > 0
        for a, b, first, last in bones:
            captured = positions[library.joint[b]] - positions[library.joint[a]]
            ours = placed[body_model.bone[last]] - placed[body_model.bone[first]]
            assert ours[1] / np.linalg.norm(ours) == pytest.approx(captured[1] / np.linalg.norm(captured), abs=1e-6)


def test_mirrored_capture_is_the_mirrored_pose(library, body_model):
    shape = body_model.shape_of(body_model.morph({}), 0.0)
    limbs = ("upperarm01", "lowerarm01", "wrist", "upperleg01", "lowerleg01", "foot", "toe2-1")
    left, right = ([body_model.bone[f"{name}.{side}"] for name in limbs] for side in "LR")
    for positions in library.frames[100::1500].astype(float):
        _, placed = body_model.forward_kinematics(shape, *library.rotations(positions, shape, None))
        flipped = library.rotations(positions[library.swap] * (-1, 1, 1), shape, None)
        _, mirrored = body_model.forward_kinematics(shape, *flipped)
        np.testing.assert_allclose(mirrored[left], placed[right] * (-1, 1, 1), atol=0.15)  # dm; the mesh is not exact


def test_captured_poses_are_drawn_on_request_only(library, body_model, assets):
    from training.synthetic.poses import PoseSampler

    shape = body_model.random_shape(np.random.default_rng(2))
    styles = {
        share: {PoseSampler(body_model, assets, share).sample(shape, np.random.default_rng(k))[2] for k in range(12)}
        for share in (0.0, 1.0)
    }
    assert styles[1.0] == {"captured"} and "captured" not in styles[0.0]


def test_missing_capture_is_named(body_model, tmp_path):
    with pytest.raises(ValueError, match=FILE):
        MotionLibrary(body_model, tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_glasses_sit_before_the_eyes_and_reach_the_ears(rest, seed):
    points, _ = rest
    *rims, left, right = acc.glasses(points, np.random.default_rng(seed))  # the two panes come last
    face = points[PARTS["face"]]
    eyes = {"right": face[36:42].mean(0), "left": face[42:48].mean(0)}
    panes = sorted((left, right), key=lambda item: item.positions[:, 0].mean())
    for pane, eye in zip(panes, (eyes["right"], eyes["left"]), strict=True):
        offset = pane.positions.mean(0) - eye
        assert abs(offset[0]) < 0.05 and abs(offset[1]) < 0.15 and 0.05 < offset[2] < 0.4  # dm
        assert pane.material.translucent and 0 < pane.material.opacity <= 1
    frame = np.concatenate([item.positions for item in rims])
    for ear in points[3:5]:
        assert np.linalg.norm(frame - ear, axis=1).min() < 0.35


def test_backpacks_hang_behind_and_bags_below(rest):
    points, skin = rest
    shoulders, hips = points[5:7].mean(0), points[11:13].mean(0)
    for seed in range(5):
        sack = acc.backpack(points, skin, np.random.default_rng(seed))[0].positions
        trunk = skin[(np.abs(skin[:, 0]) < 0.8) & (skin[:, 1] < shoulders[1]) & (skin[:, 1] > hips[1])]
        assert sack[:, 2].max() < trunk[:, 2].min() + 0.3
        assert hips[1] - 1.5 < sack[:, 1].mean() < shoulders[1]
        body, handle = (item.positions for item in acc.bag(points, np.random.default_rng(seed)))
        assert body[:, 1].max() < handle[:, 1].max() + 0.1
        hands = points[PARTS["left_hand"]], points[PARTS["right_hand"]]
        assert min(np.linalg.norm(handle[:, None] - hand, axis=2).min() for hand in hands) < 0.5


def test_beards_grow_around_the_mouth_of_grown_men(body_model, assets):
    rules = KeypointRules(body_model)
    beards = Beards(body_model, rules)
    bare = full = 0
    for seed in range(60):
        shape = body_model.random_shape(np.random.default_rng(seed))
        posed = body_model.pose(shape, {}, {})
        items = beards.grow(shape, posed, np.random.default_rng(seed))
        if not items:
            bare += 1
            continue
        assert shape.male >= 0.5
        face = rules.locate(shape, posed)[PARTS["face"]]
        (item,) = items
        drawn = item.positions[item.index.ravel()][item.inside[item.index.ravel()] > 0]
        assert drawn[:, 1].max() < face[27, 1] and drawn[:, 1].min() > face[8, 1] - 1.0  # below the eyes, not the chest
        assert drawn[:, 2].min() > face[[0, 16], 2].min() - 0.4  # before the ears
        mouth = face[60:68].mean(0)
        assert np.linalg.norm((drawn - mouth)[:, :2], axis=1).min() > 0.04  # dm; lips stay free
        full += 1
    assert full >= 4 and bare >= 30


def test_muted_colours_keep_their_brightness():
    item = Item(
        np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 2)), np.array(((0, 1, 2),)), Material(plain=(0.9, 0.3, 0))
    )
    for seed in range(10):
        color = np.array(muted([item], np.random.default_rng(seed))[0].material.plain)
        assert color.mean() == pytest.approx(0.4) and np.ptp(color) < 0.9


def test_glasses_hide_no_label(assets, egl, monkeypatch):
    from training.synthetic.generate import PersonGenerator

    monkeypatch.setattr(acc, "GLASSES", 1.0)
    monkeypatch.setattr(acc, "BACKPACK", 0.0)
    monkeypatch.setattr(acc, "BAG", 0.0)
    bare = PersonGenerator(assets, (96, 128), supersample=1)
    worn = PersonGenerator(assets, (96, 128), supersample=1, with_accessories=True)
    kept = total = changed = 0
    for number in range(6):
        body = bare.model.random_shape(np.random.default_rng(number))
        one, two = (g._attempt(body, "face", np.random.default_rng((5, number))) for g in (bare, worn))
        np.testing.assert_array_equal(one.keypoints, two.keypoints)
        seen = one.visible[PARTS["face"]] == VISIBLE
        kept += int((two.visible[PARTS["face"]][seen] == VISIBLE).sum())
        total += int(seen.sum())
        changed += (np.abs(one.rgba.astype(int) - two.rgba).max(2) > 30).mean() > 0.004
    assert total > 100 and kept > 0.95 * total
    assert changed >= 4
