"""Surfaces that things are built of, in decimetres: boxes, turned profiles, rods, outlines with a thickness."""

from __future__ import annotations

import numpy as np

from .rotations import X, Y, frame, turn, unit


class Solid:
    """A closed surface as a grid over (u, v): positions (rows, columns, 3) in dm, folded into triangles."""

    def __init__(self, points: np.ndarray):
        rows, columns = points.shape[:2]
        self.points = points.reshape(-1, 3)
        corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
        quads = np.stack((corner, corner + 1, corner + columns + 1, corner + columns), axis=1)
        self.index = np.concatenate((quads[:, (0, 1, 2)], quads[:, (0, 2, 3)])).astype(np.int32)
        across = np.gradient(points, axis=1)
        down = np.gradient(points, axis=0)
        normals = np.cross(across, down).reshape(-1, 3)
        self.normals = normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-6)
        v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
        self.uv = np.stack((u, v), axis=-1).reshape(-1, 2)


Part = tuple[list[Solid], np.ndarray, np.ndarray, int]  # surfaces, rotation (may stretch), shift, material number


def revolved(radii: np.ndarray, heights: np.ndarray, sides: int = 20) -> Solid:
    """A profile turned about Y: cylinders, cones, balls, vases."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    x, z = radii[:, None] * np.cos(angle), radii[:, None] * np.sin(angle)
    return Solid(np.stack((x, np.broadcast_to(heights[:, None], x.shape), z), axis=-1))


def tube(path: np.ndarray, radius: float | np.ndarray, sides: int = 6) -> Solid:
    """A round rod along a polyline (n, 3), of one radius or one for each point."""
    along = np.gradient(path, axis=0)
    rings = []
    for point, direction, wide in zip(path, along, np.broadcast_to(radius, len(path)), strict=True):
        axes = frame(direction, Y if abs(unit(direction) @ Y) < 0.9 else np.array((1.0, 0, 0)))
        angle = np.linspace(0, 2 * np.pi, sides + 1)[:, None]
        rings.append(point + wide * (np.cos(angle) * axes[:, 1] + np.sin(angle) * axes[:, 2]))
    return Solid(np.stack(rings))


def box(size: np.ndarray) -> list[Solid]:
    """Six faces, so that edges stay sharp. Centred, size (3,) in dm."""
    face = np.array((((-1, 1, 1), (1, 1, 1)), ((-1, -1, 1), (1, -1, 1)))) * 0.5
    turns = [turn(Y, a) for a in (0, np.pi / 2, np.pi, -np.pi / 2)] + [turn(X, a) for a in (np.pi / 2, -np.pi / 2)]
    return [Solid((face @ rotation.T) * size) for rotation in turns]


def ball(radius: float, stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Solid:
    """Centred, its poles on Y."""
    t = np.linspace(0, np.pi, 12)
    solid = revolved(np.sin(t) * radius, -np.cos(t) * radius)
    solid.points = solid.points * stretch
    solid.normals = solid.normals / stretch
    return solid


def torus(radius: float, thick: float) -> Solid:
    """A ring about Z; `thick` is the radius of its rod."""
    t = np.linspace(0, 2 * np.pi, 9)
    ring = revolved(radius + thick * np.cos(t), thick * np.sin(t), 32)
    ring.points, ring.normals = (array[:, (0, 2, 1)] * (1, -1, 1) for array in (ring.points, ring.normals))
    return ring


def slab(outline: np.ndarray, thick: float) -> list[Solid]:
    """An outline (n, 2) in x and y, anticlockwise, every point of which its middle sees, and `thick` along z."""
    rim = np.column_stack((outline, np.zeros(len(outline))))[np.arange(len(outline) + 1) % len(outline)]
    half = np.array((0, 0, thick / 2))
    # Every edge by itself, so that it stays sharp.
    surfaces = [Solid(np.stack((rim[k : k + 2] - half, rim[k : k + 2] + half))) for k in range(len(outline))]
    middle = np.broadcast_to((*outline.mean(0), 0.0), rim.shape)
    for side in (1, -1):
        face = Solid(np.stack((rim, middle)[::side]) + side * half)
        face.normals = np.broadcast_to((0.0, 0.0, side), face.normals.shape)  # the middle has no own
        surfaces.append(face)
    return surfaces


def random_primitive(rng: np.random.Generator) -> list[Solid]:
    """One of box (six faces), cylinder or cone, ball or egg, vase; about 1 dm in size."""
    kind = rng.integers(4)
    if kind == 0:
        return box(np.ones(3))
    if kind == 1:
        top = rng.choice((0.0, rng.random(), 1.0))
        return [revolved(np.array((0, 1, top, 0)) * 0.5, np.array((-0.5, -0.5, 0.5, 0.5)))]
    if kind == 2:
        return [ball(0.5)]
    t = np.linspace(0, np.pi, 12)
    return [revolved(np.sin(t) * (0.3 + 0.2 * np.sin(t * rng.uniform(1, 4) + rng.uniform(0, 6))), -np.cos(t) * 0.5)]
