"""Modular Diffusers: a Stable Diffusion XL pipeline that takes the photograph itself and finds the pose on its way.

python docs/examples/modular_sdxl.py photo.jpg "an astronaut on the beach"

Writes pose.json and picture.png. Needs `pip install "dwpose-torch[diffusers]"`.
"""

import json
import sys

import torch
from PIL import Image


def add_pose(blocks, pose_block):
    """Any workflow with a `control_image`: the block that makes one goes first."""
    blocks.sub_blocks.insert("pose", pose_block, 0)
    return blocks


def load(device="cuda"):
    from diffusers import ControlNetModel
    from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks

    from dwpose_core.modular.block import DWPoseBlock

    blocks = add_pose(StableDiffusionXLAutoBlocks().get_workflow("controlnet_text2image"), DWPoseBlock())
    pipe = blocks.init_pipeline("stabilityai/stable-diffusion-xl-base-1.0")
    pipe.load_components(dtype=torch.float16)  # also `pose_detector`, with the published DWPose weights
    pipe.update_components(
        controlnet=ControlNetModel.from_pretrained("xinsir/controlnet-openpose-sdxl-1.0", dtype=torch.float16)
    )
    return pipe.to(device)


def generate(pipe, photo, prompt, height=1024, width=1024, steps=28, seed=0):
    """The map is drawn at the size of the picture; a photograph of the same shape keeps its proportions."""
    state = pipe(
        prompt=prompt,
        image=photo,
        height=height,
        width=width,
        detect_resolution=min(height, width),
        pose_style="xinsir",
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
    )
    return state.get("pose_keypoints"), state.get("images")[0]


if __name__ == "__main__":
    keypoints, picture = generate(load(), Image.open(sys.argv[1]), sys.argv[2])
    picture.save("picture.png")
    with open("pose.json", "w") as file:
        json.dump(keypoints, file)
