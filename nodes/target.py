"""The size of what is drawn, and how people and pictures of another shape get into it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

if TYPE_CHECKING:
    import numpy as np

    from ..dwpose_core.people import People

SIZES = ("short side", "width x height", "source")
FITS = ("crop", "pad", "stretch")
# Pixels for each cell of a latent, by its channels and dimensions; of ComfyUI's comfy/latent_formats.py and the nodes
# that make empty latents. Newer ones say it themselves.
_CELLS = {
    (3, 4): 1,  # ChromaRadiance works on pixels
    (4, 4): 8,  # SD 1.5, SDXL
    (16, 4): 8,  # SD 3, Flux, Qwen-Image
    (64, 4): 32,  # HunyuanImage
    (128, 4): 16,  # Flux 2
    (12, 5): 8,  # Mochi
    (16, 5): 8,  # Wan 2.1, HunyuanVideo, Cosmos
    (32, 5): 16,  # HunyuanVideo 1.5
    (48, 5): 16,  # Wan 2.2 5B
    (128, 5): 32,  # LTXV
}
# Stage C of Stable Cascade has 16 channels, too, but 24 cells for 1024 pixels: a latent as small as that may be either.
_STAGE_C = 64


def size_inputs(default: str = "short side", what: str = "pose map") -> list:
    return [
        io.Combo.Input(
            "size",
            options=list(SIZES),
            default=default,
            tooltip=f"Size of the {what}. It is drawn at this size, never scaled.",
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=64,
            max=16384,
            step=8,
            tooltip="Shorter side in pixels, for size 'short side'. Both sides are rounded to multiples of 64.",
        ),
        io.Int.Input("width", default=1024, min=16, max=16384, step=8, tooltip="For size 'width x height'."),
        io.Int.Input("height", default=1024, min=16, max=16384, step=8, tooltip="For size 'width x height'."),
    ]


def size_from_input(what: str = "pose map"):
    return io.MultiType.Input(
        "size_from",
        [io.Image, io.Latent],
        optional=True,
        tooltip=f"An image or latent whose size the {what} gets. Overrides the size widgets. For Stable Cascade, whose "
        "latents do not tell their size, connect an image.",
    )


def fit_input():
    # Optional, so that API prompts from before it was there still run.
    return io.Combo.Input(
        "fit",
        options=list(FITS),
        default=FITS[0],
        optional=True,
        tooltip="Where size_from or width x height has another shape than the image. crop: cut the edges, as ComfyUI "
        "does with control images. pad: show all of it, with empty edges. stretch: people get thin or fat.",
    )


@dataclasses.dataclass(frozen=True)
class Target:
    """A size (H, W), and how something of another shape is brought to it: a value of `FITS`."""

    size: tuple[int, int]
    fit: str

    def place(self, people: People) -> People:
        """People for a renderer that draws them at `size`, stretched per axis if it must."""
        from ..dwpose_core import edit

        (rows, columns), (height, width) = people.image_size, self.size
        if self.fit == "stretch" or rows * width == columns * height:
            return people
        return edit.fit(people, self.size, self.fit)

    def place_picture(self, picture: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
        """(h, w, 3) uint8 RGB -> (H, W, 3), where `place` puts the people in it; `background` is for the edges."""
        import numpy as np

        (rows, columns), (height, width) = picture.shape[:2], self.size
        if self.fit == "stretch":
            return _resized(picture, self.size)
        if self.fit == "crop":
            factor = max(height / rows, width / columns)
            kept = min(rows, max(1, round(height / factor))), min(columns, max(1, round(width / factor)))
            y, x = (rows - kept[0]) // 2, (columns - kept[1]) // 2
            return _resized(picture[y : y + kept[0], x : x + kept[1]], self.size)
        factor = min(height / rows, width / columns)
        inner = min(height, max(1, round(rows * factor))), min(width, max(1, round(columns * factor)))
        y, x = (height - inner[0]) // 2, (width - inner[1]) // 2
        canvas = np.full((height, width, 3), background, np.uint8)
        canvas[y : y + inner[0], x : x + inner[1]] = _resized(picture, inner)
        return canvas


def one_shape(frames: list[People], goal: Target, fit: str) -> list[People]:
    """Frames of other shapes than the first, as of a folder of photographs, brought into its canvas where the goal goes
    by that; a goal with a shape of its own places each of them."""
    if goal.fit == fit:
        return frames
    first = Target(frames[0].image_size, fit)
    return [first.place(people) for people in frames]


def target(
    source: tuple[int, int], size: str, resolution: int, width: int, height: int, fit: str, size_from: Any = None
) -> Target:
    """Where to draw what comes from a source of (H, W).

    Raises:
        ValueError: for a latent whose size in pixels cannot be known.
    """
    from ..dwpose_core.geometry import control_size

    if isinstance(size_from, dict):
        return Target(_latent_size(size_from), fit)
    if size_from is not None:
        return Target(tuple(size_from.shape[1:3]), fit)
    if size == "width x height":
        return Target((height, width), fit)
    # controlnet_aux stretches by the few pixels of its rounding, and maps made with it are what people compare with.
    return Target(source if size == "source" else control_size(source, resolution), "stretch")


def _latent_size(latent: dict) -> tuple[int, int]:
    shape = tuple(latent["samples"].shape)
    cell = latent.get("downscale_ratio_spacial")  # as ComfyUI spells it; since 0.19
    if cell is None and len(shape) > 3:
        cell = _CELLS.get((shape[1], len(shape)))
        if (shape[1], len(shape)) == (16, 4) and max(shape[-2:]) < _STAGE_C:
            cell = None
    if cell is None:
        raise ValueError(
            f"The size in pixels of a latent of shape {shape} is not known; connect an image to size_from instead."
        )
    return round(shape[-2] * cell), round(shape[-1] * cell)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2
    import numpy as np

    if picture.shape[:2] == size:
        return np.ascontiguousarray(picture)
    shrinks = size[0] < picture.shape[0]
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
