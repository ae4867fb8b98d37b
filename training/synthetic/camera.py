"""Perspective cameras from any side, and how a photograph is framed: whole person, cut at the waist, close-up, ...

A layer is rendered with a margin beyond the usual crop, and also beyond the border of the imagined photograph; the
border ("frame") is kept, so that compositing can cut there. Tangents below are view x / depth and y / depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dwpose_core.skeleton import PARTS

from .rotations import X, Y, Z, turn

NEAR, FAR = 0.5, 400.0  # dm
MARGIN = 1.25 * 1.3  # the crop padding of top-down pose networks, and room to rotate, shift and scale
UNLIMITED = np.array((-1e6, -1e6, 1e6, 1e6))
# Who looks roughly at the camera and away from it; the others look anywhere. In photographs of COCO the left shoulder
# is to the left of the right one in 22 of 78 people, and left and right are what networks swap there.
FACING, BEHIND = 0.52, 0.18
FACING_SPREAD = 0.65  # radians
FRAMINGS = {
    "full": 0.4,
    "knees": 0.1,
    "waist": 0.16,
    "bust": 0.1,
    "legs": 0.07,
    "middle": 0.04,
    "side": 0.04,
    "face": 0.05,
    "hand": 0.04,
}
# Photographs of a face or a hand are what whole-body crops are worst at.
CLOSE_UPS = {"full": 0.15, "waist": 0.1, "bust": 0.1, "face": 0.25, "hand": 0.4}
SHARES = {"usual": FRAMINGS, "close-ups": CLOSE_UPS, "hands": {"hand": 1.0}}


@dataclass(frozen=True)
class Camera:
    """World -> view is rotation and shift; `window` is left, right, bottom, top of the layer in tangents."""

    rotation: np.ndarray
    shift: np.ndarray
    window: tuple[float, float, float, float] = (-1.0, 1.0, -1.0, 1.0)

    def view(self, points: np.ndarray) -> np.ndarray:
        """World (n, 3) -> view space (n, 3) in dm; the camera looks to -Z."""
        return points @ self.rotation.T + self.shift

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World (n, 3) -> tangents (n, 2) and distances along the view axis (n,) in dm."""
        view = self.view(points)
        return view[:, :2] / -view[:, 2:], -view[:, 2]

    def to_pixels(self, tangents: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Tangents (n, 2) -> pixels of a (width, height) layer; y down, whole numbers are pixel centres."""
        left, right, bottom, top = self.window
        x = (tangents[:, 0] - left) / (right - left) * size[0] - 0.5
        y = (top - tangents[:, 1]) / (top - bottom) * size[1] - 0.5
        return np.stack((x, y), axis=1)

    def part(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> Camera:
        """The camera of the pixels left <= x < right, top <= y < bottom of a (width, height) picture."""
        left, right, bottom, top = self.window
        dx, dy = (right - left) / size[0], (top - bottom) / size[1]
        window = (left + box[0] * dx, left + box[2] * dx, top - box[3] * dy, top - box[1] * dy)
        return Camera(self.rotation, self.shift, window)

    def projection(self) -> np.ndarray:
        """4x4 clip matrix of the (off-axis) window."""
        left, right, bottom, top = self.window
        matrix = np.zeros((4, 4))
        matrix[0, 0], matrix[0, 2] = 2 / (right - left), (right + left) / (right - left)
        matrix[1, 1], matrix[1, 2] = 2 / (top - bottom), (top + bottom) / (top - bottom)
        matrix[2, 2], matrix[2, 3] = (FAR + NEAR) / (NEAR - FAR), 2 * FAR * NEAR / (NEAR - FAR)
        matrix[3, 2] = -1.0
        return matrix


def choose_framing(rng: np.random.Generator, shares: dict[str, float] = FRAMINGS) -> str:
    names = list(shares)
    return names[rng.choice(len(names), p=list(shares.values()))]


def draw_yaw(rng: np.random.Generator) -> float:
    """How far somebody is turned away from the camera, radians."""
    kind = rng.random()
    if kind < FACING + BEHIND:
        return rng.normal(0.0 if kind < FACING else np.pi, FACING_SPREAD)
    return rng.uniform(-np.pi, np.pi)


def random_camera(skin: np.ndarray, keypoints: np.ndarray, framing: str, rng: np.random.Generator) -> Camera:
    """A camera that looks at the person (skin (n, 3), keypoints (133, 3), dm); the window is not set yet."""
    if framing == "hand":  # neither front nor up
        yaw, pitch, roll = rng.uniform(-np.pi, np.pi), np.arcsin(rng.uniform(-0.9, 0.9)), rng.uniform(-np.pi, np.pi)
    else:
        yaw = rng.normal(0, FACING_SPREAD) if framing == "face" else draw_yaw(rng)
        pitch = rng.normal(0.06, 0.16) if rng.random() < 0.85 else rng.uniform(-0.6, 1.2)
        roll = rng.normal(0, 0.05)
    rotation = turn(Z, roll) @ turn(X, pitch) @ turn(Y, yaw)
    close = framing in ("waist", "bust", "face", "hand")
    near, far = (8, 45) if close else (20, 120)
    distance = np.exp(rng.uniform(np.log(near), np.log(far)))
    aim = _subject(keypoints, framing).mean(0) if close else skin.mean(0)
    shift = np.array((0.0, 0.0, -distance)) - rotation @ aim
    nearest = -(skin @ rotation.T + shift)[:, 2].max()
    shift[2] -= max(0.0, 2.5 - nearest)  # never inside the body
    return Camera(rotation, shift)


def _subject(keypoints: np.ndarray, framing: str) -> np.ndarray:
    if framing == "hand":
        return keypoints[PARTS["left_hand"]]
    return keypoints[PARTS["face"]] if framing in ("face", "bust") else keypoints[5:13]


def frame_photo(
    camera: Camera,
    skin: np.ndarray,
    keypoints: np.ndarray,
    framing: str,
    aspect: float,
    rng: np.random.Generator,
) -> tuple[Camera, np.ndarray]:
    """The camera with its window set to width / height = `aspect`, and the photograph's border in tangents.

    The border is (left, bottom, right, top); sides where the person is not cut are far away.
    """
    outline, points = camera.project(skin)[0], camera.project(keypoints)[0]
    border = UNLIMITED.copy()
    if framing in ("face", "hand"):
        part = camera.project(_subject(keypoints, framing))[0]
        low, high = part.min(0), part.max(0)
        grow = rng.uniform(0.0, 0.3) * (high - low)
        low, high = low - grow, high + grow
    else:
        border = _border(outline, points, framing, rng)
        kept = ((outline > border[:2]) & (outline < border[2:])).all(1)
        if kept.sum() < 500:
            border, kept = UNLIMITED.copy(), np.ones(len(outline), bool)
        low, high = outline[kept].min(0), outline[kept].max(0)
    centre = (low + high) / 2
    height = max(high[1] - low[1], (high[0] - low[0]) / aspect) * MARGIN
    half_width, half_height = height * aspect / 2, height / 2
    window = (centre[0] - half_width, centre[0] + half_width, centre[1] - half_height, centre[1] + half_height)
    if framing in ("face", "hand"):
        # The layer ends here: where the body goes on, that is the border of the photograph, or it would look sawn off.
        half = np.array((half_width, half_height))
        reach = np.concatenate((outline.min(0) < centre - half, outline.max(0) > centre + half))
        border = np.where(reach, np.array(window)[[0, 2, 1, 3]], border)
    return Camera(camera.rotation, camera.shift, window), border


def _border(outline: np.ndarray, points: np.ndarray, framing: str, rng: np.random.Generator) -> np.ndarray:
    low, high = outline.min(0), outline.max(0)
    extent = high - low
    shoulders, hips, knees = ((points[a] + points[a + 1]) / 2 for a in (5, 11, 13))
    torso = np.linalg.norm(shoulders - hips)
    border = UNLIMITED.copy()
    bottom = {
        "knees": knees[1] + rng.normal(0, 0.15) * torso,
        "waist": hips[1] + rng.uniform(-0.6, 0.5) * torso,
        "bust": shoulders[1] - rng.uniform(0.0, 0.6) * torso,
        "middle": hips[1] - rng.uniform(-0.3, 0.8) * torso,
    }.get(framing)
    if bottom is not None and bottom < points[0, 1] - 0.25 * torso:  # not for people upside down
        border[1] = bottom
    if framing in ("legs", "middle") and points[0, 1] > hips[1]:
        lowest = -0.3 if framing == "legs" else 0.5  # over the hips
        border[3] = hips[1] + rng.uniform(lowest, 1.2) * torso
    if framing == "side":
        side = rng.integers(4)
        inward = rng.uniform(0.2, 0.55) * extent[side % 2]
        border[side] = (low[side] + inward) if side < 2 else (high[side - 2] - inward)
    for side in (0, 2):
        if rng.random() < 0.1:
            inward = rng.uniform(0, 0.3) * extent[0]
            border[side] = max(border[0], low[0] + inward) if side == 0 else min(border[2], high[0] - inward)
    return border
