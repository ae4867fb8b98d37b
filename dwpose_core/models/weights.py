"""Weight files into networks and back: .pth / .pt in every wrapper the field uses, .safetensors, .onnx.

Which network a file holds is read from the shapes in it, never from its name. Nothing in a file is executed
(pickles.py). Networks come back in float32, on the CPU and in eval mode.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..images import atomic_write
from ..skeleton import NUM_KEYPOINTS
from . import catalogue, infer
from .rtmcc import DWPose, PoseConfig
from .yolox import YOLOX, YOLOXConfig

State = dict[str, torch.Tensor]

SUFFIXES = (".onnx", ".safetensors", ".pth", ".pt", ".ckpt", ".bin")


def load_pose(
    source: str | Path,
    *,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    part: str = "auto",
) -> DWPose:
    """A pose network from a file or a catalogue name. See `load_network`."""
    return load_network(source, "pose", cache_dir=cache_dir, local_files_only=local_files_only, part=part)


def load_detector(source: str | Path, *, cache_dir: str | Path | None = None, local_files_only: bool = False) -> YOLOX:
    """A YOLOX detector from a file or a catalogue name. See `load_network`."""
    return load_network(source, "detector", cache_dir=cache_dir, local_files_only=local_files_only)


def load_network(
    source: str | Path,
    kind: str | None = None,
    *,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    part: str = "auto",
) -> DWPose | YOLOX:
    """A network with the weights of a file, or of a catalogue name (downloaded where needed).

    It carries `name` (the architecture), `source` (the file its weights came from) and `weights` (their name for
    people: that of the catalogue, else the file's).

    Args:
        kind: "pose" or "detector" where only that will do.
        part: of a raw distillation checkpoint, see `read_state_dict`.

    Raises:
        ValueError: unknown name; damaged file; weights of something else. The message says what to do.
        FileNotFoundError: `source` looks like a path and there is no such file.
        dwpose_core.models.download.WeightsUnavailable: a catalogue file that could not be had.
    """
    entry = None
    path = Path(source).expanduser()
    if not path.is_file():
        if path.suffix.lower() in SUFFIXES or len(path.parts) > 1:
            raise FileNotFoundError(f"no weights at {path}")
        entry = catalogue.find(str(source), kind)
        from .download import fetch

        path = fetch(entry, cache_dir, local_files_only)

    config, state = _read(path, part)
    name = infer.name_of(config)
    found = "pose" if isinstance(config, PoseConfig) else "detector"
    if kind not in (None, found):
        raise ValueError(f"{path} holds a {found} model ({name}) where a {kind} model is expected")
    if entry is not None and name != entry.network:
        raise ValueError(f"{path} should hold {entry.network} but has the shapes of {name}; delete it and run again")
    if isinstance(config, PoseConfig) and config.num_keypoints != NUM_KEYPOINTS:
        raise ValueError(f"{path} predicts {config.num_keypoints} keypoints; a whole-body model has {NUM_KEYPOINTS}")
    # Random weights that are overwritten at once: the caller's random numbers stay as they are, and so that nothing is
    # rounded, all is float32 before the weights come, whatever the default dtype and the default device around us.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        model = (DWPose(config, name) if found == "pose" else YOLOX(config, name)).float()
    load_state(model, state, str(path))
    model.source, model.weights = str(path), entry.name if entry else weights_name(path, name)
    return model.eval()


def weights_name(path: Path, network: str) -> str:
    """What to call the weights of a file: weights of one network differ, and only the official ones bear its name."""
    for entry in catalogue.ENTRIES:
        if (entry.filename, entry.network) == (path.name, network):
            return entry.name
    if path.suffix.lower() == ".safetensors" and (saved := read_metadata(path).get("weights")):
        return saved
    return path.stem if path.stem.startswith(network) else f"{path.stem} ({network})"


def _read(path: Path, part: str) -> tuple[PoseConfig | YOLOXConfig, State]:
    """Configuration and state dict of a file."""
    if _format(path) == "onnx":
        from .onnx_graph import read_weights

        return read_weights(path)
    state = read_state_dict(path, part=part)
    if _format(path) == "safetensors":
        text = read_metadata(path).get("config")
        if text:
            try:
                return _config_from(text), state
            except (TypeError, AttributeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
                raise ValueError(f"{path} has an unreadable config in its metadata ({error})") from error
    return config_of(state, str(path)), state


def _config_from(text: str) -> PoseConfig | YOLOXConfig:
    """A configuration from its JSON. Raises an error of any kind for one that no network can have."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
    kind, network = (PoseConfig, DWPose) if "widen" in fields else (YOLOXConfig, YOLOX)
    for key, value in fields.items():
        # A file may say anything, and a network of a million blocks ends the process instead of the loading.
        top = 4 if key in ("deepen", "widen", "depth", "width", "cspnext") else 4096
        numbers = value if isinstance(value, tuple) else (value,)
        if value is not None and not all(0 <= number <= top for number in numbers):
            raise ValueError(f"{key} {value}, more than {top} or less than nothing")
    config = kind(**fields)
    with torch.device("meta"):
        network(config)
    return config


def config_of(state: Mapping[str, torch.Tensor], source: str) -> PoseConfig | YOLOXConfig:
    """The network a state dict belongs to, from its shapes. `source` is named in errors.

    Raises:
        ValueError: for weights of anything but a whole-body pose network or a YOLOX.
    """
    state = dict(state)
    try:
        if "backbone.backbone.stem.conv.conv.weight" in state or infer.CSPNEXT_STEM in state:
            return infer.yolox_config_of(state)
        if "backbone.stem.0.conv.weight" not in state:
            raise ValueError(f"no backbone.stem.0.conv.weight in it (first keys: {', '.join(list(state)[:3])})")
        if any(key.startswith("neck.") for key in state):
            raise ValueError("it has a neck: RTMW and RTMDet are other networks")
        if not any(key.startswith("head.") for key in state):
            raise ValueError("it has a backbone but no head: a pre-training checkpoint, to start a training from")
        return infer.pose_config_of(state)
    except ValueError as error:
        raise ValueError(f"{source} is no DWPose, RTMPose whole-body or YOLOX model: {error}") from error


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copies `state` into `model`; every key and shape must fit.

    Raises:
        ValueError: naming the first difference, and the network the weights belong to where that is known.
    """
    own = model.state_dict()
    # Counters are not stored by every converter and mean nothing in inference.
    state = {**{k: v for k, v in own.items() if k.endswith("num_batches_tracked")}, **state}
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in own]
    problems += [
        f"{key} has shape {tuple(state[key].shape)} where {tuple(own[key].shape)} is expected"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        try:
            fits = infer.name_of(config_of(state, source))
            likely = f". The file fits {fits}" if fits != getattr(model, "name", None) else ""
        except ValueError:
            likely = ""
        raise ValueError(
            f"the weights of {source} do not fit {getattr(model, 'name', type(model).__name__)}: {problems[0]}"
            + (f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else "")
            + likely
        )
    model.load_state_dict(state)


def _format(path: Path) -> str:
    """ "onnx", "safetensors" or "pickle", from the first bytes; files that are no weights at all end here."""
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise ValueError(f"{path} is empty; download it again")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` there or download the file itself"
        )
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        raise ValueError(f"{path} is a web page saved under this name, not weights; download the file itself")
    if head[8:9] == b"{" or path.suffix.lower() == ".safetensors":
        return "safetensors"
    return "onnx" if path.suffix.lower() == ".onnx" else "pickle"


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text metadata of a .safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is a damaged safetensors file ({error}); download it again") from error


def read_state_dict(path: str | Path, *, part: str = "auto") -> State:
    """The un-prefixed state dict of any weight file, tensors on the CPU in their stored type.

    Wrappers are removed: `state_dict` (mmengine; its weights are the averaged ones, so `ema_state_dict` is only used
    when it stands alone), `model` (Megvii YOLOX), `module.` prefixes. A raw distillation checkpoint holds
    teacher and student; the finished network is

    * stage 1: `student.*`
    * stage 2: `teacher.backbone.*` with `student.head.*`, because stage 2 trains a new head on the frozen backbone.

    Args:
        part: "stage1" or "stage2" says which of these a raw checkpoint is, "plain" that it is none. "auto" takes it
            for stage 1 where an alignment layer of the feature loss is stored or the two backbones differ, as in every
            published stage-1 recipe, and for stage 2 where both are the same network. Say "stage1" for a stage-1 run
            whose teacher was as large as its student.

    Raises:
        ValueError: for a damaged file, or one without weights.
    """
    if part not in ("auto", "plain", "stage1", "stage2"):
        raise ValueError(f"part is auto, plain, stage1 or stage2, not {part!r}")
    path = Path(path)
    form = _format(path)
    if form == "onnx":
        from .onnx_graph import read_weights

        return read_weights(path)[1]
    if form == "safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state: Any = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is a damaged safetensors file ({error}); download it again") from error
    else:
        from .pickles import read_checkpoint

        state = read_checkpoint(path)
        for wrapper in ("state_dict", "model", "ema_state_dict"):
            if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
                state = state[wrapper]
                break
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__} where a state dict is expected")
    state = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    state.pop("steps", None)  # counter of mmengine's averaged model
    if any(key.startswith("student.") for key in state):
        state = _distilled(state, part)
    elif part in ("stage1", "stage2"):
        raise ValueError(f"{path} is no raw distillation checkpoint: it has no student")
    if not state:
        raise ValueError(f"{path} holds no weights")
    return state


def _distilled(state: State, part: str) -> State:
    """The finished network out of teacher and student."""

    def under(prefix: str) -> State:
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    student, teacher = under("student."), under("teacher.")
    if part == "auto":
        shapes = [
            {key: value.shape for key, value in side.items() if key.startswith("backbone.")}
            for side in (student, teacher)
        ]
        aligned = any(key.startswith("distill_losses.") for key in state)
        part = "stage1" if aligned or shapes[0] != shapes[1] else "stage2"
    if part == "stage1":
        return student
    if part != "stage2":
        raise ValueError("this is a raw distillation checkpoint, not a plain one; leave part at auto")
    return {
        **{key: value for key, value in teacher.items() if key.startswith("backbone.")},
        **{key: value for key, value in student.items() if key.startswith("head.")},
    }


def save_safetensors(
    model: DWPose | YOLOX,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the weights with name and configuration in the metadata; whole or not at all.

    Args:
        metadata: further text entries, such as where the weights come from.
    """
    text = {
        "format": "pt",
        "name": model.name,
        "config": json.dumps(dataclasses.asdict(model.config)),
        **(metadata or {}),
    }
    write_state(model.state_dict(), path, text)


def write_state(state: State, path: str | Path, text: Mapping[str, str]) -> None:
    """A .safetensors file of tensors and text entries; whole or not at all, and equal bytes for equal contents."""
    from safetensors.torch import save

    content = save({key: value.detach().cpu().contiguous() for key, value in state.items()}, dict(text))
    # The library lists the text in the order of a hash table, which is another one each time.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(text.items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    ordered += b" " * (-len(ordered) % 8)  # tensors start at multiples of eight bytes
    with atomic_write(path) as temporary:
        temporary.write_bytes(len(ordered).to_bytes(8, "little") + ordered + content[end:])
