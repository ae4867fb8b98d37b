"""DWPose Load Folder: the pictures of a folder, one after another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io

from . import sockets
from .paths import inside, state_of
from .sockets import CATEGORY, schema


class DWPoseLoadFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseLoadFolder",
            display_name="DWPose Load Folder",
            category=CATEGORY,
            description="The pictures of a folder as a list, of any sizes: the nodes that follow run once for each.",
            search_aliases=["load images from folder", "batch images", "image folder"],
            inputs=[
                io.String.Input(
                    "folder", default="", tooltip="Folder in ComfyUI's input folder; empty: the input folder itself."
                ),
                io.String.Input(
                    "prefix", default="dwpose", tooltip="Folder in ComfyUI's output folder, put before the names."
                ),
                io.Int.Input("first", default=0, min=0, max=1000000, tooltip="Skip this many pictures."),
                io.Int.Input("limit", default=0, min=0, max=1000000, tooltip="Load at most this many. 0: all."),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", is_output_list=True, tooltip="One by one, by name."),
                io.String.Output(
                    "names",
                    display_name="names",
                    is_output_list=True,
                    tooltip="Name of each for the file prefix of a saving node.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder=None, **_: Any):
        if not isinstance(folder, str):  # linked: not known yet, and then what comes before decides
            return None
        return state_of(_pictures(folder))

    @classmethod
    def execute(cls, folder, prefix, first, limit) -> io.NodeOutput:
        from ..dwpose_core.images import read_image

        images, names = [], []
        for file in sockets.in_turn(_pictures(folder)[first:][: limit or None]):
            pixels = read_image(file)
            images.append(sockets.new_image(1, pixels.shape[:2]))
            sockets.put(images[-1][0], pixels)
            names.append("/".join(part for part in (prefix.strip("/ "), file.stem) if part))
        if not images:
            raise ValueError(f"There are no pictures left in {folder!r} after the first {first}.")
        return io.NodeOutput(images, names)


def _pictures(folder: str) -> list[Path]:
    """Raises ValueError for a folder that is not there, has no pictures, or lies outside ComfyUI's input folder."""
    from ..dwpose_core.images import IMAGE_SUFFIXES, in_order

    found = inside(folder_paths.get_input_directory(), folder)
    if found is None or not os.path.isdir(found):  # Path.is_dir raises OSError for a name that is too long
        raise ValueError(f"There is no folder {folder!r} in ComfyUI's input folder.")
    files = in_order(found, IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"There are no pictures in {folder!r}.")
    return files
