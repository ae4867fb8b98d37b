"""One process or many: start, BatchNorm over all of them, averages over all of them.

Started by `torchrun` a recipe trains with DistributedDataParallel (nccl on GPUs, gloo on CPUs), otherwise alone; the
code path is the same. `nn.SyncBatchNorm` exists for GPUs only, so `AllReduceBatchNorm` does its work on the CPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Process:
    """This process among all."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def start(device: str = "") -> Process:
    """Join the group that torchrun's environment describes, or be a group of one.

    Raises:
        ValueError: when there is no such device.
    """
    try:
        asked = torch.device(device or "cpu")
    except RuntimeError as error:
        raise ValueError(f"--device {device}: no such device; try cpu, cuda or cuda:1") from error
    if asked.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: this machine or this PyTorch build has no CUDA. Try --device cpu")
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if kind == "cuda":
        kind = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(kind)
    if world > 1:
        dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo", rank=rank, world_size=world)
    return Process(rank, world, torch.device(kind))


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def gather(value, process: Process) -> list:
    """`value` of every process, in rank order, on every process."""
    if process.world == 1:
        return [value]
    values: list = [None] * process.world
    dist.all_gather_object(values, value)
    return values


def synchronize_batchnorm(module: nn.Module, process: Process) -> nn.Module:
    """Let every BatchNorm2d normalise with the statistics of all processes; parameter names stay as they are."""
    if process.world == 1:
        return module
    if process.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                twin = AllReduceBatchNorm(child.num_features, child.eps, child.momentum)
                twin.weight, twin.bias = child.weight, child.bias
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(twin, buffer, getattr(child, buffer))
                setattr(parent, name, twin.train(child.training))
    return module


class _AllReduce(torch.autograd.Function):
    """Sum over processes; the gradient of a sum that every process uses is the sum of their gradients."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class AllReduceBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, on any device and backend: three small all-reduces per layer.

    Mean first, then the variance about it (not the difference of two large sums), so that it equals one process with
    the joint batch to rounding.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        count = torch.tensor([x.numel() / self.num_features], device=x.device)
        dist.all_reduce(count)
        mean = _AllReduce.apply(x.float().sum((0, 2, 3))) / count
        centred = x.float() - mean[:, None, None]
        variance = _AllReduce.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
