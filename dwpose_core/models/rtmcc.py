"""RTMCC head, and RTMPose (Jiang et al., arXiv 2303.07399) and DWPose (arXiv 2307.15880) built from it.

* A 7x7 convolution gives one map per keypoint; each map, flattened, is a token.
* Tokens pass a ScaleNorm, a linear layer and one gated attention unit (Hua et al., arXiv 2202.10447).
* Two linear layers classify x and y over bins of half a pixel (SimCC, Li et al., arXiv 2107.03332).

DWPose is RTMPose trained by distillation: the networks are the same, so one class serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..simcc import label_sigma
from ..skeleton import NUM_KEYPOINTS
from .cspnext import CSPNeXt

# Legend: N crops, K keypoints, D token width, E gated width, S shared width, W and H of the input crop in pixels.


@dataclass(frozen=True)
class PoseConfig:
    """One pose network. `input_size` is (H, W) in pixels."""

    deepen: float
    widen: float
    input_size: tuple[int, int] = (256, 192)
    stages: int = 4  # backbone stages; 3 is our stride-16 variant
    tokens: int = 256  # D, width of a keypoint token
    shared: int = 128  # S, width of queries and keys
    kernel: int = 7  # of the convolution that makes the keypoint maps
    num_keypoints: int = NUM_KEYPOINTS

    @property
    def sigma(self) -> tuple[float, float]:
        """Label sigma (x, y) in bins, see `simcc.label_sigma`."""
        return label_sigma(self.input_size)


VARIANTS: dict[str, PoseConfig] = {
    "dwpose-t": PoseConfig(deepen=0.167, widen=0.375),
    "dwpose-s": PoseConfig(deepen=0.33, widen=0.5),
    "dwpose-m": PoseConfig(deepen=0.67, widen=0.75),
    "dwpose-l": PoseConfig(deepen=1.0, widen=1.0),
    "dwpose-l-384": PoseConfig(deepen=1.0, widen=1.0, input_size=(384, 288)),
    "rtmpose-x": PoseConfig(deepen=1.33, widen=1.25),
    "rtmpose-x-384": PoseConfig(deepen=1.33, widen=1.25, input_size=(384, 288)),
    # Ours. nano: the smaller bundled starter; micro: it, grown wider. debug: what tests and CI train in seconds.
    "dwpose-micro": PoseConfig(
        deepen=0.167, widen=0.75, input_size=(192, 144), stages=3, tokens=192, shared=64, kernel=3
    ),
    "dwpose-nano": PoseConfig(
        deepen=0.167, widen=0.5, input_size=(192, 144), stages=3, tokens=128, shared=64, kernel=3
    ),
    "debug": PoseConfig(deepen=0.167, widen=0.125, input_size=(64, 64), tokens=32, shared=16, kernel=3),
}


class ScaleNorm(nn.Module):
    """x / max(rms(x), 1e-5) * g over the last axis, with one learned scalar g."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale = dim**-0.5
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.scale
        return x / rms.clamp(min=1e-5) * self.g


class ResidualScale(nn.Module):
    """Multiplies the residual branch by a learned per-channel scale."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class GatedAttentionUnit(nn.Module):
    """Self-attention among the keypoint tokens with squared-ReLU weights and a gate; no position encoding.

    (N, K, D) -> (N, K, D). The weights are not normalised over tokens.
    """

    def __init__(self, dim: int, shared: int):
        super().__init__()
        self.expanded = 2 * dim
        self.shared = shared
        self.gamma = nn.Parameter(torch.rand(2, shared))
        self.beta = nn.Parameter(torch.rand(2, shared))
        self.o = nn.Linear(self.expanded, dim, bias=False)
        self.uv = nn.Linear(dim, 2 * self.expanded + shared, bias=False)
        self.ln = ScaleNorm(dim)
        self.res_scale = ResidualScale(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, v, base = F.silu(self.uv(self.ln(x))).split((self.expanded, self.expanded, self.shared), dim=-1)
        query = base * self.gamma[0] + self.beta[0]
        key = base * self.gamma[1] + self.beta[1]
        weight = F.relu(query @ key.transpose(1, 2) / self.shared**0.5).square()
        return self.res_scale(x) + self.o(u * (weight @ v))


class RTMCCHead(nn.Module):
    """Feature map (N, C, h, w) -> SimCC logits x (N, K, 2W) and y (N, K, 2H)."""

    def __init__(self, in_channels: int, map_size: tuple[int, int], config: PoseConfig):
        super().__init__()
        cells = map_size[0] * map_size[1]
        height, width = config.input_size
        self.final_layer = nn.Conv2d(in_channels, config.num_keypoints, config.kernel, padding=config.kernel // 2)
        self.mlp = nn.Sequential(ScaleNorm(cells), nn.Linear(cells, config.tokens, bias=False))
        self.gau = GatedAttentionUnit(config.tokens, config.shared)
        self.cls_x = nn.Linear(config.tokens, 2 * width, bias=False)
        self.cls_y = nn.Linear(config.tokens, 2 * height, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.final_layer(features).flatten(2)  # (N, K, h*w), rows first
        tokens = self.gau(self.mlp(tokens))
        return self.cls_x(tokens), self.cls_y(tokens)


class DWPose(nn.Module):
    """Backbone and head: crops (N, 3, H, W) float, RGB, ImageNet-normalised -> SimCC logits (x, y).

    `config` says what was built; `name` is its catalogue name.
    """

    def __init__(self, config: PoseConfig, name: str = "custom"):
        super().__init__()
        self.name = name
        self.config = config
        self.backbone = CSPNeXt(config.deepen, config.widen, config.stages)
        stride = self.backbone.stride
        height, width = config.input_size
        if height % stride or width % stride:
            raise ValueError(f"input_size {config.input_size} must be a multiple of the stride {stride}")
        self.head = RTMCCHead(self.backbone.out_channels, (height // stride, width // stride), config)

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """crops: (N, 3, H, W), RGB, normalised. Returns logits x (N, K, 2W) and y (N, K, 2H)."""
        return self.head(self.backbone(crops))


def create_model(name: str) -> DWPose:
    """A pose network with random weights, in training mode.

    Raises:
        ValueError: for a name that is not in `VARIANTS`.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown pose model {name!r}; choose one of {', '.join(VARIANTS)}")
    return DWPose(VARIANTS[name], name)
