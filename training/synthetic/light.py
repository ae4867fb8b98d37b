"""Environment light from panoramas, and a lamp."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from ..pictures import imread
from .rotations import Y, turn


@dataclass(frozen=True)
class Light:
    """Light in view space, or in the world until `seen_from` brings it there."""

    harmonics: np.ndarray  # (9, 3) irradiance over pi, in the order of the shader
    lamp_direction: np.ndarray
    lamp_color: np.ndarray
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))  # view space -> axes of the harmonics

    def seen_from(self, rotation: np.ndarray) -> Light:
        """The same light for a camera with that world-to-view rotation."""
        return replace(self, lamp_direction=rotation @ self.lamp_direction, axes=self.axes @ rotation.T)


@dataclass
class LightSampler:
    """Environment light from the HDRI panoramas of the asset folder, at any heading, plus a lamp."""

    folder: Path
    panoramas: dict[str, np.ndarray] = field(init=False)  # by the name of their file

    def __post_init__(self) -> None:
        self.panoramas = {path.stem: self._harmonics(path) for path in sorted(self.folder.glob("*.hdr"))}
        if not self.panoramas:
            raise ValueError(f"{self.folder} holds no .hdr panoramas for light: build the assets with --hdri")

    @staticmethod
    def _harmonics(path: Path) -> np.ndarray:
        """(9, 3) irradiance coefficients over pi. The picture's centre is +Z, its top +Y."""
        picture = imread(path, cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise ValueError(f"{path} is not a readable panorama")
        image = cv2.resize(picture, (64, 32), interpolation=cv2.INTER_AREA)
        elevation = (0.5 - (np.arange(32) + 0.5) / 32) * np.pi
        azimuth = ((np.arange(64) + 0.5) / 64 - 0.5) * 2 * np.pi
        cos = np.cos(elevation)[:, None]
        x, z = cos * np.sin(azimuth), cos * np.cos(azimuth)
        y = np.broadcast_to(np.sin(elevation)[:, None], x.shape)
        solid = np.broadcast_to(cos, x.shape) * (np.pi / 32) * (2 * np.pi / 64)
        # Irradiance factors pi, 2 pi / 3, pi / 4 over pi, times the squared normalisation of each real harmonic.
        basis = np.stack((np.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y))
        norm = np.array((0.2821, 0.4886, 0.4886, 0.4886, 1.0925, 1.0925, 0.3154, 1.0925, 0.5463)) ** 2
        factor = np.array((1, *(2 / 3,) * 3, *(1 / 4,) * 5))
        return (factor * norm)[:, None] * np.einsum("bhw,hw,hwc->bc", basis, solid, image[..., ::-1].astype(float))

    def sample(self, rng: np.random.Generator, name: str | None = None) -> Light:
        """Random light, of the given panorama or any."""
        name = list(self.panoramas)[rng.integers(len(self.panoramas))] if name is None else name
        harmonics = self.panoramas[name].copy()
        heading = rng.uniform(-np.pi, np.pi)
        c, s = np.cos(heading), np.sin(heading)
        z, x, xy, yz, zz, xz, xx = harmonics[[2, 3, 4, 5, 6, 7, 8]]
        harmonics[2], harmonics[3] = c * z - s * x, s * z + c * x
        harmonics[4], harmonics[5] = c * xy + s * yz, c * yz - s * xy
        # The three second-degree terms that mix x and z, written as a quadratic form a xx + b xz + d zz + e yy.
        a, b, d, e = xx - zz, xz, 2 * zz, -xx - zz
        turned_xx = a * c * c + d * s * s + b * c * s
        turned_zz = a * s * s + d * c * c - b * c * s
        harmonics[7] = b * (c * c - s * s) + 2 * (d - a) * c * s
        harmonics[6] = turned_zz / 2
        harmonics[8] = (turned_xx - e) / 2
        direction = turn(Y, rng.uniform(-np.pi, np.pi)) @ np.array((0.0, rng.uniform(-0.1, 1.2), 1.0))
        lamp = rng.uniform(0.0, 1.6) * (rng.random() < 0.8) * (1 + rng.normal(0, 0.08, 3))
        mean = harmonics[0].mean() + 1e-6
        harmonics = harmonics / mean * rng.uniform(0.3, 1.0)
        exposure = rng.uniform(0.45, 1.1) / (harmonics[0].mean() + 0.35 * lamp.mean())
        return Light(harmonics * exposure, direction / np.linalg.norm(direction), lamp * exposure)
