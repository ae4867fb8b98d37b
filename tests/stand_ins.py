"""Runners without networks, for tests of what happens around them."""

from __future__ import annotations

import torch


class FigurePose:
    """A pose runner with no network: a figure in the middle of every crop, all points seen. `lean` slants it."""

    name = description = "figure"
    device = torch.device("cpu")
    input_size = (64, 48)

    def __init__(self, lean: float = 1.0):
        self.lean = lean

    def __call__(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = self.input_size
        rows = torch.linspace(0.35, 0.65, 133)  # inside the image even where the crop is much taller
        columns = 0.5 + self.lean * (rows.flip(0) - 0.5)
        x = torch.nn.functional.one_hot((columns * 2 * width).long(), 2 * width)
        y = torch.nn.functional.one_hot((rows * 2 * height).long(), 2 * height)
        return x.float().repeat(len(crops), 1, 1), y.float().repeat(len(crops), 1, 1)


class Nobody:
    """A person detector that finds nobody."""

    name = description = "nobody"
    device = torch.device("cpu")
    input_size = (64, 64)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.zeros(len(images), 84, 85),)  # 8*8 + 4*4 + 2*2 anchors
