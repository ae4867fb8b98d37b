"""Qwen-Image with a union ControlNet.

python docs/examples/qwen_image.py photo.jpg "an astronaut on the beach"

Writes pose.png and picture.png. Needs `pip install "dwpose-torch[diffusers]"`.
"""

import sys

import torch

from dwpose_core import DWposeDetector


def load(device="cuda"):
    from diffusers import QwenImageControlNetModel, QwenImageControlNetPipeline

    controlnet = QwenImageControlNetModel.from_pretrained("InstantX/Qwen-Image-ControlNet-Union", dtype=torch.bfloat16)
    return QwenImageControlNetPipeline.from_pretrained(
        "Qwen/Qwen-Image", controlnet=controlnet, dtype=torch.bfloat16
    ).to(device)


def generate(pipe, detector, photo, prompt, resolution=1024, steps=30, seed=0):
    pose_map = detector(photo, detect_resolution=resolution, image_resolution=resolution)
    picture = pipe(
        prompt,
        negative_prompt=" ",
        control_image=pose_map,
        width=pose_map.width,
        height=pose_map.height,
        controlnet_conditioning_scale=1.0,
        num_inference_steps=steps,
        true_cfg_scale=4.0,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    return pose_map, picture


if __name__ == "__main__":
    pose_map, picture = generate(load(), DWposeDetector.from_pretrained(), *sys.argv[1:3])
    pose_map.save("pose.png")
    picture.save("picture.png")
