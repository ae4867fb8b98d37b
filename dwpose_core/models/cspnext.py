"""CSPNeXt, the backbone of RTMDet and RTMPose (Lyu et al., arXiv 2212.07784), P5 arrangement.

* Three-convolution stem, four stages of stride 2 each; only the last feature map is used for pose.
* A block is a dense 3x3 and a depthwise-separable 5x5 convolution; a CSP layer splits the channels in two halves,
  runs blocks on one, joins both and re-weights the channels by their global average.
* The last stage carries a spatial pyramid pooling bottleneck and has no residual connections.
* BatchNorm uses eps 1e-5 and momentum 0.1: the published pose configs build it as plain SyncBN, which overrides
  the 1e-3 / 0.03 defaults of the original CSPNeXt class.

Parameter names are those of the official RTMPose and DWPose checkpoints.
"""

from __future__ import annotations

import torch
from torch import nn

# Legend: N crops, C channels, H and W of the feature map.

# What its input is normalised by. Here and not with the crops, as networks shall not need OpenCV to be looked up.
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)


class ConvBNAct(nn.Module):
    """Convolution without bias, BatchNorm, SiLU. "Same" padding for odd kernels."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.activate = nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activate(self.bn(self.conv(x)))


class DepthwiseSeparable(nn.Module):
    """Depthwise k x k, then pointwise 1 x 1, each with BatchNorm and SiLU."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.depthwise_conv = ConvBNAct(channels, channels, kernel, groups=channels)
        self.pointwise_conv = ConvBNAct(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class CSPNeXtBlock(nn.Module):
    """Dense 3x3, depthwise-separable 5x5, and the input added back where `residual`."""

    def __init__(self, channels: int, residual: bool):
        super().__init__()
        self.conv1 = ConvBNAct(channels, channels, 3)
        self.conv2 = DepthwiseSeparable(channels, 5)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(self.conv1(x))
        return out + x if self.residual else out


class ChannelAttention(nn.Module):
    """Scales each channel by hard-sigmoid(fc(global average))."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.act(self.fc(x.mean((2, 3), keepdim=True)))


class CSPLayer(nn.Module):
    """Cross-stage-partial layer: cat(blocks(main), short) -> attention -> 1x1."""

    def __init__(self, channels: int, num_blocks: int, residual: bool):
        super().__init__()
        half = channels // 2
        self.main_conv = ConvBNAct(channels, half)
        self.short_conv = ConvBNAct(channels, half)
        self.final_conv = ConvBNAct(2 * half, channels)
        self.blocks = nn.Sequential(*(CSPNeXtBlock(half, residual) for _ in range(num_blocks)))
        self.attention = ChannelAttention(2 * half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = self.short_conv(x)
        main = self.blocks(self.main_conv(x))
        return self.final_conv(self.attention(torch.cat((main, short), dim=1)))


class SPPBottleneck(nn.Module):
    """Halve the channels, join the map with its 5, 9 and 13 pixel maxima, project back."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = ConvBNAct(channels, half)
        self.poolings = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in (5, 9, 13))
        self.conv2 = ConvBNAct(4 * half, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat((x, *(pool(x) for pool in self.poolings)), dim=1))


class CSPNeXt(nn.Module):
    """CSPNeXt backbone: images (N, 3, H, W) -> last feature map (N, C, H/2^(1+stages), W/2^(1+stages)).

    Args:
        deepen: multiplies the blocks per stage (3, 6, 6, 3).
        widen: multiplies the channels (64 stem, then 128, 256, 512, 1024).
        stages: 4 is CSPNeXt (stride 32). 3 stops one stage earlier (stride 16) and is ours, for inputs so small that
            stride 32 leaves a handful of cells; the last stage then carries the pyramid pooling.
    """

    def __init__(self, deepen: float, widen: float, stages: int = 4):
        super().__init__()
        stem = int(64 * widen // 2)
        channels = [int(base * widen) for base in (64, 128, 256, 512, 1024)]
        self.stem = nn.Sequential(
            ConvBNAct(3, stem, 3, stride=2),
            ConvBNAct(stem, stem, 3),
            ConvBNAct(stem, channels[0], 3),
        )
        for i, blocks in enumerate((3, 6, 6, 3)[:stages]):
            last = i == stages - 1
            layers = [ConvBNAct(channels[i], channels[i + 1], 3, stride=2)]
            if last:
                layers.append(SPPBottleneck(channels[i + 1]))
            # Python's round is banker's rounding; the official variants rely on it only through 6 * 0.67 -> 4.
            layers.append(CSPLayer(channels[i + 1], max(round(blocks * deepen), 1), residual=not last))
            setattr(self, f"stage{i + 1}", nn.Sequential(*layers))
        self.num_stages = stages
        self.out_channels = channels[stages]
        self.stride = 2 ** (stages + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i in range(1, self.num_stages + 1):
            x = getattr(self, f"stage{i}")(x)
        return x
