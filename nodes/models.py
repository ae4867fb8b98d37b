"""Networks under ComfyUI's model management."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import logging
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import comfy.model_management as mm
import comfy.model_patcher
import torch

from .files import AUTO, NONE, candidates

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Room asked of model management for one forward, in multiples of its float32 input: the widest layers (64 channels at
# half the side) are 5 inputs large, and a few of them live at a time.
ACTIVATIONS = 16


@dataclasses.dataclass(eq=False)
class PoseModel:
    """What travels on a DWPOSE_MODEL socket: the files, and on the torch backend the networks made of them."""

    pose: Network
    detector: Network | None
    note: str = ""  # what the user should know

    def __post_init__(self) -> None:
        from server import PromptServer

        loop = getattr(getattr(PromptServer, "instance", None), "loop", None)
        if loop is not None and sys.platform == "linux":
            weakref.finalize(self, _give_memory_back, loop).atexit = False

    @contextlib.contextmanager
    def ready(self, images: int, people: int, detector_size: int | None = None) -> Iterator[tuple]:
        """Runners (pose, detector) on their device, for batches of that many images and people."""
        networks = [network for network in (self.pose, self.detector) if network is not None]
        patchers = [network.patcher for network in networks if network.patcher is not None]
        if patchers:
            inputs = [self.pose.input_bytes * people]
            if self.detector is not None and self.detector.patcher is not None:
                seen = _input_bytes(detector_size, detector_size) if detector_size else self.detector.input_bytes
                inputs.append(seen * images)
            mm.load_models_gpu(patchers, memory_required=ACTIVATIONS * max(inputs), force_full_load=True)
        runners = [network.open() for network in networks]
        try:
            yield runners[0], runners[1] if self.detector is not None else None
        finally:
            runners.clear()
            if len(patchers) < len(networks):
                mm.soft_empty_cache()


def _give_memory_back(loop: asyncio.AbstractEventLoop) -> None:
    """A second after a model was let go, hand its freed memory to the system. glibc keeps what lies between blocks that
    are in use: of two large networks on a CPU, all but 33 of 681 MiB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None and not loop.is_closed():
        loop.call_soon_threadsafe(loop.call_later, 1.0, trim, 0)


def _input_bytes(height: int, width: int) -> int:
    return 3 * height * width * 4  # float32 RGB


class Network:
    """One network of a PoseModel."""

    def __init__(self, path: Path, kind: str, backend: str, precision: str):
        from ..dwpose_core.backends import TorchRunner
        from ..dwpose_core.models.weights import load_detector, load_pose

        self.path, self.kind, self.backend = path, kind, backend
        self.patcher = self.runner = None
        self.input_bytes = 0
        if backend != "torch":
            if path.suffix != ".onnx":
                raise ValueError(f"The {backend} backend needs an .onnx file, got {path.name}. Use backend torch.")
            return
        device, offload = mm.get_torch_device(), mm.unet_offload_device()
        if precision == AUTO:
            dtype = torch.float16 if mm.should_use_fp16(device) else torch.float32
        else:
            dtype = PRECISIONS[precision]
        net = (load_pose if kind == "pose" else load_detector)(path)
        self.runner = TorchRunner(net, offload, dtype)
        for module in self.runner.net.modules():
            # One forward on a CPU takes seconds; this is how the interrupt button works inside of it.
            module.register_forward_pre_hook(lambda *_: mm.throw_exception_if_processing_interrupted())
        self.input_bytes = _input_bytes(*self.runner.input_size)
        self.patcher = comfy.model_patcher.ModelPatcher(self.runner.net, load_device=device, offload_device=offload)

    def open(self):
        """A runner. An ONNX Runtime session cannot be moved out of the way by model management, so it lives for one
        run of a node only."""
        if self.runner is not None:
            return self.runner
        from ..dwpose_core.backends import OnnxRunner, provider_beside

        provider = {"onnxruntime": None, "tensorrt": "tensorrt", "openvino": "openvino"}[self.backend]
        mm.free_memory(4 * self.path.stat().st_size, mm.get_torch_device())
        device = mm.get_torch_device()
        provider = provider or provider_beside(device.type)
        return OnnxRunner(self.path, provider, kind=self.kind, device_index=device.index or 0)


def load(pose: str, detector: str, precision: str = AUTO, backend: str = "torch") -> PoseModel:
    """Networks by their choices. Errors as in `candidates`, and ValueError for files that hold something else."""
    pose_network, pose_note = _load("pose", pose, precision, backend)
    detector_network, detector_note = _load("detector", detector, precision, backend)
    notes = [note for note in (pose_note, detector_note) if note]
    later = dict.fromkeys(sentence for note in notes for sentence in note[1:])  # said once if it is the same for both
    return PoseModel(pose_network, detector_network, " ".join([*(note[0] for note in notes), *later]))


def _load(kind: str, name: str, precision: str, backend: str) -> tuple[Network | None, list[str]]:
    """The network of a choice, and what the user should know about it; see `candidates`."""
    if name == NONE:
        return None, []
    unreadable = []
    for path, note in candidates(kind, name):
        try:
            network = Network(path, kind, backend, precision)
        except ValueError as error:
            if name != AUTO:
                raise
            logging.warning("DWPose: %s", error)
            unreadable.append((path.name, error))
        else:
            return network, [*note, *(f"{name} is no {kind} this pack can use." for name, _ in unreadable)]
    raise unreadable[-1][1]
