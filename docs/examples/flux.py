"""FLUX.1-dev with a union ControlNet.

python docs/examples/flux.py photo.jpg "an astronaut on the beach"

Writes pose.png and picture.png. Needs `pip install "dwpose-torch[diffusers]"`.
"""

import sys

import torch

from dwpose_core import DWposeDetector


def load(device="cuda"):
    from diffusers import FluxControlNetModel, FluxControlNetPipeline

    controlnet = FluxControlNetModel.from_pretrained(
        "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0", dtype=torch.bfloat16
    )
    return FluxControlNetPipeline.from_pretrained(
        "black-forest-labs/FLUX.1-dev", controlnet=controlnet, dtype=torch.bfloat16
    ).to(device)


def generate(pipe, detector, photo, prompt, resolution=1024, steps=30, seed=0):
    """The strength and the end of the guidance are those its authors give for poses."""
    pose_map = detector(photo, detect_resolution=resolution, image_resolution=resolution)
    picture = pipe(
        prompt,
        control_image=pose_map,
        width=pose_map.width,
        height=pose_map.height,
        controlnet_conditioning_scale=0.9,
        control_guidance_end=0.65,
        num_inference_steps=steps,
        guidance_scale=3.5,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    return pose_map, picture


if __name__ == "__main__":
    pose_map, picture = generate(load(), DWposeDetector.from_pretrained(), *sys.argv[1:3])
    pose_map.save("pose.png")
    picture.save("picture.png")
