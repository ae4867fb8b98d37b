"""Files that are either the old one or the new one, never half of one, and the state a run resumes from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dwpose_core.models.rtmcc import DWPose
from dwpose_core.models.weights import save_safetensors


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the previous one is untouched."""


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it over `path`.

    Whatever interrupts it (a kill, a power cut, a full disk) leaves the old file complete.

    Raises:
        CheckpointError: when the disk refuses; the temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        _flush(temporary, os.O_RDWR)  # Windows flushes no file that is open for reading only
        os.replace(temporary, path)
        if os.name != "nt":  # where folders cannot be opened
            _flush(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
    except (OSError, RuntimeError) as error:  # torch.save reports a failed write as RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"could not write {path} ({error}); the previous file is intact. Free disk space or choose another --out"
        ) from error


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_state(path: str | Path, state: dict) -> None:
    """A dict of tensors, numbers, strings, lists and dicts of them."""
    write_atomic(path, lambda temporary: torch.save(state, temporary))


def load_state(path: str | Path) -> dict:
    """What `save_state` wrote, on the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)


def save_model(path: str | Path, model: DWPose, metadata: dict[str, str]) -> None:
    """Weights as safetensors that `dwpose_core.models.weights.load_pose` reads, with `metadata` in the header."""
    write_atomic(path, lambda temporary: save_safetensors(model, temporary, metadata))


def save_arrays(path: str | Path, arrays: dict[str, np.ndarray], save: Callable = np.savez) -> None:
    """A .npz file; `save` is np.savez or np.savez_compressed."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # to a path they would append a suffix
            save(file, **arrays)

    write_atomic(path, write)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Generators of this process."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def write_json(path: Path, value) -> None:
    """Indented, and whole or not at all."""
    text = json.dumps(value, indent=1) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text))


def with_defaults(saved: dict, kind: type) -> dict:
    """`saved` fields of a configuration (a dataclass); those that it did not have yet are as they were without them."""
    fields = [field for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING]
    return {field.name: field.default for field in fields} | saved


def same_settings(file: Path, settings: dict[str, str]) -> None:
    """Note what a folder is begun with, or see that it is continued with the same.

    Raises:
        ValueError: with other settings: what is there already would silently be taken for theirs.
    """
    if file.is_file() and (begun := json.loads(file.read_text())) != settings:
        other = [
            f"--{name.replace('_', '-')} {begun.get(name)}" for name in settings if begun.get(name) != settings[name]
        ]
        raise ValueError(f"{file.parent} was begun with {', '.join(other)}; choose another --out")
    write_json(file, settings)
