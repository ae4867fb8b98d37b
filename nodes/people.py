"""DWPose Select, Smooth and Transform: keypoints in, keypoints out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from . import inputs, sockets
from .boxes import to_bounding_boxes
from .sockets import ALIASES, CATEGORY, Keypoints, schema

if TYPE_CHECKING:
    from ..dwpose_core.people import People

_KEYPOINTS = "Keypoints of one image or a clip, in any dialect."
PART = 256  # frames that are smoothed at a time: about a second


class DWPoseSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseSelect",
            display_name="DWPose Select",
            category=CATEGORY,
            description="Picks people: the largest, the middle one, by position, mask or id; in a clip the same ones "
            "in every frame.",
            search_aliases=[*ALIASES, "pick person", "multi person", "filter people"],
            inputs=[
                Keypoints.Input("keypoints", tooltip=_KEYPOINTS),
                io.Mask.Input("mask", optional=True, tooltip="For 'mask': whose seen points lie inside."),
                io.Combo.Input(
                    "by",
                    options=["largest", "centre", "left", "score", "index", "mask", "id"],
                    default="largest",
                    tooltip="Order of the people: box area, distance from the middle, from left to right, detector "
                    "score, order in the frame, share inside the mask; or id as DWPose Smooth gives them.",
                ),
                io.Int.Input("start", default=0, min=0, max=1000, tooltip="Skip this many people of that order."),
                io.Int.Input("count", default=1, min=1, max=1000, tooltip="How many people to keep."),
                io.String.Input("ids", default="0", tooltip="For 'id': ids to keep, as 0, 2."),
                io.Boolean.Input(
                    "whole_clip",
                    default=True,
                    tooltip="Choose once and follow the same people through the clip. Off: choose in every frame.",
                ),
                io.Boolean.Input("body", default=True, tooltip="Keep the body."),
                io.Boolean.Input("hands", default=True, tooltip="Keep the hands."),
                io.Boolean.Input("face", default=True, tooltip="Keep the face."),
                io.Boolean.Input("feet", default=True, tooltip="Keep the feet."),
                inputs.threshold_input("Drop points whose confidence is lower than this.", default=0.0),
            ],
            outputs=[
                Keypoints.Output("selected", display_name="keypoints", tooltip="Keypoints of the people picked."),
                sockets.Boxes.Output("person_boxes", display_name="boxes", tooltip="Their boxes, for each frame."),
            ],
        )

    @classmethod
    def execute(
        cls, keypoints, by, start, count, ids, whole_clip, body, hands, face, feet, threshold, mask=None
    ) -> io.NodeOutput:
        from ..dwpose_core import edit, tracking

        frames = sockets.to_people(keypoints)
        if whole_clip and len(frames) > 1 and any(len(people) and people.id is None for people in frames):
            frames = tracking.track(sockets.checked(frames))
        if by == "id":
            try:
                wanted = [int(part) for part in ids.split(",")]
            except ValueError:
                raise ValueError(f"ids must be whole numbers separated by commas, got {ids!r}") from None
            chosen = edit.select_ids(frames, wanted)
        else:
            masks = None if mask is None or not len(mask) else (mask.reshape(-1, *mask.shape[-2:]) > 0.5).cpu().numpy()
            select = edit.select_tracks if whole_clip and len(frames) > 1 else edit.select_per_frame
            chosen = select(frames, by, index=start, count=count, masks=masks)
        selected = sockets.to_keypoints(sockets.seen_from(chosen, threshold))
        return io.NodeOutput(sockets.keep_parts(selected, body, hands, face, feet), to_bounding_boxes(chosen))


class DWPoseSmooth(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseSmooth",
            display_name="DWPose Smooth",
            category=CATEGORY,
            description="Makes the keypoints of a clip steady: gives people ids, fills short gaps, removes jitter.",
            search_aliases=[*ALIASES, "one euro filter", "jitter", "track people", "interpolate"],
            inputs=[
                Keypoints.Input("keypoints", tooltip="Keypoints of a clip, one list per frame."),
                io.Float.Input("fps", default=24.0, min=1.0, max=1000.0, step=0.01, tooltip="Frames per second."),
                io.Boolean.Input("smooth", default=True, tooltip="Remove jitter."),
                io.Float.Input(
                    "min_cutoff",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="Hz. Lower it against jitter of points that stand still.",
                ),
                io.Float.Input(
                    "beta",
                    default=20.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Raise it where fast movements lag behind.",
                ),
                io.Int.Input(
                    "max_gap",
                    default=5,
                    min=0,
                    max=300,
                    tooltip="Fill people and points missing for up to this many frames.",
                ),
                io.Int.Input(
                    "max_age",
                    default=30,
                    min=0,
                    max=1000,
                    tooltip="Frames somebody may be out of sight and keep their id.",
                ),
                io.Combo.Input(
                    "method",
                    options=["one euro", "savitzky-golay"],
                    default="one euro",
                    tooltip="one euro: holds still what stands still. savitzky-golay: looks ahead, so nothing lags "
                    "behind; for dances.",
                ),
                io.Int.Input(
                    "window", default=9, min=5, max=101, step=2, tooltip="For savitzky-golay: frames it looks at, odd."
                ),
                io.Float.Input(
                    "max_limb",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    tooltip="Drop the end of a limb that is for a moment more than this many times its usual length "
                    "(1.6, say), and fill the gap. 0: off.",
                ),
            ],
            outputs=[Keypoints.Output("smoothed", display_name="keypoints", tooltip="With person_id for everyone.")],
        )

    @classmethod
    def execute(
        cls, keypoints, fps, smooth, min_cutoff, beta, max_gap, max_age, method, window, max_limb
    ) -> io.NodeOutput:
        from ..dwpose_core import smoothing, tracking

        if 0 < max_limb <= 1:
            raise ValueError(f"max_limb is 0 (off) or above 1 (as long as usual), got {max_limb}")

        frames = sockets.to_people(keypoints)
        if any(len(people) and people.id is None for people in frames) or not any(map(len, frames)):
            frames = tracking.track(sockets.checked(frames), max_age=max_age)
        # A frame without people has no ids to show either.
        frames = [people if len(people) else dataclasses.replace(people, id=[]) for people in frames]
        if max_limb:
            frames = smoothing.drop_outliers(frames, max_limb)
        frames = tracking.fill_gaps(sockets.checked(frames), max_gap)
        if smooth and method == "savitzky-golay":
            frames = _savitzky_golay(frames, window | 1)
        elif smooth:
            frames = tracking.smooth(frames, fps, min_cutoff=min_cutoff, beta=beta)
        return io.NodeOutput(sockets.to_keypoints(frames))


def _savitzky_golay(frames: list[People], window: int) -> list[People]:
    """`smoothing.savitzky_golay` in parts, between which ComfyUI can interrupt the node. A frame depends on half a
    window to both sides only, so that the parts make the same whole."""
    from ..dwpose_core import smoothing

    half, result = window // 2, []
    for start in sockets.checked(range(0, len(frames), PART)):
        first = max(0, start - half)
        part = smoothing.savitzky_golay(frames[first : start + PART + half], window)
        result += part[start - first :][:PART]
    return result


class DWPoseTransform(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseTransform",
            display_name="DWPose Transform",
            category=CATEGORY,
            description="Scales, turns, moves and mirrors people, or fits a clip to the place and proportions of a "
            "reference pose.",
            search_aliases=[*ALIASES, "retarget", "pose align", "mirror pose", "scale pose"],
            inputs=[
                Keypoints.Input("keypoints", tooltip=_KEYPOINTS),
                Keypoints.Input(
                    "reference", optional=True, tooltip="Pose of the character, for 'fit'. Its first person counts."
                ),
                io.Combo.Input(
                    "fit",
                    options=["none", "align", "retarget", "retarget and align"],
                    default="none",
                    tooltip="align: put the clip where the reference stands. retarget: give the dancer the limb "
                    "lengths of the reference.",
                ),
                io.Float.Input("scale", default=1.0, min=0.01, max=100.0, step=0.01, tooltip="Size of the people."),
                io.Float.Input(
                    "rotate", default=0.0, min=-360.0, max=360.0, step=0.1, tooltip="Degrees, clockwise in the image."
                ),
                io.Float.Input(
                    "move_x", default=0.0, min=-16384.0, max=16384.0, step=1.0, tooltip="Pixels to the right."
                ),
                io.Float.Input("move_y", default=0.0, min=-16384.0, max=16384.0, step=1.0, tooltip="Pixels down."),
                io.Combo.Input(
                    "pivot",
                    options=["image", "people"],
                    default="image",
                    tooltip="Middle of scale and rotate: that of the image, or that of all people of the clip.",
                ),
                io.Boolean.Input("mirror", default=False, tooltip="Mirror the image; left and right change places."),
            ],
            outputs=[Keypoints.Output("transformed", display_name="keypoints", tooltip="The changed keypoints.")],
        )

    @classmethod
    def execute(cls, keypoints, fit, scale, rotate, move_x, move_y, pivot, mirror, reference=None) -> io.NodeOutput:
        import numpy as np

        from ..dwpose_core import edit

        frames = sockets.to_people(keypoints)
        if fit != "none":
            if reference is None:
                raise ValueError(f"fit {fit!r} needs a pose at the reference input")
            goal = next((people for people in map(_seen, sockets.to_people(reference)) if len(people)), None)
            if goal is None:
                raise ValueError("there is nobody in the reference pose")
            if "retarget" in fit:
                frames = edit.retarget(frames, goal)
            if "align" in fit:
                frames = edit.align(frames, goal)
        if mirror:
            frames = [edit.mirror(people) for people in sockets.checked(frames)]
        center = None
        seen = list(map(_seen, frames))
        if pivot == "people" and any(map(len, seen)):
            boxes = np.concatenate([people.box for people in seen])
            middle = (boxes[:, :2].min(0) + boxes[:, 2:].max(0)) / 2
            center = tuple((middle - 0.5).tolist())  # of points, whose whole numbers are pixel centres
        frames = [
            edit.affine(people, scale=scale, rotate=rotate, move=(move_x, move_y), center=center) for people in frames
        ]
        return io.NodeOutput(sockets.to_keypoints(frames))


def _seen(people: People) -> People:
    """Those who have a point. The older pack lists the others, too, with zeros, as if they stood in the corner."""
    return people[(people.score > 0).any(axis=1)]
