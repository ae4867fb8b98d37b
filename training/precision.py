"""The arithmetic that networks train in: bfloat16 where the device multiplies in it, float32 elsewhere."""

from __future__ import annotations

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are worth it. Every GPU here is taken to; processors differ.

    One with AVX2 alone trains a dwpose-t ten times as slowly in bfloat16 as in float32.
    """
    if device.type != "cpu":
        return True
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # what torch's own compiler asks
    return supported is not None and supported()


def autocast(device: torch.device) -> torch.autocast:
    """A context for the forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
