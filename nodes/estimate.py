"""DWPose Estimate: images in, pose maps, keypoints and boxes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_api.v0_0_2 import io, ui

from . import inputs, sockets
from .boxes import Found, keep, mask_boxes, read_boxes, to_bounding_boxes
from .models import PoseModel
from .sockets import ALIASES, CATEGORY, Boxes, Keypoints, KijaiBoxes, Model, Segs, schema
from .target import Target, fit_input, size_from_input, size_inputs, target

if TYPE_CHECKING:
    from ..dwpose_core.people import People
    from ..dwpose_core.pipeline import Options

# Images and people per forward. More than this gains nothing on a GPU; on a CPU large batches only use more memory.
GPU_BATCH = (8, 32)
CPU_BATCH = (2, 8)
PREVIEWS = 8  # pictures shown on the node, whatever the length of the film


class DWPoseEstimate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseEstimate",
            display_name="DWPose Estimate",
            category=CATEGORY,
            description="Finds people and their body, hand, face and foot keypoints, and draws the pose map.",
            search_aliases=[*ALIASES, "openpose estimator", "controlnet preprocessor", "pose detection"],
            inputs=[
                Model.Input("model", tooltip="From DWPose Loader."),
                io.Image.Input("image", tooltip="One image, or the frames of a video."),
                io.MultiType.Input(
                    "boxes",
                    [Boxes, KijaiBoxes, Segs],
                    optional=True,
                    tooltip="Boxes of the people instead of the detector: BOUNDING_BOX, BBOX (x1, y1, x2, y2) or SEGS.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Take the box around this mask instead of the detector; not where boxes are connected.",
                ),
                size_from_input(),
                *size_inputs(),
                inputs.style_input(),
                *inputs.part_inputs(),
                io.Combo.Input(
                    "search",
                    options=["detector", "whole image"],
                    default="detector",
                    tooltip="detector: everyone. whole image: one person, found without the detector; for drawings "
                    "and close-ups that the detector misses.",
                ),
                io.Int.Input(
                    "max_people", default=0, min=0, max=1000, tooltip="Keep the surest people of each frame. 0: all."
                ),
                io.Float.Input(
                    "detector_threshold",
                    default=0.3,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How sure the detector must be of a person. Lower it to find more.",
                ),
                inputs.threshold_input(
                    "Score from which a point counts as seen. Raise it to lose the face on the back of a head.",
                    "keypoint_threshold",
                ),
                io.Boolean.Input(
                    "flip_test",
                    default=False,
                    tooltip="Look at the mirror image, too, and take the mean: a little better, half as fast.",
                ),
                io.Combo.Input(
                    "confidence",
                    options=["binary", "score"],
                    default="binary",
                    tooltip="Confidence in the keypoints. binary: 1 or 0, which every node reads. score: the network's "
                    "own, which some nodes drop below 1.",
                ),
                inputs.antialias_input(),
                io.Int.Input(
                    "detect_every",
                    default=1,
                    min=1,
                    max=100,
                    tooltip="Videos: run the detector on every Nth frame only; boxes in between are interpolated.",
                ),
                io.Float.Input(
                    "nms_threshold",
                    default=0.45,
                    min=0.05,
                    max=1.0,
                    step=0.01,
                    tooltip="Overlap up to which two boxes are two people. Raise it for people in front of each other.",
                ),
                io.Int.Input(
                    "min_size",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Leave out people whose box is smaller than this many pixels on its longer side.",
                ),
                fit_input(),
                io.Int.Input(
                    "detector_size",
                    default=0,
                    min=0,
                    max=2048,
                    step=32,
                    optional=True,
                    tooltip="Side of the detector's input, pixels, a multiple of 32. Larger finds people who are small "
                    "in the picture, but is slower. 0: that of its weights.",
                ),
            ],
            outputs=[
                io.Image.Output("pose_map", display_name="pose_map", tooltip="The pose map of every frame."),
                Keypoints.Output("keypoints", display_name="keypoints", tooltip="Keypoints in pixels of the image."),
                Boxes.Output("person_boxes", display_name="boxes", tooltip="Boxes of the people, for each frame."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        image,
        size,
        resolution,
        width,
        height,
        style,
        body,
        hands,
        face,
        feet,
        search,
        max_people,
        detector_threshold,
        keypoint_threshold,
        flip_test,
        confidence,
        antialias,
        detect_every,
        nms_threshold,
        min_size,
        boxes=None,
        mask=None,
        size_from=None,
        fit="crop",
        detector_size=0,
    ) -> io.NodeOutput:
        from ..dwpose_core.pipeline import Options

        source = sockets.image_size(image)
        remark = ""
        if boxes is not None:
            boxes = read_boxes(boxes, len(image), source)
            remark = "The mask is not used, as boxes are connected. " if mask is not None else ""
        elif mask is not None:
            boxes = mask_boxes(mask, len(image), source)
            if not any(len(found) for found, _ in boxes):  # what LoadImage gives for a picture without alpha
                remark = "Nothing is selected in the mask. "
        if boxes is not None:
            boxes = [keep(found, min_size, max_people) for found in boxes]
        images, people = CPU_BATCH if mm.is_device_cpu(mm.get_torch_device()) else GPU_BATCH
        options = Options(
            detector_threshold=detector_threshold,
            keypoint_threshold=keypoint_threshold,
            detector_size=detector_size or None,
            nms_threshold=nms_threshold,
            min_size=min_size,
            max_people=max_people or None,
            flip_test="corrected" if flip_test else "off",
            image_batch=images,
            people_batch=people,
        )
        wanted = {"body": body, "hands": hands, "face": face, "feet": feet}
        drawing = {"style": inputs.style_of(style), "threshold": keypoint_threshold, "antialias": antialias}
        output, found = draw_estimates(
            estimate(model, image, boxes, options, search == "detector", detect_every),
            len(image),
            target(source, size, resolution, width, height, fit, size_from),
            wanted,
            drawing,
        )
        keypoints = sockets.to_keypoints(found, keypoint_threshold, confidence)
        shown = {
            **previews(cls, output),
            "openpose_json": [sockets.to_json(keypoints)],
            **sockets.say(cls, remark + sockets.found_text(found, keypoint_threshold)),
        }
        return io.NodeOutput(output, keypoints, to_bounding_boxes(found), ui=shown)


def estimate(
    model: PoseModel,
    images: torch.Tensor,
    boxes: list[Found] | None,
    options: Options,
    use_detector: bool = True,
    detect_every: int = 1,
) -> Iterator[list[People]]:
    """The people of IMAGE (B, H, W, 3), a chunk of frames at a time; chunks halve where memory runs out. With
    `boxes` of every frame the detector is not asked.

    Raises:
        ComfyUI's interrupt, between chunks and inside the networks.
    """
    from ..dwpose_core.keyframes import KeyframeDetector
    from ..dwpose_core.pipeline import estimate_people

    with model.ready(options.image_batch, options.people_batch, options.detector_size) as (pose, detector):
        detector = detector if use_detector and boxes is None else None
        keyframes = None
        if detector is not None and detect_every > 1:
            keyframes = KeyframeDetector(
                detector, options, lambda i: sockets.to_frames(images[i : i + 1])[0], len(images), detect_every
            )
        start = 0
        while start < len(images):
            mm.throw_exception_if_processing_interrupted()
            part = slice(start, start + options.image_batch)
            frames = sockets.to_frames(images[part])
            try:
                given = boxes[part] if boxes is not None else None
                if keyframes is not None:
                    given = keyframes.boxes(start, start + len(frames))
                if given is None:
                    people = estimate_people(frames, pose, detector, None, options)
                else:
                    people = estimate_people(frames, pose, None, [box for box, _ in given], options)
                    people = [
                        dataclasses.replace(person, box_score=scores[: len(person)])
                        for person, (_, scores) in zip(people, given, strict=True)
                    ]
            except mm.InterruptProcessingException:
                raise
            except mm.OOM_EXCEPTION:
                if options.image_batch == options.people_batch == 1:
                    raise
                mm.soft_empty_cache()
                options = dataclasses.replace(
                    options,
                    image_batch=max(1, options.image_batch // 2),
                    people_batch=max(1, options.people_batch // 2),
                )
                if keyframes is not None:
                    keyframes.options = options
                continue
            yield people
            start += len(frames)


def draw_estimates(
    chunks: Iterator[list[People]], count: int, goal: Target, wanted: dict[str, bool], drawing: dict[str, Any]
) -> tuple[torch.Tensor, list[People]]:
    """Pose maps (B, H, W, 3) of `count` frames, drawn while they are found, with progress and a live preview; and the
    people. `wanted` parts are drawn, `drawing` goes to `dwpose_core.render.render`."""
    from PIL import Image

    from ..dwpose_core.render import render

    progress = comfy.utils.ProgressBar(count)
    maps = sockets.new_image(count, goal.size)
    found: list[People] = []
    for chunk in chunks:
        for people in chunk:
            pose_map = None
            for drawn, parts in sockets.to_draw(people, **wanted):
                layer = {"parts": parts, "feet": wanted["feet"], "background": pose_map}
                pose_map = render(goal.place(drawn), goal.size, **layer, **drawing)
            sockets.put(maps[len(found)], pose_map)
            found.append(people)
        progress.update_absolute(len(found), count, ("JPEG", Image.fromarray(pose_map), 512))
    return maps, found


def previews(cls: type[io.ComfyNode], image: torch.Tensor) -> dict:
    """A few frames of an IMAGE as pictures on the node."""
    return ui.PreviewImage(image[:: -(-len(image) // PREVIEWS)], cls=cls).as_dict()
