"""DWPose Face/Hand Crops and DWPose Mask."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from . import inputs, sockets
from .sockets import ALIASES, CATEGORY, Keypoints, schema
from .target import fit_input, one_shape, size_from_input, size_inputs, target

MISSING = ("error", "black")


class DWPoseFaceHandCrop(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseFaceHandCrop",
            display_name="DWPose Face/Hand Crops",
            category=CATEGORY,
            description="Cuts out the face or a hand of one person: square, one size through the clip, on a steady "
            "path. For Wan-Animate, detailers and hand fixing.",
            search_aliases=[*ALIASES, "face crop", "hand crop", "wan animate face"],
            inputs=[
                io.Image.Input("image", tooltip="The images the keypoints were found in."),
                Keypoints.Input("keypoints", tooltip="Keypoints of these images."),
                io.Combo.Input(
                    "part", options=["face", "left hand", "right hand"], default="face", tooltip="What to cut out."
                ),
                io.Int.Input(
                    "person", default=0, min=0, max=1000, tooltip="Which person, counted from 0; DWPose Select picks."
                ),
                io.Int.Input("crop_size", default=512, min=16, max=4096, step=8, tooltip="Side of the crops, pixels."),
                io.Float.Input(
                    "padding",
                    default=0.25,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Room on each side, as a share of the part's size.",
                ),
                io.Float.Input(
                    "steadiness",
                    default=5.0,
                    min=0.0,
                    max=200.0,
                    step=0.5,
                    tooltip="Over how many frames the path is averaged. 0 follows every frame.",
                ),
                inputs.threshold_input("Confidence of a seen point."),
                io.Combo.Input(
                    "missing",
                    options=list(MISSING),
                    default=MISSING[0],
                    optional=True,
                    tooltip="What to do where no frame shows the part: stop with an error, or go on with black crops "
                    "and no boxes.",
                ),
            ],
            outputs=[
                io.Image.Output("crops", display_name="crops", tooltip="One square for each frame."),
                sockets.Boxes.Output(
                    "crop_boxes", display_name="boxes", tooltip="Where they were cut out; may leave the image."
                ),
                sockets.KijaiBoxes.Output("bbox", display_name="BBOX", tooltip="The same as x1, y1, x2, y2 per frame."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, image, keypoints, part, person, crop_size, padding, steadiness, threshold, missing=MISSING[0]
    ) -> io.NodeOutput:
        import numpy as np

        from ..dwpose_core import edit, regions

        source = sockets.image_size(image)
        frames = sockets.to_people(keypoints, source)
        if len(frames) != len(image):
            raise ValueError(f"{len(image)} images but keypoints of {len(frames)} frames")
        boxes = np.full((len(frames), 4), np.nan)
        for row, people, p in zip(boxes, frames, edit.follow(frames, person), strict=True):
            if p is not None:
                scale = np.float32([source[1] / people.image_size[1], source[0] / people.image_size[0]] * 2)
                row[:] = regions.part_boxes(people[p], part.replace(" ", "_"), threshold)[0] * scale
        crops = sockets.new_image(len(frames), (crop_size, crop_size))
        if not np.isfinite(boxes).all(axis=1).any():
            text = f"No {part} of person {person} is seen in any of {len(frames)} frames."
            if missing == MISSING[0]:
                raise ValueError(text)
            return io.NodeOutput(crops.zero_(), [[] for _ in frames], [], ui=sockets.say(cls, text))
        hidden = int((~np.isfinite(boxes).all(axis=1)).sum())
        text = f"{part.capitalize()} found in {len(frames) - hidden} of {len(frames)} frames"
        shown = sockets.say(cls, f"{text}; the box goes on between them." if hidden else text)
        squares = regions.steady_boxes(boxes, padding, steadiness)
        for slot, frame, box in zip(crops, sockets.in_turn(image), squares, strict=True):
            sockets.put(slot, regions.crop_square(sockets.to_frames(frame[None])[0], box, crop_size))
        rows = squares.tolist()
        dicts = [[{"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "label": part}] for x1, y1, x2, y2 in rows]
        return io.NodeOutput(crops, dicts, [tuple(row) for row in rows], ui=shown)


class DWPoseToMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseToMask",
            display_name="DWPose Mask",
            category=CATEGORY,
            description="Masks of body, face or hands from keypoints, for inpainting and regional prompts.",
            search_aliases=[*ALIASES, "face mask", "hand mask", "body mask"],
            inputs=[
                Keypoints.Input("keypoints", tooltip="Keypoints of one image or a clip, in any dialect."),
                size_from_input("mask"),
                *size_inputs("source", "mask"),
                io.Boolean.Input("body", default=False, tooltip="Trunk, limbs and head."),
                io.Boolean.Input("face", default=True, tooltip="Face with forehead."),
                io.Boolean.Input("hands", default=False, tooltip="Both hands."),
                io.Float.Input(
                    "grow", default=1.0, min=0.1, max=10.0, step=0.05, tooltip="Factor on limb widths and margins."
                ),
                io.Int.Input("blur", default=0, min=0, max=512, tooltip="Soft edge in pixels."),
                inputs.threshold_input("Confidence of a seen point."),
                fit_input(),
            ],
            outputs=[io.Mask.Output("mask", display_name="mask", tooltip="One mask for each frame.")],
        )

    @classmethod
    def execute(
        cls,
        keypoints,
        size,
        resolution,
        width,
        height,
        body,
        face,
        hands,
        grow,
        blur,
        threshold,
        size_from=None,
        fit="crop",
    ) -> io.NodeOutput:
        import cv2
        import numpy as np
        import torch

        from ..dwpose_core import edit, regions

        frames = sockets.to_people(keypoints)
        if not frames:
            raise ValueError("There are no frames in these keypoints.")
        parts = [name for name, on in (("body", body), ("face", face), ("hands", hands)) if on]
        goal = target(frames[0].image_size, size, resolution, width, height, fit, size_from)
        frames = sockets.seen_from(frames, threshold)
        masks = torch.zeros((len(frames), *goal.size))
        for slot, people in zip(masks, sockets.in_turn(one_shape(frames, goal, fit)), strict=True):
            people = edit.fit(people, goal.size, goal.fit)
            mask = regions.part_mask(people, parts, grow, threshold=0.0).astype(np.float32)
            if blur:
                mask = cv2.GaussianBlur(mask, (0, 0), blur / 2)
            slot.copy_(torch.from_numpy(mask))
        return io.NodeOutput(masks)
