"""DWPose Convert: every pose type of ComfyUI into every other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from . import inputs, sockets
from .sockets import ALIASES, CATEGORY, Keypoints, schema

if TYPE_CHECKING:
    from ..dwpose_core.people import People

PoseData = io.Custom("POSEDATA")
DWPoses = io.Custom("DWPOSES")
LAYOUTS = ("OpenPose 18", "BODY_25", "nested", "COCO-WholeBody")
MAX_FRAMES = 100_000  # more is no clip, but somebody's ids of pictures


class DWPoseConvert(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseConvert",
            display_name="DWPose Convert",
            category=CATEGORY,
            description="Reads any pose type (POSE_KEYPOINT in every dialect, JSON text, POSEDATA of WanAnimate, "
            "DWPOSES of SCAIL) and gives all of them.",
            search_aliases=[*ALIASES, "posedata", "dwposes", "wan animate", "scail", "body_25"],
            inputs=[
                io.MultiType.Input(
                    "pose", [Keypoints, PoseData, DWPoses, io.String], tooltip="Poses of any type, or their JSON text."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Gives the size in pixels to poses that do not know it: DWPOSES, and COCO-WholeBody, where "
                    "image_id counts the frames.",
                ),
                io.Combo.Input(
                    "coordinates",
                    options=["pixels", "fractions"],
                    default="pixels",
                    tooltip="Of keypoints and json. Most nodes want pixels; some old ones fractions of the canvas.",
                ),
                io.Combo.Input(
                    "confidence",
                    options=["keep", "binary"],
                    default="keep",
                    tooltip="binary: 1 for points from the threshold on, which every node draws.",
                ),
                inputs.threshold_input("For binary: confidence of a point."),
                io.Combo.Input(
                    "json_layout",
                    options=list(LAYOUTS),
                    default=LAYOUTS[0],
                    tooltip="Of the JSON text. COCO-WholeBody has all 133 points and is always in pixels.",
                ),
            ],
            outputs=[
                Keypoints.Output("keypoints", display_name="keypoints", tooltip="POSE_KEYPOINT with 18 body points."),
                PoseData.Output("posedata", display_name="POSEDATA", tooltip="First person, for WanAnimatePreprocess."),
                DWPoses.Output("dwposes", display_name="DWPOSES", tooltip="Everyone, for SCAIL-Pose."),
                io.String.Output("json", display_name="json", tooltip="JSON text."),
            ],
        )

    @classmethod
    def execute(cls, pose, coordinates, confidence, threshold, json_layout, image=None) -> io.NodeOutput:
        from ..dwpose_core import dialects
        from ..dwpose_core.formats import to_coco

        size = None if image is None else sockets.image_size(image)
        if isinstance(pose, Mapping) and ("pose_metas" in pose or "pose_metas_original" in pose):
            frames = dialects.from_posedata(pose)
        elif isinstance(pose, Mapping) and "poses" in pose:
            if size is None:
                raise ValueError("DWPOSES hold fractions only; connect an image for the size in pixels.")
            frames = dialects.from_dwposes(pose, size)
        else:
            results = _coco_results(pose)
            frames = sockets.to_people(pose, size) if results is None else _from_coco(results, image)
        if confidence == "binary":
            keypoints = sockets.to_keypoints(sockets.seen_from(frames, threshold), confidence="binary")
        else:
            keypoints = sockets.to_keypoints(frames)
        if json_layout == "COCO-WholeBody":
            text = sockets.to_json(to_coco(frames, range(len(frames))))
        else:
            shown = keypoints
            if json_layout == "BODY_25":
                shown = [dialects.to_body25(frame) for frame in sockets.checked(shown)]
            if coordinates == "fractions":
                shown = [dialects.to_fractions(frame) for frame in sockets.checked(shown)]
            if json_layout == "nested":
                shown = [dialects.to_nested(frame) for frame in sockets.checked(shown)]
            text = sockets.to_json(shown)
        if coordinates == "fractions":
            keypoints = [dialects.to_fractions(frame) for frame in sockets.checked(keypoints)]
        return io.NodeOutput(keypoints, dialects.to_posedata(frames), dialects.to_dwposes(frames), text)


def _coco_results(pose: Any) -> list[dict] | None:
    """COCO-WholeBody results of JSON text, None for text of another kind. An empty list is a clip without anybody."""
    if not isinstance(pose, str) or not ('"image_id"' in pose or re.fullmatch(r"\s*\[\s*\]\s*", pose)):
        return None
    try:
        results = json.loads(pose)
    except json.JSONDecodeError:
        return None  # whoever reads the other kinds says what is wrong
    read = isinstance(results, list) and all(
        isinstance(r, dict) and isinstance(r.get("image_id"), int) for r in results
    )
    return results if read else None


def _from_coco(results: list[dict], image: Any) -> list[People]:
    from ..dwpose_core.formats import from_coco

    if image is None:
        if not results:
            raise ValueError(
                "This list is empty. COCO-WholeBody of a clip in which nobody is found is; connect the images of the "
                "clip to say how many frames there are."
            )
        raise ValueError("COCO-WholeBody has no size in it; connect an image of that size, or all of them.")
    # The format lists people, not frames: the last ones may be missing; where all images are there, they tell.
    count = max([len(image), *(person["image_id"] + 1 for person in results)])
    if count > len(image) > 1 or count > MAX_FRAMES:
        raise ValueError(f"image_id must be the number of a frame, from 0 on; it goes up to {count - 1} here.")
    return from_coco(results, dict.fromkeys(range(count), sockets.image_size(image)))
