"""Modular Diffusers block: image -> control_image (a pose map for a ControlNet) and pose_keypoints.

Everything it does is in the installed package; this file only declares it to a pipeline. It is loaded with
`ModularPipelineBlocks.from_pretrained(folder_or_repository, trust_remote_code=True)`, or imported as
`dwpose_core.modular.block`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.modular_pipelines import (
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
)
from diffusers.modular_pipelines.mellon_node_utils import MellonParam
from PIL import Image

# Not relative: the file is also run from a copy outside the package.
from dwpose_core.formats import to_openpose
from dwpose_core.preprocessor import DWposeDetector
from dwpose_core.render import STYLES

Picture = Image.Image | torch.Tensor | list[Image.Image] | list[torch.Tensor]


class DWPoseBlock(ModularPipelineBlocks):
    """Draws the pose of everyone in `image`. Its only component, `pose_detector`, is a `dwpose_core.DWposeDetector`."""

    _requirements = {"dwpose-torch": ">=0.1", "diffusers": ">=0.42"}  # noqa: RUF012, a plain dict as diffusers wants it

    @property
    def description(self) -> str:
        return (
            "Finds people (body, hands, face: DWPose) and draws them as a pose map for a ControlNet. "
            "Turns `image` into `control_image`, with `pose_keypoints` beside it."
        )

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [
            ComponentSpec(
                "pose_detector",
                DWposeDetector,
                description="Person detector and pose network. It runs on the device it was loaded or moved to.",
                # The published weights; a folder or repository written by DWposeDetector.save_pretrained works, too.
                pretrained_model_name_or_path="auto",
            )
        ]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam(
                "image",
                type_hint=Picture,
                required=True,
                description="Photograph, list of photographs of any sizes, or batch of them as a tensor",
                metadata={"mellon": "image"},
            ),
            InputParam(
                "detect_resolution",
                type_hint=int,
                default=512,
                description="Short side, in pixels, of the picture in which people are looked for. More finds smaller "
                "hands and faces; None takes the photograph as it is",
                metadata={"mellon": MellonParam.Input.slider("detect_resolution", 512, min=256, max=2048, step=64)},
            ),
            InputParam(
                "image_resolution",
                type_hint=int,
                default=512,
                description="Short side of the map, sides rounded to multiples of 64. Not used with height and width",
                metadata={"mellon": MellonParam.Input.slider("image_resolution", 512, min=256, max=2048, step=64)},
            ),
            InputParam(
                "height",
                type_hint=int,
                description="Height of the generated image. With height and width the map is drawn at that very size",
                metadata={"mellon": "number"},
            ),
            InputParam("width", type_hint=int, description="Width, likewise", metadata={"mellon": "number"}),
            *(
                InputParam(
                    f"include_{part}",
                    type_hint=bool,
                    default=True,
                    description=f"Draw the {part}",
                    metadata={"mellon": "checkbox"},
                )
                for part in ("body", "hand", "face")
            ),
            InputParam(
                "pose_style",
                type_hint=str,
                default="openpose",
                description=f"How the map is drawn: {', '.join(STYLES)}",
                metadata={"mellon": MellonParam.Input.dropdown("pose_style", list(STYLES), "openpose")},
            ),
            InputParam(
                "keypoint_threshold",
                type_hint=float,
                default=0.3,
                description="Score from which a point is drawn",
                metadata={"mellon": MellonParam.Input.slider("keypoint_threshold", 0.3, min=0.0, max=1.0, step=0.05)},
            ),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam(
                "control_image",
                type_hint=Image.Image | list[Image.Image],
                description="Pose map of the image; a list where images came in a list or batch. Black without people",
                metadata={"mellon": "image"},
            ),
            OutputParam(
                "pose_keypoints",
                type_hint=list[dict],
                description="OpenPose JSON of each image, in pixels of its map",
                metadata={"mellon": "custom"},
            ),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block = self.get_block_state(state)
        if bool(block.height) != bool(block.width):  # a user interface says 0 where a script says None
            raise ValueError(f"give both height and width, or none: got {block.height} and {block.width}")
        if components.pose_detector is None:
            raise ValueError(
                "the pose_detector is not loaded: call load_components() first, or give one to update_components()"
            )
        block.control_image, people = components.pose_detector(
            block.image,
            detect_resolution=block.detect_resolution,
            image_resolution=(block.height, block.width) if block.height else block.image_resolution,
            include_body=block.include_body,
            include_hand=block.include_hand,
            include_face=block.include_face,
            style=block.pose_style,
            keypoint_threshold=block.keypoint_threshold,
            return_people=True,
        )
        block.pose_keypoints = to_openpose(people, threshold=block.keypoint_threshold)
        self.set_block_state(state, block)
        return components, state
