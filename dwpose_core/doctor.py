"""`dwpose doctor`: what is installed, what it runs on, where weights lie, and what to do about what is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

import torch

from . import __version__
from .backends import PROVIDERS, pick_device

# Distributions worth naming, with what each is for.
PACKAGES = {
    "numpy": "",
    "safetensors": "",
    "huggingface_hub": "",
    "pillow": "",
    "onnx": "",
    "onnxscript": "ONNX export",
    "diffusers": "Modular Diffusers block",
    "av": "video",
    "pycocotools": "training",
    "ray": "many machines",
}

# All of them are imported as onnxruntime: directml is for any GPU under Windows, rocm for AMD's under Linux.
_ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-rocm")


def report(cache_dir: str | os.PathLike | None = None) -> tuple[str, list[str]]:
    """The whole report as text, and the list of problems in it."""
    problems: list[str] = []
    lines = [
        f"dwpose-torch     {__version__}",
        f"python           {sys.version.split()[0]} on {platform.platform()}",
        f"torch            {torch.__version__}",
        f"device           {_device(problems)}",
        f"opencv           {_opencv(problems)}",
        f"onnxruntime      {_onnxruntime(problems)}",
    ]
    for name, purpose in PACKAGES.items():
        version = _version(name)
        absent = f"not installed (optional{': ' + purpose if purpose else ''})"
        lines.append(f"{name:16s} {version or absent}")
    lines += ["", *_weights(cache_dir, problems), ""]
    lines += [f"! {problem}" for problem in problems] or ["nothing to fix"]
    return "\n".join(lines), problems


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(problems: list[str]) -> str:
    device = pick_device()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return f"{device} {torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if torch.version.cuda:
        problems.append(
            f"this PyTorch is built for CUDA {torch.version.cuda} but sees no GPU: is a driver installed, and is "
            f"CUDA_VISIBLE_DEVICES ({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}) right?"
        )
    return f"{device}, {torch.get_num_threads()} threads"


def _opencv(problems: list[str]) -> str:
    import cv2

    owners = [name for name in ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
                                "opencv-contrib-python-headless") if _version(name)]  # fmt: skip
    if len({_version(name) for name in owners}) > 1:
        problems.append(
            f"{' and '.join(owners)} are installed in different versions and overwrite each other's cv2; "
            f"uninstall all of them, then install one"
        )
    return f"{cv2.__version__} ({', '.join(owners) or 'not from a package'})"


def _onnxruntime(problems: list[str]) -> str:
    owners = [name for name in _ONNX_RUNTIMES if _version(name)]
    if not owners:
        return 'not installed (optional; only backend "onnx" needs it)'
    if len(owners) > 1:
        problems.append(
            f"{' and '.join(owners)} overwrite each other; GPU providers get lost. Uninstall all, then install one"
        )
    try:
        import onnxruntime
    except ImportError as error:  # a library it needs is missing, or NumPy is of another age
        problems.append(f"onnxruntime is installed but cannot be imported ({error}); install {owners[0]} again")
        return f"{_version(owners[0])} ({', '.join(owners)}), cannot be imported"

    available = onnxruntime.get_available_providers()
    if torch.cuda.is_available() and PROVIDERS["cuda"] not in available:
        problems.append("there is a GPU but this onnxruntime has no CUDA provider; backend 'torch' uses the GPU anyway")
    names = [name for name, provider in PROVIDERS.items() if provider in available]
    return f"{onnxruntime.__version__} ({', '.join(owners)}), providers: {', '.join(names)}"


def _weights(cache_dir: str | os.PathLike | None, problems: list[str]) -> list[str]:
    from .hub import DEFAULT_DETECTOR, DEFAULT_POSE
    from .models import catalogue, download

    folder = download.cache_folder(cache_dir)
    lines = [f"cache            {folder}"]
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        problems.append(f"{existing} is a file, not a folder: set HF_HOME or pass --cache-dir to download weights")
    elif not os.access(existing, os.W_OK):
        problems.append(f"{existing} is not writable: set HF_HOME or pass --cache-dir to download weights")
    for name in ("DWPOSE_MODELS", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        if name in os.environ:
            lines.append(f"{name:16s} {os.environ[name]}")
    cached = [entry.name for entry in catalogue.ENTRIES if catalogue.cached_path(entry, cache_dir)]
    lines.append(f"weights          {', '.join(cached) or 'none'} (see `dwpose models`)")
    missing = [name for name in (DEFAULT_POSE, DEFAULT_DETECTOR) if name not in cached]
    if missing:
        lines.append(
            f"{'':16s} {' and '.join(missing)} will be downloaded at first use; offline, or where that fails, "
            "rough starters of the package stand in"
        )
    return lines
