"""Networks from names, files, folders and hub repositories; folders back onto the disk.

A folder written by `DWposeDetector.save_pretrained` holds config.json, pose.safetensors and, where there is a person
detector, detector.safetensors. It is pushed to a hub repository as it is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from . import __version__
from .backends import OnnxRunner, Runner, TorchRunner, pick_device, provider_beside
from .models import catalogue, download
from .models.weights import SUFFIXES, load_detector, load_pose, save_safetensors
from .pipeline import Options

DEFAULT_POSE = "dwpose-l-384"
DEFAULT_DETECTOR = "yolox-l"

CONFIG_NAME = "config.json"
CLASS_NAME = "DWposeDetector"

# Filled in by huggingface_hub's mixin (Jinja); `card_data` is the metadata block the hub reads.
MODEL_CARD = """---
{{ card_data }}
---

# Whole-body pose detector: {{ pose }}

133 keypoints per person (17 body, 6 feet, 68 face, 2 x 21 hands, COCO-WholeBody order) and the control maps ControlNets
for poses are trained on.

| part | weights | input (W x H) | file |
|---|---|---|---|
| pose | {{ pose }} | {{ pose_input }} | pose.safetensors |
{% if detector -%}
| person detector | {{ detector }} | {{ detector_input }} | detector.safetensors |
{% else -%}
| person detector | none: one person per image, looked for in the whole image | | |
{% endif %}
```python
# pip install dwpose-torch
from dwpose_core import DWposeDetector

detector = DWposeDetector.from_pretrained("{{ repo_id | default("this folder or repository", true) }}")
pose_map = detector("photo.jpg")        # a PIL image to hand to a ControlNet pipeline
people = detector.detect("photo.jpg")   # keypoints in pixels of the photograph
```

The networks are those of DWPose (Yang et al., arXiv 2307.15880), RTMPose (arXiv 2303.07399) and YOLOX (arXiv
2107.08430).{% if licence %}

Licence: {{ licence }}{% else %} The weights keep the licence of the checkpoint they were saved from.{% endif %}
"""


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where the weights of a detector lie, and the options saved with them."""

    pose: Path
    detector: Path | None
    options: Options | None = None


def find(
    pose: str | os.PathLike,
    detector: str | os.PathLike | None,
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Sources:
    """The files behind the arguments of `DWposeDetector.from_pretrained`. Errors as there."""
    where_to_look = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    name, folder = str(pose), Path(pose).expanduser()
    published = name in {entry.repo for entry in catalogue.ENTRIES}
    parts = ("pose", "detector") if detector == "auto" else ("pose",)
    if pose != "auto" and folder.is_dir() and not _is_name(name, folder / (subfolder or "")):
        folder /= subfolder or ""
        saved = _open(partial(_from_folder, folder), parts, variant, f"the folder {folder}")
    elif _is_repository(name) and not folder.is_file() and not published:
        fetch = partial(_from_hub, name, subfolder=subfolder, revision=revision, token=token, **where_to_look)
        saved = _open(fetch, parts, variant, f"the repository {name}")
    else:
        pose_file = _find_file(DEFAULT_POSE if published else pose, DEFAULT_POSE, where_to_look)
        return Sources(pose_file, _find_file(detector, DEFAULT_DETECTOR, where_to_look))
    if detector == "auto":
        return saved
    return dataclasses.replace(saved, detector=_find_file(detector, DEFAULT_DETECTOR, where_to_look))


def load_runners(
    sources: Sources,
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
    backend: str,
    provider: str | None,
) -> tuple[Runner, Runner | None]:
    """Runners of the pose network and of the person detector. Errors as `DWposeDetector.from_pretrained`."""
    if backend not in ("torch", "onnx"):
        raise ValueError(f"backend must be 'torch' or 'onnx', got {backend!r}")
    if backend == "torch" and provider is not None:
        raise ValueError("provider belongs to backend='onnx'; the torch backend takes device")
    if backend == "onnx" and dtype is not None:
        raise ValueError("dtype belongs to backend='torch'; an .onnx file has its own precision")
    where = pick_device(device)
    if backend == "onnx":
        for path in filter(None, (sources.pose, sources.detector)):
            if path.suffix != ".onnx":
                raise ValueError(f"backend 'onnx' needs an .onnx file, got {path.name}; make one with `dwpose export`")
        provider = provider or _provider(device, where)
        index = where.index or 0
        if where.type == "cuda" and where.index is None and provider in ("cuda", "tensorrt"):
            index = torch.cuda.current_device()  # what torch means by "cuda"; ONNX Runtime would take the first
        pose = OnnxRunner(sources.pose, provider, kind="pose", device_index=index)
        if sources.detector is None:
            return pose, None
        return pose, OnnxRunner(sources.detector, provider, kind="detector", device_index=index)
    dtype = as_dtype(dtype) or (torch.float32 if where.type == "cpu" else torch.float16)
    pose = TorchRunner(load_pose(sources.pose), where, dtype)
    return pose, sources.detector and TorchRunner(load_detector(sources.detector), where, dtype)


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """torch.float16 or its name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype must be a floating-point torch.dtype such as torch.float16, got {dtype!r}")
    if isinstance(dtype, str) and found is None:
        raise ValueError(f"unknown dtype {dtype!r}; say 'float32', 'float16' or 'bfloat16'")
    return found


def _provider(device: str | torch.device | None, where: torch.device) -> str:
    """The ONNX Runtime provider where only a device was named, or none at all."""
    if device is None:
        return provider_beside(where.type)
    found = "cpu" if where.type == "cpu" else provider_beside(where.type)
    if found == "cpu" and where.type != "cpu":  # Apple's GPUs, AMD's under Linux
        raise ValueError(
            f"ONNX Runtime has no sure provider for device {device!s}: use backend='torch', or name a provider"
        )
    return found


def save(pose: Runner, detector: Runner | None, options: Options, folder: Path) -> None:
    """Write the weights as they are in memory, and config.json.

    Raises:
        ValueError: for a detector that runs ONNX Runtime: its weights are the .onnx files it was made from.
    """
    runners = {"pose": pose, "detector": detector}
    for runner in filter(None, runners.values()):
        if not isinstance(runner, TorchRunner):
            raise ValueError("only the torch backend is saved; with backend='onnx' keep the .onnx files themselves")
    config: dict[str, Any] = {"_class_name": CLASS_NAME, "_dwpose_version": __version__}
    for part, runner in runners.items():
        config[part] = f"{part}.safetensors" if runner else None
        if runner:
            save_safetensors(unfuse_batchnorm(runner.net), folder / config[part], {"weights": runner.weights})
    config["options"] = dataclasses.asdict(options)
    text = json.dumps(config, indent=2, default=lambda number: number.item())  # options may be NumPy's numbers
    (folder / CONFIG_NAME).write_text(text + "\n")


def unfuse_batchnorm(net: nn.Module) -> nn.Module:
    """The inverse of `backends.fuse_batchnorm`: a copy with BatchNorms that only add the folded bias.

    They compute (x - 0) / sqrt(1 + eps) * sqrt(1 + eps) + bias. The network's own numbers keep their type; the scale
    has at least single precision, for that of YOLOX is 1.0005, which is 1.001 in float16 and 1 in bfloat16.
    """
    net = getattr(net, "_orig_mod", net)  # torch.compile's wrapper
    with torch.random.fork_rng(devices=[]):  # random weights that are replaced at once, as in `load_network`
        plain = type(net)(net.config, net.name).eval()
    state = net.state_dict()
    for prefix, module in plain.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            bias = state.pop(f"{prefix.removesuffix('bn')}conv.bias")
            state[f"{prefix}.bias"] = bias
            precise = torch.promote_types(bias.dtype, torch.float32)
            state[f"{prefix}.weight"] = torch.full_like(bias, (1 + module.eps) ** 0.5, dtype=precise)
            state[f"{prefix}.running_mean"] = torch.zeros_like(bias)
            state[f"{prefix}.running_var"] = torch.ones_like(bias)
            state[f"{prefix}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    plain.load_state_dict(state, assign=True)
    return plain


def _find_file(source: str | os.PathLike | None, default: str, where_to_look: dict) -> Path | None:
    """The file of a path, a catalogue name, or "auto"; None for None."""
    if source is None:
        return None
    kind = "pose" if default == DEFAULT_POSE else "detector"
    if source != "auto":
        if "://" in str(source):
            return download.fetch(_behind_url(str(source), kind), **where_to_look)
        path = Path(source).expanduser()
        if path.is_file() or path.suffix.lower() in SUFFIXES:
            return path
        return download.fetch(catalogue.find(str(source), kind), **where_to_look)
    try:
        return download.fetch(catalogue.find(default), **where_to_look)
    except download.WeightsUnavailable as error:
        instead = (
            f"Using the bundled {catalogue.BUNDLED[kind]} instead, a rough starter trained on synthetic people only"
        )
        warnings.warn(f"{default} is not available. {instead}. ({error})", stacklevel=4)
        return download.fetch(catalogue.find(catalogue.BUNDLED[kind]))


def _behind_url(url: str, kind: str) -> catalogue.WeightEntry:
    """Scripts for controlnet_aux name their checkpoints by URL; those in the catalogue are known by their file name."""
    filename = urlsplit(url).path.rpartition("/")[2]
    for entry in catalogue.ENTRIES:
        if entry.filename == filename and entry.kind == kind:
            return entry
    raise ValueError(
        f"{url} is not in the catalogue of {kind} weights; download the file and give its path, or leave it out to get "
        f"{DEFAULT_POSE if kind == 'pose' else DEFAULT_DETECTOR}"
    )


def _is_name(name: str, folder: Path) -> bool:
    """Whether `name` means an entry of the catalogue, although there is a folder of that name, of something else."""
    return name in {entry.name for entry in catalogue.ENTRIES} and not (folder / CONFIG_NAME).is_file()


def _is_repository(name: str) -> bool:
    """Whether `name` looks like owner/name on the hub: no file, no weights file that is missing, no URL."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~") and not name.endswith(SUFFIXES)


def _open(fetch: Callable[[str], Path | None], parts: tuple[str, ...], variant: str | None, place: str) -> Sources:
    """What a saved folder holds of `parts`. `fetch` gives the path of a file in it, or None where there is none."""
    path = fetch(CONFIG_NAME)
    try:
        config = json.loads(path.read_bytes()) if path else {}
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict) or config.get("_class_name") != CLASS_NAME:
        raise ValueError(
            f"{place} holds no {CONFIG_NAME} written by {CLASS_NAME}.save_pretrained. For the published DWPose weights "
            f"leave the name out; single weight files are given by their path"
        )
    files: dict[str, Path | None] = {}
    for part in parts:
        name = config.get(part)
        if not isinstance(name, str | None):
            raise ValueError(f"{place} names {name!r} in its {CONFIG_NAME}, which is no name of a {part} file")
        found = name and fetch(_with_variant(name, variant))
        if name and variant and not found:
            # Pipelines hand one variant to all of their components.
            warnings.warn(f"{place} has no variant {variant!r} of {name}; taking {name} itself", stacklevel=4)
            found = fetch(name)
        if name and not found:
            raise ValueError(f"{place} names {name} in its {CONFIG_NAME} but does not hold it")
        files[part] = found or None
    if files["pose"] is None:
        raise ValueError(f"{place} names no pose network in its {CONFIG_NAME}")
    try:
        options = Options(**config.get("options", {}))
    except TypeError as error:
        raise ValueError(
            f"{place} was written by dwpose-torch {config.get('_dwpose_version')} with options this version "
            f"({__version__}) does not know: {error}. Pass options=Options(...) in a newer version"
        ) from error
    return Sources(files["pose"], files.get("detector"), options)


def _from_folder(folder: Path, filename: str) -> Path | None:
    return folder / filename if (folder / filename).is_file() else None


def _from_hub(repository: str, filename: str, **options: Any) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, filename, etag_timeout=download.CONNECT_SECONDS, **options))
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None  # the repository is there, and has no such file
        raise download.WeightsUnavailable(
            f"{repository!r} is no folder here, and {filename} could not be had from the hub repository of that name: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def _with_variant(filename: str, variant: str | None) -> str:
    """pose.safetensors -> pose.fp16.safetensors, as diffusers names variants."""
    stem, _, suffix = filename.rpartition(".")
    return f"{stem}.{variant}.{suffix}" if variant else filename
