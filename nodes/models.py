"""Weights in ComfyUI's folders, and networks under ComfyUI's model management."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import os
import shutil
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import comfy.model_management as mm
import comfy.model_patcher
import folder_paths
import torch

from ..dwpose_core.models import catalogue

POSE_FOLDER, DETECTOR_FOLDER = "dwpose", "detection"
SUFFIXES = {".safetensors", ".onnx", ".pth", ".pt"}
AUTO, NONE = "auto", "none"
DEFAULTS = {"pose": "dwpose-l-384", "detector": "yolox-l"}
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Room asked of model management for one forward, in multiples of its float32 input: the widest layers (64 channels at
# half the side) are 5 inputs large, and a few of them live at a time.
ACTIVATIONS = 16


def register_folders() -> None:
    """models/dwpose and models/detection, also as keys of extra_model_paths.yaml, and where the older pack keeps its
    downloads: nobody should need the same file twice. Folders that other packs share are only added to."""
    for key in (POSE_FOLDER, DETECTOR_FOLDER):
        folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))
    for root in folder_paths.get_folder_paths("custom_nodes"):
        folder_paths.add_model_folder_path(POSE_FOLDER, os.path.join(root, "comfyui_controlnet_aux", "ckpts"))


def choices(kind: str) -> list[str]:
    """What the loader offers: "auto", the catalogue (downloaded on first use), and the files that are there."""
    names = [entry.name for entry in catalogue.ENTRIES if entry.kind == kind]
    return [AUTO, *([NONE] if kind == "detector" else []), *names, *_files(kind)]


def _files(kind: str) -> list[str]:
    # Everything that may be a network of this kind by its name; what it really is, is read from its shapes.
    found = set()
    for folder in (POSE_FOLDER, DETECTOR_FOLDER):
        for name in folder_paths.get_filename_list(folder):
            is_detector = "yolo" in os.path.basename(name).lower()
            if os.path.splitext(name)[1].lower() not in SUFFIXES or "torchscript" in name.lower():
                continue  # TorchScript is a program, not weights
            if is_detector == (kind == "detector") and (is_detector or _may_be_pose(name)):
                found.add(name)
    return sorted(found)


def _may_be_pose(name: str) -> bool:
    # The folder of the older pack holds dozens of other networks.
    stem = os.path.basename(name).lower()
    return ("dw" in stem or "rtm" in stem) and "ap10k" not in stem


def find_file(name: str) -> Path | None:
    """A file of the folders by the name the loader shows or by its last part, or None."""
    for folder in (POSE_FOLDER, DETECTOR_FOLDER):
        for known in folder_paths.get_filename_list(folder):
            if known == name or os.path.basename(known) == name:
                return Path(folder_paths.get_full_path_or_raise(folder, known))
    return None


def resolve(kind: str, name: str) -> tuple[Path | None, str]:
    """The file behind a choice, downloaded where needed, and what the user should know about it ("" if nothing).

    Raises:
        ValueError: for a name that is neither a file nor in the catalogue.
        dwpose_core.models.download.WeightsUnavailable: with the file to get and where to put it.
    """
    from ..dwpose_core.models import download

    if name == NONE:
        return None, ""
    if name != AUTO:
        path = find_file(name)
        return (path, "") if path else _fetch(catalogue.find(name, kind))
    entry = catalogue.find(DEFAULTS[kind], kind)
    try:
        return _fetch(entry)
    except download.WeightsUnavailable as error:
        reason = str(error)
    others = [known for known in _files(kind) if "_nas_" not in known]
    if others:
        return find_file(others[0]), f"{entry.name} is not available, using {os.path.basename(others[0])}."
    path = catalogue.cached_path(catalogue.find(catalogue.BUNDLED[kind]))
    if path is None:
        raise download.WeightsUnavailable(reason)
    return path, f"Using the small starter model {catalogue.BUNDLED[kind]}, which is rough. {reason}."


def _fetch(entry: catalogue.WeightEntry) -> tuple[Path, str]:
    """The file of a catalogue entry and a remark: from ComfyUI's folders, else downloaded and checked."""
    from ..dwpose_core.models import download

    path = find_file(entry.filename)
    if path is not None:
        if entry.sha256 is None or download.digest(path) == entry.sha256:
            return path, ""
        # A file put there by hand may be another edition on purpose, but nobody should take it for the published one.
        return path, f"{path.name} is not the published file (its sha256 differs); using it as it is."
    if entry.repo is None:
        return download.fetch(entry), ""
    home = Path(folder_paths.get_folder_paths(POSE_FOLDER if entry.kind == "pose" else DETECTOR_FOLDER)[0])
    path = download.fetch(entry, cache_dir=home)
    cache = home / f"models--{entry.repo.replace('/', '--')}"
    if cache in path.parents:  # out of the hub's tree of links, to where a user would look for it
        os.replace(path.resolve(), home / entry.filename)
        shutil.rmtree(cache)
        path = home / entry.filename
    return path, ""


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
    def ready(self, images: int, people: int) -> Iterator[tuple]:
        """Runners (pose, detector) on their device, for batches of that many images and people."""
        networks = [network for network in (self.pose, self.detector) if network is not None]
        patchers = [network.patcher for network in networks if network.patcher is not None]
        if patchers:
            memory = ACTIVATIONS * max(
                network.input_bytes * count for network, count in zip(networks, (people, images), strict=False)
            )
            mm.load_models_gpu(patchers, memory_required=memory, force_full_load=True)
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


class Network:
    """One network of a PoseModel."""

    def __init__(self, path: Path, kind: str, backend: str, precision: str):
        from ..dwpose_core.backends import TorchRunner
        from ..dwpose_core.models.weights import load_detector, load_pose

        self.path, self.backend = path, backend
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
        height, width = self.runner.input_size
        self.input_bytes = 3 * height * width * 4
        self.patcher = comfy.model_patcher.ModelPatcher(self.runner.net, load_device=device, offload_device=offload)

    def open(self):
        """A runner. An ONNX Runtime session cannot be moved out of the way by model management, so it lives for one
        run of a node only."""
        if self.runner is not None:
            return self.runner
        from ..dwpose_core.backends import OnnxRunner

        provider = {"onnxruntime": None, "tensorrt": "tensorrt", "openvino": "openvino"}[self.backend]
        mm.free_memory(4 * self.path.stat().st_size, mm.get_torch_device())
        device = mm.get_torch_device()
        if provider is None:
            provider = "cuda" if device.type == "cuda" and torch.version.hip is None else "cpu"
        return OnnxRunner(self.path, provider, device_index=device.index or 0)


def load(pose: str, detector: str, precision: str = AUTO, backend: str = "torch") -> PoseModel:
    """Networks by their choices. Errors as in `resolve`, and ValueError for files that hold something else."""
    pose_path, pose_note = resolve("pose", pose)
    detector_path, detector_note = resolve("detector", detector)
    return PoseModel(
        pose=Network(pose_path, "pose", backend, precision),
        detector=None if detector_path is None else Network(detector_path, "detector", backend, precision),
        note="\n".join(note for note in (pose_note, detector_note) if note),
    )
