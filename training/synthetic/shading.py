"""The renderer's fragment shader in torch: textures with mip levels, cloth patterns and folds, light.

The formulas are those of `render.FRAGMENT_SHADER`; screen-space derivatives are differences within blocks of 2 x 2
pixels, as a GPU takes them. Textures are sRGB, light is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ..pictures import imread
from .meshes import COLUMNS
from .raster import Fragments, Triangles, perspective

# Legend: F fragments, V vertices, M materials, B pictures.


class Atlas:
    """All textures and their mip levels as one list of texels."""

    def __init__(self, paths: list[Path], device: torch.device | str):
        levels: list[np.ndarray] = []
        tables: list[list[tuple[int, int, int]]] = []
        at = 0
        for path in paths:
            picture = imread(path, cv2.IMREAD_UNCHANGED)
            if picture is None:
                raise ValueError(f"cannot read the texture {path}")
            channels = 1 if picture.ndim == 2 else picture.shape[2]
            code = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}[channels]
            picture = cv2.cvtColor(picture, code)[::-1]  # v = 0 is the bottom row
            table = []
            while True:
                height, width = picture.shape[:2]
                table.append((at, width, height))
                levels.append(picture.reshape(-1, 4))
                at += width * height
                if width == height == 1:
                    break
                picture = cv2.resize(picture, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
            tables.append(table)
        depth = max((len(table) for table in tables), default=1)
        rows = [table + [table[-1]] * (depth - len(table)) for table in tables]
        self.index = {path: number for number, path in enumerate(paths)}
        self.texels = torch.from_numpy(np.concatenate(levels) if levels else np.zeros((1, 4), np.uint8)).to(device)
        self.table = torch.tensor(rows, dtype=torch.long, device=device).reshape(-1, depth, 3)
        last = [len(table) - 1 for table in tables]
        self.last = torch.tensor(last, dtype=torch.long, device=device)

    def _bilinear(self, texture: torch.Tensor, level: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
        start, width, height = self.table[texture, level].unbind(1)
        size = torch.stack((width, height), dim=1)
        place = uv * size - 0.5
        corner = place.floor()
        share = place - corner
        corner = corner.long()
        total = 0.0
        for right in (0, 1):
            for up in (0, 1):
                x, y = (corner[:, 0] + right) % width, (corner[:, 1] + up) % height  # textures repeat
                weight = (share[:, 0] if right else 1 - share[:, 0]) * (share[:, 1] if up else 1 - share[:, 1])
                total = total + self.texels[start + y * width + x].float() * weight[:, None]
        return total / 255

    def sample(self, texture: torch.Tensor, uv: torch.Tensor, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        """Trilinear RGBA (F, 4) in 0..1 of textures (F,) at uv (F, 2), whose screen-space derivatives are dx and dy."""
        size = self.table[texture, 0, 1:]
        spread = torch.maximum((dx * size).norm(dim=1), (dy * size).norm(dim=1))
        level = spread.clamp(min=1.0).log2().minimum(self.last[texture].to(uv.dtype))
        low = level.floor().long()
        high = (low + 1).minimum(self.last[texture])
        share = (level - low)[:, None]
        return self._bilinear(texture, low, uv) * (1 - share) + self._bilinear(texture, high, uv) * share


@dataclass(frozen=True)
class Surfaces:
    """What is drawn in B pictures, in view space."""

    position: torch.Tensor  # (V, 3) dm
    normal: torch.Tensor  # (V, 3)
    uv: torch.Tensor  # (V, 2)
    inside: torch.Tensor  # (V,) dm to the hem, negative is cut away
    material: torch.Tensor  # (triangles given to set_up,) row of `materials`
    materials: torch.Tensor  # (M, 22)
    lights: torch.Tensor  # (B, 14, 3)
    size: tuple[int, int]  # width and height of a picture

    def materials_of(self, triangles: Triangles, rows: torch.Tensor) -> torch.Tensor:
        return self.materials[self.material[triangles.number[rows]]]


def _spread(values: torch.Tensor, corner: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Vertex values (V, C) interpolated in triangles with corners (F, 3)."""
    return sum(values[corner[:, k]] * weights[:, k, None] for k in range(3))


def _neighbours(
    triangles: Triangles, fragments: Fragments, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Corner weights at each fragment and at its neighbours in its 2 x 2 block, and the signs of their differences."""
    x, y = fragments.pixel % size[0], torch.div(fragments.pixel, size[0], rounding_mode="floor") % size[1]
    here = perspective(triangles, fragments.triangle, x, y)
    beside = perspective(triangles, fragments.triangle, x ^ 1, y)
    above = perspective(triangles, fragments.triangle, x, y ^ 1)
    sign_x = (1 - 2 * (x & 1)).to(here.dtype)[:, None]
    sign_y = (2 * (y & 1) - 1).to(here.dtype)[:, None]  # derivatives are taken upwards
    return here, beside, above, sign_x, sign_y


def cut(surfaces: Surfaces, triangles: Triangles, atlas: Atlas, fragments: Fragments) -> torch.Tensor:
    """(F,) bool: inside the hem, and not in a hole of the texture."""
    kept = torch.ones(len(fragments.pixel), dtype=torch.bool, device=fragments.pixel.device)
    corner = triangles.corner[fragments.triangle]
    hem = (surfaces.inside[corner].amin(1) < 0).nonzero()[:, 0]
    x, y = fragments.pixel % surfaces.size[0], torch.div(fragments.pixel, surfaces.size[0], rounding_mode="floor")
    weights = perspective(triangles, fragments.triangle[hem], x[hem], y[hem] % surfaces.size[1])
    kept[hem] = (surfaces.inside[corner[hem]] * weights).sum(1) >= 0
    # Only pictures with an alpha channel have holes; they hang on translucent things and on eyes.
    rows = surfaces.materials_of(triangles, fragments.triangle)
    limit = rows[:, COLUMNS["alpha_min"]][:, 0]
    holes = ((rows[:, 0] >= 0) & (limit > 0) & (rows[:, COLUMNS["translucent"]][:, 0] > 0)).nonzero()[:, 0]
    part = Fragments(fragments.triangle[holes], fragments.pixel[holes], fragments.inverse[holes])
    here, beside, above, sign_x, sign_y = _neighbours(triangles, part, surfaces.size)
    corner = corner[holes]
    uv = _spread(surfaces.uv, corner, here)
    dx, dy = (_spread(surfaces.uv, corner, beside) - uv) * sign_x, (_spread(surfaces.uv, corner, above) - uv) * sign_y
    kept[holes] = kept[holes] & (atlas.sample(rows[holes, 0].long(), uv, dx, dy)[:, 3] >= limit[holes])
    return kept


def _random(p: torch.Tensor) -> torch.Tensor:
    """The shader's hash: its 32-bit numbers are the lower halves of these."""
    x, y = p.long().unbind(1)
    value = (x * 0x9E3779B1 ^ y * 0x85EBCA77) & 0xFFFFFFFF
    value = (value ^ value >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
    value = (value ^ value >> 12) * 0x297A2D39 & 0xFFFFFFFF
    return ((value ^ value >> 15) >> 8).to(p.dtype) / 2**24


def _smooth_noise(p: torch.Tensor) -> torch.Tensor:
    cell = p.floor()
    t = p - cell
    t = t * t * (3 - 2 * t)
    right, up = p.new_tensor((1.0, 0.0)), p.new_tensor((0.0, 1.0))
    low = torch.lerp(_random(cell), _random(cell + right), t[:, 0])
    high = torch.lerp(_random(cell + up), _random(cell + right + up), t[:, 0])
    return torch.lerp(low, high, t[:, 1])


def _weave(kind: torch.Tensor, p: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """(F,) 0..1: how much of the second colour a cloth shows at p (F, 2), by kind of pattern (see Material.weave)."""
    q = p - p.floor()
    wide, tall = (q[:, 0] >= 0.5).to(p.dtype), (q[:, 1] >= 0.5).to(p.dtype)
    blotch = ((0.65 * _smooth_noise(p) + 0.35 * _smooth_noise(2.3 * p) - 0.42) / 0.16).clamp(0, 1)
    dots = ((q - 0.5).norm(dim=1) <= 0.3).to(p.dtype)
    band = p[:, 1] * 0.15
    band = ((band - band.floor()) >= threshold).to(p.dtype)
    patterns = (0 * tall, tall, wide, 0.5 * wide + 0.5 * tall, blotch * blotch * (3 - 2 * blotch), dots, band)
    return torch.stack(patterns, dim=1).gather(1, kind[:, None])[:, 0]


def _wave(uv: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """Height of cloth folds."""
    p = uv * density
    return _smooth_noise(p * p.new_tensor((1.0, 0.45))) + 0.5 * _smooth_noise(p * 2.1 + 7.0)


def shade(surfaces: Surfaces, triangles: Triangles, atlas: Atlas, fragments: Fragments) -> torch.Tensor:
    """(F, 4) straight-alpha RGBA in 0..1, sRGB."""
    here, beside, above, sign_x, sign_y = _neighbours(triangles, fragments, surfaces.size)
    corner = triangles.corner[fragments.triangle]
    rows = surfaces.materials_of(triangles, fragments.triangle)
    column = {name: rows[:, where] for name, where in COLUMNS.items()}
    uv, uv_beside, uv_above = (_spread(surfaces.uv, corner, weights) for weights in (here, beside, above))
    dx, dy = (uv_beside - uv) * sign_x, (uv_above - uv) * sign_y

    albedo, alpha = column["plain"].clone(), torch.ones_like(uv[:, 0])
    some = (rows[:, 0] >= 0).nonzero()[:, 0]
    color = atlas.sample(rows[some, 0].long(), uv[some], dx[some], dy[some])
    linear = color[:, :3] ** 2.2
    brightness = 0.25 + 1.8 * linear.sum(1, keepdim=True) * 0.3333
    albedo[some] = torch.where(column["recolor"][some] > 0, albedo[some] * brightness, linear)
    alpha[some] = color[:, 3]
    some = (column["weave"][:, 0] > 0).nonzero()[:, 0]
    form = column["weave_form"][some]
    share = (_weave(column["weave"][some, 0].long(), uv[some] * form[:, :1], form[:, 1]) * form[:, 2])[:, None]
    albedo[some] = albedo[some] * (1 - share) + column["weave_color"][some] * share
    albedo = albedo * column["tint"]
    some = (rows[:, 1] >= 0).nonzero()[:, 0]
    shadow = atlas.sample(rows[some, 1].long(), uv[some], dx[some], dy[some])[:, :1]
    albedo[some] = albedo[some] * (0.2 + 0.8 * shadow)

    position = _spread(surfaces.position, corner, here)
    normal = torch.nn.functional.normalize(_spread(surfaces.normal, corner, here), dim=1)
    normal = torch.where(triangles.front[fragments.triangle][:, None], normal, -normal)
    to_eye = -torch.nn.functional.normalize(position, dim=1)
    some = (column["folds"][:, 0] > 0).nonzero()[:, 0]  # a wavy height, so that cloth is not a painted body
    depth, density = column["folds"][some].split(1, dim=1)
    n = normal[some]
    step_x = (_spread(surfaces.position, corner[some], beside[some]) - position[some]) * sign_x[some]
    step_y = (_spread(surfaces.position, corner[some], above[some]) - position[some]) * sign_y[some]
    wave = _wave(uv[some], density)[:, None]
    wave_x = (_wave(uv_beside[some], density)[:, None] - wave) * sign_x[some]
    wave_y = (_wave(uv_above[some], density)[:, None] - wave) * sign_y[some]
    r1, r2 = torch.linalg.cross(step_y, n), torch.linalg.cross(n, step_x)
    det = (step_x * r1).sum(1, keepdim=True)
    slope = det.sign() * (wave_x * r1 + wave_y * r2) * depth
    normal[some] = torch.nn.functional.normalize(det.abs() * n - slope, dim=1)
    albedo[some] = albedo[some] * (0.8 + 0.25 * wave)

    lights = surfaces.lights[triangles.picture[fragments.triangle]]
    x, y, z = (lights[:, 11:] * normal[:, None]).sum(2).unbind(1)
    basis = torch.stack((torch.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y), dim=1)
    light = (lights[:, :9] * basis[:, :, None]).sum(1).clamp(min=0.02)
    direction, lamp, shine = lights[:, 9], lights[:, 10], column["shine"]
    light = light + lamp * (normal * direction).sum(1, keepdim=True).clamp(min=0)
    halfway = torch.nn.functional.normalize(direction + to_eye, dim=1)
    gleam = lamp * shine * (normal * halfway).sum(1, keepdim=True).clamp(min=0) ** 24
    rim = (1 - (normal * to_eye).sum(1, keepdim=True).clamp(min=0)) ** 4
    radiance = albedo * light + gleam + shine * rim * lights[:, 0]
    rgb = (radiance / (1 + 0.2 * radiance)).clamp(0, 1) ** (1 / 2.2)
    hem = _spread(surfaces.inside[:, None], corner, here)[:, 0]
    cover = alpha * column["opacity"][:, 0] * (18 * hem).clamp(max=1)  # a beard ends softly
    alpha = torch.where(column["translucent"][:, 0] > 0, cover, torch.ones_like(alpha))
    return torch.cat((rgb, alpha[:, None]), dim=1)
