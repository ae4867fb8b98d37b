"""Widgets that several nodes have, and what their values mean."""

from __future__ import annotations

import dataclasses

from comfy_api.v0_0_2 import io

# Styles of dwpose_core, and one of our own here; see `style_of`.
STYLES = ("openpose", "dwpose", "xinsir", "sdpose")


def part_inputs() -> list:
    return [
        io.Boolean.Input("body", default=True, tooltip="Draw the body: 18 points."),
        io.Boolean.Input("hands", default=True, tooltip="Draw the hands: 21 points each."),
        io.Boolean.Input("face", default=True, tooltip="Draw the face: 68 points."),
        io.Boolean.Input(
            "feet", default=False, tooltip="Draw the feet: 6 points. No OpenPose ControlNet was trained with them."
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
        tooltip="Smooth edges and movements, for videos to look at. Off: exactly the pixels ControlNets were "
        "trained on.",
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
