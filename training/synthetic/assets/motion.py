"""Joint positions from motion capture in BVH files: poses_cmu.npz."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .sources import Checkout, naming

ROOT = "CC_Base_Hip"  # clips with another root are on another skeleton and are skipped
PREFIX = "CC_Base_"
TRUNK = ("Hip", "Waist", "Spine01", "Spine02", "NeckTwist01", "NeckTwist02", "Head")
LIMBS = ("Clavicle", "Upperarm", "Forearm", "Hand", "Mid1", "Thigh", "Calf", "Foot", "ToeBase")
JOINTS = (*TRUNK, *(f"{side}_{joint}" for side in "LR" for joint in LIMBS))
FRAMES = 150  # at most, per clip, evenly spread


@dataclass(frozen=True)
class Clip:
    names: list[str]
    parents: list[int]
    offsets: np.ndarray  # (joints, 3)
    channels: list[list[str]]  # "Xposition", "Zrotation", ... per joint, in the order of the numbers
    frames: list[str]  # lines of numbers


def read_bvh(text: str) -> Clip:
    """Hierarchy and frames; end sites are left out."""
    names, parents, offsets, channels, open_joints = [], [], [], [], []
    lines = iter(text.splitlines())
    for line in lines:
        words = line.split()
        key = words[0] if words else ""
        if key in ("ROOT", "JOINT"):
            names.append(words[1])
            parents.append(open_joints[-1] if open_joints else -1)
            channels.append([])
            offsets.append([0.0] * 3)
            latest = len(names) - 1
        elif key == "End":
            latest = -1
        elif key == "{":
            open_joints.append(latest)
        elif key == "}":
            open_joints.pop()
        elif key == "OFFSET" and open_joints[-1] >= 0:
            offsets[open_joints[-1]] = [float(x) for x in words[1:4]]
        elif key == "CHANNELS":
            channels[open_joints[-1]] = words[2:]
        elif key == "MOTION":
            break
    heading = next(lines, "").split()
    if heading[:1] != ["Frames:"]:
        raise ValueError("a BVH file without a MOTION section")
    next(lines)  # frame time
    frames = [line for line in list(lines)[: int(heading[1])] if line.strip()]
    return Clip(names, parents, np.array(offsets), channels, frames)


def _about(axis: str, degrees: np.ndarray) -> np.ndarray:
    """(n, 3, 3) rotations about a coordinate axis."""
    a, b = {"X": (1, 2), "Y": (2, 0), "Z": (0, 1)}[axis]
    matrices = np.tile(np.eye(3), (len(degrees), 1, 1))
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrices[:, a, a] = matrices[:, b, b] = cosine
    matrices[:, b, a], matrices[:, a, b] = sine, -sine
    return matrices


def joint_positions(clip: Clip, most: int = FRAMES) -> np.ndarray:
    """(frames, joints, 3) in the file's unit, of at most `most` frames spread over the clip."""
    chosen = np.linspace(0, len(clip.frames) - 1, min(most, len(clip.frames))).astype(int)
    values = np.array([clip.frames[k].split() for k in chosen], float)
    rotations, positions, at = [], [], 0
    for parent, offset, channels in zip(clip.parents, clip.offsets, clip.channels, strict=True):
        columns = dict(zip(channels, values[:, at : at + len(channels)].T, strict=True))
        at += len(channels)
        rotation = np.broadcast_to(np.eye(3), (len(values), 3, 3))
        for kind in channels:
            if kind.endswith("rotation"):
                rotation = rotation @ _about(kind[0], columns[kind])
        place = np.tile(offset, (len(values), 1))
        for axis, name in enumerate("XYZ"):
            place[:, axis] = columns.get(f"{name}position", place[:, axis])
        if parent >= 0:
            place = positions[parent] + np.einsum("nij,nj->ni", rotations[parent], place)
            rotation = rotations[parent] @ rotation
        rotations.append(rotation)
        positions.append(place)
    return np.stack(positions, axis=1)


def motion_arrays(cmu: Checkout) -> dict[str, np.ndarray]:
    """Arrays of poses_cmu.npz."""
    clips, lengths, poses = [], [], []
    for path in tqdm(cmu.find("**/*.bvh"), desc="motion capture", unit="clip"):
        text = cmu.text(path)
        with naming(path):
            clip = read_bvh(text)
            if clip.names[0] != ROOT:
                continue
            columns = [clip.names.index(PREFIX + joint) for joint in JOINTS]
            positions = joint_positions(clip)[:, columns].astype(np.float32)  # as the reference pack was rounded
        clips.append(path.stem)
        lengths.append(len(positions))
        poses.append((positions - positions[:, :1]).astype(np.float16))
    if not clips:
        raise ValueError(f"{cmu.folder} holds no clip whose root is {ROOT}")
    return {
        "joints": np.array(JOINTS),
        "pos": np.concatenate(poses),
        "clip_names": np.array(clips),
        "clip": np.repeat(np.arange(len(clips)), lengths).astype(np.int16),
    }
