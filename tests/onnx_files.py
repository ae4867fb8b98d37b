"""Networks with weights of their own, exported for the tests of the ONNX reader and graph."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from torch import nn

from dwpose_core.models import DWPose, YOLOXConfig, create_model
from dwpose_core.models.weights import load_network
from dwpose_core.models.yolox import YOLOX

SMALL_YOLOX = {
    "dense": YOLOXConfig(depth=0.67, width=0.125, input_size=(64, 96)),
    "depthwise": YOLOXConfig(depth=0.33, width=0.125, depthwise=True, input_size=(64, 64), num_classes=3),
}


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics in which no two parameters are alike and none is at its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        if value.ndim == 4 or (value.ndim == 2 and "gamma" not in key and "beta" not in key):
            # Keeps the outputs around 1: attention weights are squared, residual sums add up.
            gain = 0.5 if ".gau." in key else 1.4 if isinstance(model, DWPose) else 1.0
            value.normal_(0, gain / math.sqrt(value[0].numel()), generator=generator)
        elif key.endswith(("bias", "running_mean", "beta")):
            value.normal_(0, 0.1, generator=generator)
        else:
            value.uniform_(0.7, 1.3, generator=generator)
    return model.eval()


def network(name: str) -> nn.Module:
    return randomise(YOLOX(SMALL_YOLOX[name]) if name in SMALL_YOLOX else create_model(name))


def sample_images(model: nn.Module, batch: int) -> torch.Tensor:
    """Noise around zero for both families: 0..255 would saturate the sigmoids of an untrained YOLOX."""
    return torch.randn((batch, 3, *model.config.input_size), generator=torch.Generator().manual_seed(1))


def write(model: nn.Module, path: Path, images: torch.Tensor | None = None, **options) -> Path:
    """torch.onnx.export with the names of the field and without its remarks."""
    images = sample_images(model, 2) if images is None else images
    names = ["simcc_x", "simcc_y"] if isinstance(model, DWPose) else ["output"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), str(path), output_names=names, **{"dynamo": False, **options})
    return path


def outputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        result = model(images)
    return [result] if isinstance(result, torch.Tensor) else list(result)


def assert_same(model: nn.Module, path: Path, tolerance: float = 2e-5) -> None:
    """The network read from `path` computes what `model` does."""
    read = load_network(path)
    images = sample_images(model, 2)
    for expected, found in zip(outputs(model, images), outputs(read, images), strict=True):
        assert 0.1 < expected.abs().max() < 100  # otherwise the tolerance means nothing
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
