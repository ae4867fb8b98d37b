"""What stands around people in a scene: ground, walls with pictures, furniture, seats, and things in front.

World space: decimetres, Y up, the ground is Y = 0. Everything is a list of `Item`s for the renderer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .animals import four_legged
from .fabrics import muted, random_cloth, random_color
from .items import Item, Material
from .objects import assemble, materials_of
from .rotations import X, Y, Z, frame, turn
from .solids import Part, Solid, ball, box, revolved, tube
from .vehicles import bicycle, wheel

WHEELED = 0.15  # of the seats: wheelchairs
REACH = 380.0  # dm; half the side of the ground, just within the far plane
SMALLER = ("table", "chair", "shelf", "lamp", "pile", "animal")
FURNITURE = (*SMALLER, "vehicle")


def moved(items: Iterable[Item], rotation: np.ndarray, shift: np.ndarray) -> list[Item]:
    """Items after a rigid motion."""
    return [
        replace(item, positions=item.positions @ rotation.T + shift, normals=item.normals @ rotation.T)
        for item in items
    ]


def lowest(items: Iterable[Item]) -> float:
    """The smallest Y (dm) of what is drawn of the items."""
    heights = []
    for item in items:
        corner = item.index.ravel()
        drawn = corner if item.inside is None else corner[item.inside[corner] > 0]
        heights.append(item.positions[drawn, 1].min(initial=np.inf))
    return float(min(heights))


def solid_items(parts: Iterable[Part], materials: list[Material]) -> list[Item]:
    """Parts as `objects.assemble` yields them, as items."""
    items = []
    for solids, rotation, shift, material in parts:
        spin = np.linalg.inv(rotation).T  # of normals, where the rotation stretches too
        for solid in solids:
            normals = solid.normals @ spin.T
            normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-6
            points = solid.points @ rotation.T + shift
            items.append(Item(points, normals, solid.uv, solid.index, materials[material % len(materials)]))
    return items


def quad(centre: np.ndarray, right: np.ndarray, up: np.ndarray, material: Material, repeat: float = 0.0) -> Item:
    """A rectangle from its centre and half axes (dm); the picture fills it, or repeats every `repeat` dm."""
    corners = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)), float)
    points = centre + corners[:, :1] * right + corners[:, 1:] * up
    normal = np.cross(right, up)
    uv = (corners + 1) / 2
    if repeat:
        uv = uv * 2 * np.array((np.linalg.norm(right), np.linalg.norm(up))) / repeat
    index = np.array(((0, 1, 2), (0, 2, 3)), np.int32)
    return Item(points, np.tile(normal / np.linalg.norm(normal), (4, 1)), uv, index, material)


def racket(rng: np.random.Generator) -> list[Solid]:
    """A grip at the origin and a strung oval above, in the XY plane."""
    angle = np.linspace(0, 2 * np.pi, 25)[:, None]
    half = np.array((rng.uniform(0.8, 1.3), rng.uniform(1.0, 1.7)))
    middle = rng.uniform(2.5, 3.5) + half[1]
    rim = np.concatenate((half[0] * np.cos(angle), middle + half[1] * np.sin(angle), 0 * angle), axis=1)
    grip = revolved(np.array((0, 1, 1, 0)) * 0.16, np.array((-0.8, -0.8, middle - half[1], middle - half[1])))
    strings = []
    for share in np.linspace(-0.8, 0.8, 6):
        reach = np.sqrt(1 - share**2)
        x, y = share * half[0], share * half[1]
        strings.append(np.array(((x, middle - reach * half[1], 0), (x, middle + reach * half[1], 0))))
        strings.append(np.array(((-reach * half[0], middle + y, 0), (reach * half[0], middle + y, 0))))
    return [grip, tube(rim, 0.1), *(tube(string, 0.02, 4) for string in strings)]


class PropMaker:
    """Random props; pictures of the asset folder serve as posters, screens and surfaces."""

    def __init__(self, assets: Path):
        self.pictures = sorted((assets / "backgrounds").glob("*.jpg"))
        cloth = [p for p in sorted((assets / "tex").iterdir()) if p.stem.split("_")[0] in ("skin", "clothes")]
        self.surfaces = self.pictures + cloth

    def material(self, rng: np.random.Generator) -> Material:
        """Paint, pattern, wood-like stripes, or a picture."""
        if rng.random() < 0.7:
            return replace(random_cloth(rng), shine=rng.uniform(0, 0.3))
        picture = self.surfaces[rng.integers(len(self.surfaces))]
        return Material(texture=picture, tint=tuple(rng.uniform(0.4, 1.2, 3)), alpha_min=0.0)

    def _surface(self, rng: np.random.Generator) -> Material:
        """Of floors and walls: mostly calm colours and large patterns."""
        color = random_color(rng)
        color = (color + (color.mean() - color) * rng.beta(1.4, 1.2)) * 0.6 + rng.uniform(0.1, 0.4)
        second = np.clip(color * rng.uniform(0.4, 1.5) * rng.uniform(0.85, 1.15, 3), 0, 1)
        weave = int(rng.choice((0, 1, 2, 3, 4), p=(0.4, 0.1, 0.1, 0.15, 0.25)))
        form = (np.exp(rng.uniform(np.log(0.4), np.log(4.0))), rng.random(), rng.uniform(0.2, 0.9))
        material = Material(
            plain=tuple(np.clip(color, 0, 1)), weave=weave, weave_color=tuple(second), weave_form=form, shine=0.0
        )
        if rng.random() < 0.6:  # the grain of a photograph on the plain colour
            material = replace(material, texture=self.pictures[rng.integers(len(self.pictures))], recolor=True)
        return material

    def ground(self, rng: np.random.Generator, catcher: bool) -> Item:
        """The ground; a `catcher` shows nothing but the shadows on it."""
        material = Material(catcher=True, translucent=True) if catcher else self._surface(rng)
        return quad(np.zeros(3), REACH * X, -REACH * Z, material, rng.uniform(10.0, 60.0))

    def walls(self, points: np.ndarray, rng: np.random.Generator) -> list[Item]:
        """A wall behind all `points` (n, 3; the camera is one), seen from +Z, at times one beside, with pictures on."""
        swing = turn(Y, rng.normal(0, 0.35))
        local = points @ swing  # in the room's axes
        back = local[:, 2].min() - np.exp(rng.uniform(np.log(1.5), np.log(40.0)))
        side = rng.choice((-1, 1))
        beside = np.abs(local[:, 0]).max() + rng.uniform(3, 40)
        height = rng.uniform(25, 60)
        paint = self._surface(rng)
        items = [quad(np.array((0, height / 2, back)), 150 * X, height / 2 * Y, paint, 10.0)]
        if rng.random() < 0.5:
            middle = np.array((side * beside, height / 2, back + 100))
            items.append(quad(middle, side * 100 * Z, height / 2 * Y, paint, 10.0))
        for layer in range(int(rng.integers(0, 9))):
            half = np.exp(rng.uniform(np.log(1.0), np.log(9.0), 2))
            centre = np.array((rng.normal(0, 25), rng.uniform(half[1], 22), back + 0.1 + 0.03 * layer))
            picture = Material(texture=self.pictures[rng.integers(len(self.pictures))], alpha_min=0.0, shine=0.0)
            material = picture if rng.random() < 0.6 else self._surface(rng)
            items.append(quad(centre, half[0] * X, half[1] * Y, material))
        return moved(items, swing, np.zeros(3))

    def furniture(self, rng: np.random.Generator, kinds: tuple[str, ...] = FURNITURE) -> list[Item]:
        """A random thing standing at the origin, at a random heading."""
        kind = kinds[rng.integers(len(kinds))]
        parts = list(assemble(kind, rng))
        materials = materials_of(kind, [self.material(rng) for _ in range(5)], rng)
        items = muted(solid_items(parts, materials), rng)
        items = moved(items, turn(Y, rng.uniform(-np.pi, np.pi)), np.zeros(3))
        return moved(items, np.eye(3), np.array((0.0, -lowest(items), 0.0)))

    def seat(self, top: float, rng: np.random.Generator) -> list[Item]:
        """A box, bench, stool or chair of height `top` dm at the origin, to be sat on looking to +Z."""
        width, depth = rng.uniform(3.5, 6.0), rng.uniform(3.5, 5.0)
        if rng.random() < 0.2:
            width = rng.uniform(8, 20)
        kind = rng.random()
        thick = min(top, rng.uniform(0.3, 1.0))
        parts: list[Part] = []
        if kind < 0.35:
            parts.append((box(np.array((width, top, depth))), np.eye(3), np.array((0, top / 2, 0)), 0))
        else:
            parts.append((box(np.array((width, thick, depth))), np.eye(3), np.array((0, top - thick / 2, 0)), 0))
            leg, under = rng.uniform(0.2, 0.6), max(top - thick, 0.05)
            if kind < 0.5:
                post = revolved(np.full(2, leg), np.array((0.0, under)))
                parts.append(([post], np.eye(3), np.zeros(3), 1))
            else:
                for x in (-1, 1):
                    for z in (-1, 1):
                        place = np.array((x * (width - leg), under, z * (depth - leg))) / 2
                        parts.append((box(np.array((leg, under, leg))), np.eye(3), place, 1))
        if rng.random() < 0.55:
            back = np.array((width, rng.uniform(2.5, 7), rng.uniform(0.2, 0.8)))
            place = np.array((0, top + back[1] / 2, -depth / 2 - back[2]))
            parts.append((box(back), turn(X, -rng.uniform(0, 0.25)), place, 0))
        if rng.random() < WHEELED:
            radius = rng.uniform(2.6, 3.3)
            for x in (-1, 1):
                place = np.array((x * (width / 2 + 0.3), radius, rng.uniform(-0.5, 0.3)))
                parts += [(wheel(radius, rng), turn(Y, np.pi / 2), place, 2)]
                parts += [(wheel(0.8, rng), turn(Y, np.pi / 2), np.array((x * width / 2.4, 0.8, depth * 0.6)), 2)]
                arm = np.array((0.4, rng.uniform(0.2, 0.4), depth * 0.8))
                parts += [(box(arm), np.eye(3), np.array((x * (width / 2 + 0.1), top + 2.2, 0)), 1)]
        return solid_items(parts, [self.material(rng), self.material(rng), self.material(rng)])

    def mount(self, animal: bool, rng: np.random.Generator) -> tuple[list[Item], np.ndarray]:
        """An animal or a bicycle that stands on the ground and looks to +Z, and the top of its back or saddle, dm."""
        if animal:
            kind, parts = "animal", [(solids, (0, 0, 0), number) for solids, number in four_legged(rng, mount=True)]
        else:
            kind, parts = "vehicle", list(bicycle(rng))
        placed: list[Part] = [(solids, np.eye(3), np.asarray(shift, float), number) for solids, shift, number in parts]
        items = solid_items(placed, materials_of(kind, [self.material(rng) for _ in range(5)], rng))
        ahead = turn(Y, -np.pi / 2)  # from +X, where they look
        items = moved(muted(items, rng), ahead, np.array((0.0, -lowest(items), 0.0)))
        cloud = np.concatenate([item.positions for item in items])
        # A back is highest in the middle; what is highest behind a bicycle's middle is its saddle.
        near = (np.abs(cloud[:, 2]) < 2) & (np.abs(cloud[:, 0]) < 1) if animal else cloud[:, 2] < 0
        return items, cloud[near][cloud[near, 1].argmax()]

    def boards(self, feet: np.ndarray, rng: np.random.Generator) -> list[Item]:
        """Skis below both feet, or one board below the lower one; `feet` (2, 3, 3): big toe, small toe, heel, dm."""
        skis = rng.random() < 0.5
        paint = self.material(rng)
        long, wide, thick = rng.uniform(13, 19), rng.uniform(0.7, 1.2), rng.uniform(0.1, 0.3)
        if not skis:
            feet = feet[[feet[:, :, 1].min(1).argmin()]]
            long, wide, thick = rng.uniform(7, 18), rng.uniform(2.0, 4.0), rng.uniform(0.15, 0.6)
        parts: list[Part] = []
        for toe, small, heel in feet:
            ahead, left = (toe + small) / 2 - heel, np.cross(np.cross(toe - heel, small - heel), toe - heel)
            axes = frame(ahead, left)[:, (1, 2, 0)]  # columns: across, up, along
            if not skis and rng.random() < 0.6:  # across the board
                axes = axes @ turn(Y, rng.choice((-1, 1)) * np.pi / 2)
            under = (toe + small + 2 * heel) / 4 - axes[:, 1] * np.sign(axes[1, 1]) * (0.35 + thick / 2)
            parts.append(
                (box(np.array((wide, thick, long))), axes, under + axes[:, 2] * rng.uniform(-0.1, 0.15) * long, 0)
            )
        return solid_items(parts, [paint])

    def held(self, rng: np.random.Generator) -> list[Item]:
        """Something for a hand, centred at the origin: a phone, cup, ball, book, stick, bat, pole or racket."""
        kind = rng.integers(8)
        if kind == 0:
            solids = box(np.array((0.75, 1.5, 0.1)))
        elif kind == 1:
            solids = [revolved(np.array((0, 1, 1, 0)) * rng.uniform(0.3, 0.45), np.array((-0.5, -0.5, 0.5, 0.5)))]
        elif kind == 2:
            solids = [ball(rng.uniform(0.3, 1.2))]
        elif kind == 3:
            solids = box(np.array((rng.uniform(1.0, 2.2), rng.uniform(1.2, 3.0), rng.uniform(0.1, 0.5))))
        elif kind == 4:
            radii = np.array((0, 1, 1, 0)) * rng.uniform(0.1, 0.25)
            ends = np.array((-1, 1)) * rng.uniform(1.5, 6)
            solids = [revolved(radii, ends[[0, 0, 1, 1]])]
        elif kind == 5:  # a bat or a club
            radii, heights = np.array((0, 0.14, 0.14, 0.35, 0.35, 0)), np.array((-0.8, -0.8, 1.5, 4.5, 7, 7))
            solids = [revolved(radii * rng.uniform(0.6, 1.3), heights * rng.uniform(0.7, 1.2))]
        elif kind == 6:  # of skiers and walkers
            length = rng.uniform(9, 12)
            solids = [revolved(np.array((0, 1, 1, 0)) * 0.1, np.array((-length, -length, 0.6, 0.6)))]
        else:
            solids = racket(rng)
        part = (solids, turn(rng.normal(size=3), rng.normal(0, 0.6)), np.zeros(3), 0)
        return solid_items([part], [self.material(rng)])
