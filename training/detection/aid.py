"""What the detector learns beside its boxes, for the length of its training only: who is where, to the pixel.

Two small convolutions on the finest map of the pyramid (stride 8) predict a mask of all people, and a heat map for each
of the body and foot keypoints. A box says of a picture little more than four numbers a person; these say what makes a
person one, and generated scenes have them for nothing. They are thrown away afterwards.

Heat maps have the penalty-reduced focal loss of CornerNet (Law and Deng, arXiv 1808.01244, equation 1) with its alpha 2
and beta 4; the mask has binary cross entropy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dwpose_core.models.yolox import STRIDES, YOLOX, BaseConv

from .scenes import KINDS

# Legend: N pictures, h and w cells of stride 8, Q points of all pictures.

STRIDE = STRIDES[0]
SPREAD = 0.8  # cells, of the Gaussian around a point
REACH = 4  # cells; farther from it the Gaussian is so small that in float32 1 - target is 1
PRIOR = 0.02  # of an untrained cell being a point


class PartsAid(nn.Module):
    """Maps of the pyramid -> logits (N, 1 + KINDS, h, w): mask, then one map per kind of keypoint."""

    def __init__(self, net: YOLOX):
        super().__init__()
        channels = net.head.stems[0].conv.in_channels
        self.conv = BaseConv(channels, 64, 3)
        self.predict = nn.Conv2d(64, 1 + KINDS, 1)
        nn.init.constant_(self.predict.bias, -torch.log(torch.tensor(1 / PRIOR - 1)).item())

    def forward(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.predict(self.conv(maps[0]))


def heatmaps(points: torch.Tensor, pictures: int, height: int, width: int) -> torch.Tensor:
    """Targets (N, KINDS, h, w) of points (Q, 4), number of the picture, x, y in px and kind.

    Gaussians whose peak is the cell that holds the point, 1 there; where several meet, the highest.
    """
    reach = torch.arange(-REACH, REACH + 1, device=points.device)
    bump = (-(reach[:, None] ** 2 + reach**2) / (2 * SPREAD**2)).exp()
    columns, rows = (points[:, 1:3].T / STRIDE).floor().long()[..., None] + reach  # (Q, 2 REACH + 1) each
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    of_kind = (points[:, 0] * KINDS + points[:, 3]).long() * height * width
    down, across = rows.clamp(0, height - 1) * width, columns.clamp(0, width - 1)
    cell = of_kind[:, None, None] + down[:, :, None] + across[:, None]
    target = torch.zeros(pictures * KINDS * height * width, device=points.device)
    target.scatter_reduce_(0, cell.flatten(), (bump * inside).flatten(), "amax")
    return target.view(pictures, KINDS, height, width)


def losses(logits: torch.Tensor, masks: torch.Tensor, points: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the output of `PartsAid`.

    Args:
        masks: (N, S, S) uint8.
        points: (Q, 4) float32 number of the picture, x, y in px and kind.

    Returns:
        mask, the mean cross entropy over all cells; parts, the focal loss divided by the number of points.
    """
    logits = logits.float()
    share = F.avg_pool2d(masks[:, None].float() / 255, STRIDE)
    mask = F.binary_cross_entropy_with_logits(logits[:, :1], share)
    target = heatmaps(points, len(logits), *logits.shape[2:])
    logits = logits[:, 1:]
    probability = logits.sigmoid()
    at_points = target == 1
    there = (1 - probability) ** 2 * F.logsigmoid(logits) * at_points
    elsewhere = (1 - target) ** 4 * probability**2 * F.logsigmoid(-logits) * ~at_points
    return {"mask": mask, "parts": -(there + elsewhere).sum() / at_points.sum().clamp(min=1)}
