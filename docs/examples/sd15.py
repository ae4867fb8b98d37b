"""Stable Diffusion 1.5 follows the pose of a photograph.

python docs/examples/sd15.py photo.jpg "an astronaut on the beach"

Writes pose.png and picture.png. Needs `pip install "dwpose-torch[diffusers]"`.
"""

import sys

import torch

from dwpose_core import DWposeDetector


def load(device="cuda"):
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler

    controlnet = ControlNetModel.from_pretrained("lllyasviel/control_v11p_sd15_openpose", dtype=torch.float16)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", controlnet=controlnet, dtype=torch.float16
    )
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    return pipe.to(device)


def generate(pipe, detector, photo, prompt, resolution=512, steps=20, seed=0):
    """The map this ControlNet was trained on, and a picture of the map's size."""
    pose_map = detector(photo, image_resolution=resolution, style="openpose")
    picture = pipe(
        prompt,
        image=pose_map,
        width=pose_map.width,
        height=pose_map.height,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    return pose_map, picture


if __name__ == "__main__":
    pose_map, picture = generate(load(), DWposeDetector.from_pretrained(), *sys.argv[1:3])
    pose_map.save("pose.png")
    picture.save("picture.png")
