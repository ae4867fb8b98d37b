"""What people wear on their heads and have at hand: where it lies."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("moderngl")  # of the extra "synthetic"

from training.synthetic import clothes, props
from training.synthetic.clothes import Wardrobe
from training.synthetic.headgear import KINDS, Headgear
from training.synthetic.items import Item
from training.synthetic.labels import KeypointRules
from training.synthetic.poses import PoseSampler
from training.synthetic.props import PropMaker, lowest, racket, wheel
from training.synthetic.rotations import Y, turn
from training.synthetic.solids import Solid


@pytest.fixture(scope="module")
def headgear(body_model) -> Headgear:
    return Headgear(body_model)


@pytest.fixture(scope="module")
def rest(body_model) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and keypoints of an average adult at rest, who looks to +Z."""
    shape = body_model.random_shape(np.random.default_rng(3))
    posed = body_model.pose(shape, {}, {})
    return posed.vertices, KeypointRules(body_model).locate(shape, posed)


def covered(item: Item) -> np.ndarray:
    """Points of the cloth that is drawn."""
    corner = np.unique(item.index)
    return item.positions[corner[item.inside[corner] > 0]]


def distance(points: np.ndarray, to: np.ndarray) -> float:
    return float(np.linalg.norm(points - to, axis=1).min())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_faces_stay_free_of_caps_and_masks_cover_them(headgear, rest, kind, seed):
    vertices, points = rest
    cloth = covered(headgear.wear(kind, vertices, np.random.default_rng(seed))[0])
    nose, mouth, eye = points[23 + 30], points[23 + 51], points[1]
    crown = vertices[headgear.patch.base][:, 1].max()
    if kind == "mask":
        assert distance(cloth, nose) < 0.25 and distance(cloth, mouth) < 0.25 and distance(cloth, eye) > 0.2
    elif kind == "goggles":
        assert distance(cloth, eye) < 0.4 and distance(cloth, mouth) > 0.4
    else:
        assert cloth[:, 1].max() > crown and distance(cloth, eye) > 0.1
        if kind != "hood":
            assert distance(cloth, nose) > 0.4 and distance(cloth, mouth) > 0.4
    inside_head = (cloth - vertices[headgear.patch.base].mean(0)) / 3
    assert (np.linalg.norm(inside_head, axis=1) < 1).all()  # nothing flies off


@pytest.mark.parametrize("kind", KINDS)
def test_headgear_turns_with_the_head(headgear, rest, kind):
    vertices, _ = rest
    rotation, shift = turn(np.array((1.0, 2, 3)), 2.1), np.array((5.0, -3, 40))
    still = headgear.wear(kind, vertices, np.random.default_rng(5))
    moved = headgear.wear(kind, vertices @ rotation.T + shift, np.random.default_rng(5))
    for a, b in zip(still, moved, strict=True):
        np.testing.assert_allclose(a.positions @ rotation.T + shift, b.positions, atol=1e-6)
        assert a.material == b.material


def test_headgear_covers_both_sides_alike(headgear, rest):
    """Hems know no left and right: as much cloth on one side as on the other, with and without ears cut out."""
    vertices, _ = rest
    for kind in KINDS:
        for seed in range(8):
            cloth = covered(headgear.wear(kind, vertices, np.random.default_rng(seed))[0])
            left, right = (cloth[:, 0] > 0.05).sum(), (cloth[:, 0] < -0.05).sum()
            assert left == pytest.approx(right, rel=0.06), (kind, seed)


@pytest.mark.parametrize("kind, around", [("peaked", False), ("brimmed", True)])
def test_brims_stand_off(headgear, rest, kind, around):
    vertices, points = rest
    for seed in range(4):
        cap, brim = headgear.wear(kind, vertices, np.random.default_rng(seed))
        middle = points[3:5].mean(0)
        ahead, behind = brim.positions[:, 2].max() - middle[2], middle[2] - brim.positions[:, 2].min()
        assert ahead > covered(cap)[:, 2].max() - middle[2] + 0.2
        assert (behind > 0.9) == around


def test_covered_heads_have_no_hair(body_model, assets, monkeypatch):
    """Hair would poke through caps; below masks and goggles it stays."""
    monkeypatch.setattr(clothes, "HEAD_COVERED", 1.0)
    wardrobe = Wardrobe(body_model, assets)
    with_hair = {}
    for kind, (_, instead) in KINDS.items():
        monkeypatch.setattr(clothes, "KINDS", {kind: (1.0, instead)})
        found = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            shape = body_model.random_shape(rng)
            items = wardrobe.dress(shape, body_model.pose(shape, {}, {}), lambda world: world, rng)
            found.append(any(i.material.texture and i.material.texture.name.startswith("hair_") for i in items))
        with_hair[kind] = any(found)
    assert with_hair == {kind: not instead for kind, (_, instead) in KINDS.items()}


def test_shoulders_lie_above_the_joint(body_model, rest):
    """Where COCO's annotators put them: 5 % of the way up from the hip."""
    shape = body_model.shape_of(body_model.morph({}), 0.0)
    posed = body_model.pose(shape, {}, {})
    points = KeypointRules(body_model).locate(shape, posed)
    for k, side in ((5, "L"), (6, "R")):
        joint, hip = (posed.positions[body_model.bone[f"{bone}.{side}"]] for bone in ("upperarm01", "upperleg01"))
        np.testing.assert_allclose(points[k] - joint, 0.05 * (joint - hip))
        assert 0.2 < (points[k] - joint)[1] < 0.35  # dm


def test_acrobats_are_upright_half_of_the_time(body_model, assets):
    sampler, rng = PoseSampler(body_model, assets), np.random.default_rng(2)
    upright = {wild: np.mean([sampler._attitude(wild, rng)[1, 1] > 0.95 for _ in range(600)]) for wild in (False, True)}
    assert upright[False] == pytest.approx(0.84, abs=0.05) and upright[True] == pytest.approx(0.51, abs=0.07)


def test_wheelchairs_stand_on_their_wheels(assets, monkeypatch):
    monkeypatch.setattr(props, "WHEELED", 1.0)
    maker, high = PropMaker(assets), 5.0
    for seed in range(6):
        seat = maker.seat(high, np.random.default_rng(seed))
        assert lowest(seat) == pytest.approx(0.0, abs=0.35)
        assert max(item.positions[:, 0].max() for item in seat) > 1.75
        assert max(item.positions[:, 1].max() for item in seat) > high


def test_boards_lie_under_the_feet(assets):
    """Right below the soles, along or across them, whichever way the person looks."""
    foot = np.array(((0.3, 0.2, 1.5), (0.9, 0.2, 1.1), (0.5, 0.2, -0.6)))
    aside = np.array((0.5, 0, 0))
    feet = np.stack((foot + aside, foot * (-1, 1, 1) - aside))
    maker = PropMaker(assets)
    for seed in range(12):
        spin = turn(Y, seed)
        boards = maker.boards(feet @ spin.T, np.random.default_rng(seed))
        points = np.concatenate([item.positions for item in boards]) @ spin
        assert points[:, 1].max() < 0.2 and points[:, 1].min() > -1.0
        assert np.ptp(points[:, [0, 2]], axis=0).max() > 6
        assert points[:, 2].min() < 0 < points[:, 2].max() and points[:, 0].min() < 1.0


def size(solids: list[Solid]) -> np.ndarray:
    return np.ptp(np.concatenate([solid.points for solid in solids]), axis=0)


def test_wheels_and_rackets_are_flat():
    rng = np.random.default_rng(4)
    wide, high, deep = size(wheel(3.0, rng))
    assert wide == pytest.approx(high, rel=0.05) and 6 <= wide < 6.7 and deep < 0.6
    wide, high, deep = size(racket(rng))
    assert high > 2 * wide > 8 * deep
