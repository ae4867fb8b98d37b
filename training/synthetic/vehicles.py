"""Cars, vans and bicycles: what streets are full of, and people stand before. At the origin, ahead is +X; dm, Y up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .rotations import X, Y, Z, turn
from .solids import Part, Solid, ball, box, revolved, slab, torus, tube

PAINT, GLASS, RUBBER, METAL = range(4)  # material numbers


def vehicle(rng: np.random.Generator) -> Iterator[Part]:
    """Parts of a random car, van or lorry, or of a bicycle or motorcycle."""
    for solids, shift, material in car(rng) if rng.random() < 0.5 else bicycle(rng):
        yield solids, np.eye(3), np.asarray(shift, float), material


def car(rng: np.random.Generator) -> Iterator[tuple[list[Solid], np.ndarray, int]]:
    """(surfaces, shift, material)."""
    long, wide, radius = rng.uniform(34, 52), rng.uniform(15, 19), rng.uniform(2.8, 3.8)
    floor, belt = rng.uniform(2, 3.5), rng.uniform(7.5, 10.5)  # the belt is where windows begin
    roof = belt + rng.uniform(4.5, 6.5)
    front, back, van = long / 2, -long / 2, rng.random() < 0.35
    hood = rng.uniform(0.02, 0.1) if van else rng.uniform(0.2, 0.32)
    screen = front - long * hood  # foot of the windscreen
    trunk = back + long * (0.0 if van else rng.uniform(0.0, 0.2))
    nose = belt * rng.uniform(0.75, 0.95)
    body = ((back, floor), (front - 0.5, floor), (front, nose * 0.6), (front - 1, nose), (screen, belt), (back, belt))
    yield slab(np.array(body), wide), (0, 0, 0), PAINT
    lean, rear = rng.uniform(2, 7), rng.uniform(0.3, 4)
    cabin = np.array(((trunk, belt), (screen, belt), (screen - lean, roof), (trunk + rear, roof)))
    yield slab(cabin, wide * 0.9), (0, 0, 0), PAINT if van and rng.random() < 0.5 else GLASS
    top = (cabin[2, 0] - cabin[3, 0], rng.uniform(0.4, 0.8), wide * 0.92)
    yield box(np.array(top)), ((cabin[2, 0] + cabin[3, 0]) / 2, roof, 0), PAINT
    for share in (0.0, rng.uniform(0.35, 0.6), 1.0):  # pillars between the windows
        low, high = cabin[0] + share * (cabin[1] - cabin[0]), cabin[3] + share * (cabin[2] - cabin[3])
        for side in (-1, 1):
            path = np.array(((*low, side * wide * 0.45), (*high, side * wide * 0.45)))
            yield [tube(path, rng.uniform(0.3, 0.6), 4)], (0, 0, 0), PAINT
    upright = turn(X, np.pi / 2)
    for x in (back + long * rng.uniform(0.14, 0.22), front - long * rng.uniform(0.14, 0.2)):
        for side in (-1, 1):
            for material, share, thick in ((RUBBER, 1.0, 1.0), (METAL, rng.uniform(0.55, 0.75), 1.06)):
                disc = revolved(np.array((0, 1, 1, 0)) * radius * share, np.array((-1, -1, 1, 1)) * thick)
                disc.points, disc.normals = disc.points @ upright.T, disc.normals @ upright.T
                yield [disc], (x, radius, side * (wide / 2 - 0.7)), material
    for side in (-1, 1):
        for x, material in ((front - 0.4, METAL), (back + 0.1, RUBBER)):
            lamp = np.array((0.8, rng.uniform(0.8, 1.6), rng.uniform(1.5, 3)))
            yield box(lamp), (x, nose * 0.75, side * wide * 0.36), material


def wheel(radius: float, rng: np.random.Generator, tyre: tuple[float, float] = (0.1, 0.25)) -> list[Solid]:
    """A tyre with spokes about Z, centred, dm."""
    angle = np.linspace(0, 2 * np.pi, 33)[:, None]
    ring = np.concatenate((np.cos(angle), np.sin(angle), 0 * angle), axis=1)
    rods = [torus(radius, rng.uniform(*tyre)), torus(radius * 0.9, 0.06)]
    spokes = int(rng.integers(3, 9))
    return rods + [tube(np.stack((ring[k], -ring[k])) * radius * 0.95, 0.05) for k in range(0, 16, 16 // spokes)]


def bicycle(rng: np.random.Generator) -> Iterator[tuple[list[Solid], np.ndarray, int]]:
    """(surfaces, shift, material); a third are motorcycles, with fat tyres and a tank."""
    heavy = rng.random() < 0.33
    radius, apart = rng.uniform(2.8, 3.5), rng.uniform(4.8, 5.6) * (1.25 if heavy else 1.0)
    rear, ahead = np.array((-apart, radius, 0)), np.array((apart, radius, 0))
    for hub in (rear, ahead):
        yield wheel(radius, rng, (0.5, 0.9) if heavy else (0.15, 0.3)), hub, RUBBER
    rod = rng.uniform(0.3, 0.5) if heavy else rng.uniform(0.12, 0.22)
    crank = np.array((-0.5, radius * rng.uniform(0.75, 1.0), 0))
    saddle = np.array((-apart * 0.45, radius * rng.uniform(2.0, 2.7), 0))
    steer = np.array((apart * 0.7, radius * rng.uniform(2.2, 2.9), 0))
    head = steer + 0.3 * (ahead - steer)
    for ends in (
        (rear, crank),
        (rear, saddle),
        (crank, saddle),
        (saddle, head),
        (crank, head),
        (head, ahead),
        (steer, head),
    ):
        yield [tube(np.stack(ends), rod)], (0, 0, 0), PAINT
    half = rng.uniform(2.2, 3.4)
    back = rng.uniform(-0.5, 1.5)
    grips = np.stack((steer - back * X - half * Z, steer, steer - back * X + half * Z))
    yield [tube(grips, rod * 0.9)], (0, 0, 0), METAL
    yield [ball(1.0, (1.5 if not heavy else 3.0, 0.35, 0.9))], saddle + 0.4 * Y, RUBBER
    if heavy:
        yield [ball(1.0, (2.3, 1.1, 1.2))], (saddle + head) / 2 + 0.6 * Y, PAINT
        yield box(np.array((3.0, 2.6, 2.0))), crank + 0.5 * Y, METAL
        yield [tube(np.stack((crank, rear + 0.8 * Z - 0.5 * Y)), 0.4)], (0, 0, 0), METAL
    else:
        for side in (-1, 1):
            pedal = crank + side * (1.2 * Z + 1.4 * Y)
            yield [tube(np.stack((crank + side * 0.6 * Z, pedal - side * 0.6 * Z)), 0.1)], (0, 0, 0), METAL
            yield box(np.array((1.0, 0.2, 0.8))), pedal, RUBBER
