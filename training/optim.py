"""Weight decay groups, learning-rate schedule and weight averaging, as in the RTMPose and DWPose configs."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters in two AdamW groups: with decay, and without (every bias, every norm layer).

    mmengine's `norm_decay_mult=0, bias_decay_mult=0` counts norm *layers* only: the ScaleNorm gains `g`, the residual
    scale and the attention's `gamma` and `beta` are plain parameters and do decay. Each group carries "names".
    """
    groups = [
        {"names": [], "params": [], "weight_decay": weight_decay},
        {"names": [], "params": [], "weight_decay": 0.0},
    ]
    for prefix, owner in module.named_modules():
        is_norm = isinstance(owner, nn.modules.batchnorm._BatchNorm)
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            group = groups[is_norm or name == "bias"]
            group["names"].append(f"{prefix}.{name}" if prefix else name)
            group["params"].append(parameter)
    return groups


def build_optimizer(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW, betas (0.9, 0.999), over `parameter_groups`; the fused kernel where the device has one."""
    groups = [{k: v for k, v in g.items() if k != "names"} for g in parameter_groups(module, weight_decay)]
    on_gpu = groups[0]["params"][0].is_cuda
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), fused=on_gpu)


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the optimiser step, counted from 0.

    Linear warm-up from 1e-5 of the rate to all of it over `warmup` steps, constant, then half a cosine from
    `cosine_start` to `cosine_end` down to `final` of the rate. A `cosine_end` of 0 means no cosine.
    """

    lr: float
    warmup: int = 1000
    cosine_start: int = 0
    cosine_end: int = 0
    final: float = 0.05
    warmup_factor: float = 1e-5

    def at(self, step: int) -> float:
        factor = 1.0
        if step < self.warmup - 1:  # the full rate is reached on step warmup - 1, as in mmengine's LinearLR
            factor = self.warmup_factor + (1 - self.warmup_factor) * step / (self.warmup - 1)
        rate = self.lr
        if self.cosine_end and step > self.cosine_start:
            progress = min((step - self.cosine_start) / (self.cosine_end - self.cosine_start), 1.0)
            rate = self.lr * (self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2)
        return rate * factor


class ExponentialMovingAverage:
    """Average of a module's weights and float buffers with a momentum that starts near 1 (YOLOX, arXiv 2107.08430).

    m_t = (1 - momentum) * exp(-(1 + t) / gamma) + momentum and avg <- (1 - m_t) * avg + m_t * weights; the first update
    copies. Integer buffers keep their values. `module` is what is validated and released.
    """

    def __init__(self, source: nn.Module, momentum: float = 2e-4, gamma: float = 2000.0):
        self.module = copy.deepcopy(source).requires_grad_(False).eval()
        self.momentum = momentum
        self.gamma = gamma
        self.step = 0

    def momentum_at(self, step: int) -> float:
        return (1 - self.momentum) * math.exp(-(1 + step) / self.gamma) + self.momentum

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        pairs = list(zip(self.module.state_dict().values(), source.state_dict().values(), strict=True))
        pairs = [(average, value.detach()) for average, value in pairs if average.is_floating_point()]
        averages, values = (list(side) for side in zip(*pairs, strict=True))
        if self.step == 0:
            torch._foreach_copy_(averages, values)
        else:
            torch._foreach_lerp_(averages, values, self.momentum_at(self.step))
        self.step += 1
