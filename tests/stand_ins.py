"""Runners without networks and with random ones, for tests of what happens around them."""

from __future__ import annotations

import numpy as np
import torch

from dwpose_core.backends import TorchRunner
from dwpose_core.models import create_detector, create_model
from dwpose_core.pipeline import Options
from dwpose_core.preprocessor import DWposeDetector


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


class TwoInTurn:
    """A person detector that finds two people in every picture, left and right; which one is surer alternates."""

    name = description = "two in turn"
    device = torch.device("cpu")
    input_size = (64, 64)

    def __init__(self):
        self.pictures = 0

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        raw = torch.zeros(len(images), 84, 85)
        for rows in raw:
            for column, surer in ((1, self.pictures % 2 == 0), (5, self.pictures % 2 == 1)):
                cell = rows[3 * 8 + column]  # of the grid of stride 8: xy and log of wh in strides, then scores
                cell[2:4] = torch.tensor((2.0, 4.0)).log()
                cell[4:6] = torch.tensor((1.0, 0.9 if surer else 0.6))
            self.pictures += 1
        return (raw,)


def random_networks() -> DWposeDetector:
    """A detector of real, random networks. Their BatchNorms get statistics, so that folding them means something."""
    torch.manual_seed(0)
    pose, boxes = create_model("debug"), create_detector("yolox-nano")
    for module in [*pose.modules(), *boxes.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return DWposeDetector(
        TorchRunner(pose, "cpu"), TorchRunner(boxes, "cpu"), Options(max_people=3, flip_test="corrected")
    )


def photo(height: int = 90, width: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
