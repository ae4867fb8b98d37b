"""People who have to do with each other: an arm around a shoulder, hands held, somebody steadied or greeted.

Who photographs several people mostly photographs that, and arms that end on somebody else are what a pose network
mixes up. One person is posed and stands somewhere; the other is placed by them and brings one or both hands to them
(`PoseSampler.reach`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dwpose_core.skeleton import PARTS

from .hands import pick
from .rotations import Y, turn, unit

TOGETHER = 0.45  # of the people who are put close to somebody
HIPS, SHOULDERS, ELBOWS = (11, 12), (5, 6), (7, 8)  # left, right
# Share, where one stands (beside, ahead) of the other, least and most in dm, the turn toward them in degrees, which
# hand, and where it goes. "near" is the hand, and the side of the other, that are next to each other.
KINDS = {
    "arm around": (0.3, (3.8, 5.0), (-0.6, 0.3), 0, "near", "far shoulder"),
    "arm in back": (0.14, (3.8, 5.0), (-0.8, 0.2), 0, "near", "far waist"),
    "arm in arm": (0.1, (3.8, 4.8), (-0.4, 0.5), 0, "near", "near elbow"),
    "hand in hand": (0.16, (4.4, 6.4), (-1.0, 1.5), 0, "near", "near hand"),
    "greeting": (0.1, (-1.5, 1.5), (5.0, 7.5), 180, "any", "opposite shoulder"),
    "shaking hands": (0.06, (-1.0, 1.0), (6.0, 8.0), 180, "R", "right hand"),
    "embrace": (0.06, (-0.6, 0.6), (3.3, 4.1), 180, "both", "back"),
    "behind": (0.08, (-1.4, 1.4), (-4.8, -3.8), 0, "both", "both shoulders"),
}
OFF_GROUND = 0.8  # dm below toes and heels
LEVEL = 2.5  # dm between the shoulders of two who meet
TURNED = 16.0  # degrees, the spread of that turn


@dataclass(frozen=True)
class Meeting:
    """What somebody does with somebody else.

    Attributes:
        place: where they stand, (3,) dm on the ground.
        spin: how they are turned, (3, 3).
        wrists: where those go, side ("L", "R") -> (3,) dm in the world.
        shoulders: height of the other's, dm.
    """

    place: np.ndarray
    spin: np.ndarray
    wrists: dict[str, np.ndarray]
    shoulders: float

    def suits(self, points: np.ndarray) -> bool:
        """Whether somebody posed like `points` (133, 3), heels or toes lowest, can do it: upright and as high."""
        height = points[list(SHOULDERS), 1].mean() - points[PARTS["foot"], 1].min()
        return faces(points) is not None and abs(height - self.shoulders) < LEVEL


def faces(points: np.ndarray) -> np.ndarray | None:
    """Where the trunk of a person of 133 `points` (133, 3) looks, horizontally; None for one who is not upright."""
    trunk = points[list(SHOULDERS)].mean(0) - points[list(HIPS)].mean(0)
    across = (points[5] - points[6] + points[11] - points[12]) * (1, 0, 1)
    if trunk @ Y < 0.75 * np.linalg.norm(trunk) or np.linalg.norm(across) < 0.5:
        return None
    return np.cross(unit(across), Y)


def draw_meeting(points: np.ndarray, rng: np.random.Generator) -> Meeting | None:
    """What somebody does with the person of `points` (133, 3) in the world; None for who lies, tumbles or jumps."""
    ahead = faces(points)
    if ahead is None or points[PARTS["foot"], 1].min() > OFF_GROUND:
        return None
    _, beside, before, turned, hand, goal = KINDS[pick(KINDS, rng)]
    left = np.cross(Y, ahead)
    side = 1 if rng.random() < 0.5 else -1  # 1: on the other's left
    if hand == "near":  # their right hand is next to whom they stand left of
        hands = ["R" if side > 0 else "L"]
    else:
        hands = ["L", "R"] if hand == "both" else ["LR"[rng.integers(2)] if hand == "any" else hand]
    hips = points[list(HIPS)].mean(0) * (1, 0, 1)
    place = hips + left * side * rng.uniform(*beside) + ahead * rng.uniform(*before)
    heading = np.arctan2(ahead[0], ahead[2]) + np.deg2rad(rng.normal(turned, TURNED))
    wrists = {name: _goal(goal, points, ahead, left, side, name) + rng.normal(0, 0.3, 3) for name in hands}
    return Meeting(place, turn(Y, heading), wrists, points[list(SHOULDERS), 1].mean())


def _goal(goal: str, points: np.ndarray, ahead: np.ndarray, left: np.ndarray, side: int, hand: str) -> np.ndarray:
    """Where a wrist goes, (3,), a hand's length short of what the hand lies on; names as in KINDS."""
    near, far = (0, 1) if side > 0 else (1, 0)
    opposite = 1 if hand == "L" else 0  # of who stands face to face
    if goal == "far shoulder":
        return points[SHOULDERS[far]] - ahead * 1.1 + left * side * 0.5
    if goal == "far waist":
        waist = 0.7 * points[HIPS[far]] + 0.3 * points[SHOULDERS[far]]
        return waist - ahead * 1.2 + left * side * 0.9
    if goal == "near elbow":
        return points[ELBOWS[near]] + left * side * 0.3 + ahead * 0.6
    if goal == "near hand":
        return points[PARTS["left_hand" if near == 0 else "right_hand"]][9] + Y * 0.9 + left * side * 0.3
    if goal == "opposite shoulder":
        return points[SHOULDERS[opposite]] + Y * 0.5 + ahead * 1.0
    if goal == "right hand":
        return points[PARTS["right_hand"]][9] + ahead * 0.9
    if goal == "back":
        return points[SHOULDERS[opposite]] - Y * 1.0 - ahead * 1.3
    return points[SHOULDERS[0 if hand == "L" else 1]] + Y * 0.5 - ahead * 0.9
