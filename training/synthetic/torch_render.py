"""Renders batches of dressed people without OpenGL: uint8 layers, distance images, visibility of keypoints.

The counterpart of render.Renderer for machines that have a GPU but no EGL, and for rendering into a training run:
nothing leaves the device. `render` also takes single pictures with the arguments of render.Renderer, so that both can
be compared and exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .camera import FAR
from .items import Item
from .labels import HIDDEN, OUTSIDE, SEEN_WITHIN
from .light import Light
from .meshes import COLUMNS, Mesh, View, light_row, window_of
from .raster import Fragments, Triangles, rasterize, set_up
from .shading import Atlas, Surfaces, cut, shade

# Legend: B pictures, V vertices, T triangles, K keypoints.


@dataclass(frozen=True)
class Rendered:
    rgba: torch.Tensor  # (B, h, w, 4) uint8, straight alpha
    distance: torch.Tensor  # (B, h * supersample, w * supersample) float32 dm; the far plane where nothing was drawn


class TorchRenderer:
    """Draws batches of meshes into `size` (width, height) layers, averaging `supersample` squared samples per pixel."""

    def __init__(self, size: tuple[int, int], textures: list[Path], device: torch.device | str, supersample: int = 2):
        self.size = size
        self.supersample = supersample
        self.device = torch.device(device)
        self.atlas = Atlas(textures, self.device)

    def render(self, items: list[Item], projection: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
        """One picture as render.Renderer.render draws it: items in view space, 4x4 clip matrix."""
        view = View(np.eye(3), np.zeros(3), window_of(projection), light_row(light))
        drawn = self.draw([(Mesh.of(items, self.atlas.index), [view])])
        return drawn.rgba[0].cpu().numpy(), drawn.distance[0].cpu().numpy()

    @torch.no_grad()
    def draw(self, jobs: list[tuple[Mesh, list[View]]]) -> Rendered:
        """Every view of every mesh, in order."""
        full = (self.size[0] * self.supersample, self.size[1] * self.supersample)
        views = [view for _, mine in jobs for view in mine]
        surfaces, xy, distance, corner, picture = self._gather(jobs, views, full)
        triangles = set_up(xy, distance, corner, picture, full)
        through = surfaces.materials[surfaces.material, COLUMNS["translucent"]][triangles.number, 0] > 0
        layers = rasterize(
            triangles, len(views), full, through, lambda part: cut(surfaces, triangles, self.atlas, part)
        )
        count = len(views) * full[0] * full[1]
        color = torch.zeros((count, 4), device=self.device)
        inverse = torch.full((count,), 1 / FAR, device=self.device)
        for layer in layers:
            self._blend(color, surfaces, triangles, layer)
            inverse[layer.pixel] = layer.inverse
        # Empty pixels are (0, 0, 0, 0), so the plain average is the premultiplied colour.
        color = color.view(len(views), full[1], full[0], 4).permute(0, 3, 1, 2)
        small = torch.nn.functional.avg_pool2d(color, self.supersample)
        small = torch.cat((small[:, :3] / small[:, 3:].clamp(min=1 / 255), small[:, 3:]), dim=1)
        rgba = (small * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return Rendered(rgba, (1 / inverse).view(len(views), full[1], full[0]))

    def _blend(
        self, color: torch.Tensor, surfaces: Surfaces, triangles: Triangles, layer: Fragments, chunk: int = 1 << 21
    ) -> None:
        """Lay fragments, at most one per pixel, over the premultiplied picture; a shaded one takes about 600 bytes."""
        for start in range(0, len(layer.pixel), chunk):
            part = slice(start, start + chunk)
            mine = Fragments(layer.triangle[part], layer.pixel[part], layer.inverse[part])
            rgba = shade(surfaces, triangles, self.atlas, mine)
            alpha = rgba[:, 3:]
            over = torch.cat((rgba[:, :3] * alpha, alpha), dim=1)
            color[mine.pixel] = over + color[mine.pixel] * (1 - alpha)

    def _gather(
        self, jobs: list[tuple[Mesh, list[View]]], views: list[View], full: tuple[int, int]
    ) -> tuple[Surfaces, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Meshes to the device, one copy of their vertices per view, projected."""

        def put(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

        rotation = put(np.stack([view.rotation for view in views]).astype(np.float32))
        shift = put(np.stack([view.shift for view in views]).astype(np.float32))
        window = put(np.stack([view.window for view in views]).astype(np.float32))
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("point", "corner", "material", "owner", "view")}
        vertex_count, material_count, number = 0, 0, 0
        for mesh, mine in jobs:
            vertices, corner, item = put(mesh.vertices), put(mesh.corner).long(), put(mesh.item).long()
            for _ in mine:
                parts["point"].append(vertices)
                parts["corner"].append(corner + vertex_count)
                parts["material"].append(item + material_count)
                parts["owner"].append(torch.full((len(corner),), number, device=self.device))
                parts["view"].append(torch.full((len(vertices),), number, device=self.device))
                vertex_count += len(vertices)
                number += 1
            material_count += len(mesh.materials)
        point, corner, material, picture, of_view = (torch.cat(parts[name]) for name in parts)
        turned = rotation[of_view]
        # Sums of products: millions of 3 x 3 matrix products are slow on a GPU.
        position = (turned * point[:, None, :3]).sum(2) + shift[of_view]
        normal = (turned * point[:, None, 3:6]).sum(2)
        distance = -position[:, 2]
        left, right, bottom, top = window[of_view].unbind(1)
        x = (position[:, 0] / distance - left) / (right - left) * full[0]
        y = (top - position[:, 1] / distance) / (top - bottom) * full[1]
        surfaces = Surfaces(
            position=position,
            normal=normal,
            uv=point[:, 6:8],
            inside=point[:, 8],
            material=material,
            materials=put(np.concatenate([mesh.materials for mesh, _ in jobs])),
            lights=put(np.stack([view.light for view in views])),
            size=full,
        )
        return surfaces, torch.stack((x, y), dim=1), distance, corner, picture


def seen(
    pixels: torch.Tensor, distance: torch.Tensor, surface: torch.Tensor, size: tuple[int, int], frame: torch.Tensor
) -> torch.Tensor:
    """labels.visibility for a batch: OUTSIDE, HIDDEN or VISIBLE, (B, K) uint8.

    Args:
        pixels: (B, K, 2) in layers of `size` (width, height); whole numbers are pixel centres.
        distance: (B, K) dm along the view axis.
        surface: (B, h, w) distance images at any resolution.
        frame: (B, 4) left, top, right, bottom of the photograph's border in layer pixels.
    """
    rows, columns = surface.shape[1:]
    scale = pixels.new_tensor((columns / size[0], rows / size[1]))
    limit = pixels.new_tensor((columns, rows))
    cell = ((pixels + 0.5) * scale).floor()
    within = ((cell >= 0) & (cell < limit)).all(2)
    within &= ((pixels >= frame[:, None, :2]) & (pixels <= frame[:, None, 2:])).all(2)
    x, y = cell.minimum(limit - 1).clamp(min=0).long().unbind(2)
    ground = surface.flatten(1).gather(1, y * columns + x)
    near = distance < ground + torch.as_tensor(SEEN_WITHIN, dtype=surface.dtype, device=surface.device)
    flags = torch.where(near, HIDDEN + 1, HIDDEN)
    return torch.where(within, flags, OUTSIDE).to(torch.uint8)
