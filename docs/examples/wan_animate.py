"""Wan2.2-Animate: the person of a portrait moves like the person of a video.

python docs/examples/wan_animate.py portrait.jpg dance.mp4 "a woman dancing"

Writes pose.mp4, face.mp4 (what the pipeline is given) and animation.mp4. Needs
`pip install "dwpose-torch[diffusers,video]"`.
"""

import sys

import torch

from dwpose_core import DWposeDetector
from dwpose_core.animate import prepare_animation


def load(device="cuda"):
    from diffusers import AutoencoderKLWan, WanAnimatePipeline

    repository = "Wan-AI/Wan2.2-Animate-14B-Diffusers"
    vae = AutoencoderKLWan.from_pretrained(repository, subfolder="vae", dtype=torch.float32)
    return WanAnimatePipeline.from_pretrained(repository, vae=vae, dtype=torch.bfloat16).to(device)


def animate(pipe, detector, portrait, video, prompt, max_pixels=832 * 480, steps=20, seed=0, **options):
    """What the pipeline is given, and the frames it makes. `retarget=True` fits another person's proportions."""
    animation = prepare_animation(video, detector, reference=portrait, max_pixels=max_pixels, **options)
    frames = pipe(
        image=portrait,
        prompt=prompt,
        **animation.inputs(),
        num_inference_steps=steps,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="pil",
    ).frames[0]
    return animation, frames


if __name__ == "__main__":
    from diffusers.utils import export_to_video, load_image

    portrait = load_image(sys.argv[1])  # upright, as a telephone's pictures are not
    animation, frames = animate(load(), DWposeDetector.from_pretrained(), portrait, *sys.argv[2:4])
    for name, pictures in (("pose", animation.pose_video), ("face", animation.face_video), ("animation", frames)):
        export_to_video(pictures, f"{name}.mp4", fps=round(animation.fps))
