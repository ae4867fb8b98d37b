"""DWPose Merge and DWPose Interpolate: clips put together, and on another time."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from . import sockets
from .sockets import ALIASES, CATEGORY, Keypoints, schema

HOW = ("together", "one after another")


class DWPoseMerge(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseMerge",
            display_name="DWPose Merge",
            category=CATEGORY,
            description="Puts the people of two clips into the same frames, or one clip behind the other.",
            search_aliases=[*ALIASES, "combine poses", "join", "concatenate", "batch keypoints"],
            inputs=[
                Keypoints.Input("keypoints", tooltip="Keypoints of one image or a clip; the result has their canvas."),
                Keypoints.Input("other", tooltip="Keypoints to add; they are scaled to the canvas of the first."),
                io.Combo.Input(
                    "how",
                    options=list(HOW),
                    default=HOW[0],
                    tooltip="together: everyone in the same frames; the last frame of the shorter clip goes on. one "
                    "after another: the frames of the second after those of the first.",
                ),
            ],
            outputs=[Keypoints.Output("merged", display_name="keypoints", tooltip="Keypoints of both.")],
        )

    @classmethod
    def execute(cls, keypoints, other, how) -> io.NodeOutput:
        from ..dwpose_core import combine

        merge = combine.together if how == HOW[0] else combine.one_after_another
        return io.NodeOutput(sockets.to_keypoints(merge(sockets.to_people(keypoints), sockets.to_people(other))))


class DWPoseInterpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseInterpolate",
            display_name="DWPose Interpolate",
            category=CATEGORY,
            description="Gives a clip another frame rate or number of frames: slow motion, 16 fps for a video model, "
            "or the way from one pose to the next.",
            search_aliases=[*ALIASES, "resample", "frame rate", "retime", "tween", "slow motion"],
            inputs=[
                Keypoints.Input("keypoints", tooltip="Keypoints of a clip, one list per frame."),
                io.Int.Input(
                    "frames", default=0, min=0, max=100000, tooltip="Number of frames wanted. 0: as the rates say."
                ),
                io.Float.Input(
                    "fps", default=24.0, min=0.01, max=1000.0, step=0.01, tooltip="Frames per second of the clip."
                ),
                io.Float.Input(
                    "new_fps",
                    default=16.0,
                    min=0.01,
                    max=1000.0,
                    step=0.01,
                    tooltip="Frames per second wanted; used where frames is 0.",
                ),
            ],
            outputs=[Keypoints.Output("interpolated", display_name="keypoints", tooltip="The clip at its new rate.")],
        )

    @classmethod
    def execute(cls, keypoints, frames, fps, new_fps) -> io.NodeOutput:
        import numpy as np

        from ..dwpose_core import combine, edit

        people = sockets.to_people(keypoints)
        if not people:
            raise ValueError("There are no frames in these keypoints.")
        # Photographs of several sizes, as JSON files of a folder: what lies between two of them has one canvas only.
        people = [edit.fit(frame, people[0].image_size) for frame in people]
        last = len(people) - 1
        if frames:
            times = np.linspace(0, last, frames)
        else:
            times = np.arange(int(last * new_fps / fps + 1e-6) + 1) * (fps / new_fps)
        result, times = [], times.clip(0, last)
        for start in sockets.checked(range(0, len(times), 1000)):
            result += combine.resample(people, times[start : start + 1000])
        return io.NodeOutput(sockets.to_keypoints(result))
