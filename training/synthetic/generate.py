"""Render labelled people: photographs with COCO-WholeBody labels, or single people as RGBA layers.

    python -m training.synthetic.generate --assets DIR --out DIR --people 6000 --seed 1              photographs
    python -m training.synthetic.generate --assets DIR --out DIR --people 6000 --seed 1 --layers     layers

Photographs (scene_set.py) are what a data set needs: OUT/images and OUT/annotations.json. Layers are the material of
training.synthetic.pool, which composites endless crops from each. --layers writes OUT/SEED_NUMBER.webp (RGBA, straight
alpha) and OUT/labels_SEED.npz with, per layer,
    names        file names
    keypoints    (n, 133, 2) float32 pixels of the layer; whole numbers are pixel centres
    visible      (n, 133) uint8: 0 outside, 1 hidden, 2 seen
    frame        (n, 4) float32 left, top, right, bottom: the border of the imagined photograph in layer pixels
    framing, pose   what was drawn
Scene or person k of a seed is the same for any number of workers and does not depend on the others.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dwpose_core.skeleton import PARTS

from ..checkpoint import save_arrays
from ..command import at_least_one, not_negative, run, share
from ..pictures import imwrite
from . import camera as cam
from .accessories import accessories
from .beards import Beards
from .body import BodyModel, check_assets
from .clothes import Wardrobe
from .labels import OUTSIDE, VISIBLE, KeypointRules, visibility
from .light import LightSampler
from .motion import motion_file
from .poses import PoseSampler
from .props import moved
from .render import Renderer, check_opengl
from .scene_set import generate_scenes
from .workers import Workers

POSES_PER_BODY = 6  # morphing is a sixth of the cost of a layer
ATTEMPTS = 8
REACHING = 0.5  # of the photographs of a hand: it is held away from the body


@dataclass(frozen=True)
class Layer:
    """One rendered person. Fields as in the module docstring, for a single layer."""

    rgba: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    frame: np.ndarray
    framing: str
    pose: str
    surface: np.ndarray  # (h, w) distance image in dm, supersampled; not stored
    distance: np.ndarray  # (133,) dm; not stored


class PersonGenerator:
    """Draws person `number` of `seed`, reproducibly.

    Args:
        assets: folder of packed body assets.
        size: (width, height) of a layer in pixels.
        supersample: samples per pixel and direction.
        renderer: what draws, instead of OpenGL.
        captured: share of poses from motion capture, which is not CC0. The starter model's recipe has none.
        with_accessories: glasses, beards, backpacks, bags.
        framings: which of `camera.SHARES` views are drawn with; "close-ups" are mostly faces and hands.
        plain_clothes: fitted suits in grey, see Wardrobe.
    """

    def __init__(
        self,
        assets: Path,
        size: tuple[int, int] = (192, 256),
        supersample: int = 2,
        renderer: Renderer | None = None,
        captured: float = 0.0,
        with_accessories: bool = False,
        framings: str = "usual",
        plain_clothes: bool = False,
    ):
        self.size = size
        self.framings = cam.SHARES[framings]
        self.model = BodyModel(assets)
        self.with_accessories = with_accessories
        self.poses = PoseSampler(self.model, assets, captured)
        self.wardrobe = Wardrobe(self.model, assets, plain_clothes)
        self.rules = KeypointRules(self.model)
        self.beards = Beards(self.model, self.rules)
        self.lights = LightSampler(assets / "hdri")
        self.renderer = Renderer(size, supersample) if renderer is None else renderer

    def person(self, seed: int, number: int, framing: str | None = None) -> Layer:
        """The first usable attempt, or the last of `ATTEMPTS`; `framing` overrides the random choice."""
        body = self.model.random_shape(np.random.default_rng((seed, number // POSES_PER_BODY, 0)))
        for attempt in range(1, ATTEMPTS + 1):
            rng = np.random.default_rng((seed, number, attempt))
            layer = self._attempt(body, framing or cam.choose_framing(rng, self.framings), rng)
            part = {"hand": PARTS["left_hand"], "face": PARTS["face"]}.get(layer.framing)
            enough = (layer.visible[:17] > OUTSIDE).sum() >= 4
            if part is not None:  # a close-up of something that is turned away teaches nothing
                enough = (layer.visible[part] == VISIBLE).mean() > 0.4
            if enough and (layer.rgba[..., 3] > 128).mean() > 0.02:
                break
        return layer

    def _attempt(self, body, framing: str, rng: np.random.Generator) -> Layer:
        shape = self.model.random_expression(body, rng)
        reaching = framing == "hand" and rng.random() < REACHING
        local, world, pose = self.poses.sample(shape, rng, reaching)
        posed = self.model.pose(shape, local, world)
        points = self.rules.locate(shape, posed)
        skin = posed.vertices[self.model.skin_vertices]
        camera = cam.random_camera(skin, points, framing, rng)
        camera, border = cam.frame_photo(camera, skin, points, framing, self.size[0] / self.size[1], rng)
        items = self.wardrobe.dress(shape, posed, camera.view, rng)
        light = self.lights.sample(rng)
        if self.with_accessories:
            extras = self.beards.grow(shape, posed, rng) + accessories(points, skin, rng)
            items += moved(extras, camera.rotation, camera.shift)
        rgba, surface = self.renderer.render(items, camera.projection(), light)
        tangents, distance = camera.project(points)
        pixels = camera.to_pixels(tangents, self.size)
        corners = camera.to_pixels(np.array(((border[0], border[3]), (border[2], border[1]))), self.size)
        frame = np.clip(corners.ravel(), -1e5, 1e5)
        visible = visibility(pixels, distance, surface, self.size, frame)
        return Layer(
            rgba, pixels.astype(np.float32), visible, frame.astype(np.float32), framing, pose, surface, distance
        )


_generator: PersonGenerator


def _start(assets: Path, size: tuple[int, int], options: dict) -> None:
    global _generator
    cv2.setNumThreads(1)
    _generator = PersonGenerator(assets, size, **options)


def _draw(task: tuple[Path, int, int]) -> dict[str, np.ndarray]:
    out, seed, number = task
    layer = _generator.person(seed, number)
    name = f"{seed:04d}_{number:06d}.webp"
    picture = cv2.cvtColor(layer.rgba, cv2.COLOR_RGBA2BGRA)
    if not imwrite(out / name, picture, (cv2.IMWRITE_WEBP_QUALITY, 92)):
        raise OSError(f"cannot write {out / name}")
    fields = ("keypoints", "visible", "frame", "framing", "pose")
    return {"names": name} | {field: getattr(layer, field) for field in fields}


def generate(
    assets: Path,
    out: Path,
    people: int,
    seed: int,
    workers: int,
    size: tuple[int, int],
    captured: float = 0.0,
    with_accessories: bool = False,
    framings: str = "usual",
    plain_clothes: bool = False,
) -> None:
    """Render `people` layers into `out` with `workers` processes; the rest is `PersonGenerator`'s."""
    check_assets(assets)
    if captured:
        motion_file(assets)
    check_opengl()
    out.mkdir(parents=True, exist_ok=True)
    labels = out / f"labels_{seed:04d}.npz"  # marks the layers as complete, so those of earlier ones go first
    labels.unlink(missing_ok=True)
    tasks = [(out, seed, number) for number in range(people)]
    options = {"captured": captured, "with_accessories": with_accessories, "framings": framings}
    with Workers(workers, _start, (assets, size, options | {"plain_clothes": plain_clothes})) as pool:
        rows = list(tqdm(pool.imap(_draw, tasks, chunksize=POSES_PER_BODY), total=people, unit="person"))
    table = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    save_arrays(labels, table, np.savez_compressed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder of packed body assets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=at_least_one, default=24)
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--workers", type=at_least_one, default=os.cpu_count())
    parser.add_argument("--longest", type=at_least_one, default=640, help="longer side of a photograph, pixels")
    parser.add_argument("--layers", action="store_true", help="single people on transparent ground")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("W", "H"), help="of a layer, pixels")
    parser.add_argument("--accessories", action="store_true", help="layers with glasses, beards, bags, as photographs")
    kinds = parser.add_mutually_exclusive_group()
    kinds.set_defaults(framings="usual")
    for flag, text in (("close-ups", "layers mostly of faces and hands"), ("hands", "layers of one hand alone")):
        kinds.add_argument(f"--{flag}", action="store_const", const=flag, dest="framings", help=text)
    parser.add_argument("--plain-clothes", action="store_true", help="layers in fitted grey suits, to compare")
    parser.add_argument("--captured", type=share, default=0.0, help="share of poses from motion capture (not CC0)")
    args = parser.parse_args()
    if min(args.size) < 16:
        parser.error(f"--size is WIDTH HEIGHT in pixels, at least 16, not {args.size[0]} {args.size[1]}")
    if not args.layers and (args.accessories or args.framings != "usual" or args.plain_clothes):
        chosen = "--accessories, --close-ups, --hands and --plain-clothes"
        parser.error(f"{chosen} choose what layers show; add --layers, or leave them out")
    if not args.layers and args.size != parser.get_default("size"):
        parser.error("--size is of layers; add --layers, or give the --longest side of photographs")
    if args.layers and args.longest != parser.get_default("longest"):
        parser.error("--longest is of photographs; layers have a --size")
    job = (args.assets, args.out, args.people, args.seed, args.workers)
    if args.layers:
        generate(*job, tuple(args.size), args.captured, args.accessories, args.framings, args.plain_clothes)
    else:
        print(generate_scenes(*job, args.longest, args.captured))


if __name__ == "__main__":
    sys.exit(run(main))
