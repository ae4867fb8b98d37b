"""YOLOX person detector (Ge et al., arXiv 2107.08430): CSPDarknet, PAFPN, decoupled anchor-free head.

* Parameter names are those of the official Megvii checkpoints; BatchNorm uses eps 1e-3 and momentum 0.03 as there.
* Input is BGR in 0..255 without mean or std; the letterbox value is 114.
* The raw output is that of the official ONNX export; `decode_people` turns it into boxes.
* yolox-cspnext-nano and -s are ours: the same pyramid and head on the backbone of the pose networks dwpose-nano and
  dwpose-s, whose features know people already (docs/synthetic_results.md has what that is worth).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .cspnext import IMAGENET_MEAN, IMAGENET_STD, CSPNeXt

# Legend: N images, A anchor points over all levels, S side of the square input in pixels.

STRIDES = (8, 16, 32)
NUM_CLASSES = 80  # COCO; class 0 is person


@dataclass(frozen=True)
class YOLOXConfig:
    """One detector. `input_size` is the (H, W) it was published for; any multiple of 32 works.

    `cspnext` (deepen, widen) puts `CSPNeXtBackbone` in the place of CSPDarknet, a CSPNeXt of `stages` stages in it.
    """

    depth: float
    width: float
    depthwise: bool = False
    input_size: tuple[int, int] = (640, 640)
    num_classes: int = NUM_CLASSES
    cspnext: tuple[float, float] | None = None
    stages: int = 3


VARIANTS: dict[str, YOLOXConfig] = {
    "yolox-nano": YOLOXConfig(depth=0.33, width=0.25, depthwise=True, input_size=(416, 416)),
    "yolox-tiny": YOLOXConfig(depth=0.33, width=0.375, input_size=(416, 416)),
    "yolox-s": YOLOXConfig(depth=0.33, width=0.5),
    "yolox-m": YOLOXConfig(depth=0.67, width=0.75),
    "yolox-l": YOLOXConfig(depth=1.0, width=1.0),
    "yolox-x": YOLOXConfig(depth=1.33, width=1.25),
    "yolox-cspnext-nano": YOLOXConfig(0.33, 0.25, input_size=(320, 320), cspnext=(0.167, 0.5)),
    "yolox-cspnext-s": YOLOXConfig(0.33, 0.375, input_size=(320, 320), cspnext=(0.33, 0.5), stages=4),
}


class BaseConv(nn.Module):
    """Convolution without bias, BatchNorm, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class DWConv(nn.Module):
    """Depthwise k x k, then pointwise 1 x 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.dconv = BaseConv(in_channels, in_channels, kernel, stride, groups=in_channels)
        self.pconv = BaseConv(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pconv(self.dconv(x))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool, conv: type[nn.Module]):
        super().__init__()
        self.conv1 = BaseConv(channels, channels, 1)
        self.conv2 = conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(self.conv1(x))
        return out + x if self.shortcut else out


class CSPLayer(nn.Module):
    """Bottlenecks on one half of the channels, joined with the other half."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, shortcut: bool, conv: type[nn.Module]):
        super().__init__()
        half = out_channels // 2
        self.conv1 = BaseConv(in_channels, half, 1)
        self.conv2 = BaseConv(in_channels, half, 1)
        self.conv3 = BaseConv(2 * half, out_channels, 1)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut, conv) for _ in range(blocks)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = self.conv2(x)
        main = self.m(self.conv1(x))
        return self.conv3(torch.cat((main, short), dim=1))


class SPPBottleneck(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = BaseConv(channels, half, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in (5, 9, 13))
        self.conv2 = BaseConv(4 * half, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat((x, *(pool(x) for pool in self.m)), dim=1))


class Focus(nn.Module):
    """Space to depth: the four pixels of each 2x2 cell become channels, columns first, then a convolution."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.conv = BaseConv(12, out_channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        return self.conv(torch.cat((even[:, :, ::2], even[:, :, 1::2], odd[:, :, ::2], odd[:, :, 1::2]), dim=1))


class CSPDarknet(nn.Module):
    """Image -> feature maps at strides 8, 16 and 32."""

    def __init__(self, config: YOLOXConfig):
        super().__init__()
        conv = DWConv if config.depthwise else BaseConv
        base = int(config.width * 64)
        blocks = max(round(config.depth * 3), 1)
        self.stem = Focus(base)
        self.dark2 = nn.Sequential(conv(base, base * 2, 3, 2), CSPLayer(base * 2, base * 2, blocks, True, conv))
        self.dark3 = nn.Sequential(conv(base * 2, base * 4, 3, 2), CSPLayer(base * 4, base * 4, blocks * 3, True, conv))
        self.dark4 = nn.Sequential(conv(base * 4, base * 8, 3, 2), CSPLayer(base * 8, base * 8, blocks * 3, True, conv))
        self.dark5 = nn.Sequential(
            conv(base * 8, base * 16, 3, 2),
            SPPBottleneck(base * 16),
            CSPLayer(base * 16, base * 16, blocks, False, conv),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c3 = self.dark3(self.dark2(self.stem(x)))
        c4 = self.dark4(c3)
        return c3, c4, self.dark5(c4)


class CSPNeXtBackbone(nn.Module):
    """A pose network's CSPNeXt with maps of CSPDarknet's widths.

    Where the pose network has three stages, a fourth of YOLOX's kind follows them (dark5).
    Images are BGR in 0..255 as for every YOLOX, and normalised here as the pose network's are.
    """

    def __init__(self, config: YOLOXConfig):
        super().__init__()
        self.pose = CSPNeXt(*config.cspnext, config.stages)
        c3, c4, c5 = (int(c * config.width) for c in (256, 512, 1024))
        third = self.pose.out_channels // 2 ** (self.pose.num_stages - 3)
        self.reduce3 = BaseConv(third // 2, c3, 1)
        self.reduce4 = BaseConv(third, c4, 1)
        if self.pose.num_stages == 4:
            self.reduce5 = BaseConv(self.pose.out_channels, c5, 1)
        else:
            self.dark5 = nn.Sequential(
                BaseConv(third, c5, 3, 2),
                SPPBottleneck(c5),
                CSPLayer(c5, c5, 1, False, BaseConv),
            )
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = (x.flip(1) - self.mean) / self.std  # RGB
        c3 = self.pose.stage2(self.pose.stage1(self.pose.stem(x)))
        c4 = self.pose.stage3(c3)
        c5 = self.reduce5(self.pose.stage4(c4)) if self.pose.num_stages == 4 else self.dark5(c4)
        return self.reduce3(c3), self.reduce4(c4), c5


class YOLOPAFPN(nn.Module):
    """Backbone and feature pyramid, top-down then bottom-up; three maps at strides 8, 16 and 32."""

    def __init__(self, config: YOLOXConfig):
        super().__init__()
        conv = DWConv if config.depthwise else BaseConv
        c3, c4, c5 = (int(c * config.width) for c in (256, 512, 1024))
        blocks = round(3 * config.depth)
        self.backbone = CSPNeXtBackbone(config) if config.cspnext else CSPDarknet(config)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = BaseConv(c5, c4, 1)
        self.C3_p4 = CSPLayer(2 * c4, c4, blocks, False, conv)
        self.reduce_conv1 = BaseConv(c4, c3, 1)
        self.C3_p3 = CSPLayer(2 * c3, c3, blocks, False, conv)
        self.bu_conv2 = conv(c3, c3, 3, 2)
        self.C3_n3 = CSPLayer(2 * c3, c4, blocks, False, conv)
        self.bu_conv1 = conv(c4, c4, 3, 2)
        self.C3_n4 = CSPLayer(2 * c4, c5, blocks, False, conv)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c3, c4, c5 = self.backbone(x)
        top = self.lateral_conv0(c5)
        middle = self.reduce_conv1(self.C3_p4(torch.cat((self.upsample(top), c4), dim=1)))
        p3 = self.C3_p3(torch.cat((self.upsample(middle), c3), dim=1))
        p4 = self.C3_n3(torch.cat((self.bu_conv2(p3), middle), dim=1))
        p5 = self.C3_n4(torch.cat((self.bu_conv1(p4), top), dim=1))
        return p3, p4, p5


class YOLOXHead(nn.Module):
    """Per level: stem, a class branch and a box branch of two convolutions each, three 1x1 predictors.

    Returns (N, A, 5 + classes): undecoded centre and size, then objectness and class probabilities after sigmoid.
    """

    def __init__(self, config: YOLOXConfig):
        super().__init__()
        conv = DWConv if config.depthwise else BaseConv
        hidden = int(256 * config.width)
        levels = [int(c * config.width) for c in (256, 512, 1024)]

        def branch() -> nn.Sequential:
            return nn.Sequential(conv(hidden, hidden, 3), conv(hidden, hidden, 3))

        def predictors(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(hidden, outputs, 1) for _ in levels)

        self.cls_convs = nn.ModuleList(branch() for _ in levels)
        self.reg_convs = nn.ModuleList(branch() for _ in levels)
        self.cls_preds = predictors(config.num_classes)
        self.reg_preds = predictors(4)
        self.obj_preds = predictors(1)
        self.stems = nn.ModuleList(BaseConv(c, hidden, 1) for c in levels)

    def forward(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        outputs = []
        for level, x in enumerate(maps):
            x = self.stems[level](x)
            classes = self.cls_preds[level](self.cls_convs[level](x))
            boxes = self.reg_convs[level](x)
            objectness = self.obj_preds[level](boxes)
            outputs.append(torch.cat((self.reg_preds[level](boxes), objectness.sigmoid(), classes.sigmoid()), dim=1))
        return torch.cat([out.flatten(2) for out in outputs], dim=2).transpose(1, 2)


class YOLOX(nn.Module):
    """images (N, 3, H, W) float, BGR 0..255, H and W multiples of 32 -> raw (N, A, 85) as the official ONNX."""

    def __init__(self, config: YOLOXConfig, name: str = "custom"):
        super().__init__()
        self.name = name
        self.config = config
        self.backbone = YOLOPAFPN(config)
        self.head = YOLOXHead(config)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))


def create_detector(name: str) -> YOLOX:
    """A YOLOX network with random weights, in training mode.

    Raises:
        ValueError: for a name that is not in `VARIANTS`.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown detector {name!r}; choose one of {', '.join(VARIANTS)}")
    return YOLOX(VARIANTS[name], name)


@functools.lru_cache(maxsize=16)  # a training meets ten sizes
@torch.inference_mode(False)  # whoever asks first; tensors of inference mode cannot take part in a training later
def anchor_points(input_size: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Grid cells of all levels for an input of (H, W) pixels: xy in cells (A, 2) and stride in pixels (A, 1)."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = (torch.arange(side // stride, device=device) for side in input_size)
        ys, xs = torch.meshgrid(rows, columns, indexing="ij")
        cells.append(torch.stack((xs, ys), dim=-1).reshape(-1, 2).float())
        strides.append(torch.full((len(cells[-1]), 1), float(stride), device=device))
    return torch.cat(cells), torch.cat(strides)


def decode_people(
    raw: torch.Tensor, input_size: tuple[int, int], threshold: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Raw output (N, A, 85) -> per image the person boxes above `threshold`, before NMS.

    Score = objectness * person probability. Centre = (raw + cell) * stride, size = exp(raw) * stride (YOLOX, section
    2.1). Suppression per class leaves people untouched by the other 79 classes, so only people are decoded at all.

    Returns:
        per image boxes (P, 4) float32 xyxy in pixels of the network input, and scores (P,) float32.
    """
    cells, strides = anchor_points(input_size, raw.device)
    scores = raw[..., 4] * raw[..., 5]
    image, anchor = (scores > threshold).nonzero(as_tuple=True)
    rows = raw[image, anchor, :4]
    center = (rows[:, :2] + cells[anchor]) * strides[anchor]
    half = rows[:, 2:].exp() * strides[anchor] / 2
    found = torch.cat((image[:, None], center - half, center + half, scores[image, anchor, None]), dim=1).cpu().numpy()
    per_image = (found[found[:, 0] == i] for i in range(len(raw)))
    return [(rows[:, 1:5], rows[:, 5]) for rows in per_image]
