"""Hands and bodies: none inside the own body, some on somebody else's."""

from __future__ import annotations

import numpy as np
import pytest

from dwpose_core.skeleton import PARTS
from training.synthetic import company, poses
from training.synthetic.body import BodyModel
from training.synthetic.company import HIPS, KINDS, draw_meeting, faces
from training.synthetic.contact import ARMS, CLEARANCE, OwnBody
from training.synthetic.labels import KeypointRules
from training.synthetic.poses import PoseSampler
from training.synthetic.rotations import X, Y, turn
from training.synthetic.scenes import SUITABLE


@pytest.fixture(scope="module")
def rules(body_model) -> KeypointRules:
    return KeypointRules(body_model)


@pytest.fixture(scope="module")
def shape(body_model):
    return body_model.random_shape(np.random.default_rng(3))


@pytest.fixture(scope="module")
def standing(body_model, rules, shape) -> np.ndarray:
    """(133, 3) of somebody at rest, who looks to +Z, with the feet on the ground."""
    points = rules.locate(shape, body_model.pose(shape, {}, {}))
    return points - Y * points[PARTS["foot"], 1].min()


def winding(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """How often a surface goes around each of `points`: about 1 inside, about 0 outside (van Oosterom, Strackee)."""
    a, b, c = (vertices[triangles[:, k]][None] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(side, axis=-1) for side in (a, b, c))
    over = (a * np.cross(b, c)).sum(-1)
    under = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return 2 * np.arctan2(over, under).sum(1) / (4 * np.pi)


def share_inside(body_model: BodyModel, rules: KeypointRules, sampler: PoseSampler, count: int) -> float:
    """Of hands of which half of the points lie inside the body, its own arm left out."""
    bones = np.array(body_model.bones)[body_model.main_bone]
    triangles = body_model.meshes["body"].triangles
    inside = []
    for number in range(count):
        rng = np.random.default_rng((5, number))
        shape = body_model.random_shape(rng)
        posed = body_model.pose(shape, *sampler.sample(shape, rng)[:2])
        points = rules.locate(shape, posed)
        for side, part in (("L", "left_hand"), ("R", "right_hand")):
            own = np.logical_or.reduce([np.char.startswith(bones, name) for name in ARMS])
            own &= np.char.endswith(bones, f".{side}")
            body = triangles[~own[triangles].any(1)]
            inside.append((winding(points[PARTS[part]][1::3], posed.vertices, body) > 0.5).mean() >= 0.5)
    return float(np.mean(inside))


def test_hands_stay_out_of_the_body(body_model, rules, assets, monkeypatch):
    """They did not: 14 % lay half inside. Hands in pockets may."""
    sampler = PoseSampler(body_model, assets)
    kept_out = share_inside(body_model, rules, sampler, 50)
    monkeypatch.setattr(poses, "WAYS_OUT", 0)
    assert kept_out < 0.65 * share_inside(body_model, rules, sampler, 50)


def test_the_way_out_leads_off_the_skin(body_model, shape):
    body = OwnBody(body_model)
    rotation = turn((1.0, 2.0, 0.5), 0.7)
    local = {"root": rotation}
    rotations, positions = body_model.forward_kinematics(shape, local, {})
    body.settle(shape, rotations, positions)
    centre = positions[body_model.bone["spine02"]]
    belly = centre + rotation @ (0.0, 0.0, 0.75)  # under the skin of the front
    step = body.way_out(belly[None])
    assert rotation.T[2] @ step > 0.8 * np.linalg.norm(step)
    assert body.way_out((belly + step)[None]) is None
    assert body.way_out((centre + rotation @ (0.0, 0.0, 4.0))[None]) is None  # far before it
    assert np.linalg.norm(step) < 1.5 + CLEARANCE


@pytest.mark.parametrize("angle", [0.0, 1.2, -2.5])
def test_who_meets_somebody_stands_where_the_kind_says(standing, monkeypatch, angle):
    """In the axes of the other, whichever way they look, and with the hand that is next to them."""
    spin, shift = turn(Y, angle), np.array((7.0, 0.0, -30.0))
    points = standing @ spin.T + shift
    np.testing.assert_allclose(faces(points) @ spin, (0, 0, 1), atol=0.05)
    hips = points[list(HIPS)].mean(0)
    for kind, (_, beside, before, turned, hand, _) in KINDS.items():
        monkeypatch.setattr(company, "KINDS", {kind: KINDS[kind]})
        for seed in range(10):
            meeting = draw_meeting(points, np.random.default_rng(seed))
            place = (meeting.place - hips) @ spin
            assert meeting.place[1] == 0
            assert beside[0] - 0.4 <= abs(place[0]) <= beside[1] + 0.4 or beside[0] < 0
            assert before[0] - 0.4 <= place[2] <= before[1] + 0.4
            assert spin[:, 2] @ meeting.spin[:, 2] * (1 if turned == 0 else -1) > np.cos(np.deg2rad(64))
            if hand == "near":
                assert list(meeting.wrists) == ["R" if place[0] > 0 else "L"]
            assert all(np.linalg.norm(wrist - points[:13], axis=1).min() < 6 for wrist in meeting.wrists.values())


def test_nobody_meets_who_lies_or_jumps(standing):
    rng = np.random.default_rng(0)
    assert draw_meeting(standing, rng) is not None
    assert draw_meeting(standing + 3 * Y, rng) is None
    lying = standing @ turn(X, np.pi / 2).T
    assert draw_meeting(lying - Y * lying[:, 1].min(), rng) is None


def test_hands_reach_who_they_are_for(body_model, rules, assets, shape, standing, egl):
    """Most wrists end within 5 cm of their goals; who can't reach keeps the pose."""
    from training.synthetic.scenes import SceneGenerator

    generator = SceneGenerator(assets, 64)
    off, met = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        meeting = draw_meeting(standing, rng)
        for _ in range(SUITABLE):
            local, world, _ = generator.poses.sample(shape, rng)
            posed = body_model.pose(shape, local, world)
            if meeting.suits(rules.locate(shape, posed)):
                break
        else:
            continue
        met += 1
        posed = generator._reaching(shape, local, world, posed, meeting, rng)
        points = rules.locate(shape, posed)
        points = points - points[list(HIPS)].mean(0) * (1, 0, 1) - Y * posed.vertices[body_model.skin_vertices, 1].min()
        points = points @ meeting.spin.T + meeting.place
        off += [np.linalg.norm(points[9 if side == "L" else 10] - goal) for side, goal in meeting.wrists.items()]
    assert met > 30
    assert (np.array(off) < 0.5).mean() > 0.5


def test_who_meets_nobody_stands_elsewhere(assets, egl, standing, monkeypatch):
    """Where no pose suits, somebody is placed as those who have nothing to do with anybody."""
    from training.synthetic.scenes import SceneGenerator

    generator, meeting = SceneGenerator(assets, 64), draw_meeting(standing, np.random.default_rng(0))
    met = [generator._actor(5, number, 1, meeting).meets for number in range(6)]
    assert sum(met) >= 4
    monkeypatch.setattr(company.Meeting, "suits", lambda self, points: False)
    assert not generator._actor(5, met.index(True), 1, meeting).meets
    assert not generator._actor(5, 0, 1).meets
