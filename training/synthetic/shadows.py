"""Shadow maps: who stands between a surface and the lamp, and how much of the sky the surface sees.

Two depth maps of the scene from afar, without perspective (Williams 1978), are compared per pixel with the distance to
the light: one along the lamp, which gives cast shadows, and one straight down whose wide blur is an ambient occlusion:
dark under tables, arms and chins, and where feet meet the ground.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .items import Item
from .rotations import X, Y, frame

RESOLUTION = 2048
SKY_BLUR = 2.2  # dm
BIAS = 0.12  # dm along the normal; more where a texel of the map is larger
VERTEX_SHADER = """
#version 330
uniform mat4 projection;
in vec3 in_position; in vec2 in_uv; in float in_inside;
out vec2 uv; out float inside;
void main() { uv = in_uv; inside = in_inside; gl_Position = projection * vec4(in_position, 1.0); }
"""
FRAGMENT_SHADER = """
#version 330
uniform sampler2D texture_map; uniform float alpha_min;
in vec2 uv; in float inside;
void main() { if (inside < 0.0 || texture(texture_map, uv).a < alpha_min) discard; }
"""


@dataclass(frozen=True)
class Shadows:
    """Matrices from view space to map coordinates and depth (0..1), and the shader's `shadow_form`."""

    lamp: np.ndarray
    sky: np.ndarray
    form: tuple[float, float, float, float]


def looking_along(direction: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """4x4 clip matrix of a camera without perspective that looks against `direction` and holds all points, and the
    dm that its clip range spans across."""
    near = Y if abs(direction @ Y) < 0.9 * np.linalg.norm(direction) else X
    axes = frame(direction, near)[:, (1, 2, 0)].T  # rows: right, up, toward the light; right-handed
    seen = points @ axes.T
    low, high = seen.min(0) - 0.5, seen.max(0) + 0.5
    across = max(high[0] - low[0], high[1] - low[1])
    scale = 2 / np.array((across, across, -(high[2] - low[2])))
    matrix = np.eye(4)
    matrix[:3, :3] = scale[:, None] * axes
    matrix[:3, 3] = -scale * (low + high) / 2
    return matrix, float(across)


class ShadowMaps:
    """The two maps of a renderer, drawn from its vertex and index buffers."""

    def __init__(self, context, vertices, indices):
        self.context = context
        self.program = context.program(VERTEX_SHADER, FRAGMENT_SHADER)
        layout = (vertices, "3f 3x4 2f 1f", "in_position", "in_uv", "in_inside")
        self.array = context.vertex_array(self.program, [layout], indices)
        self.maps = [context.depth_texture((1, 1)) for _ in range(2)]

    def use(self) -> None:
        """Bind the maps where the renderer's program expects them."""
        for k, texture in enumerate(self.maps):
            texture.use(2 + k)

    def cast(
        self,
        items: list[Item],
        lamp: np.ndarray,
        up: np.ndarray,
        softness: float,
        load: Callable,
        texture: Callable,
    ) -> Shadows:
        """Draw both maps.

        Args:
            items: what casts shadows, view space, dm.
            lamp, up: directions toward the lamp and the sky, view space.
            softness: blur of the lamp's shadows in dm.
            load, texture: the renderer's own.
        """
        if self.maps[0].size != (RESOLUTION, RESOLUTION):  # a renderer of layers never gets here
            for old in self.maps:
                old.release()
            self.maps = [self.context.depth_texture((RESOLUTION, RESOLUTION)) for _ in range(2)]
            self.targets = [self.context.framebuffer([], depth) for depth in self.maps]
            for depth in self.maps:
                depth.compare_func = "<="
                depth.repeat_x = depth.repeat_y = False
        points = np.concatenate([item.positions for item in items])
        views = [looking_along(direction, points) for direction in (lamp, up)]
        for target in self.targets:
            target.clear(depth=1.0)
        self.context.enable(self.context.DEPTH_TEST)
        self.context.disable(self.context.BLEND)
        for item in items:
            load(item)
            texture(item.material.texture).use(0)
            self.program["alpha_min"].value = float(item.material.alpha_min)
            for target, (matrix, _) in zip(self.targets, views, strict=True):
                target.use()
                self.program["projection"].write(np.ascontiguousarray(matrix.T, "f4").tobytes())
                self.array.render(vertices=item.index.size)
        to_map = np.diag((0.5, 0.5, 0.5, 1.0))
        to_map[:3, 3] = 0.5
        (lamp_view, lamp_across), (sky_view, sky_across) = views
        bias = BIAS + 1.5 * max(lamp_across, sky_across) / RESOLUTION
        form = (softness / lamp_across, SKY_BLUR / sky_across, bias, 0.6)
        return Shadows(to_map @ lamp_view, to_map @ sky_view, form)
