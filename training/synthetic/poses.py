"""Random poses: trunk and legs by joint angles, arms by inverse kinematics to a target; hands are from hands.py.

Hands are placed by where they go (hip, face, opposite elbow, lap, overhead, ...), so self-contact is common, as it is
in photographs. A share of the poses starts from the CC0 poses of the asset folder (fighting, running, sitting, ...),
perturbed and mirrored. Motion capture is used on request only (motion.py): without it the pose sampler is free of
third-party terms.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from .body import BodyModel, Local, Shape
from .contact import OwnBody, along_arm
from .hands import draw_hand, pick, pose_hand
from .motion import MotionLibrary
from .rotations import X, Y, Z, euler_degrees, frame, turn, two_bone

SIDES = (("L", 1.0), ("R", -1.0))  # the left is +X
SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
NECK = ("neck01", "neck02", "neck03", "head")
FILE_SHARE = 0.25  # of all poses, from the pose files

# Legs: (share, trunk pitch mean, then per leg hip flexion, abduction, knee flexion as (mean, spread) in degrees).
# A second leg entry makes the two sides differ; they are swapped at random.
LEG_STYLES = {
    "stand": (0.29, 3, ((2, 5), (3, 4), (4, 4))),
    "contrapposto": (0.10, 2, ((0, 4), (2, 3), (2, 2)), ((15, 7), (8, 6), (28, 10))),
    "walk": (0.12, 5, ((28, 9), (2, 4), (14, 10)), ((-18, 8), (2, 4), (28, 18))),
    "run": (0.05, 14, ((65, 18), (3, 6), (85, 25)), ((-12, 12), (2, 5), (45, 30))),
    "sit": (0.14, 4, ((85, 12), (10, 12), (85, 18))),
    "crossed": (0.03, 4, ((82, 8), (-6, 5), (80, 12)), ((98, 8), (-14, 6), (65, 15))),
    "floor": (0.05, 2, ((88, 12), (20, 14), (45, 40))),
    "recline": (0.03, -32, ((70, 22), (12, 14), (60, 35)), ((40, 25), (12, 14), (35, 30))),
    "squat": (0.05, 22, ((112, 14), (18, 12), (125, 14))),
    "kneel": (0.03, 5, ((10, 15), (8, 8), (105, 15)), ((80, 12), (8, 8), (90, 12))),
    "bend": (0.04, 45, ((35, 18), (6, 6), (15, 12))),
    "kick": (0.05, -2, ((70, 30), (15, 20), (25, 25)), ((3, 8), (4, 6), (12, 10))),
    "crouch": (0.03, 32, ((65, 15), (8, 8), (70, 20))),
    "lunge": (0.03, 12, ((80, 18), (8, 10), (80, 20)), ((-10, 12), (6, 8), (40, 25))),
    "ride": (0.03, 28, ((80, 15), (14, 8), (75, 18)), ((50, 15), (14, 8), (50, 20))),  # a bicycle
    "mounted": (0.02, 5, ((55, 10), (36, 6), (65, 12))),
    # Gymnasts, dancers, children: whatever a spine, a hip and a knee can do.
    "split": (0.025, 8, ((85, 25), (20, 20), (8, 8)), ((-25, 12), (12, 15), (12, 12))),
    "backbend": (0.025, -75, ((-15, 20), (12, 10), (60, 40))),
    "fold": (0.02, 75, ((60, 35), (10, 15), (20, 25))),
    "any": (0.11, 10, ((45, 50), (25, 25), (55, 45)), ((20, 45), (20, 25), (40, 40))),
}
ACROBATIC = ("any", "split", "backbend", "fold")  # half of them are not upright, 40 % reach overhead
# Arms: (share, anchor, offset, spread, pole). Anchors: "shoulder" (offset in arm lengths), or a body landmark
# (offset in dm). Axes are those of the chest with x pointing outward on the arm's own side.
ARM_STYLES = {
    "hang": (0.34, "shoulder", (0.14, -0.96, 0.08), 0.06, (0.4, 0.0, -1.0)),
    "hang bent": (0.14, "shoulder", (0.18, -0.72, 0.38), 0.14, (0.6, -0.3, -1.0)),
    "hand on hip": (0.08, "hip", (0.9, 1.2, 0.1), 0.35, (1.0, 0.1, -0.5)),
    "pocket": (0.04, "hip", (0.7, -0.3, 0.5), 0.3, (0.7, 0.0, -1.0)),
    "belly": (0.09, "hips", (0.3, 2.3, 1.9), 0.8, (0.9, -0.4, -0.4)),
    "crossed": (0.05, "other shoulder", (0.3, -2.6, 1.6), 0.35, (0.7, -0.8, 0.3)),
    "face": (0.06, "head", (0.4, 0.3, 1.5), 0.45, (0.7, -1.0, 0.2)),
    "ear": (0.03, "head", (1.1, 0.6, 0.3), 0.35, (0.9, -0.8, 0.1)),
    "behind head": (0.02, "head", (0.4, 0.7, -0.9), 0.3, (1.0, 0.5, 0.3)),
    "overhead": (0.05, "shoulder", (0.1, 0.9, 0.15), 0.2, (1.0, 0.0, 0.3)),
    "forward": (0.06, "shoulder", (0.05, -0.05, 0.85), 0.22, (0.7, -1.0, 0.0)),
    "sideways": (0.04, "shoulder", (0.85, 0.05, 0.2), 0.22, (0.0, -1.0, -0.5)),
    "wave": (0.04, "shoulder", (0.5, 0.35, 0.3), 0.15, (0.8, -1.0, 0.0)),
    "propped": (0.01, "hip", (1.6, -0.4, -2.8), 0.7, (0.7, 0.2, -1.0)),
    "back": (0.02, "hips", (0.2, 1.2, -1.5), 0.4, (1.0, 0.3, -0.6)),
    "any": (0.06, "shoulder", (0.45, -0.05, 0.35), 0.45, (0.7, -0.6, -0.6)),
}
AWAY = ("forward", "sideways", "wave", "overhead", "face", "any")  # arms that hold a hand away from the body
REACH = 1.12  # arm lengths; who is farther away is not reached for
WAYS_OUT = 4  # steps that an arm is given to leave the body
LAP_SHARE = 0.4  # of arms in seated poses that rest on the own thigh
PROPPED = {"recline": 0.6, "floor": 0.25}  # share of those who lean on both hands, at their sides or behind them


def read_pose_file(path: Path) -> Local:
    """Local bone rotations of the first frame of a BVH file for the same skeleton."""
    names: list[str] = []
    channels: list[list[str]] = []
    lines = iter(path.read_text().splitlines())
    for line in lines:
        words = line.split()
        if words[:1] in (["ROOT"], ["JOINT"]):
            names.append(words[1])
        elif words[:1] == ["CHANNELS"]:
            channels.append(words[2:])
        elif words[:1] == ["Frame"]:
            break
    values = np.array(next(lines).split(), float)
    local, at = {}, 0
    for name, kinds in zip(names, channels, strict=True):
        spins = [(kind[0], values[at + k]) for k, kind in enumerate(kinds) if kind.endswith("rotation")]
        local[name] = euler_degrees("".join(axis for axis, _ in spins), np.array([angle for _, angle in spins]))
        at += len(kinds)
    return local


def mirrored(local: Local) -> Local:
    """The pose with left and right exchanged."""
    flip = np.diag((-1.0, 1.0, 1.0))
    swap = {"L": "R", "R": "L"}

    def other(name: str) -> str:
        return name[:-1] + swap[name[-1]] if name[-2:] in (".L", ".R") else name

    return {other(name): flip @ rotation @ flip for name, rotation in local.items()}


class PoseSampler:
    """Draws (local, world, style): rotations as `BodyModel.pose` takes them and the name of the leg or file style.

    `captured` is the share of poses from motion capture.
    """

    def __init__(self, model: BodyModel, assets: Path, captured: float = 0.0):
        if not 0 <= captured <= 1:
            raise ValueError(f"the share of captured poses must lie in 0..1, got {captured}")
        self.model = model
        self.captured = captured
        self.own_body = OwnBody(model)
        self.motion = MotionLibrary(model, assets) if captured else None
        self.files = {path.stem: read_pose_file(path) for path in sorted((assets / "bvh").glob("*.bvh"))}

    def sample(self, shape: Shape, rng: np.random.Generator, reaching: bool = False) -> tuple[Local, Local, str]:
        """`reaching`: both hands are held up or out, as for a photograph of a hand."""
        world: Local = {}
        if self.motion and rng.random() < self.captured:
            return *self._captured(shape, rng, reaching), "captured"
        if rng.random() < FILE_SHARE:
            style = list(self.files)[rng.integers(len(self.files))]
            local = dict(self.files[style])
            if rng.random() < 0.5:
                local = mirrored(local)
            for bone in ("upperarm01", "lowerarm01", "upperleg01", "lowerleg01"):
                for side, _ in SIDES:
                    spread = 0.12 if bone.startswith("lower") else 0.22
                    local[f"{bone}.{side}"] = local[f"{bone}.{side}"] @ turn(rng.normal(size=3), rng.normal(0, spread))
            self._head(local, rng, 0.6)
            new_arms = rng.random() < 0.4
        else:
            style = pick(LEG_STYLES, rng)
            local = {}
            self._trunk_and_legs(local, style, rng)
            self._head(local, rng, 1.0)
            new_arms = True
        local["root"] = self._attitude(style in ACROBATIC, rng) @ local["root"]
        if new_arms or reaching:
            self._arms(local, world, shape, style, rng, reaching)
        for side, sign in SIDES:
            pose_hand(local, draw_hand(rng), shape, self.model.bone, side, sign)
        return local, world, style

    def reach(
        self,
        shape: Shape,
        local: Local,
        world: Local,
        wrists: dict[str, np.ndarray],
        rng: np.random.Generator,
    ) -> None:
        """Bring wrists (side -> (3,) dm in the axes of the pose) of a drawn pose elsewhere, if they can get there."""
        rotations, positions = self.model.forward_kinematics(shape, local, world)
        bone = self.model.bone
        chest = rotations[bone["spine01"]]
        self.own_body.settle(shape, rotations, positions)
        for side, sign in SIDES:
            if side not in wrists:
                continue
            shoulder, target = positions[bone[f"upperarm01.{side}"]], wrists[side]
            names = [f"{part}.{side}" for part in ("upperarm01", "lowerarm01", "wrist")]
            length = sum(np.linalg.norm(shape.heads[bone[b]] - shape.heads[bone[a]]) for a, b in pairwise(names))
            if np.linalg.norm(target - shoulder) > REACH * length:
                continue
            behind = (target - shoulder) @ chest[:, 2] < 0
            pole = chest @ (np.array((sign * 0.8, -0.5, -0.8 if behind else -0.2)) + rng.normal(0, 0.2, 3))
            self._bend_arm(local, world, shape, side, shoulder, target, pole, rng, clear=True)
            pose_hand(local, draw_hand(rng), shape, bone, side, sign)

    def _captured(self, shape: Shape, rng: np.random.Generator, reaching: bool) -> tuple[Local, Local]:
        local, world = self.motion.sample(shape, rng)
        self._head(local, rng, 0.6)
        for side, sign in SIDES:
            heads = [shape.heads[self.model.bone[f"{part}.{side}"]] for part in ("lowerarm01", "wrist")]
            elbow = world[f"lowerarm01.{side}"]
            fore, twist = elbow @ (heads[1] - heads[0]), np.clip(rng.normal(0, 0.6), -1.3, 1.3)
            world[f"lowerarm02.{side}"] = turn(fore, twist / 2) @ elbow
            local[f"wrist.{side}"] = elbow_to_wrist(elbow, fore, twist)
            pose_hand(local, draw_hand(rng), shape, self.model.bone, side, sign)
        if reaching or rng.random() < 0.2:
            self._arms(local, world, shape, "captured", rng, reaching)
        return local, world

    def _attitude(self, acrobatic: bool, rng: np.random.Generator) -> np.ndarray:
        """Of the whole body: mostly upright, some lie, few hang or tumble. The heading comes from the camera."""
        kind = rng.random()
        upright, lying = (0.5, 0.15) if acrobatic else (0.84, 0.11)
        if kind < upright:
            return turn(X, rng.normal(0, 0.05)) @ turn(Z, rng.normal(0, 0.05))
        if kind < upright + lying:
            return turn(X, rng.choice((-1, 1)) * rng.uniform(1.2, 1.7)) @ turn(Y, rng.uniform(-np.pi, np.pi))
        return turn(rng.normal(size=3), rng.uniform(0, np.pi))

    def _trunk_and_legs(self, local: Local, style: str, rng: np.random.Generator) -> None:
        _, pitch, *legs = LEG_STYLES[style]
        local["root"] = turn(X, np.deg2rad(rng.normal(pitch * 0.35, 5))) @ turn(Z, rng.normal(0, 0.05))
        bend = (rng.normal(pitch * 0.65, 9), rng.normal(0, 12), rng.normal(0, 6))
        part = euler_degrees("XYZ", np.array(bend) / len(SPINE))
        for bone in SPINE:
            local[bone] = part
        order = SIDES if rng.random() < 0.5 else SIDES[::-1]
        for (side, sign), leg in zip(order, (legs[0], legs[-1]), strict=True):
            flexion, abduction, knee = (np.deg2rad(rng.normal(mean, spread)) for mean, spread in leg)
            forward = turn(X, -np.clip(flexion, -0.6, 2.3))
            local[f"upperleg01.{side}"] = turn(Y, sign * rng.normal(0.1, 0.2)) @ turn(Z, sign * abduction) @ forward
            local[f"lowerleg01.{side}"] = turn(X, np.clip(knee, 0.0, 2.5))
            local[f"foot.{side}"] = turn(X, rng.normal(0.1, 0.2)) @ turn(Y, sign * rng.normal(0.0, 0.12))

    def _head(self, local: Local, rng: np.random.Generator, scale: float) -> None:
        pitch, yaw, roll = rng.normal((4, 0, 0), (14 * scale, 28 * scale, 8 * scale))
        part = euler_degrees("YXZ", np.array((np.clip(yaw, -75, 75), np.clip(pitch, -45, 50), roll)) / len(NECK))
        for bone in NECK:
            local[bone] = part
        gaze = turn(Y, rng.normal(0, 0.25)) @ turn(X, rng.normal(0, 0.1))
        local["eye.L"] = local["eye.R"] = gaze

    def _arms(
        self, local: Local, world: Local, shape: Shape, style: str, rng: np.random.Generator, reaching: bool
    ) -> None:
        styles = {name: ARM_STYLES[name] for name in AWAY} if reaching else ARM_STYLES
        both = pick(styles, rng)
        alike = rng.random() < 0.45
        if style in ACROBATIC and rng.random() < 0.4:  # a handstand, a bridge, a dive
            both, alike = "overhead", True
        elif rng.random() < PROPPED.get(style, 0) and not reaching:
            both, alike = "propped", True
        rotations, positions = self.model.forward_kinematics(shape, local, {})
        bone = self.model.bone
        chest = rotations[bone["spine01"]]

        def at(name: str) -> np.ndarray:
            return positions[bone[name]]

        targets, pocketed = {}, set()
        for side, sign in SIDES:
            other = "R" if side == "L" else "L"
            outward = np.array((sign, 1.0, 1.0))
            length = np.linalg.norm(shape.heads[bone[f"wrist.{side}"]] - shape.heads[bone[f"upperarm01.{side}"]]) * 1.08
            arm = both if alike else pick(styles, rng)
            _, anchor, offset, spread, pole = ARM_STYLES[arm]
            if arm == "pocket":
                pocketed.add(side)
            offset = np.array(offset) + rng.normal(0, spread, 3)
            centre = {
                "shoulder": at(f"upperarm01.{side}"),
                "other shoulder": at(f"upperarm01.{other}"),
                "hip": at(f"upperleg01.{side}"),
                "hips": (at("upperleg01.L") + at("upperleg01.R")) / 2,
                "head": at("head"),
            }[anchor]
            target = centre + chest @ (outward * offset * (length if anchor == "shoulder" else 1.0))
            resting = style in ("sit", "crossed", "floor", "squat") and both != "propped"
            if resting and not reaching and rng.random() < LAP_SHARE:
                pocketed.discard(side)
                thigh = rng.uniform(0.45, 0.95)
                target = (1 - thigh) * at(f"upperleg01.{side}") + thigh * at(f"lowerleg01.{side}")
                target = target + chest @ np.array((0.0, 0.9, 0.3))
            targets[side] = target, chest @ (outward * (np.array(pole) + rng.normal(0, 0.25, 3)))
            # A raised arm lifts its shoulder.
            lift = np.clip((target - at(f"upperarm01.{side}")) @ chest[:, 1] / length, 0, 1)
            local[f"clavicle.{side}"] = turn(Z, sign * (0.45 * lift + rng.normal(0.03, 0.06)))
        rotations, positions = self.model.forward_kinematics(shape, local, world)  # captured legs are in `world`
        self.own_body.settle(shape, rotations, positions)
        for side, _ in SIDES:
            shoulder = at(f"upperarm01.{side}")
            self._bend_arm(local, world, shape, side, shoulder, *targets[side], rng, side not in pocketed)

    def _bend_arm(
        self,
        local: Local,
        world: Local,
        shape: Shape,
        side: str,
        shoulder: np.ndarray,
        target: np.ndarray,
        pole: np.ndarray,
        rng: np.random.Generator,
        clear: bool,
    ) -> None:
        """Bring a wrist to `target`, the elbow toward `pole`; `clear` keeps forearm and hand out of the own body."""
        names = [f"{part}.{side}" for part in ("upperarm01", "lowerarm01", "wrist")]
        rest = [shape.heads[self.model.bone[name]] for name in names]
        rest_upper, rest_fore = rest[1] - rest[0], rest[2] - rest[1]
        lengths = float(np.linalg.norm(rest_upper)), float(np.linalg.norm(rest_fore))
        upper, fore = two_bone(shoulder, target, lengths, pole)
        for _ in range(WAYS_OUT if clear else 0):
            wrist = shoulder + lengths[0] * upper + lengths[1] * fore
            step = self.own_body.way_out(along_arm(wrist, fore))
            if step is None:
                break
            upper, fore = two_bone(shoulder, wrist + step, lengths, pole)
        # The elbow is a hinge: both bones turn so that the plane of the bend goes along.
        world[names[0]] = world[f"upperarm02.{side}"] = frame(upper, fore) @ frame(rest_upper, rest_fore).T
        elbow = frame(fore, upper) @ frame(rest_fore, rest_upper).T
        twist = np.clip(rng.normal(0, 0.6), -1.3, 1.3)
        world[names[1]] = elbow
        world[f"lowerarm02.{side}"] = turn(fore, twist / 2) @ elbow
        local[names[2]] = elbow_to_wrist(elbow, fore, twist)


def elbow_to_wrist(elbow: np.ndarray, fore: np.ndarray, twist: float) -> np.ndarray:
    """Local wrist rotation that completes a forearm twist of which the forearm bone itself carries half."""
    half = turn(fore, twist / 2) @ elbow
    return half.T @ turn(fore, twist) @ elbow
