"""Weights of the starter's networks: files written, read as they were trained, grown where the network is larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dwpose_core.models.rtmcc import VARIANTS, DWPose

from .growth import enlarged, mean_weights, widened

NARROW, WIDE, LARGEST = "dwpose-nano", "dwpose-micro", "dwpose-s"


def build_network(name: str, size: tuple[int, int]) -> DWPose:
    return DWPose(replace(VARIANTS[name], input_size=size), name)


def save(net: DWPose, path: Path, factor: float = 1.0) -> None:
    """fp16 safetensors, counters left out of the halving. `factor` is what scores were multiplied by since training."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    note = {"model": net.name, "score_factor": repr(factor)}
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata=note)


def read_weights(path: Path, name: str, size: tuple[int, int]) -> DWPose:
    """The network `name` for crops of `size` (H, W) from a file written by `save`, its scores as they were trained.

    Raises:
        ValueError: for a file that is no such network and can't become one.
    """
    try:
        with safe_open(path, "pt") as file:
            note = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        for axis in "xy":
            state[f"head.cls_{axis}.weight"] /= float(note.get("score_factor", 1.0))
        width, height = (state[f"head.cls_{axis}.weight"].shape[0] // 2 for axis in "xy")
        net = build_network(note.get("model", name), (height, width))
        net.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{path} holds none of {NARROW}, {WIDE}, {LARGEST}; give a file of training.starter"
        ) from error
    if (height, width) != size:
        net = enlarged(net, size)
    return net if net.name == name else widened(net, replace(VARIANTS[name], input_size=size), name)


def begin(start: Sequence[Path], name: str, size: tuple[int, int]) -> DWPose:
    """What training goes on from: `read_weights` of a file, the mean of several, or untrained without any.

    Raises:
        ValueError: for a file that is no such network and can't become one.
    """
    if not start:
        return build_network(name, size)
    return mean_weights([read_weights(path, name, size) for path in start])
