"""Animals on four legs, and stuffed ones: what is soft, has limbs and a head, and is no person.

In photographs of COCO a detector trained without them drew its boxes around rider and horse, and around a dog at a
table. They stand at the origin and look to +X; decimetres, Y up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .fabrics import random_cloth
from .items import Material
from .rotations import X, Y, Z, turn
from .solids import Part, Solid, ball, tube

POSTURES = ("stand", "stand", "stand", "sit", "lie")
STUFFED = 0.2  # of the animals
NATURAL = 0.8  # of the coats are black, grey, brown or white
COAT, SECOND = 0, 1  # material numbers


def animal(rng: np.random.Generator) -> Iterator[Part]:
    """Parts of a random animal, from a cat to a horse, or of a stuffed one that sits."""
    for solids, material in stuffed(rng) if rng.random() < STUFFED else four_legged(rng):
        yield solids, np.eye(3), np.zeros(3), material


def coat(material: Material, rng: np.random.Generator) -> Material:
    """What an animal wears: mostly natural colours, plain or in the pattern of a cloth, otherwise `material`."""
    if rng.random() > NATURAL:
        return material

    def fur() -> tuple[float, ...]:
        warm = rng.uniform(0, 1) ** 2
        red = np.exp(rng.uniform(np.log(0.01), np.log(0.75)))
        return (red, red * (1 - warm * rng.uniform(0.2, 0.5)), red * (1 - warm * rng.uniform(0.5, 0.85)))

    return replace(random_cloth(rng), plain=fur(), weave_color=fur())


def bent(points: np.ndarray, count: int = 7) -> np.ndarray:
    """A smooth path (count, 3) from the first of three points past the second to the third (a parabola)."""
    t = np.linspace(0, 1, count)[:, None]
    first, middle, last = points
    return first * (1 - t) ** 2 + (4 * middle - first - last) * t * (1 - t) + last * t**2


def four_legged(rng: np.random.Generator, mount: bool = False) -> Iterator[tuple[list[Solid], int]]:
    """(surfaces, material): trunk, legs, neck, head with ears and at times horns, tail.

    A `mount` stands and is large enough to be ridden; its back is above the origin.
    """
    long = np.exp(rng.uniform(np.log(12 if mount else 4), np.log(16)))  # of the trunk
    girth, leg = long * rng.uniform(0.16, 0.26), long * rng.uniform(0.3, 0.8)
    posture = "stand" if mount else POSTURES[rng.integers(len(POSTURES))]
    hips = np.array((-long / 2, leg + girth * 0.5 if posture == "stand" else girth * 0.85, 0))
    rise = rng.uniform(0.7, 1.2) if posture == "sit" else rng.normal(0, 0.06)
    shoulders = hips + long * (np.cos(rise) * X + np.sin(rise) * Y)
    sag = (hips + shoulders) / 2 + rng.normal(0, 0.05) * long * Y
    t = np.linspace(0, 1, 11)
    profile = np.sin(np.pi * (0.06 + 0.88 * t)) ** 0.45 * (1 + rng.normal(0, 0.12) * np.sin(2 * np.pi * t))
    profile[[0, -1]] = 0
    spine = bent(np.stack((hips - girth * 0.5 * X, sag, shoulders + girth * 0.5 * X)), 11)
    yield [tube(spine, girth * profile, 12)], COAT
    socks = SECOND if rng.random() < 0.25 else COAT
    for root, front in ((hips, False), (shoulders, True)):
        for side in (-1, 1):
            yield [leg_of(root, front, side, posture, long, girth, rng)], socks
    yield from head_of(shoulders, long, girth, rng)
    yield [tail_of(hips, long, girth, rng)], int(rng.integers(2))


def leg_of(
    root: np.ndarray, front: bool, side: int, posture: str, long: float, girth: float, rng: np.random.Generator
) -> Solid:
    """One leg with its paw or hoof on the ground."""
    foot_radius = girth * 0.16
    top = root + side * girth * 0.5 * Z - girth * 0.1 * Y + (-0.1 if front else 0.1) * long * X
    if posture == "lie":
        foot = top * (1, 0, 1) + long * rng.uniform(0.2, 0.4) * X + side * girth * 0.5 * Z
        knee = (top + foot) / 2 + girth * 0.3 * Y
    elif posture == "sit" and not front:
        foot = top * (1, 0, 1) + long * 0.25 * X + side * girth * 0.3 * Z
        knee = top + long * 0.22 * X + girth * 0.5 * Y
    else:
        stride = rng.normal(0, 0.2) * top[1]
        foot = top * (1, 0, 1) + stride * X - side * girth * 0.15 * Z
        knee = (top + foot) / 2 + (1 if front else -1) * abs(rng.normal(0.05, 0.05)) * top[1] * X
    foot = foot + foot_radius * Y
    thick = girth * np.array((0.55, 0.5, 0.38, 0.26, 0.2, 0.17, 0.2, 0))
    path = np.concatenate((bent(np.stack((top, knee, foot))), [foot + foot_radius * (0.6 * X - Y)]))
    return tube(path, thick, 8)


def tail_of(hips: np.ndarray, long: float, girth: float, rng: np.random.Generator) -> Solid:
    """A thin or a bushy one, hanging or raised."""
    end = rng.uniform(-1.3, 1.0)
    bushy = girth * rng.uniform(0.05, 0.22)
    root = hips - girth * 0.4 * X + girth * 0.4 * Y
    reach = long * rng.uniform(0.1, 0.6)
    tip = root + reach * (np.sin(end) * Y - np.cos(end) * X) + rng.normal(0, 0.2) * reach * Z
    tip[1] = max(tip[1], bushy)
    middle = (root + tip) / 2 - 0.2 * reach * X + 0.1 * reach * Y
    return tube(bent(np.stack((root, middle, tip))), bushy * np.array((0.6, 1, 1, 1, 1, 0.8, 0)))


def head_of(
    shoulders: np.ndarray, long: float, girth: float, rng: np.random.Generator
) -> Iterator[tuple[list[Solid], int]]:
    """(surfaces, material) of neck, skull and muzzle in one, ears, and at times horns."""
    up, reach = rng.uniform(0.2, 1.3), long * rng.uniform(0.2, 0.6)
    nape = shoulders + reach * (np.cos(up) * X + np.sin(up) * Y) + rng.normal(0, 0.15) * reach * Z
    root = shoulders - girth * 0.2 * X
    middle = (root + nape) / 2 + 0.08 * reach * (X - Y)
    wide = girth * rng.uniform(0.4, 0.65)
    yield [tube(bent(np.stack((root, middle, nape))), np.linspace(girth * 0.75, wide * 0.8, 7), 10)], COAT
    look = turn(Y, rng.normal(0, 0.6)) @ turn(Z, rng.uniform(-0.9, 0.2))
    face = wide * rng.uniform(1.6, 4.0)  # nape to nose
    t = np.array((-0.3, -0.25, -0.1, 0.1, 0.35, 0.6, 0.85, 1.0, 1.0))
    muzzle = rng.uniform(0.35, 0.7)
    radii = wide * np.array((0, 0.6, 0.95, 1.0, 0.85, 1.05 * muzzle, muzzle, 0.8 * muzzle, 0))
    path = nape + t[:, None] * face * look[:, 0]
    path[:, 1] = np.maximum(path[:, 1] - 0.06 * face * t, radii)  # not into the ground
    path[-1] += 1e-3 * look[:, 0]
    yield [tube(path, radii, 10)], COAT
    pale = int(rng.integers(2))
    ear, hang = wide * rng.uniform(0.5, 1.6), rng.choice((rng.uniform(0.5, 1.2), rng.uniform(-1.3, 0.2)))
    horned = rng.random() < 0.15
    for side in (-1, 1):
        temple = nape + look @ (wide * np.array((-0.05, 0.75, side * 0.55)))
        out = look @ np.array((-0.1, np.sin(hang), side * np.cos(hang)))
        bow = temple + ear * (0.55 * out + 0.1 * look[:, 0])
        flap = ear * np.array((0.2, 0.3, 0.32, 0.3, 0.25, 0.15, 0))
        yield [tube(bent(np.stack((temple, bow, temple + ear * out))), flap)], pale
        if horned:
            tip = temple + look @ (wide * np.array((rng.normal(0, 0.6), 2.0, side * 1.2)))
            bow = temple + look @ (wide * np.array((0, 0.8, side * 1.1)))
            yield [tube(bent(np.stack((temple, bow, tip))), wide * np.linspace(0.22, 0.02, 7))], SECOND


def stuffed(rng: np.random.Generator) -> Iterator[tuple[list[Solid], int]]:
    """(surfaces, material) of a bear or the like that sits: a person's outline from afar."""
    size = np.exp(rng.uniform(np.log(1.2), np.log(5)))
    trunk, head = rng.uniform(0.45, 0.6), rng.uniform(0.38, 0.55)
    rows = [(ball(size, (trunk, trunk * 1.25, trunk)), (0, trunk * 1.2, 0), COAT)]
    top = trunk * 2.2 + head * 0.8
    rows.append((ball(size, (head, head * 0.95, head * 1.05)), (0.05, top, 0), COAT))
    rows.append((ball(size, (head * 0.5, head * 0.35, head * 0.45)), (head * 0.85, top - head * 0.25, 0), SECOND))
    ear, tall = head * rng.uniform(0.3, 0.5), rng.choice((1.0, rng.uniform(1.5, 3.5)))
    for side in (-1, 1):
        rows.append(
            (ball(size, (ear * 0.5, ear * tall, ear)), (0, top + head * (0.6 + 0.3 * tall), side * head * 0.7), COAT)
        )
        arm, leg = rng.uniform(-0.9, 0.6), rng.uniform(-0.2, 0.5)
        hand = np.array((0.45, np.sin(arm) * 0.7 + trunk * 1.7, side * (trunk + 0.35)))
        shoulder = np.array((0, trunk * 1.9, side * trunk * 0.7))
        foot = np.array((trunk + 0.75, 0.22, side * (trunk * 0.6 + leg)))
        hip = np.array((0.2, 0.3, side * trunk * 0.5))
        for root, end, thick in ((shoulder, hand, 0.2), (hip, foot, 0.25)):
            path = np.linspace(root, end, 6) * size
            rows.append((tube(path, size * thick * np.array((0.9, 1, 1, 1, 0.9, 0)), 10), (0, 0, 0), COAT))
    for solid, place, material in rows:
        solid.points = solid.points + np.array(place) * size
        yield [solid], material
