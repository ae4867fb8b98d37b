"""DWPose Render: keypoints of any origin drawn at any size."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from . import inputs, sockets
from .sockets import ALIASES, CATEGORY, Keypoints, schema
from .target import fit_input, one_shape, size_from_input, size_inputs, target

ARRANGEMENTS = ("over the image", "beside the image")


def _length(name: str, what: str):
    return io.Int.Input(name, default=0, min=0, max=64, tooltip=f"{what} in pixels of the map. 0: that of the style.")


class DWPoseRender(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseRender",
            display_name="DWPose Render",
            category=CATEGORY,
            description="Draws the keypoints of all frames, in any size and style, on black, a colour or images.",
            search_aliases=[*ALIASES, "draw pose", "render pose json", "overlay"],
            inputs=[
                Keypoints.Input("keypoints", tooltip="Keypoints in any dialect: pixels or fractions, flat or nested."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Draw over these images instead of the background colour: one for each frame, or one of "
                    "either for all.",
                ),
                size_from_input(),
                *size_inputs(),
                inputs.style_input(),
                *inputs.part_inputs(),
                io.Boolean.Input("head", default=True, tooltip="Nose, eyes and ears of the body."),
                inputs.threshold_input("Confidence from which a point is drawn."),
                io.Float.Input(
                    "thickness", default=1.0, min=0.1, max=20.0, step=0.1, tooltip="Multiplies all widths and radii."
                ),
                io.Boolean.Input(
                    "color_by_person", default=False, tooltip="One colour for each person instead of each limb."
                ),
                io.String.Input("background", default="#000000", tooltip="Background colour, as #rrggbb or a name."),
                io.Float.Input(
                    "opacity", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Of the drawing over images."
                ),
                _length("stick_width", "Half the width of a limb"),
                _length("joint_radius", "Radius of a body joint"),
                _length("hand_line_width", "Width of a finger"),
                _length("hand_joint_radius", "Radius of a hand joint"),
                _length("face_point_radius", "Radius of a face point"),
                inputs.antialias_input(),
                io.Combo.Input(
                    "arrange",
                    options=list(ARRANGEMENTS),
                    default=ARRANGEMENTS[0],
                    tooltip="With images: draw over them, or put the pose map to the right of them.",
                ),
                fit_input(),
            ],
            outputs=[io.Image.Output("pose_map", display_name="pose_map", tooltip="One picture for each frame.")],
        )

    @classmethod
    def execute(
        cls,
        keypoints,
        size,
        resolution,
        width,
        height,
        style,
        body,
        hands,
        face,
        feet,
        head,
        threshold,
        thickness,
        color_by_person,
        background,
        opacity,
        stick_width,
        joint_radius,
        hand_line_width,
        hand_joint_radius,
        face_point_radius,
        antialias,
        arrange,
        image=None,
        size_from=None,
        fit="crop",
    ) -> io.NodeOutput:
        import numpy as np
        from PIL import ImageColor

        from ..dwpose_core import edit
        from ..dwpose_core.render import overlay, render

        source = None if image is None else sockets.image_size(image)
        frames = sockets.to_people(keypoints, source)
        if not frames:
            raise ValueError("There are no frames in these keypoints.")
        if image is not None:
            if len(frames) != len(image) and 1 not in (len(frames), len(image)):
                raise ValueError(f"{len(image)} images but keypoints of {len(frames)} frames")
            # The keypoints may know a smaller edition of the image.
            frames = [edit.fit(people, source) for people in frames * (len(image) if len(frames) == 1 else 1)]
        goal = target(source or frames[0].image_size, size, resolution, width, height, fit, size_from)
        frames = sockets.seen_from(one_shape(frames, goal, fit), threshold)
        drawing = {
            "style": inputs.style_of(
                style,
                stick=stick_width,
                joint=joint_radius,
                hand_line=hand_line_width,
                hand_joint=hand_joint_radius,
                face_point=face_point_radius,
            ),
            "feet": feet,
            "threshold": 0.0,
            "thickness": thickness,
            "color_by_person": color_by_person,
        }
        try:
            color = ImageColor.getrgb(background)[:3]
        except ValueError:
            raise ValueError(f"background must be a colour, as #rrggbb or a name, got {background!r}") from None
        beside = image is not None and arrange == ARRANGEMENTS[1]
        maps = sockets.new_image(len(frames), (goal.size[0], goal.size[1] * (2 if beside else 1)))
        for number, people in enumerate(sockets.in_turn(frames)):
            drawn = color
            if image is not None:
                photo = sockets.to_frames(image[number % len(image)][None])[0]
                photo = goal.place_picture(photo, color)
                drawn = color if beside else photo
            for layer, parts in sockets.to_draw(people, body, hands, face, feet, head):
                layer = goal.place(layer)
                if image is None or beside:
                    drawn = render(layer, goal.size, parts=parts, background=drawn, antialias=antialias, **drawing)
                else:
                    drawn = overlay(drawn, layer, opacity=opacity, parts=parts, **drawing)
            sockets.put(maps[number], np.concatenate([photo, drawn], axis=1) if beside else drawn)
        return io.NodeOutput(maps)
