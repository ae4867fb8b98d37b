"""Captured poses for the body: joint positions -> bone rotations. Only used on request: motion capture is not CC0.

poses_cmu.npz of an asset folder holds frames of the CMU database (mocap.cs.cmu.edu; free to use, not to be resold as
such; funded by NSF EIA-0196217): pos (n, 25, 3) with Y up, joints (25,) names, clip (n,).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from .body import BodyModel, Shape
from .rotations import Y, Z, frame, turn, unit

FILE = "poses_cmu.npz"
HINGE = 0.15  # how much the usual bend of an elbow or knee weighs against the measured one, where both are straight
JITTER = 0.1  # radians; few people were captured, so limbs are varied


def fraction(rotation: np.ndarray, share: float) -> np.ndarray:
    """The rotation about the same axis by `share` of the angle (0..pi)."""
    axis = np.array((rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]))
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(rotation) - 1) / 2
    return np.eye(3) if sine < 1e-6 else turn(axis, share * np.arctan2(sine, cosine))


def motion_file(assets: Path) -> Path:
    """The captured poses of an asset folder; ValueError where it has none."""
    path = assets / FILE
    if not path.is_file():
        raise ValueError(f"{assets} holds no {FILE}: build the assets with motion capture, or do without it")
    return path


class MotionLibrary:
    """Frames of captured motion, without the T-poses that clips begin with."""

    def __init__(self, model: BodyModel, assets: Path):
        data = np.load(motion_file(assets), allow_pickle=False)
        self.model = model
        inside_clip = np.flatnonzero(np.diff(data["clip"]) == 0) + 1
        self.frames = data["pos"][inside_clip]
        self.joint = {str(name): i for i, name in enumerate(data["joints"])}
        self.swap = [
            self.joint[{"L": "R", "R": "L"}[name[0]] + name[1:] if name[1] == "_" else name] for name in self.joint
        ]

    def sample(self, shape: Shape, rng: np.random.Generator) -> tuple[dict, dict]:
        """(local, world) bone rotations of a random frame, mirrored half the time, limbs a little varied."""
        positions = self.frames[rng.integers(len(self.frames))].astype(float)
        if rng.random() < 0.5:
            positions = positions[self.swap] * (-1, 1, 1)
        return self.rotations(positions, shape, rng)

    def rotations(self, positions: np.ndarray, shape: Shape, rng: np.random.Generator | None) -> tuple[dict, dict]:
        """Joint positions (25, 3), any unit -> rotations as `BodyModel.pose` takes them, heading to +Z.

        Trunk from the axes of hips and shoulders, limbs from the directions of their bones, with elbows and knees as
        hinges. Head, hands and toes are not captured.
        """

        def between(a: str, b: str) -> np.ndarray:
            return unit(positions[self.joint[b]] - positions[self.joint[a]])

        pelvis = frame(between("R_Thigh", "L_Thigh"), between("Hip", "Spine02"))
        chest = frame(between("R_Upperarm", "L_Upperarm"), between("Spine02", "NeckTwist01"))
        ahead = pelvis[:, 2] * (1, 0, 1)
        level = frame(ahead, Y) if np.linalg.norm(ahead) > 0.2 else np.stack((Z, Y, np.cross(Z, Y)), 1)
        heading = np.stack((Z, Y, np.cross(Z, Y)), 1) @ level.T
        pelvis, chest = heading @ pelvis, heading @ chest
        bend = fraction(pelvis.T @ chest, 0.2)
        local = {"root": pelvis} | {f"spine0{k}": bend for k in range(1, 6)}
        world = {}

        def limb(names: tuple[str, str, str], bones: tuple[str, str, str], usual: np.ndarray, rest_usual: np.ndarray):
            """Two bones of a limb that bends in one plane; `usual` is where its second bone bends to."""
            upper, lower = (heading @ between(a, b) for a, b in pairwise(names))
            if rng is not None:
                upper, lower = (turn(rng.normal(size=3), rng.normal(0, JITTER)) @ v for v in (upper, lower))
            heads = [shape.heads[self.model.bone[bone]] for bone in bones]
            normal = np.cross(upper, lower + HINGE * usual)
            rest = unit(heads[1] - heads[0]), unit(heads[2] - heads[1])
            rest_normal = np.cross(rest[0], rest[1] + HINGE * rest_usual)
            for bone, direction, straight in zip(bones, (upper, lower), rest, strict=False):
                world[bone] = frame(direction, normal) @ frame(straight, rest_normal).T
            return lower, rest[1]

        for side in "LR":
            arm = (f"upperarm01.{side}", f"lowerarm01.{side}", f"wrist.{side}")
            limb((f"{side}_Upperarm", f"{side}_Forearm", f"{side}_Hand"), arm, chest[:, 2], Z)
            leg = (f"upperleg01.{side}", f"lowerleg01.{side}", f"foot.{side}")
            calf, rest_calf = limb((f"{side}_Thigh", f"{side}_Calf", f"{side}_Foot"), leg, -pelvis[:, 2], -Z)
            foot = heading @ between(f"{side}_Foot", f"{side}_ToeBase")
            heads = [shape.heads[self.model.bone[bone]] for bone in (f"foot.{side}", f"toe2-1.{side}")]
            world[f"foot.{side}"] = frame(foot, -calf) @ frame(heads[1] - heads[0], -rest_calf).T
        return local, world
