"""Widgets and sockets that several nodes have, and what their values mean."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.v0_0_2 import io

SIZES = ("short side", "width x height", "source")
# Styles of dwpose_core, and one of our own here; see `style_of`.
STYLES = ("openpose", "dwpose", "xinsir", "sdpose")


def size_inputs(default: str = "short side") -> list:
    return [
        io.Combo.Input(
            "size",
            options=list(SIZES),
            default=default,
            tooltip="Size of the pose map. It is drawn at this size, never scaled.",
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=64,
            max=16384,
            step=8,
            tooltip="Shorter side in pixels, for size 'short side'. Both sides are rounded to multiples of 64.",
        ),
        io.Int.Input("width", default=1024, min=16, max=16384, step=8, tooltip="For size 'width x height'."),
        io.Int.Input("height", default=1024, min=16, max=16384, step=8, tooltip="For size 'width x height'."),
    ]


def size_from_input():
    return io.MultiType.Input(
        "size_from",
        [io.Image, io.Latent],
        optional=True,
        tooltip="An image or latent whose size the pose map gets. Wins over the size widgets.",
    )


def target_size(
    source: tuple[int, int], size: str, resolution: int, width: int, height: int, size_from: Any = None
) -> tuple[int, int]:
    """(H, W) of the map for a source of (H, W)."""
    from ..dwpose_core.preprocessor import control_size

    if isinstance(size_from, dict):  # a latent: 8 pixels for each of its own
        rows, columns = size_from["samples"].shape[-2:]
        return rows * 8, columns * 8
    if size_from is not None:
        return tuple(size_from.shape[1:3])
    if size == "width x height":
        return height, width
    return source if size == "source" else control_size(source, resolution)


def part_inputs() -> list:
    return [
        io.Boolean.Input("body", default=True, tooltip="Body: 18 points."),
        io.Boolean.Input("hands", default=True, tooltip="Hands: 21 points each."),
        io.Boolean.Input("face", default=True, tooltip="Face: 68 points."),
        io.Boolean.Input(
            "feet", default=False, tooltip="Feet: 6 points. No OpenPose ControlNet was trained with them."
        ),
    ]


def style_input():
    return io.Combo.Input(
        "style",
        options=list(STYLES),
        default="openpose",
        tooltip="openpose: ControlNet 1.1, Union and Flux. dwpose: the original's drawing. xinsir: thick "
        "sticks for xinsir's SDXL ControlNet. sdpose: as ComfyUI's SDPose.",
    )


def antialias_input():
    return io.Boolean.Input(
        "antialias",
        default=False,
        tooltip="Smooth edges and movements, for videos to look at. Off: the very pixels ControlNets were trained on.",
    )


def threshold_input(tooltip: str, name: str = "threshold", default: float = 0.3):
    return io.Float.Input(name, default=default, min=0.0, max=2.0, step=0.01, tooltip=tooltip)


def style_of(name: str, **lengths: int):
    """A drawing style by its name in `STYLES`; lengths > 0 replace those of the style."""
    from ..dwpose_core import render

    # What ComfyUI's own SDPose node draws: limbs at full brightness, no eyes on top of the face.
    sdpose = render.Style(limb_brightness=1.0, face_eyes=False)
    style = sdpose if name == "sdpose" else render.STYLES[name]
    return dataclasses.replace(style, **{key: value for key, value in lengths.items() if value > 0})
