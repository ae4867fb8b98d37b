"""Stable Diffusion XL with xinsir's ControlNet, which was trained on maps with wider limbs.

python docs/examples/sdxl.py photo.jpg "an astronaut on the beach"

Writes pose.png and picture.png. Needs `pip install "dwpose-torch[diffusers]"`.
"""

import sys

import torch

from dwpose_core import DWposeDetector


def load(device="cuda"):
    from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLControlNetPipeline

    controlnet = ControlNetModel.from_pretrained("xinsir/controlnet-openpose-sdxl-1.0", dtype=torch.float16)
    vae = AutoencoderKL.from_pretrained("madebyollin/sdxl-vae-fp16-fix", dtype=torch.float16)
    return StableDiffusionXLControlNetPipeline.from_pretrained(
        "stabilityai/stable-diffusion-xl-base-1.0", controlnet=controlnet, vae=vae, dtype=torch.float16
    ).to(device)


def generate(pipe, detector, photo, prompt, resolution=1024, steps=28, seed=0):
    pose_map = detector(photo, detect_resolution=resolution, image_resolution=resolution, style="xinsir")
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
