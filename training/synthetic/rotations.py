"""3x3 rotation matrices (column vectors, right-handed) and the two-bone inverse kinematics of arms."""

from __future__ import annotations

import numpy as np

X, Y, Z = np.eye(3)


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector scaled to length one."""
    return vector / np.linalg.norm(vector)


def turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation by `angle` radians about `axis` (any length), after Rodrigues."""
    x, y, z = unit(axis)
    skew = np.array(((0.0, -z, y), (z, 0.0, -x), (-y, x, 0.0)))
    return np.eye(3) + np.sin(angle) * skew + (1.0 - np.cos(angle)) * (skew @ skew)


def frame(first: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Orthonormal right-handed axes (columns): the first along `first`, the second as close to `near` as possible."""
    a = unit(first)
    b = unit(near - a * (a @ near))
    return np.stack((a, b, np.cross(a, b)), axis=1)


def euler_degrees(order: str, angles: np.ndarray) -> np.ndarray:
    """Product of rotations about the named axes in the given order, as BVH files mean it ("XYZ" -> Rx Ry Rz)."""
    axes = {"X": X, "Y": Y, "Z": Z}
    result = np.eye(3)
    for axis, angle in zip(order, np.deg2rad(angles), strict=True):
        result = result @ turn(axes[axis], angle)
    return result


def two_bone(
    root: np.ndarray, target: np.ndarray, lengths: tuple[float, float], pole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unit directions of the two bones of a limb from `root` that ends at `target` or as near as it can reach.

    The middle joint bends toward `pole` (a direction, never parallel to the limb).
    """
    a, b = lengths
    reach = target - root
    distance = np.clip(np.linalg.norm(reach), abs(a - b) * 1.05 + 0.05, (a + b) * 0.999)
    along = unit(reach)
    side = unit(pole - along * (along @ pole))
    cosine = np.clip((a * a + distance * distance - b * b) / (2 * a * distance), -1.0, 1.0)
    upper = along * cosine + side * np.sqrt(1.0 - cosine * cosine)
    return upper, unit(along * distance - upper * a)
