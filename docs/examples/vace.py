"""Wan2.1-VACE: a video that follows the poses of another one, in the original DWPose's drawing.

python docs/examples/vace.py dance.mp4 "a robot dancing"

Writes pose.mp4 and video.mp4. Needs `pip install "dwpose-torch[diffusers,video]"`.
"""

import sys

import torch
from PIL import Image

from dwpose_core import DWposeDetector
from dwpose_core.animate import prepare_animation


def load(device="cuda"):
    from diffusers import AutoencoderKLWan, WanVACEPipeline

    repository = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
    vae = AutoencoderKLWan.from_pretrained(repository, subfolder="vae", dtype=torch.float32)
    return WanVACEPipeline.from_pretrained(repository, vae=vae, dtype=torch.bfloat16).to(device)


def generate(pipe, detector, video, prompt, max_pixels=832 * 480, frames=81, steps=30, seed=0, **options):
    """The number of frames is one more than a multiple of four, as Wan's video encoder takes them."""
    animation = prepare_animation(
        video, detector, style="dwpose", people=None, fps=16, max_pixels=max_pixels, **options
    )
    poses = animation.pose_video[: min(frames, (len(animation.pose_video) - 1) // 4 * 4 + 1)]
    made = pipe(
        prompt=prompt,
        video=poses,
        mask=[Image.new("L", pose.size, 255) for pose in poses],  # white: everything is new
        width=animation.width,
        height=animation.height,
        num_frames=len(poses),
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="pil",
    ).frames[0]
    return poses, made


if __name__ == "__main__":
    from diffusers.utils import export_to_video

    poses, frames = generate(load(), DWposeDetector.from_pretrained(), *sys.argv[1:3])
    export_to_video(poses, "pose.mp4", fps=16)
    export_to_video(frames, "video.mp4", fps=16)
