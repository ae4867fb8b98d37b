"""Weights of the starter's networks: files written, read as they were trained, grown where the network is larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from dwpose_core.models.rtmcc import VARIANTS, DWPose
from dwpose_core.models.weights import load_pose, write_state

from .growth import enlarged, mean_weights, widened

NARROW, WIDE, TINY, LARGEST = "dwpose-nano", "dwpose-micro", "dwpose-t", "dwpose-s"


def build_network(name: str, size: tuple[int, int]) -> DWPose:
    return DWPose(replace(VARIANTS[name], input_size=size), name)


def save(net: DWPose, path: Path, factor: float = 1.0) -> None:
    """fp16 safetensors, counters left out of the halving. `factor` is what scores were multiplied by since training."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    note = {"model": net.name, "score_factor": repr(factor)}
    write_state(state, path, note)


def as_trained(path: Path) -> DWPose:
    """The network of a file, of ours or official, without the factor that `starter_score.calibrate` put on its scores.

    Raises:
        ValueError, FileNotFoundError: those of `load_pose`.
    """
    net, factor = load_pose(path), 1.0
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            factor = float((file.metadata() or {}).get("score_factor", 1.0))
    with torch.no_grad():
        net.head.cls_x.weight /= factor
        net.head.cls_y.weight /= factor
    return net.train()


def read_weights(path: Path, name: str, size: tuple[int, int]) -> DWPose:
    """The network `name` for crops of `size` (H, W) from a file, its scores as they were trained.

    Raises:
        ValueError: for a file that is no such network and can't become one.
    """
    net, config = as_trained(path), replace(VARIANTS[name], input_size=size)
    if net.config.input_size != size:
        net = enlarged(net, size)
    if net.config != config:
        return widened(net, config, name)
    net.name = name  # a size that is not the catalogue's has no name of its own
    return net


def begin(start: Sequence[Path], name: str, size: tuple[int, int]) -> DWPose:
    """What training goes on from: `read_weights` of a file, the mean of several, or untrained without any.

    Raises:
        ValueError: for a file that is no such network and can't become one.
    """
    if not start:
        return build_network(name, size)
    return mean_weights([read_weights(path, name, size) for path in start])
