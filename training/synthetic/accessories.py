"""What people wear on top, made from simple geometry at their keypoints: glasses, backpacks, bags.

Everything is placed on the posed body (world space, dm), so it needs no rig. Scenes use it, and layers on request.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dwpose_core.skeleton import PARTS

from .fabrics import random_cloth, random_color
from .items import Item, Material
from .props import solid_items
from .rotations import Y, frame, unit
from .solids import Solid, tube

GLASSES, SUNGLASSES = 0.2, 0.3  # share of people who wear glasses, share of those that are dark
BACKPACK, BAG = 0.07, 0.07
RIM_SHAPES = (1.0, 0.8, 0.55, 0.4)  # exponent of a superellipse: round ... nearly rectangular
WIDE, TALL = 0.29, 0.22  # dm; half of a glass, at eyes EYE_GAP apart
EYE_GAP = 0.62
AHEAD = 0.16  # dm from the corner points of the eyes to the glass


def cushion(size: np.ndarray, exponent: float) -> Solid:
    """A box with round edges, centred, size (3,) in dm."""

    def power(values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.abs(values) ** exponent

    v, u = np.meshgrid(np.linspace(-np.pi / 2, np.pi / 2, 13), np.linspace(np.pi, -np.pi, 25), indexing="ij")
    shape = np.stack((power(np.cos(v)) * power(np.cos(u)), power(np.sin(v)), power(np.cos(v)) * power(np.sin(u))), -1)
    return Solid(shape * size / 2)


def glasses(points: np.ndarray, rng: np.random.Generator) -> list[Item]:
    """Rims, bridge, temples and glass from the eyes to the ears of keypoints (133, 3)."""
    face = points[PARTS["face"]]
    right_eye, left_eye = face[36:42].mean(0), face[42:48].mean(0)
    gap = np.linalg.norm(left_eye - right_eye)
    axes = frame(left_eye - right_eye, face[27] - face[8])  # to the person's left, up, ahead
    across, up, ahead = axes.T
    scale = gap / EYE_GAP * rng.uniform(0.9, 1.25)
    wide, tall = scale * WIDE, scale * TALL * rng.uniform(0.75, 1.35)
    exponent = RIM_SHAPES[rng.integers(len(RIM_SHAPES))]
    angle = np.linspace(0, 2 * np.pi, 29)
    outline = np.stack((np.cos(angle), np.sin(angle)), 1)
    outline = np.sign(outline) * np.abs(outline) ** exponent * (wide, tall)
    radius = rng.uniform(0.012, 0.045) * scale
    solids, lenses = [], []
    rims = []
    for eye in (right_eye, left_eye):
        centre = eye + ahead * AHEAD * gap / EYE_GAP - up * 0.15 * tall
        rim = centre + outline[:, :1] * across + outline[:, 1:] * up
        rims.append(rim)
        solids.append(tube(rim, radius))
        lenses.append(Solid(np.stack((rim, np.broadcast_to(centre, rim.shape)))))
    inner = rims[0][0], rims[1][14]  # facing sides of the two rims
    middle = (inner[0] + inner[1]) / 2 + 0.06 * up
    solids.append(tube(np.stack((inner[0], middle, inner[1])), radius))
    for rim, edge, ear in ((rims[0], 14, points[4]), (rims[1], 0, points[3])):
        hinge = rim[edge] + 0.3 * tall * up
        side = unit(hinge - rim.mean(0))
        over_ear = ear + 0.25 * tall * up + 0.1 * side
        solids.append(tube(np.stack((rim[edge], hinge, over_ear)), radius))
    still = np.eye(3)
    metal = Material(plain=tuple(random_color(rng) * rng.uniform(0.05, 1)), shine=rng.uniform(0.05, 0.6))
    dark = rng.random() < SUNGLASSES
    tint = tuple(random_color(rng) * 0.1) if dark else (0.8, 0.85, 0.9)
    opacity = rng.uniform(0.8, 1.0) if dark else rng.uniform(0.02, 0.2)
    glass = Material(plain=tint, shine=rng.uniform(0.2, 1.0), translucent=True, opacity=opacity)
    return solid_items([(solids, still, np.zeros(3), 0), (lenses, still, np.zeros(3), 1)], [metal, glass])


def _torso(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Axes (columns: to the person's left, up, ahead), middle of the shoulders, and length down to the hips."""
    shoulders, hips = points[5:7].mean(0), points[11:13].mean(0)
    axes = frame(shoulders - hips, points[5] - points[6])[:, (1, 0, 2)]
    axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
    return axes, shoulders, float(np.linalg.norm(shoulders - hips))


def backpack(points: np.ndarray, skin: np.ndarray, rng: np.random.Generator) -> list[Item]:
    """A rucksack on the back, with straps over the shoulders."""
    axes, shoulders, length = _torso(points)
    local = (skin - shoulders) @ axes
    trunk = (np.abs(local[:, 0]) < 1.0) & (local[:, 1] < 0) & (local[:, 1] > -length)
    back, front = local[trunk, 2].min(), local[trunk, 2].max()
    size = np.array((rng.uniform(2.2, 3.4), rng.uniform(0.6, 1.0) * length, rng.uniform(1.0, 2.2)))
    centre = np.array((0.0, -0.5 * size[1] + 0.3, back - size[2] / 2 - 0.1))
    parts = [([cushion(size, 0.45)], axes, shoulders + axes @ centre, 0)]
    for side in (-1, 1):
        x = side * rng.uniform(0.8, 1.1)
        path = np.array(
            ((x, 0.2, back - 0.2), (x, 0.75, back * 0.3), (x, 0.55, front * 0.8), (x, -1.2, front + 0.15), (x, -3, 0.2))
        )
        parts.append(([tube(shoulders + path @ axes.T, 0.16)], np.eye(3), np.zeros(3), 1))
    cloth = random_cloth(rng)
    return solid_items(parts, [replace(cloth, folds=(0.0, 1.0)), random_cloth(rng)])


def bag(points: np.ndarray, rng: np.random.Generator) -> list[Item]:
    """A bag that hangs straight down from one hand."""
    grip = points[PARTS["left_hand" if rng.random() < 0.5 else "right_hand"]][[5, 9, 13, 17, 6, 10]].mean(0)
    size = np.array((rng.uniform(1.5, 4.5), rng.uniform(1.2, 4.0), rng.uniform(0.5, 1.6)))
    drop = rng.uniform(0.6, 2.0)
    heading = frame(Y, rng.normal(size=3) * (1, 0, 1))[:, (1, 0, 2)]
    angle = np.linspace(0, np.pi, 9)
    handle = np.stack((np.cos(angle) * size[0] / 4, np.sin(angle) * drop - drop, 0 * angle), 1)
    parts = [
        ([cushion(size, rng.uniform(0.2, 0.7))], heading, grip - Y * (drop + size[1] / 2), 0),
        ([tube(grip + handle @ heading.T, 0.08)], np.eye(3), np.zeros(3), 1),
    ]
    return solid_items(parts, [random_cloth(rng), random_cloth(rng)])


def accessories(points: np.ndarray, skin: np.ndarray, rng: np.random.Generator) -> list[Item]:
    """Random things on a posed person, to be drawn last: mostly nothing.

    Args:
        points: (133, 3) keypoints, dm.
        skin: (n, 3) vertices of the posed skin, dm.
    """
    items = []
    if rng.random() < BACKPACK:
        items += backpack(points, skin, rng)
    if rng.random() < BAG:
        items += bag(points, rng)
    if rng.random() < GLASSES:
        items += glasses(points, rng)
    return items
