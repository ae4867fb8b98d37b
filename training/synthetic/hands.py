"""What hands do: relaxed and gripping ones, gestures, a thumb that meets a fingertip.

Whoever photographs a hand alone mostly shows a sign, a count or a fine grip, and fingers that all curl alike look like
none of them. Angles are radians about the joints of the body's rig, positive toward the palm; a finger has three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .body import Local, Shape
from .rotations import turn, unit

# Share, curl of the joints, spread between fingers, curl of the thumb.
STYLES = {
    "relaxed": (0.32, (0.30, 0.45, 0.25), 0.10, 0.2),
    "open": (0.13, (-0.02, 0.06, 0.04), 0.15, -0.1),
    "grip": (0.11, (0.75, 0.85, 0.50), 0.15, 0.4),
    "fist": (0.10, (1.30, 1.55, 0.90), 0.10, 0.7),
    "loose": (0.12, (0.50, 0.60, 0.40), 0.45, 0.3),
    "gesture": (0.13, None, 0.0, 0.0),
    "pinch": (0.09, None, 0.0, 0.0),
}
FIST = np.array(STYLES["fist"][1])
# Share, how far index, middle, ring and little finger are curled (1: fist), place of the thumb.
GESTURES = {
    "pointing": (0.16, (0, 1, 1, 1), "over"),
    "L": (0.06, (0, 1, 1, 1), "out"),
    "victory": (0.16, (0, 0, 1, 1), "over"),
    "three": (0.05, (0, 0, 0, 1), "over"),
    "four": (0.06, (0, 0, 0, 0), "over"),
    "five": (0.14, (0, 0, 0, 0), "out"),
    "thumb up": (0.14, (1, 1, 1, 1), "out"),
    "horns": (0.04, (0, 1, 1, 0), "over"),
    "phone": (0.04, (1, 1, 1, 0), "out"),
    "any": (0.15, None, "any"),
}
THUMBS = {"out": ((-0.35, -0.15, -0.05), 0.3), "over": ((0.5, 0.55, 0.5), 0.6)}  # curl, and as `Hand.opposed`
# Where thumb and index, middle, ring or little finger meet: thumb, `Hand.opposed`, finger. Fitted to the rig with the
# least bending, pads 1.3 cm apart from bone to bone.
PINCHES = (
    ((0.24, 0.29, 0.42), 0.32, (0.61, 0.84, 0.44)),
    ((0.39, 0.38, 0.43), 0.32, (0.67, 0.89, 0.48)),
    ((0.52, 0.47, 0.46), 0.16, (0.67, 0.89, 0.48)),
    ((0.69, 0.59, 0.49), 0.02, (0.66, 0.87, 0.47)),
)
PINCHING = (0.62, 0.22, 0.09, 0.07)  # share of each of them


@dataclass(frozen=True)
class Hand:
    """Joint angles of one hand.

    Attributes:
        curl: (4, 3) of index, middle, ring and little finger.
        thumb: (3,) across the palm.
        opposed: how much of that is away from the palm, relative to what is along it.
        fan: between neighbouring fingers, positive spreads them.
        wrist: bend toward the palm, and sideways.
    """

    curl: np.ndarray
    thumb: np.ndarray
    opposed: float
    fan: float
    wrist: tuple[float, float]


def pick(table: dict[str, tuple], rng: np.random.Generator) -> str:
    """A key of a style table, drawn with the shares in its first column."""
    share = np.array([row[0] for row in table.values()])
    return list(table)[rng.choice(len(table), p=share / share.sum())]


def draw_hand(rng: np.random.Generator) -> Hand:
    """A random hand."""
    wrist = float(np.clip(rng.normal(0.1, 0.35), -1.0, 1.1)), float(np.clip(rng.normal(0, 0.17), -0.45, 0.45))
    style = pick(STYLES, rng)
    opposed, fan = 0.6, rng.normal(0.02, 0.06)
    if style == "gesture":
        _, curled, thumb = GESTURES[pick(GESTURES, rng)]
        if curled is None:  # neighbours move together, but not quite
            curled = np.clip(rng.uniform(-0.3, 1.2) + np.cumsum(rng.normal(0, 0.35, 4)), 0, 1)
            thumb = list(THUMBS)[rng.integers(len(THUMBS))]
        angles, opposed = THUMBS[thumb]
        curled = np.clip(np.abs(curled + rng.normal(0, 0.06, 4)), 0, 1.1)
        curl = curled[:, None] * FIST + rng.normal(0, 0.06, (4, 3))
        angles = angles + rng.normal(0, 0.1, 3)
        fan = rng.uniform(-0.02, 0.16)
    elif style == "pinch":
        finger = rng.choice(4, p=PINCHING)
        angles, opposed, meeting = PINCHES[finger]
        # From the sign for "okay" to the grip of a pen.
        curled = np.clip(rng.uniform(0, 0.8) + rng.normal(0, 0.08, 4) + 0.04 * np.arange(4), 0, 1)
        curl = curled[:, None] * FIST + rng.normal(0, 0.05, (4, 3))
        curl[finger] = meeting + rng.normal(0, 0.03, 3)
        angles = angles + rng.normal(0, 0.03, 3)
    else:
        _, curl, spread, across = STYLES[style]
        # Of a relaxed hand the little finger is curled most.
        looseness = np.clip(rng.normal(1.0, spread, 4) + rng.normal(0.06, 0.1) * (np.arange(4) - 1.5), 0.2, 1.7)
        curl = looseness[:, None] * curl + rng.normal(0, 0.09, (4, 3))
        angles = across * np.array((0.5, 0.8, 0.8)) + rng.normal(0, 0.14, 3)
        opposed += rng.normal(0, 0.15)
    return Hand(np.clip(curl, -0.3, 1.8), np.asarray(angles), opposed, fan, wrist)


def pose_hand(local: Local, hand: Hand, shape: Shape, bone: dict[str, int], side: str, sign: float) -> None:
    """Put `hand` into the pose `local`; the wrist bends beyond what is there.

    The axes come from the rest pose, where palms face down and inward.

    Args:
        bone: numbers of the bones, `BodyModel.bone`.
        side, sign: "L" and 1 or "R" and -1.
    """
    wrist = shape.heads[bone[f"wrist.{side}"]]
    index, little = (shape.heads[bone[f"finger{k}-1.{side}"]] - wrist for k in (2, 5))
    palm = unit(np.cross(index, little)) * -sign
    bend = turn(np.cross(index + little, palm), hand.wrist[0]) @ turn(palm, sign * hand.wrist[1])
    local[f"wrist.{side}"] = local.get(f"wrist.{side}", np.eye(3)) @ bend
    inward = unit(little - index) + hand.opposed * palm
    for finger in range(1, 6):
        for joint in range(3):
            name = f"finger{finger}-{joint + 1}.{side}"
            direction = shape.tails[bone[name]] - shape.heads[bone[name]]
            if finger == 1:
                local[name] = turn(np.cross(direction, inward), hand.thumb[joint])
                continue
            local[name] = turn(np.cross(direction, palm), hand.curl[finger - 2, joint])
            if joint == 0:
                local[name] = turn(palm, sign * (3.5 - finger) * hand.fan) @ local[name]
