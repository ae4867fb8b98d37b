"""DWPose Save JSON and DWPose Load JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io

from . import sockets
from .paths import digest, inside, state_of
from .sockets import ALIASES, CATEGORY, Keypoints, schema

LAYOUTS = ("one file", "one per frame", "OpenPose folder")


class DWPoseSaveJSON(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseSaveJSON",
            display_name="DWPose Save JSON",
            category=CATEGORY,
            description="Writes keypoints into the output folder. Nothing is overwritten.",
            search_aliases=[*ALIASES, "save pose keypoints", "export openpose json"],
            inputs=[
                Keypoints.Input("keypoints", tooltip="Keypoints of one image or a clip."),
                io.String.Input(
                    "filename_prefix", default="dwpose/keypoints", tooltip="Folder and start of the file name."
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default=LAYOUTS[0],
                    tooltip="one file: the whole clip. one per frame: name_00000.json, ... OpenPose folder: "
                    "name_000000000000_keypoints.json in a folder, as the OpenPose program writes it.",
                ),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="The file, or the folder of the files.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, keypoints, filename_prefix, layout) -> io.NodeOutput:
        from ..dwpose_core.openpose import openpose_file

        frames = sockets.to_keypoints(sockets.to_people(keypoints))
        if not frames:
            raise ValueError("There are no frames in these keypoints.")
        place = _free_place(filename_prefix, frames)
        if layout == LAYOUTS[0]:
            path = place.with_name(f"{place.name}.json")
            _write(path, frames)
        else:
            path = place
            path.mkdir()
            try:
                for number, frame in enumerate(sockets.in_turn(frames)):
                    if layout == LAYOUTS[1]:
                        _write(path / f"{path.name}_{number:05}.json", [frame])
                    else:
                        _write(path / f"{path.name}_{number:012}_keypoints.json", openpose_file(frame))
            except BaseException:
                shutil.rmtree(path)  # half a clip reads back as a shorter one
                raise
        text = f"Frames written: {len(frames)}, to {os.path.relpath(path, folder_paths.get_output_directory())}"
        return io.NodeOutput(str(path), ui=sockets.say(cls, text))


def _write(path: Path, content: list | dict) -> None:
    from ..dwpose_core.images import atomic_write

    text = sockets.to_json(content) if isinstance(content, list) else json.dumps(content, separators=(",", ":"))
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def _free_place(prefix: str, frames: list[dict]) -> Path:
    """The first numbered name in ComfyUI's output folder that neither a folder has nor, with .json, a file.

    ComfyUI's own counter only sees names that go on with an underscore, which no JSON file does.
    """
    # The size is for %width% and %height% in the prefix.
    size = (frames[0]["canvas_width"], frames[0]["canvas_height"]) if frames else (0, 0)
    folder, name, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), *size)
    name = name.lstrip(".")  # ComfyUI makes "." of an empty prefix, and a folder is read without its hidden files
    number = 1
    while any(os.path.lexists(os.path.join(folder, f"{name}_{number:05}{suffix}")) for suffix in ("", ".json")):
        number += 1
    return Path(folder) / f"{name}_{number:05}"


class DWPoseLoadJSON(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseLoadJSON",
            display_name="DWPose Load JSON",
            category=CATEGORY,
            description="Reads keypoints from a file or folder of ComfyUI's input or output folder, or from JSON text.",
            search_aliases=[*ALIASES, "load openpose json", "import keypoints"],
            inputs=[
                io.String.Input(
                    "path",
                    default="",
                    tooltip="File or folder in ComfyUI's input folder, or else in its output folder. A folder is read "
                    "in the order of its file names, one frame after another.",
                ),
                io.String.Input(
                    "text", default="", multiline=True, tooltip="Keypoints as JSON text; used when path is empty."
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="Gives the canvas size to files that have none, such as OpenPose's."
                ),
            ],
            outputs=[Keypoints.Output("keypoints", display_name="keypoints", tooltip="In pixels, one list per frame.")],
        )

    @classmethod
    def fingerprint_inputs(cls, path=None, text=None, **_: Any):
        if not isinstance(path, str):  # linked: not known yet, and then what comes before decides
            return None
        if not path.strip():
            return digest(text)
        return state_of(_find(path))

    @classmethod
    def validate_inputs(cls, path):
        try:
            _find(path) if isinstance(path, str) and path.strip() else None
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, path, text, image=None) -> io.NodeOutput:
        size = None if image is None else sockets.image_size(image)
        if not path.strip():
            if not text.strip():
                raise ValueError("Give the path of a JSON file or folder, or JSON text.")
            frames = sockets.to_people(text, size)
        else:
            frames = []
            for file in sockets.in_turn(_find(path)):
                try:
                    frames += sockets.to_people(file.read_bytes(), size)
                except ValueError as error:
                    raise ValueError(f"{file.name}: {error}") from error
        if not frames:
            raise ValueError(f"There are no frames in {path.strip() or 'this text'}: it is an empty list.")
        return io.NodeOutput(sockets.to_keypoints(frames))


def _find(path: str) -> list[Path]:
    """The JSON files of a path inside ComfyUI's input or output folder.

    Raises:
        ValueError: where there are none, and for paths that lead out of these folders: workflows are passed around.
    """
    from ..dwpose_core.images import in_order

    homes = (folder_paths.get_input_directory(), folder_paths.get_output_directory())
    places = [place for home in homes if (place := inside(home, path)) is not None]
    if not places:
        raise ValueError(f"{path} is not inside ComfyUI's input or output folder; copy it there.")
    for found in places:
        # Not the methods of Path: they raise OSError for a name that is too long, such as JSON text.
        if os.path.isfile(found):
            return [found]
        if os.path.isdir(found) and (files := in_order(found, {".json"})):
            return files
    hint = " JSON text goes into text; leave path empty." if path.lstrip().startswith(("[", "{")) else ""
    raise ValueError(f"There is no JSON file or folder {path[:80]!r} in ComfyUI's input or output folder.{hint}")
