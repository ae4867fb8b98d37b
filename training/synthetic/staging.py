"""Where the people of a scene stand, and where the camera is.

World space: decimetres, Y up, the ground is Y = 0, the first person (the subject) stands at the origin, the camera
looks along -Z before it is tilted. A framing says what of the subject fills the picture; the others stand close to it,
touching and covering each other, or are scattered over the whole depth of the view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dwpose_core.skeleton import PARTS

from .camera import Camera, draw_yaw
from .items import Item
from .rotations import X, Y, Z, turn

PEOPLE = (0.04, 0.34, 0.23, 0.15, 0.10, 0.08, 0.06)  # share of scenes with 0, 1, ... people
ASPECTS = {4 / 3: 0.3, 3 / 2: 0.14, 16 / 9: 0.12, 1.0: 0.1, 3 / 4: 0.18, 2 / 3: 0.1, 9 / 16: 0.06}
# What of the subject is framed, and the least and greatest share of the picture that it fills.
FRAMINGS = {
    "far": (0.13, 0.06, 0.3),
    "full": (0.38, 0.3, 1.05),
    "half": (0.24, 0.55, 1.05),
    "bust": (0.14, 0.45, 1.0),
    "face": (0.07, 0.25, 0.8),
    "hand": (0.04, 0.15, 0.5),
}
CLEAR = 2.5  # dm between the camera plane and the nearest vertex of anybody
FARTHEST = 250.0  # dm from the camera to anybody
SHOULDER_WIDTH = 3.2  # dm between the middles of two people who stand close
ROOMY = 15.0  # dm; who could disappear in a thing that is longer, a car for one, does not stand there
HERE = np.zeros((1, 3))  # what of the ground is covered by who stands on it


@dataclass(frozen=True)
class Plan:
    """What is decided about a scene before anybody is drawn."""

    people: int
    size: tuple[int, int]  # (width, height) px
    framing: str
    close: bool  # the others stand by the subject, not scattered


def draw_plan(rng: np.random.Generator, longest: int) -> Plan:
    """A random plan; `longest` is the longer side of the picture in pixels."""
    aspect = list(ASPECTS)[rng.choice(len(ASPECTS), p=list(ASPECTS.values()))]
    size = (longest, round(longest / aspect)) if aspect >= 1 else (round(longest * aspect), longest)
    framing = list(FRAMINGS)[rng.choice(len(FRAMINGS), p=[row[0] for row in FRAMINGS.values()])]
    return Plan(int(rng.choice(len(PEOPLE), p=PEOPLE)), size, framing, bool(rng.random() < 0.6))


def heading(rng: np.random.Generator) -> np.ndarray:
    """Rotation about Y of somebody in a scene; the camera looks along -Z."""
    return turn(Y, draw_yaw(rng))


def _framed(framing: str, skin: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if framing in ("far", "full"):
        return skin
    if framing == "half":
        return np.concatenate((points[PARTS["face"]], points[5:7], points[11:13], points[13:15][: rng.integers(3)]))
    if framing == "bust":
        return np.concatenate((points[PARTS["face"]], points[5:7]))
    return points[PARTS["face" if framing == "face" else rng.choice(("left_hand", "right_hand"))]]


def place_camera(
    plan: Plan, skin: np.ndarray | None, points: np.ndarray | None, rng: np.random.Generator
) -> tuple[Camera, float]:
    """The camera and its distance (dm) from what it is aimed at.

    Args:
        skin, points: (n, 3) and (133, 3) of the subject in the world; None in an empty scene.
    """
    width, height = plan.size
    half = np.tan(np.exp(rng.uniform(np.log(20.0), np.log(80.0))) * np.pi / 360)  # of the longer side
    half_width, half_height = half * width / max(plan.size), half * height / max(plan.size)
    pitch = rng.normal(0.08, 0.16) if rng.random() < 0.72 else rng.uniform(-0.5, 1.2)
    roll = rng.normal(0, 0.03) if rng.random() < 0.9 else rng.normal(0, 0.3)
    _, least, most = FRAMINGS[plan.framing]
    share = np.exp(rng.uniform(np.log(least), np.log(most)))
    framed = np.array(((-4.0, 0, 0), (4, 17, 0))) if skin is None else _framed(plan.framing, skin, points, rng)
    low, high = framed.min(0), framed.max(0)
    aim, extent = (low + high) / 2, np.maximum(high - low, 0.3)
    distance = max(extent[1] / (2 * half_height), np.hypot(extent[0], extent[2]) / (2 * half_width)) / share
    distance = min(distance, FARTHEST)
    lowest_eye = rng.uniform(0.5, 3.0)
    # The camera's height is that of the aim plus sin(pitch) * distance; it stays above the ground.
    pitch = max(pitch, np.arcsin(np.clip((lowest_eye - aim[1]) / distance, -1, 1)))
    rotation = turn(Z, roll) @ turn(X, pitch)
    shift = np.array((0.0, 0.0, -distance)) - rotation @ aim
    if plan.framing != "hand":  # off the centre where there is room
        room = np.array((half_width, half_height)) * distance * (1 - np.minimum(share, 0.95))
        shift[:2] += rng.uniform(-1, 1, 2) * room * (1.0, 0.6)
    for _ in range(4):  # away from the body, then up from the ground again
        if skin is not None:
            nearest = -(skin @ rotation.T + shift)[:, 2].max()
            shift[2] -= max(0.0, CLEAR - nearest)
        eye = -rotation.T @ shift
        shift -= rotation @ Y * max(0.0, lowest_eye / 2 - eye[1])
    return Camera(rotation, shift, (-half_width, half_width, -half_height, half_height)), float(distance)


def place_another(
    plan: Plan,
    taken: list[np.ndarray],
    camera: Camera,
    distance: float,
    rng: np.random.Generator,
    covered: np.ndarray = HERE,
) -> np.ndarray:
    """Ground position (3,) of somebody beside those who stand at `taken`.

    Args:
        covered: (n, 3) where on the ground they are, from that position; more than it for who rides.
    """
    eye = -camera.rotation.T @ camera.shift
    for _attempt in range(12):
        if plan.close:
            beside = taken[rng.integers(len(taken))]
            place = beside + turn(Y, rng.uniform(-np.pi, np.pi)) @ Z * rng.uniform(SHOULDER_WIDTH, 9.0)
        else:
            depth = np.exp(rng.uniform(np.log(max(6.0, 0.5 * distance)), np.log(min(FARTHEST, 3 * distance + 40))))
            across = camera.window[1] * depth * rng.uniform(-1.05, 1.05)
            place = np.array((eye[0] + across, 0.0, eye[2] - depth))
        if apart(place + covered, taken) >= SHOULDER_WIDTH * 0.9:
            break
    return place


def apart(places: np.ndarray, others: list[np.ndarray]) -> float:
    """dm from the nearest of `places` (n, 3) to the nearest of `others`, (3,) each."""
    return min((float(np.linalg.norm(places - other, axis=1).min()) for other in others), default=np.inf)


def footprint(cloud: np.ndarray) -> np.ndarray:
    """(n, 3) points of the ground, a shoulder's width apart, below points (m, 3)."""
    return np.unique(np.round(cloud * (1, 0, 1) / SHOULDER_WIDTH), axis=0) * SHOULDER_WIDTH


def beyond_camera(positions: np.ndarray, camera: Camera) -> bool:
    """Whether something reaches so near to the camera plane that it cannot be drawn."""
    return bool(camera.project(positions)[1].min() < CLEAR)


def swallows(thing: list[Item], skins: list[np.ndarray]) -> bool:
    """Whether a `thing` longer than `ROOMY` has some of the points (n, 3) over the ground that it covers."""
    cloud = np.concatenate([item.positions for item in thing])[:, [0, 2]]
    low, high = cloud.min(0), cloud.max(0)
    inside = (((skin[:, [0, 2]] > low) & (skin[:, [0, 2]] < high)).all(1).any() for skin in skins)
    return (high - low).max() > ROOMY and any(inside)
