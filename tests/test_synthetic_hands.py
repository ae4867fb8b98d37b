"""What hands do and wear: tips that meet, fingers that point, gloves on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy")  # of the extra "synthetic"

from training.synthetic import hands
from training.synthetic.body import BodyModel, Shape
from training.synthetic.camera import random_camera
from training.synthetic.gloves import CUFF, Gloves
from training.synthetic.hands import FIST, PINCHES, Hand, draw_hand, pose_hand
from training.synthetic.labels import VISIBLE, KeypointRules
from training.synthetic.poses import PoseSampler
from training.synthetic.rotations import turn

LEFT, RIGHT = slice(91, 112), slice(112, 133)
TIPS = [4, 8, 12, 16, 20]  # of a hand's 21 points
FLAT = Hand(np.zeros((4, 3)), np.zeros(3), 0.6, 0.0, (0.0, 0.0))


@pytest.fixture(scope="module")
def shapes(body_model) -> list[Shape]:
    return [body_model.random_shape(np.random.default_rng(k)) for k in range(6)]


def points_of(body_model: BodyModel, shape: Shape, hand: Hand) -> tuple[np.ndarray, np.ndarray]:
    """The 21 points of the left and of the right hand, both posed as `hand`, dm."""
    local: dict = {}
    for side, sign in (("L", 1.0), ("R", -1.0)):
        pose_hand(local, hand, shape, body_model.bone, side, sign)
    points = KeypointRules(body_model).locate(shape, body_model.pose(shape, local, {}))
    return points[LEFT], points[RIGHT]


@pytest.mark.parametrize("finger", range(4))
def test_a_pinching_thumb_meets_its_finger(body_model, shapes, finger):
    """To a finger's thickness, on all bodies: the angles were fitted to one."""
    angles, opposed, meeting = PINCHES[finger]
    curl = np.zeros((4, 3))
    curl[finger] = meeting
    pinch = replace(FLAT, curl=curl, thumb=np.array(angles), opposed=opposed)
    for shape in shapes:
        for points in points_of(body_model, shape, pinch):
            tip, length = points[TIPS], np.linalg.norm(points[12] - points[0])
            gap = np.linalg.norm(tip[0] - tip[1:], axis=1)
            assert gap.argmin() == finger and gap[finger] < 0.2 * length
            assert np.delete(gap, finger).min() > 1.5 * gap[finger]


def test_curled_fingers_end_at_the_palm_and_fans_spread(body_model, shapes):
    shape = shapes[0]
    flat, spread = points_of(body_model, shape, FLAT)[0], points_of(body_model, shape, replace(FLAT, fan=0.15))[0]
    fist = points_of(body_model, shape, replace(FLAT, curl=np.tile(FIST, (4, 1))))[0]
    pointing = points_of(body_model, shape, replace(FLAT, curl=np.array([[0], [1], [1], [1]]) * FIST))[0]

    def reach(points: np.ndarray) -> np.ndarray:
        """Of the tips of four fingers from the wrist, in lengths of the middle of the hand."""
        return np.linalg.norm(points[TIPS[1:]] - points[0], axis=1) / np.linalg.norm(points[9] - points[0])

    assert (reach(fist) < 0.75 * reach(flat)).all()
    assert reach(pointing)[0] > 0.98 * reach(flat)[0] and (reach(pointing)[1:] < 0.75 * reach(flat)[1:]).all()
    width = [np.linalg.norm(points[8] - points[20]) for points in (flat, spread)]
    assert width[1] > 1.2 * width[0]


def test_left_and_right_hands_mirror_each_other(body_model):
    rng = np.random.default_rng(0)
    for _ in range(12):
        left, right = points_of(body_model, body_model.shape_of(body_model.base, 0.0), draw_hand(rng))
        np.testing.assert_allclose(left * (-1, 1, 1), right, atol=1e-3)


def test_hands_differ(monkeypatch):
    """Every style and gesture is drawn, and angles stay what joints can do."""
    rng = np.random.default_rng(0)
    drawn = [draw_hand(rng) for _ in range(3000)]
    curl = np.stack([hand.curl for hand in drawn])
    assert curl.min() >= -0.3 and curl.max() <= 1.8
    straight = (curl.sum(2) < 0.6) @ (1, 2, 4, 8)  # which fingers are
    share = np.bincount(straight, minlength=16) / len(drawn)
    assert share[1] > 0.02 and share[3] > 0.015 and share[7] > 0.005 and share[9] > 0.003  # one, two, three, horns
    assert share[0] > 0.3 and share[15] > 0.1
    for name in hands.GESTURES:
        monkeypatch.setattr(hands, "STYLES", {"gesture": (1.0, None, 0, 0)})
        monkeypatch.setattr(hands, "GESTURES", {name: hands.GESTURES[name]})
        assert np.isfinite(draw_hand(rng).curl).all()
        monkeypatch.undo()


def test_reaching_arms_hold_hands_away_from_the_body(body_model, assets, shapes):
    sampler, rules = PoseSampler(body_model, assets), KeypointRules(body_model)

    def far(reaching: bool) -> float:
        """Share of hands that are farther from the middle of the body than one and a half upper arms."""
        rows = []
        for seed in range(40):
            shape = shapes[seed % len(shapes)]
            local, world, _ = sampler.sample(shape, np.random.default_rng(seed), reaching)
            points = rules.locate(shape, body_model.pose(shape, local, world))
            trunk, arm = points[[5, 6, 11, 12]].mean(0), np.linalg.norm(points[5] - points[7])
            rows += [np.linalg.norm(points[hand].mean(0) - trunk) > 1.5 * arm for hand in (LEFT, RIGHT)]
        return float(np.mean(rows))

    assert far(True) > far(False) + 0.15


def test_a_hand_alone_is_seen_from_everywhere(body_model, shapes):
    posed = body_model.pose(shapes[0], {}, {})
    skin, points = posed.vertices[body_model.skin_vertices], KeypointRules(body_model).locate(shapes[0], posed)
    rng = np.random.default_rng(0)
    fingers = points[LEFT][9] - points[LEFT][0]
    for framing, least in (("hand", 6), ("full", 0)):
        cameras = [random_camera(skin, points, framing, rng) for _ in range(80)]
        across = np.array([(camera.rotation @ fingers)[:2] for camera in cameras])
        sector = np.floor(np.arctan2(across[:, 1], across[:, 0]) / (2 * np.pi) * 8).astype(int) % 8
        counts = np.bincount(sector, minlength=8)
        assert (counts >= 3).sum() >= least and (framing == "hand" or (counts >= 3).sum() <= 5)


def test_layers_of_hands_show_a_hand_and_little_else(assets):
    pytest.importorskip("moderngl")
    from training.synthetic.generate import PersonGenerator

    generator = PersonGenerator(assets, framings="hands")
    for number in range(4):
        layer = generator.person(1, number)
        points = layer.keypoints[LEFT]
        assert layer.framing == "hand" and (layer.visible[LEFT] == VISIBLE).mean() > 0.4
        assert np.ptp(points, axis=0).max() > 0.3 * generator.size[0]
        assert (points > 0).all() and (points < generator.size).all()


@pytest.mark.parametrize("seed", range(4))
def test_gloves_cover_both_hands_and_turn_with_them(body_model, shapes, seed):
    posed = body_model.pose(shapes[seed], {}, {})
    points = KeypointRules(body_model).locate(shapes[seed], posed)
    gloves = Gloves(body_model)
    pair = gloves.wear(posed.vertices, np.random.default_rng(seed))
    assert len(pair) == 2 and pair[0].material == pair[1].material
    for glove, hand in zip(pair, (points[LEFT], points[RIGHT]), strict=True):
        corner = np.unique(glove.index)
        cloth = glove.positions[corner[glove.inside[corner] > 0]]
        far = [np.linalg.norm(cloth - point, axis=1).min() for point in hand[1:]]
        assert max(far) < 0.35  # around every joint
        beyond = np.linalg.norm(cloth - hand.mean(0), axis=1).max()
        assert beyond < np.linalg.norm(hand - hand.mean(0), axis=1).max() + CUFF + 0.5  # and nowhere else
    rotation, shift = turn(np.array((1.0, 2, 3)), 2.1), np.array((5.0, -3, 40))
    moved = gloves.wear(posed.vertices @ rotation.T + shift, np.random.default_rng(seed))
    for still, other in zip(pair, moved, strict=True):
        np.testing.assert_allclose(still.positions @ rotation.T + shift, other.positions, atol=1e-6)
