"""SimCC: keypoint coordinates as two classifications over bins of half a pixel (Li et al., arXiv 2107.03332).

`encode` is the training label, `decode` the inverse used by the original DWPose: plain argmax, no sub-bin refinement.
Space here is the network crop in pixels; `geometry.py` maps to and from the image.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .skeleton import FLIP_INDICES

# Legend: N crops, K keypoints, B bins of one axis.

SPLIT_RATIO = 2.0  # bins per pixel, `simcc_split_ratio` of all RTMPose and DWPose configs
BETA = 10.0  # temperature of the KL losses: the networks are trained so that softmax(10 * logit) is a distribution


# Label sigma (x, y) in bins by input (H, W), as printed in the RTMPose and DWPose configs.
_PUBLISHED_SIGMA = {(256, 192): (4.9, 5.66), (384, 288): (6.0, 6.93)}


def label_sigma(input_size: tuple[int, int]) -> tuple[float, float]:
    """Sigma (x, y) of the Gaussian labels in bins; sqrt(side / 8), the rule behind the published figures, elsewhere."""
    height, width = input_size
    return _PUBLISHED_SIGMA.get(tuple(input_size), ((width / 8) ** 0.5, (height / 8) ** 0.5))


def encode(
    keypoints: np.ndarray, visible: np.ndarray, input_size: tuple[int, int], sigma: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian labels as mmpose's SimCCLabel with normalize=False.

    Args:
        keypoints: (N, K, 2) float32, crop pixels.
        visible: (N, K) float; below 0.5 counts as unlabelled.
        input_size: (H, W) of the crop.
        sigma: (x, y) in bins, see `label_sigma`.

    Returns:
        x (N, K, 2W) float32, y (N, K, 2H) float32, weight (N, K) float32. Rows of unlabelled keypoints are zero. A
        keypoint farther than 3 sigma outside the crop on either axis gets weight 0; a nearer one keeps a cut label.
    """
    height, width = input_size
    bins = (int(width * SPLIT_RATIO), int(height * SPLIT_RATIO))
    center = np.rint(keypoints * SPLIT_RATIO)  # rint rounds halves to even, as np.around in the original
    weight = visible.astype(np.float32).copy()
    labelled = visible >= 0.5
    inside = labelled.copy()
    for axis in (0, 1):
        radius = 3 * sigma[axis]
        inside &= (center[..., axis] - radius < bins[axis]) & (center[..., axis] + radius + 1 >= 0)
    weight[labelled & ~inside] = 0
    labels = []
    for axis in (0, 1):
        offset = np.arange(bins[axis], dtype=np.float32) - center[..., axis, None].astype(np.float32)
        rows = np.exp(-(offset**2) / (2 * sigma[axis] ** 2)).astype(np.float32)
        labels.append(np.where(inside[..., None], rows, np.float32(0)))
    return labels[0], labels[1], weight


def decode(simcc_x: torch.Tensor, simcc_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, K, 2W) and (N, K, 2H) -> keypoints (N, K, 2) in crop pixels and scores (N, K), float32.

    The first maximum wins. Score = min of the two maxima, unbounded. Where it is <= 0 the point decodes to
    (-0.5, -0.5), as in the original.
    """
    score_x, x = simcc_x.float().max(dim=-1)
    score_y, y = simcc_y.float().max(dim=-1)
    score = torch.minimum(score_x, score_y)
    xy = torch.stack((x, y), dim=-1).float()
    xy = torch.where(score[..., None] > 0, xy, torch.full_like(xy, -1.0))
    return xy / SPLIT_RATIO, score


def visibility(simcc_x: torch.Tensor, simcc_y: torch.Tensor, sigma: tuple[float, float]) -> torch.Tensor:
    """How certain the network is that the point is where `decode` puts it: (N, K) float32 in 0..1.

    softmax(10 * logit) is the distribution the KL loss trains, so the mass within 3 sigma of the peak is the network's
    own probability that the point lies there. That mass is rescaled so that a flat row gives 0, and the smaller of the
    two axes is taken. Unlike the raw score it means the same for every network.
    """
    axes = []
    for logits, spread in ((simcc_x, sigma[0]), (simcc_y, sigma[1])):
        probability = (logits.float() * BETA).softmax(dim=-1)
        bins = probability.shape[-1]
        radius = math.ceil(3 * spread)
        peak = probability.argmax(dim=-1, keepdim=True)
        window = peak + torch.arange(-radius, radius + 1, device=logits.device)
        inside = (window >= 0) & (window < bins)
        mass = (probability.gather(-1, window.clamp(0, bins - 1)) * inside).sum(-1)
        flat = inside.sum(-1) / bins
        axes.append(((mass - flat) / (1 - flat)).clamp(0, 1))
    return torch.minimum(*axes)


def flip_average(
    plain: tuple[torch.Tensor, torch.Tensor], mirrored: tuple[torch.Tensor, torch.Tensor], corrected: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the logits of a crop and of its mirror image.

    The original reverses the x bins, which maps bin b to 2W-1-b while the mirrored pixel is W-1-x: the mirrored peak
    lands one bin (half a pixel) to the right, and the average is biased by a quarter pixel. Published figures include
    that. `corrected=True` shifts the reversed row back by one bin; the bin that enters repeats its neighbour.
    """
    flip = torch.as_tensor(FLIP_INDICES, device=plain[0].device)
    x = mirrored[0][:, flip].flip(-1)
    if corrected:
        x = torch.cat((x[..., 1:], x[..., -1:]), dim=-1)
    return (plain[0] + x) / 2, (plain[1] + mirrored[1][:, flip]) / 2
