"""Things that are not people: furniture, tableware, animals, vehicles, piles; rendered with people's light and cloth.

    python -m training.synthetic.objects --assets DIR --out DIR --count 1500 --seed 1

They go behind and in front of people (composite.py), so that shading, cloth and skin textures alone do not mean person.
Writes OUT/NUMBER.webp, RGBA with straight alpha, cut to the object. Object k of a seed is the same for any number of
workers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..command import at_least_one, not_negative, run
from ..pictures import imwrite
from .animals import animal, coat
from .body import check_assets
from .camera import Camera
from .fabrics import random_cloth
from .items import Item, Material
from .light import LightSampler
from .render import Renderer, check_opengl
from .rotations import X, Y, Z, turn
from .solids import Part, Solid, ball, box, random_primitive, revolved
from .vehicles import vehicle
from .workers import Workers

SIZE = (160, 160)
KINDS = ("pile", "pile", "table", "chair", "shelf", "lamp", "figure", "animal", "animal", "vehicle")
LAID = 0.5  # of the tables


def assemble(kind: str, rng: np.random.Generator) -> Iterator[Part]:
    """Parts of a random object."""
    upright = np.eye(3)
    if kind == "pile":
        for part in range(rng.integers(1, 7)):
            stretch = np.diag(np.exp(rng.normal(0, 0.6, 3)) * 3)
            yield (
                random_primitive(rng),
                turn(rng.normal(size=3), rng.uniform(0, 3)) @ stretch,
                rng.normal(0, 2.5, 3),
                part,
            )
    elif kind in ("table", "chair"):
        width, height, depth = rng.uniform(4, 14), rng.uniform(4, 9), rng.uniform(4, 9)
        plate = rng.uniform(0.2, 1.2)
        yield box(np.array((width, plate, depth))), upright, np.array((0, height, 0)), 0
        thick = rng.uniform(0.2, 0.8)
        for x in (-1, 1):
            for z in (-1, 1):
                place = np.array((x * (width - thick), height, z * (depth - thick))) / 2
                yield box(np.array((thick, height, thick))), upright, place, 1
        if kind == "chair":
            back = np.array((width, rng.uniform(3, 7), rng.uniform(0.2, 0.8)))
            yield box(back), turn(X, -rng.uniform(0, 0.3)), np.array((0, height + back[1] / 2, -depth / 2)), 0
        elif rng.random() < LAID:
            for part in range(rng.integers(2, 10)):
                aside, ahead = rng.uniform(-0.45, 0.45, 2) * (width, depth)
                place = np.array((aside, height + plate / 2, ahead))
                yield from ((solids, upright, place, 2 + (part + more) % 4) for solids, more in tableware(rng))
    elif kind == "shelf":
        width, height, boards = rng.uniform(5, 12), rng.uniform(8, 20), int(rng.integers(2, 6))
        for x in (-1, 1):
            yield box(np.array((0.3, height, 3.0))), upright, np.array((x * width / 2, height / 2, 0)), 0
        for level in np.linspace(0, height, boards):
            yield box(np.array((width, 0.3, 3.0))), upright, np.array((0, level, 0)), 0
            for part in range(rng.integers(0, 6)):
                thing = np.array((rng.uniform(0.3, 1.5), rng.uniform(1, 2.5), 2.0))
                place = np.array((rng.uniform(-0.45, 0.45) * width, level + thing[1] / 2, 0))
                yield box(thing), upright, place, 1 + part % 4
    elif kind == "lamp":
        height = rng.uniform(6, 18)
        yield [revolved(np.full(2, rng.uniform(0.1, 0.5)), np.array((0, height)))], upright, np.zeros(3), 0
        shade = np.array((rng.uniform(1, 3), rng.uniform(0.5, 2)))
        yield [revolved(shade, np.array((0, rng.uniform(1, 4))))], upright, np.array((0, height, 0)), 1
    elif kind in ("animal", "vehicle"):
        yield from (animal if kind == "animal" else vehicle)(rng)
    else:  # a body-like heap of tubes that is nobody: branches, hoses, statues gone wrong
        at = np.zeros(3)
        for part in range(rng.integers(4, 10)):
            direction = rng.normal(size=3)
            length = rng.uniform(1.5, 5)
            rotation = turn(np.cross(Y, direction), np.arccos(direction[1] / np.linalg.norm(direction)))
            radii = np.array((0, *rng.uniform(0.3, 1.2, 2), 0))
            yield [revolved(radii, np.array((0, 0, length, length)))], rotation, at, part % 3
            at = at + rotation[:, 1] * length * rng.choice((1.0, 0.5, 0.0))


def materials_of(kind: str, materials: list[Material], rng: np.random.Generator) -> list[Material]:
    """The materials, those of an animal with a coat."""
    return [coat(materials[0], rng), *materials[1:]] if kind == "animal" else materials


def tableware(rng: np.random.Generator) -> Iterator[tuple[list[Solid], int]]:
    """(surfaces, material number) of something for a table: plate, bowl, cup, bottle, cake; some are full."""
    kind = rng.integers(5)
    wide, high = rng.uniform(0.9, 1.6), rng.uniform(0.6, 1.4)
    if kind < 2:  # a plate is a flat bowl
        high = 0.2 if kind else high
        radii = np.array((0, 0.55, 0.6, 1.0, 0.95, 0.5, 0)) * wide
        yield [revolved(radii, np.array((0, 0, 0.15, 1.0, 1.0, 0.25, 0.25)) * high)], 0
        for _ in range(rng.integers(0, 5)):
            bite = ball(wide * rng.uniform(0.2, 0.45), (1, rng.uniform(0.3, 1), 1))
            bite.points = bite.points + rng.normal(0, 0.25, 3) * wide * (1, 0, 1) + (0.3 * high + 0.1) * Y
            yield [bite], 1
    elif kind == 2:  # cup or glass
        radii = np.array((0, rng.uniform(0.6, 1.0), 1.0, 0.9, 0.9, 0)) * rng.uniform(0.3, 0.45)
        yield [revolved(radii, np.array((0, 0, 1.0, 1.0, 0.8, 0.8)) * high)], 0
    elif kind == 3:
        neck = rng.uniform(0.25, 0.5)
        radii = np.array((0, 1, 1, neck, neck, 0)) * rng.uniform(0.3, 0.5)
        yield [revolved(radii, np.array((0, 0, 0.6, 0.75, 1.0, 1.0)) * rng.uniform(2, 3.2))], 0
    else:
        for level in range(rng.integers(1, 4)):
            radius = wide * (1 - 0.25 * level)
            yield [revolved(np.array((0, 1, 1, 0)) * radius, (level + np.array((0, 0, 1, 1))) * high * 0.7)], level


class ObjectGenerator:
    """Draws object `number` of `seed`, reproducibly."""

    def __init__(self, assets: Path, renderer: Renderer | None = None):
        pictures = [p for p in sorted((assets / "tex").iterdir()) if p.stem.split("_")[0] in ("skin", "clothes")]
        self.pictures = pictures + sorted((assets / "backgrounds").glob("*.jpg"))
        self.lights = LightSampler(assets / "hdri")
        self.renderer = Renderer(SIZE, supersample=2) if renderer is None else renderer

    def _material(self, rng: np.random.Generator) -> Material:
        if rng.random() < 0.6:
            return replace(random_cloth(rng), shine=rng.uniform(0, 0.3))
        picture = self.pictures[rng.integers(len(self.pictures))]
        return Material(texture=picture, tint=tuple(rng.uniform(0.4, 1.2, 3)), alpha_min=0.0)

    def draw(self, seed: int, number: int) -> np.ndarray:
        """(h, w, 4) uint8 RGBA, straight alpha, cut to the object."""
        rng = np.random.default_rng((seed, number))
        kind = KINDS[rng.integers(len(KINDS))]
        materials = materials_of(kind, [self._material(rng) for _ in range(10)], rng)
        parts = list(assemble(kind, rng))
        attitude = turn(rng.normal(size=3), rng.uniform(0, np.pi)) if kind in ("pile", "figure") else turn(X, 0.0)
        view = (
            turn(Z, rng.normal(0, 0.1))
            @ turn(X, rng.normal(0.2, 0.25))
            @ turn(Y, rng.uniform(-np.pi, np.pi))
            @ attitude
        )
        cloud = np.concatenate([s.points @ rotation.T + shift for solids, rotation, shift, _ in parts for s in solids])
        cloud = cloud @ view.T
        distance = np.linalg.norm(np.ptp(cloud, axis=0)) * rng.uniform(0.9, 3.0)
        camera = Camera(view, np.array((0, 0, -distance)) - (cloud.min(0) + cloud.max(0)) / 2)
        tangents = (cloud + camera.shift)[:, :2] / -(cloud + camera.shift)[:, 2:]
        low, high = tangents.min(0), tangents.max(0)
        half = (high - low).max() / 2 * 1.02
        x, y = (low + high) / 2
        camera = Camera(camera.rotation, camera.shift, (x - half, x + half, y - half, y + half))
        items = []
        for solids, rotation, shift, material in parts:
            spin = np.linalg.inv(rotation).T  # normals under a rotation that also stretches
            for solid in solids:
                points, normals = solid.points @ rotation.T + shift, solid.normals @ spin.T
                normals = normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-6) @ view.T
                items.append(Item(camera.view(points), normals, solid.uv, solid.index, materials[material]))
        rgba, _ = self.renderer.render(items, camera.projection(), self.lights.sample(rng))
        rows, columns = (np.flatnonzero(rgba[..., 3].any(axis)) for axis in (1, 0))
        return np.ascontiguousarray(rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _start(assets: Path) -> None:
    global _generator
    cv2.setNumThreads(1)
    _generator = ObjectGenerator(assets)


def _draw(task: tuple[Path, int, int]) -> None:
    out, seed, number = task
    picture = cv2.cvtColor(_generator.draw(seed, number), cv2.COLOR_RGBA2BGRA)
    path = out / f"{number:06d}.webp"
    if not imwrite(path, picture, (cv2.IMWRITE_WEBP_QUALITY, 90)):
        raise OSError(f"cannot write {path}")


def generate_objects(assets: Path, out: Path, count: int, seed: int, workers: int) -> None:
    """Render `count` objects into `out`; the file `done` marks a complete folder. Those of an earlier run go first."""
    check_opengl()
    check_assets(assets)
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "done", *out.glob(f"{'[0-9]' * 6}.webp")):
        old.unlink(missing_ok=True)
    tasks = [(out, seed, number) for number in range(count)]
    with Workers(workers, _start, (assets,)) as pool:
        for _ in tqdm(pool.imap(_draw, tasks, chunksize=8), total=count, unit="object"):
            pass
    (out / "done").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder of packed body assets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=at_least_one, default=1500)
    parser.add_argument("--seed", type=not_negative, default=1)
    parser.add_argument("--workers", type=at_least_one, default=os.cpu_count())
    args = parser.parse_args()
    generate_objects(args.assets, args.out, args.count, args.seed, args.workers)


if __name__ == "__main__":
    sys.exit(run(main))
