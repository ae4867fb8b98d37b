"""People and things ready to be drawn by torch_render, made by worker processes and streamed to it.

Shaping, posing and dressing a body costs about 15 ms of a CPU core and is the same for every camera, so each dressed
body is handed over once, in world space, with several views (framing, camera and light); turning it is the device's
work. The first view of person k is the one that PersonGenerator tries first for the same seed and number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from . import camera as cam
from .accessories import accessories
from .fabrics import muted
from .generate import POSES_PER_BODY, REACHING, PersonGenerator
from .items import Item
from .light import Light
from .meshes import Mesh, View, light_row, window_of
from .objects import ObjectGenerator
from .workers import Workers

AHEAD = 8  # finished subjects per worker that may wait: 1.5 MB each


@dataclass(frozen=True)
class Subject:
    """A dressed person and its n views. Distances are dm along the view axis, pixels those of the layer."""

    mesh: Mesh
    views: list[View]
    keypoints: np.ndarray  # (n, 133, 2) float32 px
    distance: np.ndarray  # (n, 133) float32
    frame: np.ndarray  # (n, 4) float32, border of the photograph, px
    framing: tuple[str, ...]


def texture_files(assets: Path) -> list[Path]:
    """All pictures that people and things may wear, in the order in which atlases number them."""
    return sorted((assets / "tex").iterdir()) + sorted((assets / "backgrounds").glob("*.jpg"))


class Recorder:
    """Stands in for a renderer: keeps what it is asked to draw and answers with a full picture."""

    def __init__(self, size: tuple[int, int]):
        self.size = size

    def render(self, items: list[Item], projection: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
        self.items, self.projection, self.light = items, projection, light
        return np.full((self.size[1], self.size[0], 4), 255, np.uint8), np.zeros(self.size[::-1], np.float32)


class SubjectGenerator:
    """Makes person `number` of `seed`, reproducibly.

    Args:
        assets, size, captured, with_accessories: as PersonGenerator takes them.
        views: cameras per posed and dressed body.
        plain: of clothes, as PersonGenerator's plain_clothes.
        close_ups: share of the views after the first that are framed by `camera.CLOSE_UPS`.
    """

    def __init__(
        self,
        assets: Path,
        size: tuple[int, int],
        views: int,
        plain: bool = False,
        captured: float = 0.0,
        with_accessories: bool = False,
        close_ups: float = 0.0,
    ):
        self.people = PersonGenerator(
            assets,
            size,
            renderer=Recorder(size),
            captured=captured,
            with_accessories=with_accessories,
            plain_clothes=plain,
        )
        self.textures = {path: number for number, path in enumerate(texture_files(assets))}
        self.views = views
        self.close_ups = close_ups
        self._body = (None, None)

    def subject(self, seed: int, number: int) -> Subject:
        people, model = self.people, self.people.model
        if self._body[0] != (seed, number // POSES_PER_BODY):
            rng = np.random.default_rng((seed, number // POSES_PER_BODY, 0))
            self._body = ((seed, number // POSES_PER_BODY), model.random_shape(rng))
        rng = np.random.default_rng((seed, number, 1))
        framing = cam.choose_framing(rng)
        shape = model.random_expression(self._body[1], rng)
        reaching = framing == "hand" and rng.random() < REACHING
        posed = model.pose(shape, *people.poses.sample(shape, rng, reaching)[:2])
        points = people.rules.locate(shape, posed)
        skin = posed.vertices[model.skin_vertices]
        rows = []
        for view in range(self.views):
            if view:
                close = self.close_ups > 0 and rng.random() < self.close_ups
                framing = cam.choose_framing(rng, cam.CLOSE_UPS if close else cam.FRAMINGS)
            camera = cam.random_camera(skin, points, framing, rng)
            aspect = people.size[0] / people.size[1]
            camera, border = cam.frame_photo(camera, skin, points, framing, aspect, rng)
            if not view:
                items = people.wardrobe.dress(shape, posed, lambda world: world, rng)
            light = light_row(people.lights.sample(rng))
            if not view and people.with_accessories:
                items += people.beards.grow(shape, posed, rng) + accessories(points, skin, rng)
                items = muted(items, rng)
            tangents, distance = camera.project(points)
            corners = camera.to_pixels(np.array(((border[0], border[3]), (border[2], border[1]))), people.size)
            frame = np.clip(corners.ravel(), -1e5, 1e5)
            looking = View(camera.rotation, camera.shift, camera.window, light)
            rows.append((looking, camera.to_pixels(tangents, people.size), distance, frame, framing))
        looking, pixels, distance, frame, framings = zip(*rows, strict=True)
        arrays = (np.stack(column).astype(np.float32) for column in (pixels, distance, frame))
        return Subject(Mesh.of(items, self.textures), list(looking), *arrays, framings)


class ThingGenerator:
    """Object `number` of `seed` as a mesh and its view; the picture is objects.SIZE."""

    def __init__(self, assets: Path, size: tuple[int, int]):
        self.recorder = Recorder(size)
        self.objects = ObjectGenerator(assets, self.recorder)
        self.textures = {path: number for number, path in enumerate(texture_files(assets))}

    def thing(self, seed: int, number: int) -> tuple[Mesh, list[View]]:
        self.objects.draw(seed, number)
        drawn = self.recorder
        view = View(np.eye(3), np.zeros(3), window_of(drawn.projection), light_row(drawn.light))
        return Mesh.of(drawn.items, self.textures), [view]


def start(maker: type, arguments: tuple) -> None:
    """Set up a worker: `maker(*arguments)` is called for every task from now on, by `make`."""
    global _maker
    cv2.setNumThreads(1)
    _maker = maker(*arguments)


def make(task: tuple[str, int, int]):
    """`_maker.METHOD(seed, number)`."""
    method, seed, number = task
    return getattr(_maker, method)(seed, number)


@contextmanager
def stream(
    maker: type, arguments: tuple, method: str, seed: int, first: int, last: int, workers: int
) -> Iterator[Iterator]:
    """What `maker(*arguments).method(seed, number)` gives for first <= number < last, in order, as it is ready.

    Workers run at most AHEAD results each before whoever takes them; leaving the context ends them.
    """
    with Workers(workers, start, (maker, arguments)) as pool:
        tasks = ((method, seed, number) for number in range(first, last))
        yield pool.imap(make, tasks, ahead=AHEAD)
