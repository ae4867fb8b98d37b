"""Small filled networks and their files, for the tests of reading and writing weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from dwpose_core.models.weights import save_safetensors

State = dict[str, torch.Tensor]


def filled(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter and statistic at a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.05, 0.15, generator=generator)
    return model.eval()


def export(model: torch.nn.Module, images: torch.Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), str(path), dynamo=False)


def assert_equal(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def saved(model: torch.nn.Module, suffix: str, folder: Path, **options) -> bytes:
    path = folder / f"source{suffix}"
    if suffix == ".safetensors":
        save_safetensors(model, path)
    elif suffix == ".onnx":
        export(model, torch.zeros(1, 3, *model.config.input_size), path)
    else:
        torch.save({"state_dict": model.state_dict()}, path, **options)
    return path.read_bytes()
