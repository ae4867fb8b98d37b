"""Photographs of rendered people with every label: up to six people in one space, with one camera and one light.

Bodies, clothes and poses are those of the layers (generate.py). Here people stand on a ground, sit on seats, hold and
stand behind things, cover each other by true depth, and throw shadows on themselves, on each other and on the ground,
which is either part of a rendered room or lies unseen in a photograph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from dwpose_core.skeleton import PARTS

from .accessories import accessories
from .backgrounds import Backgrounds
from .beards import Beards
from .body import BodyModel, Local, Posed, Shape
from .camera import Camera
from .clothes import Wardrobe
from .company import TOGETHER, Meeting, draw_meeting
from .composite import Disturbance, photometric
from .fabrics import muted
from .items import Item
from .labels import OCCLUDED, VISIBLE, KeypointRules, visibility
from .light import LightSampler
from .poses import PoseSampler
from .props import SMALLER, PropMaker, lowest, moved
from .render import Renderer
from .rotations import Y, turn
from .staging import (
    HERE,
    SHOULDER_WIDTH,
    Plan,
    apart,
    beyond_camera,
    draw_plan,
    footprint,
    heading,
    place_another,
    place_camera,
    swallows,
)

# Last parts of what generators are seeded with; actors have 1 and up, files 100, crops 200. Never 0: to NumPy the seeds
# (a, b) and (a, b, 0) are the same, and a camera drawn from the numbers of the plan hangs on the plan.
SCENE_STREAM, SHAPE_STREAM = 300, 400
SCENES_PER_CAST = 6  # scenes in a row that share bodies (not poses, faces or clothes): morphing is dear
NOBODY, THING = -1, -2  # in the map of who is seen where
DISTURBANCE = Disturbance(convolved=0.05, photometric=0.7)
SEATED = ("sit", "crossed", "sit01")
RIDING = {"ride": False, "mounted": True}  # whether it is an animal that they sit on
HOLDING, ON_BOARDS = 0.13, 0.05  # share of hands that hold something, of people on skis, skateboards, surfboards
SUITABLE = 10  # poses drawn for one in which somebody can meet somebody
LEAST_SEEN = 30  # pixels; whoever shows less gets no label
NO_LIMIT = np.array((-1e6, -1e6, 1e6, 1e6))


@dataclass(frozen=True)
class Actor:
    """One person in the scene's world (dm)."""

    items: list[Item]
    points: np.ndarray  # (133, 3)
    skin: np.ndarray  # (n, 3)
    style: str
    props: list[Item]  # seat and what is in the hands
    meets: bool  # whether the `meeting` that was asked for is what they do
    covered: np.ndarray  # (n, 3) where on the ground they are; of who rides, all that the animal or bicycle covers


@dataclass(frozen=True)
class PersonLabel:
    """Labels of one person in pixels of the picture; whole numbers are pixel centres.

    Attributes:
        keypoints: (133, 2) float32, true positions, outside the picture too.
        state: (133,) uint8, one of OUTSIDE, HIDDEN, VISIBLE, OCCLUDED.
        mask: (h, w) bool, where this person is seen.
        full_box: (4,) left, top, right, bottom of the whole person, covered or outside parts included.
        style: of the pose.
        number: for `SceneGenerator.scene(..., alone=number)`.
    """

    keypoints: np.ndarray
    state: np.ndarray
    mask: np.ndarray
    full_box: np.ndarray
    style: str
    number: int


@dataclass(frozen=True)
class Scene:
    """image: (h, w, 3) uint8 RGB. people: those seen in at least LEAST_SEEN pixels."""

    image: np.ndarray
    people: list[PersonLabel]
    plan: Plan


@dataclass
class Canvas:
    """Samples of the growing picture: premultiplied colour, alpha, distance (dm) of what was drawn nearest, hair and
    other half transparent things included, and of what is solid; and who that is."""

    rgb: np.ndarray
    alpha: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray
    who: np.ndarray

    @classmethod
    def empty(cls, width: int, height: int) -> Canvas:
        shape = (height, width)
        rgb, alpha = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32)
        nearest, distance = (np.full(shape, np.inf, np.float32) for _ in range(2))
        return cls(rgb, alpha, nearest, distance, np.full(shape, NOBODY, np.int8))

    def add(self, rgba: np.ndarray, distance: np.ndarray, corner: tuple[int, int], who: int) -> None:
        """Merge a layer (premultiplied uint8) at (left, top), over or under what is there, sample by sample."""
        area = slice(corner[1], corner[1] + rgba.shape[0]), slice(corner[0], corner[0] + rgba.shape[1])
        layer = rgba.astype(np.float32) / 255
        there, nearest = self.alpha[area], self.nearest[area]
        front = distance < nearest
        # Over: old * (1 - new alpha) + new. Under: old + new * (1 - old alpha).
        keep = np.where(front, 1 - layer[..., 3], 1.0)
        share = np.where(front, 1.0, 1 - there)
        solid = (layer[..., 3] > 0.5) & (distance < self.distance[area])
        self.rgb[area] = self.rgb[area] * keep[..., None] + layer[..., :3] * share[..., None]
        self.alpha[area] = there * keep + layer[..., 3] * share
        np.copyto(nearest, distance, where=front & (layer[..., 3] > 0))
        np.copyto(self.distance[area], distance, where=solid)
        self.who[area][solid] = who


class SceneGenerator:
    """Draws scene `number` of `seed`, reproducibly.

    Args:
        assets: folder of packed body assets.
        longest: longer side of the pictures in pixels.
        supersample: samples per pixel and direction.
        captured: share of poses from motion capture, which is not CC0.

    Raises:
        ValueError: for assets that lack something, a panorama of the place that a light is from, say.
    """

    def __init__(self, assets: Path, longest: int = 640, supersample: int = 2, captured: float = 0.0):
        self.longest = longest
        self.model = BodyModel(assets)
        self.poses = PoseSampler(self.model, assets, captured)
        self.wardrobe = Wardrobe(self.model, assets)
        self.rules = KeypointRules(self.model)
        self.beards = Beards(self.model, self.rules)
        self.lights = LightSampler(assets / "hdri")
        self.backgrounds = Backgrounds(assets)
        if unseen := sorted(self.lights.panoramas.keys() - self.backgrounds.panoramas.keys()):
            raise ValueError(f"{assets} has hdri/{unseen[0]}.hdr but no backgrounds/pano_{unseen[0]}.jpg of that place")
        self.props = PropMaker(assets)
        self.renderer = Renderer((longest, longest), supersample)
        bones = np.array(self.model.bones)[self.model.main_bone]
        seat = np.char.startswith(bones, "pelvis") | np.char.startswith(bones, "upperleg01") | (bones == "root")
        self.seat_vertices = np.flatnonzero(seat)
        self.seat_vertices = np.intersect1d(self.seat_vertices, self.model.skin_vertices)
        self._shape = lru_cache(8)(lambda *key: self.model.random_shape(np.random.default_rng((*key, SHAPE_STREAM))))

    def plan(self, seed: int, number: int) -> Plan:
        """What scene `number` will be, without drawing it."""
        return draw_plan(np.random.default_rng((seed, number)), self.longest)

    def scene(self, seed: int, number: int, alone: int | None = None) -> Scene:
        """Draw a scene. `alone` leaves out everybody and everything but that person (same place, light, camera)."""
        plan = self.plan(seed, number)
        rng = np.random.default_rng((seed, number, SCENE_STREAM))
        actors = [self._actor(seed, number, 0)] if plan.people else []
        subject = actors[0] if actors else None
        camera, distance = place_camera(plan, subject and subject.skin, subject and subject.points, rng)
        for slot in range(1, plan.people):
            meeting = self._meeting(plan, actors, rng)
            actor = self._actor(seed, number, slot, meeting)
            taken = [place for other in actors for place in other.covered]
            free = (plan, taken, camera, distance, rng, actor.covered)
            actors.append(_at(actor, meeting.place if actor.meets else place_another(*free)))
        actors = [a for a in actors if not beyond_camera(a.skin, camera)]
        things = self._things(camera, distance, actors, rng)
        room, background, light = self._surroundings(plan, camera, actors, rng)
        if alone is not None:
            actors, things = [replace(actors[alone], props=[])], []
        things += [item for actor in actors for item in actor.props]
        image, people = self._picture(plan, camera, actors, things, room, background, light, rng)
        return Scene(image, people, plan)

    def _meeting(self, plan: Plan, actors: list[Actor], rng: np.random.Generator) -> Meeting | None:
        """What the next person does with one of `actors`; None where there is nothing, or no room."""
        if not plan.close or rng.random() >= TOGETHER:
            return None
        other = int(rng.integers(len(actors)))
        meeting = draw_meeting(actors[other].points, rng)
        rest = [place for k, actor in enumerate(actors) if k != other for place in actor.covered]
        return meeting if meeting and apart(meeting.place[None], rest) >= SHOULDER_WIDTH * 0.9 else None

    def _actor(self, seed: int, number: int, slot: int, meeting: Meeting | None = None) -> Actor:
        """A dressed, posed person at the origin, on the ground or in the air, with a seat where the pose needs one."""
        rng = np.random.default_rng((seed, number, slot + 1))
        shape = self.model.random_expression(self._shape(seed, number // SCENES_PER_CAST, slot), rng)
        for _ in range(SUITABLE if meeting else 1):
            local, world, style = self.poses.sample(shape, rng)
            posed = self.model.pose(shape, local, world)
            if meeting and meeting.suits(self.rules.locate(shape, posed)):
                posed = self._reaching(shape, local, world, posed, meeting, rng)
                break
        else:
            meeting = None
        items = self.wardrobe.dress(shape, posed, lambda points: points, rng)
        points, skin = self.rules.locate(shape, posed), posed.vertices[self.model.skin_vertices]
        items = muted(items + self.beards.grow(shape, posed, rng) + accessories(points, skin, rng), rng)
        hips, chest = points[11:13].mean(0), points[5:7].mean(0)
        upright = (chest - hips)[1] > 0.75 * np.linalg.norm(chest - hips)
        boards = []
        rides = style in RIDING and upright and not meeting
        if not meeting and rng.random() < ON_BOARDS and style not in SEATED and not rides:
            boards = self.props.boards(points[PARTS["foot"]].reshape(2, 3, 3), rng)
        height = -lowest(items + boards)
        if not meeting and (rng.random() < 0.05 or (style.startswith("fly") and rng.random() < 0.6)):
            height += rng.uniform(0.5, 6.0)  # a jump
        seats = self._seat(posed, hips, height, rng) if style in SEATED and upright else []
        if rides:
            seats, height = self._mount(posed, hips, RIDING[style], rng)
        spin = meeting.spin if meeting else heading(rng)
        lift = spin @ (-hips * (1, 0, 1)) + height * Y
        props, covered = boards + seats, HERE
        if rides:
            covered = np.concatenate([HERE, *(footprint(item.positions) for item in moved(seats, spin, lift))])
        for part in ("left_hand", "right_hand"):
            if rng.random() < HOLDING:
                grip = points[PARTS[part]][[5, 9, 13, 17, 6, 10]].mean(0)
                props += moved(self.props.held(rng), np.eye(3), grip)
        return Actor(
            moved(items, spin, lift),
            points @ spin.T + lift,
            skin @ spin.T + lift,
            style,
            moved(props, spin, lift),
            meeting is not None,
            covered,
        )

    def _reaching(
        self,
        shape: Shape,
        local: Local,
        world: Local,
        posed: Posed,
        meeting: Meeting,
        rng: np.random.Generator,
    ) -> Posed:
        """The person with the hands where `meeting` has them; `local` and `world` change in place."""
        hips = self.rules.locate(shape, posed)[11:13].mean(0)
        ground = posed.vertices[self.model.skin_vertices, 1].min()
        stands = np.array((hips[0], ground, hips[2]))  # what comes to lie at `meeting.place`
        wrists = {side: (at - meeting.place) @ meeting.spin + stands for side, at in meeting.wrists.items()}
        self.poses.reach(shape, local, world, wrists, rng)
        return self.model.pose(shape, local, world)

    def _seat(self, posed: Posed, hips: np.ndarray, height: float, rng: np.random.Generator) -> list[Item]:
        """Below the buttocks, in the person's own axes; its feet end at the ground."""
        top = self._buttocks(posed, hips) + height
        if top < 0.8:
            return []
        place = np.array((hips[0], -height, hips[2] + rng.uniform(-0.3, 0.8)))
        return moved(self.props.seat(float(top), rng), turn(Y, rng.normal(0, 0.1)), place)

    def _mount(
        self, posed: Posed, hips: np.ndarray, animal: bool, rng: np.random.Generator
    ) -> tuple[list[Item], float]:
        """An animal or a bicycle below the buttocks, in the person's own axes, and how far these are lifted by it."""
        items, saddle = self.props.mount(animal, rng)
        height = float(saddle[1] - 0.3 - self._buttocks(posed, hips))
        return moved(items, np.eye(3), np.array((hips[0] - saddle[0], -height, hips[2] - saddle[2]))), height

    def _buttocks(self, posed: Posed, hips: np.ndarray) -> float:
        """The lowest Y (dm) of what a person sits on."""
        below = posed.vertices[self.seat_vertices]
        return float(below[np.hypot(below[:, 0] - hips[0], below[:, 2] - hips[2]) < 2.0][:, 1].min())

    def _things(self, camera: Camera, distance: float, actors: list[Actor], rng: np.random.Generator) -> list[Item]:
        """Furniture, animals and vehicles around, and sometimes between, the camera and the people."""
        things = []
        eye = -camera.rotation.T @ camera.shift
        for _ in range(rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))):
            depth = distance * np.exp(rng.uniform(np.log(0.35), np.log(3.0))) + 2
            place = np.array((eye[0] + camera.window[1] * depth * rng.uniform(-1.1, 1.1), 0, eye[2] - depth))
            things.append(moved(self.props.furniture(rng), np.eye(3), place))
        if rng.random() < 0.2 and distance > 12:  # something near the line of sight
            share = rng.uniform(0.3, 0.75)
            place = np.array((rng.normal(0, 2.5), 0.0, 0.0)) * (1 - share) + eye * share * (1, 0, 1)
            things.append(moved(self.props.furniture(rng, SMALLER), np.eye(3), place))
        fitting = (thing for thing in things if not swallows(thing, [*(actor.skin for actor in actors), eye[None]]))
        return [item for thing in fitting for item in thing if not beyond_camera(item.positions, camera)]

    def _surroundings(self, plan: Plan, camera: Camera, actors: list[Actor], rng: np.random.Generator):
        """Items of ground and walls, the picture behind them (h, w, 3) uint8, and the light in view space."""
        kind = rng.random()
        scenery = list(self.lights.panoramas)[rng.integers(len(self.lights.panoramas))]
        if kind < 0.35:  # a room, or a ground under an open sky
            room = [self.props.ground(rng, catcher=False)]
            eye = -camera.rotation.T @ camera.shift
            feet = [eye[None]] + [actor.skin[::50] for actor in actors]
            if rng.random() < 0.7:
                room += self.props.walls(np.concatenate(feet), rng)
        else:
            room = [self.props.ground(rng, catcher=True)] if rng.random() < 0.75 else []
        if kind < 0.5:  # more often a photograph: panoramas are enlarged, which blurs them
            background = self.backgrounds.around(scenery, camera, plan.size, rng)
        else:
            background = self.backgrounds.sample(plan.size, rng)
        if rng.random() < 0.2:
            blur = np.exp(rng.uniform(np.log(0.4), np.log(5.0))) * self.longest / 640
            background = cv2.GaussianBlur(background, (0, 0), blur)
        return room, background, self.lights.sample(rng, scenery).seen_from(camera.rotation)

    def _picture(self, plan, camera, actors, things, room, background, light, rng):
        view = [moved(actor.items, camera.rotation, camera.shift) for actor in actors]
        things, room = (moved(items, camera.rotation, camera.shift) for items in (things, room))
        casters = [item for items in (*view, things) for item in items]
        softness = rng.uniform(0.05, 0.8)
        up = camera.rotation[:, 1]
        shadows = self.renderer.cast_shadows(casters, light, up, softness) if casters else None
        fine = self.renderer.supersample
        canvas = Canvas.empty(plan.size[0] * fine, plan.size[1] * fine)
        if room or things:
            still = (room + things, camera.projection(), light, plan.size, shadows)
            canvas.add(*self.renderer.render_samples(*still), (0, 0), THING)
        far_first = sorted(range(len(actors)), key=lambda k: actors[k].skin.mean(0) @ camera.rotation[2])
        surfaces = {k: self._draw(canvas, view[k], k, plan, camera, light, shadows) for k in far_first}
        people = [
            label
            for k, actor in enumerate(actors)
            if (label := self._label(k, actor, view[k], surfaces[k], canvas, camera, plan)).mask.sum() >= LEAST_SEEN
        ]
        rgb = cv2.resize(canvas.rgb, plan.size, interpolation=cv2.INTER_AREA) * 255
        alpha = cv2.resize(canvas.alpha, plan.size, interpolation=cv2.INTER_AREA)[..., None]
        image = photometric(rgb + background * (1 - alpha), DISTURBANCE, rng)
        return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8)), people

    def _draw(self, canvas, items, who, plan, camera, light, shadows) -> np.ndarray:
        """Render one person into its own rectangle and merge it -> (h, w) distances of that person alone."""
        fine = self.renderer.supersample
        surface = np.full(canvas.distance.shape, np.inf, np.float32)
        box = _extent(items, camera, plan.size)
        left, top = np.clip(np.floor(box[:2]) - 1, 0, plan.size).astype(int)
        right, bottom = np.clip(np.ceil(box[2:]) + 2, 0, plan.size).astype(int)
        if left < right and top < bottom:
            window = camera.part((left, top, right, bottom), plan.size)
            size = (right - left, bottom - top)
            rgba, distance = self.renderer.render_samples(items, window.projection(), light, size, shadows)
            canvas.add(rgba, distance, (left * fine, top * fine), who)
            surface[top * fine : bottom * fine, left * fine : right * fine] = distance
        return surface

    def _label(self, who, actor, items, surface, canvas, camera, plan) -> PersonLabel:
        tangents, distance = camera.project(actor.points)
        pixels = camera.to_pixels(tangents, plan.size)
        state = visibility(pixels, distance, surface, plan.size, NO_LIMIT)
        fine = self.renderer.supersample
        cell = np.floor((pixels + 0.5) * fine).astype(int)
        for k in np.flatnonzero(state == VISIBLE):
            x, y = cell[k]
            if canvas.who[y, x] != who and canvas.distance[y, x] < distance[k]:
                state[k] = OCCLUDED
        seen = (canvas.who == who).astype(np.float32)
        mask = cv2.resize(seen, plan.size, interpolation=cv2.INTER_AREA) > 0.5
        return PersonLabel(pixels.astype(np.float32), state, mask, _extent(items, camera, plan.size), actor.style, who)


def _at(actor: Actor, place: np.ndarray) -> Actor:
    still = np.eye(3)
    items, props = moved(actor.items, still, place), moved(actor.props, still, place)
    points, skin, covered = actor.points + place, actor.skin + place, actor.covered + place
    return replace(actor, items=items, points=points, skin=skin, props=props, covered=covered)


def _extent(items: list[Item], camera: Camera, size: tuple[int, int]) -> np.ndarray:
    """Left, top, right, bottom (px) of items in view space that all lie before the camera."""
    low, high = [], []
    left, right, bottom, top = camera.window
    for item in items:
        used = item.positions[item.index.ravel()].T
        x, y = used[0] / -used[2], used[1] / -used[2]
        low.append((x.min(), -y.max()))
        high.append((x.max(), -y.min()))
    scale = np.array(size) / (right - left, top - bottom)
    corners = np.stack((np.min(low, 0), np.max(high, 0)))
    return ((corners - (left, -top)) * scale - 0.5).ravel()
