"""MixStyle (Zhou et al., arXiv 2104.02008): during training some pictures wear the look of others.

Mean and deviation of a channel over a picture's feature map are its style: light, colour, grain, contrast. Those of
early layers are mixed with another picture's of the batch, so that what lies behind cannot trust them. Rendered people
have one style and photographs another, which is what a network trained on the former meets first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

ALPHA = 0.1  # of the symmetric beta distribution of the share that is kept, as in the paper


def mix_styles(features: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    """`features` (N, C, H, W) with the statistics of about `share` of the pictures mixed with another's."""
    count = len(features)
    other = torch.from_numpy(rng.permutation(count)).to(features.device)
    kept = np.where(rng.random(count) < share, rng.beta(ALPHA, ALPHA, count), 1.0)
    kept = torch.from_numpy(kept).float().to(features.device)[:, None, None, None]
    variance, mean = torch.var_mean(features.detach().float(), dim=(2, 3), keepdim=True)
    deviation = (variance + 1e-6).sqrt()
    scale = kept + (1 - kept) * deviation[other] / deviation
    shift = kept * mean + (1 - kept) * mean[other] - mean * scale
    return (features * scale + shift).to(features.dtype)


class StyleMixing:
    """Mixes what `layers` give out; call `begin` before every step, on whose number and `seed` alone it depends."""

    def __init__(self, layers: Sequence[nn.Module], share: float, seed: tuple[int, ...]):
        self.share, self.seed = share, seed
        self.rng = np.random.default_rng(seed)
        if share > 0:
            for layer in layers:
                layer.register_forward_hook(self._mix)

    def begin(self, step: int) -> None:
        self.rng = np.random.default_rng((*self.seed, step))

    def _mix(self, layer: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return mix_styles(output, self.share, self.rng)
