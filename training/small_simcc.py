"""What lets a small SimCC network learn in an hour on CPUs: heat-map aid, label tables, flat rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dwpose_core.models.cspnext import ConvBNAct
from dwpose_core.models.rtmcc import DWPose
from dwpose_core.simcc import BETA
from dwpose_core.skeleton import NUM_KEYPOINTS, PARTS

from .synthetic.labels import HIDDEN, OUTSIDE, VISIBLE

# Legend: N crops, K keypoints, H and W of the input.

LABEL_MARGIN = 64  # bins beyond either border that have a label row of their own
# Loss weight of a seen keypoint. The body decides what the picture says; faces have four times as many points.
PART_WEIGHTS = {"body": 2.0, "foot": 1.0, "face": 0.35, "left_hand": 0.5, "right_hand": 0.5}
# A face seen through the back of the head belongs in no pose map: it keeps this share of its label, the rest is flat.
# A peak that small is found, and scores next to nothing.
AWAY_SHARE = 0.05
FACE = PARTS["face"]
NOSE_AND_EYES = slice(0, 3)
RIGHT_EYE, LEFT_EYE, CHIN = FACE.start + 36, FACE.start + 45, FACE.start + 8  # iBUG-68: outer corners, chin
# Once the rest is learnt: hands are what is left.
MORE_HANDS = PART_WEIGHTS | {"left_hand": 0.8, "right_hand": 0.8}


def stage_features(net: DWPose, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of all backbone stages; the last one is what the head takes."""
    x = net.backbone.stem(images)
    features = []
    for i in range(1, net.backbone.num_stages + 1):
        x = getattr(net.backbone, f"stage{i}")(x)
        features.append(x)
    return features


class HeatmapAid(nn.Module):
    """Training only: one map per keypoint at stride 8 from the features of backbone stages 2 and up."""

    def __init__(self, net: DWPose, width: int = 64):
        super().__init__()
        stages = (getattr(net.backbone, f"stage{i}") for i in range(2, net.backbone.num_stages + 1))
        self.laterals = nn.ModuleList(nn.Conv2d(stage[0].conv.out_channels, width, 1) for stage in stages)
        self.maps = nn.Sequential(ConvBNAct(width, width, 3), nn.Conv2d(width, NUM_KEYPOINTS, 1))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """(N, 133, H/8, W/8) from `stage_features`."""
        size = features[1].shape[2:]
        planes = [lateral(x) for lateral, x in zip(self.laterals, features[1:], strict=True)]
        return self.maps(sum(F.interpolate(p, size=size, mode="bilinear", align_corners=False) for p in planes))


def label_table(length: int, sigma: float) -> torch.Tensor:
    """Target distributions softmax(10 * gaussian) of `length` bins for centres -LABEL_MARGIN .. length + LABEL_MARGIN.

    Looking rows up is several times cheaper than the exponentials of 133 points on two axes.
    """
    centre = torch.arange(-LABEL_MARGIN, length + LABEL_MARGIN)[:, None]
    gaussian = torch.exp(-((torch.arange(length) - centre) ** 2) / (2 * sigma**2))
    return (BETA * gaussian).softmax(-1)


def simcc_loss(
    logits: tuple[torch.Tensor, ...],
    tables: tuple[torch.Tensor, ...],
    points: torch.Tensor,
    weight: torch.Tensor,
    absent: torch.Tensor,
) -> torch.Tensor:
    """Cross entropy of both axes: keypoints (N, K, 2) px with `weight` (N, K), flat rows with `absent` (N, K)."""
    total = torch.zeros(())
    seen = weight.sum().clamp(min=1)  # of a small batch all crops may be empty
    for axis, table in enumerate(tables):
        log_probability = (logits[axis].float() * BETA).log_softmax(-1)
        row = (points[..., axis] * 2).round().long().clamp(-LABEL_MARGIN, table.shape[1] + LABEL_MARGIN - 1)
        present = -(table[row + LABEL_MARGIN] * log_probability).sum(-1)
        flat = -log_probability.mean(-1)
        total = total + (present * weight).sum() / seen + (flat * absent).sum() / seen
    return total


def heatmap_loss(maps: torch.Tensor, points: torch.Tensor, weight: torch.Tensor, stride: int = 8) -> torch.Tensor:
    """Cross entropy of a softmax over all cells against a Gaussian of 0.8 cells."""
    height, width = maps.shape[2:]
    x = torch.arange(width) * stride + (stride - 1) / 2
    y = torch.arange(height) * stride + (stride - 1) / 2
    spread = 2 * (0.8 * stride) ** 2
    target_x = (-((points[..., :1] - x) ** 2) / spread).softmax(-1)
    target_y = (-((points[..., 1:] - y) ** 2) / spread).softmax(-1)
    log_probability = maps.float().flatten(2).log_softmax(-1).unflatten(2, (height, width))
    # The target is a product, so the sum over cells runs over rows first.
    rows = torch.einsum("nkhw,nkw->nkh", log_probability, target_x)
    return -((rows * target_y).sum(-1) * weight).sum() / weight.sum().clamp(min=1)


def turned_away(points: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Which of the points (N, K, 2) belong to a face seen from behind, (N, K) bool: nose, eyes and face, where unseen.

    Through the back of the head a face is its mirror image, however it is turned; its nose and eyes are not seen.
    """
    right, left, chin = (points[:, k] for k in (RIGHT_EYE, LEFT_EYE, CHIN))
    across, down = left - right, chin - right
    mirrored = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0] < 0
    unseen = visible != VISIBLE
    away = mirrored & unseen[:, NOSE_AND_EYES].all(1)
    of_face = torch.zeros(NUM_KEYPOINTS, dtype=torch.bool, device=points.device)
    of_face[NOSE_AND_EYES] = of_face[FACE] = True
    return away[:, None] & unseen & of_face


def loss_weights(
    points: torch.Tensor, visible: torch.Tensor, absent: float, parts: dict[str, float] = PART_WEIGHTS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (N, K) of present keypoints and of flat rows.

    Hidden body joints are taught nearly in full, other parts less, and of a face that is turned away next to nothing.
    """
    part = torch.empty(NUM_KEYPOINTS)
    for name, value in parts.items():
        part[PARTS[name]] = value
    hidden = torch.full((NUM_KEYPOINTS,), 0.5)
    hidden[PARTS["body"]] = 0.8
    seen = part * ((visible == VISIBLE).float() + (visible == HIDDEN).float() * hidden)
    flat = part * absent * (visible == OUTSIDE).float()
    kept = torch.where(turned_away(points, visible), AWAY_SHARE, 1.0)
    return seen * kept, flat + seen * (1 - kept)
